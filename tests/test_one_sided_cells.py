"""Cells whose gates lack a side, have heads or widths, with vectors, inputs and means: all engines, in all calls."""

import functools
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cells_by_hand import MIXED, ONE_SIDED
from head_cells import HEADS
from mean_cells import MEANS
from problems import (
    ENGINES_TOLERANCE,
    arranged,
    assert_close,
    central_differences,
    check_gradients,
    make_problem,
    run,
)
from rounding import check, compare, expectation
from wide_cells import WIDE

import rnnx
from rnnx.cells import Cell, Gate, Stage
from rnnx.engines.cpu.runtime import thread_policy
from rnnx.engines.cpu.runtime.thread_policy import use_policy


def three_forward(ops, zx, zh, s, given):
    (z1, z2, z3), (p,), (a,), (v,) = zx, zh, s, given
    f, t = ops.sigmoid(z1 + v * a), ops.tanh(p)
    return (f * a + z2 * t + z3,), (f, t, z2)


def three_backward(ops, ds, s_prev, s_next, saved, given):
    (da,), (a,), (f, t, z2), (v,) = ds, s_prev, saved, given
    dz1 = da * a * (f - f * f)
    dt = da * z2
    return (dz1, da * t, da), (dt - dt * t * t,), (da * f + dz1 * v,), (dz1 * a,)


def hidden_forward(ops, zx, zh, s, given):
    (z,), (e,) = zh, given
    return (ops.tanh(z + e),), ()


def hidden_backward(ops, ds, s_prev, s_next, saved, given):
    (da,), (a,) = ds, s_next
    dz = da - da * a * a
    return (), (dz,), (ops.zeros_like(da),), (dz,)


def decay_forward(ops, zx, zh, s, given):
    (a,), (w, e) = s, given
    return (w * a, e + a), ()


def decay_backward(ops, ds, s_prev, s_next, saved, given):
    (dwa, dea), (a,), (w, _) = ds, s_prev, given
    return (), (), (dwa * w + dea,), (dwa * a, dea)


def after_decay_forward(ops, zx, zh, s):
    (z_x,), (z_h,), (_, ea) = zx, zh, s
    t = ops.tanh(z_x + z_h)
    return (t + ea * t,), (t,)


def after_decay_backward(ops, ds, s_prev, s_next, saved):
    (da,), (_, ea), (t,) = ds, s_prev, saved
    dt = da + da * ea
    dz = dt - dt * t * t
    return (dz,), (dz,), (ops.zeros_like(da), da * t)


# Three gates on one side and one on the other; no input side; a stage without gates; both biases in an additive stage.
_X, _H = (Gate((f"W{k}",), f"b{k}", sides="x") for k in "123"), Gate(("Wh",), "", sides="h")
THREE = Cell(
    "three", ("a",), (Stage((_H, *_X), ("a",), ("f", "t", "z2"), three_forward, three_backward, vectors=("v",)),)
)
HIDDEN = Cell("hidden", ("a",), (Stage((_H,), ("a",), (), hidden_forward, hidden_backward, inputs=("e",)),))
DECAY = Cell(
    "decay",
    ("a",),
    (
        Stage((), ("wa", "ea"), (), decay_forward, decay_backward, vectors=("w",), inputs=("e",)),
        Stage((_H, Gate(("Wx",), "b", sides="x")), ("a",), ("t",), after_decay_forward, after_decay_backward),
    ),
)
_stage = MIXED.stages[0]
BIASED = Cell(
    "biased",
    ("a",),
    (
        Stage(
            (_stage.gates[0], Gate(("Wq",), "bq", recurrent_bias="bhq"), _stage.gates[2]),
            *(_stage.out, _stage.saved, _stage.forward, _stage.backward),
            vectors=_stage.vectors,
            inputs=_stage.inputs,
        ),
    ),
)
CELLS = [*ONE_SIDED, THREE, HIDDEN, DECAY, BIASED, *HEADS, *WIDE, *MEANS]
of_cells = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)


