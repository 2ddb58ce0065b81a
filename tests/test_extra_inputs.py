"""Inputs besides x: the same for all units, by default, in streams, datasets, models and on the command line."""

import pickle

import numpy as np
import pytest
from lab import ok
from problems import ENGINES_TOLERANCE, TOLERANCE, assert_close, make_problem, numeric_gradient

import rnnx
from rnnx import Gate, Input, Vector, cell
from rnnx.cells import CELLS, exp, sin, tanh
from rnnx.data import Examples, Pairs
from rnnx.models import CharModel, Masks, Seq2Seq, SequenceClassifier, SequenceRegressor
from rnnx.training import Checkpoint, Trainer, load_checkpoint, save_checkpoint


@cell
def timed(x, a, *, g=Gate, gap=Input, v=Vector(0.5)):
    return exp(-v * v * gap) * a + tanh(g(x, a))


@cell
def with_defaults(x, a, *, g=Gate, t=Input("step"), e=Input(0.5), gap=Input):
    return tanh(g(x, a) + sin(t) * gap) * e


def gaps(rng, *shape):
    return rng.uniform(0, 2, shape)


@pytest.mark.parametrize("lengths", [None, [4, 0, 5]])
def test_an_input_for_all_units(engine, lengths, rng):
    """It is that of every unit, and its gradient is the sum of theirs."""
    problem = make_problem(timed, rng, lengths=lengths)
    shared = gaps(rng, 3, 5)
    problem.extra["gap"] = np.tile(shared, (4, 1, 1))
    expected = problem.gradients()
    problem.extra["gap"] = shared
    gradients = problem.gradients()
    assert_close(gradients["dgap"], expected.pop("dgap").sum(axis=0), 1e-13)
    assert_close(gradients.pop("dgap"), numeric_gradient(problem.loss, shared), TOLERANCE["gradient"])
    for name, value in expected.items():
        np.testing.assert_array_equal(gradients[name], value)


def test_defaults(engine, rng):
    problem = make_problem(with_defaults, rng, lengths=[4, 0, 5])
    problem.extra = {"t": np.tile(np.arange(5.0), (3, 1)), "e": np.full((4, 3, 5), 0.5), "gap": gaps(rng, 3, 5)}
    states, _, _ = problem.forward()
    expected = problem.gradients()
    del problem.extra["t"], problem.extra["e"]
    np.testing.assert_array_equal(problem.forward()[0], states)
    gradients = problem.gradients()
    assert {*expected} - {*gradients} == {"dt", "de"}
    for name, value in gradients.items():
        np.testing.assert_array_equal(value, expected[name])


def test_resets_with_defaults(engine, rng):
    """Steps are counted from the beginning of the sequence."""
    problem = make_problem(CELLS["phased_lstm"], rng, n_steps=6)
    p, resets = problem.parameters, np.arange(6) == np.array([[3], [0], [7]])
    (a, _), _, _ = rnnx.recurrent_forward(problem.cell, problem.x, (), p, resets=resets)
    times = np.tile(np.arange(3.0, 6), (3, 1))
    (late, _), _, _ = rnnx.recurrent_forward(problem.cell, problem.x[:, :, 3:], (), p, inputs={"t": times})
    assert_close(a[:, 0, 3:], late[:, 0], ENGINES_TOLERANCE["float64"])


def test_streams_count_their_steps(engine, rng):
    problem = make_problem(with_defaults, rng)
    gap = gaps(rng, 3, 5)
    (a,), _, _ = rnnx.recurrent_forward(with_defaults, problem.x, (), problem.parameters, inputs={"gap": gap})
    stream = rnnx.Stream(with_defaults, problem.parameters, m=3)
    for _ in range(2):
        for t in range(5):
            if t == 2:
                stream = pickle.loads(pickle.dumps(stream))  # the cell is found by its name
            assert_close(stream.step(problem.x[:, :, t], inputs={"gap": gap[:, t]}), a[:, :, t], 1e-13)
        stream.reset()
    with pytest.raises(ValueError, match=r"`gap` must have shape \(n_a, m\) = \(4, 3\) or \(m,\) = \(3,\); got \(5,\)"):
        stream.step(problem.x[:, :, 0], inputs={"gap": np.ones(5)})


