"""Benchmarks of rnnx for asv: one file per room of the library, what they share in `common`."""
