"""Random problems for every cell, the table of tolerances, and numeric gradients."""

from dataclasses import dataclass, field

import numpy as np

import rnnx

# Relative errors in the norm of a whole array. "gradient": float64 against central differences. "oracle": float64
# against another implementation. "float32": against float64, over a hundred steps. ENGINES_TOLERANCE: two engines.
TOLERANCE = {"gradient": 1e-6, "oracle": 1e-10, "float32": 1e-5}
ENGINES_TOLERANCE = {"float32": 2e-6, "float64": 1e-14}
TENSOR = {
    "float16": 4e-3,
    "tf32": 4e-3,
    "bfloat16": 3e-2,
}  # products on tensor cores; the first two have equal mantissas


def assert_close(actual, desired, tolerance, what=""):
    """Check that shapes are equal and that the relative error, in norm, is at most `tolerance`."""
    actual, desired = np.asarray(actual, np.float64), np.asarray(desired, np.float64)
    assert actual.shape == desired.shape, f"{what}: shape {actual.shape}, expected {desired.shape}"
    if actual.size == 0:
        return
    difference = np.abs(actual - desired)
    worst = np.unravel_index(np.argmax(np.where(np.isnan(difference), np.inf, difference)), actual.shape)
    error = np.linalg.norm(difference) / max(np.linalg.norm(desired), 1e-300)
    assert error <= tolerance, (
        f"{what}: relative error {error:.2e} > {tolerance:.0e}; "
        f"at {worst}: {actual[worst]!r}, expected {desired[worst]!r}"
    )


@dataclass
class Problem:
    """Inputs of a cell and random cotangents of all outputs."""

    cell: rnnx.Cell
    x: np.ndarray
    s0: list
    parameters: dict
    dstates: list
    dfinal: list
    lengths: list | None = None
    extra: dict = field(default_factory=dict)  # the cell's inputs besides x

    @property
    def inputs(self) -> dict:
        """All differentiable inputs by name."""
        recurrent = {k: v for k, v in self.parameters.items() if k not in self.cell.head}
        states = {f"{s}0": a for s, a in zip(self.cell.states, self.s0, strict=True)}
        return {"x": self.x, **states, **recurrent, **self.extra}

    def forward(self) -> tuple:
        options = {"lengths": self.lengths, "inputs": self.extra}
        return rnnx.recurrent_forward(self.cell, self.x, self.s0, self.parameters, **options)

    def loss(self) -> float:
        """Inner product of the outputs and their cotangents, which may cover fewer steps than x."""
        states, _, caches = self.forward()
        total = sum(np.sum(s[:, :, : d.shape[2]] * d) for s, d in zip(states, self.dstates, strict=True))
        if self.dfinal:
            final = caches.final_state
            total += sum(np.sum(final[s] * d) for s, d in zip(self.cell.states, self.dfinal, strict=True))
        return float(total)

    def gradients(self) -> dict:
        _, _, caches = self.forward()
        return rnnx.recurrent_backward(self.cell, self.dstates, caches, ds_final=self.dfinal)

    def astype(self, dtype) -> "Problem":
        def cast(arrays):
            return [a.astype(dtype) for a in arrays]

        parameters = {k: v.astype(dtype) for k, v in self.parameters.items()}
        return Problem(
            self.cell,
            self.x.astype(dtype),
            cast(self.s0),
            parameters,
            cast(self.dstates),
            cast(self.dfinal),
            self.lengths,
            {k: v.astype(dtype) for k, v in self.extra.items()},
        )


def make_problem(
    cell, rng, n_x=3, n_a=4, m=3, n_steps=5, *, n_y=None, scale=1.0, lengths=None, da_steps=None, final=True
):
    """Draw a problem. Weights have scale 1: small ones would hide errors in the derivatives of tanh and sigmoid."""

    def normal(*shape):
        return rng.standard_normal(shape)

    shapes = rnnx.initialize_parameters(cell, n_x, n_a, n_y, seed=0, scheme="course")  # the quickest to draw
    units = [cell.size(state, n_a) for state in cell.states]
    return Problem(
        cell,
        normal(n_x, m, n_steps),
        [normal(n, m) for n in units],
        {k: scale * normal(*v.shape) for k, v in shapes.items()},
        [normal(n, m, n_steps if da_steps is None else da_steps) for n in units],
        [normal(n, m) for n in units] if final else [],
        lengths,
        {name: normal(cell.size(name, n_a), m, n_steps) for name in cell.inputs},
    )


def run(problem, asarray=lambda a: a):
    """Run forward and backward; return all results by name, and the caches."""
    parameters = {key: asarray(p) for key, p in problem.parameters.items()}
    s0, ds, dfinal = ([asarray(a) for a in arrays] for arrays in (problem.s0, problem.dstates, problem.dfinal))
    extra = {name: asarray(a) for name, a in problem.extra.items()}
    states, y, caches = rnnx.recurrent_forward(
        problem.cell, asarray(problem.x), s0, parameters, lengths=problem.lengths, inputs=extra
    )
    gradients = rnnx.recurrent_backward(problem.cell, ds, caches, ds_final=dfinal)
    results = dict(zip(problem.cell.states, states, strict=True))
    results |= {f"final {name}": s for name, s in caches.final_state.items()}
    return {**results, **({} if y is None else {"y": y}), **gradients}, caches


def numeric_gradient(f, a, step=1e-6, most=None):
    """Central differences of f() with respect to the elements of `a`, which f reads.

    If `a` has more than `most` elements, only that many, chosen at random, are computed; the others are NaN.
    """
    gradient = np.full_like(a, np.nan)
    places = list(np.ndindex(a.shape))
    if most is not None and len(places) > most:
        places = [places[i] for i in np.random.default_rng(0).choice(len(places), most, replace=False)]
    for i in places:
        kept = a[i]
        a[i] = kept + step
        above = f()
        a[i] = kept - step
        gradient[i] = (above - f()) / (2 * step)
        a[i] = kept
    return gradient


def central_differences(problem, most=None):
    """The loss of a problem, and its numeric gradients by name, with the forward pass of the CPU engine.

    It is faster than the reference engine, with which other tests compare it.
    """
    numbers = {name: array for name, array in problem.inputs.items() if array.dtype.kind == "f"}
    with rnnx.use_engine("cpu"):
        return problem.loss(), {name: numeric_gradient(problem.loss, a, most=most) for name, a in numbers.items()}


def check_gradients(problem, loss, numeric, what=""):
    """Check an engine against `central_differences`: those of engines with the same loss to rounding are the same."""
    assert abs(problem.loss() - loss) <= 1e-12 * max(abs(loss), 1)
    gradients = problem.gradients()
    assert set(gradients) == {"d" + name for name in numeric}
    for name, expected in numeric.items():
        gradient = gradients["d" + name]
        expected = expected[:, :, : gradient.shape[2]] if name == "x" else expected
        known = ~np.isnan(expected)
        assert_close(gradient[known], expected[known], TOLERANCE["gradient"], f"{what} d{name}")


def arranged(a, how):
    """The same values in another arrangement in memory."""
    if how == "strided":
        base = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
        base[..., ::2] = a
        return base[..., ::2]
    if how == "reversed":
        return np.ascontiguousarray(a[::-1])[::-1]
    if how == "unaligned":
        memory = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
        memory[...] = a
        return memory
    out = np.array(a, order="F" if how == "F" else "C")
    out.flags.writeable = how != "readonly"
    return out
