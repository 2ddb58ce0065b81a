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
    places: dict[tuple[Any, ...], int] = field(default_factory=dict)  # slots of layers and parts: the first step's

    def key_on_device(self, place: str, like: Array) -> Array:
        """See `Masks`."""
        del like
        slot = self.places.setdefault((place, self.seed), len(self.places))
        if slot >= self.slots.shape[0]:
            raise NeedsHost
        return self.slots[slot, :]

    def key(self, place: str) -> np.ndarray:
        """See `Masks`; this one is asked for by masks that the host draws."""
        del place
        raise NeedsHost


class Memory:
    """What all captured steps of a run read and change.

    These are parameters (frozen ones are not changed) and optimizer state, the average of the parameters, the loss
    scale, and a flag: whether all pending steps were finite.
    """

    def __init__(self, run: Any, joined: Joined) -> None:
        xp = run.model.xp
        self._model, self._optimizer = run.model, run.optimizer
        self.joined = _owned(xp, joined)
        self.average = _owned(xp, Joined(run.average, {}, ())) if run.average else None
        trained = self.joined.views[0]
        self._frozen = {k: ns.owned_copy(xp, p) for k, p in run.model.parameters.items() if k not in trained}
        self._parameters = {k: (trained | self._frozen)[k] for k in run.model.parameters}
        self.scale = None if run.loss_scale is None else LossScale(*(ns.owned_copy(xp, a) for a in run.loss_scale))
        self.finite = xp.asarray(True, device=ns.device(joined.arrays[0]["all"]))

    @property
    def moments(self) -> Sequence[Array]:
        """The joined parameters, and the optimizer's state."""
        return [*self.joined.arrays[0].values(), *self.joined.arrays[1].values()]

    @property
    def attributes(self) -> dict[str, Any]:
        """What a run sets whose state is here."""
        own = {"parameters": self._parameters, "optimizer_state": self.joined.views[1], "_joined": self.joined}
        average = {} if self.average is None else {"average": self.average.views[0]}
        return {**own, "loss_scale": self.scale, **average}

    def take(self, run: Any) -> bool:
        """Move the state of a run here, unless it is here; return False if it is of another kind."""
        if run.model is not self._model or run.optimizer is not self._optimizer:
            return False
        if bool(run.average) != (self.average is not None):
            return False
        if not self.joined.matches(run.trained(), run.optimizer_state):
            joined = Joined.of(run.optimizer, run.trained(), run.optimizer_state)
            if joined is None or (run.loss_scale is None) != (self.scale is None):
                return False
            given = [*joined.arrays[0].values(), *joined.arrays[1].values()]
            if [(a.shape, a.dtype) for a in given] != [(a.shape, a.dtype) for a in self.moments]:
                return False
            write(self.moments, given)
        if self.average is not None and run.average is not self.average.views[0]:
            write(self.average.arrays[0].values(), Joined(run.average, {}, ()).arrays[0].values())
        for name, p in self._frozen.items():
            if run.model.parameters[name] is not p:
                p[...] = run.model.parameters[name]
        if self.scale is not None and run.loss_scale is not self.scale:
            write(self.scale, run.loss_scale)
        flag = run._pending.all_finite
        if flag is not self.finite:
            self.finite[...] = run.model.xp.ones_like(self.finite) if flag is None else flag
        found = {**vars(run), "parameters": run.model.parameters}
        if any(found[name] is not value for name, value in self.attributes.items()):
            run._replace(**self.attributes)
        return True


def _owned(xp: Any, joined: Joined) -> Joined:
    """Return joined arrays in memory of their own."""
    parameters, state = ({k: ns.owned_copy(xp, a) for k, a in part.items()} for part in joined.arrays)
    return joined.replace((parameters, state))


def write(targets: Any, values: Any) -> None:
    """Copy arrays to others."""
    for target, value in zip(targets, values, strict=True):
        target[...] = value
