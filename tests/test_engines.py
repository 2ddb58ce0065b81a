"""Engines against each other, on all libraries; which one runs; threads."""

import itertools
import math
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import numpy as np
import pytest
from conftest import BLAS_CONTROLLERS, to_numpy
from guard import guarded
from hypothesis import given
from hypothesis import strategies as st
from problems import ENGINES_TOLERANCE, arranged, assert_close, make_problem, run
from workers import wait_for_sleep

import rnnx
from rnnx.cells import BUILT_IN
from rnnx.cells.parameters import recurrent_parameters
from rnnx.engines.cpu.codegen import ir
from rnnx.engines.cpu.descriptor.builder import PassKey, Template
from rnnx.engines.cpu.descriptor.forward import ForwardPass
from rnnx.engines.cpu.runtime import thread_policy, thread_pool
from rnnx.engines.cpu.runtime.thread_policy import use_policy
from rnnx.engines.cpu.runtime.work import Work, cache_bytes
from rnnx.engines.protocol import Tape
from rnnx.functional import schedule, signatures


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lengths", [None, [3, 0, 6, 5]])
def test_every_runtime_agrees_with_plain_numpy(runtime, cell, dtype, lengths, rng):
    """Same values, dtype and library; inputs that may not be written to are not."""
    problem = make_problem(cell, rng, 5, 6, 4, 6, n_y=3, lengths=lengths, scale=0.5).astype(dtype)
    with rnnx.use_engine("reference"):
        expected, _ = run(problem)
    with runtime.use():
        actual, caches = run(problem, runtime.asarray)
    assert caches.engine == runtime.engine
    for name, array in actual.items():
        assert type(array) is type(runtime.asarray(problem.x)), name
        assert str(array.dtype).endswith(dtype), name
        assert_close(to_numpy(array), expected[name], ENGINES_TOLERANCE[dtype], f"{cell.name} {name}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_units_have_the_same_bits_beside_others(dtype, rng):
    """Kernels take units two vectors at a time, and a last one alone."""
    few = 64 // np.dtype(dtype).itemsize  # units that fill a vector of any CPU
    n = 5 * few
    x, c0 = rng.standard_normal((3, 2, 1)).astype(dtype), rng.standard_normal((n, 2)).astype(dtype)
    p = rnnx.initialize_parameters("lstm", 3, n, seed=0, dtype=dtype)

    def run(units):
        columns = np.r_[units, n : n + 3]
        q = {key: w[units, columns] if key.startswith("W") else w[units] for key, w in p.items()}
        with rnnx.use_engine("cpu"):
            states, _, caches = rnnx.recurrent_forward("lstm", x, (np.zeros_like(c0[units]), c0[units]), q)
        assert caches.engine == "cpu"
        return np.stack(states)

    alone = [run(slice(first, first + few)) for first in range(0, n, few)]
    np.testing.assert_array_equal(run(slice(0, n)), np.concatenate(alone, axis=1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n_x", "n"), [(5, 2), (3, 6), (21, 11), (7, 29), (30, 52)])
@pytest.mark.parametrize("name", ["lstm", "gru", "gru_reset_after", "rnn"])
def test_units_of_an_incomplete_vector_have_the_same_bits(name, n_x, n, dtype, rng):
    """The gates of an incomplete last vector are side by side, and so are the columns of h and x in gradients."""
    cell, more = rnnx.CELLS[name], 64 - n  # no vector of 64 units is incomplete
    problem = make_problem(cell, rng, n_x, n, 3, 4, scale=0.5).astype(dtype)

    def widened(a):
        """Units that stay zero, after the others: rows, and columns of recurrent weights."""
        if a.ndim == 2 and a.shape[1] in (n, n + n_x):
            a = np.concatenate([a[:, :n], np.zeros((n, more), dtype), a[:, n:]], axis=1)
        return np.concatenate([a, np.zeros((more, *a.shape[1:]), dtype)])

    def run(change):
        p = {key: change(problem.parameters[key]) for key in recurrent_parameters(cell, problem.parameters)}
        with rnnx.use_engine("cpu"):
            states, _, caches = rnnx.recurrent_forward(cell, problem.x, tuple(map(change, problem.s0)), p)
            return states, rnnx.recurrent_backward(cell, tuple(map(change, problem.dstates)), caches)

    (states, gradients), (wide, of_wide) = run(lambda a: a), run(widened)
    for a, b in zip(states, wide, strict=True):
        np.testing.assert_array_equal(a, b[:n])
    for key, d in gradients.items():
        expected = of_wide[key]
        if d.shape != expected.shape:
            expected = expected[:n]
        if d.shape != expected.shape:
            expected = np.delete(expected, np.s_[n:64], axis=1)
        np.testing.assert_array_equal(d, expected, err_msg=key)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "gru_reset_after"])
def test_units_of_incomplete_vectors_of_several_rows_have_the_same_bits(name, dtype, rng):
    """Kernels take those of 8, 4, 2 and 1 rows at once."""
    cell, lanes, m = rnnx.CELLS[name], ir.lanes(dtype), 15
    n_a, x = 3 * lanes, rng.standard_normal((3, m, 4)).astype(dtype)
    p = rnnx.initialize_parameters(name, 3, n_a, seed=0, dtype=dtype)
    states = tuple(rng.standard_normal((n_a, m)).astype(dtype) for _ in cell.states)
    for n in (*range(1, lanes, 2), lanes // 4, lanes // 2, lanes + 1, 2 * lanes - 1, 2 * lanes):
        every, few = dict(p), {key: b[:n] for key, b in p.items()}
        for gate in cell.gates:
            w_x, w_h = gate.split(p, n_a)
            every |= gate.join(np, w_x, np.where(np.arange(n_a) < n, w_h, 0))
            few |= gate.join(np, w_x[:n], w_h[:n, :n])
        with rnnx.use_engine("cpu"), use_policy(lambda work: (1, False)):
            expected, _, _ = rnnx.recurrent_forward(name, x, states, every)
            actual, _, _ = rnnx.recurrent_forward(name, x, tuple(s[:n] for s in states), few)
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(a, b[:n], err_msg=str(n))


@pytest.mark.parametrize("n", [1, 20, 100, 150])
def test_products_pad_no_gate(n):
    """Only all gates together are padded to whole vectors."""
    key = PassKey(rnnx.CELLS["lstm"], np.dtype(np.float32), 3, 2, n, 5, False, ("Wf", "Wi", "Wc", "Wo"), False)
    (stage,) = ForwardPass(key, True, (None,)).divide(1, False).fields["stages"]
    assert stage["n_vectors_h"] == stage["n_vectors_x"] == math.ceil(4 * n / ir.lanes(np.float32))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "gru_reset_after"])
