"""Steps in parts, frozen and averaged parameters, learning-rate range tests, and loggers."""

import sys
import types

import numpy as np
import pytest
from lab import make_trainer
from problems import TOLERANCE, assert_close

from rnnx.data import Examples, Pairs
from rnnx.models import Seq2Seq, SequenceClassifier, SequenceRegressor
from rnnx.optim import SGD, Adam, AdamW
from rnnx.training import (
    MLflowLogger,
    TensorBoardLogger,
    Trainer,
    WandbLogger,
    learning_rate_range,
)

OF_A_MODEL = "parameters", "xp", "dtype", "check", "checked", "count", "train_step", "evaluate_step"


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("kind", ["numbers", "classes"])
def test_a_batch_in_parts_is_the_same_step(kind, per_step, rng):
    """As many examples as steps and targets, so that no axis is told by its size."""
    x, lengths = rng.standard_normal((2, 4, 4)), np.array([4, 2, 3, 1])
    if kind == "classes":
        model = SequenceClassifier(2, 3, 4, per_step=per_step, seed=0, dtype="float64")
        y = rng.integers(0, 4, (4, 4) if per_step else 4)
    else:
        model = SequenceRegressor(2, 3, 4, per_step=per_step, seed=0, dtype="float64")
        y = rng.standard_normal((4, 4, 4) if per_step else (4, 4))
    weights = rng.random((4, 4) if per_step else 4)
    data, results = Examples(x, y, lengths=lengths, weights=weights), []
    for size in (None, 3):
        parameters = {name: p.copy() for name, p in model.parameters.items()}
        own = type(model)(**{**model.config, "parameters": parameters})
        trainer = Trainer(own, SGD(0.1), micro_batch_size=size)
        results.append((trainer.fit(data, iterations=2, batch_size=4).loss, own.parameters))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-12)
    for name, p in results[0][1].items():
        assert_close(results[1][1][name], p, TOLERANCE["oracle"], name)


def test_pairs_in_parts_are_the_same_step():
    """Each part is as long as its longest source and target."""
    pairs = Pairs([[1, 2, 3], [3], [], [2, 2, 1, 1], [1]], [[1], [2, 1, 2], [3, 3], [], [1, 2, 3, 1]], 0)
    results = []
    for parts in ({}, {"micro_batch_size": 2}, {"shards": 4}):
        model = Seq2Seq(4, 4, 3, seed=0, dtype="float64")
        trainer = Trainer(model, SGD(0.5), **parts)
        losses = [trainer.fit(pairs, iterations=2, batch_size=5).loss, trainer.evaluate(pairs, 3)]
        results.append((losses, model.parameters))
    for losses, parameters in results[1:]:
        assert losses == pytest.approx(results[0][0], rel=1e-12)
        for name, p in results[0][1].items():
            assert_close(parameters[name], p, TOLERANCE["oracle"], name)


def test_a_text_in_parts_carries_its_states():
    results = []
    for size in (None, 3):
        corpus, trainer = make_trainer(by="streams")
        trainer.micro_batch_size = size
        trainer.fit(corpus.train, iterations=4, batch_size=8)
        results.append(trainer.counters.smooth_loss)
    assert results[1] == pytest.approx(results[0], rel=1e-5)


@pytest.mark.parametrize("in_place", [True, False])
def test_frozen_parameters_stay(in_place, rng):
    x, y = rng.standard_normal((1, 12, 5)), rng.standard_normal((1, 12))
    model = SequenceRegressor(1, 4, num_layers=2, seed=0)
    before = {name: p.copy() for name, p in model.parameters.items()}
    trainer = Trainer(model, AdamW(0.1), frozen=["*_l0", "by"], in_place=in_place, clip_norm=1.0)
    trainer.fit(Examples(x, y), epochs=3, batch_size=5)
    for name, p in model.parameters.items():
        assert np.array_equal(p, before[name]) == (name.endswith("_l0") or name == "by"), name
    state, arrays = trainer.state()
    assert not [name for name in arrays if "_l0" in name and not name.startswith("state/")]
    again = Trainer(model, AdamW(0.1), frozen=["*_l0", "by"], shuffle=False)
    again.restore(state, arrays)
    step = model.train_step(Examples(x, y).gather(np.arange(5)))
    norm = np.sqrt(sum((d**2).sum() for name, d in step.gradients.items() if name[1:] not in again._frozen))
    assert next(again.run(Examples(x, y), iterations=10, batch_size=5)).grad_norm == pytest.approx(norm)


