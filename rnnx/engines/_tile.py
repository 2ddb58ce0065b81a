"""A matrix product on weights packed once per sequence: Z = H W, the recurrent product of the compiled loops.

A BLAS packs its operands at every call, and the loop over time calls it with the same weights at every step;
and the BLAS that Numba can reach has a thread pool of its own, which fights NumPy's for the cores (measured:
an LSTM step up to 3 times slower than without compiling). Hence this room of our own:

* `pack` copies W (K, C) into panels of NV vectors of columns, each panel contiguous and read front to back;
* the *tile* computes NR rows by one panel with all NV * NR sums in registers. NV * NR accumulators, NV
  weights and one broadcast of H must fit the register file; `_shape` picks them from the CPU;
* every element is one sum over k in rising order, whatever the shape of the tile: a row's result does not
  depend on how many rows were computed beside it, so slices of a batch give the bits of the whole.

The tile is written in LLVM's intermediate representation because Numba's own code does not keep the sums in
registers. It is a function of its own, not inlined: beside the cell's mathematics it would lose its registers.

Dimensions: K length of the sums, C columns, VL floats of a vector.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.extending import intrinsic


@lru_cache(maxsize=1)
def _shape() -> tuple[int, int, int]:
    """(bytes of a vector, NV, NR) for this CPU."""
    try:
        features = binding.get_host_cpu_features()
    except RuntimeError:  # this platform cannot say
        features = {}
    if features.get("avx512f"):
        return 64, 4, 6  # 32 registers
    if features.get("avx"):
        return 32, 2, 6  # 16 registers
    if binding.get_process_triple().startswith(("aarch64", "arm64")):
        return 16, 4, 6  # 32 registers
    return 16, 2, 4


def panel_width(dtype: type) -> tuple[int, int]:
    """(columns of a full panel, columns of a vector)."""
    size, n_vectors, _ = _shape()
    lanes = size // np.dtype(dtype).itemsize
    return n_vectors * lanes, lanes


def _emit_tile(module: ir.Module, dtype: type, n_vectors: int, n_rows: int) -> ir.Function:
    """The function tile(w, h, ldh, K, z, ldz): z[r, :] = sum over k of h[r, k] w[k, :]."""
    size = _shape()[0]
    itemsize = np.dtype(dtype).itemsize
    lanes = size // itemsize
    name = f"rnnx_tile_{n_vectors}x{n_rows}_f{8 * itemsize}"
    if name in module.globals:
        return module.globals[name]
    real = ir.FloatType() if itemsize == 4 else ir.DoubleType()
    vector, i64, i32 = ir.VectorType(real, lanes), ir.IntType(64), ir.IntType(32)
    pointer = real.as_pointer()
    fma_type = ir.FunctionType(vector, [vector] * 3)
    fma_name = f"llvm.fmuladd.v{lanes}f{8 * itemsize}"
    fma = module.globals.get(fma_name) or ir.Function(module, fma_type, name=fma_name)

    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer, pointer, i64, i64, pointer, i64]), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    w, h, ldh, n_k, z, ldz = function.args
    entry, body, done = (function.append_basic_block(label) for label in ("entry", "body", "done"))

    build = ir.IRBuilder(entry)
    rows = [build.gep(h, [build.mul(ldh, i64(r))]) for r in range(n_rows)]
    build.branch(body)

    build.position_at_end(body)
    k = build.phi(i64)
    k.add_incoming(i64(0), entry)
    sums = [[build.phi(vector) for _ in range(n_vectors)] for _ in range(n_rows)]
    for row in sums:
        for phi in row:
            phi.add_incoming(ir.Constant(vector, [0.0] * lanes), entry)
    weights = []
    for v in range(n_vectors):
        at = build.gep(w, [build.add(build.mul(k, i64(n_vectors * lanes)), i64(v * lanes))])
        loaded = build.load(build.bitcast(at, vector.as_pointer()))
        loaded.align = itemsize
        weights.append(loaded)
    results = []
    undefined, all_first = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(i32, lanes), [0] * lanes)
    for r in range(n_rows):
        first = build.insert_element(undefined, build.load(build.gep(rows[r], [k])), i32(0))
        spread = build.shuffle_vector(first, undefined, all_first)
        results.append([build.call(fma, [weights[v], spread, sums[r][v]]) for v in range(n_vectors)])
    after = build.add(k, i64(1))
    k.add_incoming(after, body)
    for r in range(n_rows):
        for v in range(n_vectors):
            sums[r][v].add_incoming(results[r][v], body)
    build.cbranch(build.icmp_signed("<", after, n_k), body, done)

    build.position_at_end(done)
    for r in range(n_rows):
        for v in range(n_vectors):
            at = build.gep(z, [build.add(build.mul(ldz, i64(r)), i64(v * lanes))])
            build.store(results[r][v], build.bitcast(at, vector.as_pointer())).align = itemsize
    build.ret_void()
    return function


def _tile(dtype: type, n_vectors: int, n_rows: int) -> Any:
    """The tile as a function (w, w_at, h, h_at, ldh, K, z, z_at, ldz) of flat arrays and offsets."""

    @intrinsic
    def tile(typingctx, w, w_at, h, h_at, ldh, n_k, z, z_at, ldz):
        i = types.int64
        signature = types.void(w, i, h, i, i, i, z, i, i)

        def codegen(context, builder, signature, args):
            def address(array, offset):
                data = context.make_array(signature.args[array])(context, builder, args[array]).data
                return builder.gep(data, [args[offset]])

            function = _emit_tile(builder.module, dtype, n_vectors, n_rows)
            builder.call(function, [address(0, 1), address(2, 3), args[4], args[5], address(6, 7), args[8]])
            return context.get_dummy_value()

        return signature, codegen

    return tile


@lru_cache(maxsize=4)
def make_product(dtype: type) -> tuple[Any, Any]:
    """Compiled ``pack`` and ``product`` for one dtype (np.float32 or np.float64).

    Returns
    -------
    pack : callable
        pack(W (K, C)) -> packed weights, one dimension, C rounded up to whole vectors.
    product : callable
        product(packed, H, h_at, ldh, K, rows, Z): the first `rows` rows of Z (any, ldz), all of whose columns
        are written, from rows of K numbers that start at H[h_at] and are ldh apart in the flat array H.
    """
    width, lanes = panel_width(dtype)
    full, half, one = (_row_block(dtype, v) for v in (width // lanes, width // lanes // 2, 1))
    half_width = max(width // 2, lanes)
    zero = dtype(0)

    @njit(nogil=True, error_model="numpy")
    def pack(W):
        n_k, n_c = W.shape
        padded = (n_c + lanes - 1) // lanes * lanes
        packed = np.empty(n_k * padded, W.dtype)
        c0 = 0
        while c0 < padded:
            left = padded - c0
            w = width if left >= width else half_width if left >= half_width else lanes
            base = c0 * n_k
            for k in range(n_k):
                for c in range(w):
                    packed[base + k * w + c] = W[k, c0 + c] if c0 + c < n_c else zero
            c0 += w
        return packed

    @njit(nogil=True, error_model="numpy")
    def product(packed, H, h_at, ldh, n_k, rows, Z):
        ldz = Z.shape[1]
        flat = Z.reshape(Z.size)
        c0 = 0
        while c0 < ldz:
            left = ldz - c0
            if left >= width:
                full(packed, c0 * n_k, H, h_at, ldh, n_k, rows, flat, c0, ldz)
                c0 += width
            elif left >= half_width:
                half(packed, c0 * n_k, H, h_at, ldh, n_k, rows, flat, c0, ldz)
                c0 += half_width
            else:
                one(packed, c0 * n_k, H, h_at, ldh, n_k, rows, flat, c0, ldz)
                c0 += lanes

    return pack, product


def _row_block(dtype: type, n_vectors: int) -> Any:
    """One panel by any number of rows, in blocks of NR, NR / 2 and 1."""
    n_rows = _shape()[2]
    half_rows = n_rows // 2
    tile, half, one = (_tile(dtype, n_vectors, r) for r in (n_rows, half_rows, 1))

    @njit(nogil=True, error_model="numpy", inline="always")
    def row_block(packed, w_at, H, h_at, ldh, n_k, rows, Z, z_at, ldz):
        r = 0
        while r + n_rows <= rows:
            tile(packed, w_at, H, h_at + r * ldh, ldh, n_k, Z, z_at + r * ldz, ldz)
            r += n_rows
        while r + half_rows <= rows:
            half(packed, w_at, H, h_at + r * ldh, ldh, n_k, Z, z_at + r * ldz, ldz)
            r += half_rows
        while r < rows:
            one(packed, w_at, H, h_at + r * ldh, ldh, n_k, Z, z_at + r * ldz, ldz)
            r += 1

    return row_block


def padded_columns(dtype: type, n_columns: int) -> int:
    """Columns of Z: n_columns rounded up to whole vectors."""
    lanes = panel_width(dtype)[1]
    return -(-n_columns // lanes) * lanes
