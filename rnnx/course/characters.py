"""The course's character model, with the names and shapes of the assignment. See `rnnx.course`."""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from rnnx import functional
from rnnx._core.checks import Shape, check_size, integer
from rnnx._core.inputs import host_array
from rnnx.cells.rnn import RNN
from rnnx.cells.vocabulary import array_ops
from rnnx.course.arguments import (
    as_floats,
    as_usual,
    check_writeable,
    count_steps,
    indices,
    pick,
    pick_gradients,
    unpack,
)
from rnnx.course.passes import Pass, backward_pass, forward_pass
from rnnx.functional.activations import softmax

_STAGE, _OPS = RNN.stages[0], array_ops(np)

Parameters = MutableMapping[str, np.ndarray]
Steps = Mapping[int, np.ndarray]  # from step to column (n, 1)
Cache = tuple[Steps, Steps, Steps]  # probabilities, hidden states (from step -1), inputs


class Rows(Steps):
    """The rows of an array, as columns (n, 1) by step; made when asked for."""

    def __init__(self, array: np.ndarray, first: int = 0) -> None:
        self.array, self.steps = array, range(first, first + len(array))

    def __getitem__(self, t: int) -> np.ndarray:
        if t not in self.steps:
            raise KeyError(t)
        return self.array[t - self.steps[0]][:, None]

    def __iter__(self) -> Iterator[int]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def initialize_parameters(n_a: int, n_x: int, n_y: int) -> dict[str, np.ndarray]:
    """Initialize the character model as the assignment does: 0.01 times the normal numbers of NumPy's seed 1.

    The values equal the assignment's. The global random state of NumPy stays as it is.

    Parameters
    ----------
    n_a, n_x, n_y : int
        Numbers of hidden units, inputs and outputs.

    Returns
    -------
    dict of str to array, float64
        Wax, Waa, Wya, b, by.

    See Also
    --------
    rnn_forward, rnnx.initialize_parameters

    Examples
    --------
    >>> from rnnx.course import initialize_parameters
    >>> parameters = initialize_parameters(n_a=5, n_x=27, n_y=27)
    >>> {key: array.shape for key, array in parameters.items()}
    {'Wax': (5, 27), 'Waa': (5, 5), 'Wya': (27, 5), 'b': (5, 1), 'by': (27, 1)}
    >>> round(float(parameters["Wax"][0, 0]), 6)  # 0.01 times the first normal number of the seed 1
    0.016243
    """
    n_a, n_x, n_y = (integer(name, n) for name, n in (("n_a", n_a), ("n_x", n_x), ("n_y", n_y)))
    check_size((n_a, max(n_a, n_x, n_y)), n_a=n_a, n_x=n_x, n_y=n_y)
    random = np.random.RandomState(1)
    weights = {"Wax": (n_a, n_x), "Waa": (n_a, n_a), "Wya": (n_y, n_a)}
    parameters = {key: random.randn(*shape) * 0.01 for key, shape in weights.items()}
    return {**parameters, "b": np.zeros((n_a, 1)), "by": np.zeros((n_y, 1))}


