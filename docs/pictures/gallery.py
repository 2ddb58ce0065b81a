"""Draw the pictures of docs/pictures.md from small models, which it trains in a few minutes.

``python docs/pictures/gallery.py [FOLDER]``; the pictures are reproducible for a given version of Python, because the
training data are its help texts.
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import rnnx
from rnnx import plots
from rnnx.analysis import inspection
from rnnx.data import CharTokenizer, Corpus, Pairs, make_corpus, python_prose
from rnnx.models import CharModel
from rnnx.models.seq2seq import Seq2Seq
from rnnx.optim import Adam
from rnnx.training import Trainer

SEED = 1
SENTENCE = 'The "try" statement specifies exception handlers (see below).\n'
WORD = "hippopotamus"


def train(corpus: Corpus, cell: str, steps: int = 800) -> tuple[CharModel, list[dict[str, Any]]]:
    """Return a character model trained on help texts for about a minute, and the records of its training."""
    model = CharModel(corpus.tokenizer.vocab_size, 96, cell=cell, rng=SEED)
    return model, fit(model, corpus.train, corpus.validation, steps)


def fit(model: Any, learn: Any, hold_out: Any, steps: int) -> list[dict[str, Any]]:
    """Train with a learning rate that warms up and decays, print a summary, and return the records."""
    started = time.perf_counter()
    schedule = rnnx.optim.CosineDecay(0.006, steps, warmup=50)
    trainer = Trainer(model, Adam(learning_rate=schedule), seed=SEED)
    progress = trainer.run(learn, hold_out, iterations=steps, batch_size=32)
    records = [item.as_dict() for item in progress]
    print(
        f"{model}: {time.perf_counter() - started:.0f} s, validation {records[-1]['validation_loss']:.4f}", flush=True
    )
    return records


def vanishing(n_steps: int = 100, n_a: int = 64, n_x: int = 32, m: int = 16) -> dict[str, np.ndarray]:
    """Return gradient norms of untrained cells, for the same inputs and scheme and a unit gradient at the end."""
    rng = np.random.default_rng(SEED)
    x, da = rng.standard_normal((n_x, m, n_steps)), rng.standard_normal((n_a, m))
    cells: dict[str, tuple[str, dict[str, float]]] = {
        "RNN": ("rnn", {}),
        "GRU": ("gru", {}),
        "LSTM, forget bias 0": ("lstm", {"forget_bias": 0.0}),
        "LSTM, forget bias 1": ("lstm", {"forget_bias": 1.0}),
        "LSTM, forget bias 3": ("lstm", {"forget_bias": 3.0}),
    }
    norms = {}
    for name, (cell, options) in cells.items():
        parameters: dict[str, Any] = rnnx.initialize_parameters(
            cell, n_x, n_a, rng=SEED, dtype="float64", scheme="torch", **options
        )
        _, _, caches = rnnx.recurrent_forward(cell, x, (), parameters)
        norms[name] = inspection.gradient_norms(caches, ds_final=da / np.linalg.norm(da))
    return norms


def backwards() -> tuple[Seq2Seq, CharTokenizer]:
    """Return a model that writes words backwards, and its alphabet; the end token 0 is the newline."""
    rng = np.random.default_rng(SEED)
    alphabet = CharTokenizer(None).fit("\nabcdefghijklmnopqrstuvwxyz")
    words = [rng.integers(1, 27, n) for n in rng.integers(4, 15, 6000)]
    learn, hold_out = (Pairs(some, [word[::-1] for word in some], 0) for some in (words[300:], words[:300]))
    model = Seq2Seq(27, 27, 48, cell="gru", rng=SEED)
    fit(model, learn, hold_out, steps=600)
    return model, alphabet


def attention(model: Seq2Seq, alphabet: CharTokenizer) -> Figure:
    """Draw the attention weights for one word."""
    indices, lengths, weights = model.predict(alphabet.encode(WORD)[None, :], max_length=len(WORD) + 4)
    n = int(lengths[0]) + 1  # including the newline that ends it
    written = alphabet.decode(indices[0, :n])
    return plots.attention_map(weights[0, :n, :], WORD, written, title="Attention of a model that writes backwards")


def main(folder: Path) -> None:
    """Train the models, draw the pictures and save them."""
    corpus = make_corpus("pydoc", python_prose(), by="streams", seq_length=64)
    models, runs = {}, {}
    for cell in ("lstm", "gru", "rnn"):
        models[cell], runs[cell.upper()] = train(corpus, cell)
    draw(folder, corpus, models["lstm"], runs, backwards())


def draw(folder: Path, corpus: Corpus, model: CharModel, runs: dict[str, Any], reverser: Any) -> None:
    """Draw and save all pictures."""
    held_out = corpus.tokenizer.decode(corpus.validation.indices[-6000:-4600]).split("\n", 1)[1]
    pictures = {
        "training_curves": plots.training_curves(runs["LSTM"], title="LSTM of 96 units on Python's help texts"),
        "training_runs": plots.training_curves(runs, title="Three cells on the same text"),
        "gate_activations": plots.gate_activations(
            inspection.text_values(model, corpus.tokenizer, SENTENCE)[0], SENTENCE
        ),
        "text_activation": plots.text_activation(
            inspection.text_values(model, corpus.tokenizer, held_out)[0], held_out
        ),
        "gradient_norms": plots.gradient_norms(vanishing()),
        "attention_map": attention(*reverser),
        "weight_histograms": plots.weight_histograms(model.parameters),
    }
    for name, figure in pictures.items():
        path = folder / f"{name}.png"
        plots.save(figure, path)
        Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)  # a third of the bytes


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
