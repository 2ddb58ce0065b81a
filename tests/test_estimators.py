"""Estimators in scikit-learn's protocol, and the forecaster in sktime's."""

import copy
import importlib
import pickle
import sys
import warnings

import numpy as np
import pytest

import rnnx
from rnnx.data import Scaler, Series, split_by_group
from rnnx.losses import Gaussian
from rnnx.training import Checkpoint, load_checkpoint, save_checkpoint

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from rnnx.estimators import Forecaster, SequenceClassifier, SequenceRegressor

FAST = {"epochs": 2, "random_state": 0}


def raises(kind, match, call):
    with pytest.raises(kind, match=match):
        call()


@pytest.fixture(autouse=True)
def reference():
    with rnnx.use_engine("reference"):  # nothing to compile
        yield


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "epochs", "rate"), [(SequenceClassifier, 10, 0.1), (SequenceRegressor, 20, 0.05)]
)
def test_the_checks_of_scikit_learn(estimator, epochs, rate):
    """In float64, because in float32 the last digits of a prediction depend on the size of its batch."""
    failing = {
        "check_sample_weight_equivalence_on_dense_data": "the batches of a weighted set are other ones",
        "check_sample_weights_invariance": "the same, in older versions",
    }
    model = estimator(4, epochs=epochs, learning_rate=rate, batch_size=16, dtype="float64", random_state=0)
    with warnings.catch_warnings(), rnnx.use_engine("cpu"):
        warnings.simplefilter("ignore")
        check_estimator(model, expected_failed_checks=failing, on_skip=None)


def unequal(rng, n=24):
    """Sequences (T, 2) of unequal lengths, and labels."""
    sequences = [rng.standard_normal((k, 2)) for k in rng.integers(3, 8, n)]
    return sequences, np.array(["up" if s[:, 0].sum() > 0 else "down" for s in sequences])


def test_all_forms_of_sequences_are_the_same(rng):
    x, y = rng.standard_normal((12, 5, 2)), rng.integers(0, 2, 12)
    table = {"who": np.repeat(np.arange(12), 5), "t": np.tile(np.arange(5), 12)}
    table |= {"a": x[..., 0].ravel(), "b": x[..., 1].ravel(), "label": np.repeat(y, 5)}
    expected = SequenceClassifier(4, **FAST).fit(x, y).predict_proba(x)
    assert expected.shape == (12, 2)
    forms = [
        ({"axes": "nft"}, x.transpose(0, 2, 1), y),
        ({}, [*x], y),
        ({}, x.tolist(), y.tolist()),
        ({"id": "who", "time": "t"}, table, "label"),
        ({"id": "who", "time": "t"}, {k: v for k, v in table.items() if k != "label"}, y),
    ]
    for options, X, target in forms:
        model = SequenceClassifier(4, **FAST, **options).fit(X, target)
        np.testing.assert_array_equal(model.predict_proba(X), expected)
        assert model.score(X, target) == np.mean(y == expected.argmax(axis=1))
        assert model.n_features_in_ == 2
    flat, one = x[..., 0], SequenceRegressor(4, **FAST)
    expected = one.fit(flat, flat[:, 0]).predict(flat)
    np.testing.assert_array_equal(clone(one).fit(x[..., :1], flat[:, 0]).predict(x[..., :1]), expected)


def test_sequences_of_unequal_lengths_in_searches_and_pipelines(rng, tmp_path):
    x, y = unequal(rng)
    search = GridSearchCV(SequenceClassifier(**FAST, dtype="float64"), {"hidden_size": [2, 3]}, cv=2).fit(x, y)
    assert search.best_params_["hidden_size"] in (2, 3)
    assert set(search.predict(x)) <= {"up", "down"}
    best = search.best_estimator_
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(best)).predict_proba(x), best.predict_proba(x))
    save_checkpoint(tmp_path / "m", Checkpoint(best.model_))
    assert load_checkpoint(tmp_path / "m").model.classes == ["down", "up"]
    assert cross_val_score(SequenceClassifier(2, **FAST), x, y, cv=2).shape == (2,)
    doubled = FunctionTransformer(lambda X: [2 * row for row in X])
    pipeline = make_pipeline(doubled, SequenceClassifier(2, **FAST)).fit(x, y)
    assert pipeline.predict(x).shape == (24,)
    scaled = make_pipeline(StandardScaler(), SequenceRegressor(2, **FAST)).fit(
        rng.standard_normal((9, 4)), np.arange(9)
    )
    assert scaled.predict(np.zeros((3, 4))).shape == (3,)


