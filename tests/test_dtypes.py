"""One rule for dtypes in all public functions, and one check each of flags, seeds, sizes and numbers."""

import numpy as np
import pytest

import rnnx
from rnnx import analysis, optim
from rnnx._core import checks

M, T = 3, 4
PARAMETERS = rnnx.initialize_parameters("lstm", 2, 3, 2, seed=0, dtype="float64")


def integers(*shape):
    return (7 * np.arange(np.prod(shape)) % 11).reshape(shape)


ATTENTION = {"Wq": np.ones((5, 2)), "Wk": np.ones((5, 2)), "va": np.ones((5, 1))}

# Functions of data arrays, each with arrays of integers
FUNCTIONS = {
    **{name: (getattr(rnnx, name), (integers(3, 4),)) for name in ("sigmoid", "tanh", "relu", "softmax")},
    **{
        f"{name}_backward": (getattr(rnnx, f"{name}_backward"), (integers(3, 4), integers(3, 4)))
        for name in ("sigmoid", "tanh", "relu", "softmax")
    },
    "dense_forward": (lambda a: rnnx.dense_forward(a, np.ones((2, 3)) / 3, np.ones((2, 1))), (integers(3, M, T),)),
    "dense_backward": (lambda dz, a: rnnx.dense_backward(dz, a, np.ones((2, 3)) / 3), (integers(2, M), integers(3, M))),
    "cross_entropy": (lambda z: rnnx.softmax_cross_entropy(z, integers(M, T) % 2), (integers(2, M, T),)),
    "squared_error": (rnnx.squared_error, (integers(2, M, T), integers(2, M, T)[::-1])),
    "attention": (rnnx.dot_product_attention_forward, (integers(2, M, 2), integers(2, M, T), integers(2, M, T))),
    "additive": (
        lambda *a: rnnx.additive_attention_forward(*a, ATTENTION),
        (integers(2, M, 2), integers(2, M, T), integers(2, M, T)),
    ),
    "clip_by_value": (lambda g: rnnx.clip_by_value({"dW": g}, 0.5), (integers(3, 4),)),
    "clip_by_norm": (lambda g: rnnx.clip_by_norm({"dW": g}, 0.5), (integers(3, 4),)),
    "clip_by_global_norm": (lambda g: rnnx.clip_by_global_norm({"dW": g}, 0.5), (integers(3, 4),)),
    "stream": (lambda xt: rnnx.Stream("lstm", PARAMETERS, m=M).step(xt), (integers(2, M),)),
    "sgd": (lambda g: rnnx.update_parameters_with_sgd({"W": np.ones((3, 4))}, {"dW": g}), (integers(3, 4),)),
}
NO_NUMBERS = {
    "complex": lambda a: a + 1j,
    "object": lambda a: a.astype(object),
    "text": lambda a: a.astype(str),
    "bytes": lambda a: a.astype("S3"),
    "dates": lambda a: a.astype("datetime64[D]"),
    "times": lambda a: a.astype("timedelta64[s]"),
    "records": lambda a: np.zeros(a.shape, [("x", float)]),
    "masked": lambda a: np.ma.masked_array(a, a > 3),
    "list": lambda a: a.tolist(),
    "none": lambda a: None,
}


def flat(answer):
    """Return the arrays of a result."""
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, tuple | list):
        return [array for item in answer for array in flat(item)]
    return [np.asarray(answer)] if isinstance(answer, np.ndarray | np.generic) else []


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64", "bool"])
def test_integers_become_floats(name, dtype):
    function, arrays = FUNCTIONS[name]
    arrays = [a.astype(dtype) for a in arrays]
    for i in range(len(arrays)):  # one array of integers, and all
        for narrow in (lambda j, i=i: j == i, lambda j: True):
            found = function(*(a if narrow(j) else a.astype(float) for j, a in enumerate(arrays)))
            expected = function(*(a.astype(float) for a in arrays))
            for ours, theirs in zip(flat(found), flat(expected), strict=True):
                assert ours.dtype == theirs.dtype
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_what_holds_no_real_numbers(name, kind):
    function, arrays = FUNCTIONS[name]
    for i in range(len(arrays)):
        wrong = [NO_NUMBERS[kind](a) if j == i else a.astype(float) for j, a in enumerate(arrays)]
        with pytest.raises(TypeError, match=r"^`\w+` must (have dtype|hold real numbers|be an array)"):
            function(*wrong)


def test_integers_take_the_dtype_of_the_floats():
    single = np.ones((3, 4), np.float32)
    assert rnnx.sigmoid_backward(np.ones((3, 4), int), single).dtype == np.float32
    assert rnnx.dense_forward(np.ones((4, 2), np.uint8), single, single[:, :1]).dtype == np.float32
    clipped = rnnx.clip_by_value({"dW": np.array([7], np.int8), "db": single}, 0.5)
    assert [g.dtype for g in clipped.values()] == [np.float32] * 2
    with pytest.raises(TypeError, match="`W` must have dtype float32 or float64; got int64"):
        rnnx.dense_forward(single, np.ones((2, 3), int), np.ones((2, 1)))
    with pytest.raises(TypeError, match="`W` must have dtype float32 or float64; got datetime64"):
        rnnx.initialize_adam({"W": np.zeros(3, "datetime64[s]")})
    with pytest.raises(TypeError, match="`W` must have dtype float32 or float64; got int64"):
        rnnx.update_parameters_with_sgd({"W": np.ones(2, int)}, {"dW": np.ones(2)})


