"""The matrix product and the copy kernels of the compiled engine."""

import itertools
from functools import lru_cache

import numpy as np
import pytest
from guard import guarded
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import ir as llvm

import rnnx
from rnnx.engines.cpu import dense
from rnnx.engines.cpu.codegen import direct, gemm, ir, leaves
from rnnx.engines.cpu.codegen.copy import emit_copies
from rnnx.engines.cpu.runtime import object_cache, tuning
from rnnx.engines.cpu.runtime.buffer_pool import LINE, aligned
from rnnx.engines.cpu.runtime.thread_policy import use_policy
from rnnx.engines.cpu.runtime.tuning import panel_vectors

DTYPES = [np.float32, np.float64]


def functions(emit, arguments):
    """Compiled functions, to be called with arrays (for their addresses) and integers."""
    addresses = object_cache.functions(emit)

    def callable_(name):
        native = leaves.python_function(arguments[name], addresses[name])
        return lambda *given: native(*(g.ctypes.data if isinstance(g, np.ndarray) else int(g) for g in given))

    return {name: callable_(name) for name in arguments}


@lru_cache
def products(dtype, panel, machine):
    del machine  # what is compiled depends on it
    name = f"product_{panel}"
    return functions(lambda m: gemm.emit_product(m, dtype, panel), {name: leaves.PRODUCT})[name]


def packed(W, panel):
    """Weights (K, C) in the layout documented in `gemm`, and their number of vectors."""
    n_k, n_c = W.shape
    lanes, vectors = ir.lanes(W.dtype), gemm.n_vectors(W.dtype, n_c)
    padded = np.zeros((n_k, vectors * lanes), W.dtype)
    padded[:, :n_c] = W
    parts = [
        padded[k0 : k0 + gemm.KC, v * lanes : (v + panel) * lanes].ravel()
        for k0 in range(0, n_k, gemm.KC)
        for v in range(0, vectors, panel)
    ]
    return np.concatenate(parts), vectors


def multiply(H, W, panel, init=None, transposed=False, back=0):
    """H W, or init + H W, with sentinels around the result."""
    rows, n_k = H.shape
    item = H.itemsize
    weights, vectors = packed(W, panel)
    Z = np.full((rows + 2, W.shape[1]), np.nan, H.dtype)
    held = np.ascontiguousarray(H.T if transposed else H)
    strides = (item, rows * item) if transposed else (n_k * item, item)
    first = np.zeros(W.shape[1] + 64, H.dtype) if init is None else init
    ldi = 0 if init is None else init.shape[1] * item
    z, tail = Z[1:], W.shape[1] % ir.lanes(H.dtype)
    product = products(H.dtype, panel, ir.machine())
    product(weights, vectors, 0, vectors, n_k, held, *strides, rows, first, ldi, z, W.shape[1] * item, tail, back, 0)
    assert np.all(np.isnan(Z[[0, -1]]))  # nothing above, nothing below
    return Z[1:-1]


def bounded(actual, H, W, dtype):
    """Within the rounding of a sum of K products in any order."""
    exact = H.astype(np.float64) @ W.astype(np.float64)
    return np.all(np.abs(actual - exact) <= (W.shape[0] + 1) * np.finfo(dtype).eps * (np.abs(H) @ np.abs(W)) + 1e-300)


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    rows=st.integers(1, 220), k=st.integers(1, 900), columns=st.integers(1, 200), transposed=st.booleans(),
    more=st.booleans(),
)  # fmt: skip
def test_product_is_the_matrix_product(dtype, rows, k, columns, transposed, more):
    """Any number of rows, columns and terms; either orientation; added to something or not."""
    rng = np.random.default_rng(rows + k)
    H, W = rng.standard_normal((rows, k)).astype(dtype), rng.standard_normal((k, columns)).astype(dtype)
    init = rng.standard_normal((rows, columns)).astype(dtype) if more else None
    for panel in {panel_vectors(1), panel_vectors(3)}:
        out = multiply(H, W, panel, init, transposed)
        assert np.array_equal(out, multiply(H, W, panel, init, transposed, back=1))  # the last micro-panel first
        if more:
            H2, W2 = np.c_[np.ones((rows, 1), dtype), H], W
            exact = init.astype(np.float64) + H.astype(np.float64) @ W.astype(np.float64)
            scale = np.abs(init) + np.abs(H) @ np.abs(W2)
            assert np.all(np.abs(out - exact) <= (H2.shape[1] + 1) * np.finfo(dtype).eps * scale)
        else:
            assert bounded(out, H, W, dtype)


