"""The base of single-sequence models. Dimensions: n_y outputs, n hidden units, m examples, T steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_lengths, flag, integer, integer_vector
from rnnx._core.inputs import (
    Sizes,
    check_finite,
    check_inputs,
    check_targets,
    check_weights,
    host_lengths,
    real_array,
    weights_of_steps,
)
from rnnx.cells import Cell
from rnnx.data import Batch, Scaler
from rnnx.functional.heads import checked_dense_backward
from rnnx.losses import Loss
from rnnx.models.base import Initialization, Model, Ready, check_attributes
from rnnx.models.extra import check_extra
from rnnx.models.layers import Dense, Parameters, States, check_widths, chosen_cell
from rnnx.models.masks import Masks
from rnnx.models.objective import chosen_loss, loss_config, total_weight
from rnnx.models.passes import batch_slices, join
from rnnx.models.recurrent import Recurrent, StackCache
from rnnx.models.regularization import Zoneout
from rnnx.models.states import check_cotangents, check_states
from rnnx.models.units import units_of

_ATTRIBUTES = ("inputs", "targets", "lengths")


class Options(Initialization, total=False):
    """Keyword arguments of all models of single sequences."""

    cell: str | Cell
    reset_after: bool
    bidirectional: bool
    dropout: float
    zoneout: Zoneout
    recurrent_dropout: float
    per_step: bool
    loss: str | Loss | Mapping[str, Any]
    input_scaler: Any
    target_scaler: Any


@dataclass
class SequenceCache:
    """Cache for `SequenceModel.backward`."""

    stack: StackCache
    a: Array  # (n, m, T), or (n, m): the input of the head


class SequenceModel(Model):
    """A recurrent stack and a dense head, at every step or on the final hidden states; see `SequenceClassifier`."""

    _losses: ClassVar[tuple[str, ...]] = ("classes",)  # the kinds of targets; see `Loss.kind`
    _default_loss: ClassVar[str] = "cross_entropy"
    _input_name: ClassVar[str] = "input_size"
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
        widths = check_widths(hidden_size, num_layers)
        record, of_cell = chosen_cell(cell, reset_after)
        rates: dict[str, Any] = {"dropout": dropout, "zoneout": zoneout, "recurrent_dropout": recurrent_dropout}
        self.stack = Recurrent(record, input_size, widths, bidirectional=bidirectional, **rates)
        sizes = self.stack.input_size, self._input_name, self.output_size, self._output_name
        self._sizes = Sizes(self.loss_function.kind == "classes", *sizes, self.per_step)
        self.runs_in_segments = self.per_step and not self.stack.bidirectional and self.loss_function.by_step
        self.head = Dense("y", self.stack.output_size, self.loss_function.n_outputs(self.output_size))
        config = {**of_cell, "hidden_size": list(widths), **self.stack.rates, "input_size": self.stack.input_size}
        config |= {self._output_name: self.output_size, "bidirectional": self.stack.bidirectional}
        config["per_step"] = self.per_step
        config |= loss_config(self.loss_function, self._default_loss)
        units = units_of(input_scaler, target_scaler, self._sizes, self.loss_function)
        self._input_unit, self._target_unit = units.values()
        config |= {name: one.scaler.config for name, one in units.items() if one is not None}
        self.cell = self.stack.cell
        super().__init__([self.stack, self.head], config, **initialization)

    @property
    def input_scaler(self) -> Scaler | None:
        """The scaler of the inputs."""
        return None if self._input_unit is None else self._input_unit.scaler

    @property
    def target_scaler(self) -> Scaler | None:
        """The scaler of the targets."""
        return None if self._target_unit is None else self._target_unit.scaler

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

    def _checked_inputs(
        self, inputs: Any, lengths: Any, states: Mapping[str, Array] | None
    ) -> tuple[Array, Array | None, States]:
        """Check the arguments of `forward` and the parameters; return lengths and states as arrays."""
        self.check_parameters()
        inputs = check_inputs("inputs", inputs, self._sizes, lengths)
        m, n_steps = inputs.shape[-2:]
        ends = None if lengths is None else check_lengths(self.xp, self.device, lengths, m, n_steps)
        return inputs, ends, self.checked_states(states, m)

    def checked_states(self, states: Mapping[str, Array] | None, m: int) -> States:
        """Check initial states for m examples, and return them as a dict."""
        return check_states(self.stack, "states", states, m, next(iter(self.parameters.values())))

    def _forward(
        self, inputs: Array, ends: Array | None, states: States, masks: Masks | None, keep: bool, extra: Any
    ) -> tuple[Array, States, SequenceCache]:
        """Compute `forward` without checks; `ends` are the lengths as an array."""
        a, final, kept = self._features(inputs, ends, states, masks, keep, extra)
        return self.head.forward(self.parameters, a), final, SequenceCache(kept, a)

    def extra_arrays(self, extra: Mapping[str, Array] | None) -> dict[str, Array]:
        """Convert the inputs besides x to the library and dtype of the parameters."""
        return {name: self.array(a, f"extra[{name!r}]") for name, a in (extra or {}).items()}

    def stack_inputs(self, inputs: Array) -> Array:
        """Return the inputs of the stack: standardized, if the model has an `input_scaler`."""
        x = self.array(inputs, "inputs")
        if self._input_unit is None:
            return x
        if x.ndim == 2:
            raise ValueError("`inputs` must be numbers for a model with an `input_scaler`; got indices")
        return self._input_unit.standardized(ns.astype(self.xp, x, self.dtype))

    def _features(
        self, inputs: Array, ends: Array | None, states: States, masks: Masks | None, keep: bool, extra: Any
    ) -> tuple[Array, States, StackCache]:
        """Compute the inputs of the head, (n, m, T) or (n, m), the final states and the cache of the stack."""
        x = self.stack_inputs(inputs)
        a, final, kept = self.stack.run(self.parameters, x, states, ends, masks, keep, self.extra_arrays(extra))
        if not self.per_step:  # the hidden states where each direction ends
            last = [final[one.state_names[0]] for one in self.stack.layers[-1]]
            a = last[0] if len(last) == 1 else self.xp.concat(last, axis=0)
        return a, final, kept

    def _checked_extra(self, extra: Mapping[str, Any] | None, inputs: Array) -> dict[str, Array]:
        """Return the inputs besides x as arrays, after checking them; lists are converted."""
        if isinstance(extra, Mapping):
            extra = {name: real_array(f"extra[{name!r}]", values)[1] for name, values in extra.items()}
        return check_extra(self.stack.cell, self.stack.widths, extra, *inputs.shape[-2:])

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
        final = dict(ds_final)
        if not self.per_step:
            for one in self.stack.layers[-1]:
                name, part = one.state_names[0], da[one.rows, :]
                final[name] = final[name] + part if name in final else part
        gradients |= self.stack.run_backward(da if self.per_step else None, cache.stack, final, consume, ready)
        if self._input_unit is not None and "dx" in gradients:
            gradients["dx"] = gradients["dx"] / self._input_unit.numbers(gradients["dx"])[1]
        return gradients

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
        inputs, ends, given = self._checked_inputs(inputs, lengths, states)
        m, n_steps = inputs.shape[-2:]
        extra = self._checked_extra(extra, inputs)
        most = float(self.xp.finfo(self.dtype).max)
        check_finite({"inputs": inputs} | {f"extra[{name!r}]": a for name, a in extra.items()}, lengths, most)
        check_finite({f"states[{name!r}]": s for name, s in given.items()}, None, most)
        on_host, results, finals = host_lengths(lengths), [], []
        for part in batch_slices(m, n_steps, self.stack, batch_size):
            stop = n_steps if on_host is None or self.per_step else int(on_host[part].max(initial=1))
            own_ends = None if ends is None else ends[part]
            own_states = {name: s[:, part] for name, s in given.items()}
            own_extra = {name: a[..., part, :stop] for name, a in extra.items()}
            a, final, _ = self._features(inputs[..., part, :stop], own_ends, own_states, None, False, own_extra)
            results.append(self.head.forward(self.parameters, a) if self.per_step else a)
            finals.append(final)
        z = join(self.xp, results)
        after = {name: join(self.xp, [final[name] for final in finals]) for name in self.stack.state_names}
        return z if self.per_step else self.head.forward(self.parameters, z), after

    def checked(self, batch: Any) -> Batch:
        """Check a batch; see `Model.checked`."""
        check_attributes(self, batch, "Examples" if self._input_name == "input_size" else "Lines", _ATTRIBUTES)
        lengths = batch.lengths
        inputs = check_inputs("inputs", batch.inputs, self._sizes, lengths)
        m, n_steps = inputs.shape[-2:]
        if lengths is not None:
            check_lengths(self.xp, self.device, lengths, m, n_steps)
        targets = check_targets("targets", batch.targets, m, n_steps, self._sizes, lengths)
        self.loss_function.check_targets("targets", targets, lengths=lengths)
        extra = self._checked_extra(getattr(batch, "extra", None), inputs)
        continues = getattr(batch, "continues", False)
        if continues and self.stack.bidirectional:
            raise ValueError("a bidirectional model cannot read streams, whose batches continue each other")
        weights = getattr(batch, "weights", None)
        if weights is not None:
            weights = check_weights(weights, m, n_steps if self.per_step else None)
        return Batch(inputs, targets, lengths, continues, extra or None, weights)

    def run(
        self, batch: Any, states: States | None, masks: Masks | None, keep_caches: bool
    ) -> tuple[Array, States, SequenceCache]:
        """Compute the outputs for a checked batch."""
        given = self.checked_states(states, batch.inputs.shape[-2])
        return self._forward(batch.inputs, self.ends(batch), given, masks, keep_caches, batch.extra)

    def compare(self, z: Array, batch: Any) -> tuple[Any, Array]:
        """Return the loss of the outputs for a checked batch, as in `Step`, and its gradient."""
        targets, weights = self.array(batch.targets, "targets"), batch.weights
        targets = targets if self._sizes.classes else ns.astype(self.xp, targets, z.dtype)
        if self._target_unit is not None:
            targets = self._target_unit.standardized(targets)
        if weights is not None:
            n_steps = z.shape[2] if self.per_step else 1
            weights = weights_of_steps(self.xp, self.device, weights, n_steps, z.dtype)
        compare = self.loss_function.compare
        if self.per_step:
            loss, dz = compare(self.xp, z, targets, self.ends(batch), weights)
            return ns.number(loss), dz
        loss, dz = compare(self.xp, z[:, :, None], targets[..., None], None, weights)
        return ns.number(loss), dz[:, :, 0]

    def described(self, z: Array) -> dict[str, Array]:
        """Return what the outputs say, by name, in the units of the targets; see `Loss.describe`."""
        found = self.loss_function.describe(self.xp, z)
        own = self._target_unit
        return found if own is None else {name: own.raw(name, values) for name, values in found.items()}

    def predicted(self, z: Array) -> Array:
        """Return the predictions of outputs, in the units of the targets; see `Loss.predict`."""
        found = self.loss_function.predict(self.xp, z)
        return found if self._target_unit is None else self._target_unit.raw("", found)

    def ends(self, batch: Any) -> Array | None:
        """Return the lengths as an array; None if NumPy's show that all examples have all steps."""
        lengths, (m, n_steps) = batch.lengths, batch.inputs.shape[-2:]
        if lengths is None or (isinstance(lengths, np.ndarray) and m and (lengths == n_steps).all()):
            return None
        return integer_vector(self.xp, self.device, "lengths", lengths)

    def count(self, batch: Any) -> float:
        """Return the number of steps or examples that the loss averages, or the sum of their weights."""
        if getattr(batch, "weights", None) is not None:
            return total_weight(batch, self.per_step)
        if self.per_step and batch.lengths is not None:
            return int(np.sum(batch.lengths))
        m, n_steps = batch.inputs.shape[-2:]
        return int(m * n_steps if self.per_step else m)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {repr(self.stack).strip('<>')}, {self.output_size} outputs>"
