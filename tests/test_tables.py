"""CSV files: columns, times, the commands that forecast and classify, and what they print and write."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
from lab import ok

import rnnx
from rnnx import analysis, plots
from rnnx.data import (
    Scaler,
    Series,
    SeriesWindows,
    folds_by_group,
    read_table,
    sequences_from_frame,
    split_by_group,
)
from rnnx.data.times import following, season_of, written
from rnnx.export import library, load
from rnnx.models import SequenceRegressor
from rnnx.training import load_checkpoint, read_metrics
from rnnx.training.table_runs import load_best
from rnnx.training.tables import table_settings

TINY = ("--hidden-size", 4, "--epochs", 2, "--quiet")
FORECAST = ("forecast", "load.csv", "--target", "load", "--time", "hour", "--horizon", 6, "--season", 6, *TINY)
CLASSIFY = ("classify", "steps.csv", "--label", "activity", "--id", "who", "--time", "t", *TINY)


def raises(kind, match, call):
    with pytest.raises(kind, match=match):
        call()


@pytest.fixture(autouse=True)
def reference():
    with rnnx.use_engine("reference"):  # nothing to compile
        yield


@pytest.fixture
def tables(tmp_path):
    """load.csv has 90 hours of a series, and 6 of what is known; steps.csv 12 sequences of two activities."""
    t = np.arange(96)
    load = 50 + 10 * np.sin(t * np.pi / 3) + 3 * (t % 5 == 0)
    rows = [f"2024-01-{1 + k // 24:02d} {k % 24:02d}:00,{load[k] if k < 90 else ''},{k % 5 == 0}" for k in t]
    (tmp_path / "load.csv").write_text("\n".join(["hour,load,peak", *rows]))
    (tmp_path / "cut.csv").write_text("\n".join(["hour,load", *(row.rpartition(",")[0] for row in rows[:90])]))
    rng, rows = np.random.default_rng(0), ["who,t,x,y,activity,person"]
    for k in range(12):
        kind, n = "walk" if k % 2 else "run", 4 + k % 3
        rows += [f"s{k},{j},{(1 if k % 2 else -1) + rng.normal():.4f},{j},{kind},p{k // 2}" for j in range(n)]
    (tmp_path / "steps.csv").write_text("\n".join(rows))


# --- files and times ---------------------------------------------------------------------------------------------


def test_columns_of_a_file(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffday; load;who\r\n2024-02-28;1,5;7\r\n\r\n2024-02-29T06:00Z;NA;8\r\n".encode())
    found = read_table(path, numbers=["load"], times=["day"], names=["who"])
    np.testing.assert_array_equal(found["load"], [1.5, np.nan])
    assert found["day"].tolist() == [*np.array(["2024-02-28T00:00", "2024-02-29T06:00"], "M8[s]").tolist()]
    assert found["who"].tolist() == [7, 8]
    path.write_text('t\tx\twho\n1\ttrue\t"a, b"\n2\t-1e3\tc\n')
    found = read_table(path, numbers=["x"], times=["t"], names=["who"])
    assert found["t"].dtype == np.int64
    assert found["x"].tolist() == [1.0, -1000.0]
    assert found["who"].tolist() == ["a, b", "c"]
    path.write_text("t\n2024-01-01T00:00:00\n2024-01-01T00:00:00.250\n")
    assert written(read_table(path, times=["t"])["t"])[1] == "2024-01-01 00:00:00.250000"
    path.write_text("who\n007\n8\n")
    assert read_table(path, names=["who"])["who"].tolist() == ["007", "8"]


def test_wrong_files(tmp_path):
    path = tmp_path / "t.csv"

    def wrong(content, match, kind=ValueError, **columns):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        raises(kind, match, lambda: read_table(path, **columns))

    wrong("", "must begin with a line of the names of its columns; it is empty")
    wrong("a,b\n", "has no rows below its header", numbers=["a"])
    wrong("load,b\n1,2\n", "has no column 'lod'; did you mean 'load'?", numbers=["lod"])
    wrong("a,a\n1,2\n", "has several columns 'a'", numbers=["a"])
    wrong("a,b\n1,2\n3\n", "t.csv, line 3: there are 1 values for 2 columns", numbers=["a"])
    wrong("a\n1\n\nx\n", "line 4: the column 'a' must hold numbers; got 'x'", numbers=["a"])
    wrong("a\ninf\n", "line 2: the column 'a' must hold numbers; got 'inf'", numbers=["a"])
    wrong("a\n1\n31/01/2024\n", "line 3: .* numbers, or dates such as .*; got '31/01/2024'", times=["a"])
    wrong("a,b\n,1\n", "line 2: the column 'a' must hold numbers, or dates .*; the cell is empty", times=["a"])
    wrong("a,b\nc,1\n,1\n", "line 3: the column 'a' must hold names; the cell is empty", names=["a"])
    wrong("a\n\xe9\n".encode("latin1"), "is not UTF-8 text", names=["a"])
    wrong(b"\x89PNG\r\n\x1a\n\x00", "is not UTF-8 text", numbers=["a"])
    raises(FileNotFoundError, "none.csv", lambda: read_table(tmp_path / "none.csv", numbers=["a"]))


def dates(*texts):
    return np.array(texts, "datetime64[s]")


def test_times_go_on():
    for times, expected, season in [
        (dates("2024-01-01T05", "2024-01-01T06", "2024-01-01T07"), ["2024-01-01 08:00:00", "2024-01-01 09:00:00"], 24),
        (dates("2024-02-27", "2024-02-28"), ["2024-02-29", "2024-03-01"], 7),
        (dates("2024-01-05", "2024-01-12"), ["2024-01-19", "2024-01-26"], 52),
        (dates("2023-10-15", "2023-11-15", "2023-12-15"), ["2024-01-15", "2024-02-15"], 12),
        (dates("2023-11-30", "2023-12-31", "2024-01-31"), ["2024-02-29", "2024-03-31"], 12),
        (dates("2023-07-01", "2023-10-01", "2024-01-01"), ["2024-04-01", "2024-07-01"], 4),
        (dates("2021-01-01", "2022-01-01", "2023-01-01"), ["2024-01-01", "2025-01-01"], 1),
        (dates("2024-01-30", "2024-02-29", "2024-03-30"), ["2024-04-30", "2024-05-30"], 12),
        (dates("2023-11-30T23", "2023-12-31T23", "2024-01-31T23"), ["2024-02-29 23:00:00", "2024-03-31 23:00:00"], 12),
        (np.array([3, 5]), ["7", "9"], 1),
    ]:
        assert written(following(times, 2)) == expected
        assert season_of(times) == season


def test_folds():
    groups = np.repeat(np.arange(10), 2)
    labels = np.repeat([0, 1], 10)
    folds = folds_by_group(groups, 5, labels=labels)
    np.testing.assert_array_equal(np.sort(np.concatenate(folds)), np.arange(20))
    assert all(set(groups[held]).isdisjoint(groups[np.setdiff1d(np.arange(20), held)]) for held in folds)
    assert all(labels[held].mean() == 0.5 for held in folds)
    raises(ValueError, r"`labels` must have shape \(20,\)", lambda: folds_by_group(groups, 5, labels=labels[:3]))
    raises(ValueError, "`folds` = 3 needs as many groups; got 2", lambda: folds_by_group(["a", "b", "b"], 3))


# --- forecasts beside naive ones ---------------------------------------------------------------------------------


def test_a_backtest_measures_both_forecasts(rng):
    t = np.arange(60.0)
    values = np.stack([t % 4 + 0.1 * t, np.where(t == 50, np.nan, rng.standard_normal(60))])
    windows = SeriesWindows(Series(values), 8, 3, season=4, gaps="hold")
    train, held, test = windows.split(6, 9)
    assert [w.places([0, len(w) - 1])[1].tolist() for w in (train, held, test)] == [[8, 42], [45, 48], [51, 57]]
    zero = SequenceRegressor(3, 2, 2, per_step=True, seed=0)
    zero.parameters = {k: 0 * p for k, p in zero.parameters.items()}
    found = analysis.backtest(zero, test, season=4)
    np.testing.assert_allclose(found.forecasts["forecast"], found.naive, atol=1e-6)
    np.testing.assert_allclose(found.naive[0], found.actual[0] - 0.4)
    assert found.coverage is None
    assert found.scores["model"]["MAE"] == pytest.approx(found.scores["seasonal naive"]["MAE"], abs=1e-6)
    own = analysis.backtest(zero, windows.split(9)[1], season=4)
    assert own.scores["model"]["MASE"] == pytest.approx(found.scores["model"]["MASE"], abs=1e-5)
    one = SeriesWindows(values[0], 8, 3, season=4).split(9)[1]
    small = SequenceRegressor(2, 2, per_step=True, parameters=None, seed=0)
    small.parameters = {k: 0 * p for k, p in small.parameters.items()}
    assert analysis.backtest(small, one, season=4).scores["model"]["MASE"] == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(analysis.forecast(small, one)["forecast"][0, 0], values[0, 56:59], atol=1e-5)
    unchanged = SeriesWindows(t % 4, 8, 3, season=4).split(9)[1]
    assert np.isnan(analysis.backtest(small, unchanged, season=4).scores["model"]["MASE"])


# --- commands ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tables")
def test_forecast(run, tmp_path):
    out = ok(run(*FORECAST, "--future", "peak", "--output", "next.csv"))
    assert "load.csv: 90 steps, season 6; the last 18 are held out for the backtest; 12 steps predict 6" in out
    assert "seasonal naive  MAE " in out
    assert "between the quantiles 0.1 and 0.9" in out
    folder = tmp_path / "runs" / "load-forecast"
    names = {"best.safetensors", "model.safetensors", "metrics.csv", "metrics.jsonl", "forecast.png"}
    assert {path.name for path in folder.iterdir()} == names
    rows = [*csv.DictReader((tmp_path / "next.csv").read_text().splitlines())]
    assert [*rows[0]] == ["hour", "load", "load_0.1", "load_0.5", "load_0.9"]
    assert [row["hour"] for row in rows] == [f"2024-01-04 {k:02d}:00:00" for k in range(18, 24)]
    assert all(float(row["load_0.1"]) <= float(row["load"]) <= float(row["load_0.9"]) for row in rows)
    assert ok(run("predict", folder, "load.csv")) == (tmp_path / "next.csv").read_text()
    assert "forecast" in ok(run("info", folder))
    assert "nothing to do" in ok(run("forecast", "--resume", folder))
    longer = ok(run("forecast", "--resume", folder, "--epochs", 3))
    assert longer.count("\nepoch ") == 1
    assert "runs/load-forecast-2" in ok(run(*FORECAST, "--future", "peak", "--backtest", 0))
    assert len(read_metrics(folder)) > len(read_metrics(tmp_path / "runs" / "load-forecast-2"))


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize(
    ("loss", "options", "levels"),
    [
        ("gaussian", ("--quantiles", "0.025,0.975"), ["0.025", "0.975"]),
        ("poisson", (), ["0.1", "0.5", "0.9"]),
        ("huber", (), []),
    ],
)
def test_forecasts_of_other_losses(run, tmp_path, loss, options, levels):
    out = ok(run(*FORECAST, "--loss", loss, *options))
    assert ("between the quantiles" in out) == bool(levels)
    folder = tmp_path / "runs" / "load-forecast"
    rows = [*csv.DictReader((folder / "forecast.csv").read_text().splitlines())]
    assert [*rows[0]] == ["hour", "load", *(f"load_{q}" for q in levels)]
    assert all(5 < float(row["load"]) < 250 for row in rows)  # also counts begin near their mean
    if loss == "poisson":
        assert all(float(row[f"load_{q}"]).is_integer() for row in rows for q in levels)
    assert ok(run("predict", folder, "load.csv")) == (folder / "forecast.csv").read_text()
    assert "nothing to do" in ok(run("forecast", "--resume", folder))
    lines = (tmp_path / "load.csv").read_text().splitlines()
    (tmp_path / "gap.csv").write_text("\n".join([*lines[:9], re.sub(",[^,]*", ",", lines[9], count=1), *lines[10:]]))
    code, _, err = run("predict", folder, "gap.csv")
    assert code
    assert "hold NaN at step 8, 2024-01-01T08:00:00; fill it, or forecast with --gaps hold" in err


@pytest.mark.usefixtures("tables")
def test_a_resumed_forecast_is_the_same(run, tmp_path):
    ok(run(*FORECAST, "--run", "whole"))
    ok(run(*FORECAST[:-2], 1, "--quiet", "--run", "part"))
    ok(run("forecast", "--resume", "part", "--epochs", 2))
    assert (tmp_path / "part" / "forecast.csv").read_text() == (tmp_path / "whole" / "forecast.csv").read_text()
    code, _, err = run("forecast", "--resume", "whole", "--horizon", 3)
    assert code
    assert "a resumed run keeps its settings; --resume cannot be combined with --horizon" in err
    code, _, err = run("classify", "--resume", "whole")
    assert "whole is a run of `rnnx forecast`" in err
    (tmp_path / "load.csv").write_text("hour,load\n1,2\n")
    code, _, err = run("forecast", "--resume", "whole")
    assert "load.csv differs from the table that the run was trained on" in err


@pytest.mark.usefixtures("tables")
def test_forecast_of_several_series(run, tmp_path):
    rows = ["shop,day,sales"] + [f"{s},{d},{10 * (d % 7) + len(s)}" for s in ("a", "bb") for d in range(40)]
    (tmp_path / "shops.csv").write_text("\n".join(rows))
    out = ok(
        run(*("forecast", "shops.csv", "--target", "sales", "--time", "day", "--group", "shop"), "--horizon", 2, *TINY)
    )
    assert "2 series of 40 to 40 steps" in out
    folder = tmp_path / "runs" / "shops-forecast"
    assert {"forecast-1.png", "forecast-2.png"} <= {path.name for path in folder.iterdir()}
    lines = (folder / "forecast.csv").read_text().splitlines()
    assert lines[0].startswith("shop,day,sales,")
    assert [line.split(",")[:2] for line in lines[1:]] == [["a", "40"], ["a", "41"], ["bb", "40"], ["bb", "41"]]
    (tmp_path / "new.csv").write_text("\n".join([rows[0], *rows[-12:]]))
    assert ok(run("predict", folder, "new.csv", "--output", "p.csv")) == "2 predictions saved in p.csv\n"


@pytest.mark.usefixtures("tables")
def test_classify(run, tmp_path):
    out = ok(run(*CLASSIFY, "--inputs", "x", "--group", "person", "--folds", 3, "--learning-rate", 0.05))
    assert "steps.csv: 12 sequences of 4 to 6 steps of 1 features, 2 classes" in out
    assert "in 3 folds" in out
    assert "the most frequent class: 0.500" in out
    folder = tmp_path / "runs" / "steps-classify"
    assert (folder / "confusion_matrix.png").exists()
    rows = [*csv.DictReader((folder / "cross_validation.csv").read_text().splitlines())]
    assert [*rows[0]] == ["who", "activity", "predicted", "probability_run", "probability_walk"]
    assert len(rows) == 12
    found = json.loads((folder / "cross_validation.json").read_text())
    assert len(found["folds"]) == 3
    again = ok(run("classify", "--resume", folder))  # computes no fold again
    assert out.split("cross-validated")[1].split(";")[0] in again
    table = [line.split(",") for line in (tmp_path / "steps.csv").read_text().splitlines()]
    (tmp_path / "new.csv").write_text("\n".join(",".join(row[:4]) for row in table))  # without labels
    lines = ok(run("predict", folder, "new.csv")).splitlines()
    assert lines[0] == "who,predicted,probability_run,probability_walk"
    assert [line.split(",")[0] for line in lines[1:]] == [f"s{k}" for k in range(12)]


@pytest.mark.usefixtures("tables")
def test_classify_keeps_the_best_weights(run, tmp_path):
    once = (*CLASSIFY[:-2], 12, "--quiet", "--inputs", "x", "--group", "person", "--folds", 2, "--learning-rate", 1)
    out = ok(run(*once, "--patience", 2, "--validation", 0.3))
    assert "4 of them are held out to choose the best weights" in out
    folder = tmp_path / "runs" / "steps-classify"
    losses = [one["validation_loss"] for one in read_metrics(folder) if one["validation_loss"] is not None]
    assert len(losses) < 12
    table = read_table("steps.csv", numbers=["x"], times=["t"], names=["who", "activity"])
    found = sequences_from_frame(table, id="who", time="t", inputs=["x"], target="activity")
    train, held = split_by_group([f"p{k // 2}" for k in range(12)], 0.3, labels=found.targets)
    examples = found.examples()
    best = load_checkpoint(folder / "best.safetensors").model
    assert best.config["input_scaler"] == Scaler.fit(found.inputs[:, train], lengths=found.lengths[train]).config
    assert best.loss(next(examples.take(held).batches(9))) == pytest.approx(min(losses), rel=1e-5)
    p = best.predict(found.inputs, lengths=found.lengths)
    lines = ok(run("predict", folder, "steps.csv")).splitlines()
    np.testing.assert_allclose([float(line.split(",")[2]) for line in lines[1:]], p[0], atol=1e-6)
    ok(run(*CLASSIFY, "--inputs", "x", "--folds", 0, "--run", "all"))
    code, _, err = run("classify", "--resume", "all", "--patience", 1)
    assert code
    assert "--patience requires a --validation set" in err


@pytest.mark.usefixtures("tables")
def test_wrong_tables_are_refused_before_any_work(run, tmp_path):
    def wrong(match, *arguments):
        code, out, err = run(*arguments)
        assert code
        assert match in err
        assert len(err.strip().splitlines()) == 1, err
        assert out == ""
        assert not (tmp_path / "runs").exists()

    wrong("missing TABLE and --target and --time and --horizon", "forecast")
    wrong("none.csv: No such file", "forecast", "none.csv", *FORECAST[2:])
    wrong("load.csv has no column 'lod'; did you mean 'load'?", *FORECAST[:3], "lod", *FORECAST[4:])
    wrong(
        "cut.csv: --future of a series must go on for --horizon = 6 steps",
        "forecast",
        "cut.csv",
        *FORECAST[2:],
        "--future",
        "load",
    )
    wrong(
        "steps.csv: the column 't' has 0 twice", "forecast", "steps.csv", "--target", "x", "--time", "t", "--horizon", 2
    )
    wrong("load.csv: --validation = 9 + --backtest = 80 leaves no window", *FORECAST, "--backtest", 80)
    lines = (tmp_path / "cut.csv").read_text().splitlines()
    (tmp_path / "gap.csv").write_text("\n".join([*lines[:9], lines[9].split(",")[0] + ",", *lines[10:]]))
    gap = "gap.csv: targets of series 0 hold NaN at step 8, 2024-01-01T08:00:00; pass --gaps hold"
    wrong(gap, "forecast", "gap.csv", *FORECAST[2:])
    wrong("the loss 'huber' has no quantiles", *FORECAST, "--loss", "huber", "--quantiles", "0.1,0.9")
    (tmp_path / "below.csv").write_text((tmp_path / "cut.csv").read_text().replace("50.0", "-50.0"))
    below = "below.csv: `load` of the loss 'poisson' must be at least 0; got -50.0 at index (3,)"
    wrong(below, "forecast", "below.csv", *FORECAST[2:], "--loss", "poisson")
    wrong("steps.csv has no column 'kind'", "classify", "steps.csv", "--label", "kind", "--id", "who")
    wrong(
        "must be the same in all rows of a sequence; 's0' has several",
        *CLASSIFY[:3],
        "y",
        *CLASSIFY[4:],
        "--inputs",
        "x",
    )
    wrong("--folds = 5 needs as many groups", *CLASSIFY, "--inputs", "x", "--group", "activity")
    wrong("line 2: the column 'person' must hold numbers; got 'p0'", *CLASSIFY)
    (tmp_path / "one.csv").write_text("who,x,kind\na,1,w\nb,2,w\n")
    wrong("the column 'kind' must have at least 2 classes", "classify", "one.csv", "--label", "kind", "--id", "who")


@pytest.mark.usefixtures("tables")
def test_predict_needs_such_a_model(run):
    ok(run("train", "--text", "names.txt", "--hidden-size", 4, "--epochs", 1, "--output", "names"))
    code, _, err = run("predict", "names", "load.csv")
    assert code
    assert "does not belong to a run of `rnnx forecast` or `rnnx classify`" in err


# --- pictures ----------------------------------------------------------------------------------------------------


def test_pictures_of_predictions(tmp_path):
    t = np.arange(12)
    piece = {"forecast": np.ones(3), "naive": np.zeros(3), "0.1": np.zeros(3), "0.9": 2 * np.ones(3)}
    figure = plots.forecasts(t, np.arange(10.0), [(7, piece), (9, {"forecast": [1.0, 2.0, 3.0]})], unit="$MW$")
    axes = figure.axes[0]
    assert len(axes.lines) == 4
    assert len(axes.collections) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "forecast"
    plots.save(figure, tmp_path / "f.png")
    raises(
        ValueError,
        r"`pieces\[0\]\['0.1'\]` must have shape",
        lambda: plots.forecasts(t, t, [(0, {"forecast": t, "0.1": t[1:]})]),
    )
    raises(ValueError, "`values` and `times`", lambda: plots.forecasts(t[:3], t, []))
    figure = plots.confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1], ["a", "b"])
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), [[0.5, 0.5], [0, 1]])
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "1", "2"]
    raises(ValueError, "`targets` must be in", lambda: plots.confusion_matrix([2], [0], ["a", "b"]))


# --- export ------------------------------------------------------------------------------------------------------


def test_an_exported_forecast(run, tables, tmp_path):
    """As ONNX, a run computes the forecasts of `predict`, from inputs that the file describes."""
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    ok(run(*FORECAST, "--future", "peak", "--run", "f"))
    told = ok(run("export", "f", "load.onnx"))
    assert "inputs: load, is past, peak" in told
    facts = {entry.key: json.loads(entry.value) for entry in onnx.load("load.onnx").metadata_props}
    settings = table_settings(load_best("f"))
    assert facts == {
        "inputs": ["load", "is past", "peak"],
        "target": ["load"],
        "input_length": settings.input_length,
        "horizon": 6,
        "season": 6,
    }
    windows = settings.windows(settings.read(), ahead=True)
    feed = {"inputs": np.ascontiguousarray(windows.ahead().T, dtype=np.float32)}
    session = ort.InferenceSession("load.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, feed), strict=True))
    expected = analysis.forecast(load_best("f").model, windows)
    for name in ("0.1", "0.5", "0.9"):
        np.testing.assert_allclose(windows.restore(found[name].T), expected[name], rtol=1e-5)


def test_an_exported_classifier(run, tables, tmp_path):
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    ok(run(*CLASSIFY, "--inputs", "x,y", "--folds", 0, "--run", "c"))
    told = ok(run("export", "c", "walk.c", "--shared"))
    assert "inputs: x, y" in told
    model, shared = load_best("c").model, load("walk" + library.suffix(None))
    assert shared.vocabulary == list(model.classes) == ["run", "walk"]
    x = np.random.default_rng(0).standard_normal((2, 5)).astype(np.float32)
    np.testing.assert_allclose(shared.predict(shared.run(x))["probability"], model.predict(x[:, None])[:, 0], atol=1e-6)
