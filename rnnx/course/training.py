"""Training and sampling of the course's character model. See `rnnx.course` for dimensions and parameters."""

import io
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from rnnx._core.checks import flag, integer, real
from rnnx.course.arguments import GRADIENTS, KEYS, are_usual, as_floats, pick, pick_gradients, unpack
from rnnx.course.characters import initialize_parameters, rnn_step_forward
from rnnx.course.passes import backward_pass, clip_arrays, forward_pass, update_arrays

MAX_LENGTH = 50  # of a sampled name
_MOST_SEED = 2**32 - 2 * MAX_LENGTH - 1  # so that NumPy accepts the seed of every character
PRINT_EVERY = 2000  # iterations


def clip(gradients: Mapping[str, np.ndarray], maxValue: float) -> dict[str, np.ndarray]:
    """Clip every element of the gradients to [-maxValue, maxValue], in place.

    Parameters
    ----------
    gradients : dict of str to array
        dWax, dWaa, dWya, db, dby; other keys are ignored.
    maxValue : float

    Returns
    -------
    dict of str to array
        The five clipped arrays.

    See Also
    --------
    optimize, rnnx.optim.clip_by_value

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.course import clip
    >>> gradients = {key: np.array([[-12.0, 3.0]]) for key in ("dWax", "dWaa", "dWya", "db", "dby")}
    >>> clip(gradients, maxValue=5)["dWaa"]
    array([[-5.,  3.]])
    """
    limit, clipped = real("maxValue", maxValue, "[0, inf)"), pick("gradients", gradients, GRADIENTS)
    if not are_usual(clipped.values()):
        as_floats({}, clipped)
    clip_arrays(clipped, limit)
    return clipped


def update_parameters(
    parameters: MutableMapping[str, np.ndarray], gradients: Mapping[str, np.ndarray], lr: float
) -> MutableMapping[str, np.ndarray]:
    """Take one step of gradient descent, in place.

    Parameters
    ----------
    parameters, gradients : dict of str to array
    lr : float
        Learning rate.

    Returns
    -------
    dict of str to array
        `parameters`.

    See Also
    --------
    optimize, rnnx.optim.update_parameters_with_sgd

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.course import update_parameters
    >>> parameters = {key: np.ones((1, 1)) for key in ("Wax", "Waa", "Wya", "b", "by")}
    >>> gradients = {f"d{key}": np.array([[5.0]]) for key in parameters}
    >>> update_parameters(parameters, gradients, lr=0.01)["Waa"]
    array([[0.95]])
    """
    update_arrays(*pick_gradients(gradients, parameters), real("lr", lr))
    return parameters


def optimize(
    X: Sequence[int | None],
    Y: Sequence[int | None],
    a_prev: np.ndarray,
    parameters: MutableMapping[str, np.ndarray],
    learning_rate: float = 0.01,
) -> tuple[float, dict[str, np.ndarray], np.ndarray]:
    """Train on one example: forward, backward, gradients clipped to [-5, 5], parameters updated in place.

    Parameters
    ----------
    X, Y : sequence of int
        As for `rnn_forward`; the vocabulary size is that of the parameters.
    a_prev : array, shape (n_a, 1)
    parameters : dict of str to array
    learning_rate : float

    Returns
    -------
    loss : float
    gradients : dict of str to array
        dWax, dWaa, dWya, db, dby.
    a_last : array, shape (n_a, 1)
        The last hidden state.

    See Also
    --------
    rnn_forward, rnn_backward, clip, update_parameters

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.course import initialize_parameters, optimize
    >>> parameters = initialize_parameters(n_a=8, n_x=4, n_y=4)
    >>> a, losses = np.zeros((8, 1)), []
    >>> for _ in range(200):  # the word 2, 1, 3, which ends with the newline 0
    ...     loss, gradients, a = optimize([None, 2, 1, 3], [2, 1, 3, 0], a, parameters, learning_rate=0.1)
    ...     losses.append(loss)
    >>> print(f"{losses[0]:.1f}, {losses[-1]:.1f}")  # from 4 log(4) to nearly none
    5.5, 0.0
    """
    learning_rate = real("learning_rate", learning_rate)
    loss, arrays, (_, Waa, Wya, _, _) = forward_pass(X, Y, {"a_prev": a_prev}, parameters)
    gradients = pick("gradients", backward_pass(Waa, Wya, arrays), GRADIENTS)
    clip_arrays(gradients, 5.0)
    update_arrays(pick("parameters", parameters, KEYS), gradients, learning_rate)
    return loss, gradients, arrays.states[-1][:, None]


