"""Run a model that `rnnx export` has compiled to a shared library.

This folder needs NumPy and nothing else, not even rnnx: copy it and the library beside your program::

    from shared_model import load

    model = load("dinos.so")
    y = model.run(x)

Its modules import each other by relative names, so that it may be anywhere.
"""

from .loading import FORMAT, load
from .models import SharedModel, SharedMultiTaskModel
from .translator import SharedTranslator

__all__ = ["FORMAT", "SharedModel", "SharedMultiTaskModel", "SharedTranslator", "load"]
