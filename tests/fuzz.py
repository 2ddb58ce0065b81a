"""Random wrong arguments for the public functions: every answer must be right, or a clear error.

``python tests/fuzz.py 50000 [SEED]`` tries that many calls and prints the faults; tests/test_fuzz.py tries a few.

A call that works is changed in one argument, or in one array of a dict. A *clear error* is a ValueError or TypeError of
one short line that names an argument. A *right answer* equals that of the same call on the converted float64 array.
"""

import collections
import contextlib
import copy
import functools
import inspect
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

import rnnx
from rnnx import analysis, course, models, optim
from rnnx.data import Examples
from rnnx.training import Trainer

N_X, N_A, N_Y, M, T = 3, 4, 2, 5, 6
TOLERANCE = {"float16": 2e-2}
SECONDS = 5  # for one call


class Call(NamedTuple):
    """A call that works; its arguments are arrays, dicts of arrays, or plain values."""

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]


def calls(rng: np.random.Generator) -> list[Call]:
    """Return a working call of every public function on arrays."""

    def array(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape)

    found: list[Call] = []

    def add(function: Callable[..., Any], name: str = "", **arguments: Any) -> Any:
        found.append(Call(name or function.__name__, function, arguments))
        return function(**arguments)

    x, a0, labels = array(N_X, M, T), array(N_A, M), rng.integers(0, N_Y, (M, T))
    for name in ("sigmoid", "tanh", "relu", "softmax"):
        y = add(getattr(rnnx, name), **{first_parameter(getattr(rnnx, name)): array(3, 4)})
        backward = getattr(rnnx, f"{name}_backward")
        add(backward, **dict(zip(inspect.signature(backward).parameters, (array(3, 4), y), strict=False)))
    z = add(rnnx.dense_forward, a=array(N_A, M, T), W=array(N_Y, N_A), b=array(N_Y, 1))
    add(rnnx.dense_backward, dz=array(N_Y, M, T), a=array(N_A, M, T), W=array(N_Y, N_A))
    add(rnnx.softmax_cross_entropy, **pick(rnnx.softmax_cross_entropy, z, labels))
    add(rnnx.squared_error, **pick(rnnx.squared_error, z, array(N_Y, M, T)))
    add(rnnx.one_hot, indices=labels, vocab_size=N_Y)
    for cell in ("rnn", "lstm", "gru"):
        parameters = rnnx.initialize_parameters(cell, N_X, N_A, N_Y, seed=1, dtype="float64")
        forward, backward = getattr(rnnx, f"{cell}_forward"), getattr(rnnx, f"{cell}_backward")
        a, *_, caches = add(forward, x=x, a0=a0, parameters=parameters, lengths=np.array([6, 3, 0, 1, 6]))
        add(backward, da=array(*a.shape), caches=caches)
        states = {"a_prev": a0, "c_prev": array(N_A, M)} if cell == "lstm" else {"a_prev": a0}
        one, one_back = getattr(rnnx, f"{cell}_cell_forward"), getattr(rnnx, f"{cell}_cell_backward")
        *_, cache = add(one, xt=x[:, :, 0], **states, parameters=parameters)
        d_states = {name.replace("prev", "next"): array(N_A, M) for name in states}
        add(one_back, **{f"d{name}": value for name, value in d_states.items()}, cache=cache)
    parameters = rnnx.initialize_parameters("gru_reset_after", N_X, N_A, N_Y, seed=1, dtype="float64")
    (a,), _, caches = add(
        rnnx.recurrent_forward, cell="gru_reset_after", x=x, s0=(a0,), parameters=parameters, lengths=[6, 3, 0, 1, 6],
        keep_caches=True,
    )  # fmt: skip
    add(rnnx.recurrent_backward, cell="gru_reset_after", ds=(array(*a.shape),), caches=caches, consume=False)
    add(rnnx.recurrent_forward, "index inputs", cell="gru_reset_after", x=labels, s0=(a0,), parameters=parameters)
    add(analysis.gate_values, caches=caches)
    add(analysis.gradient_norms, caches=caches, ds_final=array(N_A, M), per_example=False)
    add(stream_steps, cell="gru_reset_after", parameters=parameters, m=M, xt=x[:, :, 0])
    add_settings(add)
    keys, values, queries = array(N_A, M, T), array(N_X, M, T), array(N_A, M, 2)
    _, _, cache = add(rnnx.dot_product_attention_forward, queries=queries, keys=keys, values=values)
    add(rnnx.dot_product_attention_backward, dcontext=array(N_X, M, 2), cache=cache)
    weights = {"Wq": array(2, N_A), "Wk": array(2, N_A), "va": array(2, 1), "ba": array(2, 1)}
    _, _, cache = add(
        rnnx.additive_attention_forward,
        queries=queries,
        keys=keys,
        values=values,
        parameters=weights,
        lengths=[6, 3, 0, 1, 6],
    )
    add(rnnx.additive_attention_backward, dcontext=array(N_X, M, 2), cache=cache, dweights=array(M, 2, T))
    add_optimizers(add, array)
    add_models(add, rng)
    add_course(add, rng)
    return found