@np.errstate(under="ignore")
def sample(parameters: Mapping[str, np.ndarray], char_to_ix: Mapping[str, int], seed: int) -> list[int]:
    r"""Sample a name, as the assignment does: the k-th character is drawn after seeding NumPy with `seed` + 2 k.

    The global random state of NumPy stays as it is.

    Parameters
    ----------
    parameters : dict of str to array
    char_to_ix : dict of str to int
        Must contain the newline character, which ends a name.
    seed : int
        Below 2**32 - 100.

    Returns
    -------
    list of int
        At most 50 characters and the newline.

    See Also
    --------
    get_sample, model, rnnx.models.sample

    Examples
    --------
    >>> from rnnx.course import initialize_parameters, sample
    >>> char_to_ix = {"\n": 0, "a": 1, "b": 2, "c": 3}
    >>> indices = sample(initialize_parameters(n_a=5, n_x=4, n_y=4), char_to_ix, seed=0)
    >>> indices[-1], len(indices) <= 51, set(indices) <= {0, 1, 2, 3}  # a name ends with the newline
    (0, True, True)
    """
    seed, newline = integer("seed", seed, 0, _MOST_SEED), _indices("\n", char_to_ix)[0]
    n_a, vocab_size = unpack(parameters)[0].shape
    indices: list[int] = []
    a, x = np.zeros((n_a, 1)), np.zeros((vocab_size, 1))
    while len(indices) < MAX_LENGTH:
        a, y = rnn_step_forward(parameters, a, x)
        index = int(np.random.RandomState(seed + 2 * len(indices)).choice(vocab_size, p=y.ravel()))
        indices.append(index)
        if index == newline:
            break
        x = np.zeros((vocab_size, 1))
        x[index] = 1
    return [*indices, newline] if len(indices) == MAX_LENGTH else indices


def get_sample(sample_ix: Sequence[int], ix_to_char: Mapping[int, str]) -> str:
    """Return sampled indices as text, the first character in upper case.

    See Also
    --------
    print_sample, sample

    Examples
    --------
    >>> from rnnx.course import get_sample
    >>> get_sample([1, 0, 2], {0: "e", 1: "r", 2: "x"})
    'Rex'
    """
    try:
        text = "".join([ix_to_char[ix] for ix in sample_ix])
    except KeyError as error:
        raise ValueError(f"`ix_to_char` must hold every index of the sample; {error} is missing") from None
    return text[:1].upper() + text[1:]


def _indices(text: str, char_to_ix: Mapping[str, int]) -> list[int]:
    """Return the indices of the characters of a text."""
    try:
        return [char_to_ix[character] for character in text]
    except KeyError as error:
        raise ValueError(
            f"`char_to_ix` must hold every character of the names and the newline; {error} is missing"
        ) from None


def print_sample(sample_ix: Sequence[int], ix_to_char: Mapping[int, str]) -> None:
    r"""Print `get_sample`, without a newline of its own.

    See Also
    --------
    get_sample, sample

    Examples
    --------
    >>> from rnnx.course import print_sample
    >>> print_sample([1, 0, 2, 3], {0: "e", 1: "r", 2: "x", 3: "\n"})
    Rex
    """
    print(get_sample(sample_ix, ix_to_char), end="")


def get_initial_loss(vocab_size: int, seq_length: int) -> float:
    """Return the loss of uniform predictions over `seq_length` characters.

    See Also
    --------
    smooth, model

    Examples
    --------
    >>> from rnnx.course import get_initial_loss
    >>> print(f"{get_initial_loss(vocab_size=27, seq_length=7):.3f}")  # 7 log(27)
    23.071
    """
    return -np.log(1.0 / vocab_size) * seq_length


