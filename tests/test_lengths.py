"""Sequence lengths: an example gives the results of the example alone, and padding changes nothing."""

import numpy as np
import pytest
from cells_by_hand import MIXED, PRODUCT, TWO_STAGES
from guard import guarded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from problems import TOLERANCE, Problem, assert_close, make_problem, run

import rnnx
from rnnx.cells import BUILT_IN
from rnnx.engines.cpu.descriptor.builder import PassKey
from rnnx.engines.cpu.descriptor.forward import ForwardPass
from rnnx.engines.cpu.runtime.thread_policy import use_policy
from rnnx.models import Recurrent

CELLS = [*(rnnx.CELLS[name] for name in BUILT_IN), rnnx.CELLS["layer_norm_lstm"], MIXED, PRODUCT, TWO_STAGES]


def ragged(problem, lengths):
    """Return the problem with lengths, and with NaN where nothing may be read."""
    ended = np.arange(problem.x.shape[-1]) >= np.asarray(lengths)[:, None]
    if problem.x.ndim == 3:
        problem.x[:, ended] = np.nan
    for array in (*problem.dstates, *problem.extra.values()):
        array[:, ended] = np.nan
    problem.lengths = lengths
    return problem


def examples(problem, which, n_steps=None):
    """Return the problem of some of the examples, and of the first steps."""
    p = problem
    return Problem(
        p.cell,
        p.x[..., which, :n_steps],
        [s[:, which] for s in p.s0],
        p.parameters,
        [d[:, which, :n_steps] for d in p.dstates],
        [d[:, which] for d in p.dfinal],
        None if n_steps is not None else np.asarray(p.lengths)[which],
        {name: e[:, which, :n_steps] for name, e in p.extra.items()},
    )


def by_example(results, cell):
    """Return the results that have one part per example, by name."""
    initial = [f"d{state}0" for state in cell.states]
    inputs = ["dx", *(f"d{name}" for name in cell.inputs)]
    names = [*cell.states, *(f"final {state}" for state in cell.states), *initial, *inputs]
    return {name: results[name] for name in names if name in results}


