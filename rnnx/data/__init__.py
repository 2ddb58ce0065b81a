"""Texts, tokenizers, and datasets that hand out batches."""

from rnnx.data.batches import Batch, Dataset, Examples, Lines, Streams, Windows
from rnnx.data.corpus import CORPORA, Corpus, dinosaur_names, make_corpus, python_prose
from rnnx.data.files import EncodedText, TextFile, encode_file, open_text, read_text
from rnnx.data.pairs import PairBatch, Pairs, pad
from rnnx.data.tokenizer import CharTokenizer, count_characters

__all__ = [
    "CORPORA",
    "Batch",
    "CharTokenizer",
    "Corpus",
    "Dataset",
    "EncodedText",
    "Examples",
    "Lines",
    "PairBatch",
    "Pairs",
    "Streams",
    "TextFile",
    "Windows",
    "count_characters",
    "dinosaur_names",
    "encode_file",
    "make_corpus",
    "open_text",
    "pad",
    "python_prose",
    "read_text",
]
