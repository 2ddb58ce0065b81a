"""Losses: gradients, weights, torch's values, and models that are trained with them."""

import math
import shutil

import numpy as np
import pytest
from conftest import NO_COMPILER
from problems import ENGINES_TOLERANCE, TOLERANCE, assert_close, numeric_gradient

import rnnx
from rnnx import losses
from rnnx.data import Batch, Examples, Scaler, class_weights
from rnnx.losses import LOSSES, Loss, Quantile
from rnnx.losses.quantiles import poisson_quantiles, t_quantile, t_quantiles
from rnnx.models import SequenceClassifier, SequenceRegressor
from rnnx.optim import Adam
from rnnx.training import Checkpoint, Trainer, load_checkpoint, save_checkpoint

ALL = [*(loss() for loss in LOSSES.values()), losses.CrossEntropy(0.2), losses.StudentT(3.5), losses.MultiLabel(4)]
N, M, T = 3, 4, 5


class LogCosh(Loss):
    def value(self, ops, y, target):
        d = y - target
        return d + ops.softplus(-2 * d)


class ByHand(LogCosh):
    def gradient(self, ops, y, target):
        return (ops.tanh(y - target),)


def problem(loss, rng, n=N, dtype="float64"):
    n = 2 if loss.n_outputs(2) == 1 else n
    y = rng.standard_normal((loss.n_outputs(n), M, T)).astype(dtype)
    if loss.kind == "classes":
        return y, rng.integers(0, n, (M, T))
    return y, (rng.random((n, M, T)) if loss.kind == "labels" else rng.exponential(1, (n, M, T))).astype(dtype)


LENGTHS = np.array([5, 3, 0, 4])


@pytest.mark.parametrize("loss", [*ALL, LogCosh(), ByHand()], ids=repr)
def test_gradients(loss, rng):
    y, targets = problem(loss, rng)
    weights = rng.random((M, T)) * (rng.random((M, T)) < 0.7)
    weights[0, 0] = 1
    y[:, weights == 0] = np.nan
    for options in ({}, {"lengths": LENGTHS}, {"weights": weights[:, 0]}, {"weights": weights, "lengths": LENGTHS}):
        given = y if "weights" in options and options["weights"].ndim == 2 else np.nan_to_num(y, nan=0.3)
        value, dy = loss(given, targets, **options)
        numeric = numeric_gradient(lambda: float(loss(given, targets, **options)[0]), given)  # noqa: B023
        assert np.isfinite(value)
        assert_close(dy, np.nan_to_num(numeric), TOLERANCE["gradient"], f"{options}")


FEW = [losses.Quantile(), losses.CrossEntropy(0.2)]  # of several outputs, and of a row


@pytest.mark.parametrize(("engine", "dtype"), [("cpu", "float32"), ("cpu", "float64"), ("emulated", "float32")])
def test_all_engines_compute_the_same(engine, dtype, rng):
    if engine == "emulated" and not shutil.which("g++"):
        pytest.skip(NO_COMPILER)
    for loss in ALL if engine == "cpu" else FEW:
        y, targets = problem(loss, rng, 19, dtype)
        weights = (rng.random((M, T)) * (rng.random((M, T)) < 0.7)).astype(dtype)
        for options in ({}, {"weights": weights, "lengths": LENGTHS}):
            with rnnx.use_engine("reference"):
                wide = targets if loss.kind == "classes" else targets.astype("float64")
                expected = loss(y.astype("float64"), wide, **options)
            with rnnx.use_engine(engine):
                value, dy = loss(y, targets, **options)
            assert dy.dtype == dtype
            tolerance = ENGINES_TOLERANCE[dtype] * (4 if isinstance(loss, losses.StudentT) else 1)
            assert_close(value, expected[0], tolerance, f"{loss} {options}")
            assert_close(dy, expected[1], tolerance, f"{loss} {options}")


