"""The table of cells: one file and one line here for a new one."""

from rnnx.cells._cell import Cell, Gate, Stage
from rnnx.cells.gru import GRU, GRU_RESET_AFTER
from rnnx.cells.lstm import LSTM
from rnnx.cells.rnn import RNN

CELLS: dict[str, Cell] = {cell.name: cell for cell in (RNN, LSTM, GRU, GRU_RESET_AFTER)}

__all__ = ["CELLS", "Cell", "Gate", "Stage"]
