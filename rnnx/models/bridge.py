"""From the final states of an encoder to the initial states of a decoder of the same widths."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.functional.activations import tanh, tanh_backward
from rnnx.functional.heads import dense_backward, dense_forward
from rnnx.functional.initialization import initialize_dense
from rnnx.models.recurrent import Parameters, Recurrent, States


@dataclass(frozen=True)
class _Link:
    """One state of the decoder and the states of the encoder that it comes from: one, or one of each direction."""

    state: str
    sources: tuple[str, ...]
    weights: str
    bias: str
    size: int


@dataclass(frozen=True)
class BridgeCache:
    """What `Bridge.backward` needs, per link: the encoder's states put together, and the decoder's."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


class Bridge:
    r"""Layer by layer and state by state. It holds no arrays.

    The states of an encoder of one direction are handed on as they are. Those of both directions are projected,

    .. math:: s_0 = \tanh(W [\overrightarrow{s}; \overleftarrow{s}] + b),

    in the manner of Bahdanau et al., arXiv:1409.0473, appendix A.2.2, who take the backward states alone.

    Parameters
    ----------
    encoder, decoder : Recurrent
        Of the same cell and widths, the decoder of one direction.
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
        """Every parameter with its shape."""
        result: dict[str, tuple[int, ...]] = {}
        for link in self.links if self.projects else ():
            result |= {link.weights: (link.size, 2 * link.size), link.bias: (link.size, 1)}
        return result

    def initialize(self, rng: np.random.Generator, **options: Any) -> Parameters:
        """Initial parameters, as a head has them."""
        result: Parameters = {}
        for link in self.links if self.projects else ():
            head = initialize_dense(2 * link.size, link.size, seed=rng, **options)
            result |= {link.weights: head["Wy"], link.bias: head["by"]}
        return result

    def forward(self, parameters: Mapping[str, Array], final: States) -> tuple[States, BridgeCache]:
        """Initial states of the decoder from the final ones of the encoder."""
        if not self.projects:
            return {link.state: final[link.sources[0]] for link in self.links}, BridgeCache({}, {})
        xp, _ = ns.common_namespace(final)
        cache = BridgeCache({}, {})
        for link in self.links:
            s = xp.concat([final[source] for source in link.sources], axis=0)
            cache.inputs[link.state] = s
            cache.outputs[link.state] = tanh(dense_forward(s, parameters[link.weights], parameters[link.bias]))
        return dict(cache.outputs), cache

    def backward(
        self, parameters: Mapping[str, Array], ds: Mapping[str, Array], cache: BridgeCache
    ) -> tuple[States, Parameters]:
        """Cotangents of the encoder's final states, and gradients of the parameters ("d" + name).

        Parameters
        ----------
        parameters : dict of str to array
        ds : dict of str to array
            Cotangents of the decoder's initial states, "d" + name.
        cache : BridgeCache
        """
        if not self.projects:
            return {link.sources[0]: ds["d" + link.state] for link in self.links}, {}
        dfinal: States = {}
        gradients: Parameters = {}
        for link in self.links:
            dz = tanh_backward(ds["d" + link.state], cache.outputs[link.state])
            d, dW, db = dense_backward(dz, cache.inputs[link.state], parameters[link.weights]).values()
            forward, reverse = link.sources
            dfinal |= {forward: d[: link.size, :], reverse: d[link.size :, :]}
            gradients |= {"d" + link.weights: dW, "d" + link.bias: db}
        return dfinal, gradients
