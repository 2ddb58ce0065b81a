"""Models over the functions: a stack of recurrent layers, and what can stand on it."""

from rnnx.models._base import Model, Step
from rnnx.models._dropout import Masks
from rnnx.models._segments import square_root_segments
from rnnx.models._sequence import SequenceModel
from rnnx.models.character import CharModel, CharStream
from rnnx.models.recurrent import Recurrent, StackCache, StackStream
from rnnx.models.seq2seq import Prediction, Seq2Seq
from rnnx.models.sequence import SequenceClassifier, SequenceRegressor

__all__ = [
    "MODELS",
    "CharModel",
    "CharStream",
    "Masks",
    "Model",
    "Prediction",
    "Recurrent",
    "Seq2Seq",
    "SequenceClassifier",
    "SequenceModel",
    "SequenceRegressor",
    "StackCache",
    "StackStream",
    "Step",
    "square_root_segments",
]

# The models that a checkpoint can hold, by the name it has there.
MODELS: dict[str, type[Model]] = {
    model.kind: model for model in (CharModel, SequenceClassifier, SequenceRegressor, Seq2Seq)
}