@pytest.mark.parametrize("exponent", [-140, 126])
@pytest.mark.parametrize("engine", ["cpu", "reference", "emulated"])
def test_weights_of_any_magnitude(engine, exponent, rng):
    """Only their ratios matter, even if float32 cannot hold their sum, or one over it."""
    if engine == "emulated" and not shutil.which("g++"):
        pytest.skip(NO_COMPILER)
    weights = rng.integers(0, 4, (M, T)).astype("float32")
    for loss in FEW:
        y, targets = problem(loss, rng, 19, "float32")
        with rnnx.use_engine(engine):
            expected = loss(y, targets, weights=weights)
            actual = loss(y, targets, weights=np.ldexp(weights, exponent))
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_gradient_by_hand_is_used(rng):
    y, targets = problem(LogCosh(), rng)
    assert_close(ByHand()(y, targets)[1], LogCosh()(y, targets)[1], TOLERANCE["oracle"])
    assert ByHand().rule.gradient.program.counts()["tanh"] == 1
    with pytest.raises(TypeError, match="must return a tuple of 1 values"):
        type("Wrong", (ByHand,), {"gradient": lambda self, ops, y, target: y})()(y, targets)
    with pytest.raises(ValueError, match="a mean over several"):
        type("Wrong", (Loss,), {"value": lambda self, ops, y, target: ops.mean(y - target)})()(y, targets)
    with pytest.raises(NotImplementedError, match="Loss must define `value"):
        Loss()(y, targets)


def test_torch_has_the_same_losses(rng):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional

    def normal(y, t):
        return -torch.distributions.Normal(y[:N], functional.softplus(y[N:]) + 1e-4).log_prob(t).mean()

    def student(df):
        def value(y, t):
            own = 2 + functional.softplus(y[2 * N :]) if df is None else df
            return (
                -torch.distributions.StudentT(own, y[:N], functional.softplus(y[N : 2 * N]) + 1e-4).log_prob(t).mean()
            )

        return value

    def smoothed(y, t):
        return functional.cross_entropy(y.permute(1, 0, 2), t, label_smoothing=0.2)

    theirs = {
        "squared_error": functional.mse_loss,
        "absolute_error": functional.l1_loss,
        "huber": lambda y, t: functional.huber_loss(y, t, delta=0.7),
        "gaussian": normal,
        "student_t": student(None),
        "poisson": functional.poisson_nll_loss,
        "cross_entropy": smoothed,
        "multi_label": lambda y, t: functional.binary_cross_entropy_with_logits(y, t, pos_weight=torch.tensor(3.0)),
        "binary": lambda y, t: functional.binary_cross_entropy_with_logits(y[0], t.double()),
    }
    options = {
        "huber": {"delta": 0.7},
        "cross_entropy": {"label_smoothing": 0.2},
        "multi_label": {"positive_weight": 3},
    }
    for name, function in [*theirs.items(), ("student_t", student(4.0))]:
        own = {"df": 4.0} if name == "student_t" and function is not theirs[name] else options.get(name, {})
        loss = LOSSES[name](**own)
        y, targets = problem(loss, rng)
        leaf = torch.tensor(y, requires_grad=True)
        value = function(leaf, torch.tensor(targets))
        value.backward()
        found, dy = loss(y, targets)
        assert_close(found, value.item(), TOLERANCE["oracle"], name)
        assert_close(dy, leaf.grad.numpy(), TOLERANCE["oracle"], name)
    weight, (y, targets) = torch.tensor([0.5, 2.0, 1.0]), problem(losses.CrossEntropy(), rng)
    expected = functional.cross_entropy(torch.tensor(y).permute(1, 0, 2), torch.tensor(targets), weight=weight.double())
    weights = class_weights(targets, weight.tolist())
    assert_close(losses.CrossEntropy()(y, targets, weights=weights)[0], expected.item(), TOLERANCE["oracle"])


def test_quantiles_never_cross_and_are_pinball_losses(rng):
    loss, y = Quantile([0.05, 0.3, 0.6, 0.9]), 3 * rng.standard_normal((4 * N, M, T))
    found = np.stack([*loss.describe(np, y).values()])
    assert (np.diff(found, axis=0) > 0).all()
    np.testing.assert_array_equal(loss.predict(np, y), found[2])
    targets = rng.standard_normal((N, M, T))
    each = [rnnx.metrics.pinball_loss(targets, q, level) for q, level in zip(found, loss.quantiles, strict=True)]
    assert_close(loss(y, targets)[0], np.mean(each), TOLERANCE["oracle"])


