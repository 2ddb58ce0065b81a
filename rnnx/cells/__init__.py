"""The table of built-in cells."""

from rnnx._core.checks import nearest
from rnnx._core.words import shown
from rnnx.cells.cell import Cell, Gate, Stage
from rnnx.cells.gru import GRU, GRU_RESET_AFTER
from rnnx.cells.lstm import LSTM
from rnnx.cells.rnn import RNN

CELLS: dict[str, Cell] = {cell.name: cell for cell in (RNN, LSTM, GRU, GRU_RESET_AFTER)}

__all__ = ["CELLS", "Cell", "Gate", "Stage", "cell_of"]


def cell_of(cell: Cell | str) -> Cell:
    """Return a cell unchanged; look up a name in ``CELLS``."""
    if isinstance(cell, Cell):
        return cell
    if not isinstance(cell, str):
        raise TypeError(f"`cell` must be a Cell or one of {sorted(CELLS)}; got {shown(cell)}")
    if cell not in CELLS:
        raise ValueError(
            f"`cell` must be a Cell or one of {sorted(CELLS)}; got {shown(cell)}{nearest(str(cell), CELLS)}"
        )
    return CELLS[cell]