def test_a_row_does_not_depend_on_its_neighbours():
    rng = np.random.default_rng(0)
    W, H = rng.standard_normal((450, 96), np.float32), rng.standard_normal((113, 450), np.float32)
    whole = multiply(H, W, panel_vectors(1))
    for j in (0, 5, 95, 96, 112):
        assert np.array_equal(multiply(H[j : j + 1], W, panel_vectors(1))[0], whole[j])


def test_the_sums_do_not_depend_on_the_micro_panels():
    """Nor on the blocks of rows that come with them: any choice gives the same bits."""
    rng = np.random.default_rng(0)
    W, H = rng.standard_normal((gemm.KC + 61, 75), np.float32), rng.standard_normal((103, gemm.KC + 61), np.float32)
    first, *others = (multiply(H, W, panel) for panel in gemm.MR[ir.machine().registers])
    assert others
    for other in others:
        assert np.array_equal(first, other)


@pytest.mark.parametrize("back", [0, 1])
def test_some_micro_panels_only(back):
    """The columns of a range of vectors, as unit-parallel threads share them."""
    rng = np.random.default_rng(0)
    panel, lanes = panel_vectors(1), ir.lanes(np.float32)
    W, H = rng.standard_normal((9, 5 * panel * lanes), np.float32), rng.standard_normal((7, 9), np.float32)
    weights, vectors = packed(W, panel)
    Z = np.full((7, W.shape[1]), np.nan, np.float32)
    v0, v1 = panel, 3 * panel
    zeros, z = np.zeros(W.shape[1], np.float32), Z[:, v0 * lanes :]
    ld = W.shape[1] * 4
    products(np.float32, panel, ir.machine())(weights, vectors, v0, v1, 9, H, 36, 4, 7, zeros, 0, z, ld, 0, back, 0)
    inside = slice(v0 * lanes, v1 * lanes)
    np.testing.assert_allclose(Z[:, inside], H @ W[:, inside], rtol=1e-5, atol=1e-5)
    Z[:, inside] = np.nan
    assert np.isnan(Z).all()


@pytest.mark.skipif(not gemm.reads_rows(), reason="no loads of a part of a vector")
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_that_are_not_packed(dtype):
    """A product reads some columns of a wider matrix, with the bits of packed weights, and nothing past the ends."""
    rng = np.random.default_rng(0)
    for rows, n_k, columns in ((1, 1, 1), (3, 7, 5), (7, gemm.KC + 3, 70), (2, 9, 6 * ir.lanes(dtype))):
        W, H = rng.standard_normal((n_k, columns)).astype(dtype), rng.standard_normal((rows, n_k)).astype(dtype)
        given = guarded(np.pad(W, ((0, 0), (3, 0)), constant_values=np.nan))
        H, Z = guarded(H), guarded(np.empty((rows, columns), dtype))
        vectors, item = gemm.n_vectors(dtype, columns), H.itemsize
        product, zeros = products(H.dtype, panel := panel_vectors(1), ir.machine()), guarded(np.zeros(columns, dtype))
        product(
            *(given[:, 3:], vectors, 0, vectors, n_k, H, n_k * item, item, rows, zeros, 0),
            *(Z, columns * item, columns % ir.lanes(dtype), 0, given.strides[0]),
        )
        assert np.array_equal(Z, multiply(H, W, panel))


