"""Batches in shards: the same bits on any number of ranks, which are threads here."""

import numpy as np
import pytest
from lab import make_trainer
from problems import TOLERANCE, assert_close
from ranks import in_ranks

from rnnx.data import Examples
from rnnx.models import SequenceRegressor
from rnnx.optim import Adam
from rnnx.training import Trainer


def numbers(**options):
    """A trainer and a dataset of examples of different lengths and weights."""
    rng = np.random.default_rng(0)
    data = Examples(
        rng.standard_normal((2, 11, 5)),
        rng.standard_normal((1, 11)),
        lengths=rng.integers(1, 6, 11),
        weights=rng.random(11),
    )
    model = SequenceRegressor(2, 3, num_layers=2, dropout=0.3, seed=0)
    return data, Trainer(model, Adam(0.01), clip_norm=0.1, **options)


def result(trainer):
    """All numbers of a run."""
    values, arrays = trainer.state()
    arrays = {**trainer.model.parameters, **arrays}
    return values, {name: np.asarray(a).copy() for name, a in arrays.items()}


def assert_same(found, expected):
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    for name, a in expected[1].items():
        np.testing.assert_array_equal(found[1][name], a, err_msg=name)


def trained_numbers(group, **options):
    data, trainer = numbers(shards=5, group=group, **options)
    trainer.fit(data, data, epochs=2, batch_size=6)  # the last batch has as many examples as shards
    return result(trainer)


def trained_text(group, **options):
    corpus, trainer = make_trainer(by="streams", shards=5, group=group, model={"num_layers": 2, "dropout": 0.2}, **options)
    trainer.fit(corpus.train, corpus.validation, iterations=4, evaluate_every=2, batch_size=7)
    return result(trainer)


@pytest.mark.parametrize("train", [trained_numbers, trained_text])
def test_any_number_of_ranks_has_the_same_bits(train):
    (alone,) = in_ranks(1, train)
    for size in (2, 3, 5):
        for found in in_ranks(size, train):
            assert_same(found, alone)


@pytest.mark.parametrize("train", [trained_numbers, trained_text])
def test_the_fast_sum_is_close(train):
    (alone,) = in_ranks(1, train)
    for found in in_ranks(3, lambda group: train(group, reduce="fast")):
        for name, a in alone[1].items():
            assert_close(found[1][name], a, TOLERANCE["float32"], name)
