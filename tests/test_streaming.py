"""Streams give the same values as the sequence functions, one step at a time."""

from contextlib import nullcontext

import numpy as np
import pytest
from conftest import to_numpy
from hypothesis import given
from hypothesis import strategies as st
from problems import ENGINES_TOLERANCE, assert_close, make_problem
from workers import used_by_others

import rnnx
from rnnx.cells import BUILT_IN
from rnnx.engines.cpu.runtime import thread_policy


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps_equal_the_sequence(runtime, cell, dtype, rng):
    problem = make_problem(cell, rng, 5, 6, 4, 7, n_y=3, scale=0.5).astype(dtype)
    with rnnx.use_engine("reference"):
        states, _, caches = rnnx.recurrent_forward(cell, problem.x, problem.s0, problem.parameters)
    parameters = {key: runtime.asarray(p) for key, p in problem.parameters.items()}
    with runtime.use():
        stream = rnnx.Stream(cell, parameters, m=4, s0=[runtime.asarray(s) for s in problem.s0])
    assert stream.engine == runtime.engine
    for p in parameters.values():  # the stream holds copies
        if runtime.xp is np and not runtime.readonly:
            p[...] = 0
    for _ in range(2):
        before = None
        for t in range(7):
            a = stream.step(runtime.asarray(problem.x[:, :, t]))
            assert_close(to_numpy(a), states[0][:, :, t], ENGINES_TOLERANCE[dtype], f"step {t}")
            if before is not None:  # a result stays valid for one more step
                assert_close(to_numpy(before), states[0][:, :, t - 1], ENGINES_TOLERANCE[dtype], f"step {t - 1}")
            before = a
        for name, state in stream.states.items():
            assert_close(to_numpy(state), caches.final_state[name], ENGINES_TOLERANCE[dtype], name)
        stream.reset()


@given(name=st.sampled_from(list(BUILT_IN)), n_x=st.integers(1, 40), n_a=st.integers(1, 200), m=st.integers(1, 5))
def test_any_shape(name, n_x, n_a, m):
    problem = make_problem(rnnx.CELLS[name], np.random.default_rng(n_a), n_x, n_a, m, 3, scale=0.3)
    with rnnx.use_engine("reference"):
        (a, *_), _, _ = rnnx.recurrent_forward(name, problem.x, (), problem.parameters)
    stream = rnnx.Stream(name, problem.parameters, m=m)
    for t in range(3):
        assert_close(stream.step(problem.x[:, :, t]), a[:, :, t], 1e-13)


def test_large_steps_on_several_threads(cell, rng):
    """The same bits, whether the thread pool is free or not."""
    problem = make_problem(cell, rng, 9, 300, 2, 5, scale=0.1).astype("float32")
    with thread_policy.use_policy(lambda work: (1, False)):
        alone = rnnx.Stream(cell, problem.parameters, m=2)
    with thread_policy.use_policy(lambda work: (3, True)):
        shared = rnnx.Stream(cell, problem.parameters, m=2)
        for t in range(5):
            expected = alone.step(problem.x[:, :, t]).copy()
            with used_by_others() if t == 3 else nullcontext():
                np.testing.assert_array_equal(shared.step(problem.x[:, :, t]), expected)


def test_state_is_a_copy(engine, rng):
    problem = make_problem(rnnx.CELLS["lstm"], rng, 3, 4, 2, 3)
    stream = rnnx.Stream("lstm", problem.parameters, m=2)
    stream.step(problem.x[:, :, 0])
    state = stream.states
    kept = {name: s.copy() for name, s in state.items()}
    for s in state.values():
        s[...] = np.nan
    np.testing.assert_array_equal(stream.states["c"], kept["c"])
    resumed = rnnx.Stream("lstm", problem.parameters, m=2, s0=(kept["a"], kept["c"]))
    np.testing.assert_array_equal(resumed.step(problem.x[:, :, 1]), stream.step(problem.x[:, :, 1]))


def test_results_of_the_cpu_engine_are_read_only(rng):
    problem = make_problem(rnnx.CELLS["gru"], rng, 3, 4, 2, 3)
    with rnnx.use_engine("cpu"):
        stream = rnnx.Stream("gru", problem.parameters, m=2)
    with pytest.raises(ValueError, match="read-only"):
        stream.step(problem.x[:, :, 0])[...] = 0


def test_initial_state_is_a_copy(engine, rng):
    problem = make_problem(rnnx.CELLS["rnn"], rng, 3, 4, 2, 3)
    a0 = problem.s0[0].copy()
    stream = rnnx.Stream("rnn", problem.parameters, m=2, s0=(a0,))
    a0[...] = np.nan
    assert np.isfinite(stream.step(problem.x[:, :, 0])).all()


def test_steps_allocate_no_arrays(rng):
    import tracemalloc

    problem = make_problem(rnnx.CELLS["lstm"], rng, 30, 400, 1, 1)
    stream, xt = rnnx.Stream("lstm", problem.parameters), np.ascontiguousarray(problem.x[:, :1, 0])
    stream.step(xt)
    tracemalloc.start()
    stream.step(xt)
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(100):
        stream.step(xt)
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - before < 400 * 8, "a step allocated an array"
    assert after - before < 200


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (("lstn",), {}, "`cell` must be a Cell, or the name of one in rnnx.CELLS"),
        ((), {"m": 0}, "`m` must be an integer of at least 1; got 0"),
        ((), {"s0": (np.zeros((4, 2)),)}, r"`a0` must have shape \(n_a, m\) = \(4, 1\); got \(4, 2\)"),
        ((), {"s0": 3}, "`s0` must be a tuple with one array per state"),
        ((), {"s0": (None,) * 3}, "`s0` must have at most one array per state"),
        ((), {"Wf": np.zeros((4, 4))}, r"`Wf` must have shape \(n_a, n_a \+ n_x\) with n_x >= 1; got \(4, 4\)"),
        ((), {"Wi": np.zeros((4, 8))}, r"`Wi` must have shape \(n_a, n_a \+ n_x\) = \(4, 7\); got \(4, 8\)"),
        ((), {"Wq": np.zeros((4, 8))}, "unknown key 'Wq'"),
    ],
)
def test_messages(arguments, keywords, message):
    parameters = rnnx.initialize_parameters("lstm", 3, 4, seed=0, dtype="float64")
    parameters |= {key: keywords.pop(key) for key in list(keywords) if key.startswith("W")}
    with pytest.raises((ValueError, TypeError), match=message):
        rnnx.Stream(*(arguments or ("lstm",)), parameters, **keywords)
