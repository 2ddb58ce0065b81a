"""Parameters and optimizer state joined into single arrays.

On a device every call is a kernel launch. The rules in `ELEMENTWISE` give the same result on one long array as on
many short ones, with far fewer launches.
"""

import copy
import math
from typing import Any

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.optim.base import Tree
from rnnx.optim.checks import Named
from rnnx.optim.optimizers import ELEMENTWISE

_ALIGNMENT = 64  # elements; every array begins at an aligned position, for fast matrix products

_ALL = "all"  # the key of a joined array


class Joined:
    """Parameters and optimizer state, each joined into one array (`arrays`), and the dicts of views that users see.

    See Also
    --------
    Optimizer

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.optim import Adam, Joined
    >>> adam, parameters = Adam(), {"W": np.ones((2, 3)), "b": np.zeros((2, 1))}
    >>> joined = Joined.of(adam, parameters, adam.init(parameters))
    >>> [sorted(arrays) for arrays in joined.arrays]  # a step updates three arrays instead of six
    [['all'], ['s.dall', 'v.dall']]
    """

    def __init__(self, parameters: Tree, state: Tree, slots: tuple[str, ...]) -> None:
        self._xp, device = ns.common_namespace(parameters)
        dtype = next(iter(parameters.values())).dtype
        self._gap = self._xp.zeros((_ALIGNMENT,), dtype=dtype, device=device)
        self._shapes = {name: tuple(a.shape) for name, a in parameters.items()}
        self._slots, self.views = slots, (parameters, state)
        moments = {f"{slot}.d{_ALL}": self._join(state, slot + ".d{}") for slot in slots}
        self.arrays = {_ALL: self._join(parameters)}, moments

    @classmethod
    def of(cls, optimizer: Any, parameters: Tree, state: Tree) -> "Joined | None":
        """Join the arrays if that cannot change the result; otherwise return None.

        The update rule must be elementwise (a subclass may use whole arrays), all dtypes must be equal, and the state
        must hold nothing else.
        """
        if type(optimizer) not in ELEMENTWISE:
            return None
        names = {f"{slot}.d{name}" for slot in optimizer.slots for name in parameters}
        if names != set(state) or len({a.dtype for a in (*parameters.values(), *state.values())}) > 1:
            return None
        return cls(parameters, state, optimizer.slots)

    def matches(self, parameters: Tree, state: Tree) -> bool:
        """Return whether these are the parameters and the state of the last step."""
        own, moments = self.views
        if moments is not state or len(own) != len(parameters):
            return False
        return own is parameters or all(parameters[name] is a for name, a in own.items())

    def gradients(self, gradients: Named) -> Tree:
        """Join the gradients of the parameters."""
        return {f"d{_ALL}": self._join(gradients, "d{}")}

    def replace(self, arrays: tuple[Tree, Tree]) -> "Joined":
        """Return a copy with other joined arrays of the same shapes."""
        new = copy.copy(self)
        parameters, state = new.arrays = arrays
        views: Tree = {}
        for slot in self._slots:
            views |= self._split(state[f"{slot}.d{_ALL}"], slot + ".d{}")
        names = [f"{slot}.d{name}" for name in self._shapes for slot in self._slots]  # in the order of an update
        new.views = self._split(parameters[_ALL]), {name: views[name] for name in names}
        return new

    def _join(self, arrays: Named, pattern: str = "{}") -> Array:
        """Join the arrays whose names fill `pattern`, with zeros in the gaps."""
        pieces = []
        for name, shape in self._shapes.items():
            pieces.append(self._xp.reshape(arrays[pattern.format(name)], (-1,)))
            gap = -math.prod(shape) % _ALIGNMENT
            if gap:
                pieces.append(self._gap[:gap])
        return engines.joined(self._xp, pieces)

    def _split(self, joined: Array, pattern: str = "{}") -> Tree:
        """Return the individual arrays, as views where the library has views."""
        at, parts = 0, {}
        for name, shape in self._shapes.items():
            size = math.prod(shape)
            parts[pattern.format(name)] = self._xp.reshape(joined[at : at + size], shape)
            at += size + -size % _ALIGNMENT
        return parts