def stream_steps(cell: Any, parameters: Any, m: Any, xt: Any) -> Any:
    """Run two steps of a stream."""
    stream = rnnx.Stream(cell, parameters, m=m)
    stream.step(xt)
    return stream.step(xt).copy()


def add_settings(add: Callable[..., Any]) -> None:
    """Add the functions on plain values."""
    add(
        rnnx.initialize_parameters, cell="lstm", n_x=N_X, n_a=N_A, n_y=N_Y, scheme="keras", forget_bias=1.0, seed=0,
        dtype="float64",
    )  # fmt: skip
    schedules = {
        optim.StepDecay: {"initial": 0.1, "every": 3, "factor": 0.5},
        optim.ExponentialDecay: {"initial": 0.1, "rate": 0.9, "every": 3},
        optim.InverseTimeDecay: {"initial": 0.1, "rate": 0.9, "every": 3},
        optim.LinearWarmup: {"then": 0.1, "steps": 5},
        optim.CosineDecay: {"initial": 0.1, "steps": 9, "final": 0.01, "warmup": 2},
    }
    for schedule, options in schedules.items():

        def rate(t: Any, schedule: Any = schedule, **options: Any) -> Any:
            return schedule(**options)(t)

        add(rate, schedule.__name__, t=4, **options)
    add(optim.learning_rate_at, learning_rate=0.1, t=4)


def add_optimizers(add: Callable[..., Any], array: Callable[..., np.ndarray]) -> None:
    """Add the functions on dicts of parameters and gradients."""
    p = {"W": array(3, 2), "b": array(3, 1)}
    grads = {"dW": array(3, 2), "db": array(3, 1)}
    v, s = optim.initialize_adam(p)
    add(optim.initialize_adam, parameters=p)
    add(optim.update_parameters_with_sgd, parameters=p, grads=grads, learning_rate=0.1)
    add(optim.update_parameters_with_momentum, parameters=p, grads=grads, v=v, beta=0.9, learning_rate=0.1)
    add(optim.update_parameters_with_rmsprop, parameters=p, grads=grads, s=s, learning_rate=0.1)
    add(optim.update_parameters_with_adam, parameters=p, grads=grads, v=v, s=s, t=1, learning_rate=0.1)
    add(optim.update_parameters_with_adamw, parameters=p, grads=grads, v=v, s=s, t=1)
    add(optim.clip_by_value, grads=grads, max_value=0.5)
    add(optim.clip_by_norm, grads=grads, max_norm=0.5)
    add(optim.clip_by_global_norm, grads=grads, max_norm=0.5)


