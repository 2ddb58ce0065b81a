"""Persistent kernels in the emulation: clusters of several blocks, all precisions, and when they are used.

`test_gpu_engine.py` runs them, too, on clusters of one block.
"""

import ctypes
import dataclasses
import shutil

import ml_dtypes
import numpy as np
import pytest
from cells_by_hand import INDEPENDENT, MIXED, TWO_STAGES
from conftest import NO_COMPILER
from mean_cells import CENTRED
from problems import TENSOR, assert_close, make_problem, run

import rnnx
from rnnx._core import arrays as ns
from rnnx.engines.gpu import geometry, graphs, persistent
from rnnx.engines.gpu.device import Processor
from rnnx.engines.gpu.geometry import Geometry
from rnnx.engines.gpu.kernel import options, read
from rnnx.engines.gpu.pass_key import PassKey
from rnnx.engines.gpu.passes import Pass

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason=NO_COMPILER)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
H100 = Processor(capability=90, multiprocessors=132, shared_bytes=232448)


@pytest.fixture
def stream(monkeypatch):
    """The emulated engine with persistent kernels, on a new stream."""
    import emulated_engine

    stream = emulated_engine.EmulatedStream()
    stream.processor = emulated_engine.PROCESSOR
    monkeypatch.setattr(emulated_engine, "stream", stream)
    with rnnx.use_engine("emulated"):
        yield stream


@pytest.fixture
def clusters(monkeypatch):
    """Sets the size of all clusters."""

    def use(size):
        monkeypatch.setattr(geometry, "_CLUSTERS", (size,))
        geometry._choose.cache_clear()

    yield use
    geometry._choose.cache_clear()


