"""The emulated GPU engine: CUDA graphs, memory, 16-bit types, products.

The requirements that hold for every engine are tested in the other files.
"""

import dataclasses
import itertools
import shutil

import ml_dtypes
import numpy as np
import pytest
from cells_by_hand import ONE_SIDED
from conftest import NO_COMPILER
from mean_cells import MEANS, NESTED, UNUSED
from problems import ENGINES_TOLERANCE, assert_close, make_problem, run
from rounding import compare
from wide_cells import PROJECTION

import rnnx
from rnnx._core import arrays as ns
from rnnx.cells import BUILT_IN
from rnnx.cells.wiring import wiring
from rnnx.engines.gpu import codegen, copies, graphs, launches, trace
from rnnx.engines.gpu.device import Arena, Matrix
from rnnx.engines.gpu.kernel import declared, read
from rnnx.engines.gpu.pass_key import PassKey
from rnnx.engines.protocol import Call, Tape

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason=NO_COMPILER)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SOME = [*BUILT_IN.values(), rnnx.CELLS["unicornn"], PROJECTION, *ONE_SIDED, *MEANS[:-2]]


def named(value):
    """The name of a cell in the names of tests."""
    return getattr(value, "name", None)


any_cell = pytest.mark.parametrize("cell", SOME, ids=named)


# Also with persistent kernels, which the emulated device does not use by itself.
PERSISTENT = pytest.param("persistent", marks=pytest.mark.slow)
also_persistent = pytest.mark.parametrize("stream", ["steps", PERSISTENT], indirect=True)


@pytest.fixture
def stream(monkeypatch, request):
    """The engine on a new stream, without captured passes."""
    import emulated_engine

    stream = emulated_engine.EmulatedStream()
    if getattr(request, "param", "steps") == "persistent":
        stream.processor = emulated_engine.PROCESSOR
    monkeypatch.setattr(emulated_engine, "stream", stream)
    with rnnx.use_engine("emulated"):
        yield stream


def results(problem):
    """What a problem returns, without its caches."""
    return run(problem)[0]


def assert_same_bits(actual, expected):
    assert list(actual) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name, strict=True)


@also_persistent
@any_cell
@pytest.mark.parametrize("lengths", [None, [4, 0, 3]])
@pytest.mark.parametrize("indexed", [False, True])
def test_a_replay_gives_the_bits_of_an_uncaptured_pass(stream, cell, lengths, indexed, rng):
    problem = make_problem(cell, rng, 6, 5, 3, 4, lengths=lengths).astype("float32")
    other = make_problem(cell, rng, 6, 5, 3, 4, lengths=None if lengths is None else [1, 4, 2]).astype("float32")
    if indexed:
        problem.x, other.x = rng.integers(0, 6, (2, 3, 4))
    eager = results(problem)
    assert "graph" not in stream.log
    eager_other = results(other)  # the second call captures
    assert "graph" not in stream.log
    for expected, given in ((eager, problem), (eager_other, other), (eager, problem)):
        stream.log.clear()
        assert_same_bits(results(given), expected)
        assert stream.log.count("graph") == 2


def test_the_launches_of_a_pass(stream, cell, rng):
    """One product for all inputs, one product and one kernel per stage and step, and one product per gradient."""
    results(make_problem(cell, rng, n_steps=7))
    stages = len(cell.stages)
    assert stream.log.count("gemm") == (1 + 7 * stages) + (7 * stages + stages + 2)
    assert (stream.log.count("copy"), stream.log.count("send")) == (4, 2)
    for i in range(stages):
        assert stream.log.count(f"forward_{i}") == stream.log.count(f"backward_{i}") == 7
    assert "scatter_add" not in stream.log
    others = len([name for name in stream.log if not name.startswith(("gemm", "forward_", "backward_"))])
    stream.log.clear()
    results(make_problem(cell, rng, n_steps=9))
    assert others == len([name for name in stream.log if not name.startswith(("gemm", "forward_", "backward_"))])


def test_fortran_order_is_not_copied(stream, rng, monkeypatch):
    """A layer returns arrays that the next one reads in place. Only x is copied, if a backward pass may follow."""
    problem = make_problem(rnnx.CELLS["lstm"], rng, 3, 4, 2, 6)
    x, ds = np.asfortranarray(problem.x), [*map(np.asfortranarray, problem.dstates)]
    watched, send = [], stream.send
    monkeypatch.setattr(stream, "send", lambda numbers, address: watched.extend(numbers) or send(numbers, address))
    for keep in (False, True):
        stream.graphs = graphs.GraphCache(stream)
        watched.clear()
        states, _, caches = rnnx.recurrent_forward(problem.cell, x, (), problem.parameters, keep_caches=keep)
        assert all(s.flags.f_contiguous for s in states)
        assert (x.ctypes.data in watched) == keep
    watched.clear()
    gradients = rnnx.recurrent_backward(problem.cell, ds, caches)
    assert gradients["dx"].flags.f_contiguous
    assert not {d.ctypes.data for d in ds} & {*watched}
    expected = rnnx.recurrent_backward(problem.cell, problem.dstates, caches)
    assert_same_bits(gradients, expected)


