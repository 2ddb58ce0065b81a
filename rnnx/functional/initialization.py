"""Parameter initialization.

NumPy draws all random numbers in float64, so a seed gives the same parameters in every library and on every device.
"""

from typing import Any

import numpy as np

from rnnx._core.arrays import Array
from rnnx._core.checks import check_library, check_size, choice, integer, real
from rnnx._core.harmless_errors import ignore_harmless_errors
from rnnx._core.randomness import RNG, generator, takes_rng
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
    """Draw a matrix. Orthogonal ones that are not square are square blocks, one below the other, cut to the shape."""
    match distribution:
        case "small normal":
            return 0.01 * rng.standard_normal(shape)
        case "fan-in uniform":
            return rng.uniform(-1, 1, shape) / np.sqrt(fan_in)
        case "Glorot uniform":
            return rng.uniform(-1, 1, shape) * np.sqrt(6 / sum(shape))
        case "orthogonal":
            rows, columns = shape
            pairs = [np.linalg.qr(rng.standard_normal((columns, columns))) for _ in range(-(-rows // columns))]
            blocks = [q * np.sign(np.diag(r)) for q, r in pairs]  # the signs make q uniformly distributed
            return np.concatenate(blocks)[:rows]
    return np.zeros(shape)


@takes_rng
def initialize_parameters(
    cell: Cell | str,
    n_x: int,
    n_a: int,
    n_y: int | None = None,
    *,
    scheme: str = "keras",
    forget_bias: float | None = None,
    rng: RNG = None,
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
    rng : int, numpy.random.Generator or other seed, optional
        See `numpy.random.default_rng`; also under its older name, `seed`.
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

    See Also
    --------
    rnnx.optim.initialize_adam, warm_up

    Examples
    --------
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("lstm", n_x=3, n_a=5, n_y=2, rng=0)
    >>> parameters["Wf"].shape, parameters["Wy"].shape
    ((5, 8), (2, 5))
    >>> parameters["bf"].ravel()  # the forget gates begin open
    array([1., 1., 1., 1., 1.], dtype=float32)
    """
    cell = cell_of(cell)
    n_x, n_a = integer("n_x", n_x), integer("n_a", n_a)
    if n_y is not None:
        check_size((integer("n_y", n_y), n_a), n_y=n_y, n_a=n_a)
    _check_choices(scheme, dtype, xp)
    check_size((n_a, n_a + n_x), n_x=n_x, n_a=n_a)
    forget_bias = _FORGET_BIAS.get(scheme) if forget_bias is None else real("forget_bias", forget_bias)
    random = generator("rng", rng)
    of_x, of_h, _, of_bias = SCHEMES[scheme]
    values: dict[str, np.ndarray] = {}
    for gate in cell.gates:
        rows = gate.rows(n_a)
        draw = {"x": (of_x, (rows, n_x)), "h": (of_h, (rows, gate.columns(n_a)))}
        order = "hx" if gate.is_joint else gate.sides  # in the order of the columns
        weights = {side: _draw(draw[side][0], random, draw[side][1], n_a) for side in order}
        values |= gate.join(np, weights.get("x"), weights.get("h"))
        for bias in filter(None, (gate.bias, gate.recurrent_bias)):
            values[bias] = _draw(of_bias, random, (rows, 1), n_a)
        if gate.forgets and gate.bias and forget_bias is not None:
            values[gate.bias] = np.full((rows, 1), forget_bias)
    for key in cell.parameter_keys:
        if key not in values:
            values[key] = _draw(of_bias, random, (cell.size(key, n_a), 1), n_a)
    for key, value in cell.initial:
        low, high = value if isinstance(value, tuple) else (value, value)
        values[key] = random.uniform(low, high, values[key].shape)
    parameters = _convert(values, dtype, xp, device)
    if n_y is not None:
        head = initialize_dense(n_a, n_y, scheme=scheme, rng=random, dtype=dtype, xp=xp, device=device)
        parameters |= zip(cell.head, head.values(), strict=True)
    return parameters


@takes_rng
def initialize_dense(
    n_in: int,
    n_out: int,
    *,
    scheme: str = "keras",
    rng: RNG = None,
    dtype: str = "float32",
    xp: Any = None,
    device: Any = None,
) -> dict[str, Array]:
    """Initialize Wy (n_out, n_in) and by (n_out, 1) of a dense layer; options as for `initialize_parameters`."""
    n_in, n_out = integer("n_in", n_in), integer("n_out", n_out)
    _check_choices(scheme, dtype, xp)
    check_size((n_out, n_in), n_in=n_in, n_out=n_out)
    random = generator("rng", rng)
    *_, of_weights, of_bias = SCHEMES[scheme]
    values = {"Wy": _draw(of_weights, random, (n_out, n_in), n_in), "by": _draw(of_bias, random, (n_out, 1), n_in)}
    return _convert(values, dtype, xp, device)


def _check_choices(scheme: str, dtype: str, xp: Any) -> None:
    choice("scheme", scheme, SCHEMES)
    if not isinstance(dtype, str | np.dtype) or dtype not in ("float32", "float64"):
        raise ValueError(f"`dtype` must be 'float32' or 'float64'; got {shown(dtype)}")
    check_library("xp", xp)


@ignore_harmless_errors
def _convert(values: dict[str, np.ndarray], dtype: str, xp: Any, device: Any) -> dict[str, Array]:
    """Convert to a dtype, library and device."""
    target: Any = np if xp is None else xp
    keywords = {} if device is None else {"device": device}
    return {key: target.asarray(value.astype(dtype), **keywords) for key, value in values.items()}
