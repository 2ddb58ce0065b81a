"""Any cell of rnnx as a function of JAX arrays. Dimensions: T steps, m examples, n units, n_x inputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnx._core.arrays import Array
from rnnx._core.checks import check_lengths, compare_shapes, flag
from rnnx._core.words import shown
from rnnx.cells import Cell, cell_of
from rnnx.cells.cell import STEP
from rnnx.cells.parameters import recurrent_parameters
from rnnx.cells.vocabulary import array_ops
from rnnx.engines.cpu.descriptor.builder import PassKey
from rnnx.engines.cpu.runtime.thread_policy import max_threads
from rnnx.functional.arguments import by_state, named_inputs
from rnnx.functional.shapes import check_dict, check_parameters
from rnnx.interop.jax.passes import Given, Layer, run

Arrays = dict[str, Array]


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
    """Run a cell over sequences, on the CPU, also under `jax.jit`, `jax.grad` and `jax.vmap`.

    Parameters
    ----------
    cell : Cell or str
        Your own cell, or the name of one in ``rnnx.CELLS``.
    x : array, shape (T, m, n_x)
        Inputs, float32 or float64.
    s0 : sequence of array or None, shape (m, n)
        Initial states in the order of ``cell.states``; None and missing entries mean zeros.
    parameters : dict of str to array
        The keys of ``cell.parameter_keys``, with the shapes that `rnnx.initialize_parameters` gives them. An output
        layer is ignored.
    lengths : sequence or array of int, shape (m,), optional
        Number of steps of each example, 0 to T. Past its length, an example's inputs are ignored, its state stays
        constant and its outputs are zero. Under `jax.jit`, values out of range count as the nearest one in it.
    inputs : dict of str to array, shape (T, m, n) or (T, m), optional
        The inputs of the cell besides x, by the names in ``cell.inputs``: one number per unit, or one for all units.
        Those in ``cell.defaults`` may be missing.
    reverse : bool
        Whether to run from the last step to the first, with lengths from the last one of each example.

    Returns
    -------
    a : array, shape (T, m, n)
        The first state after each step.
    final : tuple of array, shape (m, n)
        The states after the step that runs last, in the order of ``cell.states``.

    Raises
    ------
    ValueError, TypeError
        For wrong shapes, keys, dtypes or lengths, or if the CPU engine is not installed.

    See Also
    --------
    rnnx.recurrent_forward, rnnx.initialize_parameters

    Notes
    -----
    The results have first derivatives with respect to x, s0, the parameters and the inputs. Second and forward-mode
    derivatives are an error. `jax.vmap` runs the passes of its axis one after another; examples along m are faster. The
    number of threads is chosen when a call is traced, by the limits that rnnx always has.

    Examples
    --------
    >>> import jax
    >>> import rnnx
    >>> from rnnx.interop.jax import recurrent
    >>> parameters = rnnx.initialize_parameters("gru", n_x=3, n_a=5, dtype="float32", rng=0)
    >>> x = jax.numpy.ones((7, 2, 3), "float32")  # (T, m, n_x)
    >>> @jax.jit
    ... def loss(parameters):
    ...     a, final = recurrent("gru", x, (), parameters)
    ...     return (a**2).mean()
    >>> jax.grad(loss)(parameters)["Wu"].shape
    (5, 8)
    """
    cell, x = cell_of(cell), _array("x", x)
    check_dict(cell, parameters)
    own = _arrays(parameters)
    given = _arrays({name: s for name, s in by_state("s0", s0, cell, "{}0").items() if s is not None})
    extra = _arrays(named_inputs(cell, inputs))
    dtype = _dtype({"x": x, **given, **extra, **own})
    n_x, n = check_parameters(cell, {key: np.broadcast_to(np.zeros((), dtype), p.shape) for key, p in own.items()})
    if x.ndim != 3 or x.shape[2] != n_x:
        raise ValueError(f"`x` must have shape (T, m, n_x) with n_x = {n_x}; got {x.shape}")
    n_steps, m, _ = x.shape
    states = _states(cell, given, m, n, dtype)
    sequences = [x.astype(dtype), *_inputs(cell, extra, (n_steps, m, n), dtype)]
    ends = None if lengths is None else _lengths(lengths, m, n_steps)
    own = recurrent_parameters(cell, _with_hoisted(cell, {key: value.astype(dtype) for key, value in own.items()}))
    if flag("reverse", reverse):
        sequences = [_reversed(sequence, ends) for sequence in sequences]
    if 0 in (n_steps, m):
        return jnp.zeros((n_steps, *states[0].shape), dtype), states
    key = PassKey(cell, dtype, n_steps, m, n, n_x, False, tuple(own), ends is not None)
    halves = None if ends is None else jnp.stack([ends, jnp.zeros_like(ends)], axis=1)
    x, *others = sequences
    a, final = run(Layer(key, max_threads()), Given(x, states, tuple(own.values()), tuple(others), halves))
    return _reversed(a, ends) if reverse else a, final


def _array(name: str, value: Any) -> Array:
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` must be an array; got {shown(value)}") from None


def _arrays(values: Mapping[str, Any]) -> Arrays:
    return {name: _array(name, value) for name, value in values.items()}


def _dtype(arrays: Arrays) -> np.dtype:
    """Return the dtype to compute in."""
    for name, array in arrays.items():
        if array.dtype not in (jnp.float32, jnp.float64):
            raise TypeError(f"`{name}` must be float32 or float64; got {array.dtype}")
    return np.dtype(jnp.result_type(*arrays.values()))


def _states(cell: Cell, given: Arrays, m: int, n: int, dtype: Any) -> tuple[Array, ...]:
    """Return the initial states."""
    found = []
    for state in cell.states:
        name, shape = f"{state}0", (m, cell.size(state, n))
        if name in given:
            compare_shapes(name, given[name].shape, "(m, n)", shape)
        found.append(given[name].astype(dtype) if name in given else jnp.zeros(shape, dtype))
    return tuple(found)


def _inputs(cell: Cell, given: Arrays, sizes: tuple[int, int, int], dtype: Any) -> list[Array]:
    """Return the inputs besides x, each (T, m, n)."""
    (n_steps, m, n), defaults, found = sizes, dict(cell.defaults), []
    for name in cell.inputs:
        shape = (n_steps, m, cell.size(name, n))
        if name not in given:
            array = jnp.arange(n_steps)[:, None, None] if defaults[name] == STEP else jnp.asarray(defaults[name])
        elif given[name].shape == shape[:2]:
            array = given[name][:, :, None]
        else:
            array = given[name]
            compare_shapes(name, array.shape, f"(T, m) = {shape[:2]} or (T, m, n)", shape)
        found.append(jnp.broadcast_to(array.astype(dtype), shape))
    return found


def _lengths(lengths: Any, m: int, n_steps: int) -> Array:
    """Return the lengths as 32-bit integers, checked, or else in range if they are traced."""
    if not isinstance(lengths, jax.core.Tracer):
        given = np.asarray(lengths) if isinstance(lengths, jax.Array) else lengths
        return jnp.asarray(check_lengths(np, "cpu", given, m, n_steps), jnp.int32)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"`lengths` must hold integers; got dtype {lengths.dtype}")
    compare_shapes("lengths", lengths.shape, "(m,)", (m,))
    if lengths.dtype.itemsize < 4:  # the number of steps may not fit
        lengths = lengths.astype(jnp.int32)
    return jnp.clip(lengths, 0, n_steps).astype(jnp.int32)


def _with_hoisted(cell: Cell, parameters: Arrays) -> Arrays:
    """Return the parameters with what the cell computes from them alone, which JAX differentiates."""
    hoisted = cell.hoisted
    if hoisted is None:
        return parameters
    vectors = hoisted.forward(array_ops(jnp), *[parameters[key] for key in hoisted.sources])
    return parameters | dict(zip(hoisted.results, vectors, strict=True))


def _reversed(sequence: Array, ends: Array | None) -> Array:
    """Return a sequence (T, m, n) with the steps of each example in reverse, up to its end."""
    if ends is None:
        return sequence[::-1]
    t = jnp.arange(sequence.shape[0], dtype=jnp.int32)[:, None]
    order = jnp.where(t < ends, ends - 1 - t, t)
    return jnp.take_along_axis(sequence, order[:, :, None], axis=0)