def problem_of(cell, rng, n_x, n_a, *sizes, indices=False, dtype="float64", **options):
    """A problem with n_a units or, if the cell has heads, the least number above that they divide."""
    sizes = n_x, -(-n_a // cell.multiple) * cell.multiple, *sizes
    problem = make_problem(cell, rng, *sizes, **options).astype(dtype)
    for key in cell.optional_keys:
        n = next(gate.rows(sizes[1]) for gate in cell.gates if gate.recurrent_bias == key)
        problem.parameters[key] = (options.get("scale", 1) * rng.standard_normal((n, 1))).astype(dtype)
    if indices:
        problem.x = rng.integers(0, sizes[0], problem.x.shape[1:])
    return problem


def assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        assert np.array_equal(array, expected[name]), name


@functools.cache
def make_case(cell, lengths):
    """A problem, its loss, and numeric gradients by name."""
    problem = problem_of(cell, np.random.default_rng(20261120), 3, 4, 3, 5, lengths=lengths and list(lengths))
    return problem, *central_differences(problem)


@pytest.mark.parametrize("lengths", [None, (4, 0, 5)])
@pytest.mark.parametrize("cell", CELLS[len(ONE_SIDED) :], ids=lambda cell: cell.name)
def test_gradients(cell, engine, lengths):
    check_gradients(*make_case(cell, lengths), f"{cell.name} {engine}")


@functools.cache
def cases_of_all_widths(cell, dtype):
    """Problems, and what to expect. Each width occurs with each kind of call, number of examples and of steps."""
    rng, cases = np.random.default_rng(20261120), []
    for i, (n, kind) in enumerate(itertools.product((1, 3, 16, 17, 33), ("whole", "short", "indices"))):
        m, n_steps = ((1, 1), (4, 6), (1, 6), (4, 1))[(i + i // 3 * 2) % 4]
        lengths = [3, 0, 6, 5][:m] if n_steps == 6 and n % 2 else None
        given = {"scale": 0.3, "dtype": dtype, "lengths": lengths}
        if kind == "short":
            given |= {"da_steps": 1, "final": False}
        if kind == "indices":
            given["indices"] = any("x" in gate.sides for gate in cell.gates)
        problem = problem_of(cell, rng, 5, n, m, n_steps, **given)
        cases.append((problem, *expectation(problem, ENGINES_TOLERANCE[dtype])))
    return cases


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@of_cells
def test_all_widths(cell, dtype, engine):
    """Also that no vector divides, one example, one step, index inputs and cotangents of the first steps only."""
    for case in cases_of_all_widths(cell, dtype):
        check(*case)


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0)], ids=["no examples", "no steps"])
@of_cells
def test_empty_sequences(cell, sizes, rng):
    problem = problem_of(cell, rng, 3, 4, *sizes)
    gradients = problem.gradients()
    assert {name: d.shape for name, d in gradients.items()} == {"d" + k: a.shape for k, a in problem.inputs.items()}
    for name, d in gradients.items():
        expected = dict(zip((f"d{state}0" for state in cell.states), problem.dfinal, strict=True)).get(name)
        assert np.array_equal(d, np.zeros_like(d) if expected is None else expected), name


@pytest.mark.parametrize("sizes", [(7, 130, 40, 12), pytest.param((390, 400, 3, 2), marks=pytest.mark.slow)])
@of_cells
def test_sizes_beyond_every_block(cell, sizes, rng):
    """More terms than a block of the products has, more rows, and more of both over time."""
    for indices in (False, True) if any("x" in gate.sides for gate in cell.gates) else (False,):
        problem = problem_of(cell, rng, *sizes, dtype="float32", scale=0.05, indices=indices)
        with rnnx.use_engine("cpu"):
            compare(problem, 1e-5)


@pytest.mark.parametrize("indices", [False, True])
@of_cells
def test_nothing_past_an_end_matters(cell, indices, engine, rng):
    """Neither x nor an extra input nor a cotangent; gradients there are zero."""
    if indices and not any("x" in gate.sides for gate in cell.gates):
        pytest.skip("no weights for indices")
    lengths = [4, 0, 6, 1]
    problem = problem_of(cell, rng, 3, 5, 4, 6, lengths=lengths, indices=indices)
    expected, _ = run(problem)
    past = np.arange(6) >= np.array(lengths)[:, None]
    for array in (problem.x, *problem.extra.values(), *problem.dstates):
        array[..., past] = 2**40 if array is problem.x and indices else np.nan
    results, _ = run(problem)
    assert_equal(results, expected)
    for name in ("x", *cell.inputs):
        if f"d{name}" in results:
            assert not results[f"d{name}"][:, past].any(), name


