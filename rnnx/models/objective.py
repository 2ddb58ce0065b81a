"""The loss of a model of sequences, the weights of its batches, and the names of its classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.inputs import Sizes, check_targets, check_weights, weights_of_steps
from rnnx._core.words import shown
from rnnx.cells.vocabulary import Ops
from rnnx.data import Batch
from rnnx.losses import LOSSES, Loss, as_loss
from rnnx.models.cutting import fetched, in_share, number_of_steps, total_weight
from rnnx.models.units import Unit, in_raw_units


def chosen_loss(loss: Any, default: str, kinds: tuple[str, ...], per_step: bool, size: int, size_name: str) -> Loss:
    """Return the loss that the arguments of a model choose."""
    chosen = as_loss(default if loss is None else loss, kinds)
    check_loss(chosen, per_step, size, size_name)
    return chosen


def check_loss(loss: Loss, per_step: bool, size: int, size_name: str, of: str = "") -> None:
    """Raise unless a loss can be that of a head; `of` says which one."""
    if not loss.by_step and not per_step:
        raise ValueError(f"the loss {loss!r}{of} needs `per_step` = True")
    if loss.n_outputs(2) == 1 and size != 2:
        raise ValueError(f"the loss {loss!r}{of} needs `{size_name}` = 2; got {size}")


@dataclass(frozen=True)
class Objective:
    """What a head is trained for: a loss of its outputs and of targets in their unit."""

    loss: Loss
    sizes: Sizes
    unit: Unit | None

    def config(self) -> Any:
        """Return the loss as plain values; a loss of the user's own as it is."""
        return self.loss.config if type(self.loss) in LOSSES.values() else self.loss

    def checked_targets(self, name: str, targets: Any, m: int, n_steps: int, lengths: Any) -> Array:
        """Return the targets of a batch as an array, after checking them."""
        array = check_targets(name, targets, m, n_steps, self.sizes, lengths)
        self.loss.check_targets(name, array, lengths=lengths)
        return array

    def checked_weights(self, model: Any, weights: Any, m: int, n_steps: int) -> Array | None:
        """Return the weights of a batch as an array where the parameters are, after checking them."""
        if weights is None:
            return None
        checked = check_weights(weights, m, n_steps if self.sizes.per_step else None)
        on_host = ns.is_on_host(next(iter(model.parameters.values())))
        return checked if on_host else model.array(checked, "weights")

    def count(self, batch: Any) -> float:
        """Return the number of steps or examples that the loss averages, or the sum of their weights."""
        return fetched(self.terms(batch))

    def terms(self, batch: Any) -> Any:
        """Return `count` without waiting for a device: of lengths or weights there, an array of shape ()."""
        weights, per_step = getattr(batch, "weights", None), self.sizes.per_step
        if weights is None and per_step and batch.lengths is not None:
            return number_of_steps(batch.lengths)
        m, n_steps = batch.inputs.shape[-2:]
        if weights is not None:
            return total_weight(weights, batch.lengths, n_steps if per_step else None)
        return int(m * n_steps if per_step else m)

    def part(self, batch: Batch, rows: slice, steps: slice) -> dict[str, Any]:
        """Return targets, weights and the number of terms for some steps of some examples of a checked batch.

        An example with one target has it where its last step is.
        """
        n_terms = self.terms(batch) if batch.n_terms is None else batch.n_terms
        targets, weights = batch.targets, None if batch.weights is None else batch.weights[rows, ...]
        targets = targets[rows, ...] if self.sizes.classes else targets[:, rows, ...]
        if self.sizes.per_step:
            targets = targets[..., steps]
            weights = weights[:, steps] if weights is not None and weights.ndim == 2 else weights
            return {"targets": targets, "weights": weights, "n_terms": n_terms}
        weights = _weights_of_ends(batch, rows, steps, weights)
        return {"targets": targets, "weights": weights, "n_terms": n_terms}

    def compare(self, model: Any, z: Array, batch: Batch) -> tuple[Any, Array]:
        """Return the loss of outputs for a checked batch, and its gradient; of a part, its share of both."""
        if batch.n_terms is None:
            return self._compare(model, z, batch)
        terms = self.terms(batch)
        if isinstance(terms, int | float) and not terms:
            zeros = model.xp.zeros_like(z)
            return ns.number(model.xp.sum(zeros)), zeros
        loss, dz = self._compare(model, z, batch)
        return in_share(loss, dz, terms, batch.n_terms)

    def _compare(self, model: Any, z: Array, batch: Batch) -> tuple[Any, Array]:
        weights, ends = batch.weights, model.ends(batch) if self.sizes.per_step else None
        targets = model.array(batch.targets, "targets")
        targets = targets if self.sizes.classes else ns.astype(model.xp, targets, z.dtype)
        if self.unit is not None:
            targets = self.unit.standardized(targets)
        per_step = self.sizes.per_step
        if weights is not None:
            weights = weights_of_steps(model.xp, model.device, weights, z.shape[2] if per_step else 1, z.dtype)
        compare = self.loss.compare
        if per_step:
            loss, dz = compare(model.xp, z, targets, ends, weights)
            return ns.number(loss), dz
        loss, dz = compare(model.xp, z[:, :, None], targets[..., None], None, weights)
        return ns.number(loss), dz[:, :, 0]

    def described(self, xp: Any, z: Array) -> dict[str, Array]:
        """Return what the outputs say, by name, in the units of the targets; see `Loss.describe`."""
        found, own = self.loss.describe(xp, z), self.unit
        return found if own is None else {name: own.raw(name, values) for name, values in found.items()}

    def predicted(self, xp: Any, z: Array) -> Array:
        """Return the predictions of outputs, in the units of the targets; see `Loss.predict`."""
        found = self.loss.predict(xp, z)
        return found if self.unit is None else self.unit.raw("", found)

    @property
    def describes(self) -> bool:
        """Whether `described` says other numbers than the outputs. Probabilities of classes are not among them."""
        own = type(self.loss).distribution is not Loss.distribution
        return self.loss.kind != "classes" and (own or self.unit is not None)

    def traced(self, ops: Ops, outputs: Sequence[Any], *unit: Any) -> dict[str, Any]:
        """Return what `described` does for traced values: those of each name in ``loss.outputs``.

        `unit`: its mean and scale, if there is one.
        """
        found = dict(zip(self.loss.outputs, self.loss.distribution(ops, *outputs), strict=True))
        return found if self.unit is None else {k: in_raw_units(k, v, *unit) for k, v in found.items()}