def test_weights_validation_and_several_numbers(rng):
    x, y = unequal(rng)
    weighted = SequenceClassifier(3, **FAST, class_weight="balanced").fit(x, y, np.ones(24))
    assert weighted.history_[-1]["epoch"] == 2
    assert weighted.history_[-1]["validation_loss"] is None
    stopped = SequenceClassifier(3, random_state=0, patience=1, learning_rate=1.0, epochs=30).fit(x, y)
    assert len(stopped.history_) < 30
    numbers = np.array([[r.sum(), 1000 + r[0, 0]] for r in x])
    model = SequenceRegressor(3, **FAST).fit(x, numbers)
    assert model.predict(x).shape == (24, 2)
    assert abs(model.predict(x)[:, 1] - 1000).max() < 10
    counts = SequenceRegressor(3, loss="poisson", **FAST).fit(x, rng.poisson(3, 24))
    assert (counts.predict(x) > 0).all()


def test_integers_and_booleans_are_features(rng):
    x = rng.integers(0, 3, (8, 4, 2))
    y = np.arange(8) % 2
    for kind in (int, "uint8", bool):
        model = SequenceClassifier(2, **FAST).fit(x.astype(kind), y)
        expected = SequenceClassifier(2, **FAST).fit(x.astype(kind).astype(float), y)
        np.testing.assert_array_equal(model.predict_proba(x.astype(kind)), expected.predict_proba(x.astype(kind) * 1.0))


def test_wrong_sequences(rng):
    x, y = unequal(rng)
    model = SequenceClassifier(2, **FAST).fit(x, y)
    raises(
        ValueError, "`X` must have 2 features per step, as in `fit`; got 3", lambda: model.predict(np.zeros((1, 4, 3)))
    )
    raises(ValueError, r"`X\[1\]` must not hold NaN", lambda: model.predict([x[0], x[1] * np.nan]))
    raises(ValueError, r"`X` must not hold NaN", lambda: model.predict(np.full((1, 4, 2), np.nan)))
    raises(
        ValueError,
        r"X\[1\] must have the 2 features of X\[0\]",
        lambda: model.fit([np.ones((3, 2)), np.ones((3, 1))], y),
    )
    raises(ValueError, "one target for each of the n = 24 sequences of `X`; got 23", lambda: model.fit(x, y[:-1]))
    raises(ValueError, "`y` may be a column only of a data frame", lambda: model.fit(x, "label"))
    raises(ValueError, "`axes` must be 'ntf' or 'nft'", lambda: SequenceClassifier(axes="tnf").fit(x, y))
    raises(TypeError, "`X` must not be a masked array", lambda: model.predict(np.ma.ones((1, 4, 2))))
    raises(ValueError, "`epochs` must be", lambda: SequenceClassifier(epochs=0).fit(x, y))
    raises(ValueError, "`optimizer` must be one of", lambda: SequenceClassifier(optimizer="adm").fit(x, y))
    frame = {"who": [1, 1], "x": [0.0, 1.0], "label": ["a", "a"]}
    fitted = SequenceClassifier(2, id="who", **FAST).fit(frame, "label")
    raises(ValueError, "no column 'x'", lambda: fitted.predict({"who": [1], "z": [1.0]}))


def masked(array):
    return np.ma.masked_greater(array, np.max(array) - 1e-9)


