"""Zoneout and recurrent dropout of models: gradients, reproducible masks, checkpoints, resuming."""

import functools
import json

import numpy as np
import pytest
from lab import make_trainer
from wide_cells import PROJECTION

import rnnx
from rnnx.cells import CELLS
from rnnx.data import Batch, PairBatch
from rnnx.models import CharModel, Recurrent, Seq2Seq, SequenceClassifier, SequenceRegressor
from rnnx.models.masks import Masks
from rnnx.training import Checkpoint, Run, Settings, load_checkpoint, save_checkpoint

OPTIONS = {"zoneout": 0.3, "recurrent_dropout": 0.25}
MASKS = Masks((3, 1))


@pytest.fixture(autouse=True, params=["reference", "cpu"])
def engine(request):
    with rnnx.use_engine(request.param):
        yield request.param


def model_and_batch(kind, cell="lstm", **options):
    """A model in float64 with two layers, and a batch with lengths."""
    rng = np.random.default_rng(0)
    lengths = np.array([6, 4, 1])
    common = {"cell": cell, "dtype": "float64", "seed": 0, "num_layers": 2, "dropout": 0.2, **options}
    indices = rng.integers(0, 5, (3, 6))
    if kind == "characters":
        return CharModel(5, 4, **common), Batch(indices, rng.integers(0, 5, (3, 6)), lengths)
    if kind == "seq2seq":
        pairs = PairBatch(indices, lengths, indices[:, :4], indices[:, 1:5], np.array([4, 3, 1]))
        return Seq2Seq(5, 5, 4, **common), pairs
    x = rng.standard_normal((3, 3, 6))
    if kind == "regressor":
        return SequenceRegressor(3, 4, 2, **common), Batch(x, rng.standard_normal((2, 3)), lengths)
    return SequenceClassifier(3, 4, 2, bidirectional=True, **common), Batch(x, np.array([0, 1, 1]), lengths)


@functools.cache
def numeric_gradients(kind, cell, training):
    """A model, a batch, the loss, and by array a direction and the numeric derivative in it, from the CPU engine."""
    model, batch = model_and_batch(kind, cell, **OPTIONS)

    def loss():
        return model.loss_and_gradients(batch, masks=MASKS if training else None)[0]

    rng, differences = np.random.default_rng(0), []
    with rnnx.use_engine("cpu"):
        for name, array in model.parameters.items():
            kept, direction = array.copy(), rng.choice((-1, 1), array.shape)
            array += 1e-6 * direction
            above = loss()
            array[...] = kept - 1e-6 * direction
            differences.append((name, direction, (above - loss()) / 2e-6))
            array[...] = kept
        return model, batch, loss(), differences


KINDS = ["characters", "classifier", "regressor", "seq2seq"]


@pytest.mark.parametrize("masks", [None, MASKS], ids=["evaluation", "training"])
@pytest.mark.parametrize(
    ("kind", "cell"),
    [
        *((kind, "lstm") for kind in KINDS),
        ("classifier", "gru"),
        *((kind, PROJECTION) for kind in ("characters", "seq2seq")),
        pytest.param("seq2seq", "lem", marks=pytest.mark.slow),
    ],
)
def test_gradients_of_models_with_options(kind, cell, masks):
    model, batch, expected, differences = numeric_gradients(kind, cell, masks is not None)
    loss, gradients = model.loss_and_gradients(batch, masks=masks)
    assert {*gradients} == {"d" + name for name in model.parameters}
    assert model.loss_and_gradients(batch, masks=masks)[0] == loss == pytest.approx(expected, rel=1e-13)
    for name, direction, numeric in differences:
        assert abs(np.sum(gradients["d" + name] * direction) - numeric) < 1e-7, name


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_each_option_acts_in_training_only(kind, option):
    plain, batch = model_and_batch(kind, dropout=0.0)
    model, _ = model_and_batch(kind, dropout=0.0, **{option: 0.5})
    loss = plain.loss(batch)
    assert model.train_step(batch, masks=MASKS).loss != loss
    assert model.train_step(batch, masks=Masks((3, 2))).loss != model.train_step(batch, masks=MASKS).loss
    if option == "recurrent_dropout":
        assert model.loss(batch) == loss  # masks are scaled, so nothing is left in evaluation
    else:
        assert model.loss(batch) != loss  # the expected zoneout


@pytest.mark.parametrize("kind", KINDS)
def test_without_rates_nothing_changes(kind):
    plain, batch = model_and_batch(kind)
    model, _ = model_and_batch(kind, zoneout=[0.0, 0.0], recurrent_dropout=0.0)
    expected, step = plain.train_step(batch, masks=MASKS), model.train_step(batch, masks=MASKS)
    assert step.loss == expected.loss
    for name, value in step.gradients.items():
        np.testing.assert_array_equal(value, expected.gradients[name])
    stack = model.encoder if kind == "seq2seq" else model.stack
    assert stack.regularization.training is stack.regularization.evaluation is CELLS["lstm"]


