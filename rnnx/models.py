"""Models over the functions: for now the character model, one recurrent layer and a dense head."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rnnx import _namespace as ns
from rnnx._check import cell_of, check_keys, check_parameter_shapes
from rnnx._namespace import Array
from rnnx.cells import Cell
from rnnx.functional import recurrent_backward, recurrent_forward
from rnnx.heads import dense_backward, dense_forward, softmax_cross_entropy
from rnnx.initialization import initialize_parameters
from rnnx.streaming import Stream
from rnnx.text import Batch

Parameters = dict[str, Array]


@dataclass(frozen=True)
class CharModelConfig:
    """What defines the shape of a character model."""

    cell: str
    hidden_size: int
    vocab_size: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return asdict(self)


class CharModel:
    """Predicts the next character: one-hot input, a recurrent cell, a dense layer, softmax.

    It holds no parameters: they are an argument everywhere, so that an optimizer can replace them.

    Parameters
    ----------
    config : CharModelConfig
    """

    def __init__(self, config: CharModelConfig) -> None:
        self.config = config
        self.cell: Cell = cell_of(config.cell)

    def initialize(self, seed: int, dtype: str = "float32") -> Parameters:
        """Initial parameters (scheme "keras")."""
        size = self.config.vocab_size
        return initialize_parameters(self.cell, size, self.config.hidden_size, size, seed=seed, dtype=dtype)

    def check(self, parameters: Mapping[str, Array]) -> None:
        """Raise ValueError unless the parameters fit the config."""
        check_keys(self.cell, parameters)
        check_parameter_shapes(self.cell, parameters, self.config.vocab_size, self.config.hidden_size)
        if parameters[self.cell.head[0]].shape[0] != self.config.vocab_size:
            raise ValueError(f"the head must have {self.config.vocab_size} outputs, one per character")

    def loss(self, parameters: Mapping[str, Array], batch: Batch) -> float:
        """Mean negative log-likelihood per character, in nats."""
        a, _ = self._hidden(parameters, batch, keep_caches=False)
        return float(softmax_cross_entropy(self._logits(parameters, a), batch.targets, batch.lengths)[0])

    def loss_and_gradients(self, parameters: Mapping[str, Array], batch: Batch) -> tuple[float, Parameters]:
        """`loss`, and its gradient with respect to every parameter ("d" + key)."""
        a, caches = self._hidden(parameters, batch, keep_caches=True)
        z = self._logits(parameters, a)
        loss, dz = softmax_cross_entropy(z, batch.targets, batch.lengths)
        weights, bias = self.cell.head
        da, dW, db = dense_backward(dz, a, parameters[weights])
        gradients = recurrent_backward(self.cell, (da,), caches, consume=True)
        return float(loss), {**gradients, "d" + weights: dW, "d" + bias: db}

    def stream(self, parameters: Mapping[str, Array], m: int) -> "CharStream":
        """Read m texts side by side, character by character, from their beginning on."""
        return CharStream(self, parameters, m)

    def _hidden(self, parameters: Mapping[str, Array], batch: Batch, keep_caches: bool) -> tuple[Array, Any]:
        states, _, caches = recurrent_forward(
            self.cell,
            self._one_hot(parameters, batch.inputs),
            (),
            self._recurrent(parameters),
            lengths=batch.lengths,
            keep_caches=keep_caches,
        )
        return states[0], caches

    def _recurrent(self, parameters: Mapping[str, Array]) -> Parameters:
        return {key: value for key, value in parameters.items() if key not in self.cell.head}

    def _logits(self, parameters: Mapping[str, Array], a: Array) -> Array:
        weights, bias = self.cell.head
        return dense_forward(a, parameters[weights], parameters[bias])

    def _one_hot(self, parameters: Mapping[str, Array], indices: np.ndarray) -> Array:
        """(m, T) indices to (vocab_size, m, T), in the library and dtype of the parameters."""
        like = parameters[self.cell.head[0]]
        xp, device = ns.common_namespace({self.cell.head[0]: like})
        ids = xp.asarray(np.ascontiguousarray(indices.T), device=device)
        classes = xp.arange(self.config.vocab_size, dtype=ids.dtype, device=device)
        return xp.permute_dims(xp.astype(xp.expand_dims(ids, axis=2) == classes, like.dtype), (2, 1, 0))


class CharStream:
    """m texts that a model reads character by character. See `CharModel.stream`."""

    def __init__(self, model: CharModel, parameters: Mapping[str, Array], m: int) -> None:
        weights, bias = (parameters[key] for key in model.cell.head)
        xp, device = ns.common_namespace({model.cell.head[0]: weights})
        self._weights, self._bias = ns.owned_copy(xp, weights), ns.owned_copy(xp, bias)
        self._columns = xp.eye(model.config.vocab_size, dtype=weights.dtype, device=device)
        self._stream = Stream(model.cell, model._recurrent(parameters), m=m)

    def read(self, indices: np.ndarray) -> Array:
        """Read the next character of every text.

        Parameters
        ----------
        indices : array of int, shape (m,)

        Returns
        -------
        logits : array, shape (vocab_size, m)
            Of the character that follows.
        """
        xp, device = ns.common_namespace({"columns": self._columns})
        xt = xp.take(self._columns, xp.asarray(indices, device=device), axis=1)
        return self._weights @ self._stream.step(xt) + self._bias
