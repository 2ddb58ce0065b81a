"""Data-parallel training: the group of processes of a run, and sums over them."""
