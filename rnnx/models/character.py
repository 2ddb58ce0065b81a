"""The character model: what comes next, at every step."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import integer
from rnnx.functional.activations import softmax
from rnnx.functional.heads import softmax_cross_entropy
from rnnx.models.columns import Columns
from rnnx.models.generation import sample
from rnnx.models.recurrent import States
from rnnx.models.sequence_model import SequenceModel


class CharOptions(TypedDict, total=False):
    """Keywords of a character model: those of all models, without a second direction, which would see the answer."""

    cell: str
    reset_after: bool
    dropout: float
    seed: int | np.random.Generator | None
    scheme: str
    dtype: str
    xp: Any
    device: Any
    parameters: Mapping[str, Array] | None


class CharModel(SequenceModel):
    """Predicts the next character: indices in, recurrent layers, a dense layer, softmax.

    Parameters
    ----------
    vocab_size : int
        Number of characters.
    hidden_size : int or sequence of int
        Units of every layer, or of each one.
    num_layers : int
    cell : {"lstm", "gru", "rnn"}
    reset_after : bool
        The GRU of PyTorch and of Keras' default instead of the course's.
    dropout : float
        Between the layers, in training.
    seed : int, optional
        Of the initial parameters.
    scheme, dtype, xp, device
        As for `rnnx.initialize_parameters`.
    parameters : dict of str to array, optional
        Parameters to take over instead of new ones.

    Raises
    ------
    ValueError
        For a size below 1, parameters that do not fit, an unknown cell, or a dropout that is not in [0, 1).

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.models import CharModel
    >>> model = CharModel(27, hidden_size=64, num_layers=2, seed=0)
    >>> logits, states, cache = model.forward(np.array([[0, 3, 1], [5, 1, 2]]))
    >>> logits.shape
    (27, 2, 3)
    """

    kind = "characters"
    _loss = staticmethod(softmax_cross_entropy)

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int | Sequence[int] = 128,
        num_layers: int = 1,
        **options: Unpack[CharOptions],
    ) -> None:
        unknown = sorted(set(options) - set(CharOptions.__annotations__))
        if unknown:
            raise TypeError(f"CharModel takes {sorted(CharOptions.__annotations__)}; got {unknown}")
        integer("vocab_size", vocab_size)
        super().__init__(vocab_size, hidden_size, vocab_size, num_layers, per_step=True, **options)
        self.vocab_size = self.output_size
        self.config |= {"vocab_size": self.vocab_size}

    def vocab_sizes(self) -> dict[str, int]:
        """That of the tokenizer."""
        return {"tokenizer": self.vocab_size}

    def predict(
        self, inputs: Any, lengths: Any = None, states: Mapping[str, Array] | None = None
    ) -> tuple[Array, States]:
        """Probabilities of the next character at every step, (vocab_size, m, T), and the final states."""
        z, final, _ = self.forward(inputs, lengths=lengths, states=states, keep_caches=False)
        return softmax(z), final

    def generate(self, tokenizer: Any, **options: Any) -> list[str]:
        """Draw texts; the options are those of `rnnx.models.generation.sample`."""
        return sample(self, tokenizer, **options)

    def stream(self, m: int = 1, states: Mapping[str, Array] | None = None) -> "CharStream":
        """Read m texts side by side, character by character, from their beginning or from given states on."""
        return CharStream(self, m, states)

    def __repr__(self) -> str:
        return f"<CharModel: {repr(self.stack).strip('<>')}, {self.vocab_size} characters>"


class CharStream:
    """m texts that a model reads character by character. See `CharModel.stream`."""

    def __init__(self, model: CharModel, m: int, states: Mapping[str, Array] | None) -> None:
        weights, bias = model.parameters["Wy"], model.parameters["by"]
        xp, _ = ns.common_namespace({"Wy": weights})
        self._weights, self._bias = ns.owned_copy(xp, weights), ns.owned_copy(xp, bias)
        self._columns = Columns(model.vocab_size, weights)
        self._stream = model.stack.stream(model.parameters, m, states)

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
        return self._weights @ self._stream.step(self._columns(indices)) + self._bias

    @property
    def states(self) -> States:
        """Copies of the states, from which another stream, or `CharModel.forward`, can go on."""
        return self._stream.states
