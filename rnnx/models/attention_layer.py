"""Attention as a layer between a decoder and the head.

Dimensions: n decoder and n_e encoder features, m examples, T_x source and T_y target steps.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.functional.activations import tanh, tanh_backward
from rnnx.functional.attention import (
    AttentionCache,
    AttentionStream,
    additive_attention_backward,
    additive_attention_forward,
    dot_product_attention_backward,
    dot_product_attention_forward,
)
from rnnx.functional.heads import dense_backward, dense_forward
from rnnx.functional.initialization import initialize_dense
from rnnx.models.layers import Parameters

KINDS = ("additive", "dot", "scaled_dot")
_ADDITIVE = ("Wq", "Wk", "va", "ba")
_SUFFIX = "_attention"


@dataclass(frozen=True)
class LayerCache:
    """Cache for `AttentionLayer.backward`."""

    attention: AttentionCache
    encoded: Array  # (n_e, m, T_x)
    joined: Array  # (n_e + n, m, T_y), [context; a]
    out: Array  # (n, m, T_y)


class AttentionLayer:
    r"""Combines decoder states with their contexts from the encoder outputs. It holds no arrays.

    .. math:: \tilde a_t = \tanh(W_c [c_t; a_t] + b_c)

    with the context :math:`c_t` of query :math:`a_t` (M.-T. Luong et al., arXiv:1508.04025, equation 5, plus a bias).
    Keys and values are the encoder outputs. For a dot product of different sizes the keys are :math:`W_k h_s`, which
    is Luong's "general" score. `kind` is "additive", "dot" or "scaled_dot".
    """

    def __init__(self, kind: str, n: int, n_encoded: int) -> None:
        self.kind, self.n, self.n_encoded = kind, n, n_encoded
        self.projects = kind != "additive" and n != n_encoded

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter."""
        n, n_encoded = self.n, self.n_encoded
        shapes: dict[str, tuple[int, ...]] = {}
        if self.kind == "additive":
            shapes = {"Wq": (n, n), "Wk": (n, n_encoded), "va": (n, 1), "ba": (n, 1)}
        elif self.projects:
            shapes = {"Wk": (n, n_encoded)}
        shapes |= {"Wc": (n, n_encoded + n), "bc": (n, 1)}
        return {key + _SUFFIX: shape for key, shape in shapes.items()}

    def initialize(self, rng: np.random.Generator, **options: Any) -> Parameters:
        """Return initial parameters, drawn like those of the head."""
        result: Parameters = {}
        for name, shape in self.shapes().items():
            if name.startswith("va"):  # like a head with one output
                row = initialize_dense(shape[0], 1, seed=rng, **options)["Wy"]
                xp, _ = ns.common_namespace({name: row})
                result[name] = xp.reshape(row, shape)
            else:
                head = initialize_dense(shape[1], shape[0], seed=rng, **options)
                result[name] = head["Wy" if name.startswith("W") else "by"]
        return result

    def forward(
        self,
        parameters: Mapping[str, Array],
        a: Array,
        encoded: Array,
        lengths: Any = None,
        *,
        keep_caches: bool = True,
    ) -> tuple[Array, Array, LayerCache | None]:
        """Attend from decoder states a (n, m, T_y) to encoder outputs (n_e, m, T_x), with optional source lengths (m,).

        Return the outputs (n, m, T_y), the attention weights (m, T_y, T_x), and a cache unless `keep_caches` is False.
        """
        if self.kind == "additive":
            own = self._own(parameters)
            context, weights, cache = additive_attention_forward(a, encoded, encoded, own, lengths=lengths)
        else:
            keys, scaled = self._keys(parameters, encoded), self.kind == "scaled_dot"
            context, weights, cache = dot_product_attention_forward(a, keys, encoded, scaled=scaled, lengths=lengths)
        out, joined = self._combine(parameters, context, a)
        return out, weights, LayerCache(cache, encoded, joined, out) if keep_caches else None

    def stream(self, parameters: Mapping[str, Array], encoded: Array, lengths: Any = None) -> "LayerStream":
        """Run `forward` one decoder step at a time, computing only once what depends on the source alone."""
        if self.kind == "additive":
            attention = AttentionStream(encoded, encoded, self._own(parameters), lengths=lengths)
        else:
            keys = self._keys(parameters, encoded)
            attention = AttentionStream(keys, encoded, scaled=self.kind == "scaled_dot", lengths=lengths)
        return LayerStream(attention, lambda context, a: self._combine(parameters, context, a)[0])

    def _own(self, parameters: Mapping[str, Array]) -> Parameters:
        """Return the additive score's parameters under the names that its function uses."""
        return {key: parameters[key + _SUFFIX] for key in _ADDITIVE}

    def _keys(self, parameters: Mapping[str, Array], encoded: Array) -> Array:
        """Return the keys of the dot-product score."""
        if not self.projects:
            return encoded
        xp, _ = ns.common_namespace({"encoded": encoded})
        return dense_forward(encoded, parameters["Wk" + _SUFFIX], xp.zeros_like(parameters["bc" + _SUFFIX]))

    def _combine(self, parameters: Mapping[str, Array], context: Array, a: Array) -> tuple[Array, Array]:
        """Return the output and [context; a], with or without a time axis."""
        xp, _ = ns.common_namespace({"a": a})
        joined = xp.concat([context, a], axis=0)
        return tanh(dense_forward(joined, parameters["Wc" + _SUFFIX], parameters["bc" + _SUFFIX])), joined

    def backward(self, parameters: Mapping[str, Array], dout: Array, cache: LayerCache) -> Parameters:
        """Return the gradients of `forward`: da (n, m, T_y), dencoded (n_e, m, T_x), and "d" + parameter name."""
        dz = tanh_backward(dout, cache.out)
        djoined, dWc, dbc = dense_backward(dz, cache.joined, parameters["Wc" + _SUFFIX]).values()
        gradients = {"dWc": dWc, "dbc": dbc}
        dcontext = djoined[: self.n_encoded, :, :]
        if self.kind == "additive":
            found = additive_attention_backward(dcontext, cache.attention)
            gradients |= {"d" + key: found["d" + key] for key in _ADDITIVE}
        else:
            found = dot_product_attention_backward(dcontext, cache.attention)
        dkeys = found["dkeys"]
        if self.projects:
            dkeys, gradients["dWk"], _ = dense_backward(dkeys, cache.encoded, parameters["Wk" + _SUFFIX]).values()
        da = found["dqueries"] + djoined[self.n_encoded :, :, :]
        return {"da": da, "dencoded": dkeys + found["dvalues"], **{key + _SUFFIX: d for key, d in gradients.items()}}


@dataclass(frozen=True)
class LayerStream:
    """An attention layer that runs step by step. See `AttentionLayer.stream`."""

    attention: AttentionStream
    combine: Callable[[Array, Array], Array]

    def step(self, a: Array) -> tuple[Array, Array]:
        """Run one step: from decoder states (n, m) to outputs (n, m) and weights (m, T_x)."""
        context, weights = self.attention.step(a)
        return self.combine(context, a), weights