def test_errors(rng):
    for wrong in ("steps", True, np.inf, [1.0]):
        with pytest.raises(ValueError, match="`default` of an Input must be a finite number or 'step'; got"):
            Input(wrong)
    problem = make_problem(with_defaults, rng)
    for extra, message in (
        ({}, r"`inputs` must have the keys \['t', 'e', 'gap'\], of which \['t', 'e'\] may be missing, for cell"),
        ({"gap": np.ones((3, 5)), "gaps": 1}, "may be missing"),
        (
            {"gap": np.ones((5, 3))},
            r"`gap` must have shape \(n_a, m, T_x\) = \(4, 3, 5\) or \(m, T_x\) = \(3, 5\); got",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            rnnx.recurrent_forward(with_defaults, problem.x, (), problem.parameters, inputs=extra)


# --- models ----------------------------------------------------------------------------------------------------


def classifier(own=timed, **options):
    return SequenceClassifier(3, 6, 2, cell=own, seed=0, dtype="float64", **options)


def dataset(rng, n=10, lengths=None):
    inputs, targets = rng.standard_normal((3, n, 7)), rng.integers(0, 2, (n,))
    return Examples(inputs, targets, lengths=lengths, extra={"gap": gaps(rng, n, 7)})


def test_every_layer_gets_them(rng):
    model, data = classifier(num_layers=2), dataset(rng)
    x, (_, own), gap = data.inputs, model.stack.layers, data.extra["gap"]
    layers = [one.own(model.parameters) for (one,) in model.stack.layers]
    (a,), _, _ = rnnx.recurrent_forward(timed, x, (), layers[0], inputs={"gap": gap})
    (a,), _, _ = rnnx.recurrent_forward(timed, a, (), layers[1], inputs={"gap": gap})
    _, states, _ = model.forward(x, extra={"gap": gap})
    np.testing.assert_array_equal(states["a" + own[0].suffix], a[:, :, -1])
    np.testing.assert_array_equal(
        model.predict(x, extra=data.extra), model.predict(x, extra={"gap": np.tile(gap, (6, 1, 1)).tolist()})
    )


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"zoneout": 0.2, "recurrent_dropout": 0.2}])
def test_gradients_of_models(options, rng):
    model, data = classifier(num_layers=2, **options), dataset(rng, 4, [7, 0, 3, 5])
    batch = next(data.batches(4))
    masks = Masks((1,)) if "zoneout" in options else None
    loss, gradients = model.loss_and_gradients(batch, masks=masks)
    for name in ("v_l0", "Wg_l1"):
        numeric = numeric_gradient(
            lambda: model.loss_and_gradients(batch, masks=masks)[0], model.parameters[name], most=8
        )
        known = ~np.isnan(numeric)
        assert_close(gradients["d" + name][known], numeric[known], TOLERANCE["gradient"], name)
    assert loss == model.loss_and_gradients(batch, masks=masks)[0]


@pytest.mark.parametrize("name", ["phased_lstm", "timed"])
def test_passes_and_segments_are_the_whole(name, rng):
    """Also of the steps that are counted by default, which a segment continues."""
    own = CELLS.get(name, timed)
    options = {"extra": {"gap": gaps(rng, 9, 12)}} if own is timed else {}
    model = SequenceRegressor(3, 6, 1, cell=own, per_step=True, seed=0, dtype="float64")
    data = Examples(rng.standard_normal((3, 9, 12)), rng.standard_normal((1, 9, 12)), lengths=range(4, 13), **options)
    whole = model.predict(data.inputs, lengths=data.lengths, **options)
    assert_close(model.predict(data.inputs, lengths=data.lengths, batch_size=2, **options), whole, 1e-13)
    batch = next(data.batches(9))
    step, parts = model.train_step(batch), model.train_step(batch, segment_length=5)
    assert_close(parts.loss, step.loss, 1e-13)
    for key, d in step.gradients.items():
        assert_close(parts.gradients[key], d, 1e-12, key)


def test_counted_steps_are_in_the_order_of_the_sequence(rng):
    """In a reverse layer, too."""
    model = classifier(CELLS["phased_lstm"], bidirectional=True)
    x, lengths = rng.standard_normal((3, 4, 7)), [7, 2, 0, 5]
    given = {"t": np.tile(np.arange(7), (4, 1))}
    np.testing.assert_array_equal(model.predict(x, lengths=lengths), model.predict(x, lengths=lengths, extra=given))