@also_persistent
@any_cell
def test_captured_work_does_not_allocate(stream, cell, rng, monkeypatch):
    made, inside = [], []
    allocate = stream.allocate
    monkeypatch.setattr(stream, "allocate", lambda size: made.append(size) or allocate(size))
    for kind in (graphs.Forward, graphs.Backward):
        work = kind.work

        def watched(self, work=work):
            before = len(made)
            work(self)
            inside.append(len(made) - before)

        monkeypatch.setattr(kind, "work", watched)
    for _ in range(3):
        results(make_problem(cell, rng, 6, 5, 3, 4).astype("float32"))  # kernels that another test also needs
    assert inside
    assert not any(inside)


@also_persistent
def test_forward_passes_before_a_backward_pass_use_separate_memory(stream, rng):
    problems = [make_problem(rnnx.CELLS["lstm"], rng) for _ in range(3)]
    expected = [results(problem) for problem in problems]
    for _ in range(2):
        caches = [rnnx.recurrent_forward(p.cell, p.x, p.s0, p.parameters)[2] for p in problems]
        for problem, kept, want in zip(problems, caches, expected, strict=True):
            got = rnnx.recurrent_backward(problem.cell, problem.dstates, kept, ds_final=problem.dfinal)
            assert_same_bits(got, {name: want[name] for name in got})
    assert "graph" in stream.log


@also_persistent
def test_memory_in_use_is_not_reused(stream, rng):
    """The arrays of a step, and the outputs, outlive the caches."""
    problem = make_problem(rnnx.CELLS["gru"], rng)
    for _ in range(3):
        states, _, caches = rnnx.recurrent_forward(problem.cell, problem.x, problem.s0, problem.parameters)
        step = caches[0][1]
    values = [np.array(a) for a in step[:5]]
    kept = np.array(states[0])
    del caches
    for _ in range(3):
        results(make_problem(rnnx.CELLS["gru"], rng))
    for array, value in zip(step[:5], values, strict=True):
        np.testing.assert_array_equal(array, value)
    np.testing.assert_array_equal(states[0], kept)


@also_persistent
def test_results_of_inference_belong_to_the_caller(stream, rng):
    problem = make_problem(rnnx.CELLS["lstm"], rng)
    outputs = []
    for i in range(4):
        problem.x = np.full_like(problem.x, i)
        states, _, caches = rnnx.recurrent_forward(
            problem.cell, problem.x, problem.s0, problem.parameters, keep_caches=False
        )
        outputs.append((states, caches.final_state, [s.copy() for s in states]))
    assert stream.log.count("graph") == 2
    for states, final, kept in outputs:
        for state, copy in zip(states, kept, strict=True):
            np.testing.assert_array_equal(state, copy)
        np.testing.assert_array_equal(final["a"], kept[0][:, :, -1])
    assert len(list(stream.graphs)) == 1


@also_persistent
def test_backward_twice_and_for_other_cotangents(stream, rng):
    problem = make_problem(rnnx.CELLS["lstm"], rng)
    expected = results(problem)
    for _ in range(3):
        _, _, caches = rnnx.recurrent_forward(problem.cell, problem.x, problem.s0, problem.parameters)
        first = rnnx.recurrent_backward(problem.cell, problem.dstates, caches, ds_final=problem.dfinal)
        only_a = rnnx.recurrent_backward(problem.cell, problem.dstates[:1], caches)
        short = rnnx.recurrent_backward(problem.cell, [d[:, :, :3] for d in problem.dstates], caches)
        again = rnnx.recurrent_backward(problem.cell, problem.dstates, caches, ds_final=problem.dfinal)
        assert_same_bits(first, {name: expected[name] for name in first})
        assert_same_bits(again, first)
        with rnnx.use_engine("reference"):
            _, _, plain = rnnx.recurrent_forward(problem.cell, problem.x, problem.s0, problem.parameters)
            for got, ds in ((only_a, problem.dstates[:1]), (short, [d[:, :, :3] for d in problem.dstates])):
                want = rnnx.recurrent_backward(problem.cell, ds, plain)
                for name, array in want.items():
                    assert_close(got[name], array, 1e-13, name)


@also_persistent
def test_captured_passes_are_limited(stream, rng, monkeypatch):
    """The number of captured passes is bounded; idle ones are dropped for new ones."""
    monkeypatch.setattr(graphs, "MAX_PASSES", 3)
    monkeypatch.setattr(graphs, "IDLE_CALLS", 4)
    problems = [make_problem(rnnx.CELLS["rnn"], rng, n_steps=2 + i) for i in range(5)]
    expected = [results(problem) for problem in problems]
    for _ in range(3):
        for problem, want in zip(problems, expected, strict=True):
            assert_same_bits(results(problem), want)
            assert len(list(stream.graphs)) <= 3
    steady = problems[0]
    for _ in range(8):
        results(steady)
    stream.log.clear()
    results(steady)
    assert stream.log.count("graph") == 2
    monkeypatch.setattr(stream, "memory", 0)
    results(make_problem(rnnx.CELLS["gru"], rng))
    stream.log.clear()
    results(make_problem(rnnx.CELLS["gru"], rng))
    assert "graph" not in stream.log


