"""The base of models with a recurrent stack and one head or several. Dimensions: n features, m examples, T steps."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_lengths, integer_vector
from rnnx._core.inputs import Sizes, check_finite, check_inputs, host_lengths, real_array
from rnnx.cells import Cell
from rnnx.data import Batch, Scaler
from rnnx.models.base import Initialization, Model, Ready
from rnnx.models.cutting import lengths_within, steps_of_part
from rnnx.models.extra import check_extra
from rnnx.models.heads import Readout
from rnnx.models.layers import States, check_widths, chosen_cell
from rnnx.models.masks import Masks
from rnnx.models.passes import batch_slices
from rnnx.models.recurrent import Recurrent, StackCache
from rnnx.models.regularization import Zoneout
from rnnx.models.states import check_states
from rnnx.models.units import Unit


class StackOptions(Initialization, total=False):
    """Keyword arguments of all models with a recurrent stack."""

    cell: str | Cell
    reset_after: bool
    bidirectional: bool
    dropout: float
    zoneout: Zoneout
    recurrent_dropout: float
    input_scaler: Any


class StackModel(Model):
    """A recurrent stack on inputs in raw units; subclasses have heads."""

    _input_name: ClassVar[str] = "input_size"
    readouts: dict[str, Readout]  # the heads by their names; of a model with one head, its name is ""
    _sizes: Sizes  # of inputs and targets
    _input_unit: Unit | None = None

    def _make_stack(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int,
        cell: str | Cell = "lstm",
        reset_after: bool = False,
        bidirectional: bool = False,
        **rates: Any,
    ) -> dict[str, Any]:
        """Make the stack; return what the config says of it."""
        widths = check_widths(hidden_size, num_layers)
        record, of_cell = chosen_cell(cell, reset_after)
        self.stack = Recurrent(record, input_size, widths, bidirectional=bidirectional, **rates)
        self.cell = self.stack.cell
        return {**of_cell, "hidden_size": list(widths), **self.stack.rates, "input_size": self.stack.input_size}

    @property
    def input_scaler(self) -> Scaler | None:
        """The scaler of the inputs."""
        return None if self._input_unit is None else self._input_unit.scaler

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

    def _checked_extra(self, extra: Mapping[str, Any] | None, inputs: Array) -> dict[str, Array]:
        """Return the inputs besides x as arrays, after checking them; lists are converted."""
        if isinstance(extra, Mapping):
            extra = {name: real_array(f"extra[{name!r}]", values)[1] for name, values in extra.items()}
        return check_extra(self.stack.cell, self.stack.widths, extra, *inputs.shape[-2:])

    def _checked_batch(self, batch: Any) -> tuple[Array, Array | None, dict[str, Array], bool]:
        """Check the inputs of a batch and its lengths.

        Return inputs, lengths, inputs besides x, and whether it continues. The lengths are where the parameters are, so
        that a step is the same whether it is captured on a device or not; None if all examples are known to have all
        steps.
        """
        inputs, lengths = check_inputs("inputs", batch.inputs, self._sizes, batch.lengths), None
        if batch.lengths is not None:
            m, n_steps = inputs.shape[-2:]
            lengths = check_lengths(self.xp, self.device, batch.lengths, m, n_steps)
            known = host_lengths(batch.lengths)
            if known is not None and m and (known == n_steps).all():
                lengths = None
        extra = self._checked_extra(getattr(batch, "extra", None), inputs)
        continues = getattr(batch, "continues", False)
        if continues and self.stack.bidirectional:
            raise ValueError("a bidirectional model cannot read streams, whose batches continue each other")
        return inputs, lengths, extra, continues

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

    def _run_stack(
        self, inputs: Array, ends: Array | None, states: States, masks: Masks | None, keep: bool, extra: Any
    ) -> tuple[Array, States, StackCache]:
        """Compute the hidden states (n, m, T) of the last layer, the final states, and the cache of the stack."""
        x = self.stack_inputs(inputs)
        return self.stack.run(self.parameters, x, states, ends, masks, keep, self.extra_arrays(extra))

    def _last(self, final: States) -> Array:
        """Return the hidden states (n, m) where each direction of the last layer ends."""
        last = [final[one.state_names[0]] for one in self.stack.layers[-1]]
        return last[0] if len(last) == 1 else self.xp.concat(last, axis=0)

    def _add_to_last(self, ds_final: Mapping[str, Array], da: Array) -> States:
        """Return cotangents of final states with those of `_last` added."""
        final = dict(ds_final)
        for one in self.stack.layers[-1]:
            name, part = one.state_names[0], da[one.rows, :]
            final[name] = final[name] + part if name in final else part
        return final

    def _stack_backward(
        self, da: Array | None, cache: StackCache, ds_final: States, consume: bool, ready: Ready | None
    ) -> dict[str, Array]:
        """Compute the gradients of `_run_stack`, in raw units of the inputs."""
        gradients = self.stack.run_backward(da, cache, ds_final, consume, ready)
        if self._input_unit is not None and "dx" in gradients:
            gradients["dx"] = gradients["dx"] / self._input_unit.numbers(gradients["dx"])[1]
        return gradients

    def _passes(
        self, inputs: Any, lengths: Any, states: Any, batch_size: int | None, extra: Any, *, cut: bool
    ) -> Iterator[tuple[Array, Array | None, States, dict[str, Array]]]:
        """Check arguments, and yield inputs, lengths, states and extra inputs of at most `batch_size` examples.

        Inputs on the host must be finite. With `cut`, those of a pass end with its longest example.
        """
        inputs, ends, given = self._checked_inputs(inputs, lengths, states)
        m, n_steps = inputs.shape[-2:]
        extra = self._checked_extra(extra, inputs)
        arrays = {"inputs": inputs} | {f"extra[{name!r}]": a for name, a in extra.items()}
        check_finite(arrays, lengths, self.largest)
        check_finite({f"states[{name!r}]": s for name, s in given.items()}, None, self.largest)
        on_host = host_lengths(lengths)
        for part in batch_slices(m, n_steps, self.stack, batch_size):
            stop = int(on_host[part].max(initial=1)) if cut and on_host is not None else n_steps
            own_ends = None if ends is None else ends[part]
            own_states = {name: s[:, part] for name, s in given.items()}
            yield inputs[..., part, :stop], own_ends, own_states, {n: a[..., part, :stop] for n, a in extra.items()}

    @abstractmethod
    def _forward(
        self, inputs: Array, ends: Array | None, states: States, masks: Masks | None, keep: bool, extra: Any
    ) -> tuple[Any, States, Any]:
        """Compute the outputs, the final states and a cache without checks; `ends` are the lengths as an array."""

    def run(self, batch: Any, states: States | None, masks: Masks | None, keep_caches: bool) -> tuple[Any, States, Any]:
        """Compute the outputs for a checked batch."""
        given = self.checked_states(states, batch.inputs.shape[-2])
        return self._forward(batch.inputs, self.ends(batch), given, masks, keep_caches, batch.extra)

    def part(self, batch: Batch, rows: slice, steps: slice | None = None) -> Batch:
        """Return some examples of a checked batch, or some of their steps; see `Model.part`."""
        lengths = None if batch.lengths is None else batch.lengths[rows]
        steps = steps_of_part(lengths, batch.inputs.shape[-1]) if steps is None else steps
        lengths = None if lengths is None else lengths_within(lengths, steps)
        extra = None if batch.extra is None else {k: a[..., rows, steps] for k, a in batch.extra.items()}
        given = self._part_of_targets(batch, rows, steps)
        return Batch(batch.inputs[..., rows, steps], lengths=lengths, continues=batch.continues, extra=extra, **given)

    @abstractmethod
    def _part_of_targets(self, batch: Batch, rows: slice, steps: slice) -> dict[str, Any]:
        """Return targets, weights and the number of terms of a part, for some examples and steps of a checked batch."""

    def ends(self, batch: Any) -> Array | None:
        """Return the lengths as an array; None if NumPy's show that all examples have all steps."""
        lengths, (m, n_steps) = batch.lengths, batch.inputs.shape[-2:]
        if lengths is None or (isinstance(lengths, np.ndarray) and m and (lengths == n_steps).all()):
            return None
        return integer_vector(self.xp, self.device, "lengths", lengths)