def add_models(add: Callable[..., Any], rng: np.random.Generator) -> None:
    """Add `predict` and `fit` of every model, and the datasets on their own."""
    inputs, classes = rng.standard_normal((N_X, M, T)), rng.integers(0, N_Y, M)
    targets, lengths = rng.standard_normal((N_Y, M)), np.array([6, 3, 2, 1, 6])

    def classifier() -> Any:
        return models.SequenceClassifier(N_X, N_A, N_Y, seed=0, dtype="float64")

    def regressor() -> Any:
        return models.SequenceRegressor(N_X, N_A, N_Y, seed=0, dtype="float64")

    def predict_class(inputs: Any, lengths: Any) -> Any:
        return classifier().predict(inputs, lengths=lengths)

    def predict_value(inputs: Any, lengths: Any) -> Any:
        return regressor().predict(inputs, lengths=lengths)

    def fit_classes(inputs: Any, targets: Any, lengths: Any) -> Any:
        model = classifier()
        Trainer(model, optim.SGD(0.1)).fit(Examples(inputs, targets, lengths=lengths), epochs=1, batch_size=2)
        return model.parameters

    def fit_values(inputs: Any, targets: Any, lengths: Any) -> Any:
        model = regressor()
        Trainer(model, optim.SGD(0.1)).fit(Examples(inputs, targets, lengths=lengths), epochs=1, batch_size=2)
        return model.parameters

    def construct(input_size: Any, hidden_size: Any, num_classes: Any, num_layers: Any, dropout: Any, seed: Any) -> Any:
        model = models.SequenceClassifier(
            input_size, hidden_size, num_classes, num_layers, dropout=dropout, seed=seed, dtype="float64"
        )
        return model.parameters

    def characters(vocab_size: Any, hidden_size: Any, num_layers: Any, indices: Any) -> Any:
        return models.CharModel(vocab_size, hidden_size, num_layers, seed=0, dtype="float64").forward(indices)[0]

    def translate(source: Any, source_lengths: Any, max_length: Any) -> Any:
        return (
            models.Seq2Seq(7, 5, 4, seed=0)
            .predict(source, source_lengths=source_lengths, max_length=max_length)
            .indices
        )

    add(predict_class, inputs=inputs, lengths=lengths)
    add(predict_value, inputs=inputs, lengths=lengths)
    add(fit_classes, inputs=inputs, targets=classes, lengths=lengths)
    add(fit_values, inputs=inputs, targets=targets, lengths=lengths)
    add(construct, input_size=N_X, hidden_size=N_A, num_classes=N_Y, num_layers=2, dropout=0.1, seed=0)
    add(characters, vocab_size=7, hidden_size=4, num_layers=1, indices=rng.integers(0, 7, (M, T)))
    add(translate, source=rng.integers(0, 7, (M, T)), source_lengths=lengths, max_length=3)


def first_parameter(function: Callable[..., Any]) -> str:
    """Return the name of a function's first parameter."""
    return next(iter(inspect.signature(function).parameters))


def pick(function: Callable[..., Any], *values: Any) -> dict[str, Any]:
    """Name positional arguments."""
    return dict(zip(inspect.signature(function).parameters, values, strict=False))