def test_backward_on_another_stream_or_in_another_precision(stream, rng, monkeypatch):
    """A CUDA graph is replayed only on the stream and in the precision of its capture."""
    import emulated_engine

    problem = make_problem(rnnx.CELLS["lstm"], rng)
    for _ in range(3):
        expected = results(problem)

    def backward(caches):
        gradients = rnnx.recurrent_backward(problem.cell, problem.dstates, caches, ds_final=problem.dfinal)
        assert_same_bits(gradients, {name: expected[name] for name in gradients})

    _, _, caches = rnnx.recurrent_forward(problem.cell, problem.x, problem.s0, problem.parameters)
    other = emulated_engine.EmulatedStream()
    with monkeypatch.context() as patch:
        patch.setattr(emulated_engine, "stream", other)
        backward(caches)
    assert "backward_0" in other.log
    assert "graph" not in other.log
    for precision, n_replays in (("tf32", 0), ("tf32", 1), ("ieee", 1)):
        monkeypatch.setattr(stream, "precision", precision)
        stream.log.clear()
        backward(caches)
        assert stream.log.count("graph") == n_replays


@also_persistent
@any_cell
def test_without_capture(stream, cell, rng, monkeypatch):
    problem = make_problem(cell, rng)
    expected = results(problem)
    with monkeypatch.context() as patch:
        patch.setattr(stream, "capture", lambda work: None)
        for _ in range(3):
            assert_same_bits(results(problem), expected)
    monkeypatch.setattr(stream, "graphs", graphs.GraphCache(stream))
    monkeypatch.setattr(stream, "can_capture", False)
    for _ in range(3):
        assert_same_bits(results(problem), expected)
    assert not list(stream.graphs)  # they would only hold memory


@any_cell
def test_a_failed_capture_is_not_repeated(stream, cell, rng, monkeypatch):
    """The backward pass of a captured forward pass does not try again."""
    attempts = []

    def fails(work):
        attempts.append(work)
        stream.can_capture = False

    monkeypatch.setattr(stream, "capture", fails)
    problem = make_problem(cell, rng)
    expected = results(problem)
    for _ in range(3):
        assert_same_bits(results(problem), expected)
    assert len(attempts) == 1


def test_sizes_that_the_kernels_cannot_count(stream):
    """Checked in every pass, before any memory is allocated."""
    x, state = (np.broadcast_to(np.float32(0), shape) for shape in ((1, 2**16, 1), (2**15, 2**16)))
    call = Call(rnnx.CELLS["rnn"], np, np.dtype("float32"), x, False, 1, (state,), {}, None)
    tape = Tape(call.cell, np, call.dtype, x.T, False, 1, (state.T[None],), (), None, {})
    for source in (call, tape):
        with pytest.raises(ValueError, match=r"m \* n_a must be less than 2\^31 on a GPU; got m = 65536, n_a = 32768"):
            PassKey.of(source, keep=True)


def test_too_little_memory_for_a_captured_pass(stream, rng, monkeypatch):
    """Captured passes that are not in use are dropped, and the pass runs uncaptured."""
    first, second = (make_problem(rnnx.CELLS["rnn"], rng, n_steps=n) for n in (4, 5))
    expected = [results(first), results(second)]
    results(first)
    assert len(list(stream.graphs)) == 1
    allocate = stream.allocate

    def fails_once(size):
        monkeypatch.setattr(stream, "allocate", allocate)
        raise MemoryError

    monkeypatch.setattr(stream, "allocate", fails_once)
    assert_same_bits(results(second), expected[1])
    assert not list(stream.graphs)
    for _ in range(3):
        assert_same_bits(results(first), expected[0])
        assert_same_bits(results(second), expected[1])
    assert len(list(stream.graphs)) == 2


# The types differ only in loads, stores and products, which `test_persistent.py` covers.
TYPES = [(cell, *kind) for cell in SOME for kind in (("steps", "float16"), ("persistent", "float16"))]
TYPES += [(cell, "steps", "bfloat16") for cell in BUILT_IN.values()]


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "stream", "dtype"), TYPES, indirect=["stream"], ids=named)
@pytest.mark.parametrize("lengths", [None, [9, 4]])
def test_16_bit_types(stream, cell, dtype, lengths, rng, monkeypatch):
    """Stored in 16 bits, computed in float32: close to float64 on the same inputs."""
    monkeypatch.setattr(ns, "_floats", lambda xp: frozenset({np.dtype(np.float16), BFLOAT16}))
    dtype = np.dtype(dtype) if dtype == "float16" else BFLOAT16
    problem = make_problem(cell, rng, 6, 8, 2, 9, scale=0.5, lengths=lengths).astype(dtype)
    actual = [results(problem) for _ in range(3)]
    assert {array.dtype for array in actual[0].values()} == {dtype}
    assert_same_bits(actual[2], actual[0])
    monkeypatch.undo()
    with rnnx.use_engine("reference"):
        expected = results(problem.astype("float64"))
    tolerance = {"float16": 4e-3, "bfloat16": 3e-2}[dtype.name]
    for name, array in expected.items():
        assert_close(actual[0][name].astype(np.float64), array, tolerance, name)


