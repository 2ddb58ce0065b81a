"""Means over the units: values, gradients and the phases of the kernels of the CPU engine. See `test_one_sided_cells`
for all kinds of calls."""

import functools
import itertools
from collections import Counter

import numpy as np
import pytest
from mean_cells import CENTRED, EXTREMES, MEANS, NESTED, POOLED, TWO_PRODUCTS, UNUSED
from oracle import torch_results
from problems import TOLERANCE, assert_close, make_problem, run
from torch_zoo import STEPS, joint, of_x

import rnnx
from rnnx.cells import CELLS
from rnnx.cells.operations import uses_means
from rnnx.cells.wiring import wiring
from rnnx.engines.cpu.codegen.phases import n_kept, phases_of
from rnnx.engines.cpu.runtime.thread_policy import use_policy


def over_units(z):
    return z.mean(0, keepdim=True)


def nested(p, s, x, e):
    (a, b), e, v = s, e["e"], p["v"]
    z = joint(p, "f", a, x)
    k = (z - over_units(z)) / (z.var(0, unbiased=False, keepdim=True) + 0.1).sqrt()
    t = (of_x(p, "g", x) + v * (p["Wh"] @ a) + over_units(k.tanh() * e)).tanh()
    b = t * b + over_units(p["w"] * e) + over_units(v.tanh()) * over_units(e)
    return k * v + over_units(b * t), b


def two_products(p, s, x, e):
    r = joint(p, "r", s[0], x).sigmoid() * s[0]
    return (joint(p, "c", r / (over_units(r * r) + 0.1).sqrt(), x).tanh(),)


def pooled(p, s, x, e):
    z = joint(p, "f", s[0], x).tanh()
    return z * (over_units(s[1]) + 3).sign(), over_units(z) - s[1]


def extremes(p, s, x, e):
    import torch

    z, a = joint(p, "f", s[0], x).tanh(), s[0]
    k = z / (over_units(z * z) + 0.1).sqrt()
    low = torch.minimum(over_units(k).expand(z.shape), 0.3 * a)
    chosen = torch.where(z > 0.1, torch.maximum(k, p["v"].expand(z.shape)), low)
    return (chosen + torch.where(over_units(z) > 0.05, z, torch.full_like(z, 0.5)),)


def centred(p, s, x, e):
    t = (p["Wx"] @ x + p["Wh"] @ s[0] + p["b"]).tanh()
    return (t - over_units(t),)


FORMULAS = {
    NESTED: nested,
    TWO_PRODUCTS: two_products,
    POOLED: pooled,
    EXTREMES: extremes,
    CENTRED: centred,
}
FORMULAS |= {cell: STEPS[cell.name] for cell in MEANS if cell.name in STEPS}


@functools.cache
def cases(cell, n):
    """Problems, and what torch computes."""
    rng, scale = np.random.default_rng(20261120), min(1, 2 / n**0.5)
    problems = [make_problem(cell, rng, 3, n, lengths=lengths, scale=scale) for lengths in (None, [4, 0, 5])]
    return [(problem, torch_results(FORMULAS[cell], problem)) for problem in problems]


@pytest.mark.parametrize("n", [1, 3, 8, 16, 17, 33, 100])
@pytest.mark.parametrize("cell", MEANS, ids=lambda cell: cell.name)
def test_cells_with_means_against_torch(cell, n, engine):
    """Where a gradient cancels, its error is relative to the others."""
    for problem, expected in cases(cell, n):
        results, _ = run(problem)
        largest = max(np.linalg.norm(value) for value in expected.values())
        for key, value in expected.items():
            if np.linalg.norm(value) > 1e-6 * largest:
                assert_close(results[key], value, TOLERANCE["oracle"], f"{cell.name} {key}")
            assert np.linalg.norm(results[key] - value) <= 1e-12 * largest, key


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 3, 8, 16, 17, 33, 100])
def test_a_mean_is_exact_for_equal_numbers(n, dtype, engine):
    """In every example, whatever the width."""
    x = np.full((1, 3, 2), [[[0.1], [7.0], [-3.0]]], dtype)
    parameters = {"Wx": np.ones((n, 1), dtype), "Wh": np.zeros((n, n), dtype), "b": np.zeros((n, 1), dtype)}
    (a,), _, _ = rnnx.recurrent_forward(CENTRED, x, [np.zeros((n, 3), dtype)], parameters)
    np.testing.assert_allclose(a, 0, atol=n * np.finfo(dtype).eps / 2)


def test_nan_stays_in_its_example(engine, rng):
    problem = make_problem(NESTED, rng, 3, 18, 4)
    expected, _ = run(problem)
    problem.x[0, 1, 2] = np.nan
    results, _ = run(problem)
    others = [0, 2, 3]
    for key in ("a", "b", "dx", "de", "da0"):
        np.testing.assert_array_equal(results[key][:, others], expected[key][:, others])
    assert np.isnan(results["a"][:, 1, 2:]).all()
    np.testing.assert_array_equal(results["a"][:, 1, :2], expected["a"][:, 1, :2])


def test_a_mean_without_a_gradient(engine, rng):
    """The backward function of a stage need not contain means."""
    problem = make_problem(UNUSED, rng, 3, 18, 4)
    results, _ = run(problem)
    with rnnx.use_engine("reference"):
        expected, _ = run(problem)
    for key, value in expected.items():
        assert_close(results[key], value, 1e-13, key)


def test_units_stay_together(rng):
    """Threads share the examples, even if the policy asks for units."""
    problem = make_problem(NESTED, rng, 3, 150, 5)
    seen = []
    with rnnx.use_engine("cpu"), use_policy(lambda work: (1, False)):
        expected, _ = run(problem)
    for choice in itertools.product((2, 3, 7), (False, True)):
        with rnnx.use_engine("cpu"), use_policy(lambda work, choice=choice: seen.append(work.shares) or choice):
            results, _ = run(problem)
        for key, value in expected.items():
            np.testing.assert_array_equal(results[key], value)
    assert set(seen) == {0}


def all_phases(cell, job):
    return [phases_of(stage, job, (True,) * len(cell.states)) for stage in wiring(cell)]


def test_phases():
    """As many as there are means beneath each other, and one more; costly values are not computed twice."""
    assert [len(phases) for phases in all_phases(NESTED, "forward")] == [5]
    assert [len(phases) for phases in all_phases(TWO_PRODUCTS, "forward")] == [2, 0]
    assert [len(phases) for phases in all_phases(UNUSED, "backward")] == [0]
    for cell in (NESTED, CELLS["layer_norm_lstm"], CELLS["layer_norm_gru"]):
        (stage,), (forward,) = cell.stages, all_phases(cell, "forward")
        words = sum((phase.each.program.counts() + phase.once.program.counts() for phase in forward), Counter())
        assert words["mean"] == 0
        for word in ("tanh", "sigmoid", "sqrt"):
            assert words[word] == stage.forward.program.counts()[word], (cell.name, word)


def test_cells_without_means_have_no_phases():
    for cell in CELLS.values():
        expected = cell.name.startswith("layer_norm")
        assert any(map(uses_means, wiring(cell))) == expected, cell.name
        for job in ("forward", "backward"):
            assert any(all_phases(cell, job)) == expected


def test_only_costly_values_are_kept():
    """k, t and the new b, but neither z - mean(z), which is computed again, nor the uniform root."""
    (phases,) = all_phases(NESTED, "forward")
    assert n_kept(phases) == 3
