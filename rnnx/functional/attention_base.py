"""What all kinds of attention share: checks, the softmax over source positions, and the cache.

Public arrays are (n, m, T). Inside they are (m, T, n), one matrix an example, so that all products are batched
matrix products. T_x source steps, T_y target steps.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_lengths, check_shape
from rnnx._core.layout import valid_examples

_REQUIRED = ("Wq", "Wk", "va")
_OPTIONAL = ("ba",)


@dataclass(frozen=True)
class Call:
    """Checked arguments, copied; past an example's end there are zeros."""

    xp: Any
    queries: Array  # (m, T_y, n_q)
    keys: Array  # (m, T_x, n_k)
    values: Array  # (m, T_x, n_v)
    parameters: dict[str, Array]
    valid: Array | None  # (m, T_x) bool


@dataclass(frozen=True)
class AttentionCache:
    """What an attention's forward pass keeps for its backward pass."""

    kind: str
    call: Call
    weights: Array  # (m, T_y, T_x)
    tanh: Array = None  # (m, T_y, T_x, n_h), additive only
    scale: float = 1.0  # of the scores, dot product only

    def astype(self, dtype: Any) -> "AttentionCache":
        """The same in another dtype."""

        def cast(a: Any) -> Any:
            return None if a is None else ns.astype(self.call.xp, a, dtype)

        call = self.call
        parameters = {key: cast(p) for key, p in call.parameters.items()}
        call = Call(call.xp, cast(call.queries), cast(call.keys), cast(call.values), parameters, call.valid)
        return AttentionCache(self.kind, call, cast(self.weights), cast(self.tanh), self.scale)


def attend(kind: str, call: Call, scores: Array, **kept: Any) -> tuple[Array, Array, AttentionCache]:
    """Context and weights from scores (m, T_y, T_x): what all kinds of attention share."""
    context, weights = look(call, scores)
    return context, ns.owned_copy(call.xp, weights), AttentionCache(kind, call, weights, **kept)


def look(call: Call, scores: Array) -> tuple[Array, Array]:
    """Context (n_v, m, T_y) and weights (m, T_y, T_x) from scores (m, T_y, T_x)."""
    weights = _masked_softmax(call.xp, scores, call.valid)
    return public(call.xp, weights @ call.values), weights


def attend_backward(dcontext: Array, cache: AttentionCache, dweights: Array | None) -> tuple[Array, Array]:
    """Gradients of `attend`: dscores (m, T_y, T_x) and, public, dvalues (n_v, m, T_x)."""
    call, weights, xp = cache.call, cache.weights, cache.call.xp
    dcontext = ns.astype(xp, xp.permute_dims(dcontext, (1, 2, 0)), weights.dtype)
    dvalues = public(xp, xp.matrix_transpose(weights) @ dcontext)
    total = dcontext @ xp.matrix_transpose(call.values)
    if dweights is not None:
        total = total + ns.astype(xp, dweights, weights.dtype)
    # Where a weight is zero, so is its score's gradient: the mask needs no second look.
    return weights * (total - xp.sum(weights * total, axis=2, keepdims=True)), dvalues


def _masked_softmax(xp: Any, scores: Array, valid: Array | None) -> Array:
    """Softmax along the last axis over the valid positions; all zero where there is none."""
    if scores.shape[2] == 0:
        return scores
    if valid is None:
        e = xp.exp(scores - xp.max(scores, axis=2, keepdims=True))
        return e / xp.sum(e, axis=2, keepdims=True)
    scores = xp.where(xp.expand_dims(valid, axis=1), scores, xp.full_like(scores, -math.inf))
    top = xp.max(scores, axis=2, keepdims=True)
    e = xp.exp(scores - xp.where(top == -math.inf, xp.zeros_like(top), top))
    total = xp.sum(e, axis=2, keepdims=True)
    return e / xp.where(total == 0, xp.ones_like(total), total)


def public(xp: Any, a: Array) -> Array:
    """(m, T, n) to (n, m, T), a view."""
    return xp.permute_dims(a, (2, 0, 1))


