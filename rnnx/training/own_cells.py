"""How checkpoints identify user-defined cells, whose code they do not contain."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnnx._core.words import shown
from rnnx.cells import Cell


def identity(cell: Cell) -> dict[str, Any]:
    """Return what a checkpoint says of a cell of the user's own, as plain values."""
    numbers = {} if cell.definition is None else cell.definition.all_numbers
    return {
        "name": cell.name,
        "states": list(cell.states),
        "parameters": [*cell.parameter_keys, *cell.optional_keys],
        "numbers": numbers,
    }


def check_cell(path: Path, description: Mapping[str, Any], cell: Cell | None) -> None:
    """Raise unless `cell` is what the model in the file needs."""
    needed = description.get("cell")
    if not isinstance(needed, dict):
        if cell is not None:
            needs = f"because the model in {path} has no cell of your own"
            raise ValueError(f"`cell` must be None, {needs}; got {cell.name!r}")
        return
    if cell is None:
        raise ValueError(
            f"the model in {path} has a cell of your own, {shown(needed.get('name'))}: "
            "pass it to `load_checkpoint` or `Run.resume` as `cell`"
        )
    for what, value in identity(cell).items():
        if value != needed.get(what):
            expected = f"must have the {what} {needed.get(what)!r:.200} of the cell of the model in {path}"
            raise ValueError(f"`cell` {expected}; got {value!r:.200}")