def test_masks_of_a_layer():
    like = np.zeros((40, 30, 20))
    stack = Recurrent("lstm", 3, 40, zoneout=[0.05, 0.5], recurrent_dropout=0.25)
    ((one,),) = stack.layers
    cell, masks = stack.regularization.run(one, MASKS, like[0], like)
    assert {*cell.inputs} == {*masks}
    a, c, dropped = (masks[name] for name in ("zoneout a", "zoneout c", "dropout 0"))
    assert a.shape == c.shape == dropped.shape == like.shape
    assert abs(a.mean() - 0.05) < 0.01
    assert abs(c.mean() - 0.5) < 0.01
    assert {*np.unique(a)} == {0.0, 1.0}
    np.testing.assert_array_equal(dropped, np.repeat(dropped[:, :, :1], 20, 2))
    np.testing.assert_allclose(np.unique(dropped), [0, 4 / 3])
    assert abs(dropped.mean() - 1) < 0.1
    _, later = stack.regularization.run(one, MASKS.at(7), like[0, :, :13], like)
    np.testing.assert_array_equal(later["zoneout c"], c[:, :, 7:])
    np.testing.assert_array_equal(later["dropout 0"], dropped[:, :, 7:])


def test_expected_zoneout_in_evaluation():
    model, batch = model_and_batch("regressor", "rnn", num_layers=1, dropout=0.0, zoneout=0.25)
    p, a = model.parameters, np.zeros((4, 1))
    for t in range(6):
        new = np.tanh(p["Wax_l0"] @ batch.inputs[:, :1, t] + p["Waa_l0"] @ a + p["ba_l0"])
        a = new + 0.25 * (a - new)
    np.testing.assert_allclose(model.predict(batch.inputs[:, :1]), p["Wy"] @ a + p["by"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_streams_and_segments_have_the_options(cell):
    model, batch = model_and_batch("characters", cell, **OPTIONS)
    logits, states, _ = model.forward(batch.inputs)
    stream = model.stream(3)
    for t in range(6):
        np.testing.assert_allclose(stream.read(batch.inputs[:, t]), logits[:, :, t], rtol=1e-12, atol=1e-12)
    for name, value in stream.states.items():
        np.testing.assert_allclose(value, states[name], rtol=1e-12, atol=1e-12)
    whole, parts = (model.train_step(batch, masks=MASKS, segment_length=n) for n in (None, 4))
    assert abs(whole.loss - parts.loss) < 1e-12
    for name, value in parts.gradients.items():
        np.testing.assert_allclose(value, whole.gradients[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("zoneout", [0.3, (0.1, 0.5)])
@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_hold_the_options(kind, zoneout, tmp_path):
    model, batch = model_and_batch(kind, zoneout=zoneout, recurrent_dropout=0.25)
    json.dumps(model.config)
    save_checkpoint(tmp_path / "model", Checkpoint(model))
    loaded = load_checkpoint(tmp_path / "model").model
    assert loaded.config == model.config
    assert loaded.loss(batch) == model.loss(batch)
    assert loaded.train_step(batch, masks=MASKS).loss == model.train_step(batch, masks=MASKS).loss


@pytest.mark.parametrize("by", ["lines", "streams"])
def test_training_with_options_is_reproducible_and_resumes(by):
    def start():
        return make_trainer(by=by, model=OPTIONS)

    def losses(corpus, trainer, iterations):
        progress = trainer.run(corpus.train, iterations=iterations, batch_size=4)
        return [p.loss for p in progress if not p.evaluation]

    expected = losses(*start(), 8)
    assert losses(*start(), 8) == expected
    corpus, trainer = start()
    first = losses(corpus, trainer, 3)
    values, arrays = trainer.state()
    corpus, again = start()
    again.model.set_parameters(trainer.model.parameters)
    again.restore(values, arrays)
    assert first + losses(corpus, again, 8) == expected


def test_a_run_with_options_resumes(tmp_path):
    text = tmp_path / "names.txt"
    text.write_text("".join(f"abc{'de' * (k % 5)}\n" for k in range(60)))
    options = {"text": str(text), "hidden_size": (8,), "batch_size": 4, "epochs": None, **OPTIONS}
    whole, half = (Settings(iterations=n, **options) for n in (8, 4))
    for folder, settings in (("whole", whole), ("parts", half)):
        for _ in Run.start(tmp_path / folder, settings).train():
            pass
    run = Run.resume(tmp_path / "parts", iterations=8)
    assert run.settings.zoneout == 0.3
    assert run.model.config["recurrent_dropout"] == 0.25
    for _ in run.train():
        pass
    expected = load_checkpoint(tmp_path / "whole").model.parameters
    for name, value in run.model.parameters.items():
        np.testing.assert_array_equal(value, expected[name])


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("rate", [1, -0.1, float("nan"), "0.3", None, True])
def test_wrong_rates(name, rate):
    with pytest.raises((TypeError, ValueError), match=f"`{name}` must"):
        CharModel(5, 4, **{name: rate})


def test_one_rate_per_state():
    with pytest.raises(ValueError, match=r"`zoneout` must be one rate, or one per state \('a', 'c'\) .* got 3 rates"):
        CharModel(5, 4, zoneout=[0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="'mingru' has no recurrent weights"):
        CharModel(5, 4, cell="mingru", recurrent_dropout=0.1)
