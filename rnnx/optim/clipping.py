"""Gradient clipping for dicts of arrays of any library."""

from typing import Any

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.harmless_errors import ignore_harmless_errors
from rnnx.engines.operations import Numbers, Rule
from rnnx.optim.base import Tree
from rnnx.optim.checks import Named, check_mapping, positive


def clip_by_value(grads: Named, max_value: float) -> Tree:
    """Clip every element to [-max_value, max_value].

    Parameters
    ----------
    grads : dict of str to array
        Integer and bool arrays are converted to the dtype of the floating ones.
    max_value : float > 0

    Returns
    -------
    dict of str to array
        New arrays; NaN stays NaN.

    See Also
    --------
    clip_by_norm, clip_by_global_norm

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> grads = {"dW": np.array([[3.0, -4.0]]), "db": np.zeros((1, 1))}
    >>> rnnx.clip_by_value(grads, 3.5)["dW"]
    array([[ 3. , -3.5]])
    """
    max_value = positive("max_value", max_value)
    xp, grads = _floating(grads)
    return _changed(xp, clipped, {"most": max_value}, grads) if grads else {}


@ignore_harmless_errors
def clip_by_norm(grads: Named, max_norm: float) -> Tree:
    """Scale each gradient separately so that its norm is at most `max_norm` (Keras's clipnorm).

    Unlike `clip_by_global_norm`, this changes the direction of the step.

    Parameters
    ----------
    grads, max_norm
        As for `clip_by_global_norm`.

    Returns
    -------
    dict of str to array
        New arrays. A gradient that contains NaN or infinity becomes all NaN.

    See Also
    --------
    clip_by_global_norm, clip_by_value

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> grads = {"dW": np.array([[3.0, -4.0]]), "db": np.zeros((1, 1))}
    >>> rnnx.clip_by_norm(grads, 1.0)["dW"]
    array([[ 0.6, -0.8]])
    """
    max_norm = positive("max_norm", max_norm)
    xp, grads = _floating(grads)
    clipped: Tree = {}
    for key, g in grads.items():
        clipped |= {key: ns.owned_copy(xp, g)} if 0 in g.shape else scale_to_norm(xp, {key: g}, max_norm)[0]
    return clipped


@ignore_harmless_errors
def clip_by_global_norm(grads: Named, max_norm: float) -> tuple[Tree, Array]:
    """Scale all gradients by one factor so that their global norm is at most `max_norm`.

    Pass only the gradients of the parameters, because dx and da0 would count too.

    Source: R. Pascanu, T. Mikolov, Y. Bengio, arXiv:1211.5063.

    Parameters
    ----------
    grads : dict of str to array
        Integer and bool arrays are converted to the dtype of the floating ones.
    max_norm : float > 0

    Returns
    -------
    grads : dict of str to array
        New arrays of the same floating dtypes. If any contains NaN or infinity, all become NaN.
    norm : array, shape ()
        The norm before clipping.

    See Also
    --------
    clip_by_norm, clip_by_value

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> grads = {"dW": np.array([[3.0, -4.0]]), "db": np.zeros((1, 1))}
    >>> clipped, norm = rnnx.clip_by_global_norm(grads, 1.0)
    >>> print(norm, clipped["dW"])
    5.0 [[ 0.6 -0.8]]
    """
    max_norm = positive("max_norm", max_norm)
    xp, grads = _floating(grads)
    if all(0 in g.shape for g in grads.values()):
        raise ValueError("`grads` must hold at least one non-empty array")
    return scale_to_norm(xp, grads, max_norm)


def _floating(grads: Named) -> tuple[Any, Named]:
    """Check gradients; return their namespace, and the gradients with integers converted to the others' dtype."""
    check_mapping("grads", grads)
    if not grads:
        return None, {}
    xp, _ = ns.common_namespace(grads)
    dtype = ns.floating_dtype(xp, {}, grads)
    if {g.dtype for g in grads.values()} == {dtype}:
        return xp, grads
    is_data = {key: xp.isdtype(g.dtype, ("integral", "bool")) for key, g in grads.items()}
    return xp, {key: xp.astype(g, dtype) if is_data[key] else g for key, g in grads.items()}


@ignore_harmless_errors
def scale_to_norm(xp: Any, grads: Named, max_norm: float, *, own: bool = True) -> tuple[Tree, Array]:
    """Compute `clip_by_global_norm` without checks; unless `own`, gradients that need no clipping are not copied."""
    norm = engines.operations(xp).norm([g for g in grads.values() if 0 not in g.shape])
    if not own and ns.is_on_host(next(iter(grads.values()))) and norm <= max_norm:
        return dict(grads), norm
    scale = max_norm / xp.maximum(norm, xp.full_like(norm, max_norm))
    return _changed(xp, _scaled, {"scale": scale}, grads), norm


def _scaled(_ops: Any, numbers: Numbers, g: Any) -> tuple[Any]:
    return (g * numbers["scale"],)


def clipped(ops: Any, numbers: Numbers, g: Any) -> tuple[Any]:
    """Clip every element to [-most, most]; NaN stays NaN."""
    return (ops.minimum(ops.maximum(g, -numbers["most"]), numbers["most"]),)


def _changed(xp: Any, rule: Rule, numbers: Numbers, grads: Named) -> Tree:
    """Return what a rule makes of each gradient."""
    results = engines.operations(xp).elementwise(rule, numbers, [(g,) for g in grads.values()])
    return {key: g for key, (g,) in zip(grads, results, strict=True)}
