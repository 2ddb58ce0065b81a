"""Models: a stack of recurrent layers, with heads for texts, sequences and pairs."""

from rnnx.models.base import Model, Step
from rnnx.models.character import CharModel
from rnnx.models.decoding import Prediction
from rnnx.models.generation import draw, sample
from rnnx.models.heads import Head
from rnnx.models.masks import Masks
from rnnx.models.multi_task import MultiTaskModel
from rnnx.models.recurrent import Recurrent, StackCache
from rnnx.models.segments import square_root_segments
from rnnx.models.seq2seq import Seq2Seq
from rnnx.models.sequence import SequenceClassifier, SequenceRegressor
from rnnx.models.sequence_model import SequenceModel
from rnnx.models.streams import CharStream, StackStream

__all__ = [
    "MODELS",
    "CharModel",
    "CharStream",
    "Head",
    "Masks",
    "Model",
    "MultiTaskModel",
    "Prediction",
    "Recurrent",
    "Seq2Seq",
    "SequenceClassifier",
    "SequenceModel",
    "SequenceRegressor",
    "StackCache",
    "StackStream",
    "Step",
    "draw",
    "sample",
    "square_root_segments",
]

# Model classes by their names in checkpoints.
MODELS: dict[str, type[Model]] = {
    model.kind: model for model in (CharModel, SequenceClassifier, SequenceRegressor, MultiTaskModel, Seq2Seq)
}
