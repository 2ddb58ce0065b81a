"""Checks of hyper-parameters, gradients and states, made before anything is written."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_shape, integer, real

positive = partial(real, interval="(0, inf)")
not_negative = partial(real, interval="[0, inf)")
below_one = partial(real, interval="[0, 1)")
up_to_one = partial(real, interval="(0, 1]")
at_least_zero = partial(integer, least=0)


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be True or False; got {value!r}")
    return value


def set_checked(record: Any, **checks: Callable[[str, Any], Any]) -> None:
    """In the `__post_init__` of a frozen dataclass: check fields and keep what the checks return."""
    for name, check in checks.items():
        object.__setattr__(record, name, check(name, getattr(record, name)))


def check_gradients(parameters: Mapping[str, Array], grads: Mapping[str, Array]) -> Any:
    """The namespace of parameters and gradients that fit each other."""
    missing = ["d" + key for key in parameters if "d" + key not in grads]
    if missing:
        raise ValueError(f"`grads` must hold a gradient for every parameter; missing {missing}")
    used = {"d" + key: grads["d" + key] for key in parameters}
    xp, _ = ns.common_namespace({**parameters, **used})
    for key, p in parameters.items():
        check_shape("d" + key, used["d" + key], f"(the shape of {key})", tuple(p.shape))
        if getattr(p, "requires_grad", False):  # every step would be written down, for ever
            raise ValueError(f"`{key}` must not require a gradient of torch; give its detach()")
    check_dtypes(xp, parameters)
    check_widths(xp, parameters)
    check_dtypes(xp, used, ("real floating", "integral"))
    return xp


def check_dtypes(xp: Any, arrays: Mapping[str, Array], kinds: str | tuple[str, ...] = "real floating") -> None:
    """Raise unless all dtypes are of these kinds, in the array API's terms."""
    for dtype in {a.dtype for a in arrays.values()}:  # usually one
        if not xp.isdtype(dtype, kinds):
            name = next(name for name, a in arrays.items() if a.dtype == dtype)
            raise TypeError(f"`{name}` must hold real floating-point numbers; got {dtype}")


def check_widths(xp: Any, parameters: Mapping[str, Array]) -> None:
    """Raise if a parameter has less than 32 bits: squares of gradients, and steps, would come to nothing there."""
    for dtype in {p.dtype for p in parameters.values()}:
        if xp.finfo(dtype).bits < 32:
            name = next(name for name, p in parameters.items() if p.dtype == dtype)
            raise TypeError(f"`{name}` must have at least 32 bits, in which small steps do not vanish; got {dtype}")


def check_state(parameters: Mapping[str, Array], state: Mapping[str, Array], slots: Iterable[str]) -> None:
    """Raise unless `state` holds, for every slot and parameter, an array like the parameter, and nothing else."""
    like = {f"{slot}.d{key}": key for slot in slots for key in parameters}
    if like.keys() != state.keys():
        missing, unknown = [k for k in like if k not in state], [k for k in state if k not in like]
        found = ", ".join(f"{word} {keys}" for word, keys in (("missing", missing), ("unknown", unknown)) if keys)
        raise ValueError(f"`state` must be what init or the last update returned; {found}")
    if not like:
        return
    ns.common_namespace({**parameters, **state})
    for name, key in like.items():
        check_shape(name, state[name], f"(the shape of {key})", tuple(parameters[key].shape))
        if state[name].dtype != parameters[key].dtype:
            raise TypeError(f"`{name}` must have the dtype of {key}, {parameters[key].dtype}; got {state[name].dtype}")


def check_distinct(arrays: Mapping[str, Array]) -> None:
    """Raise if one array goes by two names: what is written for the first would be read for the second."""
    names: dict[int, str] = {}
    for name, array in arrays.items():
        if id(array) in names:
            raise ValueError(
                f"`{names[id(array)]}` and `{name}` are one array; in place, writing one would change the other"
            )
        names[id(array)] = name
