"""What connects an encoder and a decoder: attention to its outputs, and the bridge between their states.

Dimensions: n decoder and n_e encoder features, m examples, T_x source and T_y target steps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import choice, generator
from rnnx.functional import attention
from rnnx.functional.activations import tanh, tanh_backward
from rnnx.functional.heads import dense_backward, dense_forward
from rnnx.functional.initialization import initialize_dense
from rnnx.models.layers import Dense, Layer, Parameters, Seed, Shapes, States
from rnnx.models.recurrent import Recurrent

KINDS = ("additive", "dot", "scaled_dot")
_ADDITIVE = ("Wq", "Wk", "va", "ba")
_SUFFIX = "_attention"

BridgeCache = dict[str, tuple[Array, Array]]  # per state: the concatenated encoder states, and the decoder state


@dataclass(frozen=True)
class LayerCache:
    """Cache for `AttentionLayer.backward`."""

    scores: attention.AttentionCache
    encoded: Array  # (n_e, m, T_x)
    joined: Array  # (n_e + n, m, T_y), [context; a]
    out: Array  # (n, m, T_y)


class AttentionLayer(Layer):
    r"""Combines decoder states with their contexts from the encoder outputs. It holds no arrays.

    .. math:: \tilde a_t = \tanh(W_c [c_t; a_t] + b_c)

    with the context :math:`c_t` of query :math:`a_t` (M.-T. Luong et al., arXiv:1508.04025, equation 5, plus a bias).
    Keys and values are the encoder outputs. For a dot product of different sizes the keys are :math:`W_k h_s`, which
    is Luong's "general" score. `kind` is "additive", "dot" or "scaled_dot".
    """

    def __init__(self, kind: str, n: int, n_encoded: int) -> None:
        self.kind, self.n, self.n_encoded = choice("attention", kind, KINDS), n, n_encoded
        self._projects = kind != "additive" and n != n_encoded
        self._combination = Dense("c" + _SUFFIX, n_encoded + n, n)

    def shapes(self) -> Shapes:
        """Return the shape of every parameter."""
        n, n_encoded = self.n, self.n_encoded
        shapes: Shapes = {}
        if self.kind == "additive":
            shapes = {"Wq": (n, n), "Wk": (n, n_encoded), "va": (n, 1), "ba": (n, 1)}
        elif self._projects:
            shapes = {"Wk": (n, n_encoded)}
        return {key + _SUFFIX: shape for key, shape in shapes.items()} | self._combination.shapes()

    def initialize(self, seed: Seed = None, **options: Any) -> Parameters:
        """Return initial parameters, each drawn like the weights of a dense layer."""
        rng, result = generator("seed", seed), Parameters()
        for name, (rows, columns) in self.shapes().items():
            n_in, n_out = (rows, 1) if name.startswith("va") else (columns, rows)
            drawn = initialize_dense(n_in, n_out, seed=rng, **options)["by" if name.startswith("b") else "Wy"]
            result[name] = ns.namespace(drawn).reshape(drawn, (rows, columns))
        return result

    def forward(
        self,
        parameters: Mapping[str, Array],
        a: Array,
        encoded: Array,
        *,
        lengths: Any = None,
        keep_caches: bool = True,
    ) -> tuple[Array, Array, LayerCache | None]:
        """Attend from decoder states a (n, m, T_y) to encoder outputs (n_e, m, T_x), with optional source lengths (m,).

        Return the outputs (n, m, T_y), the attention weights (m, T_y, T_x), and a cache unless `keep_caches` is False.
        """
        keys, own = self._keys(parameters, encoded)
        if own is not None:
            context, weights, cache = attention.additive_attention_forward(a, keys, encoded, own, lengths=lengths)
        else:
            scaled = self.kind == "scaled_dot"
            context, weights, cache = attention.dot_product_attention_forward(
                a, keys, encoded, scaled=scaled, lengths=lengths
            )
        out, joined = self._combine(parameters, context, a)
        return out, weights, LayerCache(cache, encoded, joined, out) if keep_caches else None

    def stream(
        self, parameters: Mapping[str, Array], encoded: Array, *, lengths: Any = None
    ) -> Callable[[Array], tuple[Array, Array]]:
        """Return a function from the decoder states (n, m) of one step to outputs (n, m) and weights (m, T_x).

        What depends on the source alone is computed once.
        """
        keys, own = self._keys(parameters, encoded)
        stream = attention.AttentionStream(keys, encoded, own, scaled=self.kind == "scaled_dot", lengths=lengths)

        def step(a: Array) -> tuple[Array, Array]:
            context, weights = stream.step(a)
            return self._combine(parameters, context, a)[0], weights

        return step

    def _keys(self, parameters: Mapping[str, Array], encoded: Array) -> tuple[Array, Parameters | None]:
        """Return the keys and, for the additive score, its parameters under the names of its function."""
        if self.kind == "additive":
            return encoded, {key: parameters[key + _SUFFIX] for key in _ADDITIVE}
        if not self._projects:
            return encoded, None
        xp = ns.namespace(encoded)
        return dense_forward(encoded, parameters["Wk" + _SUFFIX], xp.zeros_like(parameters["bc" + _SUFFIX])), None

    def _combine(self, parameters: Mapping[str, Array], context: Array, a: Array) -> tuple[Array, Array]:
        """Return the output and [context; a], with or without a time axis."""
        xp = ns.namespace(a)
        joined = xp.concat([context, a], axis=0)
        return tanh(self._combination.forward(parameters, joined)), joined

    def backward(self, parameters: Mapping[str, Array], dout: Array, cache: LayerCache) -> Parameters:
        """Return the gradients of `forward`: da (n, m, T_y), dencoded (n_e, m, T_x), and "d" + parameter name."""
        djoined, gradients = self._combination.backward(parameters, tanh_backward(dout, cache.out), cache.joined)
        of_score = (
            attention.additive_attention_backward
            if self.kind == "additive"
            else attention.dot_product_attention_backward
        )
        found = of_score(djoined[: self.n_encoded, :, :], cache.scores)
        dqueries, dkeys, dvalues = (found.pop(key) for key in ("dqueries", "dkeys", "dvalues"))
        if self._projects:
            dkeys, found["dWk"], _ = dense_backward(dkeys, cache.encoded, parameters["Wk" + _SUFFIX]).values()
        gradients |= {key + _SUFFIX: d for key, d in found.items()}
        return {"da": dqueries + djoined[self.n_encoded :, :, :], "dencoded": dkeys + dvalues, **gradients}


class Bridge(Layer):
    r"""Connects the states of two stacks, layer by layer and state by state. It holds no arrays.

    A unidirectional encoder's states are passed on unchanged. Those of a bidirectional encoder are projected,

    .. math:: s_0 = \tanh(W [\overrightarrow{s}; \overleftarrow{s}] + b),

    similar to D. Bahdanau et al., arXiv:1409.0473, appendix A.2.2, who use only the backward states. Both stacks need
    the same cell and widths, and a unidirectional decoder.
    """

    def __init__(self, encoder: Recurrent, decoder: Recurrent) -> None:
        # A decoder state, the encoder states that it is computed from, one per direction, and the layer between them.
        self.links: list[tuple[str, list[str], Dense]] = []
        for k, (layer, (into,)) in enumerate(zip(encoder.layers, decoder.layers, strict=True)):
            for state in decoder.cell.states:
                units = into.state_sizes[state + into.suffix]
                dense = Dense(f"{state}_bridge_l{k}", 2 * units, units)
                self.links.append((state + into.suffix, [state + one.suffix for one in layer], dense))
        self.parts = [dense for _, _, dense in self.links] if encoder.bidirectional else []

    def forward(self, parameters: Mapping[str, Array], final: States) -> tuple[States, BridgeCache]:
        """Compute the decoder's initial states from the encoder's final states."""
        if not self.parts:
            return {state: final[source] for state, (source,), _ in self.links}, {}
        xp = ns.namespace(next(iter(final.values())))
        cache: BridgeCache = {}
        for state, sources, dense in self.links:
            s = xp.concat([final[source] for source in sources], axis=0)
            cache[state] = s, tanh(dense.forward(parameters, s))
        return {state: out for state, (_, out) in cache.items()}, cache

    def backward(self, parameters: Mapping[str, Array], ds: Mapping[str, Array], cache: BridgeCache) -> Parameters:
        """Compute the gradients of `forward`, "d" + name, from the cotangents ("d" + name) of its results."""
        if not self.parts:
            return {"d" + source: ds["d" + state] for state, (source,), _ in self.links}
        gradients: Parameters = {}
        for state, (forward, reverse), dense in self.links:
            s, out = cache[state]
            d, own = dense.backward(parameters, tanh_backward(ds["d" + state], out), s)
            gradients |= {"d" + forward: d[: dense.n_out, :], "d" + reverse: d[dense.n_out :, :], **own}
        return gradients
