"""The same character model trained by rnnx and by TensorFlow or torch, side by side.

Each side runs in a process of its own, one after the other: nothing here imports a peer, except the file of that
peer's side, in its process. See `run`.
"""

from rnnx.compare.report import Report
from rnnx.compare.runner import run

__all__ = ["Report", "run"]