@pytest.fixture
def grids(monkeypatch):
    """Sets the division of all grids: groups of blocks with 8 units and 16 examples, in clusters of two."""

    def use(cluster=2, tiles=1):
        def grids(tensor, itemsize, n):
            group = -(-n // (8 * cluster)) * cluster
            return [Geometry(tensor, itemsize, cluster, 8, group, 16, 8, tiles)]

        monkeypatch.setattr(geometry, "_CLUSTERS", ())
        monkeypatch.setattr(geometry, "_grids", grids)
        geometry._choose.cache_clear()

    yield use
    geometry._choose.cache_clear()


def bits(results):
    return {name: array.tobytes() for name, array in results.items()}


CASES = {
    "lengths": ("float64", 2, {"n_a": 11, "lengths": [3, 0, 6, 5]}),
    "many": ("float32", 4, {"n_a": 27, "m": 17, "n_steps": 3}),
    "smallest": ("float32", 2, {"n_a": 1, "m": 1, "n_steps": 1}),
    "short": ("float64", 4, {"n_a": 30, "da_steps": 3, "final": False}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
@needs_compiler
def test_clusters_agree_with_the_reference_engine(stream, clusters, cell, case, rng):
    dtype, size, given = CASES[case]
    clusters(size)
    problem = make_problem(cell, rng, **{"n_x": 5, "m": 4, "n_steps": 6, "n_y": 2, "scale": 0.5, **given}).astype(dtype)
    indices = dataclasses.replace(problem, x=rng.integers(0, 5, problem.x.shape[1:]))
    for one in (problem, indices):
        actual = run(one)[0]
        with rnnx.use_engine("reference"):
            expected = run(one)[0]
        for name, array in expected.items():
            assert_close(actual[name], array, {"float32": 3e-6, "float64": 1e-13}[dtype], name)
    assert {"persistent_forward", "persistent_backward"} <= set(stream.log)
    assert not {"forward_0", "backward_0"} & set(stream.log)


@pytest.mark.parametrize("odd", [rnnx.CELLS["lstm"], TWO_STAGES, MIXED], ids=lambda cell: cell.name)
@pytest.mark.parametrize("precision", TENSOR)
@pytest.mark.slow
@needs_compiler
def test_tensor_cores(stream, clusters, odd, precision, rng, monkeypatch):
    """Close to float64 on the same inputs. The sums of a product are split among warps."""
    clusters(2)
    monkeypatch.setattr(ns, "_floats", lambda xp: frozenset(map(np.dtype, ("float16", "float32", BFLOAT16))))
    dtype = {"tf32": np.dtype("float32"), "bfloat16": BFLOAT16, "float16": np.dtype("float16")}[precision]
    stream.precision = "tf32"  # without effect in 16 bits
    problem = make_problem(odd, rng, 6, 43, 9, 4, scale=0.1, lengths=[4, 2, 0, 3, 4, 4, 1, 4, 4]).astype(dtype)
    problem.parameters |= {key: (0.1 * rng.standard_normal((43, 1))).astype(dtype) for key in odd.optional_keys}
    actual = run(problem)[0]
    monkeypatch.undo()
    with rnnx.use_engine("reference"):
        expected = run(problem.astype("float64"))[0]
    for name, array in expected.items():
        assert_close(actual[name].astype(np.float64), array, TENSOR[precision], name)
    assert "persistent_backward" in stream.log


@pytest.mark.parametrize("name", ["lstm", pytest.param("gru", marks=pytest.mark.slow)])
@needs_compiler
def test_the_same_bits_for_any_order_and_delay(stream, clusters, name, rng, monkeypatch):
    import emulated_engine

    clusters(4)
    problem = make_problem(rnnx.CELLS[name], rng, 3, 27, 9, 4, lengths=[4, 2, 0, 3, 4, 4, 4, 1, 4]).astype("float32")
    expected = bits(run(problem)[0])
    for seed in (0, 2, 3):
        monkeypatch.setattr(emulated_engine, "SEED", seed)
        assert bits(run(problem)[0]) == expected


MISTAKES = {
    "no wait": ("wait_for_bytes(counters + buffer, turn / 2 % 2);", "", 1),
    "the wrong phase": ("turn / 2 % 2", "turn / 2 % 2 ^ (turn == 2)", 1),
    "more bytes": ("(int)sizeof(storage);", "(int)sizeof(storage) + 16;", 1),
    "fewer bytes": ("(int)sizeof(storage);", "(int)sizeof(storage) - 16;", 1),
    "one buffer": ("const int buffer = turn % 2;", "const int buffer = 0;", 2),
    "one block left out": ("if (rank < RNNX_CLUSTER)", "if (rank != 1)", 1),
    "no barrier": ("sums);\n    __syncthreads();", "sums);", 1),
    "no start": ("cluster_barrier();", "", 1),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.slow
@needs_compiler
def test_mistakes_are_detected(stream, clusters, mistake, rng, monkeypatch):
    """The emulation can fail: with other results, or a deadlock."""
    clusters(4)
    problem = make_problem(rnnx.CELLS["rnn"], rng, 3, 27, 5, 6).astype("float32")
    check_mistake(stream, problem, MISTAKES[mistake], monkeypatch)


def check_mistake(stream, problem, mistake, monkeypatch):
    """Check that a mistake, (old, new, count), changes the results of three forward passes, or is reported."""

    def states():
        found = rnnx.recurrent_forward(problem.cell, problem.x, problem.s0, problem.parameters)[0]
        return [state.tobytes() for state in found]

    expected = [states() for _ in range(3)]
    source, (old, new, count) = persistent.source, mistake

    def wrong(*arguments):
        text = source(*arguments)
        if text.count(old) != count:
            pytest.fail(f"the mistake is no longer in the source: {old}")
        return text.replace(old, new)

    monkeypatch.setattr(persistent, "source", wrong)
    monkeypatch.setattr(stream, "graphs", graphs.GraphCache(stream))
    try:
        actual = [states() for _ in range(3)]
    except AssertionError as error:
        assert str(error).startswith(("deadlock", "a message came after"))  # noqa: PT017
    else:
        assert actual != expected


@pytest.mark.parametrize("odd", [*map(rnnx.CELLS.get, ("lstm", "gru")), TWO_STAGES, MIXED], ids=lambda cell: cell.name)
@pytest.mark.parametrize("precision", ["float16", "tf32"])
@pytest.mark.slow
@needs_compiler
def test_grids(stream, grids, odd, precision, rng, monkeypatch):
    """Groups of four blocks and more, two groups, shares of the examples, and replays."""
    monkeypatch.setattr(ns, "_floats", lambda xp: frozenset(map(np.dtype, ("float16", "float32"))))
    stream.precision = "tf32"
    lengths = [4, 2, 0, 3, 4, 1, 4, 4, 3] * 2
    problem = make_problem(odd, rng, 6, 27, 18, 4, scale=0.1, lengths=lengths).astype(precision.replace("tf", "float"))
    problem.parameters |= {key: 0.1 * np.ones((27, 1), problem.x.dtype) for key in odd.optional_keys}
    indices = dataclasses.replace(problem, x=rng.integers(0, 6, problem.x.shape[1:]))
    grids(tiles=2 if precision == "tf32" else 1)
    found = [run(one)[0] for one in (problem, indices) for _ in range(3)]
    monkeypatch.undo()
    assert bits(found[0]) == bits(found[1]) == bits(found[2])
    for actual, one in ((found[0], problem), (found[-1], indices)):
        double = one.astype("float64")
        double.x = one.x if one is indices else double.x
        with rnnx.use_engine("reference"):
            expected = run(double)[0]
        for name, array in expected.items():
            assert_close(actual[name].astype(np.float64), array, TENSOR[precision], name)
    assert {"persistent_forward", "persistent_backward", "graph"} <= set(stream.log)
    assert not {"forward_0", "backward_0"} & set(stream.log)


GRID_MISTAKES = {
    "no arrival": ("arrive_and_wait(arrived, (turn + 1) * RNNX_GROUP);", "", 1),
    "one block missed": ("(turn + 1) * RNNX_GROUP", "(turn + 1) * RNNX_GROUP - 1", 1),
    "no wait": ("wait_for_bytes(counter, turn % 2);", "", 1),
    "one buffer": ("published + turn % 2 * SENT_CHUNKS", "published", 2),
    "no barrier": ("receive(int turn) const {\n    __syncthreads();", "receive(int turn) const {", 1),
    "the same share": ("cluster_rank() * share", "0", 1),
    "fewer bytes": ("expect_bytes(counter, BYTES);", "expect_bytes(counter, BYTES - 16);", 2),
    "the wrong phase": ("wait_for_bytes(counter, turn % 2);", "wait_for_bytes(counter, 0);", 1),
}


@pytest.mark.parametrize("mistake", GRID_MISTAKES)
@pytest.mark.slow
@needs_compiler
def test_mistakes_in_grids_are_detected(stream, grids, mistake, rng, monkeypatch):
    grids()
    stream.precision = "tf32"
    problem = make_problem(rnnx.CELLS["rnn"], rng, 3, 27, 18, 6).astype("float32")
    check_mistake(stream, problem, GRID_MISTAKES[mistake], monkeypatch)


@pytest.mark.slow
@needs_compiler
def test_grids_give_the_same_bits_for_any_order_and_delay(stream, grids, rng, monkeypatch):
    """And each launch starts with counts of zero."""
    import emulated_engine

    grids()
    stream.precision = "tf32"
    problem = make_problem(rnnx.CELLS["rnn"], rng, 3, 27, 18, 6).astype("float32")
    expected = bits(run(problem)[0])
    for seed in (0, 2, 3):
        monkeypatch.setattr(emulated_engine, "SEED", seed)
        assert bits(run(problem)[0]) == expected
    monkeypatch.setattr(Pass, "group_copies", lambda self: [])
    stream.graphs = graphs.GraphCache(stream)
    with pytest.raises(AssertionError, match="deadlock"):
        run(problem)


@needs_compiler
def test_a_pass_follows_the_rule(stream, rng):
    problem = make_problem(rnnx.CELLS["lstm"], rng).astype("float32")
    for processor, used in ((H100, True), (H100._replace(capability=80), False), (None, False)):
        stream.processor, stream.graphs = processor, graphs.GraphCache(stream)
        stream.log.clear()
        run(problem)
        assert ("persistent_forward" in stream.log, "persistent_backward" in stream.log) == (used, used)
        assert ("forward_0" in stream.log, "backward_0" in stream.log) == (not used, not used)


FRAGMENTS = """
// Lane by lane, as the PTX manual lays out the fragments of mma.m16n8k16 (16 bits) and mma.m16n8k8 (TF32).
extern "C" __global__ void check(const storage* a, const storage* b, real* d) {
  __syncthreads();
  const int g = threadIdx.x / 4, q = threadIdx.x % 4, packed = 4 / sizeof(storage), columns = 8 * packed;
  unsigned of_a[4], of_b[2];
  float of_d[4] = {};
  for (int i = 0; i < 4; i++) memcpy(of_a + i, a + (g + i % 2 * 8) * columns + q * packed + i / 2 * columns / 2, 4);
  for (int i = 0; i < 2; i++) memcpy(of_b + i, b + g * columns + q * packed + i * columns / 2, 4);
  multiply(storage(), of_d, of_a, of_b);
  for (int i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + q * 2 + i % 2] = of_d[i];
}
"""


@pytest.mark.parametrize("dtype", [np.dtype("float16"), BFLOAT16, np.dtype("float32")], ids=str)
@needs_compiler
def test_fragments_of_the_emulation(dtype, rng):
    from emulated_engine import compiled

    names = {"CLUSTER": 1, "UNITS": 8, "WARPS": 1, "EXAMPLES": 8, "TENSOR": 1, "WARP_ROWS": 16, "GROUP": 1, "GRID": 0}
    defined = "".join(f"#define RNNX_{name} {value}\n" for name, value in names.items())
    text = "\n".join([defined, *map(read, ("prelude.cuh", "instructions.cuh", "persistent.cuh")), FRAGMENTS])
    columns = 32 // dtype.itemsize
    a, b = (rng.integers(-8, 8, (rows, columns)).astype(dtype) for rows in (16, 8))
    d = np.full((16, 8), np.nan, np.float32)
    numbers = (ctypes.c_int64 * 3)(*(array.ctypes.data for array in (a, b, d)))
    assert compiled(text, options(dtype)).check_emulated(1, 1, 32, 1, ctypes.c_size_t(0), 1, numbers) == 0
    np.testing.assert_array_equal(d, a.astype(np.float32) @ b.astype(np.float32).T)


# --- when they are used -------------------------------------------------------------------------------------------


def key(name, n, m, dtype="float32"):
    cell = rnnx.CELLS[name] if isinstance(name, str) else name
    return PassKey(cell, np.dtype(dtype), 50, m, n, 64, False, False, (), True)


@pytest.mark.parametrize(
    ("name", "n", "m", "precision", "cluster"),
    [
        ("lstm", 128, 32, "float32", 8), ("lstm", 256, 64, "float32", 8), ("lstm", 256, 64, "tf32", 8),
        ("lstm", 128, 64, "float16", 4), ("lstm", 256, 128, "bfloat16", 8), ("lstm", 512, 8, "float16", 16),
        ("lstm", 512, 64, "float16", 16),
        ("lstm", 256, 128, "float32", None), ("lstm", 512, 8, "float32", None), ("lstm", 1024, 64, "float16", None),
        ("gru", 200, 64, "float16", 8), ("rnn", 1, 1, "float32", 1), ("lstm", 256, 1024, "float16", None),
        (CENTRED, 64, 8, "float32", None), (INDEPENDENT, 64, 8, "float32", None),
    ],
)  # fmt: skip
def test_the_rule(name, n, m, precision, cluster):
    dtype = BFLOAT16 if precision == "bfloat16" else "float32" if precision == "tf32" else precision
    chosen = geometry.choose(key(name, n, m, dtype), "tf32" if precision == "tf32" else "ieee", H100)
    assert (chosen and chosen.cluster) == cluster


def test_devices_and_the_switch():
    small = key("lstm", 128, 8)
    assert geometry.choose(small, "ieee", H100)
    assert geometry.choose(small, "ieee", H100._replace(capability=100))
    for other in (None, *(H100._replace(**change) for change in ({"capability": 80}, {"persistent": False}))):
        assert geometry.choose(small, "ieee", other) is None
    large = key("lstm", 256, 1024, "float16")
    assert geometry.choose(large, "ieee", H100) is None
    assert geometry.choose(large, "ieee", H100._replace(persistent=True)).cluster == 8
    everywhere = H100._replace(persistent=True)
    for n, m, group in ((1024, 64, 128), (1024, 128, None), (2048, 64, None)):  # all blocks must run at the same time
        largest = key("lstm", n, m, "float16")
        assert geometry.choose(largest, "ieee", H100) is None
        chosen = geometry.choose(largest, "ieee", everywhere)
        assert (chosen and chosen.group) == group
        assert chosen is None or chosen.blocks(m) <= H100.multiprocessors
        for limited in ({"grids": False}, {"multiprocessors": 127}):
            assert geometry.choose(largest, "ieee", everywhere._replace(**limited)) is None
    for limited in ({"shared_bytes": 16 << 10}, {"multiprocessors": 8}):
        assert geometry.choose(large, "ieee", H100._replace(persistent=True, **limited)) is None
    wide = key("rnn", 512, 8)
    assert geometry.choose(wide, "ieee", H100).cluster == 16
    assert geometry.choose(wide, "ieee", H100._replace(multiprocessors=114)) is None  # clusters of 16 may find no room


@pytest.mark.parametrize("itemsize", [2, 4, 8])
@pytest.mark.parametrize("tensor", [False, True])
def test_every_geometry_covers_the_weights(cell, tensor, itemsize):
    if tensor and itemsize == 8:
        return
    for cluster in (1, 2, 8, 16):
        for units in (8, 24, 32):
            one = Geometry(tensor, itemsize, cluster, units)
            for backward in (False, True):
                shapes = [shape for shape in one.products(cell, backward=backward) if shape]
                for shape in shapes:
                    assert shape.k >= shape.sent
                    assert shape.split * -(-shape.rows // one.warp_rows) <= one.warps
                    registers = shape.words * one.threads * 4
                    assert registers >= shape.rows * shape.k * itemsize
