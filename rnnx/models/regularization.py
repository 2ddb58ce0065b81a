"""Zoneout and recurrent dropout of the layers of a stack."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import real
from rnnx.cells import Cell
from rnnx.cells.options import MASKED, dropout_mask, with_options, zoneout_mask
from rnnx.models.layers import Direction
from rnnx.models.masks import Masks

Zoneout = float | Sequence[float]


@dataclass(frozen=True)
class Regularization:
    """Zoneout and recurrent dropout of a cell.

    Attributes
    ----------
    cell : Cell
    zoneout : float or list of float
        As the caller gave it.
    recurrent_dropout : float
    training, evaluation : Cell
        The cells that run with and without masks; both are `cell` if all rates are 0.
    """

    cell: Cell
    zoneout: Any
    recurrent_dropout: float

    @classmethod
    def of(cls, cell: Cell, zoneout: Zoneout, recurrent_dropout: float) -> "Regularization":
        """Check the arguments of a stack."""
        if isinstance(zoneout, list | tuple | np.ndarray):
            if len(zoneout) != len(cell.states):
                raise ValueError(
                    f"`zoneout` must be one rate, or one per state {cell.states} of cell {cell.name!r}; "
                    f"got {len(zoneout)} rates"
                )
            rates: Any = [real("zoneout", rate, "[0, 1)") for rate in zoneout]
        else:
            rates = real("zoneout", zoneout, "[0, 1)")
        made = cls(cell, rates, real("recurrent_dropout", recurrent_dropout, "[0, 1)"))
        _ = made.training  # raises if the cell cannot have it
        return made

    @property
    def rates(self) -> list[float]:
        """The rate of zoneout of each state."""
        return self.zoneout if isinstance(self.zoneout, list) else [self.zoneout] * len(self.cell.states)

    @cached_property
    def training(self) -> Cell:
        """The cell that takes masks."""
        zones = tuple([MASKED if rate else 0.0 for rate in self.rates])
        return with_options(self.cell, zoneout=zones, recurrent_dropout=self.recurrent_dropout > 0)

    @cached_property
    def evaluation(self) -> Cell:
        """The cell for evaluation, with masks replaced by their means."""
        return with_options(self.cell, zoneout=tuple(self.rates))

    def run(self, one: Direction, masks: Masks | None, x: Array, like: Array) -> tuple[Cell, dict[str, Array]]:
        """Return the cell for x, (..., m, T), and its masks in the library and dtype of `like`."""
        if masks is None or self.training is self.cell:
            return self.evaluation, {}
        m, n_steps = x.shape[-2:]
        shape, inputs = (one.hidden_size, m, n_steps), dict[str, Array]()
        for state, rate in zip(self.cell.states, self.rates, strict=True):
            if rate:
                inputs[zoneout_mask(state)] = 1 - masks.kept(f"zoneout {state}{one.suffix}", rate, shape, like)
        if self.recurrent_dropout:
            kept = masks.at(0).kept(f"recurrent{one.suffix}", self.recurrent_dropout, (*shape[:2], 1), like)
            xp = ns.namespace(like)
            mask = xp.broadcast_to(kept * (1 / (1 - self.recurrent_dropout)), shape)
            stages = enumerate(self.cell.stages)
            inputs |= {dropout_mask(k): mask for k, stage in stages if stage.recurrent}
        return self.training, inputs
