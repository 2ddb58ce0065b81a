"""The optimizer steps of the course: pure functions on dicts of arrays of any library."""

from typing import Any

from rnnx.optim.base import Optimizer, Tree, with_prefix
from rnnx.optim.checks import Named, below_one, check_mapping
from rnnx.optim.optimizers import SGD, Adam, AdamW, Momentum, RMSProp


def initialize_adam(parameters: Named) -> tuple[Tree, Tree]:
    """Return zero moment estimates v, s for Adam and AdamW; see `initialize_velocity`.

    See Also
    --------
    update_parameters_with_adam

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> v, s = rnnx.initialize_adam({"W": np.ones((1, 2))})
    >>> v
    {'dW': array([[0., 0.]])}
    """
    return initialize_velocity(parameters), initialize_velocity(parameters)


def initialize_velocity(parameters: Named) -> Tree:
    """Return zeros like the parameters, under "d" + key: momentum's velocity, or RMSProp's mean square.

    See Also
    --------
    update_parameters_with_momentum, update_parameters_with_rmsprop

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> rnnx.initialize_velocity({"W": np.ones((1, 2))})
    {'dW': array([[0., 0.]])}
    """
    return with_prefix(Momentum().init(parameters), "v.")


def update_parameters_with_sgd(parameters: Named, grads: Named, learning_rate: float = 0.01) -> Tree:
    """Take one step of gradient descent: return p - learning_rate * dp for every parameter p.

    Parameters
    ----------
    parameters, grads, learning_rate
        As for `update_parameters_with_adam`.

    See Also
    --------
    update_parameters_with_adam, SGD

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters, grads = {"W": np.ones((1, 2))}, {"dW": np.array([[0.5, -1.0]])}
    >>> rnnx.update_parameters_with_sgd(parameters, grads, learning_rate=0.1)
    {'W': array([[0.95, 1.1 ]])}
    """
    return SGD(learning_rate).update(parameters, grads, {}, 1)[0]


def update_parameters_with_momentum(
    parameters: Named, grads: Named, v: Named, beta: float = 0.9, learning_rate: float = 0.01, nesterov: bool = False
) -> tuple[Tree, Tree]:
    r"""Take one step of gradient descent with momentum, in the course's convention: v is a mean of gradients.

    .. math::

        v \leftarrow \beta v + (1 - \beta) g, \qquad \theta \leftarrow \theta - \alpha v

    and with `nesterov` :math:`\theta \leftarrow \theta - \alpha (\beta v + (1 - \beta) g)`, with the new v.
    `Momentum` follows torch's convention, in which v is a sum.

    Source: B. T. Polyak, 1964; Nesterov form: I. Sutskever et al., ICML 2013.

    Parameters
    ----------
    parameters, grads, learning_rate
        As for `update_parameters_with_adam`.
    v : dict of str to array
        As returned by `initialize_velocity` or the previous call.
    beta : float, in [0, 1)
    nesterov : bool

    Returns
    -------
    parameters, v : dict of str to array

    See Also
    --------
    initialize_velocity, Momentum

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters, grads = {"W": np.ones((1, 2))}, {"dW": np.array([[0.5, -1.0]])}
    >>> v = rnnx.initialize_velocity(parameters)
    >>> parameters, v = rnnx.update_parameters_with_momentum(parameters, grads, v, learning_rate=0.1)
    >>> parameters["W"].round(3), v["dW"].round(3)
    (array([[0.995, 1.01 ]]), array([[ 0.05, -0.1 ]]))
    """
    beta = below_one("beta", beta)
    optimizer = _DampenedMomentum(learning_rate, beta, nesterov, dampening=beta)
    return _step(optimizer, parameters, grads, 2, v=v)  # torch's rule does not dampen step 1


class _DampenedMomentum(Momentum):
    """Momentum that allows `nesterov` with dampening and with `momentum` = 0."""

    __post_init__ = Optimizer.__post_init__


