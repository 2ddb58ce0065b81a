"""Data that is missing, too large, masked or of the wrong kind: an error that names it, or the right answer."""

import numpy as np
import pytest

from rnnx import losses, metrics
from rnnx.data import (
    Examples,
    Items,
    Scaler,
    Series,
    SeriesStreams,
    SeriesWindows,
    Streams,
    class_weights,
    encode_labels,
    sequences_from_frame,
    sequences_from_wide_frame,
    series_from_frame,
    series_from_wide_frame,
    split_by_group,
)
from rnnx.models import CharModel, SequenceClassifier, SequenceRegressor
from rnnx.optim import Adam
from rnnx.training import Trainer

NAN, INF = np.nan, np.inf


def raises(error, message, call):
    with pytest.raises(error, match=message):
        call()


def with_one(array, value):
    """A copy with another number in the last but one place."""
    changed = np.array(array)
    changed.ravel()[-2] = value
    return changed


# --- models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.asarray, np.ndarray.tolist, lambda a: a.astype(">f8"), lambda a: [*a]])
@pytest.mark.parametrize(("value", "shown"), [(NAN, "nan"), (-INF, "-inf"), (1e39, r"1e\+39 at .*, above 3.4e\+38")])
def test_predictions_need_finite_inputs(kind, value, shown, rng):
    x = rng.standard_normal((2, 3, 4))
    classifier, regressor = SequenceClassifier(2, 3, 2, seed=0), SequenceRegressor(2, 3, loss="gaussian", seed=0)
    for call in (
        classifier.predict,
        classifier.predict_classes,
        regressor.predict,
        regressor.predict_distribution,
        regressor.predict_quantiles,
    ):
        raises(FloatingPointError, f"^`inputs` hold {shown}", lambda call=call: call(kind(with_one(x, value))))
        if not np.isfinite(value):
            call(kind(with_one(x, value)), lengths=[4, 4, 2])  # it is past the end


def test_predictions_need_finite_extra_inputs_and_states(rng):
    x, t = rng.standard_normal((2, 3, 4)), np.ones((3, 4))
    model = SequenceRegressor(2, 3, cell="phased_lstm", seed=0)
    for wrong in (with_one(t, NAN), with_one(t, INF).tolist()):
        raises(FloatingPointError, r"^`extra\['t'\]` hold ", lambda wrong=wrong: model.predict(x, extra={"t": wrong}))
        model.predict(x, extra={"t": wrong}, lengths=[4, 4, 2])
    characters = CharModel(3, 4, seed=0)
    states = {"a_l0": with_one(np.zeros((4, 2), np.float32), NAN)}
    raises(
        FloatingPointError,
        r"^`states\['a_l0'\]` hold nan",
        lambda: characters.predict(np.zeros((2, 3), int), states=states),
    )


def test_what_a_model_cannot_compute_with_is_found_before_the_first_step(rng):
    x, y = rng.standard_normal((1, 4, 3)), rng.standard_normal((1, 4))
    for data, name in ((Examples(with_one(x, 1e39), y), "inputs"), (Examples(x, with_one(y, -1e39)), "targets")):
        trainer = Trainer(SequenceRegressor(1, 2, seed=0), Adam())
        message = f"`train` is not usable: `{name}` hold -?1e.39"
        raises(FloatingPointError, message, lambda d=data, t=trainer: t.fit(d, epochs=1))
        wide = SequenceRegressor(1, 2, seed=0, dtype="float64")
        Trainer(wide, Adam()).fit(data, epochs=1)


def test_states_are_not_carried_backwards_in_time(rng):
    model = SequenceRegressor(1, 2, bidirectional=True, per_step=True, seed=0)
    numbers = SeriesStreams(rng.standard_normal((1, 20)), rng.standard_normal((1, 20)), 4)
    raises(ValueError, "bidirectional model cannot read streams", lambda: Trainer(model, Adam()).fit(numbers, epochs=1))
    classes = SequenceClassifier(3, 2, 3, bidirectional=True, per_step=True, seed=0)
    text = Streams(rng.integers(0, 3, 20), 4)
    raises(ValueError, "bidirectional model cannot read streams", lambda: Trainer(classes, Adam()).fit(text, epochs=1))


