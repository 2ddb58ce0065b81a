"""Everything that depends on the library, device or dtype of an array.

All other code uses the array API standard (through array-api-compat), and this file for what the standard leaves out.
"""

import importlib
import importlib.util
import operator
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import array_api_compat as compat
import numpy as np

from rnnx._core.harmless_errors import ignore_harmless_errors
from rnnx._core.words import shown

Array = Any  # an array of any supported library, checked at run time
Namespace = Any

_EXACT_NUMPY_TYPES = (np.ndarray, np.memmap)
ONLY_NUMPY = {np.ndarray}
INDEX = np.dtype(np.int64)  # of lengths and index inputs, in libraries with NumPy's dtypes
_OF_NUMPY = np.asarray(0).dtype  # NumPy's own, of 32 bits in browsers
_DTYPE = operator.attrgetter("dtype")
_HALVES = ("float16", "bfloat16")
_MOST_JOINED = 8  # arrays


@lru_cache(maxsize=16)
def library_name(xp: Namespace) -> str:
    """Return the name of a namespace's library: "numpy", "cupy", "torch", "jax", ..."""
    return str(xp.__name__).removeprefix("array_api_compat.").split(".")[0]


def common_namespace(arrays: Mapping[str, Any]) -> tuple[Namespace, Any]:
    """Return the namespace and device that all `arrays` share, or raise an error with their names."""
    kinds = {*map(type, arrays.values())}
    if kinds == ONLY_NUMPY:  # fast path
        return _numpy(), "cpu"
    if kinds == only_cupy():  # fast path
        first, *rest = [array.data.device_id for array in arrays.values()]
        if rest.count(first) == len(rest):
            array = next(iter(arrays.values()))
            return _cupy(), array.device
    first_name, device_name, xp, device = "", "", None, None
    for name, array in arrays.items():
        this_xp, this_device = checked_namespace(name, array), compat.device(array)
        if xp is None:
            first_name, xp = name, this_xp
        elif this_xp is not xp:
            got = f"{library_name(xp)} and {library_name(this_xp)}"
            raise TypeError(f"`{first_name}` and `{name}` must come from the same array library; got {got}")
        if device is None:  # a JAX tracer has none
            device_name, device = name, this_device
        elif this_device is not None and this_device != device:
            raise ValueError(f"`{device_name}` and `{name}` must be on the same device; got {device} and {this_device}")
    if xp is None:
        raise TypeError("expected at least one array; got none")
    return xp, device


def namespace(array: Array) -> Namespace:
    """Return the namespace of an array that has been checked."""
    if type(array) is np.ndarray:
        return _numpy()
    return _cupy() if {type(array)} == only_cupy() else compat.array_namespace(array)


def only_cupy() -> set[type] | None:
    """Return CuPy's type of arrays, if it is imported."""
    cupy = sys.modules.get("cupy")
    return {cupy.ndarray} if cupy and hasattr(cupy, "ndarray") else None


@lru_cache(maxsize=1)
def _cupy() -> Namespace:
    """Return CuPy's namespace; CuPy must have been imported."""
    return importlib.import_module("array_api_compat.cupy")


@lru_cache(maxsize=1)
def _numpy() -> Namespace:
    """Return NumPy's namespace, imported on first use: it loads more slowly than NumPy itself."""
    return compat.array_namespace(np.empty(0))


def checked_namespace(name: str, array: Any) -> Namespace:
    """Return the namespace of an array, or raise an error with its name."""
    if type(array) is np.ndarray:  # fast path
        return _numpy()
    if {type(array)} == only_cupy():  # fast path
        return _cupy()
    is_array = compat.is_array_api_obj(array) and not isinstance(array, np.generic)
    if is_array and isinstance(array, np.ndarray):
        is_array = type(array) in _EXACT_NUMPY_TYPES  # excludes matrices and masked arrays, whose operators differ
    if not is_array:
        kind = f"{type(array).__module__}.{type(array).__qualname__}".removeprefix("builtins.")
        raise TypeError(f"`{name}` must be an array (NumPy, CuPy, ...); got {kind}{_remedy(array)}")
    return compat.array_namespace(array)