def update_parameters_with_rmsprop(
    parameters: Named,
    grads: Named,
    s: Named,
    learning_rate: float = 0.001,
    alpha: float = 0.99,
    epsilon: float = 1e-8,
) -> tuple[Tree, Tree]:
    r"""Take one step of RMSProp.

    .. math::

        s \leftarrow \alpha s + (1 - \alpha) g^2, \qquad
        \theta \leftarrow \theta - \eta \frac{g}{\sqrt{s} + \epsilon}

    Source: T. Tieleman, G. Hinton, lecture 6.5 of Neural Networks for Machine Learning, 2012 (there alpha = 0.9).

    Parameters
    ----------
    parameters, grads, learning_rate, epsilon
        As for `update_parameters_with_adam`; the learning rate is the eta above.
    s : dict of str to array
        Mean squares, as returned by `initialize_velocity` or the previous call.
    alpha : float, in [0, 1)

    Returns
    -------
    parameters, s : dict of str to array

    See Also
    --------
    initialize_velocity, RMSProp

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters, grads = {"W": np.ones((1, 2))}, {"dW": np.array([[0.5, -1.0]])}
    >>> s = rnnx.initialize_velocity(parameters)
    >>> parameters, s = rnnx.update_parameters_with_rmsprop(parameters, grads, s)
    >>> parameters["W"].round(3)
    array([[0.99, 1.01]])
    """
    return _step(RMSProp(learning_rate, alpha, epsilon), parameters, grads, s=s)


def update_parameters_with_adam(
    parameters: Named,
    grads: Named,
    v: Named,
    s: Named,
    t: int,
    learning_rate: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> tuple[Tree, Tree, Tree]:
    r"""Take one step of Adam.

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
        As returned by `initialize_adam` or the previous call.
    t : int
        Number of this step, from 1.
    learning_rate, beta1, beta2, epsilon : float

    Returns
    -------
    parameters, v, s : dict of str to array

    Raises
    ------
    ValueError, TypeError
        As for `Optimizer.update`, and if a hyper-parameter is out of range.

    See Also
    --------
    initialize_adam, rnnx.optim.Adam

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters, grads = {"W": np.ones((1, 2))}, {"dW": np.array([[0.5, -1.0]])}
    >>> v, s = rnnx.initialize_adam(parameters)
    >>> parameters, v, s = rnnx.update_parameters_with_adam(parameters, grads, v, s, t=1)
    >>> parameters["W"].round(3)
    array([[0.99, 1.01]])
    """
    return _step(Adam(learning_rate, beta1, beta2, epsilon), parameters, grads, t, v=v, s=s)


def update_parameters_with_adamw(
    parameters: Named,
    grads: Named,
    v: Named,
    s: Named,
    t: int,
    learning_rate: float = 0.001,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float = 0.01,
) -> tuple[Tree, Tree, Tree]:
    r"""Take one step of AdamW: :math:`\theta \leftarrow (1 - \alpha \lambda) \theta`, then a step of Adam.

    The decay :math:`\lambda` is not part of the gradient, so it is not divided by :math:`\sqrt{s}`.

    Source: I. Loshchilov, F. Hutter, arXiv:1711.05101, algorithm 2, with the decay times the learning rate as in torch.

    Parameters
    ----------
    parameters, grads, v, s, t, learning_rate, beta1, beta2, epsilon
        As for `update_parameters_with_adam`.
    weight_decay : float
        The lambda above.

    Returns
    -------
    parameters, v, s : dict of str to array

    See Also
    --------
    initialize_adam, AdamW

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters, grads = {"W": np.ones((1, 2))}, {"dW": np.array([[0.5, -1.0]])}
    >>> v, s = rnnx.initialize_adam(parameters)
    >>> parameters, v, s = rnnx.update_parameters_with_adamw(parameters, grads, v, s, t=1, weight_decay=0.1)
    >>> parameters["W"].round(4)
    array([[0.9989, 1.0009]])
    """
    return _step(AdamW(learning_rate, beta1, beta2, epsilon, weight_decay), parameters, grads, t, v=v, s=s)


def _step(optimizer: Optimizer, parameters: Named, grads: Named, t: int = 1, **trees: Named) -> Any:
    """Take a step with the state passed and returned as one dict per slot."""
    state: Tree = {}
    check_mapping("parameters", parameters)
    for slot, tree in trees.items():
        check_mapping(slot, tree)
        missing = ["d" + key for key in parameters if "d" + key not in tree]
        if missing:
            origin = "initialize_velocity" if len(trees) == 1 else "initialize_adam"
            raise ValueError(f"`{slot}` must have the keys of {origin}(parameters); missing {missing}")
        state |= {f"{slot}.d{key}": tree["d" + key] for key in parameters}
    new, new_state = optimizer.update(parameters, grads, state, t)
    return new, *(with_prefix(new_state, f"{slot}.") for slot in trees)
