"""Updates of parameters and optimizer state from gradients, on the host and on a device."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.optim import Joined, clip_by_value
from rnnx.optim.clipping import scale_to_norm

_NO_CLIPPING = 3e38  # no float32 gradient has a larger norm
Arrays = dict[str, Array]


class Updates:
    """Clipping and the optimizer; the base of `TrainingState`, which sets the attributes."""

    model: Any
    optimizer: Any
    clip_norm: float | None
    clip_value: float | None
    in_place: bool
    _owned: Arrays | None = None  # parameters without other references
    _joined: Joined | None = None

    def _clip(self, gradients: Arrays) -> tuple[Arrays, Any]:
        """Return the clipped gradients, and their norm before clipping as an array of shape ()."""
        with np.errstate(invalid="ignore"):  # non-finite gradients are rejected later
            clipped, norm = scale_to_norm(self.model.xp, gradients, self.clip_norm or _NO_CLIPPING)
        if self.clip_value is not None:
            clipped = clip_by_value(clipped, self.clip_value)
        return clipped, norm

    def _update_on_host(self, parameters: Arrays, state: Arrays, gradients: Arrays, t: int) -> tuple[Arrays, Arrays]:
        """Update NumPy arrays with clipped gradients, in place if allowed."""
        if not self.in_place:
            return self.optimizer.update(parameters, gradients, state, t)
        if self._owned is not parameters:  # never write to arrays that others hold
            parameters, state = copies(parameters), copies(state)
        self._owned, state = self.optimizer.update(parameters, gradients, state, t, in_place=True)
        return self._owned, state

    def _update_on_device(
        self, parameters: Arrays, state: Arrays, gradients: Arrays, t: int, finite: Any
    ) -> tuple[Arrays, Arrays, Array, Array]:
        """Update arrays on a device, without waiting, if loss and gradients are finite.

        `finite` is called with the gradient norm and returns a boolean on the device. Return new parameters and state
        (if not finite, with the old values), the norm and the boolean, both of shape ().
        """
        if self._joined is None or not self._joined.matches(parameters, state):
            self._joined = Joined.of(self.optimizer, parameters, state)
        joined = self._joined
        old = joined.arrays if joined else (parameters, state)
        clipped, norm = self._clip(joined.gradients(gradients) if joined else gradients)
        good = finite(norm)
        xp, _ = ns.common_namespace({"norm": norm})
        updated = self.optimizer.update(old[0], clipped, old[1], t)
        new = tuple(
            {name: xp.where(good, a, before[name]) for name, a in after.items()}
            for after, before in zip(updated, old, strict=True)
        )
        return *(joined.replace(new) if joined else new), norm, good


def copies(arrays: Mapping[str, Array]) -> Arrays:
    """Return copies of all arrays."""
    if not arrays:
        return {}
    xp, _ = ns.common_namespace(arrays)
    return {name: ns.owned_copy(xp, a) for name, a in arrays.items()}
