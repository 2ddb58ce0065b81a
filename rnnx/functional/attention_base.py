"""The scores, masked softmax, cache and argument checks of both kinds of attention.

Internal arrays are (m, T, n), one matrix per example, for batched matrix products.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_keys, check_lengths, check_shape, flag
from rnnx._core.copying import Portable
from rnnx._core.harmless_errors import ignore_harmless_errors
from rnnx._core.layout import valid_examples

_SYMBOLS = {"queries": ("n_q", "T_y"), "keys": ("n_k", "T_x"), "values": ("n_v", "T_x")}


@dataclass(frozen=True)
class AttentionCache(Portable):
    """What the backward pass of an attention function needs, with copies of the arguments."""

    kind: str  # "additive" or "dot_product"
    xp: Any
    keys: Array  # (m, T_x, n_k), zero past each length
    values: Array  # (m, T_x, n_v), zero past each length
    parameters: dict[str, Array]  # empty for the dot product
    valid: Array | None  # (m, T_x) bool
    scale: float  # of the scores; dot product only
    queries: Array = None  # (m, T_y, n_q)
    weights: Array = None  # (m, T_y, T_x)
    tanh: Array = None  # (m, T_y, T_x, n_h); additive only

    def astype(self, dtype: Any) -> "AttentionCache":
        """Convert all arrays."""
        if dtype == self.weights.dtype:
            return self
        arrays = {name: getattr(self, name) for name in ("queries", "keys", "values", "weights", "tanh")}
        cast = {name: ns.astype(self.xp, a, dtype) for name, a in arrays.items() if a is not None}
        parameters = {key: ns.astype(self.xp, p, dtype) for key, p in self.parameters.items()}
        return replace(self, **cast, parameters=parameters)


@ignore_harmless_errors
def project_keys(cache: AttentionCache) -> Array:
    """Return W_k k_s, (m, T_x, n_h), which the additive scores of all queries share."""
    return times(cache.xp, cache.keys, cache.xp.matrix_transpose(cache.parameters["Wk"]))


@ignore_harmless_errors
def attend(cache: AttentionCache, projected_keys: Array | None = None) -> tuple[Array, AttentionCache]:
    """Return the context (n_v, m, T_y), and the cache with the weights.

    With `projected_keys` the scores are additive, otherwise dot products.
    """
    xp, p, h = cache.xp, cache.parameters, None
    if projected_keys is None:
        scores = product(xp, cache.queries * cache.scale, xp.matrix_transpose(cache.keys))
    else:
        projected = times(xp, cache.queries, xp.matrix_transpose(p["Wq"]))
        if "ba" in p:
            projected = projected + xp.reshape(p["ba"], (-1,))
        h = xp.tanh(xp.expand_dims(projected, axis=2) + xp.expand_dims(projected_keys, axis=1))
        scores = xp.reshape(times(xp, h, p["va"]), h.shape[:3])
    weights = _masked_softmax(xp, scores, cache.valid)
    return public(xp, product(xp, weights, cache.values)), replace(cache, weights=weights, tanh=h)


@ignore_harmless_errors
def attend_backward(
    kind: str, dcontext: Array, cache: Any, dweights: Array | None
) -> tuple[AttentionCache, Array, Array]:
    """Check the cotangents; return the cache in their dtype, dscores (m, T_y, T_x) and dvalues (n_v, m, T_x)."""
    expected = f"{kind}_attention_forward"
    source = f"{cache.kind}_attention_forward" if isinstance(cache, AttentionCache) else type(cache).__name__
    if source != expected:
        raise TypeError(f"`cache` must come from {expected}; got {source}")
    m, n_target, n_source = cache.weights.shape
    given = {"dcontext": dcontext} | ({} if dweights is None else {"dweights": dweights})
    ns.common_namespace({"cache": cache.weights, **given})
    check_shape("dcontext", dcontext, "(n_v, m, T_y)", (cache.values.shape[2], m, n_target))
    if dweights is not None:
        check_shape("dweights", dweights, "(m, T_y, T_x)", (m, n_target, n_source))
    xp, dtype = cache.xp, ns.floating_dtype(cache.xp, {"cache": cache.weights}, given)
    cache = cache.astype(dtype)
    dcontext = ns.astype(xp, xp.permute_dims(dcontext, (1, 2, 0)), dtype)
    total = product(xp, dcontext, xp.matrix_transpose(cache.values))
    if dweights is not None:
        total = total + ns.astype(xp, dweights, dtype)
    # Masked positions have zero weight, so their gradients are zero without a mask.
    dscores = cache.weights * (total - xp.sum(cache.weights * total, axis=2, keepdims=True))
    return cache, dscores, public(xp, product(xp, xp.matrix_transpose(cache.weights), dcontext))


def _masked_softmax(xp: Any, scores: Array, valid: Array | None) -> Array:
    """Softmax over the valid positions of the last axis; zeros if there are none."""
    if scores.shape[2] == 0:
        return scores
    if valid is not None:
        scores = xp.where(xp.expand_dims(valid, axis=1), scores, xp.full_like(scores, -math.inf))
    top = xp.max(scores, axis=2, keepdims=True)
    if valid is not None:
        top = xp.where(top == -math.inf, xp.zeros_like(top), top)
    e = xp.exp(scores - top)
    total = xp.sum(e, axis=2, keepdims=True)
    return e / (total if valid is None else xp.where(total == 0, xp.ones_like(total), total))


def public(xp: Any, a: Array) -> Array:
    """Transpose (m, T, n) to (n, m, T), as a view."""
    return xp.permute_dims(a, (2, 0, 1))


def product(xp: Any, a: Array, b: Array) -> Array:
    """Compute a @ b; on a device by its engine, whose products may be captured, unlike those of the library."""
    return a @ b if ns.is_on_host(a) else engines.product(xp, a, b)


def times(xp: Any, a: Array, b: Array) -> Array:
    """Multiply (..., n) by (n, k) in one matrix product."""
    rows = product(xp, xp.reshape(a, (math.prod(a.shape[:-1]), a.shape[-1])), b)
    return xp.reshape(rows, (*a.shape[:-1], b.shape[1]))


def outer_sum(xp: Any, a: Array, b: Array) -> Array:
    """Sum a b^T over all leading axes: (..., n) and (..., k) give (n, k)."""
    rows = math.prod(a.shape[:-1])
    left, right = xp.reshape(a, (rows, a.shape[-1])), xp.reshape(b, (rows, b.shape[-1]))
    return product(xp, xp.matrix_transpose(left), right)


def prepare(
    kind: str, sequences: Mapping[str, Array], parameters: Any, lengths: Any, scaled: bool = False
) -> AttentionCache:
    """Check and copy the arguments. `sequences` holds keys, values and, except for a stream, queries."""
    if kind == "additive":
        if not isinstance(parameters, Mapping):
            raise TypeError(f"`parameters` must be a dict of arrays; got {type(parameters).__name__}")
        check_keys("additive attention", parameters, ("Wq", "Wk", "va"), ("ba",))
    arrays = {**sequences, **(parameters or {})}
    xp, device = ns.common_namespace(arrays)
    dtype = ns.floating_dtype(xp, parameters or {}, sequences)
    m, n_steps = _check_sequences(sequences)
    if kind == "additive":
        _check_parameters(parameters, sequences)
    valid = None
    if lengths is not None:
        valid = valid_examples(xp, check_lengths(xp, device, lengths, m, n_steps), n_steps)
    arrays = {name: ns.astype(xp, a, dtype) for name, a in arrays.items()}
    own = {name: _batch_major(xp, arrays[name], None if name == "queries" else valid) for name in sequences}
    copies = {key: ns.owned_copy(xp, arrays[key]) for key in parameters or ()}
    scale = 1 / math.sqrt(sequences["keys"].shape[0]) if flag("scaled", scaled) else 1.0
    return AttentionCache(kind, xp, parameters=copies, valid=valid, scale=scale, **own)


def _batch_major(xp: Any, a: Array, valid: Array | None) -> Array:
    """Copy (n, m, T) to (m, T, n), with zeros where `valid` (m, T) is False, since padding may be NaN."""
    view = xp.permute_dims(a, (1, 2, 0))
    if valid is not None:
        return xp.where(valid[:, :, None], view, xp.zeros_like(view))
    return ns.contiguous(xp, view, own=True)


def _check_sequences(sequences: Mapping[str, Array]) -> tuple[int, int]:
    """Check the shapes; return m and T_x."""
    for name, a in sequences.items():
        n, steps = _SYMBOLS[name]
        if a.ndim != 3 or a.shape[0] == 0:
            raise ValueError(f"`{name}` must have shape ({n}, m, {steps}) with {n} >= 1; got {tuple(a.shape)}")
    m, n_steps = next(iter(sequences.values())).shape[1], sequences["keys"].shape[2]
    for name in ("keys", "values"):
        n, steps = _SYMBOLS[name]
        check_shape(name, sequences[name], f"({n}, m, {steps})", (sequences[name].shape[0], m, n_steps))
    return m, n_steps


def _check_parameters(parameters: Mapping[str, Array], sequences: Mapping[str, Array]) -> None:
    Wq, n_k = parameters["Wq"], sequences["keys"].shape[0]
    if Wq.ndim != 2 or Wq.shape[0] == 0:
        raise ValueError(f"`Wq` must have shape (n_h, n_q) with n_h >= 1; got {tuple(Wq.shape)}")
    n_h, n_q = Wq.shape[0], sequences["queries"].shape[0] if "queries" in sequences else Wq.shape[1]
    expected = {"Wq": ("(n_h, n_q)", (n_h, n_q)), "Wk": ("(n_h, n_k)", (n_h, n_k))}
    for key, array in parameters.items():
        check_shape(key, array, *expected.get(key, ("(n_h, 1)", (n_h, 1))))
