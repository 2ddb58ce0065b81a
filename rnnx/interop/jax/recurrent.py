"""Any cell of rnnx as a function of JAX arrays. Dimensions: T steps, m examples, n units, n_x inputs."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnx._core.arrays import Array
from rnnx._core.checks import flag
from rnnx.cells import Cell, cell_of
from rnnx.cells.cell import STEP
from rnnx.cells.parameters import recurrent_parameters
from rnnx.cells.vocabulary import array_ops
from rnnx.engines.cpu.descriptor.builder import PassKey
from rnnx.functional.arguments import by_state, check_input, named_inputs
from rnnx.functional.shapes import check_parameters
from rnnx.interop.jax import passes


def recurrent(
    cell: Cell | str,
    x: Array,
    s0: Sequence[Array | None],
    parameters: Mapping[str, Array],
    *,
    lengths: Any = None,
    inputs: Mapping[str, Array] | None = None,
    reverse: bool = False,
) -> tuple[Array, tuple[Array, ...]]:
    """Run a cell over sequences; first derivatives with respect to all floating-point arrays are defined.

    Parameters
    ----------
    cell : Cell or str
        Your own cell, or the name of one in ``rnnx.CELLS``.
    x : array, shape (T, m, n_x)
        Inputs, float32 or float64.
    s0 : sequence of array or None, shape (m, n)
        Initial states in the order of ``cell.states``; None and missing entries mean zeros.
    parameters : dict of str to array
        The keys of ``cell.parameter_keys``, see `rnnx.initialize_parameters`. An output layer is ignored.
    lengths : array of int, shape (m,), optional
        Number of steps of each example, 0 to T; values out of this range are changed to the nearest one. Past its
        length, an example's state stays constant and its outputs are zero.
    inputs : dict of str to array, shape (T, m, n) or (T, m), optional
        The inputs of the cell besides x, by the names in ``cell.inputs``.
    reverse : bool
        Whether to run from the last step to the first, with lengths from the last one of each example.

    Returns
    -------
    a : array, shape (T, m, n)
        The first state after each step.
    final : tuple of array, shape (m, n)
        The states after the step that runs last.

    Raises
    ------
    ValueError, TypeError
        For wrong shapes, keys or dtypes.

    Notes
    -----
    Works under `jax.jit`, `jax.grad` and `jax.vmap`, which runs the examples of its axis one after another: the
    axis m is faster. The arrays must be on the CPU. The number of threads is chosen when a call is traced.
    """
    cell, x = cell_of(cell), jnp.asarray(x)
    if x.ndim != 3:
        raise ValueError(f"`x` must have shape (T, m, n_x); got {x.shape}")
    own = _arrays("parameters", parameters)
    given = {name: s for name, s in by_state("s0", s0, cell, "{}0").items() if s is not None}
    given = _arrays("s0", given)
    extra = _arrays("inputs", named_inputs(cell, inputs))
    dtype = _dtype({"x": x, **own, **given, **extra})
    n_x, n = check_parameters(cell, {key: np.broadcast_to(np.zeros((), dtype), p.shape) for key, p in own.items()})
    n_steps, m, features = x.shape
    if features != n_x:
        raise ValueError(f"`x` must have shape (T, m, n_x) = (T, m, {n_x}) for these parameters; got {x.shape}")
    states = []
    for name in cell.states:
        shape, s = (m, cell.size(name, n)), given.get(f"{name}0")
        if s is not None and s.shape != shape:
            raise ValueError(f"`{name}0` must have shape (m, n) = {shape}; got {s.shape}")
        states.append(jnp.zeros(shape, dtype) if s is None else s.astype(dtype))
    ends = None if lengths is None else _checked_lengths(lengths, n_steps, m)
    sequences = _sequences(cell, extra, (n_steps, m, n), dtype)
    order = _order(ends, n_steps) if flag("reverse", reverse) else None
    own = {key: value.astype(dtype) for key, value in own.items()}
    if cell.hoisted is not None:
        vectors = cell.hoisted.forward(array_ops(jnp), *[own[key] for key in cell.hoisted.sources])
        own |= dict(zip(cell.hoisted.results, vectors, strict=True))
    own = recurrent_parameters(cell, own)
    if 0 in (n_steps, m):
        return jnp.zeros((n_steps, *states[0].shape), dtype), tuple(states)
    key = PassKey(cell, dtype, n_steps, m, n, n_x, False, tuple(own), ends is not None)
    words = None if ends is None else jnp.stack([ends, jnp.zeros_like(ends)], axis=1)
    x, *sequences = [_in_order(e, order) for e in (x.astype(dtype), *sequences)]
    a, final = passes.run(key, x, tuple(states), tuple(own.values()), tuple(sequences), words)
    return _in_order(a, order), final


def _arrays(name: str, arrays: Mapping[str, Any]) -> dict[str, Array]:
    return {key: jnp.asarray(value) for key, value in arrays.items()}


def _dtype(arrays: Mapping[str, Array]) -> np.dtype:
    """Return the dtype to compute in."""
    for name, array in arrays.items():
        if array.dtype not in (jnp.float32, jnp.float64):
            raise TypeError(f"`{name}` must be float32 or float64; got {array.dtype}")
    return np.dtype(jnp.result_type(*arrays.values()))


def _checked_lengths(lengths: Any, n_steps: int, m: int) -> Array:
    """Return the lengths, in range, as 32-bit integers."""
    ends = jnp.asarray(lengths)
    if ends.shape != (m,) or not jnp.issubdtype(ends.dtype, jnp.integer):
        raise ValueError(f"`lengths` must be integers of shape (m,) = ({m},); got {ends.dtype} of shape {ends.shape}")
    return jnp.clip(ends, 0, n_steps).astype(jnp.int32)


def _order(ends: Array | None, n_steps: int) -> Any:
    """Return the steps (T, m) of each example in reverse, or (T,) of all."""
    steps = jnp.arange(n_steps)
    if ends is None:
        return steps[::-1]
    return jnp.where(steps[:, None] < ends, ends - 1 - steps[:, None], steps[:, None])


def _in_order(array: Array, order: Array | None) -> Array:
    """Return a sequence (T, m, n) with its steps in an order."""
    if order is None:
        return array
    return array[::-1] if order.ndim == 1 else jnp.take_along_axis(array, order[:, :, None], axis=0)


def _sequences(cell: Cell, given: Mapping[str, Array], sizes: tuple[int, int, int], dtype: Any) -> list[Array]:
    """Return the inputs besides x, each (T, m, n)."""
    (n_steps, m, n), defaults, found = sizes, dict(cell.defaults), []
    for name in cell.inputs:
        shape = (n_steps, m, cell.size(name, n))
        if name in given:
            array = given[name]
            if array.shape not in (shape, shape[:2]):
                raise ValueError(f"`{name}` must have shape (T, m, n) = {shape} or (T, m) = {shape[:2]}; got {array.shape}")
            array = array if array.ndim == 3 else array[:, :, None]
        else:
            array = jnp.arange(n_steps)[:, None, None] if defaults[name] == STEP else jnp.asarray(defaults[name])
        found.append(jnp.broadcast_to(array.astype(dtype), shape))
    return found