@pytest.mark.parametrize("indices", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@of_cells
def test_threads_give_the_same_bits(cell, dtype, indices, rng):
    if indices and not any("x" in gate.sides for gate in cell.gates):
        pytest.skip("no weights for indices")
    for n, m in ((150, 1), (150, 23), (3, 2)):
        lengths = None if m == 1 else [i % 7 for i in range(m)]
        problem = problem_of(cell, rng, 5, n, m, 6, lengths=lengths, scale=0.3, dtype=dtype, indices=indices)
        with rnnx.use_engine("cpu"), use_policy(lambda work: (1, False)):
            alone, _ = run(problem)
        choices = [lambda work, way=way: way for way in itertools.product((2, 3, 7), (False, True))]
        for choice in [*choices, lambda work: (work.shares, True)]:  # also more threads than examples or units
            with rnnx.use_engine("cpu"), use_policy(choice):
                shared, _ = run(problem)
            assert_equal(shared, alone)


def test_cells_without_products_are_shared_too(rng, monkeypatch):
    """The elementwise work counts. Without recurrent products, threads that share the units need not wait."""
    monkeypatch.setattr(thread_policy, "max_threads", lambda: 4)
    monkeypatch.setattr("rnnx.engines.cpu.runtime.work.cache_bytes", lambda: 1 << 30)
    choices = {}
    for name, m in itertools.product(("indrnn", "lstm"), (1, 64)):
        problem, works = make_problem(rnnx.CELLS[name], rng, 7, 512, m, 400 // m).astype("float32"), []
        problem.x = rng.integers(0, 7, problem.x.shape[1:])  # no product for index inputs
        with rnnx.use_engine("cpu"), use_policy(lambda work, works=works: works.append(work) or (1, False)):
            problem.forward()
        choices[name, m] = thread_policy.split(works[0])
    assert choices["indrnn", 1] == (4, True)
    assert choices["indrnn", 64] in ((4, True), (4, False))
    assert choices["lstm", 64] == (4, False)


@of_cells
def test_gradients_are_contiguous(cell, rng):
    problem = problem_of(cell, rng, 5, 7, 3, 4)
    with rnnx.use_engine("cpu"):
        results, _ = run(problem)
    assert all(results["d" + key].flags.c_contiguous for key in problem.parameters)


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell is not HIDDEN], ids=lambda cell: cell.name)
def test_streams(cell, m, engine, rng):
    """A stream is the sequence, and keeps its parameters and inputs of its own."""
    problem = problem_of(cell, rng, 3, 18, m, 6)
    (a, *_), _, _ = problem.forward()
    parameters = {key: p.copy() for key, p in problem.parameters.items()}
    stream = rnnx.Stream(cell, parameters, m=m, s0=problem.s0)
    for p in parameters.values():
        p[...] = np.nan
    for _ in range(2):
        for t in range(6):
            inputs = {name: e[:, :, t].copy() for name, e in problem.extra.items()}
            got = stream.step(problem.x[:, :, t], inputs=inputs)
            assert_close(got, a[:, :, t], 1e-13, f"step {t}")
            for e in inputs.values():
                e[...] = np.nan
        stream.reset()


@pytest.mark.parametrize("lengths", [None, [3, 0, 6, 5]])
@of_cells
def test_memory_of_inputs_and_vectors(cell, lengths, engine, rng):
    problem = problem_of(cell, rng, 5, 18, 4, 6, lengths=lengths)
    expected, _ = run(problem)
    extra, parameters = problem.extra, problem.parameters
    for how in ("C", "F", "strided", "reversed", "unaligned", "readonly"):
        problem.extra = {name: arranged(e, how) for name, e in extra.items()}
        problem.parameters = {key: arranged(p, how) for key, p in parameters.items()}
        results, _ = run(problem)
        assert_equal(results, expected)
        outputs = rnnx.recurrent_forward(
            cell, problem.x, problem.s0, problem.parameters, lengths=lengths, inputs=problem.extra, keep_caches=False
        )[0]
        for name, array in zip(cell.states, outputs, strict=True):
            assert_close(array, expected[name], ENGINES_TOLERANCE["float64"], f"{how}: {name}")


@pytest.mark.parametrize("order", ["C", "F"])
@of_cells
def test_the_caller_may_write_to_its_arrays(cell, order, engine, rng):
    """To inputs and parameters after a forward pass, and to a gradient after a backward pass."""
    problem = problem_of(cell, rng, 3, 5, 4, 6)
    expected = problem.gradients()
    problem.extra = {name: np.array(e, order=order) for name, e in problem.extra.items()}
    states, _, caches = problem.forward()
    for array in (problem.x, *states, *problem.s0, *problem.extra.values(), *problem.parameters.values()):
        array[...] = np.nan
    for _ in range(2):
        gradients = rnnx.recurrent_backward(cell, problem.dstates, caches, ds_final=problem.dfinal)
        assert_equal(gradients, expected)
        for array in gradients.values():
            array[...] = np.nan


def test_warm_up_compiles_everything():
    """In a fresh process, also the code for index inputs and for several threads."""
    code = """
import numpy as np, rnnx
from cells_by_hand import PRODUCT
from problems import make_problem, run
from rnnx.engines.cpu.runtime import object_cache
rnnx.warm_up(PRODUCT, dtypes=("float32",))
before = set(object_cache._loaded)
rng = np.random.default_rng(0)
for lengths in (None, [3, 0, 6]):
    for n in (1, 64):
        problem = make_problem(PRODUCT, rng, 4, n, 3, 6, lengths=lengths).astype("float32")
        run(problem)
        problem.x = rng.integers(0, 4, (3, 6))
        run(problem)
print(len(before) > 0, len(set(object_cache._loaded) - before))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    assert result.stdout.split() == ["True", "0"]
