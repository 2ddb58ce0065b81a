"""The network of a sequence-to-sequence model, without its head.

Dimensions: n features, m examples, T_x source steps, T_y target steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rnnx._core.arrays import Array
from rnnx.cells import Cell
from rnnx.models.connections import AttentionLayer, Bridge, BridgeCache, LayerCache
from rnnx.models.layers import Layer, Parameters, States
from rnnx.models.masks import Masks
from rnnx.models.recurrent import Recurrent, StackCache


@dataclass
class Seq2SeqCache:
    """Cache for `Seq2Seq.backward`."""

    encoder: StackCache
    bridge: BridgeCache
    decoder: StackCache
    attention: LayerCache | None
    out: Array  # (n, m, T_y): the input of the head


class EncoderDecoder(Layer):
    """An encoder, a decoder that starts from its final states, and attention to its outputs. It holds no arrays.

    Parameters
    ----------
    cell : Cell
    source_size, target_size : int
        Features of a source and a target step, or numbers of their distinct indices.
    widths : tuple of int
        Units of each layer of the decoder, and of each direction of the encoder.
    attention : str or None
        The kind of an `AttentionLayer`.
    bidirectional : bool
        Whether the encoder runs in both directions.
    **rates
        Dropout and zoneout, as for `Recurrent`.
    """

    def __init__(
        self,
        cell: Cell,
        source_size: int,
        target_size: int,
        widths: tuple[int, ...],
        attention: str | None,
        bidirectional: bool,
        **rates: Any,
    ) -> None:
        self.encoder = Recurrent(cell, source_size, widths, bidirectional=bidirectional, name="encoder", **rates)
        self.decoder = Recurrent(cell, target_size, widths, name="decoder", **rates)
        self.bridge = Bridge(self.encoder, self.decoder)
        self.attention = None
        if attention is not None:
            self.attention = AttentionLayer(attention, widths[-1], self.encoder.output_size)
        attentions = [] if self.attention is None else [self.attention]
        self.parts = [self.encoder, self.decoder, self.bridge, *attentions]

    def forward(
        self,
        parameters: Mapping[str, Array],
        source: Array,
        target_in: Array,
        source_ends: Array | None,
        target_ends: Array | None,
        masks: Masks | None,
        keep: bool,
    ) -> tuple[Array, Array | None, Seq2SeqCache]:
        """Return the inputs of the head (n, m, T_y), the attention weights, and a cache, without checks.

        The ends are lengths as arrays of the library.
        """
        encoded, states, encoder, bridge = self.encode(parameters, source, source_ends, masks, keep)
        out, _, decoder = self.decoder.run(parameters, target_in, states, target_ends, masks, keep)
        weights = attention = None
        if self.attention is not None:
            out, weights, attention = self.attention.forward(
                parameters, out, encoded, lengths=source_ends, keep_caches=keep
            )
        return out, weights, Seq2SeqCache(encoder, bridge, decoder, attention, out)

    def encode(
        self,
        parameters: Mapping[str, Array],
        source: Array,
        source_ends: Array | None,
        masks: Masks | None = None,
        keep: bool = False,
    ) -> tuple[Array, States, StackCache, BridgeCache]:
        """Return the encoder outputs, the decoder's initial states, and both caches, without checks."""
        encoded, final, cache = self.encoder.run(parameters, source, {}, source_ends, masks, keep)
        states, bridge = self.bridge.forward(parameters, final)
        return encoded, states, cache, bridge

    def backward(self, parameters: Mapping[str, Array], dout: Array, cache: Seq2SeqCache, consume: bool) -> Parameters:
        """Compute the gradients of the parameters, "d" + name, and others, without checks."""
        gradients: Parameters = {"da": dout}
        if self.attention is not None:
            assert cache.attention is not None
            gradients |= self.attention.backward(parameters, dout, cache.attention)
        gradients |= self.decoder.run_backward(gradients["da"], cache.decoder, {}, consume)
        gradients |= self.bridge.backward(parameters, gradients, cache.bridge)
        ds_final = {name: gradients["d" + name] for name in self.encoder.state_names}
        return gradients | self.encoder.run_backward(gradients.get("dencoded"), cache.encoder, ds_final, consume)
