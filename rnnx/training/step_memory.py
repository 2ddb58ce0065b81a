"""The memory of captured steps: what they change, and the keys of their masks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.models import Masks
from rnnx.optim import Joined
from rnnx.training.precision import LossScale


class NeedsHost(RuntimeError):
    """The masks of dropout are drawn on the host, or are too many."""


@dataclass(frozen=True)
class LateMasks(Masks):
    """The masks of a captured step, whose keys are copied to `slots` before every step."""

    slots: Any = None
    places: dict[str, int] = field(default_factory=dict)  # the slots of the layers, found by the first step

    def key_on_device(self, place: str, like: Array) -> Array:
        """See `Masks`."""
        del like
        slot = self.places.setdefault(place, len(self.places))
        if slot >= self.slots.shape[0]:
            raise NeedsHost
        return self.slots[slot, :]

    def key(self, place: str) -> np.ndarray:
        """See `Masks`; this one is asked for by masks that the host draws."""
        del place
        raise NeedsHost


class Memory:
    """What all captured steps of a run change: parameters and optimizer state, the loss scale, and a flag.

    The flag says whether all pending steps were finite.
    """

    def __init__(self, run: Any, joined: Joined) -> None:
        xp = run.model.xp
        self._model, self._optimizer = run.model, run.optimizer
        parameters, state = ({k: ns.owned_copy(xp, a) for k, a in part.items()} for part in joined.arrays)
        self.joined = joined.replace((parameters, state))
        self.scale = None if run.loss_scale is None else LossScale(*(ns.owned_copy(xp, a) for a in run.loss_scale))
        self.finite = xp.asarray(True, device=ns.device(joined.arrays[0]["all"]))

    @property
    def moments(self) -> Sequence[Array]:
        """The joined parameters, and the optimizer's state."""
        return [*self.joined.arrays[0].values(), *self.joined.arrays[1].values()]

    def take(self, run: Any) -> bool:
        """Move the state of a run here, unless it is here; return False if it is of another kind."""
        if run.model is not self._model or run.optimizer is not self._optimizer:
            return False
        if not self.joined.matches(run.model.parameters, run.optimizer_state):
            joined = Joined.of(run.optimizer, run.model.parameters, run.optimizer_state)
            if joined is None or (run.loss_scale is None) != (self.scale is None):
                return False
            given = [*joined.arrays[0].values(), *joined.arrays[1].values()]
            if [(a.shape, a.dtype) for a in given] != [(a.shape, a.dtype) for a in self.moments]:
                return False
            write(self.moments, given)
        if self.scale is not None and run.loss_scale is not self.scale:
            write(self.scale, run.loss_scale)
        flag = run._pending.all_finite
        if flag is not self.finite:
            self.finite[...] = run.model.xp.ones_like(self.finite) if flag is None else flag
        parameters, state = self.joined.views
        if run.model.parameters is not parameters or run.loss_scale is not self.scale:
            run._replace(parameters=parameters, optimizer_state=state, loss_scale=self.scale, _joined=self.joined)
        return True


def write(targets: Any, values: Any) -> None:
    """Copy arrays to others."""
    for target, value in zip(targets, values, strict=True):
        target[...] = value
