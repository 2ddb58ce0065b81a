"""The compiled engine for NumPy arrays."""