def smooth(loss: float, cur_loss: float) -> float:
    """Return the exponential moving average of the loss after one more iteration: 0.999 old + 0.001 new.

    See Also
    --------
    get_initial_loss, model

    Examples
    --------
    >>> from rnnx.course import smooth
    >>> loss = 23.0
    >>> for _ in range(1000):
    ...     loss = smooth(loss, 13.0)
    >>> round(loss, 1)  # after 1000 iterations, 1 / e of the way is left
    16.7
    """
    return loss * 0.999 + cur_loss * 0.001


def model(
    data: str | Sequence[str],
    ix_to_char: Mapping[int, str],
    char_to_ix: Mapping[str, int],
    num_iterations: int = 35000,
    n_a: int = 50,
    dino_names: int = 7,
    vocab_size: int = 27,
    verbose: bool = False,
) -> Any:
    r"""Train the character model on names, one per iteration, and print sampled names every 2000 iterations.

    Parameters
    ----------
    data : str or sequence of str
        The whole text, one name per line, as in the older assignment (which reads the names from dinos.txt again), or
        a list of names, as in the newer one.
    ix_to_char, char_to_ix : dict
    num_iterations : int
    n_a : int
        Number of hidden units.
    dino_names : int
        Number of names to sample.
    vocab_size : int
    verbose : bool
        Print the first example, as the newer assignment does.

    Returns
    -------
    parameters : dict of str to array
    last_name : str
        Only if `data` is a list, as in the newer assignment: the last sampled name.

    Raises
    ------
    ValueError
        If there are no names, a character is not in `char_to_ix`, or `vocab_size` is not the number of characters.

    See Also
    --------
    optimize, sample, rnnx.models.CharModel

    Examples
    --------
    >>> from rnnx.course import model
    >>> characters = ["\n", "e", "r", "t", "x"]
    >>> char_to_ix = {character: ix for ix, character in enumerate(characters)}
    >>> parameters = model("rex\ntrex\n", dict(enumerate(characters)), char_to_ix, 20, dino_names=0, vocab_size=5)
    ... # doctest: +ELLIPSIS
    Iteration: 0, Loss: ...
    >>> parameters["Wax"].shape
    (50, 5)
    """
    examples, last_name = _names(data), ""
    if vocab_size != len(char_to_ix):
        raise ValueError(f"`vocab_size` must be the size of `char_to_ix`, {len(char_to_ix)}; got {vocab_size}")
    _indices("".join([*examples, "\n"]), char_to_ix)
    get_sample(range(vocab_size), ix_to_char)
    integer("dino_names", dino_names, 0)
    verbose = flag("verbose", verbose)
    np.random.RandomState(0).shuffle(examples)
    parameters = initialize_parameters(n_a, vocab_size, vocab_size)
    loss, a_prev = get_initial_loss(vocab_size, dino_names), np.zeros((n_a, 1))
    for j in range(integer("num_iterations", num_iterations, 0)):
        index = j % len(examples)
        X, Y = [None, *_indices(examples[index], char_to_ix)], _indices(examples[index] + "\n", char_to_ix)
        if verbose and j in (0, len(examples) - 1, len(examples)):
            _describe(j, index, examples[index], X, Y)
        curr_loss, _, a_prev = optimize(X, Y, a_prev, parameters)
        loss = smooth(loss, curr_loss)
        if j % PRINT_EVERY == 0:
            print(f"Iteration: {j}, Loss: {loss:f}\n")
            for seed in range(dino_names):
                last_name = get_sample(sample(parameters, char_to_ix, seed), ix_to_char)
                print(last_name, end="" if last_name.endswith("\n") else "\n")
            print("\n")
    return parameters if isinstance(data, str) else (parameters, last_name)


def _names(data: str | Sequence[str]) -> list[str]:
    """Return the names in `data`; lines end as in a file."""
    names = list(io.StringIO(data.lower(), newline=None) if isinstance(data, str) else data)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"`data` must be a str or a sequence of str; got an element of type {type(name).__name__}")
    if not names:
        raise ValueError("`data` must contain at least one name")
    return [name.strip() for name in names]


def _describe(j: int, index: int, example: str, X: Sequence[int | None], Y: Sequence[int | None]) -> None:
    """Print an example as the newer assignment does."""
    print("j = ", j, "idx = ", index)
    if j == 0:
        print("single_example_chars", example)
        print("single_example_ix", list(X[1:]))
        print(" X = ", list(X), "\n", "Y =       ", list(Y), "\n")
