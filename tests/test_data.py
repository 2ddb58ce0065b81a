"""Data as people have it: axes, lists, frames, series, scalers, labels, masks, and what has a length and items."""

import numpy as np
import pytest
from problems import TOLERANCE, assert_close, numeric_gradient

from rnnx.data import (
    Batch,
    Examples,
    Items,
    Scaler,
    Series,
    SeriesStreams,
    SeriesWindows,
    StepMask,
    as_sequences,
    encode_labels,
    sequences_from_frame,
    series_from_frame,
    split_by_group,
)
from rnnx.models import SequenceClassifier, SequenceRegressor
from rnnx.optim import Adam
from rnnx.training import Checkpoint, Trainer, load_checkpoint, save_checkpoint


def raises(error, message, call):
    with pytest.raises(error, match=message):
        call()


# --- arrays and lists --------------------------------------------------------------------------------------------


def test_axes(rng):
    x = rng.standard_normal((3, 4, 5))  # (n_x, n, T)
    for axes, array in (("fnt", x), ("ntf", x.transpose(1, 2, 0)), ("nft", x.transpose(1, 0, 2))):
        found, lengths = as_sequences(array, axes)
        np.testing.assert_array_equal(found, x)
        assert np.shares_memory(found, x)
        assert lengths is None
    assert as_sequences(x[0], "nt")[0].shape == (1, 4, 5)
    for axes, rows in (("tf", [r.T for r in x.transpose(1, 0, 2)]), ("ft", list(x.transpose(1, 0, 2)))):
        np.testing.assert_array_equal(as_sequences(rows, axes)[0], x)
    found, lengths = as_sequences([[1.0, 2], [3.0]], "t")
    assert (found.tolist(), lengths.tolist()) == ([[[1, 2], [3, 0]]], [2, 1])
    raises(ValueError, "`axes` must be 'ntf'", lambda: as_sequences(x, "tnx"))
    raises(ValueError, r"`values` must have the 3 axes 'ntf'; got shape \(4, 5\)", lambda: as_sequences(x[0], "ntf"))
    raises(ValueError, "the 2 features of values.0., .* got 3", lambda: as_sequences([x[0, :2].T, x[0, :3].T], "tf"))
    raises(TypeError, "`values.1.` must hold real numbers", lambda: as_sequences([x[0], np.array([["a"]])], "tf"))
    raises(TypeError, "list of arrays", lambda: as_sequences([], "t"))


def test_masked_steps_are_held(rng):
    """As a loop over the steps that skips the masked ones: outputs, gradients, and what is put back."""
    x, y = rng.standard_normal((2, 3, 6)), rng.standard_normal((1, 3, 6))
    mask = StepMask(rng.random((3, 6)) < 0.6)
    model = SequenceRegressor(2, 4, per_step=True, seed=0, dtype="float64")
    data = Examples(mask.move(x), mask.move(y), lengths=mask.lengths)
    found = mask.restore(model.predict(data.inputs, lengths=data.lengths))
    for j in range(3):
        states, own = {}, np.zeros(1)
        for t in range(6):
            if mask.mask[j, t]:
                z, states, _ = model.forward(x[:, j : j + 1, t : t + 1], states=states or None)
                own = z[:, 0, 0]
            assert_close(found[:, j, t], own, TOLERANCE["oracle"])
    batch, w = data.gather(np.arange(3)), model.parameters["Wf_l0"]
    real = mask.mask.sum()
    numeric = numeric_gradient(
        lambda: ((mask.restore(model.forward(batch.inputs, lengths=batch.lengths)[0]) - y)[:, mask.mask] ** 2).sum(), w
    )
    assert_close(model.train_step(batch).gradients["dWf_l0"] * real, numeric, TOLERANCE["gradient"])
    raises(ValueError, "`mask` must be booleans of shape", lambda: StepMask(np.ones((2, 3))))
    raises(ValueError, r"`values` must have shape \(\.\.\., m, T\)", lambda: mask.move(x[..., :2]))


