r"""Attention: for each query, a weighted mean of the values at all source positions.

.. math:: \alpha_{ts} = \frac{\exp e_{ts}}{\sum_{s'} \exp e_{ts'}}, \qquad c_t = \sum_s \alpha_{ts} v_s

The score :math:`e_{ts}` of query t and key s is additive or a dot product. Sources: D. Bahdanau et al.,
arXiv:1409.0473; M.-T. Luong et al., arXiv:1508.04025; A. Vaswani et al., arXiv:1706.03762 (scaling).

Arrays are (n, m, T): features, examples, time, with T_x source and T_y target steps.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_shape
from rnnx._core.harmless_errors import ignore_harmless_errors
from rnnx.functional.attention_base import AttentionCache as AttentionCache
from rnnx.functional.attention_base import (
    attend,
    attend_backward,
    outer_sum,
    prepare,
    product,
    project_keys,
    public,
    times,
)

Gradients = dict[str, Array]


@ignore_harmless_errors
def additive_attention_forward(
    queries: Array, keys: Array, values: Array, parameters: Mapping[str, Array], *, lengths: Any = None
) -> tuple[Array, Array, AttentionCache]:
    r"""Compute attention scored by a small network (Bahdanau et al., arXiv:1409.0473, appendix A.1.2).

    .. math:: e_{ts} = v_a^T \tanh(W_q q_t + W_k k_s + b_a)

    Parameters
    ----------
    queries : array, shape (n_q, m, T_y)
        Integer and bool arguments are converted to the dtype of the floating ones.
    keys : array, shape (n_k, m, T_x)
    values : array, shape (n_v, m, T_x)
        Often the same array as `keys`; its gradient is then ``dkeys + dvalues``.
    parameters : dict of str to array
        Wq (n_h, n_q), Wk (n_h, n_k), va (n_h, 1) and, optionally, ba (n_h, 1).
    lengths : sequence or array of int, shape (m,), optional
        Number of source steps of each example, 0 to T_x. Entries past an example's length are ignored; weights and
        gradients there are zero. With length 0, so is the context.

    Returns
    -------
    context : array, shape (n_v, m, T_y)
    weights : array, shape (m, T_y, T_x)
        ``weights[j, t]``, the weights of the source steps for target step t of example j, sum to 1.
    cache : AttentionCache
        For `additive_attention_backward`. Its largest array has m T_y T_x n_h entries.

    Raises
    ------
    ValueError, TypeError
        For wrong shapes, keys, lengths or dtypes, or arrays of two libraries or devices.

    See Also
    --------
    additive_attention_backward, dot_product_attention_forward

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> rng = np.random.default_rng(0)
    >>> queries, keys = rng.standard_normal((4, 2, 3)), rng.standard_normal((4, 2, 5))
    >>> shapes = {"Wq": (6, 4), "Wk": (6, 4), "va": (6, 1)}
    >>> parameters = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    >>> context, weights, cache = rnnx.additive_attention_forward(queries, keys, keys, parameters)
    >>> context.shape, weights.shape
    ((4, 2, 3), (2, 3, 5))
    """
    cache = prepare("additive", {"queries": queries, "keys": keys, "values": values}, parameters, lengths)
    context, cache = attend(cache, project_keys(cache))
    return context, ns.owned_copy(cache.xp, cache.weights), cache


@ignore_harmless_errors
def additive_attention_backward(dcontext: Array, cache: AttentionCache, dweights: Array | None = None) -> Gradients:
    r"""Compute the gradients of `additive_attention_forward`.

    With :math:`h_{ts}` the hyperbolic tangent, :math:`d\alpha_{ts} = dc_t \cdot v_s` and
    :math:`de_{ts} = \alpha_{ts} (d\alpha_{ts} - \sum_{s'} \alpha_{ts'} d\alpha_{ts'})`:

    .. math:: dz_{ts} = de_{ts} \, v_a \odot (1 - h_{ts}^2), \quad dv_a = \sum_{ts} de_{ts} h_{ts}, \quad
        db_a = \sum_{ts} dz_{ts}, \quad dW_q = \sum_{ts} dz_{ts} q_t^T, \quad dW_k = \sum_{ts} dz_{ts} k_s^T

    where the sums also run over the examples.

    Parameters
    ----------
    dcontext : array, shape (n_v, m, T_y)
    cache : AttentionCache
        From `additive_attention_forward`.
    dweights : array, shape (m, T_y, T_x), optional
        Cotangent of the weights, for a loss that depends on them.

    Returns
    -------
    gradients : dict
        dqueries (n_q, m, T_y), dkeys (n_k, m, T_x), dvalues (n_v, m, T_x), dWq, dWk, dva and, with a bias, dba.

    Raises
    ------
    ValueError, TypeError
        For wrong shapes or libraries, or the cache of another function.

    See Also
    --------
    additive_attention_forward

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> rng = np.random.default_rng(0)
    >>> queries, keys = rng.standard_normal((4, 2, 3)), rng.standard_normal((4, 2, 5))
    >>> shapes = {"Wq": (6, 4), "Wk": (6, 4), "va": (6, 1)}
    >>> parameters = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    >>> context, weights, cache = rnnx.additive_attention_forward(queries, keys, keys, parameters)
    >>> gradients = rnnx.additive_attention_backward(np.ones_like(context), cache)
    >>> sorted(gradients)
    ['dWk', 'dWq', 'dkeys', 'dqueries', 'dva', 'dvalues']
    """
    cache, dscores, dvalues = attend_backward("additive", dcontext, cache, dweights)
    p, xp, h = cache.parameters, cache.xp, cache.tanh
    dz = xp.expand_dims(dscores, axis=3) * (xp.reshape(p["va"], (-1,)) * (1 - h * h))
    dfrom_queries, dfrom_keys = xp.sum(dz, axis=2), xp.sum(dz, axis=1)
    gradients = {
        "dqueries": public(xp, times(xp, dfrom_queries, p["Wq"])),
        "dkeys": public(xp, times(xp, dfrom_keys, p["Wk"])),
        "dvalues": dvalues,
        "dWq": outer_sum(xp, dfrom_queries, cache.queries),
        "dWk": outer_sum(xp, dfrom_keys, cache.keys),
        "dva": outer_sum(xp, h, xp.expand_dims(dscores, axis=3)),
    }
    if "ba" in p:
        gradients["dba"] = xp.expand_dims(xp.sum(dfrom_queries, axis=(0, 1)), axis=1)
    return gradients


@ignore_harmless_errors
def dot_product_attention_forward(
    queries: Array, keys: Array, values: Array, *, scaled: bool = False, lengths: Any = None
) -> tuple[Array, Array, AttentionCache]:
    r"""Compute attention scored by the dot product of query and key (Luong et al., arXiv:1508.04025).

    .. math:: e_{ts} = q_t \cdot k_s, \qquad \text{scaled: } e_{ts} = q_t \cdot k_s / \sqrt{n}

    Parameters
    ----------
    queries : array, shape (n, m, T_y)
    keys : array, shape (n, m, T_x)
    values : array, shape (n_v, m, T_x)
    scaled : bool
        Divide the scores by the square root of n (Vaswani et al., arXiv:1706.03762), because the large scores of
        long vectors saturate the softmax.
    lengths : sequence or array of int, shape (m,), optional
        As for `additive_attention_forward`.

    Returns
    -------
    context : array, shape (n_v, m, T_y)
    weights : array, shape (m, T_y, T_x)
    cache : AttentionCache
        As from `additive_attention_forward`, which raises the same errors.

    See Also
    --------
    dot_product_attention_backward, additive_attention_forward

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> rng = np.random.default_rng(0)
    >>> queries, keys = rng.standard_normal((4, 2, 3)), rng.standard_normal((4, 2, 5))
    >>> context, weights, cache = rnnx.dot_product_attention_forward(queries, keys, keys, scaled=True)
    >>> context.shape, weights.shape
    ((4, 2, 3), (2, 3, 5))
    >>> np.allclose(weights.sum(axis=2), 1)
    True
    """
    cache = prepare("dot_product", {"queries": queries, "keys": keys, "values": values}, None, lengths, scaled)
    if keys.shape[0] != queries.shape[0]:
        raise ValueError(f"`queries` and `keys` must have equal sizes n; got {queries.shape[0]} and {keys.shape[0]}")
    context, cache = attend(cache)
    return context, ns.owned_copy(cache.xp, cache.weights), cache


@ignore_harmless_errors
def dot_product_attention_backward(dcontext: Array, cache: AttentionCache, dweights: Array | None = None) -> Gradients:
    r"""Compute the gradients of `dot_product_attention_forward`. Errors are those of `additive_attention_backward`.

    .. math:: dq_t = \sum_s de_{ts} k_s, \qquad dk_s = \sum_t de_{ts} q_t

    with :math:`de` as in `additive_attention_backward`, both divided by the square root of n if scaled.

    Parameters
    ----------
    dcontext : array, shape (n_v, m, T_y)
    cache : AttentionCache
        From `dot_product_attention_forward`.
    dweights : array, shape (m, T_y, T_x), optional

    Returns
    -------
    gradients : dict
        dqueries (n, m, T_y), dkeys (n, m, T_x), dvalues (n_v, m, T_x).

    See Also
    --------
    dot_product_attention_forward

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> rng = np.random.default_rng(0)
    >>> queries, keys = rng.standard_normal((4, 2, 3)), rng.standard_normal((4, 2, 5))
    >>> context, weights, cache = rnnx.dot_product_attention_forward(queries, keys, keys, scaled=True)
    >>> gradients = rnnx.dot_product_attention_backward(np.ones_like(context), cache)
    >>> gradients["dkeys"].shape
    (4, 2, 5)
    """
    cache, dscores, dvalues = attend_backward("dot_product", dcontext, cache, dweights)
    xp, dscores = cache.xp, dscores * cache.scale
    return {
        "dqueries": public(xp, product(xp, dscores, cache.keys)),
        "dkeys": public(xp, product(xp, xp.matrix_transpose(dscores), cache.queries)),
        "dvalues": dvalues,
    }


class AttentionStream:
    """Attention over a fixed source, one query at a time, for step-by-step decoding.

    The source is checked, copied and (for additive attention) projected once. There is no backward pass. Arguments and
    errors are those of `additive_attention_forward` and `dot_product_attention_forward`.

    Parameters
    ----------
    keys : array, shape (n_k, m, T_x)
    values : array, shape (n_v, m, T_x)
    parameters : dict of str to array, optional
        None for dot-product attention.
    scaled : bool
    lengths : sequence or array of int, shape (m,), optional
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
        kind = "dot_product" if parameters is None else "additive"
        self._source = prepare(kind, {"keys": keys, "values": values}, parameters, lengths, scaled)
        self._from_keys = None if parameters is None else project_keys(self._source)

    @ignore_harmless_errors
    def step(self, queries: Array) -> tuple[Array, Array]:
        """Attend with one query per example.

        Parameters
        ----------
        queries : array, shape (n_q, m)
            Converted to the dtype of the source.

        Returns
        -------
        context : array, shape (n_v, m)
        weights : array, shape (m, T_x)
        """
        source = self._source
        n_q = source.parameters["Wq"].shape[1] if source.parameters else source.keys.shape[2]
        ns.common_namespace({"keys": source.keys, "queries": queries})
        check_shape("queries", queries, "(n_q, m)", (n_q, source.keys.shape[0]))
        ns.floating_dtype(source.xp, {}, {"queries": queries})
        rows = ns.astype(source.xp, source.xp.matrix_transpose(queries), source.keys.dtype)
        context, cache = attend(replace(source, queries=rows[:, None, :]), self._from_keys)
        return context[:, :, 0], cache.weights[:, 0, :]