def test_names_of_classes_are_of_one_kind():
    for names in (["a", 1], [False, 2]):
        raises(TypeError, "all text, all integers", lambda names=names: SequenceClassifier(1, 2, 2, classes=names))


def test_losses_take_booleans_as_classes(rng):
    y, classes = rng.standard_normal((2, 3, 4)), rng.integers(0, 2, (3, 4))
    loss = losses.CrossEntropy()
    assert loss(y, classes == 1)[0] == loss(y, classes)[0]


# --- datasets ----------------------------------------------------------------------------------------------------


def test_items_are_checked_when_they_are_read(rng):
    def read(*items, **options):
        return lambda: next(Items([(np.ones((2, 2)), 0), *items], **options).batches(8))

    masked = np.ma.masked_equal([[1.0, 2.0]], 2.0)
    raises(FloatingPointError, r"source\[1\]: `inputs` hold nan at index \(0, 1\)", read(([[1.0, NAN]], 1)))
    raises(FloatingPointError, r"source\[1\]: `target` hold inf", read(([[1.0, 2.0]], INF)))
    raises(TypeError, "examples .* do not fit: .*mask would be lost", read((masked, 1)))
    raises(TypeError, r"`source\[1\]: target` must be an array .*mask", read(([[1.0, 2.0]], np.ma.masked_equal(1, 1))))
    raises(TypeError, r"source\[1\]: target` must hold real numbers; .*encode_labels", read(([[1.0, 2.0]], ["a"])))
    raises(ValueError, "do not fit: `values.1.` must have rows of equal length", read(([[1.0, 2.0], [1.0]], 1)))
    raises(
        ValueError,
        r"source\[1\] must have a target of shape \(\), as source\[0\]; got \(2,\)",
        read(([[1, 2]], [0, 1])),
    )
    raises(ValueError, "`axes` must be one of", read(axes="ntf"))
    raises(TypeError, "must have examples as its items; got columns, in dict", lambda: Items({"inputs": [1]}))
    assert read(([[1.0, 2.0]], np.True_))().targets.tolist() == [0, 1]
    float_labels = next(Items([(np.ones((2, 2)), 0.0), (np.ones((2, 2)), 1.0)]).batches(2))
    raises(
        ValueError, r"pass targets\[0\].astype\(int\)", lambda: SequenceClassifier(2, 3, 2, seed=0).loss(float_labels)
    )


def test_text_as_targets_has_a_way_out():
    raises(
        TypeError, "`targets` must hold real numbers; .*encode_labels", lambda: Examples(np.ones((1, 2, 3)), ["a", "b"])
    )
    raises(ValueError, "pad numbers with `rnnx.data.as_sequences`", lambda: Examples([[[1.0], [1.0, 2.0]]], [0, 1]))


def test_series_and_their_windows():
    raises(
        ValueError, r"`times` must have at least the T = 3 steps .* got \(2,\)", lambda: Series([1, 2, 3], times=[0, 1])
    )
    raises(ValueError, r"`future` .* got 1; of shape \(3, 1\), pass", lambda: Series([1, 2, 3], future=[[1], [2], [3]]))
    windows = SeriesWindows(np.arange(9.0), 3, 2)
    for chosen, error in (([-1], ValueError), ([5], ValueError), ([0.5], TypeError)):
        raises(error, "`chosen` must", lambda chosen=chosen: windows.gather(chosen))


