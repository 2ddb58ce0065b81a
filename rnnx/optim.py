"""Optimizers and gradient clipping: pure functions on dicts of arrays of any library.

The classes hold hyper-parameters only; what changes from step to step is a dict of arrays, so that it can be
saved. A new optimizer is one class with `init` and `update`, and one line in `OPTIMIZERS`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rnnx import _namespace as ns
from rnnx._check import check_shape
from rnnx._namespace import Array

Tree = dict[str, Array]


def initialize_adam(parameters: Mapping[str, Array]) -> tuple[Tree, Tree]:
    """Zero moment estimates for Adam.

    Parameters
    ----------
    parameters : dict of str to array

    Returns
    -------
    v, s : dict of str to array
        First and second moments, keys "d" + key of the parameter, same shapes.
    """
    xp, _ = ns.common_namespace(parameters)
    v = {"d" + key: xp.zeros_like(p) for key, p in parameters.items()}
    return v, {key: xp.zeros_like(p) for key, p in v.items()}


def update_parameters_with_adam(
    parameters: Mapping[str, Array],
    grads: Mapping[str, Array],
    v: Mapping[str, Array],
    s: Mapping[str, Array],
    t: int,
    learning_rate: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> tuple[Tree, Tree, Tree]:
    r"""One step of Adam.

    .. math::

        v &\leftarrow \beta_1 v + (1 - \beta_1) g, \qquad s \leftarrow \beta_2 s + (1 - \beta_2) g^2 \\
        \theta &\leftarrow \theta - \alpha \frac{v / (1 - \beta_1^t)}{\sqrt{s / (1 - \beta_2^t)} + \epsilon}

    Source: D. P. Kingma, J. Ba, arXiv:1412.6980, algorithm 1 (epsilon outside the root).

    Parameters
    ----------
    parameters : dict of str to array
    grads : dict of str to array
        "d" + key for every key of `parameters`; other keys (dx, da0) are ignored.
    v, s : dict of str to array
        As `initialize_adam` or the previous call returned them.
    t : int
        Number of this step, from 1.
    learning_rate, beta1, beta2, epsilon : float

    Returns
    -------
    parameters, v, s : dict of str to array
        New dicts; the inputs are not written to.

    Raises
    ------
    ValueError
        For a missing gradient, a wrong shape, or hyper-parameters out of range.
    """
    if t < 1:
        raise ValueError(f"`t` must be at least 1; got {t}")
    _check_range(learning_rate=learning_rate, epsilon=epsilon)
    _check_unit(beta1=beta1, beta2=beta2)
    xp = _check_gradients(parameters, grads)
    for name, moments in (("v", v), ("s", s)):
        missing = ["d" + key for key in parameters if "d" + key not in moments]
        if missing:
            raise ValueError(f"`{name}` must be what initialize_adam or the last step returned; missing {missing}")
    # Python floats: a NumPy float64 would make float64 of float32 parameters.
    t, (learning_rate, beta1, beta2, epsilon) = int(t), map(float, (learning_rate, beta1, beta2, epsilon))
    new, new_v, new_s = {}, {}, {}
    for key, p in parameters.items():
        g = ns.astype(xp, grads["d" + key], p.dtype)
        vk = beta1 * v["d" + key] + (1 - beta1) * g
        sk = beta2 * s["d" + key] + (1 - beta2) * (g * g)
        new_v["d" + key], new_s["d" + key] = vk, sk
        new[key] = p - (learning_rate / (1 - beta1**t)) * vk / (xp.sqrt(sk / (1 - beta2**t)) + epsilon)
    return new, new_v, new_s


def update_parameters_with_sgd(
    parameters: Mapping[str, Array], grads: Mapping[str, Array], learning_rate: float = 0.01
) -> Tree:
    """One step of gradient descent, p - learning_rate * dp.

    Parameters
    ----------
    parameters : dict of str to array
    grads : dict of str to array
        "d" + key for every key of `parameters`; other keys are ignored.
    learning_rate : float

    Returns
    -------
    parameters : dict of str to array
        A new dict.
    """
    _check_range(learning_rate=learning_rate)
    xp = _check_gradients(parameters, grads)
    learning_rate = float(learning_rate)
    return {key: p - learning_rate * ns.astype(xp, grads["d" + key], p.dtype) for key, p in parameters.items()}


def clip_by_value(grads: Mapping[str, Array], max_value: float) -> Tree:
    """Every element to [-max_value, max_value].

    Parameters
    ----------
    grads : dict of str to array
    max_value : float, > 0

    Returns
    -------
    dict of str to array
        New arrays; NaN stays NaN.
    """
    _check_range(max_value=max_value)
    if not grads:
        return {}
    xp, _ = ns.common_namespace(grads)
    max_value = float(max_value)
    return {key: xp.clip(g, -max_value, max_value) for key, g in grads.items()}


def clip_by_global_norm(grads: Mapping[str, Array], max_norm: float) -> tuple[Tree, Array]:
    """Scale all gradients together so that their common norm is at most `max_norm`.

    Give it the gradients of the parameters only: dx and da0 would count, too.

    Source: R. Pascanu, T. Mikolov, Y. Bengio, arXiv:1211.5063.

    Parameters
    ----------
    grads : dict of str to array
    max_norm : float, > 0

    Returns
    -------
    grads : dict of str to array
        New arrays.
    norm : array, shape ()
        The norm before clipping.
    """
    _check_range(max_norm=max_norm)
    if not any(0 not in g.shape for g in grads.values()):
        raise ValueError("`grads` must hold at least one array that is not empty")
    xp, _ = ns.common_namespace(grads)
    max_norm = float(max_norm)
    # Scaled by the largest element: the square of a large gradient does not overflow.
    largest = xp.max(xp.stack([xp.max(xp.abs(g)) for g in grads.values() if 0 not in g.shape]))
    unit = xp.where(largest > 0, largest, xp.ones_like(largest))
    parts = [xp.sum((g / unit) * (g / unit)) for g in grads.values()]
    norm = unit * xp.sqrt(xp.sum(xp.stack(parts)))
    scale = max_norm / xp.maximum(norm, xp.full_like(norm, max_norm))
    return {key: g * scale for key, g in grads.items()}, norm


@dataclass(frozen=True)
class SGD:
    """Gradient descent."""

    learning_rate: float = 0.01

    def init(self, parameters: Mapping[str, Array]) -> Tree:
        """The state before the first step: none."""
        del parameters
        return {}

    def update(
        self, parameters: Mapping[str, Array], grads: Mapping[str, Array], state: Tree, t: int
    ) -> tuple[Tree, Tree]:
        """Step number t, from 1: (parameters, state)."""
        del t
        return update_parameters_with_sgd(parameters, grads, self.learning_rate), state


@dataclass(frozen=True)
class Adam:
    """Adam; see `update_parameters_with_adam`."""

    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def init(self, parameters: Mapping[str, Array]) -> Tree:
        """The state before the first step: zero moments, keys "v.d..." and "s.d..."."""
        v, s = initialize_adam(parameters)
        return _joined(v, s)

    def update(
        self, parameters: Mapping[str, Array], grads: Mapping[str, Array], state: Tree, t: int
    ) -> tuple[Tree, Tree]:
        """Step number t, from 1: (parameters, state)."""
        v, s = ({k[2:]: a for k, a in state.items() if k.startswith(f"{part}.")} for part in "vs")
        new, v, s = update_parameters_with_adam(
            parameters, grads, v, s, t, self.learning_rate, self.beta1, self.beta2, self.epsilon
        )
        return new, _joined(v, s)


OPTIMIZERS: dict[str, Any] = {"sgd": SGD, "adam": Adam}


def _joined(v: Tree, s: Tree) -> Tree:
    return {**{f"v.{k}": a for k, a in v.items()}, **{f"s.{k}": a for k, a in s.items()}}


def _check_gradients(parameters: Mapping[str, Array], grads: Mapping[str, Array]) -> Any:
    missing = ["d" + key for key in parameters if "d" + key not in grads]
    if missing:
        raise ValueError(f"`grads` must hold a gradient for every parameter; missing {missing}")
    used = {"d" + key: grads["d" + key] for key in parameters}
    xp, _ = ns.common_namespace({**parameters, **used})
    for key, p in parameters.items():
        check_shape("d" + key, used["d" + key], f"(the shape of {key})", tuple(p.shape))
    return xp


def _check_range(**values: float) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"`{name}` must be a positive number; got {value}")


def _check_unit(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"`{name}` must be in [0, 1); got {value}")
