"""Train the same character model with rnnx and with TensorFlow or torch. See `run`."""

from rnnx.compare.report import Report
from rnnx.compare.runner import run

__all__ = ["Report", "run"]