def test_items_of_any_source(rng):
    rows = [(rng.standard_normal((t, 2)), t % 2) for t in (3, 5, 4)]
    tables = [{"x": x.tolist(), "y": float(y), "more": 1} for x, y in rows]
    model = SequenceClassifier(2, 4, 2, seed=0)
    for source, options in ((rows, {}), (tables, {"inputs": "x", "target": "y"})):
        batch = Items(source, **options).gather(np.array([2, 0]))
        np.testing.assert_array_equal(batch.inputs[:, 0], rows[2][0].T)
        np.testing.assert_array_equal(batch.inputs[:, 1, :3], rows[0][0].T)
        assert batch.lengths.tolist() == [4, 3]
    assert batch.targets.tolist() == [[0, 1]]
    assert Trainer(model, Adam(0.01)).fit(Items(rows), epochs=2, batch_size=2).loss > 0
    steps = Items([(x, x[:, :1]) for x, _ in rows], per_step=True).gather(np.arange(3))
    assert steps.targets.shape == (1, 3, 5)
    raises(ValueError, "must have the keys", lambda: Items(tables).gather(np.array([0])))
    raises(TypeError, "must be a tuple .inputs, target. or a dict", lambda: Items([3]).gather(np.array([0])))
    raises(
        ValueError,
        "of `source` do not fit: ",
        lambda: Items([(np.ones((2, 1)), 0), (np.ones((2, 3)), 0)]).gather([0, 1]),
    )
    short = Items([(np.ones((5, 2)), [1, 1, 1])], per_step=True)
    message = r"source\[0\] must have a target for each of its 5 steps; got shape \(3,\)"
    raises(ValueError, message, lambda: next(short.batches(1)))
    raises(TypeError, "`source` must be an object with", lambda: Items(3))


def test_groups_are_on_one_side():
    groups = ["a", "b", "a", "c", "d", "b"]
    train, held = split_by_group(groups, 0.5, seed=1)
    assert sorted([*train, *held]) == [*range(6)]
    assert not {groups[k] for k in train} & {groups[k] for k in held}
    assert len({groups[k] for k in held}) == 2
    data = Examples(np.arange(6.0)[None, :, None], np.arange(6), lengths=[1] * 6, weights=np.arange(6))
    part = data.take(held)
    assert part.targets.tolist() == held.tolist() == part.weights.tolist()
    assert len(part) == len(held)
    raises(ValueError, "at least 2 groups", lambda: split_by_group([1, 1]))
    raises(ValueError, "`chosen` must be in", lambda: data.take([6]))


# --- units and names ---------------------------------------------------------------------------------------------


def test_a_model_with_scalers_takes_and_gives_raw_units(rng, tmp_path):
    x, y = 1e4 + 100 * rng.standard_normal((2, 30, 5)), -300 + 20 * rng.standard_normal((1, 30))
    scalers = {"input_scaler": Scaler.fit(x), "target_scaler": Scaler.fit(y)}
    for loss in ("squared_error", "quantile", "student_t"):
        options = {"loss": loss, "seed": 0, "dtype": "float64"}
        model, inner = SequenceRegressor(2, 4, **scalers, **options), SequenceRegressor(2, 4, **options)
        Trainer(model, Adam(0.01)).fit(Examples(x, y), epochs=2)
        scaled = [s.transform(a) for s, a in zip(scalers.values(), (x, y), strict=True)]
        Trainer(inner, Adam(0.01)).fit(Examples(*scaled), epochs=2)
        assert_close(model.predict(x), scalers["target_scaler"].inverse(inner.predict(scaled[0])), TOLERANCE["oracle"])
        save_checkpoint(tmp_path / "m", Checkpoint(model))
        again = load_checkpoint(tmp_path / "m").model
        np.testing.assert_array_equal(again.predict(x), model.predict(x))
    found, plain = model.predict_distribution(x), inner.predict_distribution(scaled[0])
    assert_close(found["scale"], plain["scale"] * scalers["target_scaler"].scale[0], TOLERANCE["oracle"])
    assert_close(found["df"], plain["df"], TOLERANCE["oracle"])


def test_integer_features_are_standardized(rng):
    x = rng.integers(0, 9, (2, 5, 4))
    model = SequenceClassifier(2, 3, 2, input_scaler=Scaler.fit(x), seed=0)
    np.testing.assert_array_equal(model.predict(x), model.predict(x.astype(float)))


def test_gradients_of_raw_inputs(rng):
    x = 5 + 3 * rng.standard_normal((2, 2, 4))
    model = SequenceRegressor(2, 3, per_step=True, input_scaler=Scaler.fit(x), seed=0, dtype="float64")
    z, _, cache = model.forward(x)
    dz = rng.standard_normal(z.shape)
    numeric = numeric_gradient(lambda: (model.forward(x)[0] * dz).sum(), x)
    assert_close(model.backward(dz, cache)["dx"], numeric, TOLERANCE["gradient"])
    batch = Batch(x, rng.standard_normal((1, 2, 4)), None)
    whole, parts = (model.train_step(batch, segment_length=k).loss for k in (None, 2))
    assert parts == pytest.approx(whole, rel=1e-12)