def lstm(**options):
    return rnnx.lstm_forward(np.ones((2, M, T)), None, PARAMETERS, **options)


with rnnx.use_engine("reference"):  # the CPU engine would compile while tests are collected
    CACHES = lstm()[3]
GRADIENTS = {"dW": np.ones(2)}


@pytest.mark.parametrize("value", [3, [3], None, "no", 0.0, np.ones(2)])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("keep_caches", lambda v: lstm(keep_caches=v)),
        ("consume", lambda v: rnnx.lstm_backward(np.ones((3, M, T)), CACHES, consume=v)),
        ("reset_after", lambda v: rnnx.gru_forward(np.ones((2, M, T)), None, {}, reset_after=v)),
        ("scaled", lambda v: rnnx.dot_product_attention_forward(*[np.ones((2, M, T))] * 3, scaled=v)),
        ("per_example", lambda v: analysis.gradient_norms(CACHES, ds_final=np.ones((3, M)), per_example=v)),
        ("in_place", lambda v: optim.SGD().update({"W": np.ones(2)}, GRADIENTS, {}, 1, in_place=v)),
        ("nesterov", lambda v: optim.Momentum(nesterov=v)),
    ],
)
def test_flags(name, call, value):
    with pytest.raises(TypeError, match=f"`{name}` must be True or False; got "):
        call(value)
    assert checks.flag(name, np.bool_(True)) is True


@pytest.mark.parametrize("seed", [1.5, [], True, "1", -1, np.timedelta64(1), len, {}])
def test_seeds(seed):
    with pytest.raises((TypeError, ValueError), match="`seed` must be an integer of at least 0, a numpy"):
        rnnx.initialize_parameters("lstm", 2, 3, seed=seed)


@pytest.mark.parametrize("size", [10**30, 2**63, 2**40, np.timedelta64(3), True, 1.5, "3"])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("n_x", lambda n: rnnx.initialize_parameters("lstm", n, 3)),
        ("n_a", lambda n: rnnx.initialize_parameters("lstm", 3, n)),
        ("n_y", lambda n: rnnx.initialize_parameters("lstm", 3, 2, n)),
        ("vocab_size", lambda n: rnnx.one_hot(np.zeros((2, 3), int), n)),
        ("m", lambda n: rnnx.Stream("lstm", PARAMETERS, m=n)),
    ],
)
def test_sizes(name, call, size):
    with pytest.raises((TypeError, ValueError), match=rf"^`{name}` (must be an integer|= \d+ is too large)"):
        call(size)


@pytest.mark.parametrize(
    "value", [np.datetime64("2020-01-01"), np.datetime64("NaT"), np.timedelta64(1), 1j, np.complex128(1 + 1j), 10**400]
)
def test_numbers(value):
    for name, call in (
        ("max_value", lambda v: rnnx.clip_by_value(GRADIENTS, v)),
        ("learning_rate", lambda v: rnnx.update_parameters_with_sgd({"W": np.ones(2)}, GRADIENTS, v)),
        ("forget_bias", lambda v: rnnx.initialize_parameters("lstm", 2, 3, forget_bias=v)),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^`{name}` must be a "):
            call(value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: rnnx.update_parameters_with_sgd({"W": np.ones(2)}, GRADIENTS, len),
            r"^`learning_rate` must be a number",
        ),
        (lambda: rnnx.clip_by_global_norm([1.0], 1), "^`grads` must be a dict of arrays; got list"),
        (lambda: rnnx.clip_by_global_norm({"dW": [1.0]}, 1), "^`dW` must be an array"),
        (lambda: rnnx.clip_by_value({0: np.ones(2)}, 1), "^`grads` must have strings as keys; got 0"),
        (lambda: rnnx.update_parameters_with_sgd([1], {}), "^`parameters` must be a dict of arrays; got list"),
        (lambda: optim.SGD().update({"W": np.ones(2)}, GRADIENTS, None, 1), "^`state` must be a dict of arrays"),
        (lambda: rnnx.initialize_adam([np.ones(2)]), "^`parameters` must be a dict of arrays"),
        (lambda: rnnx.initialize_parameters("lstm", 2, 3, scheme=[]), "^`scheme` must be one of"),
        (lambda: rnnx.initialize_parameters("lstm", 2, 3, xp="numpy"), "^`xp` must be an array namespace"),
        (lambda: rnnx.one_hot(np.ones(2, int), 3, "int8"), r"^`dtype` must be one of \['float32', 'float64'\]"),
        (lambda: rnnx.one_hot(np.ma.masked_array([1, 2], [0, 1]), 3, xp=np), "^`indices` must be an array"),
        (lambda: rnnx.one_hot([[1], [1, 2]], 3, xp=np), "^`indices` must be an array"),
        (
            lambda: rnnx.recurrent_forward([], np.ones((2, 3, 4)), (), {}),
            "^`cell` must be a Cell, or the name of one in rnnx.CELLS",
        ),
        (lambda: rnnx.softmax_backward(np.array(1.0), np.array(1.0)), r"^`y` must have shape \(n, ...\)"),
        (lambda: rnnx.Stream("lstm", PARAMETERS, m=M).step(np.ones((2, 1))), r"^`xt` must have shape \(n_x, m\)"),
        (lambda: rnnx.gru_cell_backward(np.ones((3, M)), (1,)), "^`cache` of gru must be a tuple of 7 entries"),
    ],
)
def test_messages(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