NUMBERS = np.random.default_rng(0).standard_normal((12, 4, 2))
LABELS = np.array(["up", "down"] * 6)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, r"`y` must not be a masked array", lambda m: m.fit(NUMBERS, masked(np.arange(12) % 2))),
        (TypeError, r"`X` must not be a masked array", lambda m: m.fit(masked(NUMBERS[..., 0]), LABELS)),
        (TypeError, r"`sample_weight` must not be a masked", lambda m: m.fit(NUMBERS, LABELS, masked(np.arange(12.0)))),
        (ValueError, r"`y` must not be missing; got None at index 11", lambda m: m.fit(NUMBERS, [*LABELS[:11], None])),
        (ValueError, r"`y` must not be missing; got nan at index 11", lambda m: m.fit(NUMBERS, [*LABELS[:11], np.nan])),
        (ValueError, r"`X` must hold at least one sequence, step", lambda m: m.fit(NUMBERS[:, :0], LABELS)),
        (ValueError, r"`X` must hold at least one sequence, step", lambda m: m.fit([NUMBERS[0, :0]] * 12, LABELS)),
        (ValueError, r"`X` must hold at least one sequence, step", lambda m: m.fit(NUMBERS[..., :0], LABELS)),
        (ValueError, r"`X` must have shape .* got \(1, 12, 4, 2\)", lambda m: m.fit(NUMBERS[None], LABELS)),
        (TypeError, r"`X` must be .* got generator: pass list", lambda m: m.fit((x for x in NUMBERS), LABELS)),
        (ValueError, r"`X` must be finite and below", lambda m: m.fit(NUMBERS * 1e200, LABELS)),
        (ValueError, r".* of one, \(T, n_x\), pass X", lambda m: m.fit(NUMBERS, LABELS).predict(NUMBERS[0])),
        (FloatingPointError, r"`X` hold .*e", lambda m: m.fit(NUMBERS, LABELS).predict(NUMBERS * 1e200)),
    ],
)
def test_data_that_estimators_refuse(error, message, call):
    raises(error, message, lambda: call(SequenceClassifier(2, **FAST)))


def test_labels_keep_their_kind():
    pandas = pytest.importorskip("pandas")
    for labels, expected in (
        (pandas.array([1, 2] * 6, dtype="Int64"), [1, 2]),
        (pandas.array([True, False] * 6, dtype="boolean"), [False, True]),
        (pandas.Series(LABELS, dtype="category"), ["down", "up"]),
    ):
        classes = SequenceClassifier(2, **FAST).fit(NUMBERS, labels).classes_.tolist()
        assert classes == expected
        assert {type(c) for c in classes} == {type(c) for c in expected}
    missing = pandas.array([1, None] * 6, dtype="Int64")
    raises(ValueError, "`y` must not be missing", lambda: SequenceClassifier(2, **FAST).fit(NUMBERS, missing))


def test_arrays_of_objects_and_tables_after_lists():
    flat = [row[: 2 + k % 3, 0] for k, row in enumerate(NUMBERS)]
    held = np.empty(12, object)
    held[:] = flat
    model = SequenceClassifier(2, **FAST).fit(held, LABELS)
    np.testing.assert_array_equal(model.predict_proba(held), model.predict_proba(flat))
    whole = NUMBERS[..., 0]
    np.testing.assert_array_equal(model.predict_proba(whole), model.predict_proba(whole[..., None]))


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for name in [name for name in sys.modules if name.startswith("rnnx.estimators")]:
        monkeypatch.delitem(sys.modules, name)
    raises(ImportError, "needs scikit-learn: pip install", lambda: importlib.import_module("rnnx.estimators"))


# --- forecasts ---------------------------------------------------------------------------------------------------


def wave(n=60, season=6):
    return 10 + np.sin(2 * np.pi * np.arange(n) / season)


def test_a_forecaster_of_arrays():
    y = wave()
    model = Forecaster(4, season=6, **FAST).fit(y, fh=[1, 3])
    assert model.cutoff == 60
    assert model.predict().shape == (2,)
    np.testing.assert_allclose(model.predict(fh=3), model.predict()[1:])
    quantiles = model.predict_quantiles()
    assert quantiles.shape == (2, 3)
    assert (np.diff(quantiles, axis=1) >= 0).all()
    np.testing.assert_array_equal(quantiles[:, 1], model.predict())
    np.testing.assert_array_equal(model.predict_quantiles(alpha=0.9)[:, 0], quantiles[:, 2])
    np.testing.assert_array_equal(model.predict_interval(coverage=0.8), quantiles[:, [0, 2]])
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(), model.predict())
    np.testing.assert_allclose(model.predict(), wave(63)[[60, 62]], atol=0.05)  # the naive forecast is right
    assert again.update(wave(63)[60:]).cutoff == 63
    np.testing.assert_allclose(again.predict(fh=1), wave(64)[63:], atol=0.05)
    several = Forecaster(4, horizon=2, patience=1, **FAST).fit(np.stack([y, 2 * y], axis=1))
    assert several.predict().shape == (2, 2)
    assert several.predict_quantiles(fh=1).shape == (1, 2, 3)
    found = Forecaster(4, **FAST).fit([y, y[:40], Series(y)], fh=2).predict()
    assert [one.shape for one in found] == [(1,)] * 3