def _weights_of_ends(batch: Batch, rows: slice, steps: slice, weights: Array | None) -> Array | None:
    """Return the weights (m,) of some examples with one target each, but zero for those that end in no step of these.

    `weights` are theirs in the whole batch; None means that all are 1.
    """
    (m, n_steps), lengths = batch.inputs.shape[-2:], batch.lengths
    if steps.start == 0 and steps.stop >= n_steps:
        return weights
    if lengths is None:
        return weights if steps.stop >= n_steps else np.zeros(len(range(m)[rows]))
    xp = ns.namespace(lengths)
    last = xp.maximum(lengths, xp.ones_like(lengths))[rows]
    ends = (last > steps.start) & (last <= steps.stop)
    if ns.is_on_host(ends) and ends.all():
        return weights
    return ns.astype(xp, ends, xp.float64) if weights is None else xp.where(ends, weights, xp.zeros_like(weights))


def checked_classes(classes: Any, n: int) -> list[Any]:
    """Return the names of n classes as plain values."""
    if isinstance(classes, str) or not hasattr(classes, "__len__"):
        raise TypeError(f"`classes` must be a list of names; got {shown(classes)}")
    names = [name.item() if isinstance(name, np.generic) else name for name in classes]
    if len(names) != n or len(set(names)) != n:
        raise ValueError(f"`classes` must be `num_classes` = {n} different names; got {names!r:.200}")
    if not all(isinstance(name, str | int | bool) for name in names) or len(set(map(type, names))) > 1:
        raise TypeError(f"`classes` must be all text, all integers or all booleans; got {names!r:.200}")
    return names