def test_scalers(rng):
    x = rng.standard_normal((2, 6, 4))
    x[0, 1, 2] = np.nan
    lengths = [4, 4, 4, 1, 1, 1]
    scaler = Scaler.fit(x, lengths=lengths)
    valid = (np.arange(4) < np.array(lengths)[:, None]) & np.isfinite(x)
    assert scaler.mean == pytest.approx([x[k][valid[k]].mean() for k in range(2)])
    np.testing.assert_allclose(scaler.inverse(scaler.transform(x)), x)
    assert Scaler.of(scaler.config) == scaler
    raises(ValueError, "feature 1 has none", lambda: Scaler.fit([[1.0], [np.nan]]))
    raises(ValueError, "`scale` must not be 0", lambda: Scaler([1], [0]))
    raises(ValueError, "as long as each other", lambda: Scaler([1], [1, 2]))
    raises(
        ValueError, "must scale `input_size` = 3 features; got 2", lambda: SequenceRegressor(3, 2, input_scaler=scaler)
    )
    poisson = {"loss": "poisson", "target_scaler": Scaler([1], [1])}
    raises(ValueError, r"Poisson\(\) must not shift, .* shift=False", lambda: SequenceRegressor(3, 2, **poisson))
    raises(
        TypeError,
        "`input_scaler` must be a rnnx.data.Scaler, or a fitted",
        lambda: SequenceRegressor(2, 2, input_scaler=3),
    )
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    table = rng.standard_normal((20, 2)) * [3, 1e4]
    for kind in ("StandardScaler", "MinMaxScaler", "RobustScaler", "MaxAbsScaler"):
        fitted = getattr(preprocessing, kind)().fit(table)
        np.testing.assert_allclose(Scaler.of(fitted).transform(table.T), fitted.transform(table).T, atol=1e-12)
    quantile = preprocessing.PowerTransformer().fit(table)
    raises(TypeError, "must scale and shift each feature", lambda: Scaler.of(quantile))


def test_labels_and_classes(rng, tmp_path):
    y, classes = encode_labels(np.array(["run", "walk", "run", "sit"]))
    assert (y.tolist(), classes) == ([0, 2, 0, 1], ["run", "sit", "walk"])
    assert encode_labels([True, False])[1] == [False, True]
    assert encode_labels(["sit"], classes)[0].tolist() == [1]
    assert encode_labels([np.int64(1), np.int64(4)])[1] == [1, 4]
    x = rng.standard_normal((1, 4, 3))
    model = SequenceClassifier(1, 3, 3, classes=classes, seed=0)
    save_checkpoint(tmp_path / "m", Checkpoint(model))
    again = load_checkpoint(tmp_path / "m").model
    assert again.predict_classes(x).tolist() == [classes[k] for k in model.predict(x).argmax(axis=0)]
    assert SequenceClassifier(1, 3, 3, seed=0).predict_classes(x).dtype == np.int64
    assert SequenceClassifier(1, 3, 3, loss="multi_label", seed=0).predict_classes(x).shape == (3, 4)
    raises(ValueError, "`labels` must not be missing; got None at index 1", lambda: encode_labels(["a", None]))
    raises(TypeError, "of one kind", lambda: encode_labels(["a", 1]))
    raises(TypeError, "text, integers or booleans; got 0.5", lambda: encode_labels([0.5]))
    raises(ValueError, "among the classes", lambda: encode_labels(["fly"], classes))
    raises(ValueError, "3 different names", lambda: SequenceClassifier(1, 3, 3, classes=["a", "a", "b"]))
    raises(TypeError, "masked array", lambda: encode_labels(np.ma.masked_equal([1, 2], 1)))


def test_inputs_that_are_not_finite_are_an_error_in_predict_too():
    x = np.ones((1, 2, 3))
    x[0, 1, 2] = np.nan
    model = SequenceRegressor(1, 2, seed=0)
    message = r"`inputs` hold nan at index \(0, 1, 2\)"
    raises(FloatingPointError, message, lambda: model.predict(x))
    raises(FloatingPointError, message, lambda: Trainer(model, Adam()).fit(Examples(x, np.ones((1, 2))), epochs=1))
    assert np.isfinite(model.predict(x, lengths=[3, 2])).all()


# --- series ------------------------------------------------------------------------------------------------------


