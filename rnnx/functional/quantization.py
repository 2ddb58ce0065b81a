"""Weights for inference alone: rounded to small formats, and packed once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import choice
from rnnx.cells import Cell, cell_of
from rnnx.functional.shapes import check_parameters


class QuantizedParameters(dict[str, Array]):
    """Parameters whose weights `quantize` has fixed, and rounded to a small format if there is one, for inference only.

    The weights are read-only for good, so that an engine can keep them, packed in their format, from call to call. To
    change weights, call `quantize` again.

    Attributes
    ----------
    weights : str
        The format.

    See Also
    --------
    quantize

    Examples
    --------
    >>> import rnnx
    >>> parameters = rnnx.quantize("lstm", rnnx.initialize_parameters("lstm", n_x=3, n_a=5, rng=0))
    >>> parameters.weights
    'int8'
    """

    def __init__(self, parameters: Mapping[str, Array], weights: str) -> None:
        super().__init__(parameters)
        self.weights = weights

    def __reduce__(self) -> tuple[Any, ...]:
        fixed = [key for key, array in self.items() if not array.flags.writeable]
        return _restored, (dict(self), self.weights, fixed)


def _restored(parameters: dict[str, Array], weights: str, fixed: Sequence[str]) -> QuantizedParameters:
    """Rebuild copied or pickled parameters."""
    return QuantizedParameters(parameters | {key: _fixed(parameters[key]) for key in fixed}, weights)


def _fixed(array: np.ndarray) -> np.ndarray:
    """Return an immutable copy: NumPy makes no array writeable whose memory is that of bytes."""
    return np.ndarray(array.shape, array.dtype, array.tobytes())


def weights_of(parameters: Mapping[str, Array]) -> str:
    """Return the format of weights that `quantize` has fixed; empty for others."""
    return parameters.weights if isinstance(parameters, QuantizedParameters) else ""


def check_trainable(parameters: Mapping[str, Array]) -> None:
    """Raise if the parameters are for inference only."""
    if weights := weights_of(parameters):
        raise ValueError(f"a model quantized to {weights} is for inference only; train the model it came from")


def marked(parameters: dict[str, Array], like: Mapping[str, Array]) -> dict[str, Array]:
    """Return parameters that are some of `like`, or their copies, as quantized if those are."""
    return QuantizedParameters(parameters, like.weights) if isinstance(like, QuantizedParameters) else parameters


def quantize(cell: Cell | str, parameters: Mapping[str, Array], weights: str = "int8") -> QuantizedParameters:
    """Prepare the recurrent and input weights of a cell for inference: round them to a small format, or just fix them.

    The results are float32 arrays like the parameters, and arithmetic with them is in float32. As the weights cannot
    change, the `cpu` engine packs them in the first call only, and it stores them in the small format, so that it reads
    less memory. With ``keep_caches=False``, `recurrent_forward`, `lstm_forward` and their like are faster then if the
    weights are large for the number of examples and steps. Streams always pack once, and gain by small formats. What is
    packed stays in memory beside the arrays, in at most three copies for different numbers of examples. Biases, vectors
    of parameters and the output layer stay as they are. Of a model, use `Model.quantized`.

    Parameters
    ----------
    cell : Cell or str
        Your own cell, or the name of one in ``rnnx.CELLS``.
    parameters : dict of str to array
        NumPy arrays of float32, as in `recurrent_forward`.
    weights : {"int8", "bfloat16", "float32"}
        "float32": the weights as they are, for results with the same bits. "bfloat16": numbers with 8 significant bits,
        rounded to nearest. "int8": integers from -127 to 127 times one scale per row of the recurrent and of the input
        weights, 1/127 of its largest magnitude, rounded up to 17 significant bits.

    Returns
    -------
    QuantizedParameters
        A dict with copies of all parameters, of which the weights are read-only for good.

    Raises
    ------
    ValueError, TypeError
        As for `recurrent_forward`; if the format is unknown, the arrays are of another library or dtype, or weights
        to round to int8 are not finite.

    See Also
    --------
    Stream, QuantizedParameters

    Examples
    --------
    >>> import numpy as np, rnnx
    >>> parameters = rnnx.initialize_parameters("lstm", n_x=3, n_a=5, rng=0)
    >>> stream = rnnx.Stream("lstm", rnnx.quantize("lstm", parameters, "int8"))
    >>> stream.step(np.ones((3, 1), np.float32)).shape
    (5, 1)
    """
    cell = cell_of(cell)
    rounded = FORMATS[choice("weights", weights, FORMATS)]
    _, n_a = check_parameters(cell, parameters)
    for key, array in parameters.items():
        if not ns.is_on_host(array):
            raise TypeError(f"`parameters` must be NumPy arrays, as only their engine packs once; got {key!r}")
        if array.dtype != np.float32:
            raise TypeError(f"`parameters` must be float32, to be stored as {weights}; {key!r} is {array.dtype}")
    found = {key: np.array(array) for key, array in parameters.items()}
    for gate in cell.gates:
        for key in gate.weights if weights == "int8" else ():
            if not np.isfinite(found[key]).all():
                raise ValueError(f"`parameters` must be finite, to be rounded to {weights}; {key!r} is not")
        w_x, w_h = gate.split(found, n_a)
        own = gate.join(np, *(w if w is None else rounded(w) for w in (w_x, w_h)))
        found |= {key: _fixed(w) for key, w in own.items()}
    return QuantizedParameters(found, weights)


def _bfloat16(w: np.ndarray) -> np.ndarray:
    """Round to numbers whose low 16 bits are zero, to nearest, ties to even."""
    bits = np.array(w).view(np.uint32)
    up = bits + 0x7FFF + (bits >> 16 & 1)
    return (np.where(np.isnan(w), bits | 1 << 22, up) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _int8(w: np.ndarray) -> np.ndarray:
    """Round each row to multiples of a scale, up to 127 of them."""
    scale = int8_scales(w)
    return np.rint(w / scale) * scale


def int8_scales(w: np.ndarray) -> np.ndarray:
    """Return the scale of each row, (rows, 1).

    It has 17 significant bits, so that its multiples are exact, and rounding again changes nothing.
    """
    largest = np.abs(w).max(axis=1, keepdims=True)
    bits = (largest / np.float32(127)).view(np.uint32)
    return np.maximum((bits + 0x7F & ~np.uint32(0x7F)).view(np.float32), np.finfo(np.float32).tiny)


SMALL: dict[str, Callable[[np.ndarray], np.ndarray]] = {"bfloat16": _bfloat16, "int8": _int8}
FORMATS: dict[str, Callable[[np.ndarray], np.ndarray]] = {**SMALL, "float32": np.array}
