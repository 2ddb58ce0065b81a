"""Forecasting: a GRU learns to continue noisy waves and beats naive forecasts.

The data are sums of two sine waves with random periods and phases, plus noise. From 48 values the model predicts the
next 12. The naive forecasts repeat the last value, or the last period, with the period that fits the history best.

    python examples/time_series.py
"""

import numpy as np

from rnnx.data import Examples
from rnnx.models import SequenceRegressor
from rnnx.optim import Adam
from rnnx.training import Trainer

HISTORY, AHEAD, NOISE = 48, 12, 0.1


def make_series(n: int, seed: int) -> np.ndarray:
    """Series (n, HISTORY + AHEAD)."""
    rng = np.random.default_rng(seed)
    t = np.arange(HISTORY + AHEAD)
    period, phase = rng.uniform((8, 20), (16, 40), (n, 2)), rng.uniform(0, 2 * np.pi, (n, 2))
    weight = rng.uniform(0.5, 1.5, (n, 2))
    waves = weight[:, :, None] * np.sin(2 * np.pi * t / period[:, :, None] + phase[:, :, None])
    return waves.sum(axis=1) + NOISE * rng.standard_normal((n, HISTORY + AHEAD))


def as_examples(series: np.ndarray) -> Examples:
    """The history as inputs (1, n, HISTORY) and the future as targets (AHEAD, n)."""
    return Examples(series[None, :, :HISTORY], series[:, HISTORY:].T)


def naive_errors(series: np.ndarray) -> dict[str, float]:
    """Mean squared errors of the naive forecasts."""
    history, future = series[:, :HISTORY], series[:, HISTORY:]
    periods = range(AHEAD, HISTORY // 2)
    fits = [np.mean((history[:, p:] - history[:, :-p]) ** 2, axis=1) for p in periods]
    best = np.argmin(fits, axis=0) + AHEAD
    seasonal = np.stack([row[HISTORY - p : HISTORY - p + AHEAD] for row, p in zip(history, best, strict=True)])
    return {
        "last value": float(np.mean((history[:, -1:] - future) ** 2)),
        "last period": float(np.mean((seasonal - future) ** 2)),
    }


def main(n_train: int = 4000, epochs: int = 30, hidden_size: int = 48) -> dict[str, float]:
    """Train, and return the mean squared errors on unseen series."""
    train, test = make_series(n_train, seed=1), make_series(1000, seed=2)
    model = SequenceRegressor(1, hidden_size, AHEAD, cell="gru", rng=0)
    trainer = Trainer(model, Adam(learning_rate=0.005), clip_norm=1.0, seed=0)
    trainer.fit(as_examples(train), epochs=epochs, batch_size=50)
    forecast = model.predict(test[None, :, :HISTORY])  # (AHEAD, n)
    return {**naive_errors(test), "rnnx": float(np.mean((forecast.T - test[:, HISTORY:]) ** 2))}


if __name__ == "__main__":
    for name, error in main().items():
        print(f"{name:12} mean squared error {error:.4f}  (noise alone: {NOISE**2:.4f})")
