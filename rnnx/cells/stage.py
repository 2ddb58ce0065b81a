"""One stage of a cell's time step: a recurrent product and the elementwise operations around it.

A stage is a pair of pure functions::

    forward(ops, zx, zh, s)                -> (s_next, saved)
    backward(ops, ds, s_prev, s_next, saved) -> (dzx, dzh, ds_prev)

``zx`` is the input side ``W_x x_t + b``, with one entry per gate that has one, and ``zh`` the recurrent side
``W_h s[0]``, likewise. ``s`` and ``s_next`` are the states before and after the stage. All arguments and results are
tuples of arrays, scalars or traced symbols, so the functions use only operators, numbers and calls to ``ops.<name>``
(see `rnnx.cells.vocabulary`): no indexing, no branches. ``ds_prev[0]`` is the gradient along the direct path into
``s[0]``; the engine adds the path through the recurrent weights, ``W_h.T dzh``.

A stage with vectors or inputs passes them to both functions as one more argument, ``given``, the vectors first, and
backward returns their gradients ``dgiven`` as one more result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rnnx._core.checks import flag
from rnnx.cells.gate import SIDES, Gate


@dataclass(frozen=True)
class Stage:
    """A stage of a cell.

    Parameters
    ----------
    gates : tuple of Gate
        In the order of `zx` and `zh`: first those with only a recurrent side, last those with only an input side. Those
        with a recurrent side have the same number of heads.
    out : tuple of str
        Names of the values that the stage returns. Those of the last stage are the cell's states.
    saved : tuple of str
        Names of the other values that backward needs, in the order that forward returns them.
    forward, backward : callable
        The two functions of the stage, described in `rnnx.cells.stage`. Without `backward`, a cell derives it, together
        with `saved` and `additive`.
    additive : bool
        Whether each gate with both sides is used only as ``zx + zh``. Then dzx equals dzh, and engines store it once.
    vectors : tuple of str
        Keys of learnable numbers per unit, shape (n_a, 1), used without a product.
    inputs : tuple of str
        Names of inputs besides x, with one number per unit.
    """

    gates: tuple[Gate, ...]
    out: tuple[str, ...]
    saved: tuple[str, ...]
    forward: Callable[..., Any]
    backward: Any = None
    additive: bool = True
    vectors: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        flag("additive", self.additive)
        order = [SIDES.index(gate.sides) for gate in self.gates]
        if order != sorted(order):
            got = [gate.sides for gate in self.gates]
            raise ValueError(f"`gates` of a stage must be in the order of sides {list(SIDES)}; got {got}")
        if any(gate.is_declaration for gate in self.gates):
            raise ValueError("`gates` of a stage must have `weights`; got a gate without keys")
        if len(heads := {gate.heads for gate in self.recurrent}) > 1:
            raise ValueError(f"`gates` of a stage must have the same number of heads; got {sorted(map(int, heads))}")

    @cached_property
    def of_inputs(self) -> tuple[Gate, ...]:
        """The gates with an input side, in the order of `zx`."""
        return tuple(gate for gate in self.gates if "x" in gate.sides)

    @cached_property
    def recurrent(self) -> tuple[Gate, ...]:
        """The gates with a recurrent side, in the order of `zh`."""
        return tuple(gate for gate in self.gates if "h" in gate.sides)

    @cached_property
    def heads(self) -> int:
        """Number of heads of the recurrent sides: of the diagonal blocks in each gate's recurrent matrix."""
        return int(self.recurrent[0].heads) if self.recurrent else 1


@dataclass(frozen=True)
class Hoisted:
    """Vectors that are computed once for a whole sequence, from parameters alone.

    Parameters
    ----------
    sources : tuple of str
        Keys of the parameters, shape (n_a, 1).
    results : tuple of str
        Keys of the vectors computed from them, in the stages' `vectors`.
    forward, backward : callable
        ``forward(ops, *sources)`` returns the results, ``backward(ops, *d_results, *sources)`` the gradients of the
        sources.
    """

    sources: tuple[str, ...]
    results: tuple[str, ...]
    forward: Callable[..., Any]
    backward: Callable[..., Any]