def vector(arrays):
    """Return all arrays as one vector: a single one may be a difference of nearly equal numbers."""
    return np.concatenate([a.ravel() for a in arrays.values()])


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
@pytest.mark.parametrize("indices", [False, True], ids=["vectors", "indices"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=6)  # of each of 80 tests
@given(data=st.data())
def test_an_example_is_as_if_it_were_alone(engine, cell, indices, data):
    """Whatever its neighbours and the padding are; gradients of parameters are the sums over the examples."""
    sizes = zip("xamT", (1, 8, 1, 1), (9, 37, 9, 9), strict=True)
    n_x, n_a, m, n_steps = (data.draw(st.integers(least, most), label=k) for k, least, most in sizes)
    lengths = data.draw(st.lists(st.integers(0, n_steps), min_size=m, max_size=m), label="lengths")
    rng = np.random.default_rng(data.draw(st.integers(0, 99), label="seed"))
    problem = make_problem(cell, rng, n_x, cell.multiple * n_a, m, n_steps, scale=0.2)
    if indices:
        problem.x = rng.integers(0, n_x, (m, n_steps))
    found, _ = run(ragged(problem, lengths))
    own, totals = by_example(found, cell), {}
    for j, end in enumerate(lengths):
        expected, _ = run(examples(problem, [j], end))
        alone = by_example(expected, cell)
        assert not any(own[name][:, j, end:].any() for name, value in alone.items() if value.ndim == 3)
        parts = {name: own[name][:, [j]][..., : end if value.ndim == 3 else None] for name, value in alone.items()}
        assert_close(vector(parts), vector(alone), TOLERANCE["oracle"], f"example {j}")
        for name in set(expected) - set(own):
            totals[name] = totals.get(name, 0) + expected[name]
    assert_close(vector({name: found[name] for name in totals}), vector(totals), TOLERANCE["oracle"], "totals")


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_neighbours_and_padding_change_no_bits(cell, dtype, rng):
    """An example gives the same bits alone and in any batch, and all gradients are the same for any padding."""
    lengths = np.array([11, 0, 3, 20, 7, 20, 1, 16] * 8)
    problem = ragged(make_problem(cell, rng, 5, 40 * cell.multiple, 64, 25, scale=0.3), lengths).astype(dtype)
    with rnnx.use_engine("cpu"):
        whole, _ = run(problem)
        own = by_example(whole, cell)
        order = rng.permutation(64)
        for which in (order, order[:7], *([j] for j in range(8))):
            for name, value in by_example(run(examples(problem, which))[0], cell).items():
                assert np.array_equal(value, own[name][:, which]), name
        cut = examples(problem, slice(None), 20)
        cut.lengths = lengths
        for name, value in run(cut)[0].items():
            expected = whole[name][:, :, :20] if value.ndim == 3 else whole[name]
            assert np.array_equal(value, expected), name


def test_no_steps_at_all(engine, cell, rng):
    """The gradients are zero, or those of the final states."""
    problem = ragged(make_problem(cell, rng, 5, 20, 4, 6), [0] * 4)
    found, _ = run(problem)
    for state, s, d in zip(cell.states, problem.s0, problem.dfinal, strict=True):
        assert np.array_equal(found[f"final {state}"], s)
        assert np.array_equal(found[f"d{state}0"], d)
    rest = {name for name in found if not name.startswith("final") and name not in {f"d{s}0" for s in cell.states}}
    assert not any(found[name].any() for name in rest)


def test_an_infinite_state_that_stays_constant_changes_no_gradient(rng):
    """The padding has no part in the gradients of the recurrent weights, on the engine that skips it."""
    problem = make_problem(rnnx.CELLS["relu_rnn"], rng, 3, 5, 2, 4, lengths=[1, 4])
    problem.x[:, 0, 0] = np.inf * np.sign(problem.parameters["Wg"][0, 5:])  # x * w > 0 for one unit
    for array in (*problem.dstates, *problem.dfinal):
        array[:, 0] = 0
    with np.errstate(invalid="ignore"), rnnx.use_engine("cpu"):
        found, _ = run(problem)
    assert np.isinf(found["final a"][:, 0]).any()
    assert np.isfinite(found["dWg"][:, :5]).all()


@pytest.mark.parametrize("cell", [*CELLS, rnnx.CELLS["lstmp"], rnnx.CELLS["slstm"]], ids=lambda cell: cell.name)
def test_only_the_outputs_of_a_stack(cell, engine, rng):
    """Where a caller needs no other state's sequence, outputs and final states have the same bits."""
    for lengths in (None, [3, 0, 5, 1]):
        n_a = 4 * cell.multiple
        stack, problem = Recurrent(cell, 2, n_a), make_problem(cell, rng, 2, n_a, 4, 5, lengths=lengths)
        names = {key: key + "_l0" for key in problem.parameters if key not in cell.head}
        parameters = {name: problem.parameters[key] for key, name in names.items()}
        states = {name + "_l0": s for name, s in zip(cell.states, problem.s0, strict=True)}
        options = {"lengths": lengths, "extra": problem.extra}
        a, final, _ = stack.forward(parameters, problem.x, states, keep_caches=False, **options)
        every, _, caches = rnnx.recurrent_forward(
            cell, problem.x, problem.s0, {key: problem.parameters[key] for key in names}, lengths=lengths,
            inputs=problem.extra, keep_caches=False,
        )  # fmt: skip
        np.testing.assert_array_equal(a, every[0])
        for name, s in caches.final_state.items():
            np.testing.assert_array_equal(final[name + "_l0"], s)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
@pytest.mark.parametrize("choice", [(1, False), (3, False), (3, True)])
def test_inference_on_several_threads(cell, choice, rng):
    """It reads x where it is, nothing past its end, and final states do not change with the caller's arrays."""
    problem = ragged(make_problem(cell, rng, 3, 160, 7, 9, scale=0.3), [9, 0, 4, 7, 1, 4, 9])
    arguments = cell, guarded(problem.x, "F"), problem.s0, problem.parameters
    extra = {name: guarded(array, "F") for name, array in problem.extra.items()}
    options = {"lengths": problem.lengths, "inputs": extra}
    with rnnx.use_engine("cpu"), use_policy(lambda work: choice):
        expected, _, kept = rnnx.recurrent_forward(*arguments, **options)
        states, _, caches = rnnx.recurrent_forward(*arguments, **options, keep_caches=False)
    for name, one, other in zip(cell.states, states, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        one[...] = np.nan
        np.testing.assert_array_equal(caches.final_state[name], kept.final_state[name])


def test_inference_of_a_stack_keeps_one_cell_state():
    key = PassKey(rnnx.CELLS["lstm"], np.dtype("float32"), 50, 3, 8, 2, False, ("Wf", "Wi", "Wc", "Wo"), False)
    shapes = [ForwardPass(key, False, (None,), None, only_first).block.shapes[:2] for only_first in (False, True)]
    assert shapes == [((51, 3, 8), (51, 3, 8)), ((51, 3, 8), (1, 3, 8))]
