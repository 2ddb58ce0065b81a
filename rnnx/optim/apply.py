"""Apply an update rule to every parameter, on new arrays or in place."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.optim.checks import check_distinct, check_update

Tree = dict[str, Array]
Arrays = tuple[Array, ...]


class Update(NamedTuple):
    """A step, and whether it writes to the parameters and state.

    With `write`, arrays are updated in place where the library allows it (in JAX, augmented assignment makes a new
    array); otherwise no input is written to. Both ways are bit-identical.
    """

    xp: Any
    rate: float
    t: int
    write: bool


Rule = Callable[[Array, Array, Arrays, Update], Arrays]


def apply_rule(
    rule: Rule,
    slots: tuple[str, ...],
    rate: float,
    t: int,
    parameters: Mapping[str, Array],
    grads: Mapping[str, Array],
    state: Mapping[str, Array],
    in_place: bool = False,
) -> tuple[Tree, Tree]:
    """Update every parameter and its state, and return both as new dicts.

    `rule` is ``rule(p, g, state, update) -> (p, *state)`` for one parameter; the keys of `state` are slot + ".d" +
    parameter. In place, the new dicts hold the same arrays where these are writable.
    """
    xp = check_update(parameters, grads, state, slots)
    if in_place:
        check_distinct({**parameters, **{"d" + key: grads["d" + key] for key in parameters}, **state})
    new: Tree = {}
    new_state: Tree = {}
    for key, p in parameters.items():
        names = [f"{slot}.d{key}" for slot in slots]
        arrays = [p, *[state[name] for name in names]]
        # NumPy arrays may be read-only; arrays without flags are not.
        write = in_place and False not in [getattr(getattr(a, "flags", None), "writeable", True) for a in arrays]
        if not write and not p.shape:  # NumPy would return scalars for 0-d arrays
            arrays, write = [ns.owned_copy(xp, a) for a in arrays], True
        p, *moments = arrays
        g = ns.astype(xp, grads["d" + key], p.dtype)
        new[key], *moments = rule(p, g, tuple(moments), Update(xp, rate, t, write))
        new_state.update(zip(names, moments, strict=True))
    return new, new_state


def join(**trees: Mapping[str, Array]) -> Tree:
    """Merge dicts, prefixing each key with the dict's name: "v.dW"."""
    return {f"{slot}.{key}": a for slot, tree in trees.items() for key, a in tree.items()}


def split(state: Mapping[str, Array], slot: str) -> Tree:
    """Extract one of the dicts that `join` merged."""
    return {key.removeprefix(f"{slot}."): a for key, a in state.items() if key.startswith(f"{slot}.")}


def zeros(parameters: Mapping[str, Array], slots: tuple[str, ...]) -> Tree:
    """Return a state of zeros."""
    if not slots:
        return {}
    xp, _ = ns.common_namespace(parameters)
    return {f"{slot}.d{key}": xp.zeros_like(p) for slot in slots for key, p in parameters.items()}
