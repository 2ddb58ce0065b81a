"""Inspect a model: gate values, gradients over time, forecasts beside naive ones, n-gram baselines."""

from rnnx.analysis.forecasts import Backtest, backtest, forecast
from rnnx.analysis.inspection import gate_values, gradient_norms, state_gradients, text_gradient_norms, text_values
from rnnx.analysis.ngram import NGram

__all__ = [
    "Backtest",
    "NGram",
    "backtest",
    "forecast",
    "gate_values",
    "gradient_norms",
    "state_gradients",
    "text_gradient_norms",
    "text_values",
]
