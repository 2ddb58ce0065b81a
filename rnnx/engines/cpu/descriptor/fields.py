"""The descriptor of a job: records of 64-bit integers, which Python writes and the compiled loops read by name.

Values are counts, strides in bytes, flags and addresses. A list of records, such as the gates of a stage, is a count,
``n_gates``, and in ``gates`` the offset in bytes from the owning record to the first item. Forward and backward passes
share these records. Dimensions: T steps, m examples, n units, n_x inputs, G gates of a stage, of which G_x have an
input side.
"""

from rnnx.engines.cpu.codegen.leaves import ELEMENTWISE, LOSS, MASK, record

PASS = record(
    "n_steps m n_x",
    "indices",  # 1: inputs are 64-bit indices of one-hot columns
    "item lanes",  # bytes of a number, numbers per vector
    "unit_parallel",  # slices are units, in multiples of so many unit vectors; or 0: they are examples
    "per_thread",  # slices of a thread
    "loop_sections",  # of the loop over time
    "unpacked",  # 1: the products of a backward pass read the weights where they are given
    "direct",  # the function of `codegen.direct` for those of a forward pass, or 0
    "flat_dx",  # 1: dx is one product for each block of steps, after the loop; 0: one per step
    "chunk",  # steps whose input sides are computed in one product
    "lengths",  # (m,) integers, or 0
    "zeros",  # a row of zeros
    "scratch scratch_size",  # scratch memory of slice 0, and bytes per slice
    "kernel_arguments z z_size block_a block_b",  # offsets in it, and bytes of z per stage
    "examples",  # offset in it: the numbers of the examples of a step
    # The numbers of rows of x, and these rows one after another, for slices of some examples; with lengths, rows of
    # other arrays.
    "x_list x_rows rows",
    "x_block",  # steps of x that a slice converts to `x_rows` at once, in the loop; 0: x is converted before the loop
    "y_packed y_values y_count",  # for an output layer: its weights, the values of the loss, the number of rows
    "positions",  # with lengths, in a backward pass: t m + j of every row of dz
    "wide",  # the offset of a vector of columns of the weights, to pack in a small format
    "copy copy_masked copy_rows copy_rows_masked",  # addresses of the functions in `codegen.copy`
    "transpose transpose_masked add_rows",
    "copy_rows_nontemporal transpose_nontemporal",  # 0 where there are none
    "cache",  # bytes of the L2 cache
    "nv product",  # micro-panels of columns other than gates: their vectors, and the product
    "x x_row x_step",  # (T, m, n_x), or (T, m) indices
    "dx",  # (T, m, n_x), or 0 if not needed
    "conversions n_conversions",
    "copies n_copies",
    "stages n_stages",
    "dense n_dense",
)
# How to write a descriptor of `size` integers behind the workspace: `offsets`, to which the base of this number in
# `bases` is added, 0 for none, 1 for the workspace, then the arrays of a call. The first arrays, `blocks`, begin at the
# next cache line. `data`: see `runtime.objects`. `run`: the function that also runs the task, on the thread pool at
# `pool`, or on one thread if that is 0; see `codegen.entry`.
BINDING = record("run size offsets bases blocks workspace data task pool")
# A pass that XLA calls: the function to `run`, the record to bind its descriptor, and the offset of the list of arrays
# in the workspace.
CALLED = record("run binding listed")
# A product z = init + a b; see `loops.dense`. `a_row` and `a_k` are bytes between rows and columns of a. The numbers of
# a row of b are contiguous or, if it is `transposed`, those of a column; `b_row` is from one to the next. b is packed
# at `packed`: as a whole or, for slices of columns, block by block, `scratch_size` bytes per slice.
MATRIX = record(
    "item lanes zeros nv product copy transpose transpose_masked",  # as in a pass
    "rows n_k columns",
    "by_rows",  # 1: slices are rows; 0: they are columns
    "packed scratch_size",
    "parts",  # of a slice's rows, a section each
    "a a_row a_k b b_row transposed init z",
)
# The gradients of a dense layer z = a w^T + b, for `rows` rows of dz and a, all in C order; see `loops.dense`. w is
# packed at `packed`, as a whole. A slice has `scratch_size` bytes at `scratch`, for blocks of dz and, from `block_b`
# on, of a. db has whole vectors, which the job adds to.
DENSE_GRADIENTS = record(
    "item lanes zeros nv product copy add_rows",  # as in a pass
    "rows n_in n_out",
    "by_rows",  # 1: slices have rows of dw; 0: they have columns
    "block_b packed scratch scratch_size",
    "dz a w da dw db",
)
# Calls of kernels with the arguments in `codegen.leaves`, which slices share; see `loops.operations`. A row of the
# table has `width` integers. A slice has `scratch_size` bytes of memory at `scratch`. `done` is the address of an
# integer that becomes 1, or 0.
TABLE = record("kernel scratch scratch_size item lanes width done", *ELEMENTWISE)
ROWS = record("kernel scratch scratch_size item parts", *LOSS)
MASKS = record("kernel scratch scratch_size item", *MASK)
# A public array to copy to time-major memory, zero past each length. It is contiguous along features or along steps.
CONVERSION = record("source feature_stride example_stride step_stride features target")
# An initial state to copy to the states, or a parameter to copy for the backward pass: `size` numbers.
COPY = record("source target size")
# A state, and the caller's copy of it, both from step 1 on.
OUTPUT = record("source target")
# The output layer of a single step: W h + b, written to `y`, then its softmax, which `kernel` computes; `count` is its
# argument in `codegen.leaves`.
DENSE = record("w bias n_k columns h y kernel count")
STAGE = record(
    "gates n_gates",
    "n_zh n_zx",  # gates with a recurrent side, the first ones, and with an input side, the last ones
    "n n_operand",  # units of all values but the operand, and of the operand
    "unit_vectors operand_vectors",  # vectors of so many units
    "heads n_head head_size",  # of the recurrent sides, units of a head of the operand, bytes of its packed weights
    "outputs n_outputs",
    "arguments n_arguments",  # of the elementwise kernel
    "kernel kernel_tail",
    "whole_rows kept_rows",  # 1: the kernel takes all vectors of a row, the tail too; rows of its scratch memory
    "w_h w_x bias bias_h",  # packed, w_h one matrix per gate and head if there are heads; bias_h may be 0
    "n_vectors_h n_vectors_x",  # of all gates with that side
    "nv_h product_h product_x",  # vectors of a micro-panel, and the products
    "nv_x",  # for w_x; n_vectors_x for index inputs, which need contiguous rows
    "narrow_h narrow_x",  # functions that pack weights in a small format, or 0
    "is_packed_h is_packed_x",  # 1: these weights have been packed
    "adds_sides is_last",  # adds_sides: see `rnnx.cells.wiring`; both sides then share all arrays
    "operand operand_step",  # what the recurrent weights multiply, (T, m, n_operand)
    # (T m, gates, n), or only the rows that belong to a step, in the same order; from the first gate with that side on.
    "dz_h dz_h_row dz_x dz_x_row",
    "vectors n_vectors",  # of parameters
    "d_operand",  # (m, n_operand); the recurrent product is added to it
    "dw_h dw_h_row dw_x dw_x_row",  # from the first gate with that side
    "db_h db_x",  # sums of dz_h and dz_x, padded to whole vectors
    "table",  # packed (n_x, G_x n) for index inputs, else 0; see `loops.gradients`
)
# Parameters of a gate, units along rows; 0 for those it lacks.
GATE = record("w_h w_h_row w_x w_x_row bias bias_h")
# The gradient of a vector of parameters: its sums over time, (m, n), which the kernel adds to, and their total, (n,).
VECTOR = record("sums total")
# An array argument of a kernel: its address at step 0 and example 0, and strides between steps, examples and unit
# vectors, of parameters only the last. With side = ZX or ZH it is the input or recurrent side, in the slice's scratch
# memory; with DZ, its cotangent. `zero_past_end`: 1 for values that are set to zero past each example's end. `final`:
# where those after the last step are copied to, (m, n), or 0.
ARGUMENT = record("address step row vector side zero_past_end final")
ZX, ZH, DZ = 1, 2, 3

LISTS = {"conversions": CONVERSION, "copies": COPY, "outputs": OUTPUT, "dense": DENSE}
LISTS |= {"stages": STAGE, "gates": GATE, "vectors": VECTOR, "arguments": ARGUMENT}