MACHINES = {"AVX-512": (64, 32), "AVX2": (32, 16), "NEON": (16, 32), "unknown": (16, 16)}


@pytest.mark.skipif(not direct.most_rows(), reason="no stores of a part of a vector")
@pytest.mark.parametrize("machine", ["AVX-512", "AVX2"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_product_for_few_rows(machine, dtype, monkeypatch):
    """It has the bits of the product with packed weights, and reads and writes nothing else."""
    rng = np.random.default_rng(0)
    for module in (ir, gemm, direct, tuning):
        monkeypatch.setattr(module, "machine", lambda: ir.Machine(*MACHINES[machine]))
    run = functions(lambda m: direct.emit_direct(m, dtype), {"direct": leaves.DIRECT})["direct"]
    for rows, vectors in itertools.product(range(1, direct.most_rows() + 1), (1, 2)):
        for n_k in (1, 3, 15, 16, 37, 64):
            lanes, item = ir.lanes(dtype), np.dtype(dtype).itemsize
            columns = lanes - rows % 3 if vectors == 1 else 2 * lanes
            shapes = (columns, n_k + 1), (rows, n_k), (columns,), (rows, columns + 1)
            W, H, init, Z = (guarded(rng.standard_normal(shape).astype(dtype)) for shape in shapes)
            first, w_row, z_row = Z[:, 0].copy(), (n_k + 1) * item, (columns + 1) * item
            for last in (H[:, -1], np.inf):  # beside which there may be no term of zero
                H[:, -1] = last
                of_rows = H, n_k * item, rows, init, 0, Z[:, 1:], z_row
                run(W[:, 1:], w_row, columns, lanes * item, n_k, *of_rows)
                expected = multiply(H, W[:, 1:].T, panel_vectors(1), np.repeat(init[None], rows, 0))
                assert np.array_equal(Z[:, 1:], expected)
            assert np.array_equal(Z[:, 0], first)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.slow
def test_shapes_for_other_cpus(machine, dtype, monkeypatch):
    """What other CPUs would run; LLVM splits vectors that this one does not have."""
    monkeypatch.setattr(ir, "machine", lambda: ir.Machine(*MACHINES[machine]))
    monkeypatch.setattr(gemm, "machine", ir.machine)
    monkeypatch.setattr(tuning, "machine", ir.machine)
    rng = np.random.default_rng(0)
    lanes = ir.lanes(dtype)
    for rows, columns, k in ((1, 1, 11), (5, 3 * lanes, gemm.KC + 5), (13, 5 * lanes + 1, 11), (7, 8 * lanes, 2)):
        W, H = rng.standard_normal((k, columns)).astype(dtype), rng.standard_normal((rows, k)).astype(dtype)
        for panel in {panel_vectors(1), panel_vectors(3)}:
            assert bounded(multiply(H, W, panel), H, W, dtype)


def test_the_next_micro_panel_is_prefetched():
    """By micro-kernels of many rows, in whatever part of the panel each block of rows must read."""
    module = llvm.Module()
    gemm.emit_product(module, np.float32, widest := panel_vectors(1))
    text = {f.name: str(f) for f in module.functions}
    tallest = gemm.MR[ir.machine().registers][widest]
    counts = {mr: text[f"micro_kernel_{mr}x{widest}"].count('call void @"llvm.prefetch') for mr in (1, tallest)}
    assert counts == {1: 0, tallest: 3}  # two in the unrolled loop, one in the other


COPIES = {"transpose": leaves.TRANSPOSE, "copy": leaves.COPY, "add_rows": leaves.ADD_ROWS}
COPIES |= {"transpose_masked": leaves.TRANSPOSE, "copy_masked": leaves.COPY}
PAST_THE_CACHE = {"transpose_nontemporal": leaves.TRANSPOSE, "copy_rows_nontemporal": leaves.COPY_ROWS}


@lru_cache
def all_copies(dtype):
    return functions(lambda m: emit_copies(m, dtype), COPIES)


@pytest.mark.parametrize("dtype", DTYPES)
@given(count=st.integers(1, 16), n=st.integers(0, 70))
def test_transpose(dtype, count, n):
    copies, lanes = all_copies(dtype), ir.lanes(dtype)
    count = min(count, lanes)
    source = np.random.default_rng(n).standard_normal((count, n + 3)).astype(dtype)
    for name in ("transpose", "transpose_masked"):
        out = np.full((n + 1, lanes + 2), np.nan, dtype)
        copies[name](source, source.strides[0], count, n, out, out.strides[0])
        np.testing.assert_array_equal(out[:n, :count], source[:, :n].T)
        assert np.isnan(out[n]).all()
        assert np.isnan(out[:n, count if name == "transpose_masked" else lanes :]).all()


@pytest.mark.skipif(ir.machine().vector_bytes != LINE, reason="a vector does not fill a cache line")
@pytest.mark.parametrize("dtype", DTYPES)
@given(rows=st.integers(0, 9), n=st.integers(0, 70))
def test_copies_past_the_cache(dtype, rows, n):
    copies, lanes = functions(lambda m: emit_copies(m, dtype), PAST_THE_CACHE), ir.lanes(dtype)
    source = np.random.default_rng(n).standard_normal((lanes, n + 3)).astype(dtype)
    out = aligned((n + 1) * 2 * LINE).view(dtype).reshape(n + 1, 2 * lanes)
    out[...] = np.nan
    copies["transpose_nontemporal"](source, source.strides[0], lanes, n, out, out.strides[0])
    np.testing.assert_array_equal(out[:n, :lanes], source[:, :n].T)
    assert np.isnan(out[n]).all()
    assert np.isnan(out[:, lanes:]).all()
    source, order = np.random.default_rng(n).standard_normal((9, 2 * lanes)).astype(dtype), np.arange(9)[::-1].copy()
    target = aligned(10 * 2 * LINE).view(dtype).reshape(10, 2 * lanes)
    target[...] = np.nan
    row = target.strides[0]
    copies["copy_rows_nontemporal"](source, row, rows, 2, 0, target, row, order, order)
    np.testing.assert_array_equal(target[9 - rows : 9], source[9 - rows :])
    assert np.isnan(target[: 9 - rows]).all()
    assert np.isnan(target[9]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@given(rows=st.integers(0, 9), columns=st.integers(1, 70))
def test_copy_and_sums(dtype, rows, columns):
    copies, lanes = all_copies(dtype), ir.lanes(dtype)
    vectors = -(-columns // lanes)
    source = np.random.default_rng(rows).standard_normal((rows, columns)).astype(dtype)
    for name in ("copy", "copy_masked"):
        out = np.full((rows + 1, (vectors + 1) * lanes), np.nan, dtype)
        copies[name](source, source.strides[0], rows, vectors, columns % lanes, out, out.strides[0])
        np.testing.assert_array_equal(out[:rows, :columns], source)
        padding = out[:rows, columns : vectors * lanes]
        assert np.all(np.isnan(padding)) if name == "copy_masked" else np.all(padding == 0)
        assert np.isnan(out[rows]).all()
        assert np.isnan(out[:, vectors * lanes :]).all()
    padded, sums = np.zeros((rows, vectors * lanes), dtype), np.ones(vectors * lanes, dtype)
    padded[:, :columns] = source
    copies["add_rows"](padded, padded.strides[0], rows, vectors, sums)
    np.testing.assert_allclose(sums, 1 + padded.sum(axis=0), rtol=1e-5)


@settings(max_examples=40)
@given(st.integers(1, 70), st.integers(1, 800), st.integers(1, 140), st.sampled_from(["float32", "float64"]), st.data())
def test_matmul(rows, n_k, columns, dtype, data):
    """The product of dense layers, for every layout of its operands; each row has the bits that it has alone, whatever
    the number of threads.
    """
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((rows, n_k)).astype(dtype), rng.standard_normal((n_k, columns)).astype(dtype)
    bias = rng.standard_normal(columns).astype(dtype) if data.draw(st.booleans()) else None
    layouts = [np.ascontiguousarray, np.asfortranarray, lambda x: np.repeat(x, 2, axis=1)[:, ::2]]
    operands = [data.draw(st.sampled_from(layouts))(x) for x in (a, b)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "_SMALLEST", 0)
        out = dense.matmul(*operands, bias)
        alone = dense.matmul(operands[0][-1:], operands[1], bias)
        with use_policy(lambda _: (3, False)):
            shared = dense.matmul(*operands, bias)
    assert np.array_equal(out, shared)
    assert out.dtype == dtype
    assert out.shape == (rows, columns)
    added = np.zeros(columns, dtype) if bias is None else bias
    exact = a.astype("float64") @ b.astype("float64") + added
    size = (np.abs(a) @ np.abs(b) + np.abs(added)).max()  # of the terms of a sum, the bias among them
    assert np.abs(out - exact).max() <= 4 * np.finfo(dtype).eps * size * np.sqrt(n_k)
    assert np.array_equal(out[-1:], alone)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_copy_of_a_bias_lives_as_long_as_the_product(dtype, rng):
    """Memory that was given back would be used again: for the record of a job, of as many bytes, or by malloc."""
    for columns in (dense.MATRIX.itemsize // np.dtype(dtype).itemsize, 300):
        a, W = rng.standard_normal((64, 40, 30)).astype(dtype), rng.standard_normal((columns, 64)).astype(dtype)
        b = rng.standard_normal((columns, 2)).astype(dtype)[:, :1]
        assert np.array_equal(rnnx.dense_forward(a, W, b), rnnx.dense_forward(a, W, b.copy()))


@settings(max_examples=40)
@given(
    st.integers(1, 900), st.integers(1, 140), st.integers(1, 140), st.sampled_from(["float32", "float64"]), st.data()
)
def test_gradients_of_dense_layers(rows, n_in, n_out, dtype, data):
    """One job, for every layout of its operands, also with more threads than micro-panels."""
    rng, shapes = np.random.default_rng(0), ((rows, n_out), (rows, n_in), (n_out, n_in))
    layouts = [np.ascontiguousarray, np.asfortranarray, lambda x: np.repeat(x, 2, axis=1)[:, ::2]]
    dz, a, w = (data.draw(st.sampled_from(layouts))(rng.standard_normal(shape).astype(dtype)) for shape in shapes)
    threads = data.draw(st.integers(2, 12))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "_SMALLEST", 0)
        found = dense.gradients(dz, a, w)
        with use_policy(lambda _: (threads, False)):
            shared = dense.gradients(dz, a, w)
    ones = np.ones((rows, 1), dtype)
    for out, again, left, right in zip(found, shared, (dz, dz.T, dz.T), (w, a, ones), strict=True):
        assert np.array_equal(out, again)
        assert out.dtype == dtype
        exact = left.astype("float64") @ right.astype("float64")
        assert out.shape == exact.shape
        size = (np.abs(left) @ np.abs(right)).max()
        assert np.abs(out - exact).max() <= 4 * np.finfo(dtype).eps * size * np.sqrt(left.shape[1])


def test_the_heads_run_compiled_products(monkeypatch):
    seen = []
    for name in ("_product", "_gradients"):
        plan = getattr(dense, name)
        monkeypatch.setattr(dense, name, lambda *sizes, name=name, plan=plan: seen.append(name) or plan(*sizes))
    a, W, b = np.ones((64, 40, 30), "float32"), np.ones((20, 64), "float32"), np.ones((20, 1), "float32")
    z = rnnx.dense_forward(a, W, b)
    rnnx.dense_backward(z, a, W)
    assert seen == ["_product", "_gradients"]
    seen.clear()
    with rnnx.use_engine("reference"):
        assert np.array_equal(rnnx.dense_forward(a, W, b), z)
    assert not seen
