"""Checks of the states of a stack, and of cotangents. Dimensions: n features, m examples, T steps."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import compare_shapes
from rnnx.functional import cotangents

if TYPE_CHECKING:
    from rnnx.models.recurrent import Recurrent, StackCache


def check_states(
    stack: "Recurrent", what: str, arrays: Mapping[str, Array] | None, m: int | None, like: Array | None = None
) -> dict[str, Array]:
    """Check states (n, m), or their cotangents, by name, and return them as a dict.

    m may be unknown. `like` is an array in whose library and on whose device they must be.
    """
    if not arrays and (arrays is None or isinstance(arrays, Mapping)):
        return {}
    if not isinstance(arrays, Mapping):
        raise TypeError(f"`{what}` must be a dict of arrays by name; got {type(arrays).__name__}")
    unknown = [name for name in arrays if name not in stack.state_names]
    if unknown:
        raise ValueError(f"`{what}` must only contain {list(stack.state_names)}; got {unknown}")
    arrays = {name: s for name, s in arrays.items() if s is not None}
    if arrays:
        named = {f"{what}[{name!r}]": s for name, s in arrays.items()}
        xp, _ = ns.common_namespace(named if like is None else {"parameters": like, **named})
        ns.floating_dtype(xp, {}, named)
    widths = {name: units for layer in stack.layers for one in layer for name, units in one.state_sizes.items()}
    for name, s in arrays.items():
        own_m = s.shape[-1] if m is None and s.ndim == 2 else m
        compare_shapes(f"{what}[{name!r}]", tuple(s.shape), "(n, m)", (widths[name], own_m or 0))
    return arrays


def check_cotangents(
    stack: "Recurrent", dout: Array | None, cache: "StackCache", ds_final: Mapping[str, Array] | None
) -> dict[str, Array]:
    """Check the arguments of `Recurrent.backward`; return the cotangents of the final states."""
    final = check_states(stack, "ds_final", ds_final, None)
    for layer, kept in zip(stack.layers, cache.layers, strict=True):
        for one, caches in zip(layer, kept, strict=True):
            of_states = {f"ds_final[{name!r}]": final.get(name) for name in one.state_names}
            tape = caches.tape_for(caches.cell)
            cotangents.check_cotangents(tape, "cache", {"dout": dout}, of_states, stack.output_size)
    return final