def counts(**options):
    return Forecaster(4, loss="poisson", season=None, **FAST, **options)


@pytest.mark.parametrize("loss", ["quantile", "gaussian", Gaussian(), "student_t", "poisson"], ids=str)
def test_quantiles_of_a_distribution(loss, rng):
    y = rng.poisson(1000, 80).astype(float)
    model = counts() if loss == "poisson" else Forecaster(4, loss=loss, quantiles=(0.2, 0.5, 0.8), **FAST)
    model = model.set_params(quantiles=(0.2, 0.5, 0.8)).fit(y, fh=[1, 3])
    own = model.predict_quantiles()
    assert own.shape == (2, 3)
    assert (np.diff(own, axis=1) > 0).all()
    np.testing.assert_array_equal(model.predict_interval(coverage=0.6), own[:, [0, 2]])
    np.testing.assert_array_equal(model.predict_quantiles(alpha=[0.8, 0.2]), own[:, [2, 0]])
    if loss == "quantile":
        return
    wide = model.predict_interval(coverage=0.99)
    assert (wide[:, 0] < own[:, 0]).all()
    assert (wide[:, 1] > own[:, 2]).all()
    assert abs(model.predict() / 1000 - 1).max() < 0.5  # rates begin near the mean of the counts, not at 1
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_quantiles(), own)


def test_what_is_held_out_is_not_in_the_scalers(rng):
    x = rng.standard_normal((40, 5, 1))
    model = SequenceRegressor(2, patience=1, validation_fraction=0.25, **FAST)
    model.fit(x, x[:, 0, 0])
    seed = model._seed()
    train, held = split_by_group(np.arange(40), 0.25, rng=seed)
    assert len(held) == 10
    assert model.model_.config["input_scaler"] == Scaler.fit(x[train].transpose(2, 0, 1)).config
    assert model.model_.config["target_scaler"] == Scaler.fit(x[train][:, 0].T).config
    y = np.array(["a"] * 30 + ["b"] * 9 + ["c"])
    classifier = SequenceClassifier(2, patience=1, **FAST).fit(x, y)
    assert [*classifier.classes_] == ["a", "b", "c"]
    raises(ValueError, "`patience` needs at least 2 examples of a class", lambda: classifier.fit(x[:9], np.arange(9)))
    raises(ValueError, "`patience` needs at least 2 examples, so", lambda: model.fit(x[:1], [1.0]))


def test_what_is_known_in_advance():
    y, x = wave(), np.arange(62.0)
    model = Forecaster(4, **FAST).fit(y, x, fh=[1, 2])
    later = Forecaster(4, **FAST).fit(y, x[:60], fh=[1, 2]).predict(X=x[60:])
    np.testing.assert_allclose(later, model.predict(), atol=0.05)  # the scaler of X has seen less
    np.testing.assert_array_equal(model.predict(fh=1, X=x[60:61]), model.predict()[:1])
    raises(ValueError, "`X` must have the 2 steps after the last one of `y`; got 1", lambda: model.predict(X=x[60:61]))
    raises(ValueError, "`X` must have 1 columns", lambda: model.predict(X=np.ones((2, 3))))
    both = Forecaster(4, **FAST).fit([y, y], [x[:60], x[:60]], fh=1)
    assert len(both.predict(X=[x[60:], x[60:]])) == 2
    raises(ValueError, "`X` must be a list as long as `y`, 2", lambda: both.predict(X=x[60:]))
    one = Forecaster(4, **FAST).fit([y], [x[:60]], fh=1)
    assert len(one.predict(X=[x[60:]])) == 1
    plain = Forecaster(4, **FAST).fit(y, fh=1)
    raises(ValueError, "`X` must be given to `fit`, too", lambda: plain.predict(X=x[60:]))


