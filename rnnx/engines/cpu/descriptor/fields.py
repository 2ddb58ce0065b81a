"""The plan of a job: a list of integers (counts, strides in bytes, addresses) that `cpu` writes and `passes` reads.

A header, and lists that it points to by their place in the plan. The names below are places; they are shared by the
forward and the backward plan, each of which uses what it needs. Dimensions: as in `passes`.
"""

PANEL_UNITS = 4  # vectors of units: a thread's share of them is a multiple, so that it is whole panels in every layout

# fmt: off
# --- header -------------------------------------------------------------------------------------------------
(
    T, M, N, N_X,               # steps, examples, units, inputs
    INDICES,                    # 1: inputs are indices of one-hot columns, in 64 bits
    ITEM, LANES,                # bytes of a number, numbers of a vector
    WIDE,                       # 1: threads share the units; 0: they share the examples
    FLAT_DX,                    # 1: dx in one product at the end; 0: step by step
    CHUNK,                      # steps whose input sides are computed together
    PACK,                       # 0: the weights are packed already
    BARRIER, YIELD,             # addresses: two lines for the barrier; a function that lets others run
    LENGTHS,                    # (m,) integers, or 0
    ZEROS,                      # a row of zeros
    SCRATCH, SCRATCH_SIZE,      # memory of the first thread, and bytes from there to the next one's
    ARGUMENTS, Z, Z_SIZE, BLOCK_A, BLOCK_B,  # places in it, and bytes of a stage's z
    COPY, COPY_MASKED, TRANSPOSE, TRANSPOSE_MASKED, ADD_ROWS,  # functions of `copy`
    PLAIN_NV, PLAIN_PRODUCT,    # panels and product for columns that are not gates
    X, X_ROW, X_STEP,           # the input, time-major
    DX,                         # 0: not wanted
    CONVERSIONS, N_CONVERSIONS,
    COPIES, N_COPIES,           # matrices that forward copies for backward
    OUTPUTS, N_OUTPUTS,         # of states, from step 1 on
    STAGES, N_STAGES,
    HEADER_SIZE,
) = range(42)
# --- an array to be made time-major -------------------------------------------------------------------------
(
    TO, FEATURES,               # (T, m, features) in C order
    FROM, FROM_FEATURE, FROM_EXAMPLE, FROM_STEP,  # and strides; along features or steps it is contiguous
    ENDS,                       # 1: zeros from an example's end on
    CONVERSION_SIZE,
) = range(8)
# --- a stage ------------------------------------------------------------------------------------------------
(
    N_GATES, GATES,
    W_H, W_X, BIAS, BIAS_H,     # packed; BIAS_H is 0 where nothing is added
    VECTORS, NV, PRODUCT,       # of all gates: vectors, vectors of a panel, the product for such
    NV_X,                       # the same of W_X; all of them where inputs are indices, so that its rows are whole
    ADDITIVE, LAST,
    OPERAND, OPERAND_STEP,      # what the recurrent weights multiply, and its stride from step to step
    KERNEL, KERNEL_TAIL,
    N_IN, N_OUT, N_KEPT,        # states in, states out, saved: the kernel's last pointers are in this order
    POINTERS, N_POINTERS,       # the kernel's arrays
    DZ_H, DZ_X,                 # (T, m, G, n)
    D_OPERAND,                  # (m, n): where the recurrent product is added
    DW, DB_H, DB_X,             # (G n, n + n_x), and sums padded to whole vectors
    TABLE,                      # for inputs that are indices, else 0: see `gradients`
    STAGE_SIZE,
) = range(29)
# --- a gate's parameters: addresses, and bytes of a row; units are rows ---------------------------------------
HIDDEN, HIDDEN_ROW, INPUTS, INPUTS_ROW, GATE_BIAS, GATE_BIAS_H, GATE_SIZE = range(7)  # GATE_BIAS_H: 0 for none
# --- a matrix to be copied; a state and the caller's copy of it; an array of a kernel --------------------------------
COPY_FROM, COPY_FROM_ROW, COPY_ROWS, COPY_COLUMNS, COPY_TO, COPY_SIZE = range(6)
OUTPUT_FROM, OUTPUT_TO, OUTPUT_SIZE = range(3)
POINTER, POINTER_STEP, POINTER_GATES, POINTER_SIZE = range(4)  # at step 0, bytes of a step, 1: rows of all gates
# fmt: on
