"""Checks of what users give to datasets and models: containers, dtypes, axes, classes; and inference in batches."""

import re

import numpy as np
import pytest
from problems import TOLERANCE, assert_close

import rnnx
from rnnx import models
from rnnx.data import CharTokenizer, Examples, Lines, PairBatch, Pairs, Streams, Windows, pad
from rnnx.data.batches import Batch
from rnnx.models import CharModel, Seq2Seq, SequenceClassifier, SequenceRegressor
from rnnx.optim import SGD
from rnnx.training import Checkpoint, Trainer, evaluate, load_checkpoint, save_checkpoint

N_X, N_A, M, T = 2, 4, 5, 7
BATCH_FIRST = r"\(input_size, m, T\) = \(2, m, T\), .*; got \(5, 7, 2\), .*batch-first.*transpose\(2, 0, 1\)"


class Frame:
    """Looks like a data frame of another library."""

    def to_numpy(self):
        return np.zeros((N_X, M, T))


def masked(*shape):
    return np.ma.masked_equal(np.zeros(shape), 1.0)


def classifier(**options):
    return SequenceClassifier(N_X, N_A, 3, seed=0, **options)


def regressor(**options):
    return SequenceRegressor(N_X, N_A, 2, seed=0, **options)


def entry_points(model):
    """Every function of a model that takes inputs."""
    classes = np.zeros(M, int)
    return {
        "forward": lambda inputs: model.forward(inputs),
        "predict": lambda inputs: model.predict(inputs),
        "train_step": lambda inputs: model.train_step(Batch(inputs, classes, None)),
        "evaluate_step": lambda inputs: model.evaluate_step(Batch(inputs, classes, None)),
        "loss": lambda inputs: model.loss(Batch(inputs, classes, None)),
    }


WRONG_INPUTS = [
    (np.zeros((M, T, N_X)), ValueError, BATCH_FIRST),
    (np.zeros((M, N_X, T)), ValueError, r"got \(5, 2, 7\).*\(m, input_size, T\): pass inputs.transpose\(1, 0, 2\)"),
    (np.zeros((N_X, T)), ValueError, r"one sequence, \(input_size, T\): pass inputs\[:, None\]"),
    (np.zeros((T, N_X)), ValueError, r"one sequence, \(T, input_size\): pass inputs.T\[:, None\]"),
    (np.full((M, T), N_X), ValueError, r"`inputs` must be in \[0, input_size\) = \[0, 2\); got values from 2 to 2"),
    (masked(N_X, M, T), TypeError, r"`inputs` must be an array .*MaskedArray.*fill the missing values"),
    (Frame(), TypeError, r"`inputs` must be an array .*pass `.to_numpy\(\)`"),
    (np.zeros((N_X, M, T), complex), TypeError, "`inputs` must hold real numbers; got dtype complex128"),
    (np.zeros((N_X, M, T), object), TypeError, "`inputs` must hold real numbers; got dtype object"),
    (np.zeros((N_X, M, T), "M8[D]"), TypeError, "`inputs` must hold real numbers; got dtype datetime64"),
    (np.zeros((N_X, M, T), "m8[D]"), TypeError, "`inputs` must hold real numbers; got dtype timedelta64"),
    ([["a"]], TypeError, "`inputs` must hold real numbers; got dtype <U1"),
    ([[1, 0], [1]], ValueError, "`inputs` must have rows of equal length; .*rnnx.data.pad"),
    (None, TypeError, "`inputs` must be an array .*; got NoneType"),
    ("abc", TypeError, "`inputs` must be an array .*; got str"),
    ((row for row in [[1]]), TypeError, "`inputs` must be an array .*; got generator"),
]


@pytest.mark.parametrize(("inputs", "error", "message"), WRONG_INPUTS, ids=range(len(WRONG_INPUTS)))
@pytest.mark.parametrize("name", entry_points(None))
def test_models_speak_of_the_inputs(name, inputs, error, message):
    with pytest.raises(error, match=message):
        entry_points(classifier())[name](inputs)


def test_tensors_of_another_library_are_refused():
    xp = pytest.importorskip("array_api_strict")
    with pytest.raises(TypeError, match="`parameters` and `inputs` must come from the same array library"):
        classifier().predict(xp.zeros((N_X, M, T)))
    with pytest.raises(TypeError, match="`inputs` must be a NumPy array"):
        Examples(xp.zeros((N_X, M, T)), np.zeros(M, int))


