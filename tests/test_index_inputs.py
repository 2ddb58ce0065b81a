"""Index inputs give the same results as one-hot columns, which are never built."""

import dataclasses
import functools
import re
import tracemalloc

import numpy as np
import pytest
from conftest import PATHS, to_numpy
from hypothesis import given
from hypothesis import strategies as st
from problems import ENGINES_TOLERANCE, assert_close, central_differences, check_gradients, make_problem, run

import rnnx
from rnnx._core.inputs import is_index_input
from rnnx.cells import BUILT_IN
from rnnx.engines.cpu.runtime.thread_policy import use_policy

CLOSE = {"float32": ENGINES_TOLERANCE["float32"], "float64": 1e-13}


def one_hot(indices, n_x):
    """Convert indices (m, T) to one-hot columns (n_x, m, T)."""
    return (np.arange(n_x)[:, None, None] == indices).astype(float)


def make_problems(cell, rng, n_x=7, n_a=6, m=4, n_steps=5, *, dtype="float64", **options):
    """Return the same problem with one-hot columns and with indices."""
    problem = make_problem(cell, rng, n_x, n_a, m, n_steps, **options)
    indices = rng.integers(0, n_x, (m, n_steps))
    problem.x = one_hot(indices, n_x)
    problem = problem.astype(dtype)
    return problem, dataclasses.replace(problem, x=indices)


def assert_same(actual, expected, tolerance):
    assert list(actual) == [name for name in expected if name != "dx"]
    for name, array in actual.items():
        assert_close(to_numpy(array), expected[name], tolerance, name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "options",
    [{}, {"lengths": [3, 0, 5, 4]}, {"da_steps": 3, "final": False}, {"n_a": 37, "m": 1}],
    ids=["reference", "lengths", "short", "one example"],
)
def test_same_as_one_hot_columns(engine, cell, dtype, options, rng):
    columns, indices = make_problems(cell, rng, n_y=3, scale=0.5, dtype=dtype, **options)
    expected, actual = run(columns)[0], run(indices)[0]
    assert {str(a.dtype) for a in actual.values()} == {dtype}
    assert_same(actual, expected, CLOSE[dtype])


@functools.cache
def make_case(cell, lengths):
    """A problem of indices, its loss, and numeric gradients by name."""
    rng = np.random.default_rng(1)
    _, problem = make_problems(cell, rng, 3, 3, 3, 4, lengths=lengths and list(lengths))
    problem.parameters |= {key: rng.standard_normal((3, 1)) for key in cell.optional_keys}
    return problem, *central_differences(problem)


@pytest.mark.parametrize("lengths", [None, (2, 0, 4)])
def test_numeric_gradients(engine, cell, lengths):
    check_gradients(*make_case(cell, lengths), f"{cell.name} {engine}")


@given(data=st.data())
def test_any_shape_dtype_and_order(data):
    """The CPU engine on indices against the reference engine on one-hot columns."""
    cell = rnnx.CELLS[data.draw(st.sampled_from(list(BUILT_IN)), label="cell")]
    sizes = [data.draw(st.integers(low, high), label=k) for k, low, high in (("x", 1, 40), ("a", 1, 20), ("m", 0, 9))]
    n_steps = data.draw(st.integers(0, 60), label="T")
    dtype = data.draw(st.sampled_from(["float32", "float64"]), label="dtype")
    lengths = data.draw(
        st.none() | st.lists(st.integers(0, n_steps), min_size=sizes[2], max_size=sizes[2]), label="lengths"
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 99), label="seed"))
    columns, indices = make_problems(cell, rng, *sizes, n_steps, dtype=dtype, scale=0.5, lengths=lengths)
    kind = data.draw(st.sampled_from(["int8", "uint8", "int16", "int32", "int64", "uint64"]), label="integers")
    order = data.draw(st.sampled_from("CF"), label="order")
    indices.x = np.array(indices.x, kind, order=order)
    if data.draw(st.booleans(), label="reversed"):
        indices.x = np.array(indices.x[:, ::-1], order=order)[:, ::-1]
    before = indices.x.copy()
    with rnnx.use_engine("reference"):
        expected, _ = run(columns)
    actual, _ = run(indices)
    np.testing.assert_array_equal(indices.x, before)
    # Parameter gradients are compared as one vector, because the terms of a single bias may cancel.
    weights = ["d" + key for key in cell.parameter_keys]
    for names in (weights, *([name] for name in actual if name not in weights)):
        got, want = (np.concatenate([results[name].ravel() for name in names]) for results in (actual, expected))
        assert_close(got, want, ENGINES_TOLERANCE[dtype], str(names))