def test_a_forecaster_of_pandas():
    pandas = pytest.importorskip("pandas")
    index = pandas.period_range("2020-01", periods=60, freq="M")
    model = Forecaster(4, season=6, **FAST).fit(pandas.Series(wave(), index, name="load"), fh=[1, 3])
    assert model.predict().name == "load"
    assert [str(month) for month in model.predict().index] == ["2025-01", "2025-03"]
    assert [*model.predict_quantiles(alpha=[0.1]).columns] == [("load", 0.1)]
    assert [*model.predict_interval().columns] == [("load", 0.8, "lower"), ("load", 0.8, "upper")]
    more = pandas.Series([1.0], pandas.period_range("2025-01", periods=1, freq="M"))
    assert str(model.update(more).predict().index[0]) == "2025-02"
    raises(ValueError, "`y` must begin after 2025-01", lambda: model.update(more))
    days = pandas.date_range("2024-01-01", periods=60, freq="D")
    frame = pandas.DataFrame({"a": wave(), "b": 1 + wave()}, days)
    found = Forecaster(4, **FAST).fit(frame, fh=2).predict()
    assert [*found.columns] == ["a", "b"]
    assert str(found.index[0].date()) == "2024-03-02"
    holes = pandas.Series(wave(4), pandas.to_datetime(["2024-01-01", "2024-01-02", "2024-01-09", "2024-01-10"]))
    raises(ValueError, "must have a frequency", lambda: Forecaster().fit(holes, fh=1))
    gap = pandas.Series(wave(), index.append(index[-1:] + 2)[[*range(59), 60]])
    raises(ValueError, "must be evenly spaced", lambda: Forecaster().fit(gap, fh=1))
    raises(ValueError, "must increase", lambda: Forecaster().fit(frame[::-1], fh=1))
    twice = pandas.Series(wave(3), days[[0, 1, 1]])
    raises(ValueError, "the index of `y` has 2024-01-02 00:00:00 twice", lambda: Forecaster().fit(twice, fh=1))
    raises(
        TypeError, "dates, periods or numbers", lambda: Forecaster().fit(pandas.Series([1.0, 2.0], ["b", "a"]), fh=1)
    )
    late = pandas.Series([1.0], pandas.period_range("2025-04", periods=1, freq="M"))
    raises(ValueError, "`y` must go on at 2025-02; got 2025-04", lambda: model.update(late))
    assert str(model.predict().index[0]) == "2025-02"  # nothing has changed


def test_columns_of_pandas():
    pandas = pytest.importorskip("pandas")
    days, fit = pandas.date_range("2024-01-01", periods=62, freq="D"), Forecaster(4, **FAST).fit
    x = pandas.Series(np.arange(62.0), days)
    model = fit(pandas.Series(wave(), days[:60]), x[:60], fh=[1, 2])
    assert len(model.predict(X=x[60:])) == 2
    raises(
        ValueError, "the index of `X` must be 2024-03-01 .* in row 0; got 2024-02-29", lambda: model.predict(X=x[59:61])
    )
    raises(ValueError, "the index of `X` must be 2024-01-02", lambda: fit(pandas.Series(wave(), days[1:61]), x, fh=1))
    kinds = {"a": pandas.array(wave(), dtype="Float64"), "b": wave().astype(object)}
    assert fit(pandas.DataFrame(kinds), fh=1).predict().shape == (1, 2)
    raises(
        TypeError,
        "the column 'c' must hold numbers; got objects, such as 'x'",
        lambda: fit(pandas.DataFrame({"c": ["x"] * 60}), fh=1),
    )
    local = pandas.date_range("2024-03-30", periods=60, freq="h", tz="Europe/Berlin")
    assert fit(pandas.Series(wave(), local), fh=1).predict().index[0] == local[-1] + pandas.Timedelta("1h")
    raises(
        ValueError,
        "2024-03-31 03:00:00 comes after 2024-03-31 01",
        lambda: fit(pandas.Series(wave(), local.tz_localize(None)), fh=1),
    )


