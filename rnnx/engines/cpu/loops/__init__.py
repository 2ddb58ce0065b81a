"""The loops of a pass, which Numba compiles."""
