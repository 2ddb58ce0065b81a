"""Argument lists of the functions called by address, shared by the code generator and all callers.

Arguments are 64-bit integers: counts, addresses, and strides in bytes (``..._row``, between rows). ``tail`` is the
number of elements in the last vector of a row, or 0 if it is full. L is the number of lanes of a vector.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def record(*names: str) -> np.dtype:
    """Return a structured dtype of 64-bit integers; each string is a list of field names."""
    return np.dtype([(name, np.int64) for name in " ".join(names).split()], align=True)


# z = init + h w for vectors v0 ... v1 - 1 of the n_vectors of packed weights; see `gemm` for their layout.
# h[r, k] is at h + r h_row + k h_k. `init` and `z` are the addresses of the first column. `back` = 1: the last
# micro-panel comes first. `w_row`: 0, or of weights that are not packed, the bytes from one row of columns to the next;
# see `gemm.reads_rows`.
PRODUCT = (
    *("w", "n_vectors", "v0", "v1", "n_k", "h", "h_row", "h_k", "rows", "init", "init_row", "z", "z_row", "tail"),
    *("back", "w_row"),
)
# z[r, c] = init[r, c] + sum_k h[r, k] w[c, k] for a vector of c < count <= L, or for two if count = 2 L, and few rows;
# see `direct`. init_row = 0 repeats one row. The numbers of a vector are contiguous; init and z of the second one begin
# `next` bytes after those of the first one.
DIRECT = ("w", "w_row", "count", "next", "n_k", "h", "h_row", "rows", "init", "init_row", "z", "z_row")
# Pack vector v of columns, (n_k, L) numbers at `source`, in a small format, into its micro-panel, which begins at
# vector `panel` and has `vectors`; see `formats`. If n_k is odd, one more row of the source is read.
NARROW = ("source", "n_k", "packed", "n_vectors", "panel", "v", "vectors")
# Copy rows of whole vectors, the last one padded with zeros. copy_masked writes no padding.
COPY = ("source", "source_row", "rows", "vectors", "tail", "target", "target_row")
# The same for rows by number: row r of the source is its row source_list[r], of the target its row target_list[r]; with
# 0 for a list, its row r.
COPY_ROWS = (*COPY, "source_list", "target_list")
# target[k, r] = source[r, k] for r < count <= L and k < n. Rows of the target are written as whole vectors, padded with
# copies; transpose_masked writes only `count` numbers of each.
# Stores of the variants copy_rows_nontemporal and transpose_nontemporal bypass the cache, so that no line is read
# before it is overwritten. They must fill cache lines: the target begins at one, rows are multiples of lines, and
# nothing is masked. Other threads see them after a fence.
TRANSPOSE = ("source", "source_row", "count", "n", "target", "target_row")
# sums += the sum of all rows.
ADD_ROWS = ("source", "source_row", "rows", "vectors", "sums")
# The rows of a table of arrays, and the address of float64 numbers; see `elementwise`.
ELEMENTWISE = ("rows", "table", "numbers")
# The rows (T, m, parts n) of y and the gradient, in C order. `lengths` and classes as targets are 64-bit integers;
# steps and rows of targets are target_step and target_row bytes apart. At `count`, in float64, is the number of terms
# of the mean; the values of the rows (T, m), 0 past the lengths, go to `values`, in float64, too. `weights` (T, m) in C
# order are for weighted losses.
LOSS = (
    *("n_steps", "m", "n", "y", "target", "lengths", "gradient", "count", "values"),
    *("target_step", "target_row", "weights"),
)
# A mask is the float64 number at `value` where a random integer below 2**24 is at least `least`, else 0. It has rows of
# `size` numbers for `steps` time steps from `start`. The generator's two words are at `key`. mask writes the mask to
# `target`, drop its product with the numbers at `source`, and to `kept` one bit per number, in whole bytes for a step,
# with which drop_again multiplies by the same mask.
MASK = ("key", "start", "steps", "size", "least", "value", "target", "source", "kept")
# Elementwise part of a stage. `arguments` is the address of a KERNEL_HEADER, followed by the addresses of the array
# arguments in the order of `rnnx.cells.wiring`.
KERNEL = ("rows", "vectors", "arguments")
# The tail; the strides of rows with one number per unit, and of the rows of both sides; the address of the numbers of
# the examples. The rows of the sides are one after another, all other rows are by example.
KERNEL_HEADER = record("tail row zx_row zh_row examples")


def scratch_offset(n_arguments: int) -> int:
    """Return the offset from a KERNEL_HEADER, with its arguments, to the kernel's scratch memory."""
    return -(-(KERNEL_HEADER.itemsize + 8 * n_arguments) // 64) * 64


def python_function(arguments: Sequence[str], address: int) -> Callable[..., None]:
    """Make the function at an address callable from Python, by position or keyword."""
    native = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(arguments))(address)
    names = ", ".join(arguments)
    scope: dict[str, Any] = {"native": native}
    exec(f"def call({names}):\n    native({names})", scope)
    function: Callable[..., None] = scope["call"]
    return function