def test_gradients_of_16_bit_types_are_summed_in_float32(stream, monkeypatch):
    """2304 equal terms: a sum in float16 would stop growing at 2048."""
    monkeypatch.setattr(ns, "_floats", lambda xp: frozenset({np.dtype(np.float16)}))
    cell = rnnx.CELLS["rnn"]
    parameters = {k: np.zeros(v.shape, np.float16) for k, v in rnnx.initialize_parameters(cell, 1, 1).items()}
    x = np.ones((1, 2304, 1), np.float16)
    _, _, caches = rnnx.recurrent_forward(cell, x, (), parameters)
    gradients = rnnx.recurrent_backward(cell, [np.ones_like(x)], caches)
    assert gradients["dba"] == 2304
    assert gradients["dWax"] == 2304


@also_persistent
@any_cell
def test_an_index_out_of_range_is_nan(stream, cell, rng, monkeypatch):
    """Indices on a device are not checked, because that would synchronize. A wrong one gives NaN."""
    monkeypatch.setattr(ns, "is_on_host", lambda array: False)
    problem = make_problem(cell, rng, n_x=4, m=3, n_steps=2)
    problem.x = np.array([[0, 1], [4, 2], [-1, 3]])
    states, _, _ = rnnx.recurrent_forward(cell, problem.x, problem.s0, problem.parameters, inputs=problem.extra)
    assert np.isfinite(states[0][:, 0]).all()
    assert np.isnan(states[0][:, 1:]).all()


# --- cells that pass values through -------------------------------------------------------------------------------


def through_forward(ops, zx, zh, s):
    """One state stays as it is, one side is saved unchanged, and one value is saved twice."""
    (a, b), (c, _), (_, q) = zx, zh, s
    n = ops.tanh(a + c)
    return (n, q), (s[0], b, n, n)


def through_backward(ops, ds, s_prev, s_next, saved):
    (dh, dq), n, twice = ds, saved[2], saved[3]
    dz, zero = dh - dh * n * twice, ops.zeros_like(dh)
    return (dz, zero), (dz, zero), (zero, dq)


def swap_forward(ops, zx, zh, s):
    return (s[1], s[0], zx[0] + zh[0]), (s[0],)


def swap_backward(ops, ds, s_prev, s_next, saved):
    return (ds[2],), (ds[2],), (ds[1], ds[0])


def behind_forward(ops, zx, zh, s):
    return (ops.tanh(s[2] + zx[0] + zh[0]), s[0]), ()


def behind_backward(ops, ds, s_prev, s_next, saved):
    dz, zero = ds[0] - ds[0] * s_next[0] * s_next[0], ops.zeros_like(ds[0])
    return (dz, zero), (dz, zero), (ds[1], zero, dz)


GATES = (rnnx.Gate(("W1",), "b1"), rnnx.Gate(("W2",), "b2", recurrent_bias="r2"))
PAIRS = (rnnx.Gate(("V1", "U1"), "c1", recurrent_bias="r1"), rnnx.Gate(("V2", "U2"), "c2"))
THROUGH = rnnx.Cell(
    "through",
    ("a", "q"),
    (rnnx.Stage(GATES, ("a", "q"), ("h", "z", "n", "m"), through_forward, through_backward, additive=False),),
)
SWAP = rnnx.Cell(
    "swap",
    ("a", "q"),
    (
        rnnx.Stage((rnnx.Gate(("W3",), "b3"),), ("x", "y", "z"), ("h",), swap_forward, swap_backward),
        rnnx.Stage(PAIRS, ("a", "q"), (), behind_forward, behind_backward),
    ),
)


@also_persistent
@pytest.mark.parametrize("lengths", [None, [4, 0, 2]])
@pytest.mark.parametrize("odd", [THROUGH, SWAP], ids=lambda cell: cell.name)
@pytest.mark.slow
def test_cells_that_pass_values_through(stream, odd, lengths, rng):
    """Results that are arguments, equal or zero; two stages, recurrent biases on some gates, separate weights."""
    problem = make_problem(odd, rng, 5, 6, 3, 4, lengths=lengths)
    problem.parameters |= {key: rng.standard_normal((6, 1)) for key in odd.optional_keys}
    with rnnx.use_engine("reference"):
        expected = results(problem)
    for _ in range(3):
        actual = results(problem)
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array, atol=1e-12, err_msg=name)


@also_persistent
@pytest.mark.parametrize("indices", [False, True])
@pytest.mark.parametrize("cell", [*BUILT_IN.values(), SWAP, *ONE_SIDED], ids=lambda cell: cell.name)
def test_caches_in_another_dtype(stream, cell, indices, rng):
    """float64 cotangents of a float32 pass: the backward pass unpacks the packed parameters, and packs them again."""
    problem = make_problem(cell, rng, 5, 6, 3, 4)
    problem.parameters |= {key: rng.standard_normal((6, 1)) for key in cell.optional_keys}
    narrow = problem.astype("float32")
    if indices:
        narrow.x = rng.integers(0, 5, (3, 4))

    def gradients():
        _, _, caches = rnnx.recurrent_forward(cell, narrow.x, narrow.s0, narrow.parameters, inputs=narrow.extra)
        return rnnx.recurrent_backward(cell, problem.dstates, caches, ds_final=problem.dfinal)

    actual = [gradients() for _ in range(3)][-1]
    with rnnx.use_engine("reference"):
        expected = gradients()
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert actual[name].dtype == np.float64
        assert_close(actual[name], array, 1e-5, name)


