"""A stack of recurrent layers under a dense head: what the models of sequences have in common.

Dimensions: n_y outputs, m examples, T steps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import integer
from rnnx.cells import Cell
from rnnx.functional.heads import dense_backward, dense_forward
from rnnx.functional.initialization import initialize_dense
from rnnx.models.base import Model, Step
from rnnx.models.dropout import Masks
from rnnx.models.recurrent import Parameters, Recurrent, StackCache, States, check_widths
from rnnx.models.segments import segments

Loss = Callable[..., tuple[Array, Array]]
CELLS = ("rnn", "lstm", "gru")


class Options(TypedDict, total=False):
    """Keywords that all models take."""

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
    """What `SequenceModel.backward` needs."""

    stack: StackCache
    a: Array  # (n, m, T), or (n, m): what the head has seen


class SequenceModel(Model):
    """A recurrent stack and a dense head on every step or on the final hidden states.

    See `rnnx.models.SequenceClassifier` for the parameters.
    """

    _loss: Loss

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        output_size: int,
        num_layers: int,
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
        self.per_step, self.output_size = bool(per_step), integer("output_size", output_size)
        widths = check_widths(hidden_size, num_layers)
        self.stack = Recurrent(
            named_cell(cell, reset_after), input_size, widths, bidirectional=bidirectional, dropout=dropout
        )
        self.config = {
            "cell": cell,
            "reset_after": bool(reset_after),
            "hidden_size": list(widths),
            "dropout": self.stack.dropout,
        }
        if parameters is not None:
            self.set_parameters(parameters)
            return
        rng = np.random.default_rng(seed)
        options: dict[str, Any] = {"scheme": scheme, "dtype": dtype, "xp": xp, "device": device}
        self.parameters = self.stack.initialize(rng, **options)
        self.parameters |= initialize_dense(self.stack.output_size, output_size, seed=rng, **options)

    @property
    def cell(self) -> Cell:
        """The record of the cell."""
        return self.stack.cell

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter with its shape."""
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
        """The outputs of the head, before softmax.

        Parameters
        ----------
        inputs : array, shape (input_size, m, T), or (m, T) of integers
            Numbers, or indices that stand for one-hot columns.
        lengths : sequence or array of int, shape (m,), optional
        states : dict of str to array, optional
            Initial states of the stack, as a previous call returned them; default zeros.
        masks : Masks, optional
            Source of dropout, in training.
        keep_caches : bool
            False if no backward pass follows.

        Returns
        -------
        z : array, shape (n_y, m, T), or (n_y, m) if only the end counts
        states : dict of str to array
            After each example's last step.
        cache : SequenceCache
        """
        x = self._array(inputs)
        a, final, kept = self.stack.forward(
            self.parameters, x, states, lengths=lengths, keep_caches=keep_caches, masks=masks
        )
        if not self.per_step:
            a = self._last(final)
        return dense_forward(a, self.parameters["Wy"], self.parameters["by"]), final, SequenceCache(kept, a)

    def backward(
        self, dz: Array, cache: SequenceCache, dfinal: Mapping[str, Array] | None = None, *, consume: bool = False
    ) -> Parameters:
        """Gradients of `forward`.

        Parameters
        ----------
        dz : array, shape of z
            Cotangent of the outputs.
        cache : SequenceCache
        dfinal : dict of str to array, optional
            Cotangents of the final states, by name.
        consume : bool
            True frees the memory of `cache` on the way.

        Returns
        -------
        dict of str to array
            "d" + name of every parameter and initial state; dx unless the inputs were indices.
        """
        da, dW, db = dense_backward(dz, cache.a, self.parameters["Wy"])
        final = dict(dfinal or {})
        if not self.per_step:
            at = 0
            for one in self.stack.layers[-1]:
                name = self.cell.states[0] + one.suffix
                part = da[at : at + one.hidden_size, :]
                final[name] = final[name] + part if name in final else part
                at += one.hidden_size
        gradients = self.stack.backward(da if self.per_step else None, cache.stack, final, consume=consume)
        return {**gradients, "dWy": dW, "dby": db}

    def _last(self, final: States) -> Array:
        """Hidden states of the last layer where each direction ends, (n, m)."""
        parts = [final[self.cell.states[0] + one.suffix] for one in self.stack.layers[-1]]
        xp, _ = ns.common_namespace({"a": parts[0]})
        return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)

    def _compare(self, z: Array, batch: Any) -> tuple[Any, Array]:
        """Loss of the outputs, see `Step`, and its gradient."""
        targets = self._array(batch.targets)
        if self.per_step:
            loss, dz = type(self)._loss(z, targets, batch.lengths)
            return ns.number(loss), dz
        xp, _ = ns.common_namespace({"z": z})
        loss, dz = type(self)._loss(xp.expand_dims(z, axis=2), xp.expand_dims(targets, axis=-1))
        return ns.number(loss), dz[:, :, 0]

    def count(self, batch: Any) -> int:
        """Of how many steps, or examples, `loss` is the mean."""
        if not self.per_step:
            return int(batch.inputs.shape[-2])
        steps = batch.inputs.shape[-1] * batch.inputs.shape[-2]
        return int(steps if batch.lengths is None else np.sum(batch.lengths))

    def loss(self, batch: Any) -> float:
        """The mean loss of a batch, without dropout."""
        return ns.numbers([self.evaluate_step(batch)[0]])[0]

    def evaluate_step(self, batch: Any, *, states: States | None = None) -> tuple[Any, States]:
        """The loss as `loss_and_gradients` has it, and the states after the last step."""
        z, final, _ = self.forward(batch.inputs, lengths=batch.lengths, states=states, keep_caches=False)
        return self._compare(z, batch)[0], final

    def loss_and_gradients(self, batch: Any, *, masks: Masks | None = None) -> tuple[Any, Parameters]:
        """The loss, a float or of another library than NumPy an array of shape (); and the gradients ("d" + name)."""
        step = self.train_step(batch, masks=masks)
        return step.loss, step.gradients

    def train_step(
        self, batch: Any, *, states: States | None = None, masks: Masks | None = None, segment_length: int | None = None
    ) -> Step:
        """Loss, gradients and final states of a batch.

        Parameters
        ----------
        batch : Batch
        states : dict of str to array, optional
            Initial states, taken as given: no gradient goes back beyond them (truncated backpropagation).
        masks : Masks, optional
            Source of dropout.
        segment_length : int, optional
            Keep the states of every so many steps only and compute the others again on the way back: the memory of
            T / segment_length + segment_length steps instead of T, for one more forward pass. The gradients are
            those of the whole sequence.
        """
        n_steps = batch.inputs.shape[-1]
        if segment_length is not None:
            integer("segment_length", segment_length)
            if not self.per_step or self.stack.bidirectional:
                raise ValueError("segments need a model of one direction with an output for every step")
            if segment_length < n_steps:
                return self._in_segments(batch, dict(states or {}), masks, segment_length)
        z, final, cache = self.forward(batch.inputs, lengths=batch.lengths, states=states, masks=masks)
        loss, dz = self._compare(z, batch)
        return Step(loss, self._own(self.backward(dz, cache, consume=True)), final)

    def _own(self, gradients: Parameters) -> Parameters:
        return {f"d{name}": gradients[f"d{name}"] for name in self.parameters}

    def _in_segments(self, batch: Any, states: States, masks: Masks | None, length: int) -> Step:
        parts = segments(batch, length)
        total = max(self.count(batch), 1)
        before = [states]
        for t, part in parts[:-1]:
            _, states, _ = self.stack.forward(
                self.parameters,
                self._array(part.inputs),
                states,
                lengths=part.lengths,
                keep_caches=False,
                masks=None if masks is None else masks.at(masks.start + t),
            )
            before.append(states)
        loss, gradients, final = 0.0, dict[str, Array](), States()
        dfinal: States = {}
        for (t, part), states in zip(reversed(parts), reversed(before), strict=True):
            there = None if masks is None else masks.at(masks.start + t)
            z, after, cache = self.forward(part.inputs, lengths=part.lengths, states=states, masks=there)
            final = final or after
            part_loss, dz = self._compare(z, part)
            weight = self.count(part) / total
            found = self.backward(dz * weight, cache, dfinal, consume=True)
            loss += part_loss * weight
            dfinal = {name: found[f"d{name}"] for name in self.stack.state_names}
            own = self._own(found)
            gradients = {key: gradients[key] + d for key, d in own.items()} if gradients else own
        return Step(loss, gradients, final)

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"<{kind}: {repr(self.stack).strip('<>')}, {self.output_size} outputs>"


def named_cell(cell: str, reset_after: bool) -> str:
    """The name in the table of cells for a cell as users name it."""
    if cell not in CELLS:
        raise ValueError(f"`cell` must be one of {list(CELLS)}; got {cell!r}")
    if reset_after and cell != "gru":
        raise ValueError(f"`reset_after` is a choice of the GRU; got it for {cell!r}")
    return "gru_reset_after" if reset_after else cell
