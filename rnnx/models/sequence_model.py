"""The base of single-sequence models. Dimensions: n_y outputs, n hidden units, m examples, T steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

from rnnx._core.arrays import Array
from rnnx._core.checks import flag, integer
from rnnx._core.inputs import Sizes
from rnnx.cells import Cell
from rnnx.data import Batch, Scaler
from rnnx.functional.heads import checked_dense_backward
from rnnx.losses import Loss, as_loss
from rnnx.models.base import Initialization, Ready, check_attributes
from rnnx.models.heads import Readout
from rnnx.models.layers import Dense, Parameters, States
from rnnx.models.masks import Masks
from rnnx.models.objective import Objective, chosen_loss
from rnnx.models.passes import join
from rnnx.models.recurrent import StackCache
from rnnx.models.regularization import Zoneout
from rnnx.models.stack_model import StackModel, StackOptions
from rnnx.models.states import check_cotangents
from rnnx.models.units import unit_of_inputs, unit_of_targets

_ATTRIBUTES = ("inputs", "targets", "lengths")


class Options(StackOptions, total=False):
    """Keyword arguments of all models of single sequences."""

    per_step: bool
    loss: str | Loss | Mapping[str, Any]
    target_scaler: Any


@dataclass
class SequenceCache:
    """Cache for `SequenceModel.backward`."""

    stack: StackCache
    a: Array  # (n, m, T), or (n, m): the input of the head


class SequenceModel(StackModel):
    """A recurrent stack and a dense head, at every step or on the final hidden states; see `SequenceClassifier`.

    See Also
    --------
    SequenceClassifier, SequenceRegressor, CharModel

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Batch
    >>> from rnnx.models import SequenceRegressor
    >>> model = SequenceRegressor(3, 8, rng=0)
    >>> batch = Batch(np.ones((3, 4, 6)), np.zeros((1, 4)), None)
    >>> z, states, cache = model.forward(batch.inputs)  # a training step by hand
    >>> loss, dz = model.compare(z, batch)
    >>> gradients = model.backward(dz, cache)
    >>> z.shape, gradients["dWf_l0"].shape
    ((1, 4), (8, 11))
    """

    _losses: ClassVar[tuple[str, ...]] = ("classes",)  # the kinds of targets; see `Loss.kind`
    _default_loss: ClassVar[str] = "cross_entropy"
    _output_name: ClassVar[str]  # of the number of outputs, in the config

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        output_size: int = 1,
        num_layers: int = 1,
        *,
        cell: str | Cell = "lstm",
        reset_after: bool = False,
        bidirectional: bool = False,
        dropout: float = 0.0,
        zoneout: Zoneout = 0.0,
        recurrent_dropout: float = 0.0,
        per_step: bool = False,
        loss: str | Loss | Mapping[str, Any] | None = None,
        input_scaler: Any = None,
        target_scaler: Any = None,
        **initialization: Unpack[Initialization],
    ) -> None:
        self.per_step, self.output_size = flag("per_step", per_step), integer(self._output_name, output_size)
        objective = loss, self._default_loss, self._losses, self.per_step, self.output_size, self._output_name
        self.loss_function = chosen_loss(*objective)
        rates = {"dropout": dropout, "zoneout": zoneout, "recurrent_dropout": recurrent_dropout}
        config = self._make_stack(input_size, hidden_size, num_layers, cell, reset_after, bidirectional, **rates)
        sizes = self.stack.input_size, self._input_name, self.output_size, self._output_name
        self._sizes = Sizes(self.loss_function.kind == "classes", *sizes, self.per_step)
        self.head = Dense("y", self.stack.output_size, self.loss_function.n_outputs(self.output_size))
        config |= {self._output_name: self.output_size, "bidirectional": self.stack.bidirectional}
        config["per_step"] = self.per_step
        self._input_unit = unit_of_inputs(input_scaler, self._sizes)
        target_unit = unit_of_targets(target_scaler, self._sizes, self.loss_function)
        self.objective = Objective(self.loss_function, self._sizes, target_unit)
        self.readouts = {"": Readout(self.head, self.objective)}
        self.runs_in_segments = not self.stack.bidirectional and self.loss_function.by_step
        if self.loss_function.config != as_loss(self._default_loss).config:
            config["loss"] = self.objective.config()
        units = {"input_scaler": self._input_unit, "target_scaler": target_unit}
        config |= {name: one.scaler.config for name, one in units.items() if one is not None}
        super().__init__([self.stack, self.head], config, **initialization)

    @property
    def target_scaler(self) -> Scaler | None:
        """The scaler of the targets."""
        return None if self.objective.unit is None else self.objective.unit.scaler

    def forward(
        self,
        inputs: Any,
        *,
        lengths: Any = None,
        states: Mapping[str, Array] | None = None,
        masks: Masks | None = None,
        keep_caches: bool = True,
        extra: Mapping[str, Array] | None = None,
    ) -> tuple[Array, States, SequenceCache]:
        """Compute the head's outputs: logits or, for a regressor, the predicted numbers.

        Parameters
        ----------
        inputs : array, shape (input_size, m, T), or array of int, shape (m, T)
            Features, or indices of one-hot columns.
        lengths, states, masks, keep_caches, extra
            As for `Recurrent.forward`.

        Returns
        -------
        z : array, shape (n_y, m, T), or (n_y, m) if `per_step` is False
        states : dict of str to array
            After each example's last step.
        cache : SequenceCache

        Raises
        ------
        ValueError, TypeError
            If an argument has a wrong type, shape or dtype, or an index or a length is out of range.
        """
        inputs, ends, given = self._checked_inputs(inputs, lengths, states)
        keep = flag("keep_caches", keep_caches)
        return self._forward(inputs, ends, given, masks, keep, self._checked_extra(extra, inputs))

    def _forward(
        self, inputs: Array, ends: Array | None, states: States, masks: Masks | None, keep: bool, extra: Any
    ) -> tuple[Array, States, SequenceCache]:
        """Compute `forward` without checks; `ends` are the lengths as an array."""
        a, final, kept = self._features(inputs, ends, states, masks, keep, extra)
        return self.head.forward(self.parameters, a), final, SequenceCache(kept, a)

    def _features(
        self, inputs: Array, ends: Array | None, states: States, masks: Masks | None, keep: bool, extra: Any
    ) -> tuple[Array, States, StackCache]:
        """Compute the inputs of the head, (n, m, T) or (n, m), the final states and the cache of the stack."""
        a, final, kept = self._run_stack(inputs, ends, states, masks, keep, extra)
        return a if self.per_step else self._last(final), final, kept

    def backward(
        self, dz: Array, cache: SequenceCache, *, ds_final: Mapping[str, Array] | None = None, consume: bool = False
    ) -> Parameters:
        """Compute the gradients of `forward`.

        Parameters
        ----------
        dz : array, shape of z
        cache, ds_final, consume
            As for `Recurrent.backward`.

        Returns
        -------
        gradients : dict
            "d" + name for every parameter and initial state; dx unless the inputs are indices.
        """
        checked_dense_backward(dz, cache.a, self.parameters["Wy"])
        final = check_cotangents(self.stack, None, cache.stack, ds_final)
        return self._backward(dz, cache, final, flag("consume", consume))

    def run_backward(
        self, dz: Array, cache: SequenceCache, *, ds_final: States | None = None, ready: Ready | None = None
    ) -> Parameters:
        """Run `backward` without checks, and free the cache."""
        return self._backward(dz, cache, ds_final or {}, consume=True, ready=ready)

    def _backward(
        self, dz: Array, cache: SequenceCache, ds_final: States, consume: bool, ready: Ready | None = None
    ) -> Parameters:
        da, gradients = self.head.backward(self.parameters, dz, cache.a)
        if ready is not None:
            ready(gradients)
        final = dict(ds_final) if self.per_step else self._add_to_last(ds_final, da)
        return gradients | self._stack_backward(da if self.per_step else None, cache.stack, final, consume, ready)

    def outputs(
        self,
        inputs: Any,
        *,
        lengths: Any = None,
        states: Mapping[str, Array] | None = None,
        batch_size: int | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> tuple[Array, States]:
        """Compute the outputs and final states in passes of at most `batch_size` examples.

        Without outputs for every step, a pass is cut to the length of its longest example, and the head runs once.
        Inputs on the host must be finite.
        """
        results, finals = [], []
        for x, ends, given, own in self._passes(inputs, lengths, states, batch_size, extra, cut=not self.per_step):
            a, final, _ = self._features(x, ends, given, None, False, own)
            results.append(self.head.forward(self.parameters, a) if self.per_step else a)
            finals.append(final)
        z = join(self.xp, results)
        after = {name: join(self.xp, [final[name] for final in finals]) for name in self.stack.state_names}
        return z if self.per_step else self.head.forward(self.parameters, z), after

    def checked(self, batch: Any) -> Batch:
        """Check a batch; see `Model.checked`."""
        check_attributes(self, batch, "Examples" if self._input_name == "input_size" else "Lines", _ATTRIBUTES)
        inputs, lengths, extra, continues = self._checked_batch(batch)
        m, n_steps = inputs.shape[-2:]
        targets = self.objective.checked_targets("targets", batch.targets, m, n_steps, batch.lengths)
        weights = self.objective.checked_weights(self, getattr(batch, "weights", None), m, n_steps)
        n_terms = getattr(batch, "n_terms", None)
        return Batch(inputs, targets, lengths, continues, extra or None, weights, n_terms)

    def _part_of_targets(self, batch: Batch, rows: slice, steps: slice) -> dict[str, Any]:
        return self.objective.part(batch, rows, steps)

    def compare(self, z: Array, batch: Any) -> tuple[Any, Array]:
        """Return the loss of the outputs for a checked batch, as in `Step`, and its gradient."""
        return self.objective.compare(self, z, batch)

    def described(self, z: Array) -> dict[str, Array]:
        """Return what the outputs say, by name, in the units of the targets; see `Loss.describe`."""
        return self.objective.described(self.xp, z)

    def predicted(self, z: Array) -> Array:
        """Return the predictions of outputs, in the units of the targets; see `Loss.predict`."""
        return self.objective.predicted(self.xp, z)

    def count(self, batch: Any) -> float:
        """Return the number of steps or examples that the loss averages, or the sum of their weights."""
        return self.objective.count(batch)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {repr(self.stack).strip('<>')}, {self.output_size} outputs>"
