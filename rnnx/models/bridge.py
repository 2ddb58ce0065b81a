"""From the final states of an encoder to the initial states of a decoder with the same widths."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.functional.activations import tanh, tanh_backward
from rnnx.functional.heads import dense_backward, dense_forward
from rnnx.functional.initialization import initialize_dense
from rnnx.models.layers import Parameters, States
from rnnx.models.recurrent import Recurrent


@dataclass(frozen=True)
class _Link:
    """A state of the decoder, and the states of the encoder that it is made of: one per direction."""

    state: str
    sources: tuple[str, ...]
    weights: str
    bias: str
    size: int


@dataclass(frozen=True)
class BridgeCache:
    """What `Bridge.backward` needs, per state: the concatenated encoder states and the decoder state."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


class Bridge:
    r"""Connects the states of two stacks, layer by layer and state by state. It holds no arrays.

    The states of an encoder with one direction are passed on unchanged. Those of both directions are projected,

    .. math:: s_0 = \tanh(W [\overrightarrow{s}; \overleftarrow{s}] + b),

    similar to D. Bahdanau et al., arXiv:1409.0473, appendix A.2.2, who use only the backward states.

    Parameters
    ----------
    encoder, decoder : Recurrent
        With the same cell and widths; the decoder has one direction.
    """

    def __init__(self, encoder: Recurrent, decoder: Recurrent) -> None:
        self.projects = encoder.bidirectional
        self.links = [
            _Link(
                state + into.suffix,
                tuple(state + one.suffix for one in layer),
                f"W{state}_bridge_l{k}",
                f"b{state}_bridge_l{k}",
                into.hidden_size,
            )
            for k, (layer, (into,)) in enumerate(zip(encoder.layers, decoder.layers, strict=True))
            for state in decoder.cell.states
        ]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter."""
        result: dict[str, tuple[int, ...]] = {}
        for link in self.links if self.projects else ():
            result |= {link.weights: (link.size, 2 * link.size), link.bias: (link.size, 1)}
        return result

    def initialize(self, rng: np.random.Generator, **options: Any) -> Parameters:
        """Return initial parameters, drawn like those of a head."""
        result: Parameters = {}
        for link in self.links if self.projects else ():
            head = initialize_dense(2 * link.size, link.size, seed=rng, **options)
            result |= {link.weights: head["Wy"], link.bias: head["by"]}
        return result

    def forward(self, parameters: Mapping[str, Array], final: States) -> tuple[States, BridgeCache]:
        """Compute the initial states of the decoder from the final states of the encoder."""
        if not self.projects:
            return {link.state: final[link.sources[0]] for link in self.links}, BridgeCache({}, {})
        xp, _ = ns.common_namespace(final)
        cache = BridgeCache({}, {})
        for link in self.links:
            s = xp.concat([final[source] for source in link.sources], axis=0)
            cache.inputs[link.state] = s
            cache.outputs[link.state] = tanh(dense_forward(s, parameters[link.weights], parameters[link.bias]))
        return dict(cache.outputs), cache

    def backward(self, parameters: Mapping[str, Array], ds: Mapping[str, Array], cache: BridgeCache) -> Parameters:
        """Compute the gradients of `forward`.

        Parameters
        ----------
        parameters : dict of str to array
        ds : dict of str to array
            Cotangents of the decoder's initial states, "d" + name.
        cache : BridgeCache

        Returns
        -------
        dict of str to array
            "d" + name for every final state of the encoder and every parameter.
        """
        gradients: Parameters = {}
        for link in self.links:
            d = ds["d" + link.state]
            if not self.projects:
                gradients["d" + link.sources[0]] = d
                continue
            dz = tanh_backward(d, cache.outputs[link.state])
            d, dW, db = dense_backward(dz, cache.inputs[link.state], parameters[link.weights])
            forward, reverse = link.sources
            gradients |= {"d" + forward: d[: link.size, :], "d" + reverse: d[link.size :, :]}
            gradients |= {"d" + link.weights: dW, "d" + link.bias: db}
        return gradients
