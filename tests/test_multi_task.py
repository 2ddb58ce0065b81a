"""Models with several heads: gradients, weights, scalers, training and checkpoints."""

import types

import numpy as np
import pytest
from problems import TOLERANCE, assert_close, numeric_gradient

from rnnx.data import Batch, Examples, MultiTaskExamples, Scaler
from rnnx.models import Head, MultiTaskModel, SequenceClassifier, SequenceRegressor
from rnnx.optim import SGD, Adam
from rnnx.training import Checkpoint, Trainer, load_checkpoint, save_checkpoint

N, T = 5, 4
LENGTHS = np.array([4, 2, 3, 4, 1])


def heads():
    return {
        "load": Head(2, "gaussian", per_step=True, weight=0.7, target_scaler=Scaler((3.0, -2.0), (2.0, 0.5))),
        "label": Head(3, "cross_entropy", weight=2),
        "tags": Head(2, "multi_label", per_step=True),
        "total": Head(1),
    }


def targets(rng):
    return {
        "load": rng.standard_normal((2, N, T)) * [[[2.0]], [[0.5]]] + [[[3.0]], [[-2.0]]],
        "label": rng.integers(0, 3, N),
        "tags": rng.random((2, N, T)),
        "total": rng.standard_normal((1, N)),
    }


def model_of(**options):
    return MultiTaskModel(2, [3, 4], heads(), seed=0, dtype="float64", **options)


@pytest.mark.parametrize(("bidirectional", "segment_length"), [(False, None), (True, None), (False, 3)])
def test_gradients(bidirectional, segment_length, rng):
    scaler = Scaler((0.5, 1.0), (2.0, 3.0))
    model = model_of(bidirectional=bidirectional, input_scaler=scaler)
    model.set_parameters({name: rng.standard_normal(p.shape) for name, p in model.parameters.items()})
    x = rng.standard_normal((2, N, T))
    data = MultiTaskExamples(
        x, targets(rng), lengths=LENGTHS, weights={"label": rng.random(N), "load": rng.random((N, T))}
    )
    batch = data.extremes()
    step = model.train_step(batch, segment_length=segment_length)
    assert step.loss == pytest.approx(model.loss(batch))
    for name in ("Wy_load", "by_label", "Wy_tags", "Wy_total", *(n for n in model.parameters if "_l0" in n)):
        numeric = numeric_gradient(lambda: model.loss(batch), model.parameters[name])
        assert_close(step.gradients["d" + name], numeric, TOLERANCE["gradient"])
    z, _, cache = model.forward(x, lengths=LENGTHS)
    cotangents = {name: rng.standard_normal(a.shape) for name, a in z.items()}

    def total():
        return sum((model.forward(x, lengths=LENGTHS)[0][name] * d).sum() for name, d in cotangents.items())

    assert_close(model.backward(cotangents, cache)["dx"], numeric_gradient(total, x), TOLERANCE["gradient"])


@pytest.mark.parametrize("segment_length", [None, 1, 2, 3])
@pytest.mark.parametrize("parts", [{}, {"micro_batch_size": 1}, {"micro_batch_size": 3}, {"shards": 2}])
def test_parts_and_segments_are_the_same_step(segment_length, parts, rng):
    """Also of heads that have no terms in some of them; with frozen and averaged parameters."""
    weights = {"label": np.array([0, 0, 1.5, 0, 0]), "load": rng.random((N, T)), "tags": np.zeros(N)}
    data = MultiTaskExamples(rng.standard_normal((2, N, T)), targets(rng), lengths=LENGTHS, weights=weights)
    found = []
    for options in ({}, {"segment_length": segment_length, **parts}):
        trainer = Trainer(model_of(), SGD(0.5), frozen=["bf_l1"], ema=0.9, clip_norm=None, **options)
        losses = [trainer.fit(data, iterations=2, batch_size=N).loss, trainer.evaluate(data, N)]
        found.append((losses, {**trainer.model.parameters, "average": trainer.averaged.parameters["Wy_load"]}))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-12)
    for name, p in found[0][1].items():
        assert_close(found[1][1][name], p, TOLERANCE["oracle"], name)
    assert not np.array_equal(found[0][1]["by_label"], model_of().parameters["by_label"])