def test_training_with_times(rng, tmp_path):
    data = dataset(rng, 40, rng.integers(1, 8, 40))
    trainer = Trainer(classifier(), rnnx.Adam(0.01))
    before = trainer.evaluate(data, 16)
    trainer.fit(data, data, epochs=20, batch_size=16)
    assert trainer.evaluate(data, 16) < before
    save_checkpoint(tmp_path / "m.safetensors", Checkpoint(trainer.model))
    again = load_checkpoint(tmp_path / "m.safetensors", cell=timed).model
    np.testing.assert_array_equal(
        again.predict(data.inputs, extra=data.extra), trainer.model.predict(data.inputs, extra=data.extra)
    )
    data.extra["gap"][3, 0] = np.nan
    with pytest.raises(FloatingPointError, match=r"`extra\['gap'\]` hold nan at index \(3, 0\)"):
        trainer.fit(data, epochs=21, batch_size=16)


def test_errors_of_models_and_datasets(rng):
    data, model = dataset(rng), classifier(num_layers=2)
    with pytest.raises(ValueError, match=r"`extra` must have the keys \['gap'\] for cell 'timed'; got \[\]"):
        model.predict(data.inputs)
    for wrong in (np.ones((7, 10)), np.ones((5, 10, 7))):
        with pytest.raises(ValueError, match=r"`extra\['gap'\]` must have shape \(n_a, m, T_x\) = \(6, 10, 7\) or"):
            model.predict(data.inputs, extra={"gap": wrong})
    with pytest.raises(ValueError, match=r"`extra` must be empty for cell 'lstm'; got \['gap'\]"):
        Trainer(classifier("lstm"), rnnx.Adam()).fit(data, epochs=1)
    with pytest.raises(ValueError, match=r"`train` does not fit the model: `extra` must have the keys \['gap'\]"):
        Trainer(model, rnnx.Adam(0.01)).fit(Examples(data.inputs, data.targets), epochs=1)
    with pytest.raises(ValueError, match=r"`extra\['gap'\]` must have shape \(n, T\) = \(10, 7\) or \(n_a, n, T\)"):
        Examples(data.inputs, data.targets, extra={"gap": np.ones((7, 10))})
    with pytest.raises(TypeError, match="`extra` must be a dict of arrays; got ndarray"):
        Examples(data.inputs, data.targets, extra=np.ones((10, 7)))
    with pytest.raises(ValueError, match=r"`cell` of Seq2Seq must have no inputs .* without a default; 'timed' has"):
        Seq2Seq(5, 5, 4, cell=timed)


def test_models_of_text(rng):
    model = CharModel(5, 6, cell="phased_lstm", num_layers=2, seed=0)
    indices = rng.integers(0, 5, (2, 9))
    logits, _, _ = model.forward(indices)
    stream = model.stream(2)
    for t in range(9):
        assert_close(stream.read(indices[:, t]), logits[:, :, t], 1e-5)
    timed_model = CharModel(5, 6, cell=timed, seed=0)
    gap = gaps(rng, 2, 9)
    logits, _, _ = timed_model.forward(indices, extra={"gap": gap})
    stream = timed_model.stream(2)
    for t in range(9):
        assert_close(stream.read(indices[:, t], {"gap": gap[:, t]}), logits[:, :, t], 1e-5)


def test_seq2seq_with_counted_steps(rng):
    pairs = Pairs([rng.integers(1, 6, 5) for _ in range(12)], [rng.integers(1, 6, 4) for _ in range(12)], 0)
    model = Seq2Seq(6, 6, 8, cell="phased_lstm", seed=0)
    trainer = Trainer(model, rnnx.Adam(0.01))
    before = trainer.evaluate(pairs, 4)
    trainer.fit(pairs, epochs=15, batch_size=4)
    assert trainer.evaluate(pairs, 4) < before
    assert model.predict(np.array([[1, 2, 3]]), max_length=4).indices.shape[0] == 1


def test_the_command_line_trains_and_samples_a_phased_lstm(run):
    ok(run("train", "--text", "names.txt", "--cell", "phased_lstm", "--hidden-size", 8, "--epochs", 1, "--output", "r"))
    assert ok(run("sample", "r", "-n", 2, "--seed", 0))
    assert "phased_lstm" in ok(run("info", "r"))
