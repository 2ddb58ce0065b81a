"""Benchmarks of rnnx for asv: one file per area of the library; shared code is in `common`."""