# --- cells with one-sided gates, vectors and extra inputs ---------------------------------------------------------


def weighted_forward(ops, zx, zh, s, given):
    (a, c), (v, e) = s, given
    return (a * v + e, c), ()


def weighted_backward(ops, ds, s_prev, s_next, saved, given):
    (dw, dc), (a, _), (v, _) = ds, s_prev, given
    return (), (), (dw * v, dc), (dw * a, dw)


def recurrent_only_forward(ops, zx, zh, s):
    (p, q), (w, c) = zh, s
    return (ops.tanh(p + c), w * q), (q,)


def recurrent_only_backward(ops, ds, s_prev, s_next, saved):
    (da, dc), (w, _), (a, _), (q,) = ds, s_prev, s_next, saved
    dp = da - da * a * a
    return (), (dp, dc * w), (dc * q, dp)


# No gate reads x, and one stage has no gate at all.
UNFED = rnnx.Cell(
    "unfed",
    ("a", "c"),
    (
        rnnx.Stage((), ("w", "ct"), (), weighted_forward, weighted_backward, vectors=("v",), inputs=("e",)),
        rnnx.Stage(
            tuple(rnnx.Gate((key,), "", sides="h") for key in ("U1", "U2")), ("a", "c"), ("q",),
            recurrent_only_forward, recurrent_only_backward,
        ),
    ),
)  # fmt: skip
UNFED_SPLIT = dataclasses.replace(  # in the memory layout of stages that are not additive
    UNFED, name="unfed split", stages=(UNFED.stages[0], dataclasses.replace(UNFED.stages[1], additive=False))
)
odd_cells = pytest.mark.parametrize("odd", [*ONE_SIDED, UNFED, UNFED_SPLIT], ids=lambda cell: cell.name)
fed_cells = pytest.mark.parametrize("odd", ONE_SIDED, ids=lambda cell: cell.name)


def agrees_past_the_ends(stream, problem):
    """Compare with the reference engine: uncaptured, captured and replayed, with NaN past the ends of all arrays."""
    lengths, indexed = problem.lengths or (), problem.x.ndim == 2
    with rnnx.use_engine("reference"):
        expected = results(problem)
    for array in (problem.x, *problem.extra.values(), *problem.dstates):
        for j, length in enumerate(lengths):
            array[..., j, length:] = 3 if array is problem.x and indexed else np.nan
    for _ in range(3):
        actual = results(problem)
        for name, array in expected.items():
            assert_close(actual[name], array, 1e-13, name)
    assert stream.log.count("graph") == 2
    for j, length in enumerate(lengths):
        assert not any(actual["d" + name][:, j, length:].any() for name in problem.extra)


@also_persistent
@pytest.mark.parametrize("lengths", [None, [4, 0, 2]])
@odd_cells
def test_one_sided_cells_agree_with_the_reference_engine(stream, odd, lengths, rng):
    agrees_past_the_ends(stream, make_problem(odd, rng, 5, 6, 3, 4, lengths=lengths))


@also_persistent
@pytest.mark.parametrize("lengths", [None, [4, 0, 2]])
@fed_cells
def test_index_inputs_of_one_sided_cells(stream, odd, lengths, rng):
    problem = make_problem(odd, rng, 5, 6, 3, 4, lengths=lengths)
    problem.x = rng.integers(0, 5, (3, 4))
    agrees_past_the_ends(stream, problem)


@also_persistent
@odd_cells
def test_shortened_backward_passes_of_one_sided_cells(stream, odd, rng):
    problem = make_problem(odd, rng, 5, 6, 3, 4, lengths=[4, 0, 3])

    def gradients():
        _, _, caches = problem.forward()
        return rnnx.recurrent_backward(odd, [d[:, :, :2] for d in problem.dstates], caches)

    with rnnx.use_engine("reference"):
        expected = gradients()
    for _ in range(3):
        actual = gradients()
        assert list(actual) == list(expected)
        for name, array in expected.items():
            assert_close(actual[name], array, 1e-13, name)
    assert all(actual["d" + name].shape == (6, 3, 2) for name in odd.inputs)


@also_persistent
@odd_cells
def test_gradients_of_extra_inputs_belong_to_the_caller(stream, odd, rng):
    problems = [make_problem(odd, rng) for _ in range(2)]
    for _ in range(3):
        kept = results(problems[0])
        before = {name: array.copy() for name, array in kept.items()}
        results(problems[1])
        assert_same_bits(kept, before)


@odd_cells
def test_an_empty_pass_of_a_one_sided_cell(stream, odd, rng):
    """It runs on the reference engine."""
    problem = make_problem(odd, rng, n_steps=0)
    for name, array in results(problem).items():
        value = {"dx": problem.x, **{"d" + key: a for key, a in problem.inputs.items()}}.get(name)
        assert value is None or array.shape == value.shape, name


def check_stream(problem, states):
    """Compare a stream, which is run twice, with the states of the sequence."""
    steps = rnnx.Stream(problem.cell, problem.parameters, m=3, s0=problem.s0)
    for _ in range(2):
        for t in range(4):
            a = steps.step(problem.x[:, :, t], inputs={name: e[:, :, t] for name, e in problem.extra.items()})
            assert_close(a, states[0][:, :, t], 1e-14)
        steps.reset()


