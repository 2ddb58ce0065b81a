"""Loss and time of a character model trained by rnnx and by PyTorch for the same number of epochs. Not run by asv.

    python asv_benchmarks/character_training.py TEXT --epochs 5

Both sides use the same architecture (one-hot characters, LSTM layers, a dense layer), text, split, batches,
initialization scheme (uniform, torch's default), update rule, learning rate and clipping, but draw their own weights.
torch.nn.LSTM has two biases per gate, of which only the sum matters; with Adam that sum would move twice as fast, so
the second bias stays zero unless --two-biases is given. The sides run in separate processes, alternately, on all cores.
Times exclude loading the text, the first step (compilation) and evaluations.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from shared import child

from rnnx.data import Corpus, make_corpus


def corpus_of(o: dict[str, Any]) -> Corpus:
    return make_corpus(Path(o["text"]).stem, Path(o["text"]), by="windows", seq_length=o["seq_length"])


def batches(corpus: Corpus, o: dict[str, Any], epoch: int):
    """Yield the batches of an epoch, the same on both sides."""
    return corpus.train.batches(o["batch_size"], np.random.default_rng([o["seed"], epoch]))


def rnnx_side(o: dict[str, Any]) -> dict[str, Any]:
    from rnnx.models import CharModel
    from rnnx.optim import Adam
    from rnnx.training import Trainer

    corpus = corpus_of(o)
    size = corpus.tokenizer.vocab_size
    model = CharModel(size, o["hidden_size"], o["num_layers"], scheme="torch", seed=o["seed"])
    model.train_step(next(corpus.train.batches(o["batch_size"])))  # compiles
    trainer = Trainer(model, Adam(o["learning_rate"]), clip_norm=o["clip_norm"], seed=o["seed"])
    losses, seconds = [], 0.0
    n_batches = corpus.train.n_batches(o["batch_size"])
    for epoch in range(1, o["epochs"] + 1):
        start = time.perf_counter()
        for _ in trainer.run(corpus.train, iterations=epoch * n_batches, batch_size=o["batch_size"]):
            pass
        seconds += time.perf_counter() - start
        losses.append(trainer.evaluate(corpus.validation, 64))
    return {"losses": losses, "seconds": seconds}


def torch_side(o: dict[str, Any]) -> dict[str, Any]:
    import torch
    from torch.nn import functional

    torch.manual_seed(o["seed"])
    corpus = corpus_of(o)
    size = corpus.tokenizer.vocab_size
    lstm = torch.nn.LSTM(size, o["hidden_size"], o["num_layers"])
    head = torch.nn.Linear(o["hidden_size"], size)
    if not o["two_biases"]:
        for name, p in lstm.named_parameters():
            if name.startswith("bias_hh"):
                p.requires_grad_(False).zero_()
    parameters = [p for p in (*lstm.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=o["learning_rate"])

    def loss_of(batch) -> torch.Tensor:
        inputs, targets = torch.from_numpy(batch.inputs.T), torch.from_numpy(batch.targets.T)  # (T, m)
        a, _ = lstm(functional.one_hot(inputs, size).float())
        valid = torch.arange(len(targets))[:, None] < torch.from_numpy(batch.lengths)
        return functional.cross_entropy(head(a)[valid], targets[valid])

    def step(batch) -> None:
        optimizer.zero_grad()
        loss_of(batch).backward()
        torch.nn.utils.clip_grad_norm_(parameters, o["clip_norm"])
        optimizer.step()

    @torch.no_grad()
    def evaluate() -> float:
        total, count = 0.0, 0
        for batch in corpus.validation.batches(64):
            n = int(batch.lengths.sum())
            total, count = total + float(loss_of(batch)) * n, count + n
        return total / count

    loss_of(next(corpus.train.batches(o["batch_size"]))).backward()  # warm-up
    losses, seconds = [], 0.0
    for epoch in range(1, o["epochs"] + 1):
        start = time.perf_counter()
        for batch in batches(corpus, o, epoch):
            step(batch)
        seconds += time.perf_counter() - start
        losses.append(evaluate())
    return {"losses": losses, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("text")
    sizes = {"epochs": 5, "hidden-size": 256, "num-layers": 1, "batch-size": 64, "seq-length": 64}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--learning-rate", type=float, default=0.002)
    parser.add_argument("--clip-norm", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--two-biases", action="store_true")
    options = vars(parser.parse_args())
    print(f"{options}\nsplit: {corpus_of(options).split}; validation loss after every epoch, nats per character")
    for seed in range(options["seeds"]):
        for side in ("rnnx", "torch"):
            result = child(f"character_training:{side}_side", {**options, "seed": seed})
            losses = " ".join(f"{loss:.4f}" for loss in result["losses"])
            print(f"seed {seed}  {side:6} {result['seconds']:7.1f} s  validation {losses}", flush=True)


if __name__ == "__main__":
    main()
