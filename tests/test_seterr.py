"""A program that asks NumPy to raise errors gets none for harmless underflow, anywhere in the library."""

import numpy as np
import pytest
from lab import make_trainer
from problems import make_problem

import rnnx
from rnnx import course
from rnnx.analysis import NGram
from rnnx.cells import ZOO, Gate, Input, tanh
from rnnx.data import Examples
from rnnx.models import SequenceRegressor
from rnnx.training import Trainer


@pytest.fixture(autouse=True)
def raising():
    with np.errstate(all="raise"):
        yield


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param


SCALES = [1.0, 1e-20, 1e-38, 30.0, 1e3]


def wide(rng, dtype, scale, *shape):
    """Numbers of a scale, some of them far from it."""
    with np.errstate(all="ignore"):
        return (
            rng.standard_normal(shape) * np.array([1, 50, 1e-20, 1e-40]).reshape(-1, *[1] * (len(shape) - 1))
        ).astype(dtype) * np.array(scale, dtype)


def filled(value, dtype, *shape):
    """One number in all places; NumPy 2.0 raises where the number is subnormal in the dtype."""
    with np.errstate(all="ignore"):
        return np.full(shape, value, dtype)


@pytest.mark.parametrize("scale", SCALES)
def test_activations_and_losses(rng, dtype, scale):
    z, dy = wide(rng, dtype, scale, 4, 3, 5), wide(rng, dtype, 1e-10, 4, 3, 5)
    for name in ("sigmoid", "tanh", "relu", "softmax"):
        y = getattr(rnnx, name)(z)
        getattr(rnnx, f"{name}_backward")(dy, y)
    rnnx.softmax_cross_entropy(z, rng.integers(4, size=(3, 5)))
    rnnx.squared_error(z, dy)
    W, b = wide(rng, dtype, scale, 4, 4), np.zeros((4, 1), dtype)
    rnnx.dense_backward(rnnx.dense_forward(z, W, b), z, W)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_cells(rng, dtype, scale, engine, cell):
    with np.errstate(all="ignore"):
        given = rnnx.initialize_parameters(cell, 4, 4, n_y=2, seed=0, dtype=dtype)
        parameters = {key: a * np.array(scale, dtype) for key, a in given.items()}
    x, da = wide(rng, dtype, scale, 4, 2, 6), filled(1e-38, dtype, 4, 2, 6)
    with rnnx.use_engine(engine):
        for lengths in (None, [6, 3]):
            states, _, caches = rnnx.recurrent_forward(cell, x, (), parameters, lengths=lengths)
            rnnx.recurrent_backward(cell, (da,) + (None,) * (len(states) - 1), caches)
        stream = rnnx.Stream(cell, {k: a for k, a in parameters.items() if "y" not in k})
        for t in range(3):
            stream.step(x[:, :1, t])


@pytest.mark.parametrize("engine", ["reference", "cpu"])
@pytest.mark.parametrize("name", ZOO)
def test_nothing_past_an_end_is_an_error(rng, name, engine):
    """Neither a square root of zero in a backward pass nor a division by an input that is zero there."""

    @rnnx.cell
    def divides(x, a, *, g=Gate, e=Input):
        return tanh(g(x, a)) / e

    for cell in (divides, rnnx.CELLS[name]):
        problem = make_problem(cell, rng, lengths=[4, 0, 5])
        with rnnx.use_engine(engine):
            problem.gradients()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_the_functions_of_a_step(rng, dtype, scale, name):
    parameters = rnnx.initialize_parameters(name, 4, 4, n_y=2, seed=0, dtype=dtype)
    x, a = wide(rng, dtype, scale, 4, 2), wide(rng, dtype, 1e-10, 4, 2)
    states = [a] * (2 if name == "lstm" else 1)
    cache = getattr(rnnx, f"{name}_cell_forward")(x, *states, parameters)[-1]
    getattr(rnnx, f"{name}_cell_backward")(*states, cache)


