"""A matrix product on packed weights, Z = H W (+ Z): all products of the compiled engine.

A BLAS packs its operands at every call, while the loop over time multiplies by the same weights at every step.
And the threads of a BLAS keep spinning after a call, on the cores that our slices of the batch need (measured:
an LSTM step up to 3 times slower than without compiling). Hence this room of our own:

* `pack` copies W (K, C) into panels of NV vectors of columns, each panel contiguous and read front to back;
* the *tile* computes NR rows by one panel with all NV * NR sums in registers. NV * NR accumulators, NV
  weights and one broadcast of H must fit the register file; `_shape` picks them from the CPU;
* long sums are taken in blocks of K_BLOCK, so that a panel's block stays in the cache;
* every element is one sum over k in rising order, whatever the shapes of tile and blocks: a row's result does
  not depend on how many rows were computed beside it, so slices of a batch give the bits of the whole.

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

K_BLOCK = 384


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
    """The function tile(w, h, ldh, stride, K, z, ldz, more): z[r, :] = sum over k of h[r, k] w[k, :].

    h[r, k] stands at h + r * ldh + k * stride. If `more`, what is in z is added to.
    """
    size = _shape()[0]
    itemsize = np.dtype(dtype).itemsize
    lanes = size // itemsize
    name = f"rnnx_tile_{n_vectors}x{n_rows}_f{8 * itemsize}"
    if name in module.globals:
        return module.globals[name]
    real = ir.FloatType() if itemsize == 4 else ir.DoubleType()
    vector, i64, i32, i1 = ir.VectorType(real, lanes), ir.IntType(64), ir.IntType(32), ir.IntType(1)
    pointer = real.as_pointer()
    fma_name = f"llvm.fmuladd.v{lanes}f{8 * itemsize}"
    fma = module.globals.get(fma_name) or ir.Function(module, ir.FunctionType(vector, [vector] * 3), name=fma_name)

    arguments = [pointer, pointer, i64, i64, i64, pointer, i64, i1]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    w, h, ldh, stride, n_k, z, ldz, more = function.args
    entry, load, body, done = (function.append_basic_block(label) for label in ("entry", "load", "body", "done"))
    every = [(r, v) for r in range(n_rows) for v in range(n_vectors)]
    build = ir.IRBuilder(entry)

    def load_vector(at: ir.Value) -> ir.Value:
        loaded = build.load(build.bitcast(at, vector.as_pointer()))
        loaded.align = itemsize
        return loaded

    rows = [build.gep(h, [build.mul(ldh, i64(r))]) for r in range(n_rows)]
    places = {(r, v): build.gep(z, [build.add(build.mul(ldz, i64(r)), i64(v * lanes))]) for r, v in every}
    build.cbranch(more, load, body)
    build.position_at_end(load)
    before = {at: load_vector(places[at]) for at in every}
    build.branch(body)

    build.position_at_end(body)
    k = build.phi(i64)
    sums = {at: build.phi(vector) for at in every}
    for came_from in (entry, load):
        k.add_incoming(i64(0), came_from)
        for at, phi in sums.items():
            phi.add_incoming(before[at] if came_from is load else ir.Constant(vector, [0.0] * lanes), came_from)
    row_of_w = build.mul(k, i64(n_vectors * lanes))
    weights = [load_vector(build.gep(w, [build.add(row_of_w, i64(v * lanes))])) for v in range(n_vectors)]
    undefined, all_first = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(i32, lanes), [0] * lanes)
    along = build.mul(k, stride)
    results = {}
    for r in range(n_rows):
        first = build.insert_element(undefined, build.load(build.gep(rows[r], [along])), i32(0))
        spread = build.shuffle_vector(first, undefined, all_first)
        for v in range(n_vectors):
            results[r, v] = build.call(fma, [weights[v], spread, sums[r, v]])
    after = build.add(k, i64(1))
    k.add_incoming(after, body)
    for at, phi in sums.items():
        phi.add_incoming(results[at], body)
    build.cbranch(build.icmp_signed("<", after, n_k), body, done)

    build.position_at_end(done)
    for at in every:
        build.store(results[at], build.bitcast(places[at], vector.as_pointer())).align = itemsize
    build.ret_void()
    return function


def _tile(dtype: type, n_vectors: int, n_rows: int) -> Any:
    """The tile as a function (w, w_at, h, h_at, ldh, stride, K, z, z_at, ldz, more) of flat arrays and offsets."""

    @intrinsic
    def tile(typingctx, w, w_at, h, h_at, ldh, stride, n_k, z, z_at, ldz, more):
        i = types.int64
        signature = types.void(w, i, h, i, i, i, i, z, i, i, types.boolean)

        def codegen(context, builder, signature, args):
            def address(array, offset):
                data = context.make_array(signature.args[array])(context, builder, args[array]).data
                return builder.gep(data, [args[offset]])

            function = _emit_tile(builder.module, dtype, n_vectors, n_rows)
            builder.call(function, [address(0, 1), address(2, 3), *args[4:7], address(7, 8), *args[9:]])
            return context.get_dummy_value()

        return signature, codegen

    return tile


def _panel_runs(dtype: Any, padded: int) -> list[tuple[int, int]]:
    """(width, number) of the panels of `padded` columns: full ones, half ones, single vectors."""
    width, lanes = panel_width(dtype)
    runs = []
    for w in (width, max(width // 2, lanes), lanes):
        runs.append((w, padded // w))
        padded %= w
    return runs


def pack(W: np.ndarray, packed: np.ndarray) -> None:
    """Copy W (K, C), of any strides, into blocks of k, in them panels.

    Parameters
    ----------
    W : array, shape (K, C)
    packed : array, one dimension
        At least K * `padded_columns` elements.
    """
    n_k, n_c = W.shape
    padded = padded_columns(W.dtype.type, n_c)
    runs = _panel_runs(W.dtype.type, padded)
    at = 0
    for k0 in range(0, n_k, K_BLOCK):
        rows = W[k0 : k0 + K_BLOCK]
        k, c0 = rows.shape[0], 0
        for w, number in runs:
            panels = packed[at : at + number * k * w].reshape(number, k, w)
            whole = min(number, max(n_c - c0, 0) // w)  # the last one may be wider than what is left
            panels[:whole] = rows[:, c0 : c0 + whole * w].reshape(k, whole, w).transpose(1, 0, 2)
            if whole < number:
                panels[whole] = 0
                panels[whole, :, : n_c - c0 - whole * w] = rows[:, c0 + whole * w :]
            at, c0 = at + number * k * w, c0 + number * w


@lru_cache(maxsize=4)
def make_product(dtype: Any) -> Any:
    """The compiled product for one dtype (np.float32 or np.float64).

    Returns
    -------
    callable
        product(packed, H, h_at, ldh, stride, K, rows, Z, z_row, more): ``rows`` rows of Z from row `z_row` on, all
        of whose columns are written. H[r, k] stands at h_at + r * ldh + k * stride of the flat array. If `more`,
        what is in Z is added to.
    """
    width, lanes = panel_width(dtype)
    half_width = max(width // 2, lanes)
    full, half, one = (_row_block(dtype, w // lanes) for w in (width, half_width, lanes))

    @njit(nogil=True, error_model="numpy")
    def product(packed, H, h_at, ldh, stride, n_k, rows, Z, z_row, more):
        ldz = Z.shape[1]
        flat = Z.reshape(Z.size)
        for k0 in range(0, n_k, K_BLOCK):
            k = min(K_BLOCK, n_k - k0)
            at = h_at + k0 * stride
            add = more or k0 > 0
            c0 = 0
            while c0 < ldz:
                left = ldz - c0
                w_at, z_at = k0 * ldz + c0 * k, z_row * ldz + c0
                if left >= width:
                    full(packed, w_at, H, at, ldh, stride, k, rows, flat, z_at, ldz, add)
                    c0 += width
                elif left >= half_width:
                    half(packed, w_at, H, at, ldh, stride, k, rows, flat, z_at, ldz, add)
                    c0 += half_width
                else:
                    one(packed, w_at, H, at, ldh, stride, k, rows, flat, z_at, ldz, add)
                    c0 += lanes

    return product


def _row_block(dtype: type, n_vectors: int) -> Any:
    """One panel by any number of rows, in blocks of NR, NR / 2 and 1."""
    n_rows = _shape()[2]
    half_rows = n_rows // 2
    tile, half, one = (_tile(dtype, n_vectors, r) for r in (n_rows, half_rows, 1))

    @njit(nogil=True, error_model="numpy", inline="always")
    def row_block(packed, w_at, H, h_at, ldh, stride, n_k, rows, Z, z_at, ldz, more):
        r = 0
        while r + n_rows <= rows:
            tile(packed, w_at, H, h_at + r * ldh, ldh, stride, n_k, Z, z_at + r * ldz, ldz, more)
            r += n_rows
        while r + half_rows <= rows:
            half(packed, w_at, H, h_at + r * ldh, ldh, stride, n_k, Z, z_at + r * ldz, ldz, more)
            r += half_rows
        while r < rows:
            one(packed, w_at, H, h_at + r * ldh, ldh, stride, n_k, Z, z_at + r * ldz, ldz, more)
            r += 1

    return row_block


def padded_columns(dtype: type, n_columns: int) -> int:
    """Columns of Z: n_columns rounded up to whole vectors."""
    lanes = panel_width(dtype)[1]
    return -(-n_columns // lanes) * lanes
