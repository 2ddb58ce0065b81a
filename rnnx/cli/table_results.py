"""Forecasts and predicted classes as the rows of a CSV file, with a header."""

import csv
import io
from typing import Any

import numpy as np

from rnnx.analysis import forecast
from rnnx.data import FrameSequences, Series
from rnnx.data.times import following, written
from rnnx.training.forecast_settings import ForecastSettings


def as_csv(rows: list[list[Any]]) -> bytes:
    """Return rows as the content of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def times_of(series: Series, horizon: int) -> np.ndarray:
    """Return the times of a series, at least to the horizon."""
    times, end = np.asarray(series.times), series.targets.shape[1]
    missing = end + horizon - len(times)
    return times if missing <= 0 else np.concatenate([times, following(times, missing)])


def forecast_rows(model: Any, settings: ForecastSettings, data: list[Series]) -> list[list[Any]]:
    """Return a row for each step of the horizon of each series."""
    found = forecast(model, settings.windows(data, ahead=True), quantiles=settings.quantiles or None)
    levels = [name for name in found if name != "forecast"]
    ids = [] if settings.id is None else [settings.id]
    rows = [[*ids, settings.time, *(c for t in settings.target for c in (t, *(f"{t}_{q}" for q in levels)))]]
    for k, one in enumerate(data):
        end = one.targets.shape[1]
        times = written(times_of(one, settings.horizon)[end : end + settings.horizon])
        for h, time in enumerate(times):
            numbers = [found[name][j, k, h] for j in range(len(settings.target)) for name in ("forecast", *levels)]
            rows.append([*([one.id] if ids else []), time, *(f"{value:.7g}" for value in numbers)])
    return rows


def class_rows(model: Any, data: FrameSequences, name: str) -> list[list[Any]]:
    """Return a row for each sequence: its class, and the probabilities of all classes."""
    p = model.predict(data.inputs, lengths=data.lengths)
    return probability_rows(name, data.ids, model.classes, p)


def probability_rows(name: str, ids: list[Any], classes: list[Any], p: np.ndarray) -> list[list[Any]]:
    """Return a row for each sequence, from probabilities (classes, n)."""
    rows = [[name, "predicted", *(f"probability_{one}" for one in classes)]]
    best = p.argmax(axis=0)
    rows += [[one, classes[best[k]], *(f"{v:.6f}" for v in p[:, k])] for k, one in enumerate(ids)]
    return rows
