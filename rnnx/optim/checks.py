"""Checks of hyper-parameters, gradients and states, made before anything is written."""

import operator
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache, partial
from itertools import chain
from typing import Annotated, Any, NamedTuple, get_type_hints

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_shape, flag, integer, real
from rnnx._core.kinds import Table, kinds
from rnnx._core.words import shown

Named = Mapping[str, Array]  # arrays by name
_STRINGS = {str}
_SHAPE, _DTYPE = operator.attrgetter("shape"), operator.attrgetter("dtype")
_KIND = operator.attrgetter("shape", "dtype")

positive = partial(real, interval="(0, inf)")
not_negative = partial(real, interval="[0, inf)")
below_one = partial(real, interval="[0, 1)")


# Field types of `Checked` records, each with its check.
Positive = Annotated[float, positive]
NotNegative = Annotated[float, not_negative]
BelowOne = Annotated[float, below_one]
UpToOne = Annotated[float, partial(real, interval="(0, 1]")]
Count = Annotated[int, integer]
CountOrZero = Annotated[int, partial(integer, least=0)]
Flag = Annotated[bool, flag]


class Checked:
    """Base of frozen dataclasses: every field is checked by the function in its annotation."""

    def __post_init__(self) -> None:
        for name, check in _checks(type(self)).items():  # type: ignore[arg-type]
            object.__setattr__(self, name, check(name, getattr(self, name)))


@lru_cache(maxsize=64)
def _checks(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name].__metadata__[0] for field in fields(cls)}


class Update(NamedTuple):
    """The arrays of an update, which match: one per parameter in each list."""

    xp: Any
    casts: bool  # whether gradients have other dtypes than parameters
    parameters: list[Array]
    gradients: list[Array]
    moments: list[list[Array]]  # by slot, like `names`
    targets: list[list[Array]]  # of the parameters, and by slot; none without `out`
    names: list[tuple[str, ...]]


class _Known(NamedTuple):
    xp: Any
    casts: bool


_checked: Table[_Known] = Table()


def checked_update(
    parameters: Named, grads: Named, state: Named, slots: tuple[str, ...], out: tuple[Named, Named] | None = None
) -> Update:
    """Check that parameters, gradients, state and `out` match: once for all arrays of the same kinds."""
    for name, arrays in (("parameters", parameters), ("grads", grads), ("state", state)):
        check_mapping(name, arrays)
    d_keys, columns, expected = _names(tuple(parameters), tuple(slots))
    if not grads.keys() >= d_keys.keys():
        missing = [key for key in d_keys if key not in grads]
        raise ValueError(f"`grads` must hold a gradient for every parameter; missing {missing}")
    if state.keys() != expected:
        missing, unknown = sorted(expected - state.keys()), sorted(state.keys() - expected)
        raise ValueError(f"`state` must have the keys of init(parameters); missing {missing}, unknown {unknown}")
    own, used = [*parameters.values()], [*map(grads.__getitem__, d_keys)]
    moments = [[*map(state.__getitem__, column)] for column in columns]
    targets = [] if out is None else [[*map(of.get, column)] for of, column in _columns(out, parameters, columns)]
    of_arrays = kinds([*own, *used, *chain(*moments), *chain(*targets)])
    key = of_arrays and (len(own), len(moments), len(targets), of_arrays)
    known = _checked.find(key)
    if known is None:
        known = _checked.add(
            key, _check(parameters, dict(zip(d_keys, used, strict=True)), state, columns, moments, out)
        )
    return Update(*known, own, used, moments, targets, columns)


def _columns(out: tuple[Named, Named], parameters: Named, columns: list[tuple[str, ...]]) -> Any:
    """Return the two dicts of `out` with the names of their arrays, in the order of `Update.targets`."""
    of_parameters, of_state = out
    return [(of_parameters, parameters), *[(of_state, column) for column in columns]]


