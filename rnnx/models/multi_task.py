"""Models with several heads, which learn several things from the same sequences.

Dimensions: n features, m examples, T steps; n_y outputs of a head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

from rnnx._core.arrays import Array
from rnnx._core.checks import flag, nearest
from rnnx._core.inputs import Sizes
from rnnx.data import Batch
from rnnx.functional.heads import checked_dense_backward
from rnnx.losses import as_loss
from rnnx.models.base import Initialization, Ready, check_attributes
from rnnx.models.heads import Head, Readout, check_names, checked_heads
from rnnx.models.layers import Dense, Parameters, States
from rnnx.models.masks import Masks
from rnnx.models.objective import Objective
from rnnx.models.passes import join
from rnnx.models.recurrent import StackCache
from rnnx.models.stack_model import StackModel, StackOptions
from rnnx.models.states import check_cotangents
from rnnx.models.units import unit_of_inputs, unit_of_targets


@dataclass
class MultiTaskCache:
    """Cache for `MultiTaskModel.backward`."""

    stack: StackCache
    inputs: dict[str, Array]  # of each head, (n, m, T) or (n, m)


class MultiTaskModel(StackModel):
    """A recurrent stack with several heads, whose losses are added up with weights.

    Its data are those of `rnnx.data.MultiTaskExamples`, with targets for each head by its name.

    Parameters
    ----------
    input_size, hidden_size, num_layers
        As for `SequenceClassifier`.
    heads : dict of str to Head
        The heads by their names; the parameters of a head "load" are ``Wy_load`` and ``by_load``.
    **options
        As for `SequenceClassifier`.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range, or parameters do not match.

    See Also
    --------
    Head, rnnx.data.MultiTaskExamples, rnnx.losses

    Notes
    -----
    In the loss of a dataset, the losses of batches count by their numbers of examples. A checkpoint cannot hold a loss
    of your own among those of heads.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.models import Head, MultiTaskModel
    >>> heads = {"load": Head(1, "gaussian", per_step=True), "label": Head(3, "cross_entropy", weight=0.5)}
    >>> model = MultiTaskModel(2, 16, heads, rng=0)
    >>> {name: p.shape for name, p in model.predict(np.zeros((2, 5, 7))).items()}
    {'load': (1, 5, 7), 'label': (3, 5)}
    """

    kind = "multi_task"

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        heads: Mapping[str, Head],
        num_layers: int = 1,
        **options: Unpack[StackOptions],
    ) -> None:
        self.heads = checked_heads(heads)
        given: dict[str, Any] = {**options}
        of_stack = {name: given.pop(name) for name in _OF_STACK if name in given}
        scaler = given.pop("input_scaler", None)
        config = self._make_stack(input_size, hidden_size, num_layers, **of_stack)
        config["bidirectional"] = self.stack.bidirectional
        self._sizes = Sizes(False, self.stack.input_size, self._input_name, 1, "size", False)
        self._input_unit = unit_of_inputs(scaler, self._sizes)
        if self._input_unit is not None:
            config["input_scaler"] = self._input_unit.scaler.config
        self.readouts = {name: self._readout(name, head) for name, head in self.heads.items()}
        losses = [one.objective.loss for one in self.readouts.values()]
        self.runs_in_segments = not self.stack.bidirectional and all(loss.by_step for loss in losses)
        config["heads"] = {name: self._config_of(name) for name in self.heads}
        super().__init__([self.stack, *(one.dense for one in self.readouts.values())], config, **given)

    def _readout(self, name: str, head: Head) -> Readout:
        loss = as_loss(head.loss)
        sizes = Sizes(loss.kind == "classes", *self._sizes[1:3], head.size, f"size of {name}", head.per_step)
        objective = Objective(loss, sizes, unit_of_targets(head.target_scaler, sizes, loss))
        return Readout(Dense(f"y_{name}", self.stack.output_size, loss.n_outputs(sizes.n_y)), objective)

    def _config_of(self, name: str) -> dict[str, Any]:
        head, own = self.heads[name], self.readouts[name].objective
        config = {"size": head.size, "loss": own.config(), "per_step": head.per_step, "weight": head.weight}
        return config if own.unit is None else {**config, "target_scaler": own.unit.scaler.config}

    def forward(
        self,
        inputs: Any,
        *,
        lengths: Any = None,
        states: Mapping[str, Array] | None = None,
        masks: Masks | None = None,
        keep_caches: bool = True,
        extra: Mapping[str, Array] | None = None,
    ) -> tuple[dict[str, Array], States, MultiTaskCache]:
        """Compute the outputs of the heads.

        The arguments and errors are those of `SequenceModel.forward`.

        Returns
        -------
        z : dict of str to array, shape (n_y, m, T), or (n_y, m) if `per_step` of the head is False
        states : dict of str to array
            After each example's last step.
        cache : MultiTaskCache
        """
        inputs, ends, given = self._checked_inputs(inputs, lengths, states)
        keep = flag("keep_caches", keep_caches)
        return self._forward(inputs, ends, given, masks, keep, self._checked_extra(extra, inputs))

    def _forward(
        self, inputs: Array, ends: Array | None, states: States, masks: Masks | None, keep: bool, extra: Any
    ) -> tuple[dict[str, Array], States, MultiTaskCache]:
        """Compute `forward` without checks."""
        a, final, kept = self._run_stack(inputs, ends, states, masks, keep, extra)
        last = None if all(head.per_step for head in self.heads.values()) else self._last(final)
        read: dict[str, Any] = {name: a if head.per_step else last for name, head in self.heads.items()}
        z = {name: one.dense.forward(self.parameters, read[name]) for name, one in self.readouts.items()}
        return z, final, MultiTaskCache(kept, read)

    def backward(
        self,
        dz: Mapping[str, Array],
        cache: MultiTaskCache,
        *,
        ds_final: Mapping[str, Array] | None = None,
        consume: bool = False,
    ) -> Parameters:
        """Compute the gradients of `forward`, from the cotangents of the outputs of all heads.

        The other arguments and the results are those of `SequenceModel.backward`.
        """
        check_names("dz", dz, self.heads)
        for name in self.heads:
            checked_dense_backward(dz[name], cache.inputs[name], self.parameters[f"Wy_{name}"])
        final = check_cotangents(self.stack, None, cache.stack, ds_final)
        return self._backward(dz, cache, final, flag("consume", consume))

    def run_backward(
        self, dz: Any, cache: MultiTaskCache, *, ds_final: States | None = None, ready: Ready | None = None
    ) -> Parameters:
        """Run `backward` without checks, and free the cache."""
        return self._backward(dz, cache, ds_final or {}, consume=True, ready=ready)

    def _backward(
        self,
        dz: Mapping[str, Array],
        cache: MultiTaskCache,
        ds_final: States,
        consume: bool,
        ready: Ready | None = None,
    ) -> Parameters:
        da, gradients = None, Parameters()
        for name, one in self.readouts.items():
            part, own = one.dense.backward(self.parameters, dz[name], cache.inputs[name])
            gradients |= own
            if self.heads[name].per_step:
                da = part if da is None else da + part
            else:
                ds_final = self._add_to_last(ds_final, part)
        if ready is not None:
            ready(gradients)
        return gradients | self._stack_backward(da, cache.stack, ds_final, consume, ready)

    def checked(self, batch: Any) -> Batch:
        """Check a batch; see `Model.checked`."""
        check_attributes(self, batch, "MultiTaskExamples", ("inputs", "targets", "lengths"))
        inputs, lengths, extra, continues = self._checked_batch(batch)
        m, n_steps = inputs.shape[-2:]
        check_names("targets", batch.targets, self.heads)
        targets = {
            name: one.objective.checked_targets(f"targets[{name!r}]", batch.targets[name], m, n_steps, batch.lengths)
            for name, one in self.readouts.items()
        }
        given = getattr(batch, "weights", None)
        of_each = given if isinstance(given, dict) else dict.fromkeys(self.heads, given)
        if unknown := [name for name in of_each if name not in self.heads]:
            raise ValueError(f"`weights` has no head {unknown[0]!r}{nearest(str(unknown[0]), self.heads)}")
        weights = {
            name: self.readouts[name].objective.checked_weights(self, w, m, n_steps) for name, w in of_each.items()
        }
        n_terms = getattr(batch, "n_terms", None)
        return Batch(inputs, targets, lengths, continues, extra or None, weights, n_terms)

    def _part_of_targets(self, batch: Batch, rows: slice, steps: slice) -> dict[str, Any]:
        parts = {name: one.objective.part(_of_head(batch, name), rows, steps) for name, one in self.readouts.items()}
        return {key: {name: part[key] for name, part in parts.items()} for key in ("targets", "weights", "n_terms")}

    def compare(self, z: Any, batch: Any) -> tuple[Any, Any]:
        """Return the sum of the weighted losses of the outputs for a checked batch, and its gradients by head."""
        total: Any = 0.0
        dz: dict[str, Array] = {}
        for name, one in self.readouts.items():
            weight = self.heads[name].weight
            loss, d = one.objective.compare(self, z[name], _of_head(batch, name))
            total = total + loss * weight
            dz[name] = d if weight == 1 else d * weight
        return total, dz

    def count(self, batch: Any) -> float:
        """Return the number of examples."""
        return int(batch.inputs.shape[-2])

    def predict(
        self,
        inputs: Any,
        *,
        lengths: Any = None,
        batch_size: int | None = None,
        extra: Mapping[str, Array] | None = None,
    ) -> dict[str, Array]:
        """Return the predictions of the heads by name: probabilities of classes and labels, or numbers.

        The arguments and each of the results are those of `SequenceClassifier.predict`.
        """
        z = self._outputs(inputs, lengths, batch_size, extra)
        return {name: one.objective.predicted(self.xp, z[name]) for name, one in self.readouts.items()}

    def predict_distribution(
        self,
        inputs: Any,
        *,
        lengths: Any = None,
        batch_size: int | None = None,
        extra: Mapping[str, Array] | None = None,
    ) -> dict[str, dict[str, Array]]:
        """Return all that the outputs of the heads say; see `SequenceRegressor.predict_distribution`."""
        z = self._outputs(inputs, lengths, batch_size, extra)
        return {name: one.objective.described(self.xp, z[name]) for name, one in self.readouts.items()}

    def _outputs(self, inputs: Any, lengths: Any, batch_size: int | None, extra: Any) -> dict[str, Array]:
        passes = self._passes(inputs, lengths, None, batch_size, extra, cut=False)
        parts = [self._forward(x, ends, states, None, False, own)[0] for x, ends, states, own in passes]
        return {name: join(self.xp, [z[name] for z in parts]) for name in self.heads}

    def __repr__(self) -> str:
        return f"<MultiTaskModel: {repr(self.stack).strip('<>')}, heads {list(self.heads)}>"


def _of_head(batch: Batch, name: str) -> Batch:
    """Return a batch with what concerns one head."""
    weights, n_terms = ((values or {}).get(name) for values in (batch.weights, batch.n_terms))
    return replace(batch, targets=batch.targets[name], weights=weights, n_terms=n_terms)


_OF_STACK = StackOptions.__annotations__.keys() - Initialization.__annotations__.keys() - {"input_scaler"}