def add_course(add: Callable[..., Any], rng: np.random.Generator) -> None:
    """Add the functions of the course's character model. Those that write to their arguments get copies."""
    shapes = {"Wax": (N_A, N_X), "Waa": (N_A, N_A), "Wya": (N_X, N_A), "b": (N_A, 1), "by": (N_X, 1)}
    parameters = {key: rng.standard_normal(shape) for key, shape in shapes.items()}
    a0, x, X, Y = rng.standard_normal((N_A, 1)), rng.standard_normal((N_X, 1)), [0, 2, 1], [2, 1, 0]

    def on_copies(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(**arguments: Any) -> Any:
            with contextlib.suppress(TypeError):  # of what cannot be copied
                arguments = copy.deepcopy(arguments)
            return function(**arguments)

        return wrapper

    def backward(X: Any, Y: Any, parameters: Any, y: Any, a: Any, inputs: Any) -> Any:
        if not all(isinstance(one, np.ndarray) and one.ndim == 2 for one in (y, a, inputs)):
            raise TypeError("`cache` is made of the rows of matrices")
        rows = [dict(enumerate(list(one[:, :, None]), first)) for one, first in ((y, 0), (a, -1), (inputs, 0))]
        return course.rnn_backward(X, Y, parameters, tuple(rows))[0]

    _, cache = course.rnn_forward(X, Y, a0, parameters, N_X)
    y, a, inputs = (np.array([step[:, 0] for step in part.values()]) for part in cache)
    add(backward, X=X, Y=Y, parameters=parameters, y=y, a=a, inputs=inputs)
    gradients = {"d" + key: rng.standard_normal(shape) for key, shape in shapes.items()}
    add(course.rnn_step_forward, parameters=parameters, a_prev=a0, x=x)
    steps = {"dy": x, "gradients": gradients | {"da_next": a0}, "parameters": parameters, "x": x, "a": a0, "a_prev": a0}
    add(on_copies(course.rnn_step_backward), **steps)
    add(on_copies(course.clip), gradients=gradients, maxValue=0.1)
    add(on_copies(course.update_parameters), parameters=parameters, gradients=gradients, lr=0.1)
    add(on_copies(course.optimize), X=X, Y=Y, a_prev=a0, parameters=parameters, learning_rate=0.1)
    add(course.initialize_parameters, n_a=4, n_x=3, n_y=3)


# --- changes ------------------------------------------------------------------------------------------------------


def masked(a: np.ndarray) -> Any:
    return np.ma.masked_array(a, np.arange(a.size).reshape(a.shape) % 3 == 0)


def with_nan(a: np.ndarray) -> Any:
    a = a.astype(float)
    a.reshape(-1)[:1] = np.nan
    return a


# Keep the values, up to their type: an answer, if there is one, must be that of the converted array.
SAME = {
    "int64": lambda a: np.round(3 * a).astype(np.int64),
    "int8": lambda a: np.round(3 * a).astype(np.int8),
    "uint8": lambda a: np.abs(np.round(3 * a)).astype(np.uint8),
    "uint64": lambda a: np.abs(np.round(3 * a)).astype(np.uint64),
    "bool": lambda a: a > 0,
    "float16": lambda a: a.astype(np.float16),
    "float32": lambda a: a.astype(np.float32),
    "longdouble": lambda a: a.astype(np.longdouble),
    "object": lambda a: a.astype(object),
    "big endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "list": lambda a: a.tolist(),
    "transposed memory": lambda a: np.asfortranarray(a),
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: a[::-1].copy()[::-1],
    "read-only": lambda a: np.broadcast_to(a, a.shape),
    "subclass": lambda a: a.view(type("Sub", (np.ndarray,), {})),
}
# Wrong: there may be no answer.
WRONG = {
    "complex": lambda a: a + 1j,
    "text": lambda a: a.astype(str),
    "bytes": lambda a: a.astype("S8"),
    "dates": lambda a: np.round(3 * a).astype("datetime64[D]"),
    "record": lambda a: np.zeros(a.shape, [("x", float)]),
    "masked": masked,
    "extra axis": lambda a: a[None],
    "missing axis": lambda a: a[0] if a.ndim else a,
    "too long": lambda a: np.concatenate([a, a[:1]]),
    "too short": lambda a: a[:-1],
    "longer rows": lambda a: np.concatenate([a, a[..., :1]], axis=-1),
    "empty": lambda a: a[:0],
    "scalar": lambda a: a.dtype.type(0),
    "none": lambda a: None,
    "string": lambda a: "abc",
    "dict": lambda a: {"a": a},
    "set": lambda a: {1, 2},
    "generator": lambda a: (row for row in a),
    "function": lambda a: len,
}
NOT_FINITE = {"nan": with_nan, "inf": lambda a: with_nan(a) * 0 + np.inf, "huge": lambda a: a.astype(float) * 1e300}
PLAIN = [None, "abc", b"1", [], {}, (1,), 1.5, -1, 0, True, np.nan, np.inf, -np.inf, 1j, 10**30, -(10**30), 2**31, len]
PLAIN += [np.float64(0.5), np.int64(2), np.array(1), np.array([1.0, 2.0]), np.datetime64("2020-01-01"), object()]
# No function takes these; the other wrong values are right for some argument, such as None.
NEVER = {"complex", "text", "bytes", "dates", "record", "masked", "string", "dict", "set", "generator", "function"}
MISSING = ["no key", "other key", "extra key"]


def change(value: Any, rng: np.random.Generator) -> tuple[str, Any, Any]:
    """Return a change's kind, the changed argument, and the argument of the call with the right answer, or None."""
    if isinstance(value, np.ndarray):
        kinds = SAME | WRONG | NOT_FINITE
        kind = str(rng.choice(list(kinds)))
        changed = kinds[kind](value)
        if kind not in SAME:
            return kind, changed, None
        floating = value.dtype.kind == "f"
        return kind, changed, np.asarray(changed).astype(np.float64 if floating else np.int64)
    if isinstance(value, Mapping) and all(isinstance(a, np.ndarray) for a in value.values()):
        key = str(rng.choice(list(value)))
        if rng.random() < 0.2:
            kind = str(rng.choice(MISSING))
            rest = {k: a for k, a in value.items() if k != key or kind == "extra key"}
            return kind, rest if kind == "no key" else {**rest, "Other": value[key]}, None
        kind, changed, right = change(value[key], rng)
        return f"{key}: {kind}", {**value, key: changed}, None if right is None else {**value, key: right}
    index = int(rng.integers(len(PLAIN)))
    return repr(PLAIN[index])[:20], PLAIN[index], None


# --- judging ------------------------------------------------------------------------------------------------------


def fault(call: Call, name: str, kind: str, changed: Any, right: Any) -> str | None:
    """Run a changed call; return what is wrong with its answer or error."""
    try:
        with limited():
            answer = call.function(**{**call.arguments, name: changed})
    except (ValueError, TypeError) as error:
        return unclear(call, error)
    except FloatingPointError:
        return None if kind.split(": ")[-1] in NOT_FINITE else "FloatingPointError"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if right is None:
        return "accepted" if kind.split(": ")[-1] in NEVER else None
    expected = flat(call.function(**{**call.arguments, name: right}))
    limit = TOLERANCE.get(kind.split(": ")[-1], 1e-5)
    for ours, theirs in zip(flat(answer), expected, strict=True):
        if ours.shape != theirs.shape or not np.allclose(ours, theirs, rtol=limit, atol=limit, equal_nan=True):
            return "wrong answer"
    return None


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise TimeoutError in a call that takes too long; not on Windows."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def unclear(call: Call, error: Exception) -> str | None:
    """Return an error that names no argument, is raised by another library, or takes more than a line."""
    message = str(error)
    names = {*call.arguments, *(key for a in call.arguments.values() if isinstance(a, Mapping) for key in a)}
    named = any(f"`{name}" in message or repr(name) in message for name in names) or "`" in message
    if named and "\n" not in message and len(message) < 400:
        return None
    return f"unclear {type(error).__name__}: {message[:150]}"


def flat(answer: Any) -> list[np.ndarray]:
    """Return the arrays of an answer, as float64."""
    if isinstance(answer, Mapping):
        return [array for key in sorted(answer) for array in flat(answer[key])]
    if isinstance(answer, tuple | list):
        return [array for item in answer for array in flat(item)]
    return [np.asarray(answer, np.float64)] if isinstance(answer, np.ndarray | float | np.number) else []


def faults(n: int, seed: int) -> collections.Counter[str]:
    """Try n changed calls; return the faults, counted."""
    rng = np.random.default_rng(seed)
    working, found = calls(rng), collections.Counter[str]()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for _ in range(n):
            call = working[int(rng.integers(len(working)))]
            name = str(rng.choice(list(call.arguments)))
            kind, changed, right = change(call.arguments[name], rng)
            problem = fault(call, name, kind, changed, right)
            if problem is not None:
                found[f"{call.name}({name}={kind}): {problem}"] += 1
    return found


def main(faults: Callable[[int, int], collections.Counter[str]], what: str) -> None:
    """Try as many inputs as the command line says; print the faults and exit."""
    counted = faults(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    for text, number in sorted(counted.items()):
        print(f"{number:5} {text}")
    print(f"{sys.argv[1]} {what}, {sum(counted.values())} with a fault of {len(counted)} kinds")
    sys.exit(bool(counted))


if __name__ == "__main__":
    main(faults, "calls")
