"""Inspect a model: gate values, gradients over time, n-gram baselines."""

from rnnx.analysis.inspection import gate_values, gradient_norms, state_gradients, text_gradient_norms, text_values
from rnnx.analysis.ngram import NGram

__all__ = [
    "NGram",
    "gate_values",
    "gradient_norms",
    "state_gradients",
    "text_gradient_norms",
    "text_values",
]