def test_columns_are_found_by_name():
    pandas = pytest.importorskip("pandas")
    days = pandas.date_range("2024-01-01", periods=62, freq="D")
    x = pandas.DataFrame({"a": np.arange(62.0), "b": np.arange(62.0) ** 2}, days)
    y = pandas.DataFrame({"p": wave(), "q": 5 - wave()}, days[:60])
    model = Forecaster(4, **FAST).fit(y, x[:60], fh=[1, 2])
    pandas.testing.assert_frame_equal(model.predict(X=x[60:][["b", "a"]]), model.predict(X=x[60:]))
    raises(
        ValueError,
        r"`X` must have the columns of `fit`, \['a', 'b'\]",
        lambda: model.predict(X=x[60:].rename(columns=str.upper)),
    )
    days_later = pandas.DataFrame({"p": [0.5], "q": [4.5]}, days[60:61])  # one day has no frequency of its own
    raises(ValueError, "columns of `fit`", lambda: model.update(days_later.rename(columns={"p": "r"}), x[60:61]))
    expected = copy.deepcopy(model).update(days_later, x[60:61]).predict(X=x[61:], fh=1)
    found = model.update(days_later[["q", "p"]], x[60:61][["b", "a"]]).predict(X=x[61:], fh=1)
    pandas.testing.assert_frame_equal(found, expected)
    gap = pandas.DataFrame({"p": [1.0, 1.0], "q": [1.0, 1.0]}, days[[61, 61]] + pandas.to_timedelta([0, 2], "D"))
    raises(
        ValueError,
        "`y` must go on at 2024-03-03 00:00:00; got 2024-03-04",
        lambda: model.update(gap, x[60:62].to_numpy()),
    )
    series = Series(wave(), future=np.arange(60.0))
    fit = Forecaster(4, patience=2, validation_fraction=0.9, **FAST).fit
    raises(
        ValueError, r"`y` must have shape \(T,\) or \(T, n\); got \(2, 3, 4\)", lambda: fit(np.ones((2, 3, 4)), fh=1)
    )
    raises(
        ValueError,
        r"`X` must have at least the 60 steps of `y`; got shape \(3, 60\): pass X.T",
        lambda: fit(wave(), np.ones((3, 60)), fh=1),
    )
    raises(ValueError, "`validation_fraction`: holding out 54 leaves no window", lambda: fit(wave(), fh=range(1, 10)))
    raises(ValueError, "`X` must be None for a `Series`", lambda: Forecaster(4, **FAST).fit(series, np.ones(60), fh=1))


def test_wrong_forecasts():
    y = wave()
    raises(ValueError, "`fit` needs `fh`", lambda: Forecaster().fit(y))
    raises(ValueError, "`fh` must be steps from 1", lambda: Forecaster().fit(y, fh=0))
    raises(ValueError, "input_length \\+ horizon", lambda: Forecaster(input_length=59).fit(y, fh=2))
    raises(
        ValueError,
        "the values of series 0 hold NaN at step 3",
        lambda: Forecaster().fit(np.where(np.arange(60) == 3, np.nan, y), fh=1),
    )
    raises(ValueError, "`season` must be None for the loss", lambda: Forecaster(loss="poisson").fit(y, fh=1))
    raises(ValueError, "`y` of the loss 'poisson' must be at least 0; got -1", lambda: counts().fit(-y // 11, fh=1))
    model = Forecaster(4, loss="huber", **FAST).fit(y, fh=[1, 2])
    assert model.predict().shape == (2,)
    raises(ValueError, "`fh` must be steps from 1 to the horizon, 2; got", lambda: model.predict(fh=3))
    raises(ValueError, "the loss 'huber' has no quantiles", lambda: model.predict_quantiles())
    few = Forecaster(4, **FAST).fit(y, fh=1)
    raises(
        ValueError,
        r"must be among those of the loss, \[0.1, 0.5, 0.9\]; got 0.2",
        lambda: few.predict_quantiles(alpha=0.2),
    )
    raises(ValueError, "`alpha` must be a number in", lambda: few.predict_quantiles(alpha=2))
    raises(TypeError, "`y` must be a NumPy array|`y` must hold", lambda: Forecaster().fit(np.array(["a", "b"]), fh=1))
    for name, arguments in (("y", (masked(y),)), ("X", (y, masked(y)))):
        raises(
            TypeError, f"`{name}` must not be a masked", lambda arguments=arguments: Forecaster().fit(*arguments, fh=1)
        )
    raises(
        ValueError,
        r"`y\[1\]` must have at least `input_length` = 9 steps; got 5",
        lambda: Forecaster(input_length=9).fit([y, y[:5]], fh=1),
    )
    raises(ValueError, "the values of `y` must be finite and below", lambda: Forecaster().fit(1e300 * y, fh=1))
