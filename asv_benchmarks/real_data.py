"""Models beside simple methods and torch on real data that packages ship: `docs/real_data.md` has the results.

    pip install -e ".[jit,lab,real-data]" torch
    python asv_benchmarks/real_data.py --output results.json
    python asv_benchmarks/real_data.py --draw results.json --folder docs/pictures

Classification: JapaneseVowels (unequal lengths) and BasicMotions of sktime, with the published split and five seeds,
beside scikit-learn on summary features and torch's LSTM of the same size with the same budget. Forecasts: yearly
sunspots, monthly CO2 and airline passengers, from every origin of the last part, beside the seasonal naive forecast,
ETS and an autoregression of statsmodels, and torch's LSTM on the same windows. Seconds are those of training, in one
process; they are rough on a machine that does other work.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
from real_data_torch import classify_with_torch, forecast_with_torch

from rnnx.analysis import backtest
from rnnx.data import SeriesWindows
from rnnx.estimators import SequenceClassifier
from rnnx.models import SequenceRegressor
from rnnx.optim import Adam
from rnnx.training import Trainer

SEEDS = range(5)
BUDGET = {"hidden_size": 64, "epochs": 60, "batch_size": 16, "learning_rate": 0.003}
SERIES = {  # horizon, season, length of inputs, of the validation and of the test part
    "sunspots, yearly": (11, 11, 33, 33, 66),
    "CO2, monthly": (12, 12, 36, 48, 72),
    "airline, monthly": (12, 12, 24, 24, 36),
}
AXES = {  # the time of the first value, and the unit of all
    "sunspots, yearly": (np.datetime64("1700", "Y"), "sunspots"),
    "CO2, monthly": (np.datetime64("1958-03", "M"), "CO2 (parts per million)"),
    "airline, monthly": (np.datetime64("1949-01", "M"), "thousands of passengers"),
}
FORECASTER = {"hidden_size": 32, "epochs": 100, "batch_size": 16, "learning_rate": 0.003, "patience": 15}


def read_classes(name: str) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray], np.ndarray]:
    """Sequences (T, n_x) and labels, of both parts of the published split."""
    import sktime.datasets as source

    load = {"JapaneseVowels": source.load_japanese_vowels, "BasicMotions": source.load_basic_motions}[name]
    parts = []
    for split in ("train", "test"):
        x, y = load(split=split, return_X_y=True, return_type="nested_univ")
        rows = [np.stack([np.asarray(c, float) for c in row], axis=1) for row in x.itertuples(index=False)]
        parts += [rows, np.asarray(y)]
    return parts[0], parts[1], parts[2], parts[3]


def summary(sequences: list[np.ndarray]) -> np.ndarray:
    """Mean, deviation, extremes, ends and mean absolute change of each feature."""
    parts = (np.mean, np.std, np.min, np.max)
    rows = [[*(f(s, axis=0) for f in parts), s[0], s[-1], abs(np.diff(s, axis=0)).mean(axis=0)] for s in sequences]
    return np.array([np.concatenate(row) for row in rows])


def classify(name: str) -> dict[str, dict[str, list[float]]]:
    """Accuracies and seconds of training, by method."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y, x_test, y_test = read_classes(name)
    found: dict[str, dict[str, list[float]]] = {}

    def add(method: str, fit) -> None:
        started = time.perf_counter()
        predicted = fit()
        seconds = time.perf_counter() - started
        own = found.setdefault(method, {"accuracy": [], "seconds": []})
        own["accuracy"].append(float(np.mean(predicted == y_test)))
        own["seconds"].append(seconds)

    for seed in SEEDS:
        for cell, both in (("lstm", False), ("gru", True)):
            model = SequenceClassifier(cell=cell, bidirectional=both, random_state=seed, **BUDGET)
            label = f"rnnx {cell}{', both ways' if both else ''}"
            add(label, lambda model=model: model.fit(x, y).predict(x_test))
        add("torch lstm", lambda seed=seed: classify_with_torch(x, y, x_test, seed, **BUDGET))
        forest = RandomForestClassifier(500, random_state=seed)
        add("random forest on summaries", lambda forest=forest: forest.fit(summary(x), y).predict(summary(x_test)))
    line = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    add("logistic regression on summaries", lambda: line.fit(summary(x), y).predict(summary(x_test)))
    return found


def read_series(name: str) -> np.ndarray:
    """A series without gaps."""
    import statsmodels.api as sm

    if name.startswith("sunspots"):
        return sm.datasets.sunspots.load_pandas().data["SUNACTIVITY"].to_numpy(float)
    if name.startswith("CO2"):
        weeks = sm.datasets.co2.load_pandas().data["co2"].interpolate()
        return weeks.resample("MS").mean().to_numpy(float)
    from sktime.datasets import load_airline

    return load_airline().to_numpy(float)


