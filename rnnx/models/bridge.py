"""The bridge from an encoder's final states to the initial states of a decoder of the same widths."""

from collections.abc import Mapping

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.functional.activations import tanh, tanh_backward
from rnnx.models.layers import Dense, Layer, Parameters, States
from rnnx.models.recurrent import Recurrent

BridgeCache = dict[str, tuple[Array, Array]]  # per state: the concatenated encoder states, and the decoder state


class Bridge(Layer):
    r"""Connects the states of two stacks, layer by layer and state by state. It holds no arrays.

    A unidirectional encoder's states are passed on unchanged. Those of a bidirectional encoder are projected,

    .. math:: s_0 = \tanh(W [\overrightarrow{s}; \overleftarrow{s}] + b),

    similar to D. Bahdanau et al., arXiv:1409.0473, appendix A.2.2, who use only the backward states. Both stacks need
    the same cell and widths, and a unidirectional decoder.
    """

    def __init__(self, encoder: Recurrent, decoder: Recurrent) -> None:
        # A decoder state, the encoder states that it is computed from, one per direction, and the layer between them.
        self._links: list[tuple[str, list[str], Dense]] = []
        for k, (layer, (into,)) in enumerate(zip(encoder.layers, decoder.layers, strict=True)):
            for state in decoder.cell.states:
                dense = Dense(f"{state}_bridge_l{k}", 2 * into.hidden_size, into.hidden_size)
                self._links.append((state + into.suffix, [state + one.suffix for one in layer], dense))
        self.parts = [dense for _, _, dense in self._links] if encoder.bidirectional else []

    def forward(self, parameters: Mapping[str, Array], final: States) -> tuple[States, BridgeCache]:
        """Compute the decoder's initial states from the encoder's final states."""
        if not self.parts:
            return {state: final[source] for state, (source,), _ in self._links}, {}
        xp, _ = ns.common_namespace(final)
        cache: BridgeCache = {}
        for state, sources, dense in self._links:
            s = xp.concat([final[source] for source in sources], axis=0)
            cache[state] = s, tanh(dense.forward(parameters, s))
        return {state: out for state, (_, out) in cache.items()}, cache

    def backward(self, parameters: Mapping[str, Array], ds: Mapping[str, Array], cache: BridgeCache) -> Parameters:
        """Compute the gradients of `forward`, "d" + name, from the cotangents ("d" + name) of its results."""
        if not self.parts:
            return {"d" + source: ds["d" + state] for state, (source,), _ in self._links}
        gradients: Parameters = {}
        for state, (forward, reverse), dense in self._links:
            s, out = cache[state]
            d, own = dense.backward(parameters, tanh_backward(ds["d" + state], out), s)
            gradients |= {"d" + forward: d[: dense.n_out, :], "d" + reverse: d[dense.n_out :, :], **own}
        return gradients