def test_nested_lists_are_arrays(rng):
    inputs, model = rng.standard_normal((N_X, M, T)), classifier()
    np.testing.assert_array_equal(model.predict(inputs.tolist()), model.predict(inputs))
    loss = model.loss(Batch(inputs.tolist(), [0, 1, 2, 0, 1], [7, 3, 2, 1, 7]))
    assert loss == model.loss(Batch(inputs, np.array([0, 1, 2, 0, 1]), np.array([7, 3, 2, 1, 7])))
    assert Examples(inputs.tolist(), [0, 1, 2, 0, 1]).inputs.shape == inputs.shape


@pytest.mark.parametrize(
    ("make", "targets", "message"),
    [
        (
            classifier,
            np.zeros((N_X, M)),
            r"`targets` must be class indices .* \(m,\) = \(5,\); got \(2, 5\)",
        ),
        (classifier, np.zeros((3, M)), r"one-hot classes: pass targets.argmax\(axis=0\)"),
        (classifier, np.zeros(M), r"classes are integers: pass targets.astype\(int\)"),
        (classifier, np.arange(M), r"`targets` must be in \[0, num_classes\) = \[0, 3\); got values from 0 to 4"),
        (classifier, np.arange(M) - 1, r"\[0, num_classes\) = \[0, 3\); got values from -1 to 3"),
        (classifier, np.zeros(M - 1, int), r"\(m,\) = \(5,\); got \(4,\), dtype int64"),
        (regressor, np.zeros(M, int), r"numbers of shape \(output_size, m\) = \(2, 5\); got \(5,\), dtype int64"),
        (regressor, np.zeros((M, 2)), r"\(output_size, m\) = \(2, 5\); got \(5, 2\), dtype float64: pass targets.T"),
        (lambda: regressor(per_step=True), np.zeros((2, M)), r"\(output_size, m, T\) = \(2, 5, 7\); got \(2, 5\)"),
        (lambda: classifier(per_step=True), np.zeros(M, int), r"\(m, T\) = \(5, 7\); got \(5,\), dtype int64"),
        (classifier, masked(M), "`targets` must be an array .*MaskedArray"),
        (classifier, np.array(["a"] * M), "`targets` must hold real numbers; got dtype <U1"),
    ],
)
def test_training_and_evaluation_speak_of_the_targets(make, targets, message):
    model, inputs = make(), np.zeros((N_X, M, T))
    before = {name: p.copy() for name, p in model.parameters.items()}
    for step in (model.train_step, model.evaluate_step):
        with pytest.raises((ValueError, TypeError), match=message):
            step(Batch(inputs, targets, None))
    try:
        examples = Examples(inputs, targets)
    except (ValueError, TypeError):
        return  # wrong for every model
    with pytest.raises((ValueError, TypeError), match=f"`train` does not fit the model: .*{message}"):
        Trainer(model, SGD(0.1)).fit(examples, epochs=1, batch_size=2)
    with pytest.raises((ValueError, TypeError), match=message):
        evaluate(model, examples, 2)
    assert all(np.array_equal(before[name], p) for name, p in model.parameters.items())


def test_targets_past_the_end_are_not_checked():
    targets, inputs = np.full((M, T), 99), np.zeros((M, T), int)
    targets[:, :2], inputs[:, 2:] = 1, 99
    model = classifier(per_step=True)
    Trainer(model, SGD(0.1)).fit(Examples(inputs, targets, lengths=[2] * M), epochs=1)
    with pytest.raises(ValueError, match=r"`inputs` must be in \[0, input_size\)"):
        model.check("train", Examples(inputs, targets, lengths=[3] * M))


