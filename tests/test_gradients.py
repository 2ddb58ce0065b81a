"""Hand-derived gradients against central differences: every engine x cell x input, weights of scale 1."""

import functools

import numpy as np
import pytest
from problems import TOLERANCE, assert_close, central_differences, check_gradients, make_problem, numeric_gradient

import rnnx

CASES = {
    "full": {},
    "lengths": {"lengths": [2, 0, 5]},
    "lengths-unordered": {"lengths": [0, 5, 1], "final": False},
    "short-da": {"da_steps": 3, "final": False},
    "short-da-lengths": {"da_steps": 3, "final": False, "lengths": [5, 1, 4]},
    "one-step": {"n_steps": 1},
    "one-unit": {"n_x": 1, "n_a": 1, "m": 1},
    "one-example": {"m": 1, "n_steps": 3},
    "unit-parallel": {"n_a": 35, "n_x": 1, "m": 2, "n_steps": 2},  # enough units for two threads
    "large": {"n_a": 19, "n_x": 2, "m": 7, "n_steps": 2},  # more units than SIMD lanes, more examples than MR
}


@functools.cache
def make_case(cell, case):
    """A problem, its loss, and numeric gradients by name."""
    problem = make_problem(cell, np.random.default_rng(1), **CASES[case])
    return problem, *central_differences(problem, most=30)


@pytest.mark.parametrize("case", CASES)
def test_against_central_differences(engine, cell, case):
    check_gradients(*make_case(cell, case), f"{cell.name} {engine} {case}")


def test_short_da_is_padded_with_zeros(engine, cell, rng):
    """dx has as many steps as da and equals the gradient for a zero-padded da."""
    short = make_problem(cell, rng, n_steps=6, da_steps=4, final=False)
    gradients = short.gradients()
    assert gradients["dx"].shape == (3, 3, 4)
    short.dstates = [np.concatenate([d, np.zeros((4, 3, 2))], axis=2) for d in short.dstates]
    padded = short.gradients()
    assert_close(padded["dx"][:, :, 4:], np.zeros((3, 3, 2)), 0, "dx")
    padded["dx"] = padded["dx"][:, :, :4]
    for name, gradient in padded.items():
        assert_close(gradients[name], gradient, 1e-12, name)


def test_missing_cotangents_are_zero(engine, cell, rng):
    problem = make_problem(cell, rng)
    only_final = make_problem(cell, np.random.default_rng(1))
    only_final.__dict__.update(problem.__dict__)
    only_final.dstates = [np.zeros_like(d) for d in problem.dstates]
    expected = only_final.gradients()
    _, _, caches = rnnx.recurrent_forward(cell, problem.x, problem.s0, problem.parameters)
    actual = rnnx.recurrent_backward(cell, (), caches, ds_final=problem.dfinal)
    for name, gradient in expected.items():
        assert_close(actual[name], gradient, 1e-14, name)


def test_entries_past_the_end_are_ignored(engine, cell, rng):
    """NaN in x and da past an example's length reaches no output and no gradient."""
    problem = make_problem(cell, rng, n_y=2, lengths=[2, 0, 5])
    reference = problem.gradients()
    for j, length in enumerate(problem.lengths):
        for array in (problem.x, *problem.dstates):
            array[:, j, length:] = np.nan
    for name, gradient in problem.gradients().items():
        assert_close(gradient, reference[name], 0, name)


@pytest.mark.parametrize("dtype", ["float32"])
def test_float32_against_float64(engine, cell, dtype, rng):
    """A hundred steps with weights as small as a trained network's; larger ones amplify rounding errors too much."""
    problem = make_problem(cell, rng, n_x=8, n_a=32, m=4, n_steps=100, scale=0.15)
    exact, rounded = problem.gradients(), problem.astype(dtype).gradients()
    for name, gradient in exact.items():
        assert rounded[name].dtype == dtype
        assert_close(rounded[name], gradient, TOLERANCE["float32"], f"{cell.name} {name}")


def test_wrong_derivatives_are_found(rng):
    """The derivative of tanh at the wrong argument, a mistake seen in published code."""
    from dataclasses import replace

    right = rnnx.CELLS["rnn"]

    def backward(ops, ds, s_prev, s_next, saved):
        (da,), (a,) = ds, s_next
        t = ops.tanh(a)
        dz = (da - da * t * t,)
        return dz, dz, (ops.zeros_like(da),)

    wrong = replace(right, name="wrong", stages=(replace(right.stages[0], backward=backward),))
    problem = make_problem(wrong, rng)
    with rnnx.use_engine("reference"):
        numeric = numeric_gradient(problem.loss, problem.inputs["Waa"])
        with pytest.raises(AssertionError, match="relative error"):
            assert_close(problem.gradients()["dWaa"], numeric, TOLERANCE["gradient"])
