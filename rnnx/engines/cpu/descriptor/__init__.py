"""The descriptor of a pass: the integers that the compiled loops read, and who writes them."""