def test_scalers_see_what_they_cannot_scale():
    raises(ValueError, "`values` must be finite .*; feature 0 has inf", lambda: Scaler.fit(np.array([[1.0, INF]])))
    raises(ValueError, r"below 1e\+150; feature 0 has 1e\+300", lambda: Scaler.fit(np.array([[1.0, -1e300]])))
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    clipping = preprocessing.MinMaxScaler(clip=True).fit([[0.0], [1.0]])
    raises(TypeError, "must scale and shift each feature; got MinMaxScaler, which clips", lambda: Scaler.of(clipping))


def missing_values():
    yield None
    yield NAN
    yield np.datetime64("NaT")
    try:
        import pandas as pd
    except ImportError:
        return
    yield pd.NA
    yield pd.NaT


@pytest.mark.parametrize("missing", [*missing_values()], ids=repr)
def test_missing_labels_groups_and_ids(missing):
    column = np.array(["a", "b", missing], object)
    raises(ValueError, "`labels` must not be missing; got .* at index 2", lambda: encode_labels(column))
    raises(ValueError, "`groups` must not be missing; got .* at index 2", lambda: split_by_group(column))
    frame = {"id": column, "x": [1.0, 2.0, 3.0]}
    raises(
        ValueError, "the column 'id' is missing in row 2", lambda: sequences_from_frame(frame, id="id", inputs=["x"])
    )


def test_labels_and_groups_are_not_merged():
    for labels in ([True, 1], ["1", 1], np.array([False, 2], object)):
        raises(TypeError, "`labels` must be of one kind", lambda labels=labels: encode_labels(labels))
    raises(ValueError, "`classes` must be different names", lambda: encode_labels(["a"], ["a", "a"]))
    for wrong in ("abc", {"a"}, 3, np.array("a")):
        raises(TypeError, "`labels` must be a list or an array", lambda wrong=wrong: encode_labels(wrong))
    raises(TypeError, "`classes` must be a list or an array", lambda: encode_labels(["a"], "abc"))
    raises(TypeError, "must be text, integers", lambda: encode_labels(np.array(["2024-01-01"], "datetime64[ns]")))
    first, second = split_by_group(np.array([1, "1", 2, "1"], object), 0.3)
    assert (1 in first) == (3 in first)
    assert len(first) + len(second) == 4
    raises(TypeError, "`groups` must not be a masked array", lambda: split_by_group(np.ma.masked_equal([1, 2, 3], 2)))


def test_weights_of_rare_classes():
    assert class_weights([0, 10**12, 10**12]).tolist() == [1.5, 0.75, 0.75]
    for wrong in (3, None, {1, 2}):
        raises(
            TypeError,
            "`weights` must be 'balanced', or a dict or list",
            lambda wrong=wrong: class_weights([0, 1], wrong),
        )


# --- frames ------------------------------------------------------------------------------------------------------


def test_columns_of_frames():
    def read(frame, name="x"):
        return lambda: sequences_from_frame(frame, id="id", inputs=[name])

    table = {"id": [0, 0], "x": [1.0, 2.0]}
    raises(ValueError, "the column 'x' must have the 2 rows of 'id'; got 3", read({**table, "x": [1.0, 2.0, 3.0]}))
    raises(ValueError, r"the column 'x' must have shape \(rows,\); got \(2, 1\)", read({**table, "x": np.ones((2, 1))}))
    raises(TypeError, "'x' must not be a masked array", read({**table, "x": np.ma.masked_equal([1, 2], 2)}))
    raises(TypeError, "must hold numbers; got complex numbers", read({**table, "x": [1j, 2.0]}))
    times = {"t": [0.0, INF], **table}
    raises(ValueError, "'t' holds inf in row 1", lambda: sequences_from_frame(times, id="id", time="t", inputs=["x"]))
    assert sequences_from_frame({0: [1, 1], 1: [2.0, 3.0]}, id=0, inputs=[1]).lengths.tolist() == [2]
    assert sequences_from_frame({0: [1, 2], 1: [2.0, 3.0], 2: [5, 4]}, id=0, inputs=[1], target=2).classes == [4, 5]