def series(rng, steps, more=0, **options):
    return Series(
        rng.standard_normal((2, steps)),
        rng.standard_normal((1, steps)),
        rng.standard_normal((3, steps + more)),
        rng.standard_normal(2),
        **options,
    )


def test_windows(rng):
    many = [series(rng, 9, 2), series(rng, 4, 2), series(rng, 7, 2)]
    windows = SeriesWindows(many, 3, 2, stride=2)
    assert (len(windows), windows.n_inputs, windows.n_targets) == (3 + 0 + 2, 9, 2)
    batch = windows.gather(np.array([4, 1]))
    for j, (one, start) in enumerate([(many[2], 2), (many[0], 2)]):
        x, end = batch.inputs[:, j], start + 3
        known = np.concatenate([one.targets, one.past])
        np.testing.assert_array_equal(x[:3, :3], known[:, start:end])
        np.testing.assert_array_equal(x[:3, 3:], known[:, [end - 1] * 2])
        assert x[3].tolist() == [1, 1, 1, 0, 0]
        np.testing.assert_array_equal(x[4:7], one.future[:, start : end + 2])
        np.testing.assert_array_equal(x[7:], np.tile(one.static[:, None], 5))
        np.testing.assert_array_equal(batch.targets[:, j, 3:], one.targets[:, end : end + 2])
    assert batch.weights.tolist() == [[0, 0, 0, 1, 1]] * 2
    ahead = windows.ahead()
    np.testing.assert_array_equal(ahead[:3, 1, :3], np.concatenate([many[1].targets, many[1].past])[:, -3:])
    np.testing.assert_array_equal(ahead[4:7, 1], many[1].future[:, 1:])


def test_windows_are_split_by_time_without_a_leak(rng):
    many = [series(rng, 12), series(rng, 20), series(rng, 3)]
    windows = SeriesWindows(many, 4, 2)
    train, held = windows.split(5)
    for part in (train, held):
        which, now = part.places(np.arange(len(part)))
        for k, at in zip(which, now, strict=True):
            cut = many[k].targets.shape[1] - 5
            assert (at + 2 <= cut) if part is train else (at >= cut)
            assert at >= 4
    assert len(train) == (7 - 2 - 4 + 1) + (15 - 2 - 4 + 1)
    assert len(held) == 4 + 4
    changed = [Series(s.targets.copy(), s.past, s.future, s.static) for s in many]
    for one in changed:
        one.targets[:, -5:] = 1e6
    assert SeriesWindows(changed, 4, 2).split(5)[0].scalers()[1] == train.scalers()[1]
    raises(ValueError, "leaves no window for training", lambda: windows.split(18))


def test_a_forecast_learns_a_season():
    t = np.arange(200)
    wave = 50 + 10 * np.sin(2 * np.pi * t / 8)
    windows = SeriesWindows(wave, 10, 4)
    train, held = windows.split(40)
    inputs, targets = train.scalers()
    model = SequenceRegressor(windows.n_inputs, 16, per_step=True, input_scaler=inputs, target_scaler=targets, seed=0)
    trainer = Trainer(model, Adam(0.02))
    trainer.fit(train, held, epochs=8, batch_size=16, restore_best=True)
    forecast = model.predict(windows.ahead())[0, 0, -4:]
    assert abs(forecast - (50 + 10 * np.sin(2 * np.pi * np.arange(200, 204) / 8))).max() < 3


def test_windows_relative_to_the_seasonal_naive_forecast(rng):
    t = np.arange(30.0)
    values = 3 * t + 10 * (t % 4)
    windows = SeriesWindows(Series(values, past=t, future=np.arange(36.0)), 8, 6, season=4)
    batch = windows.gather(np.array([0, 5]))
    naive = np.stack([values[[4, 5, 6, 7, 4, 5]], values[[9, 10, 11, 12, 9, 10]]])
    levels = np.stack([values[4:8].mean(), values[9:13].mean()])[:, None]
    actual = np.stack([values[8:14], values[13:19]])
    np.testing.assert_allclose(batch.targets[0, :, 8:], actual - naive)
    np.testing.assert_allclose(windows.restore(batch.targets, [0, 5])[0], actual)
    np.testing.assert_allclose(batch.inputs[0, 0, :8], values[:8] - levels[0])
    np.testing.assert_allclose(batch.inputs[0, :, 8:], naive - levels)
    np.testing.assert_array_equal(batch.inputs[1, 0], [*range(8), *[7] * 6])  # past numbers are held
    np.testing.assert_allclose(windows.restore(np.zeros((1, 1, 14)))[0, 0], values[[26, 27, 28, 29, 26, 27]])
    inputs, targets = windows.scalers()
    deviations = np.stack([values[k + 8 : k + 14] - values[k + 4 + np.arange(6) % 4] for k in range(17)])
    assert targets.mean == pytest.approx((deviations.mean(),))
    assert inputs.mean[1:] == pytest.approx((t.mean(), 0, 17.5))
    plain = SeriesWindows(values, 8, 6)
    np.testing.assert_array_equal(plain.restore(np.arange(14.0)[None, None]), np.arange(8.0, 14)[None, None])
    assert len(SeriesWindows(values[:9], 8, 6, allow_none=True).ahead()[0, 0]) == 14
    raises(ValueError, "`season` must be an integer from 1 to 8; got 9", lambda: SeriesWindows(values, 8, 6, season=9))