def test_the_outputs_of_a_head_without_terms_may_be_anything(rng):
    """Between segments they are those of no example: they may overflow."""
    model = MultiTaskModel(1, 2, {"n": Head(1, "poisson"), "y": Head(1, per_step=True)}, cell="rnn", seed=0)
    for name, value in {"Wf_l0": 0, "Wax_l0": 9, "Waa_l0": 0, "Wy_n": 1e3}.items():
        if name in model.parameters:
            model.parameters[name][:] = value
    x = np.array([[[-1.0, 1, 1, -1]]])
    batch = MultiTaskExamples(x, {"n": np.ones((1, 1)), "y": np.zeros((1, 1, 4))}).extremes()
    whole, parts = (model.train_step(batch, segment_length=k) for k in (None, 3))
    assert parts.loss == pytest.approx(whole.loss)
    assert np.isfinite(parts.gradients["dWy_n"]).all()


def test_each_head_is_a_model_of_its_own(rng):
    """With the same parameters, losses and predictions are those of models with one head."""
    model, own = model_of(), targets(rng)
    x = rng.standard_normal((2, N, T))
    data = MultiTaskExamples(x, own, lengths=LENGTHS)
    total, predictions = 0, model.predict(x, lengths=LENGTHS)
    for name, head in heads().items():
        make = SequenceRegressor if head.loss.kind == "numbers" else SequenceClassifier
        options = {"target_scaler": head.target_scaler} if name == "load" else {}
        of_head = {
            k.partition("_" + name)[0]: p
            for k, p in model.parameters.items()
            if k.startswith(("Wy_", "by_")) and k.endswith("_" + name)
        }
        of_stack = {k: p for k, p in model.parameters.items() if not k.startswith(("Wy_", "by_"))}
        single = make(
            2, [3, 4], head.size, loss=head.loss, per_step=head.per_step, parameters=of_stack | of_head, **options
        )
        total += head.weight * single.loss(Examples(x, own[name], lengths=LENGTHS).extremes())
        assert_close(predictions[name], single.predict(x, lengths=LENGTHS), TOLERANCE["oracle"])
    assert model.loss(data.extremes()) == pytest.approx(total, rel=1e-12)
    assert_close(model.predict(x, lengths=LENGTHS, batch_size=2)["load"], predictions["load"], TOLERANCE["oracle"])
    assert [*model.predict_distribution(x)["load"]] == ["mean", "scale"]


def test_training_and_checkpoints(tmp_path, rng):
    x = rng.standard_normal((1, 60, 6))
    own = {"sum": x.sum(axis=2), "positive": x[0].sum(axis=1) > 0}
    own["sum"][:, 50:] = np.nan
    known = (np.arange(60) < 50) * 1.0
    data = MultiTaskExamples(x, own, weights={"sum": known})
    model = MultiTaskModel(1, 8, {"sum": Head(1), "positive": Head(2, "binary", weight=0.5)}, seed=0)
    trainer = Trainer(model, Adam(0.02))
    before = trainer.evaluate(data, 16)
    trainer.fit(data.take(range(40)), data.take(range(40, 60)), epochs=6, batch_size=8, restore_best=True)
    assert trainer.evaluate(data, 16) < before / 2
    save_checkpoint(tmp_path / "m.safetensors", Checkpoint(model))
    again = load_checkpoint(tmp_path / "m.safetensors").model
    assert (again.heads, again.config) == (model.heads, model.config)
    for name, p in model.predict(x).items():
        np.testing.assert_array_equal(again.predict(x)[name], p)
    scaled = model_of(input_scaler=Scaler((1.0, 2.0), (3.0, 4.0)))
    save_checkpoint(tmp_path / "s.safetensors", Checkpoint(scaled))
    assert load_checkpoint(tmp_path / "s.safetensors").model.config == scaled.config


