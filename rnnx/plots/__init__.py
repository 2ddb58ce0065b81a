"""Plots of training curves, activations, gradients, attention and weights.

The functions take arrays, dicts or caches, return a ``matplotlib.figure.Figure``, and do not touch matplotlib's global
state (no pyplot, no display). `save` writes a figure as PNG or SVG.
"""

try:
    import matplotlib as _matplotlib  # noqa: F401
except ImportError as error:
    from rnnx._core.install import install_command

    raise ImportError(f"rnnx.plots needs matplotlib: {install_command('lab')}") from error

from rnnx.plots.attention import attention_map
from rnnx.plots.curves import gradient_norms, training_curves
from rnnx.plots.gates import gate_activations
from rnnx.plots.predictions import confusion_matrix, forecasts
from rnnx.plots.run import plot_run
from rnnx.plots.style import save
from rnnx.plots.text import text_activation
from rnnx.plots.weights import weight_histograms

__all__ = [
    "attention_map",
    "confusion_matrix",
    "forecasts",
    "gate_activations",
    "gradient_norms",
    "plot_run",
    "save",
    "text_activation",
    "training_curves",
    "weight_histograms",
]