def _remedy(array: Any) -> str:
    """Return the end of the error message for an object that is not an array: what makes it one."""
    if isinstance(array, np.ma.MaskedArray):
        return ", whose mask would be lost: fill the missing values first"
    if isinstance(array, np.ndarray):
        return ": pass it through `numpy.asarray`"
    return ": pass `.to_numpy()`" if callable(getattr(array, "to_numpy", None)) else ""


def namespace_beside(xp: Namespace, name: str, array: Any, expected: str = "an array") -> Namespace:
    """Return the namespace of an array, which must be NumPy's or `xp`."""
    own = checked_namespace(name, array)
    if own is not xp and not is_on_host(array):
        raise TypeError(f"`{name}` must be {expected} of NumPy or the same library; got {library_name(own)}")
    return own


def is_real(xp: Namespace, array: Array) -> bool:
    """Return whether the array holds real numbers or booleans: not text, dates, objects or complex numbers."""
    return _is_real(xp, array.dtype)


@lru_cache(maxsize=64)
def _is_real(xp: Namespace, dtype: Any) -> bool:
    return dtype in _floats(xp) or bool(xp.isdtype(dtype, ("integral", "real floating", "bool")))


def as_floats(
    data: Mapping[str, Any], parameters: Mapping[str, Any] = MappingProxyType({})
) -> tuple[Namespace, Any, list[Array]]:
    """Check named arrays and convert them to one floating dtype; return namespace, device and arrays, `data` first.

    Only `data` may be integers or booleans.
    """
    arrays = [*data.values(), *parameters.values()]
    if {*map(type, arrays)} == ONLY_NUMPY:  # fast path
        dtypes = {array.dtype for array in arrays}
        if len(dtypes) == 1 and dtypes <= _floats(_numpy()):
            return _numpy(), "cpu", arrays
    xp, device = common_namespace({**data, **parameters})
    dtype = floating_dtype(xp, parameters, data)
    return xp, device, [astype(xp, array, dtype) for array in arrays]


def to_one_dtype(xp: Namespace, *arrays: Array) -> Sequence[Array]:
    """Convert arrays that have been checked to one floating dtype, which integers do not affect."""
    dtype = one_dtype(xp, arrays)
    return [array if array.dtype == dtype else astype(xp, array, dtype) for array in arrays]


def one_dtype(xp: Namespace, arrays: Sequence[Array]) -> Any:
    """Return the dtype that `floating_dtype` chooses for arrays that have been checked."""
    dtypes = [*map(_DTYPE, arrays)]
    if dtypes.count(dtypes[0]) == len(dtypes):
        return dtypes[0]
    return floating_dtype(xp, {}, {str(k): array for k, array in enumerate(arrays)})


def floating_dtype(xp: Namespace, floats: Mapping[str, Array], others: Mapping[str, Array]) -> Any:
    """Return the dtype to compute in: float32, or float64 if any array is float64.

    CuPy arrays may also be float16 or bfloat16. Integers and booleans, allowed in `others` only, are ignored; if there
    is nothing else, the result is the library's default.
    """
    able = _floats(xp)
    dtypes: Any = {array.dtype for array in (*floats.values(), *others.values())}
    if len(dtypes) == 1 and dtypes <= able:
        return dtypes.pop()
    dtypes = []
    for name, array in (*floats.items(), *others.items()):
        if any(array.dtype == kind for kind in able):  # dtypes of some libraries do not hash alike
            dtypes.append(array.dtype)
        elif name in floats or not xp.isdtype(array.dtype, ("integral", "bool")):
            names = (*(_HALVES if len(able) > 2 else ()), "float32", "float64")
            *first, last = names if name in floats else (*names, "integer", "bool")
            raise TypeError(f"`{name}` must have dtype {', '.join(first)} or {last}; got {array.dtype}")
    if len({str(dtype) for dtype in dtypes} & set(_HALVES)) == 2:
        raise TypeError("float16 and bfloat16 arrays cannot be mixed")
    return xp.result_type(*dtypes) if dtypes else xp.asarray(0.0).dtype


