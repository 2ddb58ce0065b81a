"""The check of captured training steps, for `gpu.py`. One function per child process."""

import warnings

import numpy as np
from gpu_device import Gpu, outcome

from rnnx.data import Examples, Pairs, make_corpus
from rnnx.models import CharModel, Seq2Seq, SequenceRegressor
from rnnx.optim import Adam, CosineDecay
from rnnx.training import Trainer

STEPS = 12
LINES = "triton\ntyr\nvelo\nstegos\nsaur\nmegas\n" * 12


def _characters(by, **options):
    corpus = make_corpus("text", LINES, by=by, seq_length=6)
    return (lambda xp: CharModel(corpus.tokenizer.vocab_size, [9, 5], rng=0, xp=xp, **options)), corpus.train


def _examples(**options):
    rng, n = np.random.default_rng(0), 24
    lengths, weights = np.array([6, 3, 5, 2] * 6), rng.random(n)
    data = Examples(rng.standard_normal((2, n, 6)), rng.standard_normal((1, n)), lengths=lengths, weights=weights)
    return (lambda xp: SequenceRegressor(2, 9, rng=0, xp=xp, **options)), data


def _pairs(attention):
    rng = np.random.default_rng(0)
    data = Pairs([rng.integers(1, 6, 4) for _ in range(24)], [rng.integers(1, 5, 3) for _ in range(24)], end_token=0)
    return (lambda xp: Seq2Seq(6, 5, 9, attention=attention, rng=0, xp=xp)), data


# A model and its data, and options of the trainer.
RUNS = {
    "characters": (*_characters("streams", dropout=0.2, zoneout=0.1), {}),
    "characters in segments": (*_characters("windows"), {"segment_length": 3, "clip_norm": 0.01}),
    "lines in micro-batches": (*_characters("lines"), {"micro_batch_size": 3}),
    "weighted examples in shards and segments": (*_examples(), {"shards": 2, "segment_length": 2, "ema": 0.9}),
    "pairs": (*_pairs("additive"), {"frozen": ["Wy"]}),
    "pairs in micro-batches": (*_pairs("dot"), {"micro_batch_size": 5}),
}
IN_16_BITS = {name: (*_characters("streams"), {"precision": name}) for name in ("bfloat16", "float16")}


def trained(xp, make, dataset, *, in_place, **options):
    """Return a trainer after some steps, the loss of the last one, and the warnings."""
    trainer = Trainer(make(xp), Adam(CosineDecay(0.01, steps=30)), in_place=in_place, **options)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        *_, last = trainer.run(dataset, iterations=STEPS, batch_size=8, evaluate_every=1000)
    return trainer, last.loss, [str(one.message) for one in said]


def compare(xp, to_host, run):
    """Return the failures of a run with captured steps, against one without and one of NumPy arrays."""
    make, dataset, options = run
    ours, loss, said = trained(xp, make, dataset, in_place=True, **options)
    eager, expected, _ = trained(xp, make, dataset, in_place=False, **options)
    failures = [one for one in said if "graph" in one]
    if not any(ours._captured._steps.values()):
        failures.append("no step was captured")
    for name, p in eager.model.parameters.items():
        if to_host(p).tobytes() != to_host(ours.model.parameters[name]).tobytes():
            failures.append(f"{name} differs")
    if loss != expected:
        failures.append(f"loss {loss} instead of {expected}")
    _, on_host, _ = trained(None, make, dataset, in_place=True, **options)
    if not abs(loss - on_host) < 0.01 * abs(on_host):
        failures.append(f"loss {loss}, on the CPU {on_host}")
    return failures


def captured_steps(options):
    """Check that captured steps have the bits of others."""
    del options
    device = Gpu(watched=False)
    for name, run in {**RUNS, **IN_16_BITS}.items():
        yield outcome(f"captured steps, {name}", compare(device.xp, device.to_host, run), f"{STEPS} steps, same bits")


CHILDREN = {"captured_steps": captured_steps}
