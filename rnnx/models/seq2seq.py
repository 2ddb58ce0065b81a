"""Sequence to sequence. Dimensions: n features, m examples, T_x source steps, T_y target steps."""

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Unpack

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_lengths, check_methods, check_shape, flag, integer, integer_vector
from rnnx._core.inputs import check_index_rows
from rnnx.cells import Cell
from rnnx.data import PairBatch, pad
from rnnx.functional.heads import checked_dense_backward, cross_entropy
from rnnx.models.base import Initialization, Model, Ready, check_attributes
from rnnx.models.cutting import fetched, in_share, number_of_steps, steps_of_part
from rnnx.models.decoding import MAX_LENGTH, Prediction, decode, joined
from rnnx.models.encoder_decoder import EncoderDecoder, Seq2SeqCache
from rnnx.models.layers import Dense, Parameters, States, check_widths, chosen_cell
from rnnx.models.masks import Masks
from rnnx.models.passes import batch_slices
from rnnx.models.regularization import Zoneout
from rnnx.models.states import check_cotangents

_OF_BATCH = [field.name for field in fields(PairBatch)][:5]


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
    cell, reset_after, dropout, zoneout, recurrent_dropout, rng, scheme, dtype, xp, device, parameters
        As for `SequenceClassifier`.

    Raises
    ------
    ValueError
        As for `SequenceClassifier`, and if the attention is unknown or the end token is not in the vocabulary.

    See Also
    --------
    Prediction, rnnx.data.Pairs, rnnx.additive_attention_forward

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.models import Seq2Seq
    >>> model = Seq2Seq(27, 12, hidden_size=16, rng=0)
    >>> model.predict(np.array([[3, 1, 2], [5, 0, 0]]), source_lengths=[3, 1], max_length=4).weights.shape
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
        cell: str | Cell = "lstm",
        reset_after: bool = False,
        attention: str | None = "additive",
        bidirectional_encoder: bool = True,
        dropout: float = 0.0,
        zoneout: Zoneout = 0.0,
        recurrent_dropout: float = 0.0,
        end_token: int = 0,
        **initialization: Unpack[Initialization],
    ) -> None:
        widths, (record, of_cell) = check_widths(hidden_size, num_layers), chosen_cell(cell, reset_after)
        needed = [name for name in record.inputs if name not in dict(record.defaults)]
        if needed:
            raise ValueError(
                f"`cell` of Seq2Seq must have no inputs besides x without a default; {record.name!r} has {needed}"
            )
        source_size = integer("source_vocab_size", source_vocab_size)
        self.target_vocab_size = integer("target_vocab_size", target_vocab_size)
        self.end_token = integer("end_token", end_token, 0, self.target_vocab_size - 1)
        rates: dict[str, Any] = {"dropout": dropout, "zoneout": zoneout, "recurrent_dropout": recurrent_dropout}
        bidirectional_encoder = flag("bidirectional_encoder", bidirectional_encoder)
        sizes = source_size, self.target_vocab_size, widths
        self.network = EncoderDecoder(record, *sizes, attention, bidirectional_encoder, **rates)
        self.encoder, self.decoder, self.attention = self.network.encoder, self.network.decoder, self.network.attention
        self.head = Dense("y", widths[-1], self.target_vocab_size)
        config = {
            "source_vocab_size": source_size,
            "target_vocab_size": self.target_vocab_size,
            "hidden_size": list(widths),
            **of_cell,
            "attention": attention,
            "bidirectional_encoder": self.encoder.bidirectional,
            **self.encoder.rates,
            "end_token": self.end_token,
        }
        super().__init__([self.network, self.head], config, **initialization)

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
        source, target_in = self._checked_indices(source, source_lengths, target_in, target_lengths)
        self.check_parameters()
        batch = PairBatch(source, source_lengths, target_in, target_in, target_lengths)  # target_out is not needed
        return self._forward(batch, masks, flag("keep_caches", keep_caches))

    def _forward(
        self, batch: PairBatch, masks: Masks | None, keep_caches: bool
    ) -> tuple[Array, Array | None, Seq2SeqCache]:
        """Compute `forward` of a checked batch."""
        source, target_in = self.array(batch.source, "source"), self.array(batch.target_in, "target_in")
        ends = self.ends(batch.source_lengths), self.ends(batch.target_lengths)
        out, weights, cache = self.network.forward(self.parameters, source, target_in, *ends, masks, keep_caches)
        return self.head.forward(self.parameters, out), weights, cache

    def backward(self, dz: Array, cache: Seq2SeqCache, *, consume: bool = False) -> Parameters:
        """Compute "d" + name for every parameter from the cotangent of z; with `consume`, free `cache` meanwhile."""
        checked_dense_backward(dz, cache.out, self.parameters["Wy"])
        for stack, own in ((self.encoder, cache.encoder), (self.decoder, cache.decoder)):
            check_cotangents(stack, None, own, None)
        return self._backward(dz, cache, flag("consume", consume))

    def run_backward(self, dz: Array, cache: Seq2SeqCache, *, ready: Ready | None = None) -> Parameters:
        """Run `backward` without checks, and free the cache."""
        return self._backward(dz, cache, consume=True, ready=ready)

    def _backward(self, dz: Array, cache: Seq2SeqCache, consume: bool, ready: Ready | None = None) -> Parameters:
        dout, gradients = self.head.backward(self.parameters, dz, cache.out)
        if ready is not None:
            ready(gradients)
        return self.own_gradients(gradients | self.network.backward(self.parameters, dout, cache, consume))

    def vocab_sizes(self) -> dict[str, int]:
        """Return the source and target vocabulary sizes."""
        return {"tokenizer": self.encoder.input_size, "target_tokenizer": self.target_vocab_size}

    def _checked_indices(
        self, source: Any, source_lengths: Any, target_in: Any, target_lengths: Any
    ) -> tuple[Array, Array]:
        """Return the source and the decoder inputs as arrays, after checking them and their lengths."""
        source = self._checked_source(source, source_lengths)
        target_in = check_index_rows("target_in", target_in, "target_vocab_size", self.target_vocab_size)
        m, n_target = target_in.shape
        if m != source.shape[0]:
            raise ValueError(f"`target_in` must have m = {source.shape[0]} rows, like `source`; got {m}")
        if target_lengths is not None:
            check_lengths(self.xp, self.device, target_lengths, m, n_target, "target_lengths")
        return source, target_in

    def _checked_source(self, source: Any, lengths: Any) -> Array:
        source = check_index_rows("source", source, "source_vocab_size", self.encoder.input_size, lengths)
        if lengths is not None:
            m, n_steps = source.shape
            check_lengths(self.xp, self.device, lengths, m, n_steps, "source_lengths")
        return source

    def checked(self, batch: Any) -> PairBatch:
        """Check a batch; see `Model.checked`."""
        check_attributes(self, batch, "Pairs", _OF_BATCH)
        _, source_lengths, _, target_out, lengths = (getattr(batch, name) for name in _OF_BATCH)
        n_terms = getattr(batch, "n_terms", None)
        source, target_in = self._checked_indices(batch.source, source_lengths, batch.target_in, lengths)
        target_out = check_index_rows("target_out", target_out, "target_vocab_size", self.target_vocab_size, lengths)
        check_shape("target_out", target_out, "(m, T_y)", tuple(target_in.shape))
        ends = self.ends(source_lengths), self.ends(lengths)  # where the parameters are
        return PairBatch(source, ends[0], target_in, target_out, ends[1], n_terms=n_terms)

    def part(self, batch: PairBatch, rows: slice) -> PairBatch:
        """Return some pairs of a checked batch; see `Model.part`."""
        source, target = (None if n is None else n[rows] for n in (batch.source_lengths, batch.target_lengths))
        x, y = steps_of_part(source, batch.source.shape[1]), steps_of_part(target, batch.target_in.shape[1])
        n_terms = self._terms(batch) if batch.n_terms is None else batch.n_terms
        arrays = batch.source[rows, x], source, batch.target_in[rows, y], batch.target_out[rows, y], target
        return PairBatch(*arrays, n_terms=n_terms)

    def count(self, batch: Any) -> float:
        """Return the number of target steps within the lengths, which the loss averages."""
        check_attributes(self, batch, "Pairs", _OF_BATCH)
        return fetched(self._terms(batch))

    def _terms(self, batch: Any) -> Any:
        """Return `count` without waiting for a device: of lengths there, an array of shape ()."""
        if batch.target_lengths is None:
            return math.prod(batch.target_in.shape)
        return number_of_steps(batch.target_lengths)

    def run(
        self, batch: PairBatch, states: States | None, masks: Masks | None, keep_caches: bool
    ) -> tuple[Array, States, Seq2SeqCache]:
        """Compute the logits of a batch; there are no states."""
        if states:
            raise ValueError(f"`states` must be empty for Seq2Seq, which carries none; got {list(states)}")
        z, _, cache = self._forward(batch, masks, keep_caches)
        return z, {}, cache

    def compare(self, z: Array, batch: PairBatch) -> tuple[Any, Array]:
        """Return the loss of the logits, as in `Step`, and its gradient."""
        targets = self.array(batch.target_out, "target_out")
        loss, dz = cross_entropy(self.xp, z, targets, self.ends(batch.target_lengths))
        if batch.n_terms is None:
            return ns.number(loss), dz
        return in_share(ns.number(loss), dz, self._terms(batch), batch.n_terms)

    def ends(self, lengths: Any) -> Array | None:
        """Return lengths as an array."""
        return None if lengths is None else integer_vector(self.xp, self.device, "lengths", lengths)

    def predict(
        self, source: Any, *, source_lengths: Any = None, max_length: int, batch_size: int | None = None
    ) -> Prediction:
        """Decode greedily: take the most likely character at every step, until the end token.

        Parameters
        ----------
        source, source_lengths
            As for `forward`, also in their errors.
        max_length : int, 1 to 1,000,000
            Maximum number of steps, including the one that predicts the end token.
        batch_size : int, optional
            As for `SequenceClassifier.predict`.
        """
        integer("max_length", max_length, 1, MAX_LENGTH)
        source = self._checked_source(source, source_lengths)
        self.check_parameters()
        parts = []
        m, n_steps = source.shape
        for part in batch_slices(m, n_steps, self.encoder, batch_size):
            lengths = None if source_lengths is None else source_lengths[part]
            parts.append(decode(self, self.array(source[part, :], "source"), lengths, max_length))
        return joined(self.xp, parts, self.end_token)

    def translate(
        self, texts: Sequence[str], source_tokenizer: Any, target_tokenizer: Any, *, max_length: int
    ) -> list[str]:
        """Predict a target text of at most `max_length` characters for every source text, given two `CharTokenizer`."""
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise TypeError(f"`texts` must be a sequence of str; got {type(texts).__name__}")
        check_methods("source_tokenizer", source_tokenizer, "a CharTokenizer", "texts_to_sequences")
        check_methods("target_tokenizer", target_tokenizer, "a CharTokenizer", "sequences_to_texts")
        source, source_lengths = pad(source_tokenizer.texts_to_sequences(texts))
        indices, lengths, _ = self.predict(source, source_lengths=source_lengths, max_length=max_length)
        return target_tokenizer.sequences_to_texts([row[:n] for row, n in zip(indices, lengths, strict=True)])

    def __repr__(self) -> str:
        attention = "no" if self.attention is None else self.attention.kind
        encoder, decoder = (repr(stack).strip("<>") for stack in (self.encoder, self.decoder))
        return f"<Seq2Seq: {encoder}; {decoder}; {attention} attention>"
