"""Texts, tokenizers, and datasets that yield batches."""

from rnnx.data.arrange import as_sequences
from rnnx.data.batches import Batch, Dataset, pad
from rnnx.data.builtin import CORPORA, dinosaur_names, find_text, python_prose
from rnnx.data.corpus import Corpus, make_corpus
from rnnx.data.examples import Examples
from rnnx.data.files import EncodedText, TextFile, encode_file, open_text, read_text
from rnnx.data.frames import FrameSequences, sequences_from_frame, series_from_frame
from rnnx.data.holdout import folds_by_group, split_by_group
from rnnx.data.labels import encode_labels
from rnnx.data.multi_task import MultiTaskExamples
from rnnx.data.on_device import to_device_of
from rnnx.data.padding import StepMask, move_padding_to_end
from rnnx.data.pairs import PairBatch, Pairs
from rnnx.data.scaling import Scaler
from rnnx.data.series import SeriesWindows
from rnnx.data.series_streams import SeriesStreams
from rnnx.data.sources import Items
from rnnx.data.tables import read_table
from rnnx.data.time_series import Series
from rnnx.data.tokenizer import NEWLINE, CharTokenizer
from rnnx.data.vocabulary import count_characters
from rnnx.data.weights import class_weights
from rnnx.data.wide_frames import sequences_from_wide_frame, series_from_wide_frame
from rnnx.data.windows import Lines, Streams, Windows

__all__ = [
    "CORPORA",
    "NEWLINE",
    "Batch",
    "CharTokenizer",
    "Corpus",
    "Dataset",
    "EncodedText",
    "Examples",
    "FrameSequences",
    "Items",
    "Lines",
    "MultiTaskExamples",
    "PairBatch",
    "Pairs",
    "Scaler",
    "Series",
    "SeriesStreams",
    "SeriesWindows",
    "StepMask",
    "Streams",
    "TextFile",
    "Windows",
    "as_sequences",
    "class_weights",
    "count_characters",
    "dinosaur_names",
    "encode_file",
    "encode_labels",
    "find_text",
    "folds_by_group",
    "make_corpus",
    "move_padding_to_end",
    "open_text",
    "pad",
    "python_prose",
    "read_table",
    "read_text",
    "sequences_from_frame",
    "sequences_from_wide_frame",
    "series_from_frame",
    "series_from_wide_frame",
    "split_by_group",
    "to_device_of",
]