def test_missing_targets(rng):
    values = rng.standard_normal(12)
    values[[5, 6]] = np.nan
    raises(ValueError, "targets of series 0 hold NaN at step 5; pass gaps='hold'", lambda: SeriesWindows(values, 3, 2))
    batch = SeriesWindows(values, 3, 2, gaps="hold").gather(np.arange(8))
    assert np.isfinite(batch.inputs).all()
    assert batch.inputs[0, 4].tolist() == [values[4]] * 5
    assert batch.weights[:, 3:].tolist() == [[1, 1], [1, 0], [0, 0], [0, 1], *[[1, 1]] * 4]
    raises(ValueError, "no value before it", lambda: SeriesWindows([np.nan, 1, 2, 3], 1, 1, gaps="hold"))
    raises(ValueError, "`past` of the series 'a' must be finite; got nan", lambda: Series([1, 2], [np.nan, 1], id="a"))
    raises(
        ValueError,
        "at least input_length . horizon = 9 steps; the longest has 4",
        lambda: SeriesWindows([1, 2, 3, 4], 5, 4),
    )
    raises(ValueError, "`future` must have at least the T = 2", lambda: Series([1, 2], future=[1]))
    short = SeriesWindows(Series(np.arange(5.0), future=np.ones(6)), 2, 2)
    raises(ValueError, "must go on for `horizon` = 2 steps; got 1", short.ahead)
    mixed = [Series([1, 2, 3]), Series([1, 2, 3], static=[1])]
    raises(ValueError, "all `series` must have as many targets", lambda: SeriesWindows(mixed, 1, 1))


def test_streams_of_numbers(rng):
    x, y = rng.standard_normal((2, 23)), rng.integers(0, 3, 23)
    data = SeriesStreams(x, y, 4)
    batches = list(data.batches(2))
    assert [b.continues for b in batches] == [False, True, True]
    np.testing.assert_array_equal(np.concatenate([b.inputs for b in batches], axis=2)[:, 1], x[:, 11:22])
    np.testing.assert_array_equal(np.concatenate([b.targets for b in batches], axis=1)[0], y[:11])
    assert data.n_batches(2) == 3
    assert len(list(data.batches(2, start=2))) == 1
    model = SequenceClassifier(2, 3, 3, per_step=True, seed=0, dtype="float64")
    whole = model.loss(Batch(x[:, None, :22].reshape(2, 2, 11), y[:22].reshape(2, 11), None))
    assert Trainer(model, Adam()).evaluate(data, 2) == pytest.approx(whole, rel=1e-12)
    numbers = SeriesStreams(x, x[:1], 5)
    assert (
        Trainer(SequenceRegressor(2, 3, per_step=True, seed=0), Adam(0.01)).fit(numbers, epochs=2, batch_size=2).loss
        > 0
    )
    raises(ValueError, r"`targets` must have shape \(23,\)", lambda: SeriesStreams(x, y[1:], 4))
    raises(ValueError, "the sequence is too short for `batch_size` = 99 streams: it has 23", lambda: data.n_batches(99))


# --- frames ------------------------------------------------------------------------------------------------------

LONG = {
    "who": ["b", "a", "a", "b", "b"],
    "t": [2, 1, 0, 0, 1],
    "x": [3.0, 5.0, 4.0, 1.0, 2.0],
    "n": [30, 50, 40, 10, 20],
    "label": ["run", "sit", "sit", "run", "run"],
}


@pytest.fixture(params=["dict", "pandas", "polars"])
def frame(request):
    if request.param == "dict":
        return dict
    return pytest.importorskip(request.param).DataFrame


