"""The inputs besides x of the layers of a stack. Dimensions: n units, m examples, T steps."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.cells import Cell
from rnnx.cells.cell import STEP
from rnnx.functional.arguments import check_input, named_inputs

if TYPE_CHECKING:
    from rnnx.models.recurrent import Recurrent


def check_extra(stack: "Recurrent", extra: Mapping[str, Array] | None, m: int, n_steps: int) -> dict[str, Array]:
    """Check the inputs besides x, (m, T) or (n, m, T) for layers of n units."""
    if not extra and not stack.cell.inputs:
        return {}
    found = named_inputs(stack.cell, extra, "extra")
    for name, array in found.items():
        for one, *_ in stack.layers:
            check_input(stack.cell, name, array, one.hidden_size, m, n_steps, called=f"extra[{name!r}]")
    return found


def with_steps(cell: Cell, extra: Mapping[str, Array], x: Array) -> dict[str, Array]:
    """Return the inputs besides x, with the numbers of the steps for those that are missing and have this default.

    A part of a sequence, and a reverse layer, cannot count them.
    """
    missing = [name for name, value in cell.defaults if value == STEP and name not in extra]
    if not missing:
        return dict(extra)
    xp, device = ns.common_namespace({"x": x})
    steps = xp.broadcast_to(xp.arange(x.shape[-1], device=device), tuple(x.shape[-2:]))
    return {**extra, **dict.fromkeys(missing, steps)}
