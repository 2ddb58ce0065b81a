"""Comparison with the reference engine that knows how much a cell's equations amplify rounding errors."""

import copy

import numpy as np
from head_cells import NORMALIZED
from mean_cells import MEANS
from problems import run
from wide_cells import THREE_WIDTHS

import rnnx


def compare(problem, tolerance):
    """Check the current engine against the reference engine."""
    check(problem, *expectation(problem, tolerance))


def expectation(problem, tolerance):
    """Return the results of the reference engine, and the tolerance.

    Normalization divides by a standard deviation, which may be as small as the root of its epsilon, and so amplifies
    rounding errors: a change of the arguments by one unit in the last place of float32 changes the exact results of
    these cells by up to 7e-6. No engine can do better. Cells with means are then checked against float64, and may have
    three times the error of the reference engine, which is a sample of the same distribution. In float64, they may
    have three times the change of the reference engine's results.
    """
    with rnnx.use_engine("reference"):
        expected, _ = run(problem)
        if problem.cell in (*MEANS, NORMALIZED, THREE_WIDTHS):
            if problem.s0[0].dtype == "float32":
                sample, (expected, _) = expected, run(as_double(problem))
            else:
                sample, _ = run(neighbour(problem))
            tolerance = max(tolerance, 3 * max(error for _, error in errors(sample, expected)))
    return expected, tolerance


def check(problem, expected, tolerance):
    """Check the current engine against an expectation."""
    actual, _ = run(problem)
    assert actual.keys() == expected.keys()
    assert {array.dtype for array in actual.values()} == {problem.s0[0].dtype}
    for names, error in errors(actual, expected):
        assert error <= tolerance, f"{problem.cell.name} {names}: relative error {error:.2e} > {tolerance:.1e}"


def as_double(problem):
    double = problem.astype("float64")
    double.x = double.x if problem.x.dtype == "float32" else problem.x  # indices
    return double


def neighbour(problem):
    """Return the problem with arguments that differ by one unit in the last place."""
    signs, copied = np.random.default_rng(20261127), copy.deepcopy(problem)
    for array in (*copied.s0, *copied.parameters.values(), *copied.dstates, *copied.dfinal, *copied.extra.values()):
        array *= 1 + np.finfo(array.dtype).eps * signs.choice((-1, 1), array.shape)
    return copied


def errors(actual, expected):
    """Return the relative errors, in norm, of groups of results by their names."""
    # Small gradients are one vector: one of one unit alone may be a sum that cancels.
    small = [name for name, array in expected.items() if array.size < 20]
    for names in [small] * bool(small) + [[name] for name in expected if name not in small]:
        both = (np.concatenate([results[name].ravel() for name in names]) for results in (actual, expected))
        got, want = (array.astype(np.float64) for array in both)
        yield names, np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-300)