def checked_call(queries: Array, keys: Array, values: Array, parameters: Mapping[str, Array], lengths: Any) -> Call:
    """Check everything, then copy it; `parameters` is empty for a dot product, else `check_keys` has seen it."""
    sequences = {"queries": queries, "keys": keys, "values": values}
    xp, device = ns.common_namespace({**sequences, **parameters})
    dtype = ns.floating_dtype(xp, {**sequences, **parameters}, {})
    for (name, array), n, steps in zip(sequences.items(), ("n_q", "n_k", "n_v"), ("T_y", "T_x", "T_x"), strict=True):
        if array.ndim != 3 or array.shape[0] == 0:
            raise ValueError(f"`{name}` must have shape ({n}, m, {steps}) with {n} >= 1; got {tuple(array.shape)}")
    m, n_source = int(queries.shape[1]), int(keys.shape[2])
    check_shape("keys", keys, "(n_k, m, T_x)", (keys.shape[0], m, n_source))
    check_shape("values", values, "(n_v, m, T_x)", (values.shape[0], m, n_source))
    if parameters:
        _check_parameters(parameters, queries.shape[0], keys.shape[0])
    valid = None
    if lengths is not None:
        lengths = check_lengths(xp, device, lengths, m, n_source)
        valid = valid_examples(xp, lengths, n_source)
    cast = {key: ns.owned_copy(xp, ns.astype(xp, p, dtype)) for key, p in parameters.items()}
    queries, keys, values = (ns.astype(xp, a, dtype) for a in sequences.values())
    return Call(
        xp, _batch_major(xp, queries, None), _batch_major(xp, keys, valid), _batch_major(xp, values, valid), cast, valid
    )


def _batch_major(xp: Any, a: Array, valid: Array | None) -> Array:
    """A copy (m, T, n) of a public array, zero where it is not `valid` (m, T): anything may stand there, even NaN."""
    view = xp.permute_dims(a, (1, 2, 0))
    if valid is not None:
        return xp.where(valid[:, :, None], view, xp.zeros_like(view))
    copy = ns.contiguous(xp, view)
    return ns.owned_copy(xp, copy) if copy is view else copy


def check_keys(parameters: Any) -> None:
    """Raise unless `parameters` holds exactly the keys of additive attention."""
    if not isinstance(parameters, Mapping):
        raise TypeError(f"`parameters` must be a dict of arrays; got {type(parameters).__name__}")
    missing = [key for key in _REQUIRED if key not in parameters]
    unknown = [key for key in parameters if key not in _REQUIRED + _OPTIONAL]
    if missing or unknown:
        what = f"missing {missing}" if missing else f"unknown {unknown}"
        raise ValueError(f"`parameters` must have keys {list(_REQUIRED)} and may have {list(_OPTIONAL)}; {what}")


def _check_parameters(parameters: Mapping[str, Array], n_q: int, n_k: int) -> None:
    n_h = parameters["Wq"].shape[0] if parameters["Wq"].ndim else 0
    if n_h == 0:
        raise ValueError(f"`Wq` must have shape (n_h, n_q) with n_h >= 1; got {tuple(parameters['Wq'].shape)}")
    column = ("(n_h, 1)", (n_h, 1))
    expected = {"Wq": ("(n_h, n_q)", (n_h, n_q)), "Wk": ("(n_h, n_k)", (n_h, n_k)), "va": column, "ba": column}
    for key, array in parameters.items():
        check_shape(key, array, *expected[key])


def checked_cache(cache: Any, kind: str, dcontext: Array, dweights: Array | None) -> AttentionCache:
    """The cache, in float64 if a cotangent is; everything checked."""
    if not isinstance(cache, AttentionCache) or cache.kind != kind:
        raise TypeError(f"`cache` must be what {kind}_attention_forward returned; got {_name(cache)}")
    call, weights = cache.call, cache.weights
    m, n_target, n_source = weights.shape
    given = {"dcontext": dcontext} | ({} if dweights is None else {"dweights": dweights})
    ns.common_namespace({"cache": weights, **given})
    check_shape("dcontext", dcontext, "(n_v, m, T_y)", (call.values.shape[2], m, n_target))
    if dweights is not None:
        check_shape("dweights", dweights, "(m, T_y, T_x)", (m, n_target, n_source))
    dtype = ns.floating_dtype(call.xp, {"cache": weights}, given)
    return cache if dtype == weights.dtype else cache.astype(dtype)


def _name(cache: Any) -> str:
    return f"the cache of {cache.kind}_attention_forward" if isinstance(cache, AttentionCache) else type(cache).__name__
