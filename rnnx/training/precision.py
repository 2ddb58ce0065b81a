"""The precision of the passes of a run, and the scaling of the loss in float16.

The smallest number of float16 is 6e-8, and without scaling most gradients are smaller.
"""

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.optim.base import with_prefix
from rnnx.training.progress import PendingSteps

INITIAL, LARGEST = 2.0**16, 2.0**24
INTERVAL = 2000  # steps without an overflow until the scale is doubled
_KEY, _PREFIX = "precision", "loss/"  # in the state of a run


class LossScale(NamedTuple):
    """A power of 2 that multiplies the loss, and so all gradients. It is changed without waiting for a device.

    If the gradients overflow, the step changes nothing but the scale, which is halved. If they do at a scale of 1, the
    run has diverged.

    Source: P. Micikevicius et al., Mixed precision training, ICLR 2018.
    """

    scale: Array  # of shape (), like the other
    steps: Array  # without an overflow since the scale was last changed

    def unscaled(self, gradients: Mapping[str, Array]) -> dict[str, Array]:
        """Return the gradients of the loss itself."""
        inverse = 1 / self.scale
        return {key: g * inverse for key, g in gradients.items()}

    def overflow(self, loss: Any, norm: Array) -> Array:
        """Return whether the gradients, of this norm, have overflowed because of the scale."""
        xp = ns.namespace(self.scale)
        loss = xp.asarray(loss, dtype=norm.dtype, device=ns.device(norm))
        return xp.isfinite(loss) & ~xp.isfinite(norm) & (self.scale > 1)

    def after(self, overflow: Any, applied: Any) -> "LossScale":
        """Return the scale after a step that was applied, or not because of an overflow; otherwise unchanged."""
        xp, zero = ns.namespace(self.scale), self.steps * 0
        steps = xp.where(overflow, zero, xp.where(applied, self.steps + 1, self.steps))
        done = steps >= INTERVAL
        larger = xp.where(done & (self.scale < LARGEST), self.scale * 2, self.scale)
        return LossScale(xp.where(overflow, self.scale / 2, larger), xp.where(done, zero, steps))


def outcome(
    scale: LossScale | None, pending: PendingSteps, loss: Any, norm: Array
) -> tuple[Array, Any, Any, LossScale | None]:
    """Return the norm of a step, whether the step is finite, whether it is applied, and the next loss scale.

    A step whose gradients overflow because of the scale counts as finite and has a norm of 0, but is not applied.
    """
    if scale is None:
        finite = pending.finite(loss, norm)
        return norm, finite, finite, None
    overflow = scale.overflow(loss, norm)
    xp, _ = ns.common_namespace({"scale": scale.scale})
    norm = xp.where(overflow, xp.zeros_like(norm), norm)
    finite = pending.finite(loss, norm)
    applied = finite & ~overflow
    return norm, finite, applied, scale.after(finite & overflow, applied)


def loss_scale_for(precision: str | None, model: Any) -> LossScale | None:
    """Check the precision of a run; return the first loss scale, or None if it needs none."""
    if precision is None:
        return None
    like = next(iter(model.parameters.values()))
    if engines.check_precision("precision", precision, like) != "float16":
        return None
    arguments = inspect.signature(model.train_step).parameters.values()
    if not any(a.name == "loss_scale" or a.kind is a.VAR_KEYWORD for a in arguments):
        raise TypeError("`precision` = 'float16' needs a model whose `train_step` takes `loss_scale`")
    xp, keywords = ns.namespace(like), {"dtype": like.dtype, "device": ns.device(like)}
    return LossScale(xp.asarray(INITIAL, **keywords), xp.asarray(0.0, **keywords))


@contextlib.contextmanager
def passes_in(precision: str | None) -> Iterator[None]:
    """Set the precision of a step, which may overflow in float16."""
    if precision is None:
        yield
        return
    quiet = {"over": "ignore", "invalid": "ignore"} if precision == "float16" else {}
    with engines.use_precision(precision), np.errstate(**quiet):  # type: ignore[arg-type]
        yield


def saved(precision: str | None, scale: LossScale | None) -> tuple[dict[str, str], dict[str, Array]]:
    """Return what the state of a run holds of its precision: values, and arrays."""
    values = {} if precision is None else {_KEY: precision}
    return values, {} if scale is None else {_PREFIX + key: a for key, a in scale._asdict().items()}


def restored(
    precision: str | None, scale: LossScale | None, values: Any, arrays: Mapping[str, Array]
) -> tuple[Any, LossScale | None]:
    """Return the values without those of `saved`, and the loss scale; raise ValueError for another precision."""
    if isinstance(values, Mapping):
        trained = values.get(_KEY)
        if trained != precision:
            raise ValueError(f"the run was trained with `precision` = {trained!r}; got {precision!r}")
        values = {key: value for key, value in values.items() if key != _KEY}
    if scale is None:
        return values, None
    own = with_prefix(arrays, _PREFIX)
    if own.keys() != {*LossScale._fields} or any(a.shape != () or a.dtype != scale.scale.dtype for a in own.values()):
        raise ValueError("`arrays` must hold the loss scale, as `precision` is 'float16'")
    xp = ns.namespace(scale.scale)
    return values, LossScale(**{key: ns.owned_copy(xp, a) for key, a in own.items()})
