"""The character model, which predicts the next character at every step."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import integer
from rnnx._core.randomness import RNG, takes_rng
from rnnx.functional.activations import softmax
from rnnx.models.generation import sample
from rnnx.models.layers import States
from rnnx.models.sequence_model import Options, SequenceModel
from rnnx.models.streams import CharStream

_OTHERS = {"bidirectional", "per_step", "loss", "input_scaler", "target_scaler"}
_KEYWORDS = sorted(set(Options.__annotations__) - _OTHERS)


class CharModel(SequenceModel):
    """Predicts the next character: one-hot indices, recurrent layers, a dense layer, softmax.

    Parameters
    ----------
    vocab_size : int
    hidden_size, num_layers, **options
        As for `SequenceClassifier`, with its errors and without `bidirectional` and `per_step`.

    See Also
    --------
    sample, rnnx.data.make_corpus, rnnx.training.Trainer

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.models import CharModel
    >>> model = CharModel(27, hidden_size=64, num_layers=2, rng=0)
    >>> logits, states, cache = model.forward(np.array([[0, 3, 1], [5, 1, 2]]))
    >>> logits.shape
    (27, 2, 3)
    """

    kind = "characters"
    _input_name = _output_name = "vocab_size"

    @takes_rng
    def __init__(
        self, vocab_size: int, hidden_size: int | Sequence[int] = 128, num_layers: int = 1, **options: Unpack[Options]
    ) -> None:
        unknown = sorted(set(options) - set(_KEYWORDS))  # both directions would see the next character
        if unknown:
            raise TypeError(f"CharModel has the options {_KEYWORDS}; got {unknown}")
        self.vocab_size = integer("vocab_size", vocab_size)
        options["per_step"] = True
        super().__init__(vocab_size, hidden_size, vocab_size, num_layers, **options)
        for name in ("input_size", "bidirectional", "per_step"):  # they are not arguments of this class
            del self.config[name]

    def vocab_sizes(self) -> dict[str, int]:
        """Return the vocabulary size of the tokenizer."""
        return {"tokenizer": self.vocab_size}

    def predict(
        self,
        inputs: Any,
        *,
        lengths: Any = None,
        states: Mapping[str, Array] | None = None,
        batch_size: int | None = None,
        extra: Mapping[str, Array] | None = None,
    ) -> tuple[Array, States]:
        """Return the probabilities of the next character at every step, (vocab_size, m, T), and the final states.

        `inputs`, `lengths`, `states` and `extra` are those of `forward`, `batch_size` that of
        `SequenceClassifier.predict`.
        """
        z, final = self.outputs(inputs, lengths=lengths, states=states, batch_size=batch_size, extra=extra)
        return softmax(z), final

    @takes_rng
    def extended(self, vocab_size: int, *, rng: RNG = 0) -> "CharModel":
        """Return a copy for more characters, whose weights are new; see `CharTokenizer.extended`.

        Parameters
        ----------
        vocab_size : int
            At least that of this model.
        rng : int, numpy.random.Generator or other seed
            See `numpy.random.default_rng`; also under its older name, `seed`.
        """
        size = integer("vocab_size", vocab_size, self.vocab_size)
        config: dict[str, Any] = {**self.config, "vocab_size": size}
        own: dict[str, Any] = {"dtype": str(ns.to_host(self.parameters["by"]).dtype), "rng": rng}
        fresh = CharModel(**config, **own).parameters
        for name, old in self.parameters.items():  # a new character is a column, or a row, after the others
            fresh[name][tuple(map(slice, old.shape))] = ns.to_host(old)
        arrays = {name: self.xp.asarray(a, device=self.device) for name, a in fresh.items()}
        return CharModel(**config, parameters=arrays)

    def generate(self, tokenizer: Any, **options: Any) -> list[str]:
        """Sample texts; the options are those of `rnnx.models.sample`."""
        return sample(self, tokenizer, **options)

    def stream(self, m: int = 1, states: Mapping[str, Array] | None = None) -> CharStream:
        """Read m texts in parallel, one character at a time, from the beginning or from given states."""
        return CharStream(self, m, states)

    def __repr__(self) -> str:
        return f"<CharModel: {repr(self.stack).strip('<>')}, {self.vocab_size} characters>"
