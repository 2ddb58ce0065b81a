r"""Attention: every query looks at all source positions and takes a weighted mean of the values.

.. math:: \alpha_{ts} = \frac{\exp e_{ts}}{\sum_{s'} \exp e_{ts'}}, \qquad c_t = \sum_s \alpha_{ts} v_s

with the score :math:`e_{ts}` of query t and key s additive or a dot product. Sources: D. Bahdanau et al.,
arXiv:1409.0473; M.-T. Luong et al., arXiv:1508.04025; A. Vaswani et al., arXiv:1706.03762 (scaling).

Arrays are (n, m, T): features, examples, time, with T_x source and T_y target steps.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_shape
from rnnx.functional.attention_base import (
    AttentionCache,
    Call,
    attend,
    attend_backward,
    check_keys,
    checked_cache,
    checked_call,
    look,
    public,
)

Gradients = dict[str, Array]


def additive_attention_forward(
    queries: Array, keys: Array, values: Array, parameters: Mapping[str, Array], *, lengths: Any = None
) -> tuple[Array, Array, AttentionCache]:
    r"""Attention with the score of a small network (Bahdanau et al., arXiv:1409.0473, appendix A.1.2).

    .. math:: e_{ts} = v_a^T \tanh(W_q q_t + W_k k_s + b_a)

    Parameters
    ----------
    queries : array, shape (n_q, m, T_y)
        For instance the hidden states of a decoder.
    keys : array, shape (n_k, m, T_x)
        For instance the outputs of an encoder.
    values : array, shape (n_v, m, T_x)
        Often the same array as `keys`; the gradients are separate then, and their sum is the gradient.
    parameters : dict of str to array
        Wq (n_h, n_q), Wk (n_h, n_k), va (n_h, 1) and, if wanted, ba (n_h, 1).
    lengths : sequence or array of int, shape (m,), optional
        Source steps of each example, 0 to T_x. Past an example's end nothing is read, and weights and gradients
        are exactly zero. An example of length 0 has a context of zeros.

    Returns
    -------
    context : array, shape (n_v, m, T_y)
    weights : array, shape (m, T_y, T_x)
        ``weights[j, t]`` says how much target step t of example j looks at each source step; it sums to 1.
    cache : AttentionCache
        For `additive_attention_backward`. It holds m T_y T_x n_h numbers.

    Raises
    ------
    ValueError
        For a wrong shape, key, device or length.
    TypeError
        For something that is not an array, arrays of two libraries, or a wrong dtype.
    """
    check_keys(parameters)
    call = checked_call(queries, keys, values, parameters, lengths)
    scores, h = _additive_scores(call, _from_keys(call))
    return attend("additive", call, scores, tanh=h)


def additive_attention_backward(dcontext: Array, cache: AttentionCache, dweights: Array | None = None) -> Gradients:
    r"""Gradients of `additive_attention_forward`.

    With :math:`h_{ts}` the hyperbolic tangent, :math:`d\alpha_{ts} = dc_t \cdot v_s` and
    :math:`de_{ts} = \alpha_{ts} (d\alpha_{ts} - \sum_{s'} \alpha_{ts'} d\alpha_{ts'})`:

    .. math:: dz_{ts} = de_{ts} \, v_a \odot (1 - h_{ts}^2), \quad dv_a = \sum_{ts} de_{ts} h_{ts}, \quad
        db_a = \sum_{ts} dz_{ts}, \quad dW_q = \sum_{ts} dz_{ts} q_t^T, \quad dW_k = \sum_{ts} dz_{ts} k_s^T

    and the sums run over the examples, too.

    Parameters
    ----------
    dcontext : array, shape (n_v, m, T_y)
    cache : AttentionCache
        What `additive_attention_forward` returned.
    dweights : array, shape (m, T_y, T_x), optional
        Cotangent of the weights, for a loss that uses them itself.

    Returns
    -------
    gradients : dict
        dqueries (n_q, m, T_y), dkeys (n_k, m, T_x), dvalues (n_v, m, T_x), dWq, dWk, dva and, if there is a
        bias, dba.

    Raises
    ------
    ValueError, TypeError
        For a wrong shape or library, or a cache of another function.
    """
    cache = checked_cache(cache, "additive", dcontext, dweights)
    call, h = cache.call, cache.tanh
    p, xp = call.parameters, call.xp
    dscores, dvalues = attend_backward(dcontext, cache, dweights)
    dz = xp.expand_dims(dscores, axis=3) * (xp.reshape(p["va"], (-1,)) * (1 - h * h))
    dfrom_queries, dfrom_keys = xp.sum(dz, axis=2), xp.sum(dz, axis=1)
    gradients = {
        "dqueries": public(xp, _times(xp, dfrom_queries, p["Wq"])),
        "dkeys": public(xp, _times(xp, dfrom_keys, p["Wk"])),
        "dvalues": dvalues,
        "dWq": _outer_sum(xp, dfrom_queries, call.queries),
        "dWk": _outer_sum(xp, dfrom_keys, call.keys),
        "dva": _outer_sum(xp, h, xp.expand_dims(dscores, axis=3)),
    }
    if "ba" in p:
        gradients["dba"] = xp.expand_dims(xp.sum(dfrom_queries, axis=(0, 1)), axis=1)
    return gradients


def dot_product_attention_forward(
    queries: Array, keys: Array, values: Array, *, scaled: bool = False, lengths: Any = None
) -> tuple[Array, Array, AttentionCache]:
    r"""Attention with the dot product of query and key as the score (Luong et al., arXiv:1508.04025).

    .. math:: e_{ts} = q_t \cdot k_s, \qquad \text{scaled: } e_{ts} = q_t \cdot k_s / \sqrt{n}

    Parameters
    ----------
    queries : array, shape (n, m, T_y)
    keys : array, shape (n, m, T_x)
    values : array, shape (n_v, m, T_x)
        Often the same array as `keys`; the gradients are separate then, and their sum is the gradient.
    scaled : bool
        Divide by the root of n (Vaswani et al., arXiv:1706.03762): scores of long vectors grow with it, and the
        softmax saturates.
    lengths : sequence or array of int, shape (m,), optional
        Source steps of each example, as in `additive_attention_forward`.

    Returns
    -------
    context : array, shape (n_v, m, T_y)
    weights : array, shape (m, T_y, T_x)
        ``weights[j, t]`` says how much target step t of example j looks at each source step; it sums to 1.
    cache : AttentionCache
        For `dot_product_attention_backward`.

    Raises
    ------
    ValueError, TypeError
        As `additive_attention_forward`.
    """
    call = checked_call(queries, keys, values, {}, lengths)
    if keys.shape[0] != queries.shape[0]:
        raise ValueError(f"`keys` must have as many features as `queries`, {queries.shape[0]}; got {keys.shape[0]}")
    scale = _scale(keys, scaled)
    return attend("dot_product", call, _dot_product_scores(call, scale), scale=scale)


def dot_product_attention_backward(dcontext: Array, cache: AttentionCache, dweights: Array | None = None) -> Gradients:
    r"""Gradients of `dot_product_attention_forward`.

    .. math:: dq_t = \sum_s de_{ts} k_s, \qquad dk_s = \sum_t de_{ts} q_t

    with :math:`de` as in `additive_attention_backward`, both divided by the root of n if scaled.

    Parameters
    ----------
    dcontext : array, shape (n_v, m, T_y)
    cache : AttentionCache
        What `dot_product_attention_forward` returned.
    dweights : array, shape (m, T_y, T_x), optional
        Cotangent of the weights, for a loss that uses them itself.

    Returns
    -------
    gradients : dict
        dqueries (n, m, T_y), dkeys (n, m, T_x), dvalues (n_v, m, T_x).

    Raises
    ------
    ValueError, TypeError
        For a wrong shape or library, or a cache of another function.
    """
    cache = checked_cache(cache, "dot_product", dcontext, dweights)
    call, xp = cache.call, cache.call.xp
    dscores, dvalues = attend_backward(dcontext, cache, dweights)
    dscores = dscores * cache.scale
    return {
        "dqueries": public(xp, dscores @ call.keys),
        "dkeys": public(xp, xp.matrix_transpose(dscores) @ call.queries),
        "dvalues": dvalues,
    }


class AttentionStream:
    """Attention for one query after another over the same source, as a decoder needs it that writes step by step.

    The source is checked, copied and, by additive attention, projected once. There is no backward pass.

    Parameters
    ----------
    keys : array, shape (n_k, m, T_x)
    values : array, shape (n_v, m, T_x)
    parameters : dict of str to array, optional
        Those of additive attention, as for `additive_attention_forward`; None: the dot product.
    scaled : bool
        Of the dot product, as for `dot_product_attention_forward`.
    lengths : sequence or array of int, shape (m,), optional
        Source steps of each example, as for `additive_attention_forward`.

    Raises
    ------
    ValueError, TypeError
        As `additive_attention_forward`.
    """

    def __init__(
        self,
        keys: Array,
        values: Array,
        parameters: Mapping[str, Array] | None = None,
        *,
        scaled: bool = False,
        lengths: Any = None,
    ) -> None:
        given: Mapping[str, Array] = {} if parameters is None else parameters
        if parameters is not None:
            check_keys(parameters)
        xp, device = ns.common_namespace({"keys": keys, **given})
        like = given["Wq"].shape[-1:] if given else keys.shape[:1]
        m = keys.shape[1] if keys.ndim == 3 else 0  # other shapes are named below
        none = xp.zeros((*(like or (1,)), m, 0), dtype=xp.float32, device=device)
        self._call = checked_call(none, keys, values, given, lengths)
        self._from_keys = _from_keys(self._call) if given else None
        self._scale = _scale(keys, scaled)

    def step(self, queries: Array) -> tuple[Array, Array]:
        """What the next query of every example finds.

        Parameters
        ----------
        queries : array, shape (n_q, m)
            Taken in the dtype of the source.

        Returns
        -------
        context : array, shape (n_v, m)
        weights : array, shape (m, T_x)
        """
        call = self._call
        xp, m, n_q = call.xp, call.queries.shape[0], call.queries.shape[2]
        ns.common_namespace({"keys": call.keys, "queries": queries})
        check_shape("queries", queries, "(n_q, m)", (n_q, m))
        rows = ns.astype(xp, xp.matrix_transpose(queries), call.keys.dtype)
        call = replace(call, queries=xp.expand_dims(rows, axis=1))
        if self._from_keys is None:
            scores = _dot_product_scores(call, self._scale)
        else:
            scores, _ = _additive_scores(call, self._from_keys)
        context, weights = look(call, scores)
        return context[:, :, 0], weights[:, 0, :]


def _from_keys(call: Call) -> Array:
    """W_k k_s, (m, T_x, n_h): it serves all queries."""
    return _times(call.xp, call.keys, call.xp.matrix_transpose(call.parameters["Wk"]))


def _additive_scores(call: Call, from_keys: Array) -> tuple[Array, Array]:
    """Scores (m, T_y, T_x), and the hyperbolic tangents that they are made of, (m, T_y, T_x, n_h)."""
    p, xp = call.parameters, call.xp
    from_queries = _times(xp, call.queries, xp.matrix_transpose(p["Wq"]))
    if "ba" in p:
        from_queries = from_queries + xp.reshape(p["ba"], (-1,))
    h = xp.tanh(xp.expand_dims(from_queries, axis=2) + xp.expand_dims(from_keys, axis=1))
    return xp.reshape(_times(xp, h, p["va"]), h.shape[:3]), h


def _scale(keys: Array, scaled: bool) -> float:
    return 1 / math.sqrt(keys.shape[0]) if scaled else 1.0


def _dot_product_scores(call: Call, scale: float) -> Array:
    """Scores (m, T_y, T_x)."""
    return (call.queries * scale) @ call.xp.matrix_transpose(call.keys)


def _times(xp: Any, a: Array, b: Array) -> Array:
    """(..., n) times (n, k), as one matrix product."""
    rows = xp.reshape(a, (math.prod(a.shape[:-1]), a.shape[-1])) @ b
    return xp.reshape(rows, (*a.shape[:-1], b.shape[1]))


def _outer_sum(xp: Any, a: Array, b: Array) -> Array:
    """Sum of a b^T over all leading axes: (..., n) and (..., k) give (n, k)."""
    rows = math.prod(a.shape[:-1])
    return xp.matrix_transpose(xp.reshape(a, (rows, a.shape[-1]))) @ xp.reshape(b, (rows, b.shape[-1]))
