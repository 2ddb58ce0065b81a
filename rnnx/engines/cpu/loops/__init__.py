"""The loops over time, compiled by Numba."""