@lru_cache(maxsize=16)
def _floats(xp: Namespace) -> frozenset[Any]:
    """Return the floating dtypes supported for a library."""
    kinds = {xp.float32, xp.float64}
    if compat.is_cupy_namespace(xp):
        kinds.add(np.float16)
        if importlib.util.find_spec("ml_dtypes") is not None:
            from ml_dtypes import bfloat16

            kinds.add(bfloat16)
    is_numpy_dtype = compat.is_numpy_namespace(xp) or compat.is_cupy_namespace(xp)
    return frozenset(map(np.dtype, kinds) if is_numpy_dtype else kinds)


def dtype_named(xp: Namespace, argument: str, name: Any) -> Any:
    """Return the floating dtype called `name`, such as "float32"."""
    able = _floats(xp)
    dtypes = {str(kind): kind for kind in able} if len(able) > 2 else {"float32": xp.float32, "float64": xp.float64}
    if str(name) not in dtypes:
        raise ValueError(f"`{argument}` must be one of {sorted(dtypes)}; got {shown(name)}")
    return dtypes[str(name)]


def float_dtype(xp: Namespace, name: str) -> Any:
    """Return the floating dtype called `name`, also a 16-bit one in libraries whose 16-bit arrays are not supported."""
    if not (compat.is_numpy_namespace(xp) or compat.is_cupy_namespace(xp)):
        if not hasattr(xp, name):
            raise ValueError(f"{library_name(xp)} has no {name}")
        return getattr(xp, name)
    if name != "bfloat16":
        return np.dtype(name)
    if importlib.util.find_spec("ml_dtypes") is None:
        raise ValueError("bfloat16 needs the package ml_dtypes (pip install ml_dtypes)")
    from ml_dtypes import bfloat16

    return np.dtype(bfloat16)


@np.errstate(over="ignore")
def rounded(xp: Namespace, array: Array, name: str) -> Array:
    """Round an array to the numbers of a 16-bit dtype, "float16" or "bfloat16", and keep its dtype."""
    if name == "bfloat16" and type(array) is np.ndarray and array.dtype == np.float32:  # needs no package
        bits = array.view(np.uint32)
        even = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
        return np.where(np.isfinite(array), (even & np.uint32(0xFFFF0000)).view(np.float32), array)
    return astype(xp, astype(xp, array, float_dtype(xp, name)), array.dtype)


def is_integer(xp: Namespace, array: Array) -> bool:
    """Return whether the array holds integers."""
    return _is_integer(xp, array.dtype)


@lru_cache(maxsize=64)
def _is_integer(xp: Namespace, dtype: Any) -> bool:
    return bool(xp.isdtype(dtype, "integral"))


def as_index(xp: Namespace, values: Array) -> Array:
    """Copy to the library's index dtype: in a narrow dtype, comparisons with larger numbers would wrap."""
    if type(values) is np.ndarray:  # fast path
        return values.astype(_OF_NUMPY)
    # With CuPy, `xp.asarray` would launch a kernel.
    return xp.astype(values, INDEX if compat.is_cupy_namespace(xp) else xp.asarray(0).dtype)


def take(xp: Namespace, array: Array, indices: Array, axis: int) -> Array:
    """Return the library's `take`, also where NumPy's wants indices of 32 bits, as in browsers."""
    if compat.is_numpy_namespace(xp):
        indices = indices.astype(np.intp, copy=False)
    return xp.take(array, indices, axis=axis)


def is_concrete(array: Array) -> bool:
    """Return whether the values can be read, which is False for a JAX tracer."""
    return not compat.is_jax_array(array) or type(array).__name__ == "ArrayImpl"


def is_on_host(array: Array) -> bool:
    """Return whether the values can be read without synchronizing with a device (NumPy only)."""
    return type(array) is np.ndarray or bool(compat.is_numpy_array(array))


def to_host(array: Array) -> np.ndarray:
    """Copy an array to NumPy; NumPy arrays are returned unchanged."""
    if compat.is_numpy_array(array):
        return array
    return array.get() if compat.is_cupy_array(array) else np.from_dlpack(array)