def test_messages(rng):
    x, own = rng.standard_normal((2, N, T)), targets(rng)
    model, fit = model_of(), Trainer(model_of(), Adam()).fit
    wrong = {**own, "tags": own["tags"] + 1}
    for call, error, message in (
        (lambda: MultiTaskModel(2, 3, {}), TypeError, "`heads` must be a dict of names to heads"),
        (lambda: MultiTaskModel(2, 3, {"a b": Head(1)}), ValueError, "must be an identifier; got 'a b'"),
        (lambda: MultiTaskModel(2, 3, {"a": 1}), TypeError, r"`heads\['a'\]` must be a rnnx.models.Head; got 1"),
        (lambda: MultiTaskModel(2, 3, {"a": Head(3, "binary")}), ValueError, "of the head 'a' needs `size` = 2; got 3"),
        (lambda: MultiTaskModel(2, 3, {"a": Head(3, "nse")}), ValueError, "of the head 'a' needs `per_step` = True"),
        (lambda: MultiTaskModel(2, 3, {"a": Head(1)}, per_step=True), TypeError, "per_step"),
        (lambda: Head(1, weight=0), ValueError, "`weight` must be a positive number"),
        (lambda: Head(1, "hinge"), ValueError, "`loss` must be one of"),
        (lambda: Examples(x, own), TypeError, "several, use `rnnx.data.MultiTaskExamples`"),
        (lambda: MultiTaskExamples(x, own["total"]), TypeError, "`targets` must be a dict of names of heads"),
        (lambda: MultiTaskExamples(x, {"a": [0, 1]}), ValueError, "of the head 'a': `targets` must have shape"),
        (lambda: MultiTaskExamples(x, own, weights={"lod": 1}), ValueError, "no target 'lod'; did you mean 'load'"),
        (
            lambda: fit(MultiTaskExamples(x, wrong), epochs=1),
            ValueError,
            r"`targets\['tags'\]` of the loss 'multi_label'",
        ),
        (
            lambda: fit(MultiTaskExamples(x, {"load": own["load"]}), epochs=1),
            ValueError,
            "must have the names of the heads",
        ),
        (lambda: fit(Examples(x, own["label"]), epochs=1), TypeError, "must be a dict with the names of the heads"),
        (lambda: model.predict(x * np.nan), FloatingPointError, "`inputs` hold nan"),
        (lambda: model.backward({}, model.forward(x)[2]), ValueError, "`dz` must have the names of the heads"),
        (
            lambda: model_of(bidirectional=True).train_step(MultiTaskExamples(x, own).extremes(), segment_length=2),
            ValueError,
            "`segment_length` needs a unidirectional model",
        ),
        (
            lambda: fit(MultiTaskExamples(x, {**own, "total": own["total"] * np.nan}), epochs=1),
            FloatingPointError,
            r"`targets\['total'\]` hold nan",
        ),
    ):
        with pytest.raises(error, match=message):
            call()


def test_a_scale_of_the_loss(rng):
    model = model_of()
    batch = MultiTaskExamples(rng.standard_normal((2, N, T)), targets(rng)).extremes()
    step, scaled = model.train_step(batch), model.train_step(batch, loss_scale=4.0)
    for name, d in step.gradients.items():
        assert_close(scaled.gradients[name], 4 * d, TOLERANCE["oracle"])
    assert model.count(batch) == N
    assert isinstance(batch, Batch)
    own = types.SimpleNamespace(inputs=batch.inputs, targets=batch.targets, lengths=batch.lengths)
    assert (model.count(own), model.loss(own)) == (N, pytest.approx(step.loss))