def test_boolean_labels_are_classes(rng):
    inputs, labels = rng.standard_normal((N_X, M, T)), np.array([True, False, True, True, False])
    losses = []
    for targets in (labels, labels.astype(int), labels.tolist()):
        model = SequenceClassifier(N_X, N_A, 2, seed=0)
        losses.append(model.loss(Batch(inputs, targets, None)))
        losses.append(Trainer(model, SGD(0.1)).fit(Examples(inputs, targets), epochs=1).loss)
    assert losses[:2] == losses[2:4] == losses[4:]


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (np.zeros((M, T, N_X)), np.zeros(M, int), r"`inputs` of shape \(5, 7, 2\) look like batch-first"),
        (np.zeros((N_X, M, T)), np.zeros(M), r"got \(5,\), dtype float64; pass targets\[None\] for regression"),
        (np.zeros((N_X, M, T)), np.zeros((M, 1)), r"got \(5, 1\), dtype float64; for \(n, n_y\), pass targets.T"),
        (np.zeros((N_X, M, T)), np.zeros((M, 3), int), r"argmax for one-hot classes"),
        (np.zeros((M, T)), np.zeros(M, int), r"for one feature per step, pass inputs\[None\]"),
        (masked(N_X, M, T), np.zeros(M, int), r"`inputs` must be an array .*MaskedArray"),
        (np.zeros((N_X, M, T)), masked(M), r"`targets` must be an array .*MaskedArray"),
        (np.zeros((N_X, M, T)), Frame(), r"`targets` must be an array .*to_numpy"),
    ],
)
def test_examples_say_what_the_arrays_look_like(inputs, targets, message):
    with pytest.raises((ValueError, TypeError), match=message):
        Examples(inputs, targets)


@pytest.mark.parametrize(
    "rows", [None, "abc", 5, np.array(3), {1: 2}, iter([[1]]), masked(2, 2), [[1.0]], [["a"]], [1]]
)
def test_rows_of_texts(rows):
    makers = [
        lambda: pad(rows),
        lambda: Pairs(rows, rows, 0),
        lambda: next(Lines(rows, 0).batches(1)),
    ]
    for make, name in zip(makers, ("sequences", "sources", "sequences"), strict=True):
        with pytest.raises((ValueError, TypeError), match=f"`{name}` must be"):
            make()


@pytest.mark.parametrize("indices", [None, "abc", [1.5, 2.5], np.zeros((2, 2), int), masked(5), [["a"]], iter([1, 2])])
@pytest.mark.parametrize("make", [Windows, Streams])
def test_indices_of_texts(make, indices):
    with pytest.raises((ValueError, TypeError), match="`indices` must"):
        make(indices, 3)


@pytest.mark.parametrize("pieces", [5, "ab", [1, 2], [(0, "a")], [(0.0, 2.0)]])
def test_pieces_of_texts(pieces):
    with pytest.raises(TypeError, match="`pieces` must be a sequence of"):
        Windows(np.arange(5), 2, pieces)


@pytest.mark.parametrize(
    ("model", "dataset", "message"),
    [
        (lambda: CharModel(5, 4), Windows(np.arange(9), 3), r"`inputs` must be in \[0, vocab_size\) = \[0, 5\)"),
        (lambda: CharModel(5, 4), Streams(np.arange(9), 3), r"`inputs` must be in \[0, vocab_size\) = \[0, 5\)"),
        (lambda: CharModel(5, 4), Lines([[1, 5]], 0), r"`inputs` must be in \[0, vocab_size\) = \[0, 5\)"),
        (
            lambda: CharModel(5, 4),
            Pairs([[1]], [[2]], 0),
            r"attributes inputs, targets, .*Lines.*got PairBatch",
        ),
        (lambda: Seq2Seq(3, 4, 4), Pairs([[1], [3]], [[1], [2]], 0), r"`source` must be in \[0, source_vocab_size\)"),
        (
            lambda: Seq2Seq(4, 3, 4),
            Pairs([[1], [3]], [[1], [3]], 0),
            r"`target_in` must be in \[0, target_vocab",
        ),
        (lambda: Seq2Seq(4, 3, 4), Lines([[1, 2]], 0), r"attributes source, .*rnnx.data.Pairs.*; got Batch"),
    ],
)
def test_datasets_of_texts_and_models(model, dataset, message):
    for call in (lambda: Trainer(model(), SGD(0.1)).fit(dataset, epochs=1), lambda: evaluate(model(), dataset, 2)):
        with pytest.raises((ValueError, TypeError), match=message):
            call()


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ([1], r"`states` must be a dict of arrays by name; got list"),
        ({"a_l0": [1]}, r"`states\['a_l0'\]` must be an array"),
        ({"a_l0": np.zeros((4, 3))}, r"`states\['a_l0'\]` must have shape \(n, m\) = \(4, 2\); got \(4, 3\)"),
        ({"c_l0": np.zeros((3, 2))}, r"`states\['c_l0'\]` must have shape \(n, m\) = \(4, 2\); got \(3, 2\)"),
    ],
)
def test_states(states, message):
    model = CharModel(5, 4, seed=0)
    for call in (model.forward, model.predict):
        with pytest.raises((ValueError, TypeError), match=message):
            call(np.zeros((2, 3), int), states=states)
    with pytest.raises((ValueError, TypeError), match=message):
        model.stream(2, states)