def number(array: Array) -> Any:
    """Convert a NumPy array of shape () to a float; leave others unchanged, to avoid synchronizing."""
    return float(array) if is_on_host(array) else array


def numbers(values: Sequence[Any]) -> list[float]:
    """Convert results of `number` to floats, with a single transfer from a device."""
    late = [value for value in values if compat.is_array_api_obj(value) and not is_on_host(value)]
    if not late:
        return [float(value) for value in values]
    xp = compat.array_namespace(*late)
    dtype = xp.result_type(*{value.dtype for value in late})
    fetched = iter(to_host(xp.stack([astype(xp, value, dtype) for value in late])).tolist())
    return [next(fetched) if compat.is_array_api_obj(v) and not is_on_host(v) else float(v) for v in values]


def astype(xp: Namespace, array: Array, dtype: Any) -> Array:
    """Convert an array to a dtype, without a copy if it has it already."""
    return array if array.dtype == dtype else _cast(xp, array, dtype)


@ignore_harmless_errors
def _cast(xp: Namespace, array: Array, dtype: Any) -> Array:
    return xp.astype(array, dtype)


def reversed_axes(xp: Namespace, array: Array) -> Array:
    """Reverse the axes, as a view."""
    if type(array) is np.ndarray:  # fast path
        return array.T
    return xp.permute_dims(array, tuple(range(array.ndim))[::-1])


def contiguous(xp: Namespace, array: Array, *, own: bool = False) -> Array:
    """Return an array in C order, if the library has memory orders. It is copied if necessary, and always if `own`."""
    if type(array) is np.ndarray and not own:  # fast path
        return np.ascontiguousarray(array)
    result = array
    if compat.is_numpy_namespace(xp) or compat.is_cupy_namespace(xp):
        result = xp.ascontiguousarray(array)
    elif compat.is_torch_namespace(xp):
        result = array.contiguous()
    if own and (result is array or (is_on_host(result) and np.may_share_memory(result, array))):
        return owned_copy(xp, result)
    return result


def joined(xp: Namespace, arrays: Sequence[Array]) -> Array:
    """Return matrices below each other: a view if they follow each other in the same NumPy array, or else a copy."""
    base, first = getattr(arrays[0], "base", None), arrays[0]
    if type(first) is np.ndarray and type(base) is np.ndarray and base.flags.c_contiguous:
        start, *at = [a.__array_interface__["data"][0] for a in (base, *arrays)]
        ends = [address + a.nbytes for address, a in zip(at, arrays, strict=True)]
        if ends[:-1] == at[1:] and all(a.flags.c_contiguous and a.base is base for a in arrays):
            shape = sum(map(len, arrays)), *first.shape[1:]
            return np.ndarray(shape, first.dtype, base, at[0] - start)
    return xp.concat(arrays)


def concat(xp: Namespace, arrays: Sequence[Array], axis: int = 0) -> Array:
    """Concatenate arrays, on a device at most eight at a time.

    For more, CuPy copies a table of addresses from the host. A captured graph would copy whatever is there later.
    """
    arrays = list(arrays)
    while len(arrays) > _MOST_JOINED and not is_on_host(arrays[0]):
        groups = [arrays[i : i + _MOST_JOINED] for i in range(0, len(arrays), _MOST_JOINED)]
        arrays = [xp.concat(group, axis=axis) if len(group) > 1 else group[0] for group in groups]
    return xp.concat(arrays, axis=axis)


def owned_copy(xp: Namespace, array: Array) -> Array:
    """Copy an array; immutable arrays are returned unchanged."""
    if type(array) is np.ndarray:  # fast path
        return np.array(array)
    return array if compat.is_jax_namespace(xp) else xp.asarray(array, copy=True)


def written(target: Array, values: Array) -> Array:
    """Write values to an array and return it; where arrays are immutable, return the values."""
    if compat.is_jax_array(target):
        return values
    target[...] = values
    return target


def device(array: Array) -> Any:
    """Return the library's device object of an array."""
    return compat.device(array)
