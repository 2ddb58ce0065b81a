"""Train the same character model with rnnx and with TensorFlow or torch, side by side.

Each side runs in a process of its own, one after the other. A peer is imported only in the process of its side.
See `run`.
"""

from rnnx.compare.report import Report
from rnnx.compare.runner import run

__all__ = ["Report", "run"]
