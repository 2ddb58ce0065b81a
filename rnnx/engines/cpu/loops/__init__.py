"""The loops of a pass, compiled by Numba."""