@fed_cells
def test_a_stream_of_a_one_sided_cell(stream, odd, rng):
    problem = make_problem(odd, rng, 5, 6, 3, 4)
    states, _, _ = problem.forward()
    check_stream(problem, states)


def test_the_launches_of_one_sided_cells(stream, rng):
    """No product for a side that no gate has."""
    # Per step forward and backward, and for the inputs, dx, the input weights and the recurrent weights.
    for odd, in_loop, others in ((ONE_SIDED[0], 0, 3), (ONE_SIDED[1], 1, 4), (UNFED, 1, 1)):
        stream.log.clear()
        results(make_problem(odd, rng, n_steps=7))
        assert stream.log.count("gemm") == 2 * 7 * in_loop + others


# --- cells with means over units ----------------------------------------------------------------------------------

mean_cells = pytest.mark.parametrize("odd", [*MEANS, UNUSED], ids=lambda cell: cell.name)


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("lengths", [None, [4, 0, 2]])
@mean_cells
def test_means_agree_with_the_reference_engine(stream, odd, lengths, indexed, rng):
    problem = make_problem(odd, rng, 5, 6, 3, 4, lengths=lengths)
    problem.parameters |= {key: rng.standard_normal((6, 1)) for key in odd.optional_keys}
    if indexed:
        problem.x = rng.integers(0, 5, (3, 4))
    agrees_past_the_ends(stream, problem)


def any_number():
    """Each cell with each number, in one of the dtypes in turn, and with loops and without in both."""
    looped = {300: "float64", 600: "float32"}
    for i, cell in enumerate([*MEANS, UNUSED]):
        for j, n in enumerate((1, 3, 31, 128, 129, 300, 600)):
            turn = ("float32", "float64")[(i + j) % 2]
            for dtype in dict.fromkeys((turn, looped.get(n, turn))):
                yield pytest.param(cell, n, dtype, id=f"{cell.name}-{n}-{dtype}")


@pytest.mark.parametrize(("odd", "n", "dtype"), [*any_number()])
def test_means_over_any_number_of_units(stream, odd, dtype, n, rng):
    """Those of more than 512 units, or 256 in float64, are computed in a loop."""
    problem = make_problem(odd, rng, 5, n, 3, 2, lengths=[2, 0, 1], scale=1 / n**0.5).astype(dtype)
    compare(problem, 10 * ENGINES_TOLERANCE[dtype])
    looped = n > {"float32": 512, "float64": 256}[dtype]
    assert ("forward_0_loop" in stream.log) == looped
    assert ("backward_0_loop" in stream.log) == (looped and odd is not UNUSED)


@pytest.mark.parametrize("n", [40, 300])
@mean_cells
def test_means_have_the_same_bits_for_any_order_of_threads(stream, odd, n, rng, monkeypatch):
    import emulated_engine

    problem = make_problem(odd, rng, 3, n, 3, 3, lengths=[3, 0, 2], scale=1 / n**0.5)
    expected = results(problem)
    for seed in (0, 2, 3):
        monkeypatch.setattr(emulated_engine, "SEED", seed)
        assert_same_bits(results(problem), expected)


@pytest.mark.parametrize("which", range(2))
def test_a_missing_barrier_of_the_means_is_detected(stream, which, rng, monkeypatch):
    problem = make_problem(NESTED, rng, 3, 40, 3, 3)
    expected = results(problem)
    text = read("means.cuh").split("__syncthreads();")
    assert len(text) == 3
    broken = "__syncthreads();".join((*text[:which], text[which] + text[which + 1], *text[which + 2 :]))
    common, own = codegen.sources(problem.cell)
    wrong = own.replace(read("means.cuh"), broken)
    assert wrong != own
    monkeypatch.setattr(launches, "sources", lambda cell: (common, wrong))
    monkeypatch.setattr(stream, "graphs", graphs.GraphCache(stream))
    actual = results(problem)
    assert any(not np.array_equal(actual[key], expected[key]) for key in expected)


@pytest.mark.parametrize("n", [33, 300])
@pytest.mark.parametrize("keep", [False, True])
@mean_cells
def test_a_stream_with_means(stream, odd, keep, n, rng):
    problem = make_problem(odd, rng, 5, n, 3, 4, scale=1 / n**0.5)
    options = {"inputs": problem.extra, "keep_caches": keep}
    states, _, _ = rnnx.recurrent_forward(odd, problem.x, problem.s0, problem.parameters, **options)
    check_stream(problem, states)


def test_many_means(stream, rng):
    """More than are added up at once, and some that only unused values need."""

    def forward(ops, zx, zh, s):
        (a,) = s
        total = zx[0] + zh[0]
        for k in range(1, 20):
            total = total + ops.tanh(ops.mean(a * k)) * a
        ops.exp(ops.mean(total))
        return (ops.tanh(total),), ()

    problem = make_problem(
        rnnx.Cell("many", ("a",), (rnnx.Stage((rnnx.Gate(("W",), "b"),), ("a",), (), forward),)), rng
    )
    agrees_past_the_ends(stream, problem)


