"""The descriptor of a pass: its fields, and how they are filled in."""
