"""Argument checks."""

import difflib
import math
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.words import shown

Shape = tuple[int, ...]

_FEW = 32  # integers that Python compares in less time than NumPy
_LARGEST = 2**63 - 1  # so that every integer fits in an array
_MOST_ELEMENTS = 2**32  # of one array that is made from sizes: 16 GiB in float32
_INTERVALS = {"(-inf, inf)": "a finite number", "(0, inf)": "a positive number", "[0, inf)": "a number of at least 0"}


def is_whole(value: Any) -> bool:
    """Return whether this is an integer of Python or NumPy; booleans and timedeltas do not count."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool | np.timedelta64)


def integer(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """Convert a Python or NumPy integer from `least` to `most` to a Python int; booleans are not integers."""
    is_integer = type(value) is int or is_whole(value)
    if is_integer and least <= value <= (_LARGEST if most is None else most):
        return int(value)
    expected = f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}"
    if most is None and is_integer and value > _LARGEST:
        expected = "an integer below 2**63"
    raise (ValueError if is_integer else TypeError)(f"`{name}` must be {expected}; got {shown(value)}")


def check_size(shape: Shape, **sizes: int) -> None:
    """Raise if an array of this shape would be too large, naming the argument with the largest size."""
    if math.prod(shape) > _MOST_ELEMENTS:
        name = max(sizes, key=lambda name: sizes[name])
        raise ValueError(
            f"`{name}` = {sizes[name]} is too large: an array of shape {shape} would have more than 2**32 elements"
        )


def flag(name: str, value: Any) -> bool:
    """Convert True or False, also NumPy's, to a Python bool."""
    if value is True or value is False:
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    raise TypeError(f"`{name}` must be True or False; got {shown(value)}")


def check_generator(name: str, rng: Any) -> None:
    """Raise unless `rng` is a NumPy random generator."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"`{name}` must be a numpy.random.Generator; got {shown(rng)}")


def check_methods(name: str, value: Any, kind: str, *methods: str) -> None:
    """Raise unless an object has the methods (or other attributes) of a kind, such as "a CharTokenizer"."""
    if isinstance(value, type) or not all(hasattr(value, method) for method in methods):
        raise TypeError(f"`{name}` must be {kind}; got {shown(value)}")


def choice(name: str, value: Any, options: Iterable[str]) -> str:
    """Return `value` if it is one of the options."""
    options = sorted(options)
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be one of {options}; got {shown(value)}")
    if value not in options:
        raise ValueError(f"`{name}` must be one of {options}; got {shown(value)}")
    return value


def real(name: str, value: Any, interval: str = "(-inf, inf)") -> float:
    """Convert a number in `interval`, such as "[0, 1)", to a Python float.

    Unlike a NumPy float64, a Python float does not promote float32 parameters to float64.
    """
    if type(value) is not float:
        value = _float(name, value)
    low, high = _bounds(interval)
    if low <= value <= high:
        return value
    raise ValueError(f"`{name}` must be {_INTERVALS.get(interval, f'a number in {interval}')}; got {value}")


def _float(name: str, value: Any) -> float:
    """Convert a number, of Python or another library, to a Python float."""
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__float__"):
        raise TypeError(f"`{name}` must be a number; got {type(value).__name__}")
    if getattr(value, "shape", ()) != ():
        raise TypeError(f"`{name}` must be a number; got an array of shape {tuple(value.shape)}")
    if getattr(getattr(value, "dtype", None), "kind", "f") not in "fiu":  # NumPy converts strings, dates and complex
        raise TypeError(f"`{name}` must be a number; got {shown(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"`{name}` must be a number that fits in a float; got {shown(value)}") from None
    except Exception:  # each library has its own errors
        raise TypeError(f"`{name}` must be a real number; got {shown(value)}") from None


@lru_cache(maxsize=16)
def _bounds(interval: str) -> tuple[float, float]:
    """Return the smallest and largest float in an interval."""
    low, high = map(float, interval[1:-1].split(","))
    return (
        low if interval[0] == "[" else math.nextafter(low, math.inf),
        high if interval[-1] == "]" else math.nextafter(high, -math.inf),
    )


def check_memory(what: str, n_bytes: int) -> None:
    """Raise unless this machine has this much memory."""
    if n_bytes > _memory():
        need, has = min(n_bytes >> 30, 10**9), _memory() >> 30
        raise ValueError(
            f"{what} need {need:,} GiB of memory; this machine has {has:,}: reduce `hidden_size` or a vocabulary"
        )


@lru_cache(maxsize=1)
def _memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # unknown, as on Windows
        return 1 << 42


def listed(names: Sequence[Any]) -> str:
    """Return the first names of a list that may be long."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{[*names[:8]]}{more}"


