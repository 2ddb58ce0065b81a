"""The descriptor of a pass."""
