"""Copies and pickles: independent of the original, and equal to it from then on."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from lab import make_trainer

import rnnx
from rnnx.data import Examples
from rnnx.functional.attention import AttentionStream
from rnnx.models import CharModel, SequenceClassifier

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda one: pickle.loads(pickle.dumps(one))}


@pytest.fixture(params=COPIES)
def copied(request):
    return COPIES[request.param]


def test_pickled_cells_are_equal_in_another_process():
    code = "import pickle, rnnx, sys; print(pickle.load(sys.stdin.buffer) == rnnx.CELLS)"
    cells = dict(rnnx.CELLS)
    there = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(cells), capture_output=True, check=True)
    assert there.stdout.strip() == b"True"
    for cell in cells.values():
        assert pickle.loads(pickle.dumps(cell)) == copy.deepcopy(cell) == cell


def test_streams(cell, engine, copied, rng):
    parameters = rnnx.initialize_parameters(cell, 3, 5, seed=0)
    x = rng.standard_normal((6, 3, 2)).astype("float32")
    stream = rnnx.Stream(cell, parameters, m=2)
    for xt in x[:3]:
        stream.step(xt)
    other = copied(stream)
    assert other.engine == stream.engine == engine
    for name, state in stream.states.items():
        assert np.array_equal(other.states[name], state)
    expected = [stream.step(xt).copy() for xt in x[3:]]
    assert all(np.array_equal(other.step(xt), a) for xt, a in zip(x[3:], expected, strict=True))
    other.reset()
    stream.reset()
    assert np.array_equal(other.step(x[0]), stream.step(x[0]))


def test_streams_of_characters(copied):
    stream = CharModel(7, [4, 3], seed=0).stream(2)
    stream.read(np.array([1, 2]))
    other = copied(stream)
    expected = [stream.read(np.array([i, 3])) for i in range(4)]
    assert all(np.array_equal(other.read(np.array([i, 3])), a) for i, a in enumerate(expected))


@pytest.mark.parametrize("indices", [False, True])
def test_caches(cell, engine, copied, rng, indices):
    parameters = rnnx.initialize_parameters(cell, 3, 5, seed=0)
    x = rng.integers(0, 3, (2, 4)) if indices else rng.standard_normal((3, 2, 4)).astype("float32")
    states, _, caches = rnnx.recurrent_forward(cell, x, (), parameters, lengths=[4, 2])
    other = copied(caches)
    expected = rnnx.recurrent_backward(cell, (states[0],), caches, consume=True)
    gradients = rnnx.recurrent_backward(cell, (states[0],), other)
    assert gradients.keys() == expected.keys()
    assert all(np.array_equal(gradients[name], a) for name, a in expected.items())


def test_models_and_datasets(copied, rng):
    examples = Examples(rng.standard_normal((2, 6, 4)), rng.integers(0, 3, 6))
    model = SequenceClassifier(2, 4, 3, bidirectional=True, seed=0)
    other, same = copied(model), copied(examples)
    assert np.array_equal(other.predict(same.inputs), model.predict(examples.inputs))
    other.parameters["by"][...] = 9
    assert not model.parameters["by"].any()


def test_trainers(copied):
    corpus, trainer = make_trainer()
    trainer.fit(corpus.train, iterations=5, batch_size=8)
    other, same = copied(trainer), copied(corpus)
    trainer.fit(corpus.train, corpus.validation, iterations=12, batch_size=8)
    assert other.step == 5
    other.fit(same.train, same.validation, iterations=12, batch_size=8)
    assert other.counters == trainer.counters
    for name, p in trainer.model.parameters.items():
        assert np.array_equal(other.model.parameters[name], p)
        assert not np.shares_memory(other.model.parameters[name], p)


@pytest.mark.parametrize("additive", [False, True])
def test_caches_of_attention(copied, rng, additive):
    queries, keys = rng.standard_normal((4, 2, 3)), rng.standard_normal((4, 2, 5))
    kind, arguments = "dot_product", ()
    if additive:
        shapes = {"Wq": (4, 4), "Wk": (4, 4), "va": (4, 1), "ba": (4, 1)}
        kind, arguments = "additive", ({name: rng.standard_normal(shape) for name, shape in shapes.items()},)
    cache = getattr(rnnx, f"{kind}_attention_forward")(queries, keys, keys, *arguments, lengths=[5, 2])[2]
    other, backward = copied(cache), getattr(rnnx, f"{kind}_attention_backward")
    expected = backward(queries, cache)
    for a in (other.keys, *cache.parameters.values()):
        assert not any(np.may_share_memory(a, b) for b in (cache.keys, *other.parameters.values()))
    found = backward(queries, other)
    assert {name: a.tobytes() for name, a in found.items()} == {name: a.tobytes() for name, a in expected.items()}
    stream = AttentionStream(keys, keys, *arguments)
    assert np.array_equal(copied(stream).step(queries[:, :, 0])[0], stream.step(queries[:, :, 0])[0])
