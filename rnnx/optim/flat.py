"""Many small arrays as one, where every call of a function costs a launch: an update is one of elements anyway."""

import math
from collections.abc import Mapping

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array

_ALIGNMENT = 64  # elements: each array begins where a product may read it well

ALL = "all"  # the key of what is joined


class Flat:
    """Where arrays of one dtype lie in the array that they are joined to."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._shapes = {name: tuple(a.shape) for name, a in arrays.items()}
        first = next(iter(arrays.values()))
        self._xp, device = ns.common_namespace(arrays)
        self._gap = self._xp.zeros((_ALIGNMENT,), dtype=first.dtype, device=device)

    def join(self, arrays: Mapping[str, Array], pattern: str = "{}") -> Array:
        """The arrays of these names, which `pattern` is filled with, one behind the other, and zeros in the gaps."""
        pieces = []
        for name, shape in self._shapes.items():
            pieces.append(self._xp.reshape(arrays[pattern.format(name)], (-1,)))
            gap = -math.prod(shape) % _ALIGNMENT
            if gap:
                pieces.append(self._gap[:gap])
        return self._xp.concat(pieces)

    def part(self, joined: Array, pattern: str = "{}") -> dict[str, Array]:
        """The arrays again: views, where the library has views."""
        at, parts = 0, {}
        for name, shape in self._shapes.items():
            size = math.prod(shape)
            parts[pattern.format(name)] = self._xp.reshape(joined[at : at + size], shape)
            at += size + -size % _ALIGNMENT
        return parts


def fits(arrays: Mapping[str, Array], state: Mapping[str, Array], slots: tuple[str, ...]) -> bool:
    """Whether parameters and an optimizer's state can be joined: all of one dtype, and nothing else in the state."""
    names = {f"{slot}.d{name}" for slot in slots for name in arrays}
    return names == set(state) and len({a.dtype for a in (*arrays.values(), *state.values())}) == 1