@pytest.mark.parametrize("scale", SCALES)
def test_attention(rng, dtype, scale):
    queries, keys = wide(rng, dtype, scale, 4, 2, 3), wide(rng, dtype, 1.0, 4, 2, 5)
    context, _, cache = rnnx.dot_product_attention_forward(queries, keys, keys)
    rnnx.dot_product_attention_backward(filled(1e-38, dtype, *context.shape), cache)


@pytest.mark.parametrize("scale", SCALES)
def test_updates(rng, dtype, scale):
    parameters = {"W": wide(rng, dtype, 1.0, 4, 3), "b": np.zeros((4, 1), dtype)}
    gradients = {"dW": wide(rng, dtype, scale, 4, 3), "db": filled(1e-38, dtype, 4, 1)}
    for optimizer in (rnnx.SGD(), rnnx.Momentum(), rnnx.RMSProp(), rnnx.Adam(), rnnx.AdamW()):
        state = optimizer.init(parameters)
        for t in (1, 2, 3):
            _, state = optimizer.update(parameters, gradients, state, t)
    rnnx.update_parameters_with_adam(parameters, gradients, *rnnx.initialize_adam(parameters), 1)
    for clip in (rnnx.clip_by_global_norm, rnnx.clip_by_norm, rnnx.clip_by_value):
        clip(gradients, 1.0)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_training_and_sampling(cell):
    corpus, trainer = make_trainer(cell=cell)
    trainer.fit(corpus.train, corpus.validation, epochs=2)
    model = trainer.model
    model.parameters = {name: a * 200 for name, a in model.parameters.items()}
    trainer.evaluate(corpus.validation, 8)
    for options in ({"temperature": 1e-3}, {"top_p": 0.9, "top_k": 3}):
        model.generate(corpus.tokenizer, n=3, seed=0, **options)
    NGram(6, corpus.tokenizer.vocab_size).fit(corpus.train).losses(corpus.validation)


@pytest.mark.parametrize("scale", [1.0, 1e-160])
def test_the_course(rng, scale):
    parameters = {key: a * scale for key, a in course.initialize_parameters(8, 5, 5).items()}
    course.optimize([None, 1, 2, 3], [1, 2, 3, 0], filled(scale, "float64", 8, 1), parameters, 0.01)
    course.sample(parameters, {c: i for i, c in enumerate("\nabcd")}, 0)
    cache = course.rnn_step_forward(parameters, filled(scale, "float64", 8, 1), np.eye(5)[:, :1])
    assert cache


def test_plots_of_a_run(tmp_path, monkeypatch):
    plots = pytest.importorskip("rnnx.plots")
    monkeypatch.setattr("rnnx.plots.style.to_bytes", lambda figure, *_: figure.draw_without_rendering() or b"")
    corpus, trainer = make_trainer()
    records = [item.as_dict() for item in trainer.run(corpus.train, corpus.validation, epochs=1)]
    plots.plot_run(records, trainer.model, corpus.tokenizer, tmp_path, "tritops", dpi=30)


@pytest.mark.parametrize("tiny", [1e-38, 1e-60])
def test_values_too_small_for_float32(tiny):
    """Inputs and settings in float64 become zero or subnormal in a model of float32."""
    inputs, targets = np.ones((2, 4, 5)), np.full((1, 4), tiny)
    inputs[0] = tiny
    dataset = Examples(inputs, targets)
    model = SequenceRegressor(2, 3, num_layers=2, dropout=tiny, seed=0)
    model.predict(inputs)
    trainer = Trainer(model, rnnx.Adam(tiny, epsilon=1e-38), clip_norm=tiny, clip_value=tiny)
    trainer.fit(dataset, dataset, epochs=2, batch_size=2)
    rnnx.initialize_parameters("lstm", 2, 3, forget_bias=tiny)
