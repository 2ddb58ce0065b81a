"""asv benchmarks of rnnx: one file per area of the library, with shared code in `common`."""
