"""Sequence to sequence. Dimensions: n features, m examples, T_x source steps, T_y target steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import integer
from rnnx.data import PairBatch, pad
from rnnx.functional.heads import softmax_cross_entropy
from rnnx.models.base import Initialization, Model
from rnnx.models.connections import AttentionLayer, Bridge, BridgeCache, LayerCache
from rnnx.models.decoding import Prediction, decode
from rnnx.models.layers import Dense, Masks, Parameters, States, check_widths, named_cell
from rnnx.models.recurrent import Recurrent, StackCache


@dataclass
class Seq2SeqCache:
    """Cache for `Seq2Seq.backward`."""

    encoder: StackCache
    bridge: BridgeCache
    decoder: StackCache
    attention: LayerCache | None
    out: Array  # (n, m, T_y): the input of the head


class Seq2Seq(Model):
    r"""Encoder and decoder with attention.

    Each decoder layer starts from the final states of the same encoder layer. Those of a bidirectional encoder are
    projected first, :math:`s_0 = \tanh(W [\overrightarrow{s}; \overleftarrow{s}] + b)`. The decoder reads the target
    shifted by one step (teacher forcing). Attention follows the decoder (M.-T. Luong et al., arXiv:1508.04025, without
    input feeding), so that all steps of a target run in one pass; the head reads
    :math:`\tilde a_t = \tanh(W_c [c_t; a_t] + b_c)`.

    Parameters
    ----------
    source_vocab_size, target_vocab_size : int
    hidden_size, num_layers
        As for `SequenceClassifier`, the same in the encoder (per direction) and the decoder.
    attention : {"additive", "dot", "scaled_dot", None}
        With None, the decoder depends on the source through its initial states only.
    bidirectional_encoder : bool
    end_token : int
        Index in the target vocabulary of the token that starts and ends every target.
    cell, reset_after, dropout, seed, scheme, dtype, xp, device, parameters
        As for `SequenceClassifier`.

    Raises
    ------
    ValueError
        As for `SequenceClassifier`, and if the attention is unknown or the end token is not in the vocabulary.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.models import Seq2Seq
    >>> model = Seq2Seq(27, 12, hidden_size=16, seed=0)
    >>> model.predict(np.array([[3, 1, 2], [5, 0, 0]]), [3, 1], max_length=4).weights.shape
    (2, 4, 3)
    """

    kind = "seq2seq"

    def __init__(
        self,
        source_vocab_size: int,
        target_vocab_size: int,
        hidden_size: int | Sequence[int] = 128,
        num_layers: int = 1,
        *,
        cell: str = "lstm",
        reset_after: bool = False,
        attention: str | None = "additive",
        bidirectional_encoder: bool = True,
        dropout: float = 0.0,
        end_token: int = 0,
        **initialization: Unpack[Initialization],
    ) -> None:
        widths, record = check_widths(hidden_size, num_layers), named_cell(cell, reset_after)
        source_size = integer("source_vocab_size", source_vocab_size)
        self.target_vocab_size = integer("target_vocab_size", target_vocab_size)
        self.end_token = integer("end_token", end_token, 0, self.target_vocab_size - 1)
        self.encoder = Recurrent(
            record, source_size, widths, bidirectional=bidirectional_encoder, dropout=dropout, name="encoder"
        )
        self.decoder = Recurrent(record, self.target_vocab_size, widths, dropout=dropout, name="decoder")
        self.bridge = Bridge(self.encoder, self.decoder)
        self.attention = None
        if attention is not None:
            self.attention = AttentionLayer(attention, widths[-1], self.encoder.output_size)
        self.head = Dense("y", widths[-1], self.target_vocab_size)
        config = {
            "source_vocab_size": source_size,
            "target_vocab_size": self.target_vocab_size,
            "hidden_size": list(widths),
            "cell": cell,
            "reset_after": bool(reset_after),
            "attention": attention,
            "bidirectional_encoder": self.encoder.bidirectional,
            "dropout": self.encoder.dropout,
            "end_token": self.end_token,
        }
        attentions = [] if self.attention is None else [self.attention]
        super().__init__([self.encoder, self.decoder, self.bridge, *attentions, self.head], config, **initialization)

    def forward(
        self,
        source: Any,
        target_in: Any,
        *,
        source_lengths: Any = None,
        target_lengths: Any = None,
        masks: Masks | None = None,
        keep_caches: bool = True,
    ) -> tuple[Array, Array | None, Seq2SeqCache]:
        """Compute the logits for given targets (teacher forcing).

        Parameters
        ----------
        source : array of int, shape (m, T_x)
        target_in : array of int, shape (m, T_y)
        source_lengths, target_lengths : sequence or array of int, shape (m,), optional
        masks, keep_caches
            As for `Recurrent.forward`.

        Returns
        -------
        z : array, shape (target_vocab_size, m, T_y)
        weights : array, shape (m, T_y, T_x), or None
            Attention weights.
        cache : Seq2SeqCache

        Raises
        ------
        ValueError, TypeError
            If arrays are not integers of these shapes in the library of the parameters, or a value is out of range.
        """
        p = self.parameters
        source, target_in = self.indices("source", source), self.indices("target_in", target_in)
        if target_in.shape[0] != source.shape[0]:
            m = source.shape[0]
            raise ValueError(f"`target_in` must have m = {m} rows, like `source`; got {target_in.shape[0]}")
        encoded, states, encoder, bridge = self.encode(source, source_lengths, masks, keep_caches)
        out, _, decoder = self.decoder.forward(
            p, target_in, states, lengths=target_lengths, masks=masks, keep_caches=keep_caches
        )
        weights = attention = None
        if self.attention is not None:
            out, weights, attention = self.attention.forward(p, out, encoded, source_lengths, keep_caches=keep_caches)
        z = self.head.forward(p, out)
        return z, weights, Seq2SeqCache(encoder, bridge, decoder, attention, out)

    def encode(
        self, source: Array, lengths: Any, masks: Masks | None, keep: bool
    ) -> tuple[Array, States, StackCache, BridgeCache]:
        """Return the encoder outputs, the decoder's initial states, and both caches."""
        encoded, final, cache = self.encoder.forward(
            self.parameters, source, lengths=lengths, masks=masks, keep_caches=keep
        )
        states, bridge = self.bridge.forward(self.parameters, final)
        return encoded, states, cache, bridge

    def backward(self, dz: Array, cache: Seq2SeqCache, *, consume: bool = False) -> Parameters:
        """Compute "d" + name for every parameter from the cotangent of z; with `consume`, free `cache` meanwhile."""
        p = self.parameters
        da, gradients = self.head.backward(p, dz, cache.out)
        gradients["da"] = da
        if self.attention is not None:
            assert cache.attention is not None
            gradients |= self.attention.backward(p, da, cache.attention)
        gradients |= self.decoder.backward(gradients["da"], cache.decoder, consume=consume)
        gradients |= self.bridge.backward(p, gradients, cache.bridge)
        ds_final = {name: gradients["d" + name] for name in self.encoder.state_names}
        gradients |= self.encoder.backward(gradients.get("dencoded"), cache.encoder, ds_final, consume=consume)
        return self.own_gradients(gradients)

    def vocab_sizes(self) -> dict[str, int]:
        """Return the source and target vocabulary sizes."""
        return {"tokenizer": self.encoder.input_size, "target_tokenizer": self.target_vocab_size}

    def run(
        self, batch: PairBatch, states: States | None, masks: Masks | None, keep_caches: bool
    ) -> tuple[Array, States, Seq2SeqCache]:
        """Compute the logits of a batch; there are no states."""
        if states:
            raise ValueError(f"`states` must be empty for Seq2Seq, which carries none; got {list(states)}")
        lengths = {"source_lengths": batch.source_lengths, "target_lengths": batch.target_lengths}
        z, _, cache = self.forward(batch.source, batch.target_in, **lengths, masks=masks, keep_caches=keep_caches)
        return z, {}, cache

    def compare(self, z: Array, batch: PairBatch) -> tuple[Any, Array]:
        """Return the loss of the logits, as in `Step`, and its gradient."""
        loss, dz = softmax_cross_entropy(z, self.array(batch.target_out), lengths=batch.target_lengths)
        return ns.number(loss), dz

    def predict(self, source: Any, source_lengths: Any = None, *, max_length: int) -> Prediction:
        """Decode greedily: take the most likely character at every step, until the end token.

        Parameters
        ----------
        source, source_lengths
            As for `forward`, also in their errors.
        max_length : int, >= 1
            Maximum number of steps, including the one that predicts the end token.
        """
        integer("max_length", max_length)
        return decode(self, self.indices("source", source), source_lengths, max_length)

    def translate(
        self, texts: Sequence[str], source_tokenizer: Any, target_tokenizer: Any, *, max_length: int
    ) -> list[str]:
        """Predict a target text of at most `max_length` characters for every source text, given two `CharTokenizer`."""
        source, source_lengths = pad(source_tokenizer.texts_to_sequences(texts))
        indices, lengths, _ = self.predict(source, source_lengths, max_length=max_length)
        return target_tokenizer.sequences_to_texts([row[:n] for row, n in zip(indices, lengths, strict=True)])

    def indices(self, name: str, values: Any) -> Array:
        """Check indices (m, T) and convert them to the library of the parameters."""
        if isinstance(values, list | tuple):
            try:
                values = np.asarray(values)
            except ValueError:
                raise ValueError(f"`{name}` must have rows of equal length; pad them with `rnnx.data.pad`") from None
        others = {} if isinstance(values, np.ndarray) else {"parameters": self.parameters["Wy"]}
        xp, _ = ns.common_namespace({**others, name: values})
        if values.ndim != 2 or not ns.is_integer(xp, values):
            raise ValueError(
                f"`{name}` must hold integers, shape (m, T); got shape {tuple(values.shape)}, dtype {values.dtype}"
            )
        return self.array(values)

    def __repr__(self) -> str:
        attention = "no" if self.attention is None else self.attention.kind
        encoder, decoder = (repr(stack).strip("<>") for stack in (self.encoder, self.decoder))
        return f"<Seq2Seq: {encoder}; {decoder}; {attention} attention>"
