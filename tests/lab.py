"""A small corpus, trainers, and results of commands, for tests."""

from rnnx.data import make_corpus
from rnnx.models import CharModel
from rnnx.optim import Adam
from rnnx.training import Trainer

NAMES = "\n".join(a + b + c for a in ("tri", "tyr", "vel", "ste") for b in "aeiou" for c in ("nosaurus", "tops", "don"))
PROSE = "It was a dark and stormy night; the rain fell in torrents, except at occasional intervals.\n\n" * 9


def make_trainer(seed=0, cell="lstm", text=NAMES, by="auto", length=10, model=(), **keywords):
    """(corpus, trainer) for a model of 12 units."""
    corpus = make_corpus("names", text, by=by, seq_length=length)
    options = {"cell": cell, "seed": seed, **dict(model)}
    char_model = CharModel(corpus.tokenizer.vocab_size, 12, **options)
    keywords = {"optimizer": Adam(learning_rate=0.01), **keywords}
    return corpus, Trainer(char_model, seed=seed, **keywords)


def ok(result):
    """Return what a command printed; it must have succeeded."""
    code, out, err = result
    assert code == 0, err
    return out
