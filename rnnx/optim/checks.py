"""Checks of hyper-parameters, gradients and states, made before anything is written."""

from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache, partial
from typing import Annotated, Any, get_type_hints

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_shape, flag, integer, real
from rnnx._core.words import shown

Named = Mapping[str, Array]  # arrays by name

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


def check_update(parameters: Named, grads: Named, state: Named, slots: tuple[str, ...]) -> Any:
    """Check that parameters, gradients and state match, and return their namespace."""
    for name, arrays in (("parameters", parameters), ("grads", grads), ("state", state)):
        check_mapping(name, arrays)
    missing = ["d" + key for key in parameters if "d" + key not in grads]
    if missing:
        raise ValueError(f"`grads` must hold a gradient for every parameter; missing {missing}")
    expected = {f"{slot}.d{key}" for slot in slots for key in parameters}
    if expected != state.keys():
        missing, unknown = sorted(expected - state.keys()), sorted(state.keys() - expected)
        raise ValueError(f"`state` must have the keys of init(parameters); missing {missing}, unknown {unknown}")
    used = {"d" + key: grads["d" + key] for key in parameters}
    xp, _ = ns.common_namespace({**parameters, **used, **state})
    for key, p in parameters.items():
        moments = {name: state[name] for name in [f"{slot}.d{key}" for slot in slots]}
        for name, array in {"d" + key: used["d" + key], **moments}.items():
            if array.shape != p.shape:
                check_shape(name, array, f"(the shape of {key})", tuple(p.shape))
            if name in moments and array.dtype != p.dtype:
                raise TypeError(f"`{name}` must have the dtype of {key}, {p.dtype}; got {array.dtype}")
        if getattr(p, "requires_grad", False):  # torch's graph would grow with every step
            raise ValueError(f"`{key}` must not have requires_grad=True; pass `{key}.detach()`")
    check_parameters(xp, parameters)
    for dtype in {g.dtype for g in used.values()}:  # usually one; gradients may be narrower than parameters
        if not xp.isdtype(dtype, ("real floating", "integral", "bool")):
            name = next(name for name, g in used.items() if g.dtype == dtype)
            raise TypeError(f"`{name}` must hold real numbers; got {dtype}")
    return xp


def check_parameters(xp: Any, parameters: Named) -> None:
    """Raise unless all dtypes are float32 or float64."""
    for dtype in {p.dtype for p in parameters.values()}:
        if str(dtype).endswith("float16"):  # squares of gradients would underflow
            key = next(key for key, p in parameters.items() if p.dtype == dtype)
            raise TypeError(f"`{key}` must be float32 or float64, because small steps vanish in {dtype}")
    ns.floating_dtype(xp, parameters, {})


def check_mapping(name: str, arrays: Any) -> None:
    """Raise unless `arrays` is a dict with strings as keys."""
    if not isinstance(arrays, Mapping):
        raise TypeError(f"`{name}` must be a dict of arrays; got {type(arrays).__name__}")
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
