"""Pictures of training, of what happens inside a network, and of its weights: matplotlib figures, and files of them.

The functions take arrays, dicts or caches, return a ``matplotlib.figure.Figure`` and touch no global state of
matplotlib (no pyplot, no display). `save` writes one as PNG or SVG.
"""

try:
    import matplotlib as _matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError("rnnx.plots needs matplotlib: pip install 'rnnx[lab]'") from error

from rnnx.plots._attention import attention_map
from rnnx.plots._gates import gate_activations
from rnnx.plots._gradients import gradient_norms
from rnnx.plots._run import plot_run
from rnnx.plots._style import save
from rnnx.plots._text import text_activation
from rnnx.plots._training import training_curves
from rnnx.plots._weights import weight_histograms

__all__ = [
    "attention_map",
    "gate_activations",
    "gradient_norms",
    "plot_run",
    "save",
    "text_activation",
    "training_curves",
    "weight_histograms",
]
