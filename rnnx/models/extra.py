"""The inputs besides x of the layers of a stack. Dimensions: n units, m examples, T steps."""

from collections.abc import Mapping, Sequence

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.cells import Cell
from rnnx.cells.cell import STEP
from rnnx.functional.arguments import check_input, named_inputs


def check_extra(
    cell: Cell, widths: Sequence[int], extra: Mapping[str, Array] | None, m: int, n_steps: int
) -> dict[str, Array]:
    """Check the inputs besides x, (m, T) or (n, m, T), for layers with these numbers n of units."""
    if not extra and not cell.inputs:
        return {}
    found = named_inputs(cell, extra, "extra")
    for name, array in found.items():
        for n in widths:
            check_input(cell, name, array, n, m, n_steps, called=f"extra[{name!r}]")
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
