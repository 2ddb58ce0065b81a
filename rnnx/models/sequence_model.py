"""The base of single-sequence models. Dimensions: n_y outputs, n hidden units, m examples, T steps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import integer
from rnnx.models.base import Initialization, Model
from rnnx.models.layers import Dense, Masks, Parameters, States, check_widths, named_cell
from rnnx.models.recurrent import Recurrent, StackCache

Loss = Callable[..., tuple[Array, Array]]


class Options(Initialization, total=False):
    """Keyword arguments of all models of single sequences."""

    cell: str
    reset_after: bool
    bidirectional: bool
    dropout: float
    per_step: bool


@dataclass
class SequenceCache:
    """Cache for `SequenceModel.backward`."""

    stack: StackCache
    a: Array  # (n, m, T), or (n, m): the input of the head


class SequenceModel(Model):
    """A recurrent stack and a dense head, at every step or on the final hidden states; see `SequenceClassifier`."""

    _loss: Loss
    _output_name: ClassVar[str]  # of the number of outputs, in the config

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        output_size: int = 1,
        num_layers: int = 1,
        *,
        cell: str = "lstm",
        reset_after: bool = False,
        bidirectional: bool = False,
        dropout: float = 0.0,
        per_step: bool = False,
        **initialization: Unpack[Initialization],
    ) -> None:
        self.per_step, self.output_size = bool(per_step), integer(self._output_name, output_size)
        widths = check_widths(hidden_size, num_layers)
        self.stack = Recurrent(
            named_cell(cell, reset_after), input_size, widths, bidirectional=bidirectional, dropout=dropout
        )
        self.runs_in_segments = self.per_step and not self.stack.bidirectional
        self.head = Dense("y", self.stack.output_size, self.output_size)
        config = {
            "cell": cell,
            "reset_after": bool(reset_after),
            "hidden_size": list(widths),
            "dropout": self.stack.dropout,
            "input_size": self.stack.input_size,
            self._output_name: self.output_size,
            "bidirectional": self.stack.bidirectional,
            "per_step": self.per_step,
        }
        self.cell = self.stack.cell
        super().__init__([self.stack, self.head], config, **initialization)

    def forward(
        self,
        inputs: Any,
        *,
        lengths: Any = None,
        states: Mapping[str, Array] | None = None,
        masks: Masks | None = None,
        keep_caches: bool = True,
    ) -> tuple[Array, States, SequenceCache]:
        """Compute the head's outputs: logits or, for a regressor, the predicted numbers.

        Parameters
        ----------
        inputs : array, shape (input_size, m, T), or array of int, shape (m, T)
            Features, or indices of one-hot columns.
        lengths, states, masks, keep_caches
            As for `Recurrent.forward`.

        Returns
        -------
        z : array, shape (n_y, m, T), or (n_y, m) if `per_step` is False
        states : dict of str to array
            After each example's last step.
        cache : SequenceCache
        """
        a, final, kept = self.stack.forward(
            self.parameters, self.array(inputs), states, lengths=lengths, keep_caches=keep_caches, masks=masks
        )
        if not self.per_step:  # the hidden states where each direction ends
            ends = [final[one.state_names[0]] for one in self.stack.layers[-1]]
            a = ends[0] if len(ends) == 1 else self.xp.concat(ends, axis=0)
        return self.head.forward(self.parameters, a), final, SequenceCache(kept, a)

    def backward(
        self, dz: Array, cache: SequenceCache, ds_final: Mapping[str, Array] | None = None, *, consume: bool = False
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
        da, gradients = self.head.backward(self.parameters, dz, cache.a)
        final = dict(ds_final or {})
        if not self.per_step:
            for one in self.stack.layers[-1]:
                name, part = one.state_names[0], da[one.rows, :]
                final[name] = final[name] + part if name in final else part
        return gradients | self.stack.backward(da if self.per_step else None, cache.stack, final, consume=consume)

    def run(
        self, batch: Any, states: States | None, masks: Masks | None, keep_caches: bool
    ) -> tuple[Array, States, SequenceCache]:
        """Compute the outputs for a batch."""
        lengths = _needed_lengths(batch)
        return self.forward(batch.inputs, lengths=lengths, states=states, masks=masks, keep_caches=keep_caches)

    def compare(self, z: Array, batch: Any) -> tuple[Any, Array]:
        """Return the loss of the outputs, as in `Step`, and its gradient."""
        targets = self.array(batch.targets)
        if self.per_step:
            loss, dz = type(self)._loss(z, targets, lengths=_needed_lengths(batch))
            return ns.number(loss), dz
        loss, dz = type(self)._loss(z[:, :, None], targets[..., None])
        return ns.number(loss), dz[:, :, 0]

    def count(self, batch: Any) -> int:
        """Return the number of steps or examples that the loss averages."""
        m, n_steps = batch.inputs.shape[-2:]
        if not self.per_step:
            return int(m)
        return int(m * n_steps if batch.lengths is None else np.sum(batch.lengths))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {repr(self.stack).strip('<>')}, {self.output_size} outputs>"


def _needed_lengths(batch: Any) -> Any:
    """Return the lengths, or None if they are NumPy's and all examples have all steps, so that no mask is needed."""
    lengths, (m, n_steps) = batch.lengths, batch.inputs.shape[-2:]
    if isinstance(lengths, np.ndarray) and lengths.shape == (m,) and m and (lengths == n_steps).all():
        return None
    return lengths
