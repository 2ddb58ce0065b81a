"""A check of a cell's gradients, for authors of cells."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rnnx import engines
from rnnx._core.checks import choice, integer
from rnnx._core.randomness import RNG, generator, takes_rng
from rnnx.cells import Cell, cell_of
from rnnx.functional.initialization import initialize_parameters
from rnnx.functional.recurrent import recurrent_backward, recurrent_forward

_STEP = 1e-6  # of the central differences
TOLERANCE = 1e-6


@takes_rng
def check_cell(
    cell: Cell | str,
    *,
    n_x: int = 3,
    n_a: int | None = None,
    m: int = 3,
    n_steps: int = 4,
    engine_names: Sequence[str] | None = None,
    rng: RNG = 0,
) -> dict[str, float]:
    """Compare a cell's gradients with central differences, in float64.

    Parameters and inputs are random, of scale 1, and the examples have different lengths. All states have cotangents,
    at every step and at the end.

    Parameters
    ----------
    cell : Cell or str
        Your own cell, or the name of one in ``rnnx.CELLS``.
    n_x, n_a, m, n_steps : int
        Numbers of inputs, hidden units, examples and steps. `n_a` is 5 by default, or a little more for a cell with
        heads.
    engine_names : sequence of str, optional
        Engines to check; default: all for NumPy arrays that can run here.
    rng : int, numpy.random.Generator or other seed, optional
        See `numpy.random.default_rng`; also under its older name, `seed`.

    Returns
    -------
    errors : dict of str to float
        Per engine, the largest error of a gradient, relative to its largest element or 1.

    Raises
    ------
    ValueError
        If an error is above 1e-6; the message names the gradient and the engine. Differences are unreliable next to
        points where the cell is not differentiable, such as ``relu`` at 0: try another `rng`.

    See Also
    --------
    cell

    Examples
    --------
    >>> import rnnx
    >>> errors = rnnx.check_cell("lstm", n_steps=2, engine_names=["reference"])
    >>> errors["reference"] < 1e-8
    True
    """
    cell = cell_of(cell)
    n_a = -(-5 // cell.multiple) * cell.multiple if n_a is None else n_a
    sizes = {"n_x": n_x, "n_a": n_a, "m": m, "n_steps": n_steps}
    n_x, n_a, m, n_steps = (integer(name, size) for name, size in sizes.items())
    problem = _Problem(cell, n_x, n_a, m, n_steps, generator("rng", rng))
    names = engines.engines_of("numpy") if engine_names is None else list(engine_names)
    for name in names:
        choice("engine_names", name, engines.engine_names())
    # The compiled engine is faster. If its forward pass were wrong, the gradients of the other one would differ.
    with engines.use_engine("cpu" if {"cpu", "reference"} <= set(names) else "reference"):
        expected = {name: _differences(problem.loss, array) for name, array in problem.arrays.items()}
    errors = {}
    for name in names:
        with engines.use_engine(name):
            gradients = problem.gradients()
        of_engine = {key: _error(gradients["d" + key], numeric) for key, numeric in expected.items()}
        worst = max(of_engine, key=lambda key: of_engine[key])
        errors[name] = of_engine[worst]
        if not errors[name] <= TOLERANCE:
            of = f"the gradient of `{worst}` of cell {cell.name!r} on engine {name!r}"
            raise ValueError(f"{of} differs from central differences; relative error {errors[name]:.2g}")
    return errors


class _Problem:
    """Random arguments of a cell, and a loss: the inner product of its states and random cotangents."""

    def __init__(self, cell: Cell, n_x: int, n_a: int, m: int, n_steps: int, rng: np.random.Generator) -> None:
        self.cell = cell
        self.lengths = [max(n_steps - j, 1) for j in range(m)]
        units = {name: cell.size(name, n_a) for name in (*cell.states, *cell.inputs)}
        initial = initialize_parameters(cell, n_x, n_a, rng=rng, dtype="float64")
        own = dict(cell.initial)
        noise = {key: 0.1 * np.abs(p) if key in own else 1 for key, p in initial.items()}
        self.parameters = {
            key: (p if key in own else 0) + noise[key] * rng.standard_normal(p.shape) for key, p in initial.items()
        }
        self.x = rng.standard_normal((n_x, m, n_steps))
        self.s0 = [rng.standard_normal((units[name], m)) for name in cell.states]
        self.inputs = {name: rng.standard_normal((units[name], m, n_steps)) for name in cell.inputs}
        self.ds = [rng.standard_normal((units[name], m, n_steps)) for name in cell.states]
        self.ds_final = [rng.standard_normal((units[name], m)) for name in cell.states]

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """All arrays that have gradients, by name."""
        states = {f"{name}0": s for name, s in zip(self.cell.states, self.s0, strict=True)}
        return {"x": self.x, **states, **self.parameters, **self.inputs}

    def _forward(self) -> Any:
        return recurrent_forward(self.cell, self.x, self.s0, self.parameters, lengths=self.lengths, inputs=self.inputs)

    def loss(self) -> float:
        """Return the loss."""
        states, _, caches = self._forward()
        final = caches.final_state.values()
        pairs = [*zip(states, self.ds, strict=True), *zip(final, self.ds_final, strict=True)]
        return float(sum(np.sum(s * d) for s, d in pairs))

    def gradients(self) -> dict[str, np.ndarray]:
        """Return the gradients of the loss, by "d" + name."""
        return recurrent_backward(self.cell, self.ds, self._forward()[2], ds_final=self.ds_final)


def _differences(loss: Callable[[], float], array: np.ndarray) -> np.ndarray:
    """Return the central differences of a loss with respect to the elements of an array that it reads."""
    result = np.empty_like(array)
    for at in np.ndindex(array.shape):
        kept = array[at]
        array[at] = kept + _STEP
        above = loss()
        array[at] = kept - _STEP
        result[at] = (above - loss()) / (2 * _STEP)
        array[at] = kept
    return result


def _error(gradient: np.ndarray, numeric: np.ndarray) -> float:
    return float(np.max(np.abs(gradient - numeric)) / max(1.0, np.max(np.abs(numeric))))