@pytest.mark.slow
def test_sizes_beyond_every_block(engine, cell, rng):
    """Sizes above KC, MC and NC of the products, and above the block of the scatter-add."""
    columns, indices = make_problems(
        cell, rng, 390, 110, 100, 5, dtype="float32", scale=0.1, lengths=list(rng.integers(0, 6, 100))
    )
    assert_same(run(indices)[0], run(columns)[0], 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lengths", [None, [i % 7 for i in range(23)]], ids=["whole", "lengths"])
def test_thread_policies_give_the_same_bits(cell, dtype, lengths, rng):
    _, problem = make_problems(cell, rng, 13, 150, 23, 6, dtype=dtype, scale=0.3, lengths=lengths)
    results = {}
    for path, split in PATHS.items():
        with rnnx.use_engine("cpu"), use_policy(split):
            results[path], _ = run(problem)
    for path in ("batch_parallel", "unit_parallel"):
        assert all(np.array_equal(results["alone"][name], a) for name, a in results[path].items()), path


@pytest.mark.parametrize(("name", "lengths"), [("rnn", None), ("gru", [2, 0, 3])])
def test_every_runtime(runtime, name, lengths, rng):
    columns, indices = make_problems(rnnx.CELLS[name], rng, m=3, n_steps=3, n_y=2, lengths=lengths)
    with rnnx.use_engine("reference"):
        expected, _ = run(columns)
    with runtime.use():
        actual, caches = run(indices, runtime.asarray)
    assert caches.engine == runtime.engine
    assert all(type(a) is type(runtime.asarray(columns.x)) for a in actual.values())
    assert_same(actual, expected, CLOSE["float64"])


@pytest.mark.slow
def test_under_jax_jit(rng):
    jax = pytest.importorskip("jax")
    columns, indices = make_problems(rnnx.CELLS["rnn"], rng, n_steps=2)

    @jax.jit
    def step(x, parameters, da):
        states, _, caches = rnnx.recurrent_forward("rnn", x, (), parameters)
        return states[0], rnnx.recurrent_backward("rnn", (da,), caches)

    results = [step(p.x, p.parameters, p.dstates[0]) for p in (indices, columns)]
    assert_close(results[0][0], results[1][0], 1e-13)
    assert_same(results[0][1], results[1][1], 1e-13)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_course_functions(name, engine, rng):
    columns, indices = make_problems(rnnx.CELLS[name], rng, n_y=2)
    forward, backward = (getattr(rnnx, f"{name}_{kind}") for kind in ("forward", "backward"))
    results, keys = [], []
    for p in (columns, indices):
        *outputs, caches = forward(p.x, p.s0[0], p.parameters)
        gradients = backward(p.dstates[0], caches)
        keys.append(list(gradients))
        results.append([*outputs, *(g for key, g in gradients.items() if key != "dx")])
    assert keys[1] == [key for key in keys[0] if key != "dx"]
    for got, want in zip(results[1], results[0], strict=True):
        assert_close(got, want, 1e-13)


def test_caches_show_the_indices(engine, rng):
    _, problem = make_problems(rnnx.CELLS["lstm"], rng)
    *_, caches = rnnx.lstm_forward(problem.x, None, problem.parameters)
    steps, x = caches
    assert x is problem.x
    np.testing.assert_array_equal(steps[2][-2], problem.x[:, 2])
    assert len(steps) == 5
    for how in (caches, (steps, x)):
        assert "dx" not in rnnx.lstm_backward(problem.dstates[0], how)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "gru_reset_after"])