def nearest(key: str, known: Iterable[str]) -> str:
    """Return the end of an error message on an unknown name: the closest known name, or all of them if they are few."""
    names = list(known)

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, key, name).ratio()

    best = max(names, key=likeness)
    if likeness(best) > 0.3:
        return f"; did you mean {best!r}?"
    return f"; expected one of {names}" if len(names) <= 20 else ""


def check_keys(owner: str, keys: Iterable[str], required: Sequence[str], optional: Sequence[str]) -> None:
    """Raise unless `parameters` of `owner` has all required keys, and no others than the optional ones."""
    keys, known = tuple(keys), (*required, *optional)
    for key in keys:
        if key not in known:
            raise ValueError(f"unknown key {shown(key)} in `parameters` of {owner}{nearest(str(key), known)}")
    missing = [key for key in required if key not in keys]
    if missing:
        raise ValueError(f"`parameters` of {owner} must have keys {list(required)}; missing {missing}")


def check_shape(name: str, array: Array, symbols: str, shape: Shape) -> None:
    """Raise unless the array has this shape, given in symbols and in numbers."""
    compare_shapes(name, tuple(array.shape), symbols, shape)


def compare_shapes(name: str, actual: Shape, symbols: str, shape: Shape) -> None:
    """Raise unless the two shapes are equal."""
    if actual != shape:
        raise ValueError(f"`{name}` must have shape {symbols} = {shape}; got {actual}")


def check_library(name: str, xp: Any) -> None:
    """Raise unless `xp` is an array namespace, or None for the default."""
    if xp is not None and not callable(getattr(xp, "asarray", None)):
        raise TypeError(f"`{name}` must be an array namespace such as numpy or cupy; got {shown(xp)}")


def integer_vector(xp: Any, device: Any, name: str, values: Any) -> Array:
    """Copy a sequence of int, a NumPy array or an array of the library to an index array on `device`."""
    if type(values) is np.ndarray and values.dtype == ns.INDEX and device == "cpu":  # fast path
        return values.copy()
    if isinstance(values, Sequence) and not isinstance(values, str):
        try:
            values = np.asarray(values if len(values) else np.zeros(0, np.int64))
        except ValueError:
            raise TypeError(f"`{name}` must be a sequence of int; got a nested sequence") from None
    own = ns.namespace_beside(xp, name, values, "a sequence of int or an array")
    if not ns.is_integer(own, values):
        raise TypeError(f"`{name}` must hold integers; got dtype {values.dtype}")
    if ns.is_on_host(values):
        host = np.array(values, np.int64)
        if own is xp:
            return host
        values = xp.asarray(host, device=device)
    return ns.as_index(xp, values)


def boolean_array(xp: Any, device: Any, name: str, values: Any) -> Array:
    """Convert nested sequences of bool, a NumPy array or an array of the library to one of the library on `device`."""
    if isinstance(values, Sequence) and not isinstance(values, str):
        try:
            values = np.asarray(values)
        except ValueError:
            raise TypeError(f"`{name}` must be an array of bool; got rows of different lengths") from None
    own = ns.namespace_beside(xp, name, values)
    if not own.isdtype(values.dtype, "bool"):
        raise TypeError(f"`{name}` must hold booleans; got dtype {values.dtype}")
    return xp.asarray(values, device=device) if ns.is_on_host(values) else values


def check_lengths(xp: Any, device: Any, lengths: Any, m: int, n_steps: int, name: str = "lengths") -> Array:
    """Convert `lengths` to an integer array (m,) and check that it lies in [0, T_x].

    Values on a device are not checked, because reading them would synchronize.
    """
    array = integer_vector(xp, device, name, lengths)
    check_shape(name, array, "(m,)", (m,))
    known = array if ns.is_on_host(array) else lengths
    if isinstance(known, np.ndarray | Sequence) and not all_below(np.asarray(known), n_steps + 1):
        values = np.asarray(lengths)
        got = f"values from {values.min()} to {values.max()}"
        raise ValueError(f"`{name}` must be in [0, T_x] = [0, {n_steps}]; got {got}")
    return array


def all_below(values: np.ndarray, stop: int) -> bool:
    """Return whether all integers are in [0, stop)."""
    if not values.size:
        return True
    if values.size <= _FEW:
        numbers = values.ravel().tolist()
        return bool(min(numbers) >= 0 and max(numbers) < stop)
    if values.dtype == ns.INDEX:  # one pass: without their sign, negative ones are large
        return bool(np.maximum.reduce(values.view(np.uint64).ravel("K")) < stop)
    return bool(values.min() >= 0 and values.max() < stop)


def check_indices(name: str, values: Array, symbol: str, stop: int) -> None:
    """Raise unless all indices are in [0, stop). Values on a device are not checked."""
    if ns.is_on_host(values) and not all_below(values, stop):
        got = f"values from {values.min()} to {values.max()}"
        raise ValueError(f"`{name}` must be in [0, {symbol}) = [0, {stop}); got {got}")