def test_nothing_past_the_callers_arrays_is_read(name, dtype, rng):
    for sizes in ((1, 1, 1, 1), (17, 7, 3, 1), (5, 9, 2, 3), (16, 100, 9, 2)):
        problem = make_problem(rnnx.CELLS[name], rng, *sizes, scale=0.3).astype(dtype)
        with rnnx.use_engine("cpu"):
            expected, _ = run(problem)
            for order in "CF":
                actual, _ = run(problem, lambda a, order=order: guarded(a, order))
                for key, value in expected.items():
                    assert_close(actual[key], value, ENGINES_TOLERANCE[dtype], f"{key} {sizes} {order}")


@pytest.mark.parametrize("has_lengths", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_larger_than_the_cache(dtype, has_lengths, rng):
    """They are written past it if their rows are whole cache lines, with the same bits in every layout."""
    n, m = 512 // np.dtype(dtype).itemsize, 5
    n_steps = cache_bytes() // (512 * m) + 2
    lengths = [n_steps, n_steps - 1, 3, 0, 40] if has_lengths else None
    problem = make_problem(rnnx.CELLS["lstm"], rng, n, n, m, n_steps, lengths=lengths, scale=0.05).astype(dtype)
    policies = (1, False), (3, False), (3, True)
    found = {}
    for policy, order in itertools.product(policies, "CF"):
        with rnnx.use_engine("cpu"), use_policy(lambda work, policy=policy: policy):
            found[policy, order], _ = run(problem, lambda a, order=order: np.array(a, order=order))
            extra = {"lengths": lengths, "keep_caches": False}
            states, _, _ = rnnx.recurrent_forward("lstm", problem.x, problem.s0, problem.parameters, **extra)
        for name, state in zip(problem.cell.states, states, strict=True):  # without caches, these are no copies
            np.testing.assert_array_equal(found[policy, order][name], state)
    first = found[policies[0], "F"]
    for way, results in found.items():
        for name, value in first.items():
            np.testing.assert_array_equal(results[name], value, err_msg=f"{name} {way}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_nothing_past_the_arrays_of_a_step_is_read(name, dtype, rng):
    """A single step of few examples reads the weights where they are."""
    forward, backward = (getattr(rnnx, f"{name}_cell_{way}") for way in ("forward", "backward"))
    n_states = len(rnnx.CELLS[name].states)
    for n_x, n, m in ((1, 1, 1), (17, 7, 3), (5, 19, 2)):
        parameters = rnnx.initialize_parameters(name, n_x, n, 3, seed=0, dtype=dtype)
        given = [rng.standard_normal((k, m)).astype(dtype) for k in (n_x, *[n] * n_states)]
        ds = [rng.standard_normal((n, m)).astype(dtype) for _ in range(n_states)]

        def step(change, given=given, ds=ds, parameters=parameters):
            *_, cache = forward(*map(change, given), {key: change(p) for key, p in parameters.items()})
            return backward(*map(change, ds), cache)

        with rnnx.use_engine("cpu"):
            expected = step(np.array)
            for order in "CF":
                actual = step(lambda a, order=order: guarded(a, order))
                for key, value in expected.items():
                    assert_close(actual[key], value, ENGINES_TOLERANCE[dtype], f"{key} {n_x} {n} {m} {order}")


@given(data=st.data())
def test_shapes_orders_dtypes_lengths(data):
    """Any sizes, memory orders, dtypes and lengths: jit equals plain."""
    cell = rnnx.CELLS[data.draw(st.sampled_from(list(BUILT_IN)), label="cell")]
    n_x, n_a, m, n_steps = (
        data.draw(st.integers(low, 20), label=k) for k, low in zip("xamT", (1, 1, 0, 0), strict=True)
    )
    dtype = data.draw(st.sampled_from(["float32", "float64"]), label="dtype")
    lengths = data.draw(st.none() | st.lists(st.integers(0, n_steps), min_size=m, max_size=m), label="lengths")
    rng = np.random.default_rng(data.draw(st.integers(0, 99), label="seed"))
    problem = make_problem(cell, rng, n_x, n_a, m, n_steps, n_y=2, scale=0.5, lengths=lengths).astype(dtype)

    def ordered(a):
        return arranged(a, data.draw(st.sampled_from(["C", "F", "strided", "reversed", "readonly"]), label="order"))

    with rnnx.use_engine("reference"):
        expected, _ = run(problem)
    actual, _ = run(problem, ordered)
    assert {str(a.dtype) for a in actual.values()} == {dtype}
    # The gradient of all parameters is one vector: a bias of one unit alone may be a sum that cancels.
    weights = ["d" + key for key in problem.inputs if key in problem.parameters]
    for names in (weights, *([name] for name in expected if name not in weights)):
        got, want = (np.concatenate([results[name].ravel() for name in names]) for results in (actual, expected))
        assert_close(got, want, ENGINES_TOLERANCE[dtype], str(names))


def test_engine_for_says_what_runs():
    x = np.zeros((2, 3, 4))
    p = rnnx.initialize_parameters("rnn", 2, 3, seed=0)
    assert rnnx.engine_for(x) == "cpu"
    assert rnnx.rnn_forward(x, None, p)[2].engine == "cpu"
    with rnnx.use_engine("reference"):
        assert rnnx.engine_for(x, x) == "reference"
        assert rnnx.rnn_forward(x, None, p)[2].engine == "reference"
    assert rnnx.engine_for(x) == "cpu"
    strict = pytest.importorskip("array_api_strict")
    assert rnnx.engine_for(strict.zeros(3)) == "reference"
    with (
        rnnx.use_engine("cpu"),
        pytest.raises(ValueError, match="engine 'cpu' does not support array_api_strict arrays"),
    ):
        rnnx.engine_for(strict.zeros(3))


def test_use_engine_rejects_unknown_names():
    with (
        pytest.raises(
            ValueError, match=r"`name` must be one of \['cpu', 'emulated', 'gpu', 'reference'\]; got 'cudnn'"
        ),
        rnnx.use_engine("cudnn"),
    ):
        pass


def test_use_engine_holds_for_its_thread_only():
    x = np.zeros((2, 3, 4))
    with rnnx.use_engine("reference"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(rnnx.engine_for, x).result() == "cpu"


def test_many_threads_many_shapes(engine):
    """Calls from several threads at once give the bits of the same calls one after the other."""
    problems = [
        make_problem(
            rnnx.CELLS[name], np.random.default_rng(i), n_x=2 + i, n_a=3 + 5 * i, m=1 + i, n_steps=4 + i, n_y=2
        )
        for i, name in enumerate(list(BUILT_IN) * 3)
    ]

    contexts = [copy_context() for _ in problems]  # with the engine and its thread policy

    def call(context, problem):
        return context.run(run, problem)[0]

    expected = list(map(call, contexts, problems))
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for got, want in zip(pool.map(call, contexts, problems), expected, strict=True):
                assert all(np.array_equal(got[name], want[name]) for name in want)


def spy_on_threads(monkeypatch):
    """A list of the number of threads that every pass from now on gets, if it asks for several."""
    used, run_shared = [], Template.run_shared

    def spy(template, arrays):
        number = int(thread_pool.pool().mail["next"])
        run_shared(template, arrays)
        threads = template.slices // template.fields["per_thread"]
        used.append(threads if thread_pool.pool().mail["next"] > number else 1)

    monkeypatch.setattr(Template, "run_shared", spy)
    return used


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("m", [1, 2, 23])
def test_paths_give_the_same_bits(cell, dtype, m, rng, monkeypatch):
    """One thread or several, that share the examples or the units: it does not show in the result."""
    lengths = [i % 7 for i in range(m)] if m == 23 else None
    problem = make_problem(cell, rng, 5, 150, m, 6, lengths=lengths, scale=0.3).astype(dtype)
    with rnnx.use_engine("cpu"), use_policy(lambda work: (1, False)):
        alone, _ = run(problem)
    used = spy_on_threads(monkeypatch)
    for threads, unit_parallel in itertools.product((2, 3, 7), (False, True)):
        chosen = []

        def choose(work, threads=threads, unit_parallel=unit_parallel, chosen=chosen):
            chosen.append(min(threads, work.shares if unit_parallel else m))
            return chosen[-1], unit_parallel

        used.clear()
        with rnnx.use_engine("cpu"), use_policy(choose):
            shared, _ = run(problem)
        assert len(chosen) == 2
        assert used == [n for n in chosen if n > 1]
        assert all(np.array_equal(alone[name], shared[name]) for name in alone), (threads, unit_parallel)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("m", [1, 2, 5, 37])
def test_inputs_converted_in_blocks_give_the_same_bits(cell, dtype, m, rng, monkeypatch):
    """Without caches, slices of examples convert x block by block, if it is not in the order in which it is read."""
    problem = make_problem(cell, rng, 19, 6, m, 75, scale=0.3).astype(dtype)

    def spaced(a):
        return np.asfortranarray(np.repeat(a, 2, axis=2))[:, :, ::2]  # features are next to each other, steps are not

    def states(x, threads, keep_caches):
        extra = {"inputs": problem.extra, "keep_caches": keep_caches}
        with rnnx.use_engine("cpu"), use_policy(lambda work: (threads, False)):
            return rnnx.recurrent_forward(cell, x, problem.s0, problem.parameters, **extra)[0]

    blocks, kind = [], ForwardPass.__wrapped__
    x_block = kind._x_block
    monkeypatch.setattr(kind, "_x_block", lambda *given: blocks.append(x_block(*given)) or blocks[-1])
    monkeypatch.setattr(Work, "sections", lambda work, threads, steps: min(5, steps))
    monkeypatch.setattr(Work, "slices_per_thread", lambda work, threads, steps: 1 + (threads == 3))
    expected = states(np.asfortranarray(problem.x), 1, True)
    for threads, asarray in itertools.product((1, 2, 3), (guarded, spaced)):
        found = states(asarray(problem.x), threads, False)
        assert all(map(np.array_equal, found, expected)), threads
    assert 0 < max(blocks) < problem.x.shape[2]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lengths", [None, "some"])
def test_two_slices_per_thread_give_the_same_bits(cell, dtype, lengths, rng, monkeypatch):
    lengths = lengths and [i % 7 for i in range(37)]
    problem = make_problem(cell, rng, 5, 40, 37, 6, lengths=lengths, scale=0.3).astype(dtype)
    with rnnx.use_engine("cpu"), use_policy(lambda work: (1, False)):
        alone, _ = run(problem)
    monkeypatch.setattr(Work, "slices_per_thread", lambda work, threads, steps: 2)
    slices, run_shared = [], Template.run_shared
    monkeypatch.setattr(
        Template, "run_shared", lambda job, arrays: slices.append(job.slices) or run_shared(job, arrays)
    )
    for threads in (2, 3):
        slices.clear()
        with rnnx.use_engine("cpu"), use_policy(lambda work, threads=threads: (threads, False)):
            shared, _ = run(problem)
        assert slices == [2 * threads] * 2
        assert all(np.array_equal(alone[name], shared[name]) for name in alone), threads


def test_the_thread_policy(monkeypatch):
    monkeypatch.setattr(thread_policy, "max_threads", lambda: 4)

    def split(n_steps, m, products, shares, shared_lines=0, numbers=0, waits=True):
        return thread_policy.split(Work(n_steps, m, products, numbers, shares, shared_lines, waits))

    assert split(10, 64, 1000, shares=8) == (1, False)  # not worth a hand-over
    assert split(10, 64, 10**8, shares=8) == (4, False)
    assert split(10, 1, 10**8, shares=8) == (4, True)  # one example: share the units
    assert split(10, 1, 10**7, shares=2) == (2, True)
    assert split(10, 1, 10**8, shares=1) == (1, False)  # nothing to share
    assert split(10**5, 1, 10**8, shares=4) == (1, False)  # steps too short to wait for each other
    assert split(100, 8, 4 * 10**6, shares=1) == (4, False)
    assert split(100, 8, 4 * 10**6, shares=1, shared_lines=12) == (1, False)  # or to share cache lines
    assert split(100, 8, 0, shares=8, numbers=10**4) == (1, False)
    assert split(100, 8, 0, shares=8, numbers=10**6) == (4, False)  # elementwise work alone
    assert split(10**4, 1, 0, shares=8, numbers=10**6) == (1, False)
    assert split(10**4, 1, 0, shares=8, numbers=10**6, waits=False) == (4, True)  # no recurrent product


def test_a_short_job_does_not_read_the_thread_limits(monkeypatch):
    """That takes longer than the decision."""
    monkeypatch.setattr(thread_policy, "max_threads", lambda: 1 / 0)
    assert thread_policy.split(Work(64, 8, 10**6, 10**4, shares=8, shared_lines=0, waits=True)) == (1, False)


def test_a_job_that_gains_by_no_number_of_threads_reads_the_limits_once(monkeypatch):
    alone, shared = (Work(n, 1, 10**8, 0, shares=4, shared_lines=0, waits=True) for n in (10**5, 10))
    for threads, expected in ((1, 1), (4, 4)):
        monkeypatch.setattr(thread_policy, "max_threads", lambda threads=threads: threads)
        assert thread_policy.split(alone) == (1, False)
        assert thread_policy.split(shared) == (expected, expected > 1)
    monkeypatch.setattr(thread_policy, "max_threads", lambda: 1 / 0)
    assert thread_policy.split(alone) == (1, False)


def test_a_job_that_gains_by_a_single_number_of_threads(monkeypatch):
    """Of 12 examples of 80 bytes, the slices of three threads begin at cache lines, but not those of two or four."""
    job = Work(100, 12, 672_000, 192_000, shares=2, shared_lines=8, waits=True, read=80, weights=400, row=80)
    for threads, expected in ((2, 1), (4, 1), (3, 3)):
        monkeypatch.setattr(thread_policy, "max_threads", lambda threads=threads: threads)
        assert thread_policy.split(job) == (expected, False)


def test_thread_limits_are_respected(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert thread_policy.max_threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    assert thread_policy.max_threads() >= 1
    everything = thread_policy.max_threads()
    for junk in ("²", "-1", "0", "0x4", "1.5", "dynamic", " ", "٣", "9" * 5000, "1e3", "\N{ROMAN NUMERAL FOUR}"):
        monkeypatch.setenv("OMP_NUM_THREADS", junk)
        assert thread_policy.max_threads() == everything, junk


def test_threadpoolctl_is_respected(monkeypatch):
    threadpoolctl = pytest.importorskip("threadpoolctl")
    monkeypatch.setattr(thread_policy, "_blas_controllers", BLAS_CONTROLLERS)
    BLAS_CONTROLLERS.cache_clear()
    with threadpoolctl.threadpool_limits(1):
        assert thread_policy.max_threads() == 1


def test_sleeping_threads_wake_up(rng):
    """Workers that found no job for a while sleep. The next job wakes them up, and does not wait for them."""
    problem = make_problem(rnnx.CELLS["lstm"], rng, 4, 5, 6, 3)
    with rnnx.use_engine("cpu"), use_policy(lambda work: (3, False)):
        first, _ = run(problem)
        for _ in range(5):
            wait_for_sleep(2)
            again, _ = run(problem)
            assert all(np.array_equal(first[name], again[name]) for name in first)


def test_a_pass_uses_the_current_pool(monkeypatch, rng):
    """After a fork, it is another one."""
    problem = make_problem(rnnx.CELLS["lstm"], rng, 4, 5, 6, 3)
    with rnnx.use_engine("cpu"), use_policy(lambda work: (3, False)):
        first, _ = run(problem)
        jobs = int(thread_pool.pool().mail["next"])
        monkeypatch.setattr(thread_pool, "_pool", thread_pool.ThreadPool())
        again, _ = run(problem)
        assert thread_pool.pool().mail["next"] > 1
        thread_pool.pool().shut_down()
        monkeypatch.undo()
        assert thread_pool.pool().mail["next"] == jobs
        more, _ = run(problem)
        assert thread_pool.pool().mail["next"] > jobs
    for name, expected in first.items():
        assert np.array_equal(expected, again[name])
        assert np.array_equal(expected, more[name])


def test_a_template_remembers_its_pool_last():
    """A thread that found it remembered, but its address not yet in the record, would run all slices as one."""
    key = PassKey(rnnx.CELLS["rnn"], np.dtype(np.float32), 3, 2, 4, 5, False, ("Wax", "Waa", "ba"), False)
    template, pools = ForwardPass(key, False, (None,)).divide(2, False), []

    class Binding(np.ndarray):
        def __setitem__(self, name, value):
            pools.append(template._pool)
            super().__setitem__(name, value)

    template._binding = template._binding.view(Binding)
    template._run = lambda arrays, run: pools.append(template._pool)
    template.run_shared(())
    assert pools == [None, thread_pool.pool()]
    assert template._binding["pool"] == thread_pool.pool().address


@pytest.mark.parametrize("unit_parallel", [False, True])
def test_a_job_needs_no_worker(cell, unit_parallel, monkeypatch, rng):
    """The caller runs what the workers have not begun, with the same bits, even if they never come."""
    problem = make_problem(cell, rng, 5, 150, 9, 6, scale=0.3)
    with rnnx.use_engine("cpu"), use_policy(lambda work: (1, False)):
        alone, _ = run(problem)
    pool = thread_pool.ThreadPool()
    monkeypatch.setattr(thread_pool, "_pool", pool)
    monkeypatch.setattr(pool, "_start", lambda me: pool.threads.setdefault(me, None))
    chosen = []

    def choose(work):
        chosen.append(min(3, work.shares) if unit_parallel else 3)
        return chosen[-1], unit_parallel

    with rnnx.use_engine("cpu"), use_policy(choose):
        shared, _ = run(problem)
    assert len(pool.threads) == max(chosen) - 1
    assert all(np.array_equal(alone[name], shared[name]) for name in alone)


def test_workers_that_lose_their_core(cell, monkeypatch, rng):
    """Busy threads of the same process take the cores away at any moment, within jobs of many short sections."""
    problem = make_problem(cell, rng, 5, 150, 3, 30, scale=0.3)
    with rnnx.use_engine("cpu"), use_policy(lambda work: (1, False)):
        alone, _ = run(problem)
    ends = threading.Event()

    def burn():
        work = np.ones(1 << 16)
        while not ends.is_set():
            np.sqrt(work, out=work)  # without the GIL

    burners = [threading.Thread(target=burn) for _ in range(4)]
    for burner in burners:
        burner.start()
    try:
        with rnnx.use_engine("cpu"), use_policy(lambda work: (3, True)):
            for _ in range(20):
                shared, _ = run(problem)
                assert all(np.array_equal(alone[name], shared[name]) for name in alone)
    finally:
        ends.set()
        for burner in burners:
            burner.join()


@pytest.mark.parametrize("lengths", [None, "some"])
@pytest.mark.slow
def test_sizes_beyond_every_block(cell, lengths, rng):
    """More terms than a block of the products has, more rows, and more of both over time."""
    lengths = lengths and list(rng.integers(0, 6, 100))
    problem = make_problem(cell, rng, 390, 400, 100, 5, scale=0.05, lengths=lengths).astype("float32")
    with rnnx.use_engine("reference"):
        expected, _ = run(problem)
    with rnnx.use_engine("cpu"):
        actual, _ = run(problem)
    for name in expected:
        assert_close(actual[name], expected[name], 1e-5, name)


def unusual(a, how):
    """The same values in memory of an unusual kind."""
    if how == "batch first":
        return np.ascontiguousarray(a.transpose(1, 2, 0)).transpose(2, 0, 1) if a.ndim == 3 else a
    if how == "broadcast":
        return np.broadcast_to(a[..., :1], a.shape)  # strides of zero
    return arranged(a, how)


@pytest.mark.parametrize("how", ["unaligned", "batch first", "broadcast"])
def test_unusual_memory(how, cell, rng):
    problem = make_problem(cell, rng, 5, 18, 4, 6).astype("float32")
    problem.x, problem.dstates = unusual(problem.x, how), [unusual(d, how) for d in problem.dstates]
    problem.s0, problem.dfinal = ([unusual(a, how) for a in arrays] for arrays in (problem.s0, problem.dfinal))
    problem.parameters = {key: unusual(p, how) for key, p in problem.parameters.items()}
    with rnnx.use_engine("reference"):
        expected, _ = run(problem)
    with rnnx.use_engine("cpu"):
        actual, _ = run(problem)
    for name in expected:
        assert_close(actual[name], expected[name], 2e-5, name)


def test_same_input_same_bits(engine, cell, rng):
    problem = make_problem(cell, rng, 8, 33, 9, 12, n_y=4).astype("float32")
    first, second = run(problem)[0], run(problem)[0]
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_warm_up_compiles_everything():
    """In a fresh process: afterwards no call, of any layout of its arrays, compiles or loads anything."""
    code = """
import numpy as np, rnnx
from rnnx.engines.cpu.runtime import object_cache
rnnx.warm_up("gru_reset_after", dtypes=("float32",))
before = set(object_cache._loaded)
rng = np.random.default_rng(0)
for bias in (False, True):
    p = rnnx.initialize_parameters("gru", 64, 64, 5, seed=0)
    if bias:
        p["bhc"] = np.ones((64, 1), "float32")
    for order in "CF":
        x = np.array(rng.standard_normal((64, 32, 10)), "float32", order=order)
        x.flags.writeable = False
        for lengths in (None, [3] * 32):
            a, _, caches = rnnx.gru_forward(x, None, p, reset_after=True, lengths=lengths)
            rnnx.gru_backward(a[:, ::-1][:, ::-1], caches, reset_after=True)
            rnnx.gru_backward(None, caches, da_final=x[:, :, 0], reset_after=True)
        rnnx.gru_forward(x, None, p, reset_after=True, keep_caches=False)
        for m in (1, 3, 32):
            da, _, cache = rnnx.gru_cell_forward(x[:, :m, 0], x[:, :m, 1], p, reset_after=True)
            rnnx.gru_cell_backward(da, cache, reset_after=True)
print(len(before) > 0, len(set(object_cache._loaded) - before))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", "0"]


def test_warm_up_messages():
    with pytest.raises(ValueError, match=r"`dtypes` must be one of \['float32', 'float64'\]; got 'float16'"):
        rnnx.warm_up("rnn", dtypes=("float16",))
    with pytest.raises(ValueError, match=r"`cell` must be a Cell, or the name of one in rnnx.CELLS"):
        rnnx.warm_up("lstn")


@pytest.mark.slow
def test_a_worker_needs_no_more_stack_for_more_jobs():
    code = """
import threading, numpy as np, rnnx
from rnnx.engines.cpu.runtime.thread_policy import Policy, policy
policy.set(Policy(lambda work: (2, True), measures=False))
threading.stack_size(1 << 16)
stream = rnnx.Stream("rnn", rnnx.initialize_parameters("rnn", 2, 200, seed=0))
x = np.ones((2, 1), "float32")
for _ in range(10000):
    stream.step(x)
print(threading.active_count())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.stdout.strip() == "2", result.stderr


AFTER_THE_END = """
import contextvars, threading, numpy as np, rnnx
from rnnx.engines.cpu.runtime.thread_policy import Policy, policy
policy.set(Policy(lambda work: (3, False), measures=False))
p = rnnx.initialize_parameters("rnn", 2, 3, seed=0)
def call(what):
    print(what, rnnx.rnn_forward(np.ones((2, 6, 4), "float32"), None, p)[0].shape, flush=True)
call("main")
def late():
    threading.main_thread().join()
    call("late")
threading.Thread(target=contextvars.copy_context().run, args=(late,)).start()
"""


def test_a_thread_that_outlives_the_main_one():
    result = subprocess.run([sys.executable, "-c", AFTER_THE_END], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["main (3, 6, 4)", "late (3, 6, 4)"], result.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_the_child_of_a_fork_has_threads_of_its_own():
    """For calls, and for a stream that was made before."""
    code = """
import os, threading, numpy as np, rnnx
from rnnx.engines.cpu.runtime.thread_policy import Policy, policy
policy.set(Policy(lambda work: (3, True), measures=False))
p = rnnx.initialize_parameters("rnn", 2, 200, seed=0)
stream = rnnx.Stream("rnn", p, m=6)
def call():
    a = rnnx.rnn_forward(np.ones((2, 6, 4), "float32"), None, p)[0].sum()
    stream.reset()
    return a, [stream.step(np.ones((2, 6), "float32")).sum() for _ in range(5)][-1]
here = call()
assert threading.active_count() == 3
child = os.fork()
if child == 0:
    assert threading.active_count() == 1
    os._exit(0 if call() == here and threading.active_count() == 3 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout.strip() == "0"


@pytest.mark.parametrize("lengths", [None, [5, 0, 3]])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("name", ["lstm", "lstmp", "lem", "slstm", "layer_norm_lstm"])
def test_only_the_first_states_sequence(name, keep, lengths, rng):
    """The first sequence, the final states and the gradients do not depend on whether the caller wants the others."""
    problem = make_problem(rnnx.CELLS[name], rng, 3, 36, 3, 5, lengths=lengths)
    cell = problem.cell
    names = dict(zip(cell.states, problem.s0, strict=True))
    inputs = problem.extra or None
    call = signatures.checked_call(cell, problem.x, names, problem.parameters, lengths, inputs)
    for threads in ((1, False), (2, False), (2, True)):
        with rnnx.use_engine("cpu"), use_policy(lambda work, threads=threads: threads):
            whole, part = (
                schedule.forward(call._replace(only_first=only), call.x, call.parameters, keep=keep)
                for only in (False, True)
            )
            assert np.array_equal(part[0][0], whole[0][0])
            for state, value in whole[1].final_state.items():
                assert np.array_equal(part[1].final_state[state], value)
            if keep:
                ds = [problem.dstates[0]]
                found, expected = (rnnx.recurrent_backward(cell, ds, caches) for _, caches in (part, whole))
                assert all(np.array_equal(found[key], expected[key]) for key in expected)
    assert not lengths or not part[0][0][:, 1].any()


# --- two threads that look at a tape -----------------------------------------------------------------------------


def tape_of(rng, keep=True):
    """Return the tape of a forward pass, whose arrays have not been made."""
    p = make_problem(rnnx.CELLS["lstm"], rng, lengths=[5, 1, 3])
    with rnnx.use_engine("cpu"):
        options = {"lengths": p.lengths, "keep_caches": keep}
        return rnnx.recurrent_forward("lstm", p.x, p.s0, p.parameters, **options)[2]._tape


@pytest.mark.parametrize("keep", [True, False])
def test_another_thread_makes_the_arrays_of_a_tape_first(keep, rng):
    """What is about to be read then comes from the arrays."""
    tape, names = tape_of(rng, keep), ["kind", "has_saved", "n_a", "m", "n_steps", "x", "states", "saved", "own"]
    readers = {name: getattr(type(tape), name).fget for name in [*names, "final", "parameters", "inputs"]}
    reduce = tape.__reduce_ex__
    tape.states  # noqa: B018
    assert type(tape) is Tape
    for name, read in readers.items():
        if name == "final":
            assert all(map(np.array_equal, read(tape), tape.final))
        else:
            assert read(tape) is getattr(tape, name), name
    assert reduce(4)


def test_the_arrays_of_a_tape_are_made_once(monkeypatch, rng):
    """A backward pass knows by them that they are those of its forward pass."""
    tape, others, found = tape_of(rng), [], []
    plan = type(tape._run.plan)
    fields = plan.fields

    def slow(self, run):
        if not others:
            others.append(threading.Thread(target=lambda: found.append(tape.states)))
            others[0].start()
            others[0].join(0.1)  # if it does not wait, it is done by now
        return fields(self, run)

    monkeypatch.setattr(plan, "fields", slow)
    states = tape.states
    others[0].join()
    assert found[0] is states is tape.states