def test_columns_of_pandas():
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({"id": [0, 0, 1], "x": [1.0, 2.0, 3.0]})

    def read(frame):
        return sequences_from_frame(frame, id="id", inputs=["x"])

    raises(ValueError, "has 2 columns 'x'", lambda: read(pd.concat([table, table[["x"]]], axis=1)))
    raises(ValueError, "no column 'id'; it is the index: pass frame.reset_index", lambda: read(table.set_index("id")))
    unsure = table.assign(x=pd.array([True, None, False], dtype="boolean"))
    raises(ValueError, "'x' holds nan in row 1: fill or drop", lambda: read(unsure))
    assert sequences_from_frame(table, id="id", inputs=table.columns[1:]).inputs.shape == (1, 2, 2)
    days = pd.to_datetime(["2024-01-02", "2024-01-01", "2024-01-03"])
    for times in (days, days.tz_localize("Europe/Berlin"), days.to_period("D"), days.date):
        (series,) = series_from_frame(pd.DataFrame({"t": times, "y": [2.0, 1.0, 3.0]}), time="t", target="y")
        assert series.targets.tolist() == [[1, 2, 3]]
    zoned = pd.DataFrame({"t": days.tz_localize("Europe/Berlin"), "y": [1, 2, 3]})
    assert series_from_frame(zoned, time="t", target="y")[0].times[0] == np.datetime64("2023-12-31T23:00")
    raises(
        ValueError,
        "'t' is missing in row 1",
        lambda: series_from_frame(zoned.assign(t=[days[0], None, days[1]]), time="t", target="y"),
    )


def test_lazy_frames_are_collected_first():
    pl = pytest.importorskip("polars")
    lazy = pl.DataFrame({"id": [0], "x": [1.0]}).lazy()
    raises(TypeError, "got LazyFrame: pass frame.collect", lambda: sequences_from_frame(lazy, id="id", inputs=["x"]))


@pytest.fixture(params=["dict", "pandas", "polars"])
def frame(request):
    return dict if request.param == "dict" else pytest.importorskip(request.param).DataFrame


def test_a_column_for_each_step(frame):
    table = frame(
        {
            "who": ["p", "q"],
            "label": ["run", "sit"],
            "y": [0.5, 1.5],
            **{"x0": [1.0, 4.0], "x1": [2.0, 5.0], "x2": [3.0, None]},
            **{"z0": [1, 2], "z1": [3, 4], "z2": [5, None]},
        }
    )
    found = sequences_from_wide_frame(table, steps=["x0", "x1", "x2"], id="who", target="label")
    assert found.inputs.tolist() == [[[1, 2, 3], [4, 5, 0]]]
    assert (found.lengths.tolist(), found.ids, found.classes) == ([3, 2], ["p", "q"], ["run", "sit"])
    both = {"x": ["x0", "x1", "x2"], "z": ["z0", "z1", "z2"]}
    two = sequences_from_wide_frame(table, steps=both, target=["y"])
    assert two.inputs[:, 1].tolist() == [[4, 5, 0], [2, 4, 0]]
    assert (two.targets.tolist(), two.ids) == ([[0.5, 1.5]], [0, 1])
    model = SequenceClassifier(1, 2, 2, seed=0)
    Trainer(model, Adam()).fit(found.examples(), epochs=1)
    wide = sequences_from_wide_frame
    raises(
        ValueError,
        r"as many columns for each feature; got \[1, 2\]",
        lambda: wide(table, steps={"a": ["x0"], "b": ["z0", "z1"]}),
    )
    raises(
        ValueError,
        "'x2' must hold a number in row 1, like .* at the end of a row",
        lambda: wide(table, steps=["x0", "x2", "x1"]),
    )
    raises(TypeError, "`steps` must be a list of names", lambda: wide(table, steps=[]))
    raises(TypeError, "'label' must hold numbers", lambda: wide(table, steps=["label"]))
    raises(
        ValueError,
        "a name of its own for each of the 2 rows",
        lambda: wide(frame({"i": [1, 1], "a": [1, 2]}), steps=["a"], id="i"),
    )
    raises(
        ValueError,
        "`labels` must be among the classes",
        lambda: wide(table, steps=["x0"], target="label", classes=["run"]),
    )