@pytest.mark.parametrize("indices", [[0, 5], [-1, 0], [0], [0.0, 1.0], None, "ab"])
def test_a_stream_checks_what_it_reads(indices):
    stream = CharModel(5, 4, seed=0).stream(2)
    with pytest.raises((ValueError, TypeError), match="`indices` must"):
        stream.read(indices)


def test_lengths_of_sources_and_targets():
    model, good = Seq2Seq(5, 5, 4, seed=0), np.zeros((2, 3), int)
    with pytest.raises(ValueError, match=r"`source_lengths` must be in \[0, T_x\] = \[0, 3\]; got values from 3 to 4"):
        model.predict(good, source_lengths=[3, 4], max_length=2)
    with pytest.raises(ValueError, match=r"`target_lengths` must have shape \(m,\) = \(2,\); got \(1,\)"):
        model.forward(good, good, target_lengths=[3])
    with pytest.raises(ValueError, match=r"`target_out` must have shape \(m, T_y\) = \(2, 3\); got \(2, 2\)"):
        model.loss(PairBatch(good, [3, 3], good, good[:, :2], None))
    with pytest.raises(TypeError, match="`texts` must be a sequence of str; got str"):
        model.translate("abc", None, None, max_length=2)


@pytest.mark.parametrize("max_length", [10**30, 2**31, 0, 1.5, None])
def test_bounded_lengths_of_outputs(max_length, monkeypatch):
    with pytest.raises((ValueError, TypeError), match="`max_length` must be an integer from 1 to 1000000"):
        Seq2Seq(5, 5, 4, seed=0).predict(np.ones((1, 2), int), max_length=max_length)
    with pytest.raises((ValueError, TypeError), match="`max_length` must be an integer from 1 to 1000000"):
        models.sample(CharModel(5, 4, seed=0), CharTokenizer.from_vocab(list("abcde")), max_length=max_length)


# --- inference in batches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("make", [classifier, regressor])
def test_predictions_in_batches(make, bidirectional, per_step, engine, rng):
    model = make(bidirectional=bidirectional, per_step=per_step)
    inputs, lengths = rng.standard_normal((N_X, 23, T)), rng.integers(0, 4, 23)
    for ends in (None, lengths, lengths.tolist()):
        whole = model.predict(inputs, lengths=ends)
        for size in (1, 4, 23, 100):
            parts = model.predict(inputs, lengths=ends, batch_size=size)
            assert_close(parts, whole, TOLERANCE["float32"])
            assert parts.dtype == whole.dtype
    assert model.predict(inputs[:, :0]).shape[1] == 0
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1; got 0"):
        model.predict(inputs, batch_size=0)
    with pytest.raises(ValueError, match=r"`lengths` must have shape \(m,\) = \(23,\); got \(2,\)"):
        model.predict(inputs, lengths=[1, 2], batch_size=2)


def test_characters_in_batches(rng):
    model = CharModel(9, 4, 2, seed=0)
    inputs = rng.integers(0, 9, (7, 5))
    states = {name: rng.standard_normal((4, 7)).astype("float32") for name in model.stack.state_names}
    whole, final = model.predict(inputs, lengths=[5, 0, 1, 2, 3, 4, 5], states=states)
    parts, ends = model.predict(inputs, lengths=[5, 0, 1, 2, 3, 4, 5], states=states, batch_size=3)
    assert_close(parts, whole, TOLERANCE["float32"])
    for name in final:
        assert_close(ends[name], final[name], TOLERANCE["float32"])


@pytest.mark.parametrize("attention", ["additive", None])
def test_sequences_in_batches(attention, rng):
    model = Seq2Seq(9, 5, 6, attention=attention, seed=0, dtype="float64")
    model.parameters["Wy"] *= 30  # so that some examples end early
    source, lengths = rng.integers(0, 9, (11, 6)), rng.integers(0, 7, 11)
    whole = model.predict(source, source_lengths=lengths, max_length=8)
    assert len(set(whole.lengths.tolist())) > 1
    for size in (1, 3):
        parts = model.predict(source, source_lengths=lengths, max_length=8, batch_size=size)
        np.testing.assert_array_equal(parts.indices, whole.indices)
        np.testing.assert_array_equal(parts.lengths, whole.lengths)
        if attention:
            assert_close(parts.weights, whole.weights, 1e-12)


