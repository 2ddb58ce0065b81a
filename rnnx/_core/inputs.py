"""Checks of the sequences and targets that users give to datasets and models, in the words of the caller.

Dimensions: n features, m examples, T steps, n_y outputs.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array, Namespace
from rnnx._core.checks import Shape, all_below, check_indices, check_lengths
from rnnx._core.layout import valid_examples


class Sizes(NamedTuple):
    """The sizes, and their names in messages, that a model expects."""

    classes: bool  # whether the targets are class indices
    size: int
    size_name: str
    n_y: int
    n_y_name: str
    per_step: bool


def real_array(name: str, values: Any) -> tuple[Namespace, Array]:
    """Return real numbers or booleans as an array, and its namespace; lists are converted."""
    array = _from_lists(name, values) if isinstance(values, list | tuple) else values
    xp = ns.checked_namespace(name, array)
    if not ns.is_real(xp, array):
        text = "target" in name and ns.is_on_host(array) and array.dtype.kind in "OSUT"
        hint = "; `rnnx.data.encode_labels` turns names into classes" if text else ""
        raise TypeError(f"`{name}` must hold real numbers; got dtype {array.dtype}{hint}")
    return xp, array


def host_array(name: str, values: Any) -> np.ndarray:
    """Return real numbers or booleans as a NumPy array; lists are converted."""
    _, array = real_array(name, values)
    if not ns.is_on_host(array):
        raise TypeError(f"`{name}` must be a NumPy array; got one of another library")
    return array


def _from_lists(name: str, values: list[Any] | tuple[Any, ...]) -> np.ndarray:
    for value in values:
        if isinstance(value, np.ma.MaskedArray | np.matrix):
            ns.common_namespace({name: value})
    try:
        return np.asarray(values)
    except ValueError:
        got = "lists of different lengths; pad numbers with `rnnx.data.as_sequences`, indices with `rnnx.data.pad`"
        raise ValueError(f"`{name}` must have rows of equal length; got {got}") from None


def is_index_input(xp: Namespace, x: Array, *, one_step: bool = False) -> bool:
    """Return whether an input is indices of one-hot columns: integers (m, T), or (m,) for one step."""
    return bool(x.ndim == (1 if one_step else 2) and ns.is_integer(xp, x))


def bools_to_integers(xp: Namespace, array: Array) -> Array:
    """Convert booleans to 0 and 1, as class indices; other arrays are returned as they are."""
    return xp.astype(array, xp.asarray(0).dtype) if array.dtype == xp.bool else array


def check_inputs(name: str, values: Any, sizes: Sizes, lengths: Any = None) -> Array:
    """Return sequences (n, m, T) of numbers, or (m, T) of indices, as an array; lists are converted.

    Indices on the host must be in range, except past the (valid) `lengths`.
    """
    xp, array = real_array(name, values)
    if not is_index_input(xp, array):
        _check_sequences(name, tuple(array.shape), str(array.dtype), sizes.size, sizes.size_name)
    else:
        check_valid_indices(name, array, sizes.size_name, sizes.size, lengths)
    return array


@lru_cache(maxsize=256)  # errors are not cached
def _check_sequences(name: str, shape: Shape, dtype: str, n: int, symbol: str) -> None:
    if len(shape) == 3 and shape[0] == n:
        return
    expected = f"`{name}` must have shape ({symbol}, m, T) = ({n}, m, T), or (m, T) for integer indices"
    raise ValueError(f"{expected}; got {shape}, dtype {dtype}{_axes_hint(name, shape, n, symbol)}")


def _axes_hint(name: str, shape: Shape, n: int, symbol: str) -> str:
    """Return the end of a message: what the axes seem to be, and how to reorder them."""
    if len(shape) == 3 and shape[2] == n:
        return f"; this looks like batch-first, (m, T, {symbol}): pass {name}.transpose(2, 0, 1)"
    if len(shape) == 3 and shape[1] == n:
        return f"; this looks like (m, {symbol}, T): pass {name}.transpose(1, 0, 2)"
    if len(shape) == 2 and n in (1, shape[0]):
        axes, index = ("(m, T)", "None") if n == 1 else (f"one sequence, ({symbol}, T)", ":, None")
        return f"; this looks like {axes}: pass {name}[{index}]"
    if len(shape) == 2 and shape[1] == n:
        return f"; this looks like one sequence, (T, {symbol}): pass {name}.T[:, None]"
    return ""


def check_valid_indices(name: str, array: Array, symbol: str, stop: int, lengths: Any = None) -> None:
    """Raise unless all indices (m, T) within the lengths are in [0, stop).

    Values on a device are not checked, nor any if the lengths are there.
    """
    if not ns.is_on_host(array) or all_below(array, stop):
        return
    if lengths is not None:
        if host_lengths(lengths) is None:
            return
        xp, device = ns.common_namespace({name: array})
        array = array[valid_examples(xp, check_lengths(xp, device, lengths, *array.shape), array.shape[1])]
    check_indices(name, array, symbol, stop)


def check_targets(name: str, values: Any, m: int, n_steps: int, sizes: Sizes, lengths: Any = None) -> Array:
    """Return class indices (m,) or (m, T), or numbers (n_y, m) or (n_y, m, T), as an array.

    Booleans become the classes 0 and 1. Classes on the host must be in range, except past the (valid) `lengths`.
    """
    xp, array = real_array(name, values)
    if sizes.classes:
        array = bools_to_integers(xp, array)
    _check_target_shape(name, tuple(array.shape), str(array.dtype), ns.is_integer(xp, array), m, n_steps, sizes)
    if sizes.classes:
        ends = lengths if sizes.per_step else None
        check_valid_indices(name, array if sizes.per_step else array[:, None], sizes.n_y_name, sizes.n_y, ends)
    return array


@lru_cache(maxsize=256)  # errors are not cached
def _check_target_shape(
    name: str, shape: Shape, dtype: str, integers: bool, m: int, n_steps: int, sizes: Sizes
) -> None:
    named = {} if sizes.classes else {sizes.n_y_name: sizes.n_y}
    named |= {"m": m, "T": n_steps} if sizes.per_step else {"m": m}
    expected = tuple(named.values())
    if shape == expected and (integers or not sizes.classes):
        return
    kind = "class indices (integers)" if sizes.classes else "numbers"
    symbols = f"({', '.join(named)}{',' * (len(named) == 1)})"
    hint = _target_hint(name, shape, integers, expected, sizes)
    raise ValueError(f"`{name}` must be {kind} of shape {symbols} = {expected}; got {shape}, dtype {dtype}{hint}")


def _target_hint(name: str, shape: Shape, integers: bool, expected: Shape, sizes: Sizes) -> str:
    """Return the end of a message: what the targets seem to be, and how to convert them."""
    if sizes.classes:
        if shape == expected:
            return f"; classes are integers: pass {name}.astype(int)"
        if shape == (1, *expected):
            return f"; classes are integers without an axis of their own: pass {name}[0].astype(int)"
        if len(shape) == len(expected) + 1 and sizes.n_y in shape:
            return f"; this looks like one-hot classes: pass {name}.argmax(axis={shape.index(sizes.n_y)})"
        return ""
    if shape == expected[1:]:
        number = f"{name}.astype(float)" if integers else name
        return f": pass {number}[None]" if sizes.n_y == 1 else ""
    return f": pass {name}.T" if shape == expected[::-1] else ""


def check_index_rows(name: str, values: Any, symbol: str, stop: int, lengths: Any = None) -> Array:
    """Return indices (m, T) as an array; those on the host must be in [0, stop), except past the lengths."""
    xp, array = real_array(name, values)
    if not is_index_input(xp, array):
        got = f"shape {tuple(array.shape)}, dtype {array.dtype}"
        raise ValueError(f"`{name}` must hold integers, shape (m, T); got {got}")
    check_valid_indices(name, array, symbol, stop, lengths)
    return array


def host_lengths(lengths: Any) -> np.ndarray | None:
    """Return lengths as a NumPy array if they can be read without synchronizing, else None."""
    return np.asarray(lengths) if isinstance(lengths, list | tuple | np.ndarray) else None


def check_weights(values: Any, m: int, n_steps: int | None, size: str = "m") -> Array:
    """Return weights (m,) of examples or, unless `n_steps` is None, (m, T) of steps, as an array; lists are converted.

    Those on the host must be finite and at least 0.
    """
    _, array = real_array("weights", values)
    shape = tuple(array.shape)
    if shape != (m,) and (n_steps is None or shape != (m, n_steps)):
        of_steps = "" if n_steps is None else f", or ({size}, T) = {(m, n_steps)}"
        raise ValueError(f"`weights` must have shape ({size},) = {(m,)}{of_steps}; got {shape}")
    if ns.is_on_host(array) and array.size:
        bad = ~(np.isfinite(array) & (array >= 0))
        if bad.any():
            place = tuple(np.argwhere(bad)[0].tolist())
            raise ValueError(f"`weights` must be finite numbers of at least 0; got {array[place]} at index {place}")
    return array


def weights_of_steps(xp: Namespace, device: Any, weights: Array, n_steps: int, dtype: Any) -> Array:
    """Return checked weights as an array (m, T) of the library."""
    if ns.is_on_host(weights):
        weights = xp.asarray(np.ascontiguousarray(weights), device=device)
    weights = ns.astype(xp, weights, dtype)
    if weights.ndim == 2:
        return weights
    return xp.broadcast_to(xp.expand_dims(weights, axis=1), (weights.shape[0], n_steps))


def not_finite(name: str, array: Array, lengths: Any, most: float = np.inf) -> str:
    """Return where an array (..., m, T) on the host is not finite within the lengths; "" if it is, or not known.

    Numbers above `most`, the largest of the dtype in which a model computes, are not finite there.
    """
    if array is None or not ns.is_on_host(array) or array.dtype.kind != "f" or not array.size:
        return ""
    most = min(most, float(np.finfo(array.dtype).max))
    if -most <= array.min() and array.max() <= most:  # neither is true of NaN
        return ""
    bad = ~(abs(array) <= most)
    if lengths is not None:
        bad &= valid_examples(np, np.asarray(lengths), array.shape[-1])
    if not bad.any():
        return ""
    place = tuple(np.argwhere(bad)[0].tolist())
    beyond = f", above {most:.2g}, the most that the model can compute with" if np.isfinite(array[place]) else ""
    return f"`{name}` hold {array[place]} at index {place}{beyond}"


def check_finite(arrays: Mapping[str, Array], lengths: Any, most: float) -> None:
    """Raise FloatingPointError unless checked arrays (..., m, T) on the host are finite; see `not_finite`."""
    ends = host_lengths(lengths)
    if lengths is None or ends is not None:
        for name, array in arrays.items():
            if found := not_finite(name, array, ends, most):
                raise FloatingPointError(found)
