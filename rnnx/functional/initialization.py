"""Parameter initialization.

NumPy draws all random numbers in float64, so a seed gives the same parameters in every library and on every device.
"""

from typing import Any

import numpy as np

from rnnx._core.arrays import Array
from rnnx._core.checks import check_library, check_size, choice, generator, integer, real
from rnnx._core.underflow import ignore_underflow
from rnnx._core.words import shown
from rnnx.cells import Cell, cell_of

# Scheme -> distributions of input weights, recurrent weights, head weights and biases
SCHEMES = {
    "course": ("small normal", "small normal", "small normal", "zeros"),
    "keras": ("Glorot uniform", "orthogonal", "Glorot uniform", "zeros"),
    "torch": ("fan-in uniform", "fan-in uniform", "fan-in uniform", "fan-in uniform"),
}
_FORGET_BIAS = {"keras": 1.0}


def _draw(distribution: str, rng: np.random.Generator, shape: tuple[int, int], fan_in: int) -> np.ndarray:
    match distribution:
        case "small normal":
            return 0.01 * rng.standard_normal(shape)
        case "fan-in uniform":
            return rng.uniform(-1, 1, shape) / np.sqrt(fan_in)
        case "Glorot uniform":
            return rng.uniform(-1, 1, shape) * np.sqrt(6 / sum(shape))
        case "orthogonal":
            q, r = np.linalg.qr(rng.standard_normal(shape))
            return q * np.sign(np.diag(r))  # the signs make q uniformly distributed
    return np.zeros(shape)


def initialize_parameters(
    cell: Cell | str,
    n_x: int,
    n_a: int,
    n_y: int | None = None,
    *,
    scheme: str = "keras",
    forget_bias: float | None = None,
    seed: int | np.random.Generator | None = None,
    dtype: str = "float32",
    xp: Any = None,
    device: Any = None,
) -> dict[str, Array]:
    """Initialize the parameters of a cell and, if `n_y` is given, of its output layer.

    Parameters
    ----------
    cell : Cell or str
        "rnn", "lstm", "gru", "gru_reset_after", or your own cell.
    n_x, n_a, n_y : int
        Numbers of inputs, hidden units and outputs. Without `n_y` there is no output layer.
    scheme : {"keras", "torch", "course"}
        * "keras": input and output weights Glorot-uniform (X. Glorot, Y. Bengio, AISTATS 2010), recurrent
          weights orthogonal (A. Saxe et al., arXiv:1312.6120), biases zero, forget bias 1 (R. Jozefowicz et al.,
          ICML 2015). Unlike Keras, each gate is drawn separately.
        * "torch": weights and biases uniform in (-1/sqrt(n_a), 1/sqrt(n_a)).
        * "course": weights 0.01 times standard normal, biases zero.
    forget_bias : float, optional
        Bias of the forget gates (`bf` of an LSTM); default: that of the scheme.
    seed : int or numpy.random.Generator, optional
    dtype : {"float32", "float64"}
    xp : module, optional
        Array namespace of the result, for instance ``cupy``; default NumPy.
    device : object, optional
        Device of the result, a device object of the library.

    Returns
    -------
    parameters : dict of str to array

    Raises
    ------
    ValueError, TypeError
        For an unknown cell, scheme or dtype, or a size that is not a positive integer.
    """
    cell = cell_of(cell)
    n_x, n_a = integer("n_x", n_x), integer("n_a", n_a)
    if n_y is not None:
        check_size((integer("n_y", n_y), n_a), n_y=n_y, n_a=n_a)
    _check_choices(scheme, dtype, xp)
    check_size((n_a, n_a + n_x), n_x=n_x, n_a=n_a)
    forget_bias = _FORGET_BIAS.get(scheme) if forget_bias is None else real("forget_bias", forget_bias)
    rng = generator("seed", seed)
    of_x, of_h, _, of_bias = SCHEMES[scheme]
    values: dict[str, np.ndarray] = {}
    for gate in cell.gates:
        draw = {"x": (of_x, (n_a, n_x)), "h": (of_h, (n_a, n_a))}
        order = "hx" if gate.is_joint else gate.sides  # in the order of the columns
        weights = {side: _draw(draw[side][0], rng, draw[side][1], n_a) for side in order}
        values |= gate.join(np, weights.get("x"), weights.get("h"))
        for bias in filter(None, (gate.bias, gate.recurrent_bias)):
            values[bias] = _draw(of_bias, rng, (n_a, 1), n_a)
        if gate.forgets and gate.bias and forget_bias is not None:
            values[gate.bias] = np.full((n_a, 1), forget_bias)
    for key in cell.parameter_keys:
        if key not in values:
            values[key] = _draw(of_bias, rng, (n_a, 1), n_a)
    for key, value in cell.initial:
        low, high = value if isinstance(value, tuple) else (value, value)
        values[key] = rng.uniform(low, high, (n_a, 1))
    parameters = _convert(values, dtype, xp, device)
    if n_y is not None:
        head = initialize_dense(n_a, n_y, scheme=scheme, seed=rng, dtype=dtype, xp=xp, device=device)
        parameters |= zip(cell.head, head.values(), strict=True)
    return parameters


def initialize_dense(
    n_in: int,
    n_out: int,
    *,
    scheme: str = "keras",
    seed: int | np.random.Generator | None = None,
    dtype: str = "float32",
    xp: Any = None,
    device: Any = None,
) -> dict[str, Array]:
    """Initialize Wy (n_out, n_in) and by (n_out, 1) of a dense layer; options as for `initialize_parameters`."""
    n_in, n_out = integer("n_in", n_in), integer("n_out", n_out)
    _check_choices(scheme, dtype, xp)
    check_size((n_out, n_in), n_in=n_in, n_out=n_out)
    rng = generator("seed", seed)
    *_, of_weights, of_bias = SCHEMES[scheme]
    values = {"Wy": _draw(of_weights, rng, (n_out, n_in), n_in), "by": _draw(of_bias, rng, (n_out, 1), n_in)}
    return _convert(values, dtype, xp, device)


def _check_choices(scheme: str, dtype: str, xp: Any) -> None:
    choice("scheme", scheme, SCHEMES)
    if not isinstance(dtype, str | np.dtype) or dtype not in ("float32", "float64"):
        raise ValueError(f"`dtype` must be 'float32' or 'float64'; got {shown(dtype)}")
    check_library("xp", xp)


@ignore_underflow
def _convert(values: dict[str, np.ndarray], dtype: str, xp: Any, device: Any) -> dict[str, Array]:
    """Convert to a dtype, library and device."""
    target: Any = np if xp is None else xp
    keywords = {} if device is None else {"device": device}
    return {key: target.asarray(value.astype(dtype), **keywords) for key, value in values.items()}
