"""Problems for the checks of `gpu.py`: making, running and comparing them."""

import numpy as np
from gpu_device import dtype_of  # makes rnnx and the modules of the tests importable

import rnnx


def make(cell, rng, size, precision="float32", *, indexed=False, ended=False):
    """Make a problem as in the tests, with every optional parameter; with `ended`, also lengths from 0 to T."""
    from problems import make_problem

    n_x, n_a, m, n_steps = size
    scale = (n_a + n_x) ** -0.5
    lengths = [0, n_steps, *rng.integers(0, n_steps + 1, m)][:m] if ended else None
    problem = make_problem(cell, rng, n_x, n_a, m, n_steps, scale=scale, lengths=lengths)
    problem.parameters |= {key: scale * rng.standard_normal((n_a, 1)) for key in cell.optional_keys}
    problem = problem.astype(dtype_of(precision))
    if indexed:
        problem.x = rng.integers(0, n_x, (m, n_steps))
    return problem


def reference(problem):
    """Return the float64 results of a problem, from the reference engine."""
    wide = problem.astype("float64")
    if problem.x.ndim == 2:
        wide.x = problem.x
    with rnnx.use_engine("reference"):
        return results(wide, *forward(wide))


def upload(device, problem, order="C"):
    """Copy all arrays of a problem to the device."""
    from problems import Problem

    def up(a):
        return device.upload(a, order)

    x = up(problem.x) if problem.x.ndim == 3 else device.upload(problem.x)
    parameters = {key: up(p) for key, p in problem.parameters.items()}
    s0, dstates, dfinal = ([*map(up, arrays)] for arrays in (problem.s0, problem.dstates, problem.dfinal))
    return Problem(problem.cell, x, s0, parameters, dstates, dfinal, problem.lengths)


def forward(problem):
    """Return the states of all steps, and the caches."""
    states, _, caches = rnnx.recurrent_forward(
        problem.cell, problem.x, problem.s0, problem.parameters, lengths=problem.lengths
    )
    return states, caches


def results(problem, states, caches):
    """Run backward and return all outputs and gradients of a problem by name."""
    final = {f"final {name}": state for name, state in caches.final_state.items()}
    gradients = rnnx.recurrent_backward(problem.cell, problem.dstates, caches, ds_final=problem.dfinal)
    return {**dict(zip(problem.cell.states, states, strict=True)), **final, **gradients}


def call(device, problem, precision="float32", order="C"):
    """Return the results of a problem on the device, as NumPy arrays."""
    given = upload(device, problem, order)
    with device.use(precision):
        found = results(given, *forward(given))
    return {name: device.to_host(a) for name, a in found.items()}


def same_bits(first, second):
    """Return whether two results are bit-identical."""
    return list(first) == list(second) and all(a.tobytes() == second[name].tobytes() for name, a in first.items())


def worst_error(actual, expected):
    """Return the largest relative error in norm, and the name of its array."""
    errors = {}
    for name, want in expected.items():
        difference = np.linalg.norm(actual[name].astype(np.float64) - want) / max(np.linalg.norm(want), 1e-300)
        errors[name] = difference if np.isfinite(difference) else np.inf
    name = max(errors, key=errors.get)
    return float(errors[name]), name