def test_a_step_of_the_caches_goes_back_alone(name, engine, rng):
    """Its gradients are those of the same step on one-hot columns, without dxt."""
    cell = rnnx.CELLS[name]
    columns, indices = make_problems(cell, rng)
    course, options = name.removesuffix("_reset_after"), {"reset_after": True} if "after" in name else {}
    backward, cell_backward = (getattr(rnnx, f"{course}_{kind}") for kind in ("backward", "cell_backward"))
    found = []
    for p in (columns, indices):
        _, _, (steps, x) = rnnx.recurrent_forward(cell, p.x, p.s0, p.parameters)
        whole = backward(p.dstates[0], ([*steps], x), **options)
        found.append(
            [cell_backward(*p.dfinal, steps[2], **options), whole, backward(p.dstates[0], ([*steps], None), **options)]
        )
    for with_columns, with_indices in zip(*found, strict=True):
        assert [*with_indices] == [key for key in with_columns if key not in ("dx", "dxt")]
        for key, gradient in with_indices.items():
            assert_close(gradient, with_columns[key], 1e-12, key)


def test_wrong_steps_of_index_inputs(rng):
    columns, indices = make_problems(rnnx.CELLS["lstm"], rng)
    *_, (steps, x) = rnnx.lstm_forward(indices.x, None, indices.parameters)
    *_, (others, _) = rnnx.lstm_forward(columns.x, None, indices.parameters)
    with pytest.raises(ValueError, match="or all indices of shape"):
        rnnx.lstm_backward(indices.dstates[0], ([steps[0], others[1]], None))
    with pytest.raises(ValueError, match=r"`caches` must have one cache per step of `x`, .* \(4, 5\); got 2"):
        rnnx.lstm_backward(indices.dstates[0], ([*steps[:2]], x))
    with pytest.raises(ValueError, match=r"`x` must be in \[0, n_x\)"):
        rnnx.lstm_cell_backward(indices.s0[0], indices.s0[1], (*steps[0][:-2], x[:, 0] + 99, indices.parameters))


def test_x_may_change_before_backward(engine, cell, rng):
    _, problem = make_problems(cell, rng, n_x=300)
    expected, _ = run(problem)
    for order in "CF":
        x = np.array(problem.x, np.int64, order=order)
        *_, caches = rnnx.recurrent_forward(cell, x, problem.s0, problem.parameters)
        x[...] = 0
        gradients = rnnx.recurrent_backward(cell, problem.dstates, caches, ds_final=problem.dfinal)
        assert all(np.array_equal(gradient, expected[name]) for name, gradient in gradients.items())


def test_indices_past_the_end_are_ignored(engine, cell, rng):
    _, problem = make_problems(cell, rng, lengths=[3, 0, 5, 4])
    expected, _ = run(problem)
    here = np.arange(5) < np.array(problem.lengths)[:, None]
    problem.x = np.where(here, problem.x, [[-1], [10**12], [0], [-(2**60)]])
    actual, _ = run(problem)
    assert all(np.array_equal(array, expected[name]) for name, array in actual.items())


def test_cotangents_of_another_dtype(engine, cell, rng):
    """Float64 cotangents make backward compute in float64; the indices stay integers."""
    columns, indices = make_problems(cell, rng, dtype="float32")
    for problem in (columns, indices):
        problem.dstates = [d.astype("float64") for d in problem.dstates]
    expected, actual = run(columns)[0], run(indices)[0]
    assert actual["da0"].dtype == "float64"
    assert_same(actual, expected, CLOSE["float32"])


def test_without_caches(engine, cell, rng):
    columns, indices = make_problems(cell, rng, lengths=[3, 0, 5, 4])
    (a, *_), _, caches = rnnx.recurrent_forward(
        cell, indices.x, indices.s0, indices.parameters, lengths=indices.lengths, keep_caches=False
    )
    results, _ = run(columns)
    assert_close(a, results["a"], 1e-13)
    assert_close(caches.final_state["a"], results["final a"], 1e-13)
    with pytest.raises(ValueError, match="keep_caches=False"):
        rnnx.recurrent_backward(cell, indices.dstates, caches)