LEVELS = (0.001, 0.05, 0.3, 0.5, 0.75, 0.99)


@pytest.mark.parametrize("df", [1, 1.3, 2, 2.7, 4, 30, 1000, 99_999, 1e6])
def test_quantiles_of_the_t_distribution(df):
    stats = pytest.importorskip("scipy.stats")
    expected = [stats.t.ppf(q, df) for q in LEVELS]
    np.testing.assert_allclose([t_quantile(q, df) for q in LEVELS], expected, rtol=1e-9, atol=1e-12)
    if df >= 2:
        np.testing.assert_allclose([t_quantiles(q, np.full(1, df))[0] for q in LEVELS], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", [losses.Gaussian(), losses.StudentT(), losses.StudentT(3), Quantile(LEVELS)], ids=repr)
def test_quantiles_of_predictions(loss, rng):
    x = rng.standard_normal((2, 5, 4))
    scaler = Scaler((30.0, -5.0), (100.0, 2.0))
    model = SequenceRegressor(2, 3, 2, loss=loss, target_scaler=scaler, seed=0, dtype="float64")
    found = model.predict_quantiles(x, LEVELS[1:5])
    assert [*found] == ["0.05", "0.3", "0.5", "0.75"]
    values = np.stack([*found.values()])
    assert (np.diff(values, axis=0) > 0).all()
    assert_close(found["0.5"], model.predict(x), TOLERANCE["oracle"])
    assert_close(model.predict_quantiles(x, [0.05], lengths=[4] * 5)["0.05"], values[0], TOLERANCE["oracle"])
    if loss.outputs[0] == "mean":  # of what the model itself says, so many are between two quantiles
        mean, scale, *df = model.predict_distribution(x).values()
        df = df[0] if df else getattr(loss, "df", None)
        draws = rng.standard_normal((20_000, 2, 5)) if df is None else rng.standard_t(df, (20_000, 2, 5))
        low, high = (np.broadcast_to(found[q], draws.shape) for q in ("0.05", "0.75"))
        assert rnnx.metrics.coverage(mean + scale * draws, low, high) == pytest.approx(0.7, abs=0.01)


def test_an_interval_covers_as_much_as_it_says(rng):
    x = rng.standard_normal((1, 400, 5))
    y = (x[:, :, -1] + (0.3 + 0.5 * (x[:, :, 0] > 0)) * rng.standard_normal((1, 400))) * 50 + 7
    model = SequenceRegressor(1, 8, loss="gaussian", target_scaler=Scaler.fit(y), seed=0)
    Trainer(model, Adam(0.02)).fit(Examples(x[:, :200], y[:, :200]), epochs=25)
    low, high = model.predict_quantiles(x[:, 200:], [0.1, 0.9]).values()
    assert 0.7 < rnnx.metrics.coverage(y[:, 200:], low, high) < 0.9


def test_quantiles_of_counts(rng):
    rates = np.concatenate([[0, 1e-300, 0.69, 3, np.inf], 10 ** rng.uniform(-4, 8, 500)])
    found = np.stack([poisson_quantiles(q, rates) for q in LEVELS])
    assert (found[:-1] <= found[1:]).all()
    expected = [0, 0, 0, 3, np.inf]  # the medians; 0.69 is just below log(2)
    np.testing.assert_array_equal(poisson_quantiles(0.5, rates[:5]), expected)
    k = np.arange(60)
    p = np.cumsum([np.exp(j * np.log(7.3) - 7.3 - math.lgamma(j + 1)) for j in k])
    levels = rng.random(200)
    least = [int(np.argmax(p >= q)) for q in levels]
    np.testing.assert_array_equal([poisson_quantiles(q, np.full(1, 7.3))[0] for q in levels], least)
    stats = pytest.importorskip("scipy.stats")
    finite = rates[np.isfinite(rates)]
    for q in (1e-9, 0.01, 0.3, 0.5, 0.9, 0.999):
        np.testing.assert_array_equal(poisson_quantiles(q, finite), stats.poisson.ppf(q, finite))


def test_quantiles_of_counts_at_levels_that_are_probabilities():
    """But for rounding, so that one count more is as good; the search once went to and fro between both."""
    for level, rate, count in [(0.484634629952565, 31.88438819734057, 31), (0.6376088848278513, 2.144578844416115, 2)]:
        assert poisson_quantiles(level, np.full(1, rate))[0] in (count, count + 1)


def test_large_counts_are_learnt_in_their_unit(rng):
    """A network's output begins near 0, and thousands are far from exp(0)."""
    x = rng.standard_normal((1, 200, 6))
    y = rng.poisson(5000 * np.exp(0.3 * x.sum(axis=2))).astype(float)
    scaler = Scaler.fit(y, shift=False)
    assert scaler.mean == (0,)
    assert scaler.scale[0] == pytest.approx(y.mean())
    model = SequenceRegressor(1, 8, loss="poisson", target_scaler=scaler, seed=0)
    Trainer(model, Adam(0.02)).fit(Examples(x, y), epochs=20)
    assert abs(np.log(model.predict(x) / y)).mean() < 0.2
    low, high = model.predict_quantiles(x, [0.1, 0.9]).values()
    assert low.dtype == model.dtype
    assert (low == np.round(low)).all()
    assert (low < model.predict(x)).all()
    assert (model.predict(x) < high).all()


def test_losses_without_quantiles(rng):
    def ask(loss, quantiles=(0.1,)):
        return lambda: SequenceRegressor(1, 2, loss=loss, seed=0).predict_quantiles(object(), quantiles)

    for call, error, message in (
        (ask("huber"), ValueError, "the loss 'huber' has no quantiles, unlike 'quantile', 'gaussian'"),
        (ask("quantile", [0.2]), ValueError, r"must be among those of the loss, \[0.1, 0.5, 0.9\]; got 0.2"),
        (ask(losses.StudentT(0.5)), ValueError, "`df` of the loss must be at least 1 for quantiles; got 0.5"),
        (ask("gaussian", [0.9, 0.1]), ValueError, "`quantiles` must increase"),
        (ask("gaussian", 0.9), TypeError, "`quantiles` must be a sequence"),
        (ask("gaussian", [1]), ValueError, "`quantiles` must be a number in"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_nse_is_one_minus_the_efficiency(rng):
    y, targets = rng.standard_normal((2, 1, M, T))
    steps = [slice(n) for n in (5, 3, 2, 4)]
    ratios = [
        ((y[0, j, s] - targets[0, j, s]) ** 2).sum() / ((targets[0, j, s] - targets[0, j, s].mean()) ** 2).sum()
        for j, s in enumerate(steps)
    ]
    lengths = np.array([s.stop for s in steps])
    expected = np.average(ratios, weights=lengths)
    assert_close(losses.NSE(epsilon=0)(y, targets, lengths=lengths)[0], expected, TOLERANCE["oracle"])
    whole = losses.ESR(epsilon=0)(y[:1, :1], targets[:1, :1])[0]
    assert_close(whole, ((y - targets)[0, 0] ** 2).sum() / (targets[0, 0] ** 2).sum(), TOLERANCE["oracle"])
    with pytest.raises(ValueError, match="needs `per_step` = True"):
        SequenceRegressor(1, 2, loss="nse")


# --- models ------------------------------------------------------------------------------------------------------


def data_for(loss, rng, per_step):
    x = rng.standard_normal((2, 20, 6))
    n = 2
    shape = (20, 6) if per_step else (20,)
    if loss.kind == "classes":
        return x, rng.integers(0, n, shape)
    numbers = rng.random((n, *shape))
    return x, numbers


@pytest.mark.parametrize("loss", [*ALL[:8], *ALL[9:]], ids=repr)
def test_models_have_the_gradients_of_their_loss(loss, rng, tmp_path):
    per_step = not loss.by_step or isinstance(loss, losses.MultiLabel | losses.CrossEntropy)
    x, targets = data_for(loss, rng, per_step)
    make = SequenceRegressor if loss.kind == "numbers" else SequenceClassifier
    model = make(2, 3, 2, loss=loss, per_step=per_step, seed=0, dtype="float64")
    weights = rng.random(20)
    batch = Batch(x, targets, None, weights=weights)
    step, w = model.train_step(batch), model.parameters["Wy"]
    numeric = numeric_gradient(lambda: model.loss(batch), w)
    assert_close(step.gradients["dWy"], numeric, TOLERANCE["gradient"])
    assert model.predict(x).shape == (2, 20, *[6] * per_step)
    if loss.kind == "numbers":
        assert [*model.predict_distribution(x)] == [*loss.outputs]
    elif loss.kind == "classes":
        np.testing.assert_allclose(model.predict(x).sum(axis=0), 1)
    save_checkpoint(tmp_path / "m.safetensors", Checkpoint(model))
    again = load_checkpoint(tmp_path / "m.safetensors").model
    assert again.loss_function.config == model.loss_function.config
    assert again.loss(batch) == model.loss(batch)


def test_a_loss_of_your_own_is_passed_to_load_checkpoint(tmp_path):
    model, path = SequenceRegressor(2, 3, loss=LogCosh(), seed=0), tmp_path / "m.safetensors"
    save_checkpoint(path, Checkpoint(model))
    with pytest.raises(ValueError, match="has a loss of your own, 'LogCosh': pass it to `load_checkpoint` as `loss`"):
        load_checkpoint(path)
    with pytest.raises(ValueError, match="`loss` must have the name 'LogCosh'"):
        load_checkpoint(path, loss=ByHand())
    assert isinstance(load_checkpoint(path, loss=LogCosh()).model.loss_function, LogCosh)
    save_checkpoint(path, Checkpoint(SequenceRegressor(2, 3, loss="huber", seed=0)))
    with pytest.raises(ValueError, match="`loss` must be None, because the model in"):
        load_checkpoint(path, loss=LogCosh())


def test_a_loss_made_of_another_has_a_name_of_its_own(tmp_path):
    class Mine(losses.SquaredError):
        pass

    path = tmp_path / "m.safetensors"
    save_checkpoint(path, Checkpoint(SequenceRegressor(2, 3, loss=Mine(), seed=0)))
    with pytest.raises(ValueError, match="has a loss of your own, 'Mine'"):
        load_checkpoint(path)


def test_classes_past_the_lengths_may_be_anything():
    y, targets = np.zeros((1, 2, 3)), np.array([[0, 1, -1], [1, -1, -1]])
    loss, _ = losses.BinaryCrossEntropy()(y, targets, lengths=[2, 1])
    assert loss == pytest.approx(np.log(2))


def test_scales_below_zero_would_turn_quantiles_round():
    with pytest.raises(ValueError, match="`target_scaler` must have positive scales"):
        SequenceRegressor(2, 3, loss="quantile", target_scaler=Scaler([0], [-1]), seed=0)


def test_weights_of_examples_and_steps(rng):
    """An ignored example is as if it were not there; whole weights repeat examples; and all batch sizes agree."""
    x, y = rng.standard_normal((2, 8, 5)), rng.integers(0, 3, (8, 5))
    lengths = rng.integers(1, 6, 8)
    model = SequenceClassifier(2, 4, 3, per_step=True, seed=0, dtype="float64")
    weights = np.array([1, 0, 2, 1, 0, 3, 1, 1])
    order = np.repeat(np.arange(8), weights)
    trainer = Trainer(model, Adam())
    expected = trainer.evaluate(Examples(x[:, order], y[order], lengths=lengths[order]), 99)
    ignored = np.where(weights[:, None] == 0, -100, y)
    for size in (3, 8):
        given = Examples(x, ignored, lengths=lengths, weights=weights)
        assert trainer.evaluate(given, size) == pytest.approx(expected, rel=1e-12)
    by_step = weights[:, None] * rng.random((8, 5))
    one, many = (trainer.evaluate(Examples(x, ignored, lengths=lengths, weights=by_step), k) for k in (1, 8))
    assert one == pytest.approx(many, rel=1e-12)
    batch = Examples(x, y, lengths=lengths, weights=by_step).gather(np.arange(8))
    whole, parts = (model.train_step(batch, segment_length=k) for k in (None, 2))
    assert parts.loss == pytest.approx(whole.loss, rel=1e-12)
    for name, d in whole.gradients.items():
        assert_close(parts.gradients[name], d, TOLERANCE["oracle"], name)


def test_a_run_with_weights_goes_on_where_it_stopped(rng):
    x, y = rng.standard_normal((1, 12, 4)), rng.standard_normal((1, 12))
    y[0, 3] = np.nan
    data = Examples(x, y, weights=rng.random(12) * (np.arange(12) != 3))
    runs = [Trainer(SequenceRegressor(1, 3, seed=0), Adam(0.01)) for _ in range(3)]
    whole = runs[0].fit(data, epochs=2, batch_size=5)
    runs[1].fit(data, iterations=4, batch_size=5)
    state, arrays = runs[1].state()
    runs[2].model.set_parameters({name: p.copy() for name, p in runs[1].model.parameters.items()})
    runs[2].restore(state, arrays)
    last = runs[2].fit(data, epochs=2, batch_size=5)
    assert runs[2].counters == runs[0].counters
    assert last.loss == whole.loss
    for name, p in runs[0].model.parameters.items():
        np.testing.assert_array_equal(p, runs[2].model.parameters[name])


def test_class_weights():
    np.testing.assert_allclose(class_weights(np.array([[0, 1], [1, 1]])), [[2, 2 / 3], [2 / 3, 2 / 3]])
    assert class_weights([0, 2, -1], {2: 5}).tolist() == [1, 5, 0]
    assert class_weights([True, False], [1, 3]).tolist() == [3, 1]
    sklearn = pytest.importorskip("sklearn.utils.class_weight")
    y = np.array([0, 3, 3, 1, 3])
    np.testing.assert_allclose(class_weights(y), sklearn.compute_sample_weight("balanced", y))


def test_messages(rng):
    x, y = rng.standard_normal((1, 6, 4)), rng.standard_normal((1, 6))
    fit = Trainer(SequenceRegressor(1, 2, loss="poisson", seed=0), Adam()).fit
    for call, error, message in (
        (lambda: SequenceRegressor(1, 2, loss="hinge"), ValueError, "`loss` must be one of .*'huber'"),
        (lambda: SequenceRegressor(1, 2, loss="cross_entropy"), ValueError, "`loss` must be one of"),
        (lambda: SequenceRegressor(1, 2, loss=losses.MultiLabel()), ValueError, "`loss` must be for numbers, such as"),
        (lambda: SequenceRegressor(1, 2, loss=losses.Huber), TypeError, "pass an instance of the class"),
        (lambda: SequenceRegressor(1, 2, loss=3), TypeError, "`loss` must be a rnnx.losses.Loss or one of"),
        (lambda: SequenceClassifier(1, 2, 3, loss="binary"), ValueError, "needs `num_classes` = 2; got 3"),
        (lambda: losses.Huber(0), ValueError, "`delta` must be a positive number"),
        (lambda: Quantile([0.5, 0.1]), ValueError, "`quantiles` must increase"),
        (lambda: Quantile(0.5), TypeError, "`quantiles` must be a sequence"),
        (lambda: losses.CrossEntropy(1), ValueError, "`label_smoothing` must be"),
        (lambda: losses.Gaussian()(x[:, :, :], x), ValueError, "`y` must have shape .* with 2 outputs per target"),
        (lambda: losses.Huber()(x, x[:, :2]), ValueError, "`targets` must have shape"),
        (lambda: losses.Huber()(x, x, weights=-x[0]), ValueError, "`weights` must be finite numbers of at least 0"),
        (lambda: losses.Huber()(x, x, weights=[1, 2]), ValueError, r"`weights` must have shape \(m,\) = \(6,\), or"),
        (lambda: fit(Examples(x, -abs(y)), epochs=1), ValueError, "of the loss 'poisson' must be at least 0; got -"),
        (lambda: Examples(x, y, weights=np.ones((6, 4))), ValueError, r"`weights` must have shape \(n,\) = \(6,\)"),
        (lambda: Examples(x, y, weights=np.full(6, np.nan)), ValueError, "got nan at index"),
        (lambda: class_weights([0, 1, 2], [1, 1]), ValueError, "one number for each of 3 classes; got 2"),
        (lambda: class_weights([0.5]), TypeError, "must hold classes"),
    ):
        with pytest.raises(error, match=message):
            call()
