"""Models over the functions: a stack of recurrent layers, and what can stand on it."""

from rnnx.models._base import Model, Step
from rnnx.models._dropout import Masks
from rnnx.models.character import CharModel, CharStream
from rnnx.models.recurrent import Recurrent, StackCache, StackStream
from rnnx.models.sequence import SequenceClassifier, SequenceModel, SequenceRegressor, square_root_segments

__all__ = [
    "CharModel",
    "CharStream",
    "Masks",
    "Model",
    "Recurrent",
    "SequenceClassifier",
    "SequenceModel",
    "SequenceRegressor",
    "StackCache",
    "StackStream",
    "Step",
    "square_root_segments",
]
