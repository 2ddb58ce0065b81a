"""Make what `tests/test_stored.py` reads: `python tests/stored/make.py` writes a folder named like the version of rnnx.

A folder is never changed after its release: later versions must read it.
"""

from pathlib import Path

import numpy as np

import rnnx
from rnnx.data import CharTokenizer
from rnnx.models import CharModel, Seq2Seq, SequenceClassifier, SequenceRegressor
from rnnx.training import Checkpoint, Run, Settings, save_checkpoint

FOLDER = Path(__file__).parent / rnnx.__version__
TEXT = FOLDER.parent / "names.txt"
SETTINGS = {"hidden_size": (4, 3), "num_layers": 2, "dropout": 0.2, "zoneout": 0.1, "dtype": "float64", "epochs": 4}
SETTINGS |= {"batch_size": 4, "evaluate_every": 3, "learning_rate": 0.01, "validation": 0.2, "scheme": "course"}


def models():
    """One of each kind, and the inputs of a forward pass."""
    rng = np.random.default_rng(0)
    common = {"dtype": "float64", "seed": 0}
    x, indices = rng.standard_normal((2, 3, 5)), rng.integers(0, 4, (3, 5))
    yield CharModel(4, 5, cell="rnn", **common), (indices,)
    yield SequenceClassifier(2, 4, 3, cell="gru", num_layers=2, bidirectional=True, **common), (x,)
    yield SequenceRegressor(2, 4, 2, cell="layer_norm_lstm", per_step=True, **common), (x,)
    yield Seq2Seq(4, 4, 3, attention="additive", **common), (indices, indices[:, :3])


def main():
    """Write the folder: a checkpoint of each model with its results, and a run with four steps left."""
    FOLDER.mkdir()
    tokenizer = CharTokenizer(None).fit("\nabc")
    for model, inputs in models():
        arrays = {f"input {k}": a for k, a in enumerate(inputs)} | {"z": model.forward(*inputs)[0]}
        texts = dict.fromkeys(model.vocab_sizes(), tokenizer)
        save_checkpoint(FOLDER / f"{model.kind}.safetensors", Checkpoint(model, arrays=arrays, **texts))
    Settings.located = lambda self: self  # the path of this machine is of no use elsewhere
    run = Run.start(FOLDER / "run", Settings(text=TEXT.name, **SETTINGS))
    items = run.train(save_every=1)
    losses = [next(items).loss for _ in range(20)]
    items.close()
    print(len(losses), losses[-1])


if __name__ == "__main__":
    main()
