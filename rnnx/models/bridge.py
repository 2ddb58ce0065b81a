"""The bridge from an encoder's final states to the initial states of a decoder of the same widths."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.functional.activations import tanh, tanh_backward
from rnnx.functional.heads import dense_backward, dense_forward
from rnnx.functional.initialization import initialize_dense
from rnnx.models.layers import Parameters, States
from rnnx.models.recurrent import Recurrent

BridgeCache = dict[str, tuple[Array, Array]]  # per state: the concatenated encoder states, and the decoder state


class _Link(NamedTuple):
    """A decoder state and the encoder states that it is computed from, one per direction."""

    state: str
    sources: tuple[str, ...]
    name: str  # of its parameters, after "W" and "b"
    size: int


class Bridge:
    r"""Connects the states of two stacks, layer by layer and state by state. It holds no arrays.

    A unidirectional encoder's states are passed on unchanged. Those of a bidirectional encoder are projected,

    .. math:: s_0 = \tanh(W [\overrightarrow{s}; \overleftarrow{s}] + b),

    similar to D. Bahdanau et al., arXiv:1409.0473, appendix A.2.2, who use only the backward states. Both stacks need
    the same cell and widths, and a unidirectional decoder.
    """

    def __init__(self, encoder: Recurrent, decoder: Recurrent) -> None:
        self.projects = encoder.bidirectional
        self.links = [
            _Link(
                state + into.suffix,
                tuple(state + one.suffix for one in layer),
                f"{state}_bridge_l{k}",
                into.hidden_size,
            )
            for k, (layer, (into,)) in enumerate(zip(encoder.layers, decoder.layers, strict=True))
            for state in decoder.cell.states
        ]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter."""
        result: dict[str, tuple[int, ...]] = {}
        for _, _, name, size in self.links if self.projects else ():
            result |= {"W" + name: (size, 2 * size), "b" + name: (size, 1)}
        return result

    def initialize(self, rng: np.random.Generator, **options: Any) -> Parameters:
        """Return initial parameters, drawn like those of the head."""
        result: Parameters = {}
        for _, _, name, size in self.links if self.projects else ():
            head = initialize_dense(2 * size, size, seed=rng, **options)
            result |= {"W" + name: head["Wy"], "b" + name: head["by"]}
        return result

    def forward(self, parameters: Mapping[str, Array], final: States) -> tuple[States, BridgeCache]:
        """Compute the decoder's initial states from the encoder's final states."""
        if not self.projects:
            return {link.state: final[link.sources[0]] for link in self.links}, {}
        xp, _ = ns.common_namespace(final)
        cache: BridgeCache = {}
        for state, sources, name, _ in self.links:
            s = xp.concat([final[source] for source in sources], axis=0)
            cache[state] = s, tanh(dense_forward(s, parameters["W" + name], parameters["b" + name]))
        return {state: out for state, (_, out) in cache.items()}, cache

    def backward(self, parameters: Mapping[str, Array], ds: Mapping[str, Array], cache: BridgeCache) -> Parameters:
        """Compute the gradients of `forward`, "d" + name, from the cotangents ("d" + name) of its results."""
        if not self.projects:
            return {"d" + link.sources[0]: ds["d" + link.state] for link in self.links}
        gradients: Parameters = {}
        for state, (forward, reverse), name, size in self.links:
            s, out = cache[state]
            d, dW, db = dense_backward(tanh_backward(ds["d" + state], out), s, parameters["W" + name]).values()
            gradients |= {"d" + forward: d[:size, :], "d" + reverse: d[size:, :], f"dW{name}": dW, f"db{name}": db}
        return gradients