def test_sequences_of_frames(frame):
    found = sequences_from_frame(frame(LONG), id="who", time="t", inputs=["x", "n"], target="label")
    assert found.inputs.tolist() == [[[1, 2, 3], [4, 5, 0]], [[10, 20, 30], [40, 50, 0]]]
    assert (found.ids, found.lengths.tolist()) == (["b", "a"], [3, 2])
    assert (found.targets.tolist(), found.classes) == ([0, 1], ["run", "sit"])
    assert len(found.examples()) == 2
    numbers = sequences_from_frame(frame(LONG), id="who", time="t", inputs=["x"], target=["n"], per_step=True)
    assert numbers.targets.tolist() == [[[10, 20, 30], [40, 50, 0]]]
    same = sequences_from_frame(frame(LONG), id="who", inputs=["x"], target="label", classes=["sit", "run"])
    assert same.targets.tolist() == [1, 0]
    assert same.inputs[0, 0].tolist() == [3, 1, 2]
    no_target = sequences_from_frame(frame(LONG), id="who", inputs=["x"])
    raises(ValueError, "pass `target`", no_target.examples)


def test_messages_of_frames(frame):
    def read(inputs=("x",), **changes):
        options = {name: changes.pop(name) for name in ("target", "time", "id") if name in changes}
        return lambda: sequences_from_frame(
            frame({**LONG, **changes}), inputs=inputs, **{"id": "who", "time": "t", **options}
        )

    raises(ValueError, "no column 'labels'; did you mean 'label'", read(target="labels"))
    raises(ValueError, "the column 'x' holds nan in row 3: fill or drop", read(x=[1.0, 2.0, 3.0, np.nan, 5.0]))
    raises(
        TypeError,
        "the column 'label' must hold numbers; got (text|objects), such as 'run' in row 0",
        read(inputs=["label"]),
    )
    raises(ValueError, "the column 't' has 1 twice of 'b', in row", read(t=[1, 1, 0, 0, 1]))
    raises(TypeError, "the column 't' must hold numbers or dates", read(t=["a", "b", "c", "d", "e"]))
    raises(ValueError, "must be one per sequence; 'b' of 'who' has several: pass per_step=True", read(target="n"))
    raises(TypeError, "`inputs` must be a list of names", read(inputs=[]))
    raises(ValueError, "the column 'who' is missing in row 1", read(who=["a", None, "a", "b", "b"]))
    raises(TypeError, "`frame` must be a data frame", lambda: sequences_from_frame(3, id="a", inputs=["b"]))


def test_series_of_frames(frame):
    days = np.array(["2024-01-03", "2024-01-01", "2024-01-02", "2024-01-04", "2024-01-05"], "datetime64[us]")
    table = {"day": days, "load": [3.0, 1.0, 2.0, 4.0, np.nan], "warm": [30, 10, 20, 40, 50], "size": [7] * 5}
    (one,) = series_from_frame(frame(table), target="load", time="day", future=["warm"], static=["size"])
    assert one.targets.tolist() == [[1, 2, 3, 4]]
    assert one.future.tolist() == [[10, 20, 30, 40, 50]]
    assert one.static.tolist() == [7]
    assert len(one.times) == 5
    assert SeriesWindows([one], 2, 1).ahead().shape == (4, 1, 3)
    twice = {name: [*values, *values] for name, values in table.items()} | {"id": [*"aaaaabbbbb"]}
    twice["day"] = np.concatenate([days, days])
    assert [s.id for s in series_from_frame(frame(twice), target="load", time="day", id="id")] == ["a", "b"]
    raises(ValueError, "twice, in row .; pass `id`", lambda: series_from_frame(frame(twice), target="load", time="day"))
    gap = frame(table | {"day": days + np.array([0, 0, 0, 1, 1], "timedelta64[D]")})
    raises(
        ValueError,
        "'day' must be evenly spaced; .* from 2024-01-03",
        lambda: series_from_frame(gap, target="load", time="day"),
    )
    assert len(series_from_frame(gap, target="load", time="day", allow_gaps=True)) == 1
    months = frame(
        {"m": np.array(["2024-01", "2024-02", "2024-03"], "datetime64[M]").astype("datetime64[us]"), "y": [1, 2, 3]}
    )
    assert series_from_frame(months, target="y", time="m")[0].targets.shape == (1, 3)
    raises(
        ValueError,
        "must hold numbers; all are missing",
        lambda: series_from_frame(frame({"t": [0, 1], "y": [np.nan] * 2}), target="y", time="t"),
    )
