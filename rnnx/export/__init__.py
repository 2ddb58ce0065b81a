"""Trained models as C files, and as shared libraries that run without rnnx."""

from rnnx.export.library import build
from rnnx.export.model import to_c
from rnnx.export.shared_model import SharedModel, SharedMultiTaskModel, SharedTranslator, load

__all__ = ["SharedModel", "SharedMultiTaskModel", "SharedTranslator", "build", "load", "to_c"]