def test_the_default_bounds_the_size_of_a_pass(monkeypatch):
    model, seen = SequenceClassifier(1, 128, 10, cell="rnn", seed=0), []
    forward = model._features
    monkeypatch.setattr(model, "_features", lambda inputs, *rest: seen.append(inputs.shape) or forward(inputs, *rest))
    model.predict(np.zeros((1, 400, 784), "float32"))
    assert len(seen) > 1
    assert all(128 * m * n_steps <= 2**24 for _, m, n_steps in seen)


def test_batches_are_cut_to_their_longest_example(rng):
    inputs, lengths = rng.standard_normal((N_X, 6, T)), np.array([1, 2, 3, 7, 0, 0])
    per_step, whole = rng.integers(0, 3, (6, T)), rng.integers(0, 3, 6)
    for targets, model in ((per_step, classifier(per_step=True)), (whole, classifier())):
        batches = list(Examples(inputs, targets, lengths=lengths).batches(2))
        assert [b.inputs.shape[-1] for b in batches] == [2, 7, 1]
        assert [b.targets.shape for b in batches] == [
            b.inputs.shape[1:] if targets.ndim == 2 else (2,) for b in batches
        ]
        for at, batch in zip((0, 2, 4), batches, strict=True):
            rows = slice(at, at + 2)
            padded = model.train_step(Batch(inputs[:, rows], targets[rows], lengths[rows]))
            cut = model.train_step(batch)
            assert_close(np.asarray(cut.loss), np.asarray(padded.loss), TOLERANCE["float32"])
            for name in padded.gradients:
                assert_close(cut.gradients[name], padded.gradients[name], TOLERANCE["float32"])


# --- cells of one's own -------------------------------------------------------------------------------------------


def own_cell():
    from dataclasses import replace

    return replace(rnnx.CELLS["gru_reset_after"], name="mine")


@pytest.mark.parametrize(
    "make",
    [
        lambda **o: SequenceClassifier(N_X, N_A, 2, seed=0, bidirectional=True, **o),
        lambda **o: SequenceRegressor(N_X, N_A, 2, seed=0, **o),
        lambda **o: CharModel(N_X, N_A, 2, seed=0, dropout=0.1, **o),
        lambda **o: Seq2Seq(N_X, N_X, N_A, seed=0, **o),
    ],
)
def test_a_cell_of_ones_own_in_every_model(make, tmp_path, rng):
    model, same = make(cell=own_cell()), make(cell="gru", reset_after=True)
    assert "mine" in repr(model)
    source = rng.integers(0, N_X, (3, 4))
    if isinstance(model, Seq2Seq):
        batch = PairBatch(source, np.full(3, 4), source, source, np.full(3, 4))
    else:
        targets = {"classifier": source[:, 0], "regressor": np.zeros((2, 3)), "characters": source}[model.kind]
        batch = Batch(source, targets, None)
    assert model.loss(batch) == same.loss(batch)
    assert set(model.train_step(batch).gradients) == {"d" + name for name in model.parameters}
    again = type(model)(**model.config, parameters=model.parameters)
    assert again.loss(batch) == model.loss(batch)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, Checkpoint(model))
    assert load_checkpoint(path, cell=own_cell()).model.loss(batch) == model.loss(batch)
    with pytest.raises(ValueError, match=re.escape("has a cell of your own, 'mine': pass it")):
        load_checkpoint(path)


def test_records_of_built_in_cells():
    for name, config in (("lstm", ("lstm", False)), ("gru_reset_after", ("gru", True))):
        model = CharModel(5, 4, cell=rnnx.CELLS[name])
        assert (model.config["cell"], model.config["reset_after"]) == config
        assert model.cell is rnnx.CELLS[name]
    with pytest.raises(ValueError, match="`reset_after` is only for `cell` = 'gru'; got the cell 'mine'"):
        CharModel(5, 4, cell=own_cell(), reset_after=True)
    with pytest.raises(TypeError, match=r"`cell` must be a rnnx\.Cell, or the name of one in rnnx\.CELLS; got 3"):
        CharModel(5, 4, cell=3)