def test_backward_on_another_engine(cell, rng):
    _, problem = make_problems(cell, rng)
    results = []
    for engines in (("reference", "cpu"), ("cpu", "reference")):
        with rnnx.use_engine(engines[0]):
            *_, caches = rnnx.recurrent_forward(cell, problem.x, problem.s0, problem.parameters)
        with rnnx.use_engine(engines[1]):
            results.append(rnnx.recurrent_backward(cell, problem.dstates, caches))
    assert_same(*results, 1e-13)


@pytest.mark.parametrize(("m", "n_steps"), [(0, 3), (2, 0), (1, 1)])
def test_empty_and_minimal(m, n_steps, cell, engine, rng):
    columns, indices = make_problems(cell, rng, 1, 1, m, n_steps)
    assert_same(run(indices)[0], run(columns)[0], 1e-13)


def test_no_one_hot_matrix_is_built(rng):
    """A pass needs less memory than the one-hot columns alone, 20 MB in float32."""
    _, problem = make_problems(rnnx.CELLS["rnn"], rng, 5000, 3, 20, 50, dtype="float32", n_y=None)
    with rnnx.use_engine("cpu"):
        run(problem)
        tracemalloc.start()
        run(problem)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 4e6


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([[0, 1], [7, 2]], "`x` must be in [0, n_x) = [0, 7); got values from 0 to 7"),
        ([[0, -1], [3, 2]], "`x` must be in [0, n_x) = [0, 7); got values from -1 to 3"),
        (np.array([[2**63, 0]], np.uint64), f"`x` must be in [0, n_x) = [0, 7); got values from {-(2**63)} to 0"),
        (
            [[0.0, 1.0]],
            "`x` must have shape (n_x, m, T_x), or (m, T_x) for integer indices; got (1, 2)",
        ),
        ([[True]], "`x` must have shape (n_x, m, T_x), or (m, T_x) for integer indices"),
        ([0, 1], "`x` must have shape (n_x, m, T_x), or (m, T_x) for integer indices"),
    ],
)
def test_messages(x, message, engine):
    p = rnnx.initialize_parameters("lstm", 7, 5, seed=0)
    with pytest.raises(ValueError, match=re.escape(message)):
        rnnx.lstm_forward(np.asarray(x), None, p)


def test_messages_about_other_arguments(rng):
    x = rng.integers(0, 7, (4, 6))
    p = rnnx.initialize_parameters("lstm", 7, 5, seed=0)

    def check(message, **changes):
        with pytest.raises(ValueError, match=re.escape(message)):
            rnnx.lstm_forward(x, changes.pop("a0", None), p | changes.pop("p", {}), **changes)

    check("`Wf` must have shape (n_a, n_a + n_x) = (5, 12); got (5, 11)", p={"Wf": np.zeros((5, 11))})
    none = {key: np.zeros((5, 5)) for key in ("Wf", "Wi", "Wc", "Wo")}
    check("`Wf` must have shape (n_a, n_a + n_x) with n_x >= 1; got (5, 5)", p=none)
    check("`a0` must have shape (n_a, m) = (5, 4); got (5, 3)", a0=np.zeros((5, 3)))
    check("`lengths` must have shape (m,) = (4,); got (7,)", lengths=[1] * 7)
    check("`lengths` must be in [0, T_x] = [0, 6]; got values from 1 to 7", lengths=[1, 2, 3, 7])


def test_one_rule_for_index_inputs():
    """Only integers are indices; booleans and floats are not, nor are other numbers of axes."""
    shapes = {(3, 4): False, (3,): True}
    for dtype in (int, np.uint8, bool, float):
        for shape in (*shapes, (), (2, 3, 4)):
            for one_step in (False, True):
                expected = np.issubdtype(dtype, np.integer) and shapes.get(shape) is one_step
                assert is_index_input(np, np.zeros(shape, dtype), one_step=one_step) == expected