@np.errstate(under="ignore")
def rnn_step_forward(
    parameters: Mapping[str, np.ndarray], a_prev: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Run one step of the character model.

    Parameters
    ----------
    parameters : dict of str to array
    a_prev : array, shape (n_a, 1)
    x : array, shape (n_x, 1)

    Returns
    -------
    a_next : array, shape (n_a, 1)
    p_t : array, shape (n_y, 1)
        Probabilities of the next character.

    See Also
    --------
    rnn_forward, rnn_step_backward

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.course import initialize_parameters, rnn_step_forward
    >>> parameters = initialize_parameters(n_a=5, n_x=4, n_y=4)
    >>> a_next, p = rnn_step_forward(parameters, np.zeros((5, 1)), np.array([[0.0], [1.0], [0.0], [0.0]]))
    >>> a_next.shape, p.round(2).ravel()  # untrained: every character is as likely
    ((5, 1), array([0.25, 0.25, 0.25, 0.25]))
    """
    a_prev, x, Wax, Waa, Wya, b, by = unpack(parameters, a_prev=a_prev, x=x)
    (a_next,), _ = _STAGE.forward(_OPS, (Wax @ x + b,), (Waa @ a_prev,), (a_prev,))
    return a_next, softmax(Wya @ a_next + by)


@np.errstate(under="ignore")
def rnn_step_backward(
    dy: np.ndarray,
    gradients: Parameters,
    parameters: Mapping[str, np.ndarray],
    x: np.ndarray,
    a: np.ndarray,
    a_prev: np.ndarray,
) -> Parameters:
    """Go back through one step; add to the gradients in place.

    Parameters
    ----------
    dy : array, shape (n_y, 1)
        Gradient of the loss with respect to the logits of the step.
    gradients : dict of str to array
        dWax, dWaa, dWya, db, dby, and da_next (n_a, 1): the gradient that arrives from the step after.
    parameters : dict of str to array
    x, a, a_prev : array, shape (n_x, 1), (n_a, 1), (n_a, 1)
        Input, new and previous hidden state of the step.

    Returns
    -------
    dict of str to array
        `gradients`, whose da_next is now that of the step before.

    See Also
    --------
    rnn_backward, rnn_step_forward

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.course import initialize_parameters, rnn_step_backward, rnn_step_forward
    >>> parameters = initialize_parameters(n_a=5, n_x=4, n_y=4)
    >>> x, a_prev = np.array([[0.0], [1.0], [0.0], [0.0]]), np.zeros((5, 1))
    >>> a, p = rnn_step_forward(parameters, a_prev, x)
    >>> gradients = {f"d{key}": np.zeros_like(array) for key, array in parameters.items()}
    >>> gradients["da_next"] = np.zeros((5, 1))
    >>> dy = p - np.array([[1.0], [0.0], [0.0], [0.0]])  # the character 0 was right
    >>> gradients = rnn_step_backward(dy, gradients, parameters, x, a, a_prev)
    >>> bool((gradients["dby"] == dy).all()), gradients["da_next"].shape
    (True, (5, 1))
    """
    columns = {"dy": dy, "x": x, "a": a, "a_prev": a_prev, **pick("gradients", gradients, ("da_next",))}
    dy, x, a, a_prev, da_next, _, Waa, Wya, _, _ = unpack(parameters, **columns)
    check_writeable(pick_gradients(gradients, parameters)[1])
    (dz,), _, _ = _STAGE.backward(_OPS, (Wya.T @ dy + da_next,), (a_prev,), (a,), ())
    for key, d in {"Wya": dy @ a.T, "by": dy, "Wax": dz @ x.T, "Waa": dz @ a_prev.T, "b": dz}.items():
        gradients["d" + key] += d
    gradients["da_next"] = Waa.T @ dz
    return gradients


def rnn_forward(x: Any, *args: Any, **options: Any) -> Any:
    """Run an RNN over a sequence, with the signature of either assignment.

    * ``rnn_forward(x, a0, parameters)`` with x of shape (n_x, m, T_x) is `rnnx.rnn_forward`.
    * ``rnn_forward(X, Y, a0, parameters, vocab_size=27)`` with a list of T indices is that of the character model.

    Parameters
    ----------
    X : sequence of int or None
        Characters, from 0 to vocab_size - 1. None is a vector of zeros, the input of the first step.
    Y : sequence of int
        The character that follows each one of `X`.
    a0 : array, shape (n_a, 1)
    parameters : dict of str to array
    vocab_size : int

    Returns
    -------
    loss : float
        The sum of the cross-entropies of the T steps.
    cache : tuple
        Dicts from step to array: the probabilities (n_y, 1), the hidden states (n_a, 1) from step -1, which is `a0`,
        and the one-hot inputs (n_x, 1).

    Raises
    ------
    ValueError
        If a character is not in the vocabulary, `X` and `Y` differ in length, or a key or a shape is wrong.

    See Also
    --------
    rnn_backward, rnn_step_forward, rnnx.rnn_forward

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.course import initialize_parameters, rnn_forward
    >>> parameters = initialize_parameters(n_a=5, n_x=4, n_y=4)
    >>> loss, (y_hat, a, x) = rnn_forward([None, 2, 1], [2, 1, 0], np.zeros((5, 1)), parameters, vocab_size=4)
    >>> print(f"{loss:.2f}, {y_hat[0].sum():.2f}")  # about 3 log(4); probabilities
    4.16, 1.00
    >>> x[0].ravel(), x[1].ravel()  # None is no character, 2 a one-hot vector
    (array([0., 0., 0., 0.]), array([0., 0., 1., 0.]))
    """
    if _is_array_of_sequences(x):
        return functional.rnn_forward(x, *args, **options)
    return _characters_forward(x, *args, **options)


def rnn_backward(da: Any, *args: Any, **options: Any) -> Any:
    """Compute the gradients of `rnn_forward`, with the signature of either assignment.

    * ``rnn_backward(da, caches)`` with da of shape (n_a, m, T) is `rnnx.rnn_backward`.
    * ``rnn_backward(X, Y, parameters, cache)`` is that of the character model.

    Parameters
    ----------
    X, Y, parameters, cache
        As passed to and returned by `rnn_forward`.

    Returns
    -------
    gradients : dict of str to array
        dWax, dWaa, dWya, db, dby, and da_next (n_a, 1), the gradient with respect to `a0`.
    a : dict of int to array, shape (n_a, 1)
        The hidden states of the cache.

    See Also
    --------
    rnn_forward, rnn_step_backward, rnnx.rnn_backward

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.course import initialize_parameters, rnn_backward, rnn_forward
    >>> parameters, X, Y = initialize_parameters(n_a=5, n_x=4, n_y=4), [None, 2, 1], [2, 1, 0]
    >>> loss, cache = rnn_forward(X, Y, np.zeros((5, 1)), parameters, vocab_size=4)
    >>> gradients, a = rnn_backward(X, Y, parameters, cache)
    >>> gradients["dWya"].shape, len(a)  # a has the states 0 to 2, and -1 for the initial one
    ((4, 5), 4)
    """
    if _is_array_of_sequences(da):
        return functional.rnn_backward(da, *args, **options)
    return _characters_backward(da, *args, **options)


def _is_array_of_sequences(x: Any) -> bool:
    return getattr(x, "ndim", 1) > 1


def _characters_forward(
    X: Sequence[int | None],
    Y: Sequence[int],
    a0: np.ndarray,
    parameters: Mapping[str, np.ndarray],
    vocab_size: int = 27,
) -> tuple[float, Cache]:
    loss, (x, states, y, _), _ = forward_pass(X, Y, {"a0": a0}, parameters, vocab_size)
    return loss, (Rows(y), Rows(states, -1), Rows(x))


def _characters_backward(
    X: Sequence[int | None], Y: Sequence[int | None], parameters: Mapping[str, np.ndarray], cache: Cache
) -> tuple[dict[str, np.ndarray], Steps]:
    Wax, Waa, Wya, _, by = unpack(parameters)
    probabilities, a, inputs = cache
    n_steps = count_steps(X, Y)
    if len(inputs) != n_steps:
        raise ValueError(f"`cache` must hold the {n_steps} steps of `X`; got {len(inputs)}")
    x, states, y = _stack(inputs, 0, n_steps), _stack(a, -1, n_steps), _stack(probabilities, 0, n_steps)
    _check_rows("inputs", x.shape, (n_steps, Wax.shape[1]))
    _check_rows("hidden states", states.shape, (n_steps + 1, len(Waa)))
    _check_rows("probabilities", y.shape, (n_steps, len(by)))
    return backward_pass(Waa, Wya, Pass(x, states, y, indices("Y", Y, len(by)))), a


def _check_rows(what: str, actual: Shape, expected: Shape) -> None:
    if actual != expected:
        raise ValueError(f"the {what} in `cache` must have the sizes of `parameters`, {expected}; got {actual}")


def _stack(columns: Steps, first: int, end: int) -> np.ndarray:
    """Return the columns of the steps from `first` to `end` - 1 as rows."""
    if type(columns) is Rows:
        return columns.array
    try:
        rows = [columns[t] for t in range(first, end)]
    except KeyError as error:
        raise ValueError(f"`cache` must hold the steps {first} to {end - 1}; {error} is missing") from None
    return as_usual(as_floats({}, {"cache": host_array("cache", rows)})[0]).reshape(end - first, -1)