def test_averaged_parameters(rng):
    x, y = rng.standard_normal((1, 10, 4)), rng.standard_normal((1, 10))
    data, model = Examples(x, y), SequenceRegressor(1, 3, seed=0, dtype="float64")
    trainer, expected = Trainer(model, Adam(0.1), ema=0.5), None
    assert trainer.averaged is model
    for progress in trainer.run(data, data, epochs=5, batch_size=4):
        if not progress.evaluation:
            decay, now = min(0.5, progress.step / (progress.step + 10)), model.parameters["Wy"]
            expected = now.copy() if expected is None else decay * expected + (1 - decay) * now
            assert_close(trainer.averaged.parameters["Wy"], expected, TOLERANCE["oracle"])
        else:
            assert progress.validation_loss == pytest.approx(trainer.averaged.loss(data.gather(np.arange(10))))
    values, arrays = trainer.state()
    again = Trainer(model, Adam(0.1), ema=0.5)
    again.restore(values, arrays)
    np.testing.assert_array_equal(again.averaged.parameters["Wy"], trainer.averaged.parameters["Wy"])
    last = trainer.fit(data, data, epochs=7, batch_size=4, restore_best=True)
    assert model.loss(data.gather(np.arange(10))) == pytest.approx(trainer.counters.best_loss)
    assert last.evaluation


def test_on_a_device_too(rng):
    pytest.importorskip("torch")
    import torch

    x, y = rng.standard_normal((1, 8, 4)), rng.standard_normal((1, 8))
    results = []
    for xp in (None, torch):
        model = SequenceRegressor(1, 3, seed=0, dtype="float64", xp=xp)
        trainer = Trainer(model, Adam(0.1), frozen=["by"], ema=0.9, micro_batch_size=3)
        trainer.fit(Examples(x, y), epochs=2, batch_size=4)
        results.append([np.asarray(trainer.averaged.parameters[name]) for name in ("Wy", "by", "Wf_l0")])
    for a, b in zip(*results, strict=True):
        assert_close(b, a, TOLERANCE["oracle"])


def test_the_range_of_learning_rates(rng):
    x = rng.standard_normal((1, 60, 6))
    data, model = Examples(x, x.sum(axis=2)), SequenceRegressor(1, 6, seed=0)
    before = model.parameters["Wy"].copy()
    found = learning_rate_range(model, data, steps=40, low=1e-5, high=10, batch_size=20)
    assert len(found.rates) == len(found.losses) <= 40
    assert 1e-4 < found.suggestion < 3
    np.testing.assert_array_equal(model.parameters["Wy"], before)
    with pytest.raises(ValueError, match="`high` must be above `low`"):
        learning_rate_range(model, data, low=1, high=0.1)


def test_loggers(rng, monkeypatch):
    logged: list = []
    fake = types.ModuleType("mlflow")
    fake.log_metrics = lambda values, step: logged.append(("mlflow", values, step))
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    board = types.SimpleNamespace(add_scalar=lambda *args: logged.append(("board", *args)))
    run = types.SimpleNamespace(log=lambda values, step: logged.append(("wandb", values, step)))
    data = Examples(rng.standard_normal((1, 6, 3)), rng.standard_normal((1, 6)))
    callbacks = [TensorBoardLogger(board, every=2), MLflowLogger(every=2), WandbLogger(run, every=2)]
    Trainer(SequenceRegressor(1, 2, seed=0), Adam()).fit(data, data, epochs=1, batch_size=2, callbacks=callbacks)
    steps = [entry for entry in logged if entry[0] == "mlflow"]
    assert [(entry[2], sorted(entry[1])) for entry in steps] == [
        (2, ["grad_norm", "learning_rate", "loss"]),
        (3, ["validation_loss"]),
    ]
    names = [entry[1] for entry in logged if entry[0] == "board"]
    assert names == ["loss", "learning_rate", "grad_norm", "validation_loss"]
    assert len([entry for entry in logged if entry[0] == "wandb"]) == 2
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="pip install wandb"):
        WandbLogger()


def test_messages(rng):
    model = SequenceRegressor(1, 2, seed=0)
    for options, error, message in (
        ({"frozen": ["Wf_l1"]}, ValueError, "`frozen`: the model has no parameter 'Wf_l1'; did you mean 'Wf_l0'"),
        ({"frozen": "by"}, TypeError, "`frozen` must be a list"),
        ({"frozen": ["*"]}, ValueError, "must leave a parameter to train"),
        ({"ema": 1.0}, ValueError, "`ema` must be"),
        ({"micro_batch_size": 0}, ValueError, "`micro_batch_size` must be"),
    ):
        with pytest.raises(error, match=message):
            Trainer(model, Adam(), **options)
    own = types.SimpleNamespace(**{name: getattr(model, name) for name in OF_A_MODEL})
    with pytest.raises(TypeError, match="`micro_batch_size` needs a model with the method `part`"):
        Trainer(own, Adam(), micro_batch_size=1).fit(Examples(np.ones((1, 1, 1)), np.ones((1, 1))), epochs=1)
