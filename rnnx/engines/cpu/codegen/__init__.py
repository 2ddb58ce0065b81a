"""Functions written in LLVM's intermediate representation: the matrix product, the cells' mathematics, copies."""
