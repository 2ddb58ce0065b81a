"""Steps in parts, frozen and averaged parameters, learning-rate range tests, and loggers."""

import sys
import types

import numpy as np
import pytest
from lab import make_trainer
from problems import TOLERANCE, assert_close

from rnnx.data import Examples, PairBatch, Pairs
from rnnx.models import Seq2Seq, SequenceClassifier, SequenceRegressor, Step
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


def test_pairs_without_lengths(rng):
    """They are as long as the batch, whole and in parts."""
    source, target_in, target_out = rng.integers(0, 4, (3, 5, 3))
    found = []
    for lengths in (None, np.full(5, 3)):
        model = Seq2Seq(4, 4, 3, seed=0, dtype="float64")
        batch = PairBatch(source, lengths, target_in, target_out, lengths)
        assert model.count(batch) == 15
        assert isinstance(model.count(batch), int)
        parts = [model.part(model.checked(batch), rows) for rows in (slice(0, 2), slice(2, 5))]
        found.append((model.loss(batch), [model.count(part) for part in parts], sum(map(model.loss, parts))))
    assert found[0][1] == found[1][1] == [6, 9]
    assert found[0][2] == pytest.approx(found[0][0], rel=1e-12)
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)


class OwnBatch:
    """A batch of a model of the user's own, with or without what cutting needs."""

    lengths = None

    def __init__(self, x, size):
        self.x = x
        if size is not None:
            self.size = size


class OwnModel:
    """The sum of squares of the differences between a number and those of a batch."""

    def __init__(self):
        self.parameters, self.xp, self.dtype = {"p": np.zeros(1)}, np, np.dtype("float64")

    def check(self, name, dataset):
        pass

    def checked(self, batch):
        return batch

    def count(self, batch):
        return len(batch.x)

    def part(self, batch, rows):
        return OwnBatch(batch.x[rows], len(batch.x[rows]))

    def evaluate_step(self, batch, *, states=None):
        return float(np.sum((self.parameters["p"] - batch.x) ** 2)), {}

    def train_step(self, batch, *, states=None, masks=None, segment_length=None):
        d = 2 * (self.parameters["p"] - batch.x)
        return Step(self.evaluate_step(batch)[0], {"dp": np.sum(d, keepdims=True)}, {})


class OwnData:
    def __init__(self, sized):
        self.sized = sized

    def __len__(self):
        return 5

    def n_batches(self, batch_size):
        return 1

    def batches(self, batch_size, rng=None, start=0):
        return iter([OwnBatch(np.arange(5.0), 5 if self.sized else None)][start:])


def test_own_batches_are_cut_by_their_size():
    found = []
    for options in ({}, {"micro_batch_size": 2}, {"shards": 3}):
        trainer = Trainer(OwnModel(), SGD(0.01), **options)
        trainer.fit(OwnData(sized=True), epochs=3, batch_size=5)
        found.append(trainer.model.parameters["p"])
    assert found[0] > 0
    for p in found[1:]:
        assert_close(p, found[0], TOLERANCE["oracle"])
    for name in ("micro_batch_size", "shards"):
        trainer = Trainer(OwnModel(), SGD(0.01), **{name: 2})
        with pytest.raises(TypeError, match=f"`{name}` needs batches with the attribute `size`, their number of examp"):
            trainer.fit(OwnData(sized=False), epochs=1, batch_size=5)


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
    for wrong, message in ((np.zeros((1, 1)), "match the model"), (arrays["average/Wy"].astype("float32"), "dtypes")):
        with pytest.raises(ValueError, match=f"the averages in `arrays` must .*{message}"):
            again.restore(values, {**arrays, "average/Wy": wrong})
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