def scores_of(forecasts: np.ndarray, tested) -> float:
    """MASE of forecasts (m, H), with the scale of the backtest."""
    scale = tested.scores["seasonal naive"]["MAE"] / tested.scores["seasonal naive"]["MASE"]
    return float(abs(forecasts - tested.actual[0]).mean() / scale)


def by_statsmodels(values: np.ndarray, starts: np.ndarray, horizon: int, season: int) -> dict[str, np.ndarray]:
    """Forecasts (m, H), fitted anew at every origin."""
    from statsmodels.tsa.ar_model import AutoReg
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    found: dict[str, list[np.ndarray]] = {"ETS": [], "autoregression": []}
    for start in starts.tolist():
        past = values[:start]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            smooth = ExponentialSmoothing(past, trend="add", damped_trend=True, seasonal="add", seasonal_periods=season)
            found["ETS"].append(smooth.fit().forecast(horizon))
            lags = AutoReg(past, lags=season + 1, trend="ct").fit()
            found["autoregression"].append(lags.predict(start, start + horizon - 1))
    return {name: np.array(rows) for name, rows in found.items()}


def forecast(name: str) -> dict:
    """MASE and seconds by method, and the forecasts of one seed for the picture."""
    values = read_series(name)
    horizon, season, length, held_length, test_length = SERIES[name]
    train, held, test = SeriesWindows(values, length, horizon, season=season).split(held_length, test_length)
    inputs, targets = train.scalers()
    found: dict[str, dict[str, list[float]]] = {}
    for seed in SEEDS:
        started = time.perf_counter()
        scalers = {"input_scaler": inputs, "target_scaler": targets}
        model = SequenceRegressor(
            train.n_inputs, FORECASTER["hidden_size"], per_step=True, loss="quantile", seed=seed, **scalers
        )
        options = {key: FORECASTER[key] for key in ("epochs", "batch_size", "patience")}
        Trainer(model, Adam(FORECASTER["learning_rate"]), seed=seed).fit(train, held, restore_best=True, **options)
        seconds = time.perf_counter() - started
        tested = backtest(model, test, season=season)
        add = found.setdefault("rnnx lstm", {"MASE": [], "seconds": [], "coverage": []})
        add["MASE"].append(tested.scores["model"]["MASE"])
        add["seconds"].append(seconds)
        add["coverage"].append(tested.coverage)
        own, seconds = forecast_with_torch(train, held, test, scalers, seed, **FORECASTER)
        add = found.setdefault("torch lstm", {"MASE": [], "seconds": []})
        add["MASE"].append(scores_of(own, tested))
        add["seconds"].append(seconds)
    found["seasonal naive"] = {"MASE": [tested.scores["seasonal naive"]["MASE"]]}
    for method, rows in by_statsmodels(values, tested.starts, horizon, season).items():
        found[method] = {"MASE": [scores_of(rows, tested)]}
    pieces = [
        (
            int(tested.starts[j]),
            {key: a[0, j].tolist() for key, a in {**tested.forecasts, "naive": tested.naive}.items()},
        )
        for j in range(0, len(tested.starts), horizon)
    ]
    return {"results": found, "values": values.tolist(), "pieces": pieces, "shown": test_length + 3 * season}


def table(results: dict, key: str) -> str:
    """The results of one data set as lines of Markdown."""
    lines = [f"| method | {key} | seconds |", "|---|---|---|"]
    for method, own in results.items():
        mean, low, high = np.mean(own[key]), min(own[key]), max(own[key])
        spread = f" ({low:.3f} to {high:.3f})" if len(own[key]) > 1 else ""
        seconds = f"{np.median(own['seconds']):.1f}" if "seconds" in own else ""
        lines.append(f"| {method} | {mean:.3f}{spread} | {seconds} |")
    return "\n".join(lines)


def draw(results: dict, folder: Path) -> None:
    """Draw the forecasts."""
    from rnnx import plots

    for name, own in results["forecasts"].items():
        first = len(own["values"]) - own["shown"]
        pieces = [(start - first, piece) for start, piece in own["pieces"]]
        start, unit = AXES[name]
        times = start + np.arange(first, len(own["values"]))
        title = f"{name}: forecasts of an LSTM"
        figure = plots.forecasts(times, own["values"][first:], pieces, unit=unit, title=title)
        plots.save(figure, folder / f"forecast_{name.split(',')[0].lower()}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--draw", type=Path)
    parser.add_argument("--folder", type=Path, default=Path())
    options = parser.parse_args()
    if options.draw:
        draw(json.loads(options.draw.read_text()), options.folder)
        return
    results: dict = {"classes": {}, "forecasts": {}}
    for name in ("JapaneseVowels", "BasicMotions"):
        results["classes"][name] = classify(name)
        print(f"\n{name}\n\n{table(results['classes'][name], 'accuracy')}", flush=True)
    for name in SERIES:
        results["forecasts"][name] = forecast(name)
        print(f"\n{name}\n\n{table(results['forecasts'][name]['results'], 'MASE')}", flush=True)
    if options.output:
        options.output.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