def test_means_that_nothing_uses(stream, rng):
    def forward(ops, zx, zh, s):
        ops.mean(s[0])
        return (ops.tanh(zx[0] + zh[0]),), ()

    problem = make_problem(
        rnnx.Cell("unused", ("a",), (rnnx.Stage((rnnx.Gate(("W",), "b"),), ("a",), (), forward),)), rng
    )
    agrees_past_the_ends(stream, problem)


# --- layout kernels -----------------------------------------------------------------------------------------------


def launcher(stream):
    return launches.Launcher(stream, rnnx.CELLS["rnn"], np.dtype("float64"))


@pytest.mark.parametrize("shape", [(1, 1, 1), (33, 2, 40), (70, 3, 5), (5, 1, 65)])
@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
@pytest.mark.parametrize("lengths", [False, True])
def test_copies(stream, shape, order, lengths, rng):
    """To time-major memory, with zeros past each length, and back, to any order, in one launch each."""
    n, m, n_steps = shape
    base = rng.standard_normal([shape[i] for i in order]).transpose(np.argsort(order))
    assert base.shape == shape
    back = [np.empty_like(base) for _ in range(2)]
    ends = rng.integers(0, n_steps + 1, m)
    target = Arena(stream, dict.fromkeys(("rows", "zeros"), ((n_steps, m, n), base.dtype)))
    numbers = copies.Numbers()
    given, of_lengths, *results = (numbers.array(count) for count in (3, 1, 3, 3))
    rows, zeros = (copies.End.time_major(a, (n_steps, m, n), base.dtype) for a in target.addresses.values())
    to_rows = copies.Copy(given, rows, shape, lengths=of_lengths.address if lengths else 0)
    others = [copies.Copy(copies.End(0), zeros, shape), copies.Copy(given, results[0], shape)]
    transfer = copies.Transfer(
        stream, launcher(stream).launch, numbers, [to_rows, *others], [], [copies.Copy(rows, results[1], shape)]
    )
    transfer.send([number for array in (base, ends, *back) for number in stream.place(array)])
    for group in range(3):
        transfer.copy(group)
    expected = base.transpose(2, 1, 0).copy()
    if lengths:
        expected[np.arange(n_steps)[:, None] >= ends] = 0
    np.testing.assert_array_equal(target.array("rows"), expected)
    np.testing.assert_array_equal(target.array("zeros"), np.zeros_like(expected))
    np.testing.assert_array_equal(back[0], base)
    np.testing.assert_array_equal(back[1], expected.transpose(2, 1, 0))
    assert stream.log == ["send", "copy", "copy"]


def test_copies_of_examples_by_length(stream, rng):
    """Of those with steps, or of those without, between numbers in memory and in registers."""
    lengths, m, n = np.array([2, 0, 1]), 3, 40
    source, numbers = rng.standard_normal((m, n)).astype(np.float16), copies.Numbers()
    single = launches.Launcher(stream, rnnx.CELLS["rnn"], np.dtype("float16")).launch
    wide, back = np.full((m, n), 7, np.float32), np.full((m, n), 7, np.float16)
    ends = [copies.End.time_major(a.ctypes.data, a.shape, a.dtype) for a in (source, wide, back)]
    rules = {"lengths": lengths.ctypes.data, "rule": copies.NOT_EMPTY}
    there = copies.Copy(*ends[:2], (n, m, 1), copies.TO_REAL, **rules)
    and_back = copies.Copy(*ends[1:], (n, m, 1), copies.FROM_REAL, lengths.ctypes.data, copies.EMPTY)
    transfer = copies.Transfer(stream, single, numbers, [there], [and_back])
    transfer.send([])
    transfer.copy(0)
    np.testing.assert_array_equal(wide, np.where(lengths[:, None] > 0, source, 7))
    wide += 1
    transfer.copy(1)
    np.testing.assert_array_equal(back, np.where(lengths[:, None] > 0, 7, wide))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 33), (512, 3), (1300, 40)])
def test_sums(stream, rows, columns, rng):
    a = rng.standard_normal((rows, columns + 3))
    matrix = Matrix(a.ctypes.data, rows, columns, columns + 3, a.dtype)
    target = Arena(stream, {"sums": ((columns,), a.dtype), "scattered": ((columns, 9), a.dtype)})
    partial = Arena(stream, {"sums": (launches.partial_sums(rows, columns), a.dtype)})
    launcher(stream).sum_columns(matrix, target.addresses["sums"], partial.addresses["sums"])
    assert_close(target.array("sums"), a[:, :columns].sum(axis=0), 1e-14)
    index = rng.integers(0, 6, rows)
    wide = target.matrix("scattered").block(0, columns, 2, 6)
    launcher(stream).scatter_add(matrix, index.ctypes.data, wide)
    assert_close(target.array("scattered")[:, 2:8], a[:, :columns].T @ np.eye(6)[index], 1e-14)
    assert np.isnan(target.array("scattered")[:, [0, 1, 8]]).all()


