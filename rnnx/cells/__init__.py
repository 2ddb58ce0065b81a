"""The table of cells: the built-in ones, whose backward functions are written by hand, and the zoo."""

import importlib
from collections.abc import Iterator, Mapping

from rnnx._core.checks import nearest
from rnnx._core.words import shown
from rnnx.cells.cell import Cell
from rnnx.cells.decorator import Input, Vector, cell
from rnnx.cells.gate import Gate
from rnnx.cells.gru import GRU, GRU_RESET_AFTER
from rnnx.cells.lstm import LSTM
from rnnx.cells.rnn import RNN
from rnnx.cells.stage import Stage
from rnnx.cells.words import (
    cos,
    exp,
    floor,
    gelu,
    layer_norm,
    log,
    log_sigmoid,
    maximum,
    mean,
    minimum,
    relu,
    sigmoid,
    sign,
    sin,
    softplus,
    sqrt,
    tanh,
    where,
)

BUILT_IN: dict[str, Cell] = {record.name: record for record in (RNN, LSTM, GRU, GRU_RESET_AFTER)}
ZOO = (
    "cifg", "cornn", "fo_pool", "gru_d", "indrnn", "janet", "layer_norm_gru", "layer_norm_lstm", "leaky_esn", "lem",
    "ligru", "lru", "lstmp", "mgu", "mingru", "multiplicative_lstm", "peephole_lstm", "phased_lstm", "relu_rnn",
    "slstm", "sru", "ugrnn", "unicornn",
)  # fmt: skip

__all__ = [
    "BUILT_IN", "CELLS", "ZOO", "Cell", "Gate", "Input", "Stage", "Vector", "cell", "cell_of", "cos", "exp",
    "floor", "gelu", "layer_norm", "log", "log_sigmoid", "maximum", "mean", "minimum", "relu", "sigmoid", "sign", "sin",
    "softplus", "sqrt", "tanh", "where",
]  # fmt: skip


class _Table(Mapping[str, Cell]):
    """Cells by name. Those of the zoo are imported when they are looked up."""

    def __getitem__(self, name: str) -> Cell:
        if name in ZOO:
            found: Cell = getattr(importlib.import_module(f"rnnx.cells.zoo.{name}"), name)
            return found
        return BUILT_IN[name]

    def __contains__(self, name: object) -> bool:
        return name in BUILT_IN or name in ZOO

    def __iter__(self) -> Iterator[str]:
        return iter((*BUILT_IN, *ZOO))

    def __len__(self) -> int:
        return len(BUILT_IN) + len(ZOO)


CELLS: Mapping[str, Cell] = _Table()


def cell_of(cell: Cell | str) -> Cell:
    """Return a cell unchanged; look up a name in ``CELLS``.

    See Also
    --------
    CELLS, rnnx.Cell

    Examples
    --------
    >>> from rnnx.cells import cell_of
    >>> cell_of("lstm").states
    ('a', 'c')
    >>> cell_of(cell_of("gru")).name
    'gru'
    """
    if isinstance(cell, Cell):
        return cell
    if not isinstance(cell, str):
        raise TypeError(f"`cell` must be a Cell, or the name of one in rnnx.CELLS; got {shown(cell)}")
    if cell not in CELLS:
        raise ValueError(
            f"`cell` must be a Cell, or the name of one in rnnx.CELLS; got {shown(cell)}{nearest(str(cell), CELLS)}"
        )
    return CELLS[cell]
