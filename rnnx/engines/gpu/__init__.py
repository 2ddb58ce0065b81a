"""The engine for arrays on a GPU."""