def test_a_column_for_each_series(frame):
    table = {"t": [2, 0, 1, 3], "a": [3.0, 1.0, 2.0, None], "b": [6.0, None, 5.0, 7.0], "warm": [30, 10, 20, 40]}
    a, b = series_from_wide_frame(frame(table), time="t", future=["warm"])
    assert (a.id, a.targets.tolist(), a.future.tolist(), a.times.tolist()) == (
        "a",
        [[1, 2, 3]],
        [[10, 20, 30, 40]],
        [0, 1, 2, 3],
    )
    assert (b.id, b.targets.tolist(), b.future.tolist(), b.times.tolist()) == (
        "b",
        [[5, 6, 7]],
        [[20, 30, 40]],
        [1, 2, 3],
    )
    assert SeriesWindows([a, b], 2, 1).n_inputs == 3
    (only,) = series_from_wide_frame(frame(table), targets=["a"])
    assert only.targets.tolist() == [[3, 1, 2]]
    late = frame({**table, "t": [2, 0, 1, 9]})
    raises(ValueError, "'t' must be evenly spaced", lambda: series_from_wide_frame(late, time="t"))
    assert len(series_from_wide_frame(late, time="t", allow_gaps=True)) == 3
    raises(
        ValueError,
        "'t' has 1 twice, in row",
        lambda: series_from_wide_frame(frame({**table, "t": [1, 1, 2, 3]}), time="t"),
    )
    empty = frame({"t": [0.0], "a": [NAN]})
    raises(ValueError, "'a' must hold numbers; all are missing", lambda: series_from_wide_frame(empty, time="t"))


# --- metrics -----------------------------------------------------------------------------------------------------


def test_metrics_count_nothing_that_is_not_there():
    bad = [[NAN, 0.1], [NAN, 0.9]]
    raises(ValueError, "`predictions` must be finite; got nan at index", lambda: metrics.accuracy([0, 1], bad))
    raises(ValueError, "`targets` must be classes in .0, 2.", lambda: metrics.f1_score([-1, 1], np.full((2, 2), 0.5)))
    raises(
        ValueError,
        "`predictions` must be classes, .* got 0.2; of probabilities",
        lambda: metrics.accuracy([0, 1], [0.2, 0.9]),
    )
    raises(ValueError, "`targets` must be finite; got nan", lambda: metrics.coverage([NAN], [0.0], [1.0]))
    raises(ValueError, "`lower` must be finite; got nan", lambda: metrics.coverage([1.0], [NAN], [1.0]))
    raises(ValueError, "`predictions` must be finite", lambda: metrics.mean_absolute_error([1.0], [NAN]))
    raises(
        ValueError,
        "`history` must be finite",
        lambda: metrics.mean_absolute_scaled_error([1.0], [1.0], [1.0, NAN, 2.0]),
    )
    raises(ValueError, "`targets` must be 0 or 1, .* got 2", lambda: metrics.roc_auc([1, 2], [0.1, 0.9]))
    raises(
        ValueError, "`targets` must be classes in .0, 3.; got 0 to 7", lambda: metrics.roc_auc([0, 7], np.ones((3, 2)))
    )
    assert metrics.accuracy(["run", "sit"], np.array(["run", "run"])) == 0.5
    assert metrics.f1_score(["run", "sit"], ["run", "sit"]) == 1
    raises(TypeError, "both hold names, or both integers", lambda: metrics.accuracy(["run"], [0]))
    raises(ValueError, "needs the classes 0 and 1", lambda: metrics.f1_score(["a"], ["a"], average="binary"))
