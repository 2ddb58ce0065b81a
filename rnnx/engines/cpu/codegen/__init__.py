"""Functions emitted as LLVM IR: the matrix product, elementwise kernels, copies."""
