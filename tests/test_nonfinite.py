"""NaN and infinity: examples past their end are not affected by them, and all engines agree on where they appear."""

import warnings

import fuzz
import numpy as np
import pytest
from problems import ENGINES_TOLERANCE, make_problem, run

import rnnx
from rnnx._core.harmless_errors import ignore_harmless_errors

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

LENGTHS = [5, 2, 0, 3, 5, 1]


def assert_same(found, expected):
    """Check that the same elements are finite, and that these are close."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        finite = np.isfinite(value)
        assert np.array_equal(np.isfinite(found[name]), finite), name
        np.testing.assert_allclose(
            found[name][finite], value[finite], rtol=0, atol=100 * ENGINES_TOLERANCE["float64"], err_msg=name
        )


def problem_with(cell, rng, value, *, side="both", indices=False):
    """Return a problem with a `value` in each matrix of weights, in the columns of `side`."""
    problem = make_problem(cell, rng, n_x=3, n_a=9, m=len(LENGTHS), lengths=LENGTHS)
    for gate in cell.gates:
        w_x, w_h = gate.split(problem.parameters, problem.s0[0].shape[0])
        for one, name in ((w_x, "inputs"), (w_h, "states")):
            if side in (name, "both"):
                one[-1, 1] = value
    if indices:
        problem.x = rng.integers(0, 3, (len(LENGTHS), 5))
    return problem


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("side", ["inputs", "states", "both"])
def test_weights(engine, cell, rng, value, side):
    problem = problem_with(cell, rng, value, side=side)
    found, _ = run(problem)
    with rnnx.use_engine("reference"):
        expected, _ = run(problem)
    assert_same(found, expected)
    ended = np.arange(5) >= np.array(LENGTHS)[:, None]
    assert (found["dx"][:, ended] == 0).all()
    for name, initial, d in zip(cell.states, problem.s0, problem.dfinal, strict=True):
        assert (found[name][:, ended] == 0).all()
        assert np.array_equal(found[f"final {name}"][:, 2], initial[:, 2])
        assert np.array_equal(found[f"d{name}0"][:, 2], d[:, 2])  # the example of no steps


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_index_inputs(engine, cell, rng, value):
    problem = problem_with(cell, rng, value, side="inputs", indices=True)
    found, _ = run(problem)
    with rnnx.use_engine("reference"):
        expected, _ = run(problem)
    assert_same(found, expected)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_inputs_and_cotangents_past_the_end(engine, cell, rng, value):
    problem = problem_with(cell, rng, 1.0)
    expected, _ = run(problem)
    ended = np.arange(5) >= np.array(LENGTHS)[:, None]
    for array in (problem.x, *problem.dstates):
        array[:, ended] = value
    found, _ = run(problem)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("scale", [1e200, 1e300])
def test_products_that_overflow(engine, cell, rng, scale):
    """An overflow stays within its example, and does not reach an example that has ended."""
    problem = make_problem(cell, rng, n_a=9, m=len(LENGTHS), lengths=LENGTHS, scale=scale)
    problem.dstates = [scale * d for d in problem.dstates]
    found, _ = run(problem)
    assert (found["dx"][:, np.arange(5) >= np.array(LENGTHS)[:, None]] == 0).all()
    for name, d in zip(cell.states, problem.dfinal, strict=True):
        assert np.array_equal(found[f"d{name}0"][:, 2], d[:, 2])


def scaled(value, scale, dtype):
    """Multiply all floating arrays of an argument."""
    if isinstance(value, dict):
        return {key: scaled(a, scale, dtype) for key, a in value.items()}
    if isinstance(value, tuple):
        return tuple(scaled(a, scale, dtype) for a in value)
    floating = isinstance(value, np.ndarray) and value.dtype.kind == "f"
    return (scale * value).astype(dtype) if floating else value


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1e-310, 1e-160, 1e-40, 1e-25, 1.0, 1e3, 1e5])
@pytest.mark.parametrize("engine", ["reference", "cpu"], indirect=True)
def test_an_underflow_is_no_error(engine, scale, dtype):
    """Whatever the error state of the caller, results are the same; an overflow is an error if the caller wants it."""
    for call in fuzz.calls(np.random.default_rng(0)):
        if not call.function.__module__.startswith("rnnx"):
            continue
        with np.errstate(all="ignore"):
            arguments = {name: scaled(value, scale, dtype) for name, value in call.arguments.items()}
            expected = fuzz.flat(call.function(**arguments))
        for how in ("raise", "warn"):
            with np.errstate(over="ignore", invalid="ignore", under=how), warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                found = fuzz.flat(call.function(**arguments))
            assert all(np.array_equal(*pair, equal_nan=True) for pair in zip(found, expected, strict=True)), call.name
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        rnnx.squared_error(np.full((1, 1, 1), 1e200), np.zeros((1, 1, 1)))


def test_an_invalid_lane_of_a_product_is_no_error():
    """OpenBLAS raises the flag although all numbers are finite, if hardly ever; here infinity times zero raises it."""

    @ignore_harmless_errors
    def results(order):
        parts = {
            "small": lambda: np.exp(np.full(3, -100.0, np.float32)),
            "product": lambda: infinite @ np.zeros((2, 3)),
        }
        return [parts[name]() for name in order]

    infinite = np.full((3, 2), np.inf)
    for order in (("small", "product"), ("product", "small"), ("product",)):
        with np.errstate(all="raise"):
            assert np.isnan(results(order)[order.index("product")]).all()
    with np.errstate(all="raise"), pytest.raises(FloatingPointError, match="invalid value encountered in subtract"):
        ignore_harmless_errors(np.subtract)(np.inf, np.inf)