def _check(
    parameters: Named,
    used: Named,
    state: Named,
    columns: list[tuple[str, ...]],
    moments: list[list[Array]],
    out: tuple[Named, Named] | None,
) -> _Known:
    """Check arrays whose names match."""
    xp, _ = ns.common_namespace({**parameters, **used, **state})
    check_parameters(xp, parameters)
    _check_alike(parameters, used, columns, moments)
    for dtype in {g.dtype for g in used.values()} - {p.dtype for p in parameters.values()}:
        if not xp.isdtype(dtype, ("real floating", "integral", "bool")):
            name = next(name for name, g in used.items() if g.dtype == dtype)
            raise TypeError(f"`{name}` must hold real numbers; got {dtype}")
    if out is not None:
        check_out(parameters, state, out)
    pairs = zip(parameters.values(), used.values(), strict=True)
    return _Known(xp, any(g.dtype != p.dtype for p, g in pairs))


@lru_cache(maxsize=256)
def _names(
    keys: tuple[str, ...], slots: tuple[str, ...]
) -> tuple[dict[str, None], list[tuple[str, ...]], frozenset[str]]:
    """Return the names of the gradients, and those of the state: by slot, and all of them."""
    columns = [tuple(f"{slot}.d{key}" for key in keys) for slot in slots]
    return dict.fromkeys(f"d{key}" for key in keys), columns, frozenset().union(*columns)


def _check_alike(parameters: Named, used: Named, columns: list[tuple[str, ...]], moments: list[list[Array]]) -> None:
    """Raise unless gradients and state have the shapes of the parameters, and the state their dtypes."""
    own = [*parameters.values()]
    shapes, dtypes = [*map(_SHAPE, own)], [*map(_DTYPE, own)]
    for names, arrays in ((used, used.values()), *zip(columns, moments, strict=True)):
        if [*map(_SHAPE, arrays)] != shapes:
            for name, array, key, shape in zip(names, arrays, parameters, shapes, strict=True):
                check_shape(name, array, f"(the shape of {key})", tuple(shape))
        if names is not used and [*map(_DTYPE, arrays)] != dtypes:
            for name, array, key, dtype in zip(names, arrays, parameters, dtypes, strict=True):
                if array.dtype != dtype:
                    raise TypeError(f"`{name}` must have the dtype of {key}, {dtype}; got {array.dtype}")
    if not ns.is_on_host(own[0]):
        for key, p in parameters.items():
            if getattr(p, "requires_grad", False):  # torch's graph would grow with every step
                raise ValueError(f"`{key}` must not have requires_grad=True; pass `{key}.detach()`")


def check_out(parameters: Named, state: Named, out: tuple[Named, Named]) -> None:
    """Raise unless `out` are two dicts of NumPy arrays like the parameters and the state."""
    for given, own in zip(out, (parameters, state), strict=True):
        arrays, targets = own.values(), [*map(given.get, own)]
        if {*map(type, targets)} <= ns.ONLY_NUMPY and [*map(_KIND, targets)] == [*map(_KIND, arrays)]:
            continue
        for name, array in own.items():
            target: Any = given.get(name)
            if not ns.is_on_host(target) or target.shape != array.shape or target.dtype != array.dtype:
                raise ValueError(f"`out` must hold arrays like the parameters and the state; {name!r} differs")


def check_parameters(xp: Any, parameters: Named) -> None:
    """Raise unless all dtypes are float32 or float64."""
    for dtype in {p.dtype for p in parameters.values()}:
        is_half = getattr(dtype, "itemsize", 2) == 2 and str(dtype).endswith("float16")
        if is_half:
            key = next(key for key, p in parameters.items() if p.dtype == dtype)
            raise TypeError(f"`{key}` must be float32 or float64, because small steps vanish in {dtype}")
    ns.floating_dtype(xp, parameters, {})


def check_mapping(name: str, arrays: Any) -> None:
    """Raise unless `arrays` is a dict with strings as keys."""
    if not isinstance(arrays, Mapping):
        raise TypeError(f"`{name}` must be a dict of arrays; got {type(arrays).__name__}")
    if not {*map(type, arrays)} <= _STRINGS:
        for key in arrays:
            if not isinstance(key, str):
                raise TypeError(f"`{name}` must have strings as keys; got {shown(key)}")


def check_distinct(arrays: Named) -> None:
    """Raise if an array has two names: updating one in place would also change the other."""
    names: dict[int, str] = {}
    for name, array in arrays.items():
        first = names.setdefault(id(array), name)
        if first != name:
            raise ValueError(f"`{first}` and `{name}` are the same array; an in-place update would change both")
