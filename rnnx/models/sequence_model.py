"""The base of single-sequence models. Dimensions: n_y outputs, n hidden units, m examples, T steps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import integer
from rnnx.cells import Cell
from rnnx.functional.heads import dense, dense_gradients
from rnnx.functional.initialization import initialize_dense
from rnnx.models.base import Model, Step, needed_lengths
from rnnx.models.dropout import Masks
from rnnx.models.layers import Parameters, States, check_widths
from rnnx.models.recurrent import Recurrent, StackCache
from rnnx.models.segments import train_in_segments

Loss = Callable[..., tuple[Array, Array]]
CELLS = ("rnn", "lstm", "gru")


class Options(TypedDict, total=False):
    """Keyword arguments of all models."""

    cell: str
    reset_after: bool
    bidirectional: bool
    dropout: float
    per_step: bool
    seed: int | np.random.Generator | None
    scheme: str
    dtype: str
    xp: Any
    device: Any
    parameters: Mapping[str, Array] | None


@dataclass
class SequenceCache:
    """Cache for `SequenceModel.backward`."""

    stack: StackCache
    a: Array  # (n, m, T), or (n, m): the input of the head


class SequenceModel(Model):
    """A recurrent stack with a dense head, at every step or on the final hidden states.

    See `rnnx.models.SequenceClassifier` for the parameters.
    """

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
        seed: int | np.random.Generator | None = None,
        scheme: str = "keras",
        dtype: str = "float32",
        xp: Any = None,
        device: Any = None,
        parameters: Mapping[str, Array] | None = None,
    ) -> None:
        self.per_step, self.output_size = bool(per_step), integer(self._output_name, output_size)
        widths = check_widths(hidden_size, num_layers)
        self.stack = Recurrent(
            named_cell(cell, reset_after), input_size, widths, bidirectional=bidirectional, dropout=dropout
        )
        self.config = {
            "cell": cell,
            "reset_after": bool(reset_after),
            "hidden_size": list(widths),
            "dropout": self.stack.dropout,
            "input_size": self.stack.input_size,
            self._output_name: self.output_size,
            "bidirectional": self.stack.bidirectional,
            "per_step": self.per_step,
        }
        if parameters is not None:
            self.set_parameters(parameters)
            return
        rng = np.random.default_rng(seed)
        options: dict[str, Any] = {"scheme": scheme, "dtype": dtype, "xp": xp, "device": device}
        self.parameters = self.stack.initialize(rng, **options)
        self.parameters |= initialize_dense(self.stack.output_size, self.output_size, seed=rng, **options)

    @property
    def cell(self) -> Cell:
        """The cell record."""
        return self.stack.cell

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter."""
        head = {"Wy": (self.output_size, self.stack.output_size), "by": (self.output_size, 1)}
        return {**self.stack.shapes(), **head}

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
        lengths : sequence or array of int, shape (m,), optional
        states : dict of str to array, optional
            Initial states of the stack, as returned by a previous call; default zeros.
        masks : Masks, optional
            Dropout masks, for training.
        keep_caches : bool
            False saves nothing for a backward pass.

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
            ends = [final[self.cell.states[0] + one.suffix] for one in self.stack.layers[-1]]
            a = ends[0] if len(ends) == 1 else self.xp.concat(ends, axis=0)
        return dense(self.xp, a, self.parameters["Wy"], self.parameters["by"]), final, SequenceCache(kept, a)

    def backward(
        self, dz: Array, cache: SequenceCache, ds_final: Mapping[str, Array] | None = None, *, consume: bool = False
    ) -> Parameters:
        """Compute the gradients of `forward`.

        Parameters
        ----------
        dz : array, shape of z
            Cotangent of the outputs.
        cache : SequenceCache
        ds_final : dict of str to array, optional
            Cotangents of the final states, by name.
        consume : bool
            Free `cache` along the way.

        Returns
        -------
        dict of str to array
            "d" + name for every parameter and initial state; dx unless the inputs are indices.
        """
        da, dW, db = dense_gradients(self.xp, dz, cache.a, self.parameters["Wy"]).values()
        final = dict(ds_final or {})
        if not self.per_step:
            at = 0
            for one in self.stack.layers[-1]:
                name = self.cell.states[0] + one.suffix
                part = da[at : at + one.hidden_size, :]
                final[name] = final[name] + part if name in final else part
                at += one.hidden_size
        gradients = self.stack.backward(da if self.per_step else None, cache.stack, final, consume=consume)
        return {**gradients, "dWy": dW, "dby": db}

    def compare(self, z: Array, batch: Any, lengths: Any) -> tuple[Any, Array]:
        """Return the loss of the outputs, as in `Step`, and its gradient."""
        targets = self.array(batch.targets)
        if self.per_step:
            loss, dz = type(self)._loss(z, targets, lengths=lengths)
            return ns.number(loss), dz
        loss, dz = type(self)._loss(z[:, :, None], targets[..., None])
        return ns.number(loss), dz[:, :, 0]

    def count(self, batch: Any) -> int:
        """Return the number of steps or examples that the loss averages."""
        m, n_steps = batch.inputs.shape[-2:]
        if self.per_step:
            return int(m * n_steps if batch.lengths is None else np.sum(batch.lengths))
        return int(m)

    def evaluate_step(self, batch: Any, *, states: States | None = None) -> tuple[Any, States]:
        """Return the loss without dropout, as in `Step`, and the final states."""
        lengths = needed_lengths(batch.lengths, *batch.inputs.shape[-2:])
        z, final, _ = self.forward(batch.inputs, lengths=lengths, states=states, keep_caches=False)
        return self.compare(z, batch, lengths)[0], final

    def train_step(
        self, batch: Any, *, states: States | None = None, masks: Masks | None = None, segment_length: int | None = None
    ) -> Step:
        """Return the loss, the gradients and the final states of a batch; see `Model.train_step`."""
        if segment_length is not None:
            segment_length = integer("segment_length", segment_length)
            if not self.per_step or self.stack.bidirectional:
                raise ValueError("`segment_length` needs a model of one direction with an output at every step")
            if segment_length < batch.inputs.shape[-1]:
                return train_in_segments(self, batch, dict(states or {}), masks, segment_length)
        lengths = needed_lengths(batch.lengths, *batch.inputs.shape[-2:])
        z, final, cache = self.forward(batch.inputs, lengths=lengths, states=states, masks=masks)
        loss, dz = self.compare(z, batch, lengths)
        return Step(loss, self.own_gradients(self.backward(dz, cache, consume=True)), final)

    def own_gradients(self, gradients: Parameters) -> Parameters:
        """Return the gradients of the parameters only."""
        return {f"d{name}": gradients[f"d{name}"] for name in self.parameters}

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {repr(self.stack).strip('<>')}, {self.output_size} outputs>"


def named_cell(cell: str, reset_after: bool) -> str:
    """Return the name in the cell table of a cell as users specify it."""
    if cell not in CELLS:
        raise ValueError(f"`cell` must be one of {list(CELLS)}; got {cell!r}")
    if reset_after and cell != "gru":
        raise ValueError(f"`reset_after` is an option of the GRU; got it for {cell!r}")
    return "gru_reset_after" if reset_after else cell
