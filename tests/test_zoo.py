"""The cells of the zoo against forward functions written a second time, in torch: see `torch_zoo`."""

import numpy as np
import pytest
from oracle import torch_results
from problems import TOLERANCE, assert_close, make_problem
from torch_zoo import STEPS

import rnnx
from rnnx.cells import BUILT_IN, CELLS, ZOO


def zoo_problem(name, rng, lengths):
    """Draw a problem in which the cell is far from dividing by zero."""
    problem = make_problem(CELLS[name], rng, lengths=lengths)
    if name == "slstm":
        problem.s0[2][...] = 1 + np.abs(problem.s0[2])
    if name == "phased_lstm":
        problem.parameters["r"][...] = rng.uniform(0.3, 0.6, problem.parameters["r"].shape)
    return problem


def check(name, problem, x, resets=None):
    """Compare all results for inputs x, which `problem` may have as one-hot columns, with torch's."""
    expected = torch_results(STEPS[name], problem, resets)
    states, _, caches = rnnx.recurrent_forward(
        name, x, problem.s0, problem.parameters, lengths=problem.lengths, inputs=problem.extra, resets=resets
    )
    results = dict(zip(problem.cell.states, states, strict=True))
    results |= rnnx.recurrent_backward(name, problem.dstates, caches, ds_final=problem.dfinal)
    for key in {*expected} - ({"dx"} if x.dtype.kind == "i" else set()):
        assert_close(results[key], expected[key], 1e-10, f"{name} {key}")


@pytest.mark.parametrize("lengths", [None, [4, 0, 5]], ids=["full", "lengths"])
@pytest.mark.parametrize("name", ZOO)
def test_a_cell_computes_the_equations_of_its_paper(name, engine, lengths, rng):
    problem = zoo_problem(name, rng, lengths)
    check(name, problem, problem.x)


@pytest.mark.parametrize("name", ZOO)
def test_a_cell_with_indices_and_resets(name, engine, rng):
    problem = zoo_problem(name, rng, [4, 0, 5])
    n_x, m, n_steps = problem.x.shape
    indices = rng.integers(0, n_x, (m, n_steps))
    problem.x[...] = np.moveaxis(np.eye(n_x)[indices], 2, 0)
    check(name, problem, indices, rng.random((m, n_steps)) < 0.4)


@pytest.mark.parametrize("name", ZOO)
def test_gradients_are_central_differences(name):
    errors = rnnx.check_cell(name, n_x=2, n_a=3, m=2, n_steps=3, engine_names=["reference"])
    assert errors["reference"] < TOLERANCE["gradient"]


def test_the_table_of_cells():
    assert list(CELLS) == [*BUILT_IN, *ZOO]
    assert len(CELLS) == len({*CELLS}) == len(BUILT_IN) + len(ZOO)
    assert all(cell.name == name for name, cell in CELLS.items())
    assert list(ZOO) == sorted(ZOO)
    with pytest.raises(KeyError):
        CELLS["lstn"]
    with pytest.raises(ValueError, match="did you mean 'mgu'"):
        rnnx.recurrent_forward("mguu", np.ones((1, 1, 1)), (), {})