@pytest.mark.parametrize(("r", "k", "c"), [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 1)])
def test_products_of_any_memory_order(stream, r, k, c, rng):
    from emulated_engine import ENGINE

    def orders(a):
        wide = np.zeros((a.shape[0], 2 * a.shape[1]))
        wide[:, ::2] = a
        return [a, np.asfortranarray(a), wide[:, ::2], np.ascontiguousarray(a[::-1])[::-1], np.pad(a, 1)[1:-1, 1:-1]]

    a, b, bias = rng.standard_normal((r, k)), rng.standard_normal((k, c)), rng.standard_normal(c)
    for left, right in itertools.product(orders(a), orders(b)):
        np.testing.assert_allclose(ENGINE.matmul(left, right, bias), a @ b + bias, rtol=1e-13)
    assert ENGINE.matmul(a, b).flags.c_contiguous
    whole = np.ones((r, k), np.int64), np.ones((k, c), np.int64)
    np.testing.assert_array_equal(ENGINE.matmul(*whole), np.full((r, c), k), strict=True)


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize(("r", "k", "c"), [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1)])
def test_stacks_of_products_of_any_memory_order(stream, m, r, k, c, rng):
    from emulated_engine import ENGINE

    def orders(a):
        wide = np.zeros((m, 2, *a.shape[1:]))
        wide[:, 0] = a
        every_second = np.repeat(a, 2, axis=2)[..., ::2]
        reversed_axes = np.ascontiguousarray(a.transpose(2, 1, 0)).transpose(2, 1, 0)
        return [a, np.ascontiguousarray(a.swapaxes(1, 2)).swapaxes(1, 2), wide[:, 0], every_second, reversed_axes]

    a, b = rng.standard_normal((m, r, k)), rng.standard_normal((m, k, c))
    for left, right in itertools.product(orders(a), orders(b)):
        stream.log.clear()
        np.testing.assert_allclose(ENGINE.matmul(left, right), a @ b, rtol=1e-12, atol=1e-14)
        assert stream.log == ["gemm"]
    assert ENGINE.matmul(a[:0], b[:0]).shape == (0, r, c)


# --- code generation ----------------------------------------------------------------------------------------------


@any_cell
def test_kernels_are_traced_from_the_cell(cell):
    """Changed mathematics change the cell's own kernels only, and no expression is computed twice."""
    stage = cell.stages[-1]

    def other(ops, *arguments):
        leaving, saved = stage.forward(ops, *arguments)
        return (ops.tanh(leaving[0]), *leaving[1:]), saved

    changed = dataclasses.replace(cell, stages=(*cell.stages[:-1], dataclasses.replace(stage, forward=other)))
    assert codegen.sources(changed)[1] != codegen.sources(cell)[1]
    assert codegen.sources(changed)[0] == codegen.sources(cell)[0]
    traced, _, _ = trace.trace_forward(wiring(cell)[0])
    expressions = [line.split(" = ")[1] for line in traced.lines]
    assert len(set(expressions)) == len(expressions)


def test_kernel_arguments_are_bound_by_name():
    kernel = declared(read("layout.cu"), "scatter_add")
    values = {name: i for i, name in enumerate(reversed(kernel.names))}
    assert kernel.bind(values) == [*reversed(range(len(kernel.names)))]
    for wrong in (values | {"extra": 1}, {key: value for key, value in values.items() if key != "index"}):
        with pytest.raises(TypeError, match="scatter_add has parameters"):
            kernel.bind(wrong)


def test_untraceable_operations_raise():
    traced = trace.Trace()
    (x,), ops = traced.symbols("x", 1), traced.ops()
    condition = ops.greater(x, 0.0)
    wrong = [
        lambda: bool(x), lambda: bool(condition), lambda: np.tanh(x), lambda: x + "1", lambda: condition * x,
        lambda: ops.where(x, x, x), lambda: ops.tanh(1.0), lambda: ops.maximum(1.0, 2.0),
        lambda: ops.greater(1.0, 2.0), lambda: ops.where(condition, 1.0, 2.0),
    ]  # fmt: skip
    for call in wrong:
        with pytest.raises(TypeError):
            call()


def test_numbers_in_expressions():
    """They are exact, and equal expressions still share a variable."""
    traced = trace.Trace()
    (x,), ops = traced.symbols("x", 1), traced.ops()
    assert (1 / 3 * x).name == (1 / 3 * x).name
    assert [(-x).name, (2 - x).name, (x / -0.0).name, abs(x).name] == ["v1", "v2", "v3", "v4"]
    assert [ops.where(ops.greater(x, 1e300), x, 5).name, ops.where(ops.greater(x, 1e300), x, 5.0).name] == ["v6"] * 2
    assert ops.constant(0, x).name == ops.zeros_like(x).name == trace.ZERO
    assert ops.constant(-2.5, x).name == "real(-2.5)"
    (x * float("inf"), x * float("nan"), 1e16 + x)
    assert [line.split(" = ")[1] for line in traced.lines] == [
        f"real({1 / 3!r}) * x0;", "-x0;", "real(2.0) - x0;", "x0 / real(-0.0);", "op_abs(x0);", "x0 > real(1e+300);",
        "v5 ? x0 : real(5.0);", "x0 * (real(1.0) / real(0));", 'x0 * real(nanf(""));', "real(1e+16) + x0;",
    ]  # fmt: skip
    assert traced.lines[5] == "const bool v5 = x0 > real(1e+300);"
