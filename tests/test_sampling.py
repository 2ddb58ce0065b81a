"""Sampling texts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import NAMES, make_trainer
from problems import TOLERANCE, assert_close

import rnnx
from rnnx.data import CharTokenizer
from rnnx.models import CharModel
from rnnx.models.generation import draw, sample


@pytest.fixture(scope="module")
def trained():
    corpus, trainer = make_trainer(model={"num_layers": 2})
    list(trainer.run(corpus.train, corpus.validation, epochs=30, batch_size=8))
    return trainer.model, corpus.tokenizer


def test_sampling(trained):
    texts = sample(*trained, start="tri", n=20, temperature=0.5, seed=1)
    assert len(texts) == 20
    assert all(t.startswith("tri") and "\n" not in t for t in texts)
    assert texts == sample(*trained, start="tri", n=20, temperature=0.5, seed=1)
    assert texts != sample(*trained, start="tri", n=20, temperature=0.5, seed=2)
    assert len(set(sample(*trained, n=5, temperature=0, seed=None))) == 1  # greedy
    assert any(t in NAMES.split("\n") for t in sample(*trained, n=50, temperature=0.3, seed=0))
    assert max(map(len, sample(*trained, n=5, max_length=3, seed=0))) <= 3
    assert all(len(t) == 7 for t in sample(*trained, n=3, max_length=7, stop=None, seed=0))
    assert trained[0].generate(trained[1], n=2, seed=3) == sample(*trained, n=2, seed=3)


def test_prompts_of_different_lengths(trained):
    """Texts sampled side by side equal single ones; greedy, because random numbers depend on the number of texts."""
    starts = ["t", "tyranno", "", "ste"]
    together = sample(*trained, start=starts, n=4, temperature=0)
    assert together == [sample(*trained, start=s, temperature=0)[0] for s in starts]
    assert max(map(len, sample(*trained, start=["velo", "t"], n=2, max_length=2, stop=None, seed=0))) == 6


def test_sampling_follows_the_distribution(trained):
    """First characters at temperature 2 follow softmax of half the logits."""
    model, tokenizer = trained
    logits = model.stream(1).read(tokenizer.encode("\n"))
    expected = rnnx.softmax(logits[:, 0] / 2)
    n = 4000
    firsts = [t[:1] or "\n" for t in sample(*trained, n=n, temperature=2.0, max_length=1, seed=0)]
    counts = np.array([firsts.count(c) for c in tokenizer.get_vocab()]) / n
    assert np.abs(counts - expected).max() < 5 * np.sqrt(0.25 / n)


@given(st.integers(1, 6), st.floats(0.05, 1.0), st.floats(0.2, 3.0), st.integers(0, 100))
def test_top_k_and_top_p(k, p, temperature, seed):
    """Samples come from the top k and from the smallest set of probability p, and all of these occur."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal(6)
    logits = np.repeat(z[:, None], 3000, axis=1)
    weights = np.exp(z / temperature)
    order = np.argsort(-weights)
    likeliest = {*order[:k].tolist()}
    assert {*draw(logits, rng, temperature, top_k=k).tolist()} <= likeliest
    cumulative = np.cumsum(weights[order]) / weights.sum()
    size = int(np.searchsorted(cumulative, p - 1e-12)) + 1
    nucleus = order[:size]
    drawn = draw(logits, rng, temperature, top_p=p)
    assert {*drawn.tolist()} <= {*nucleus.tolist()}
    expected = weights[nucleus] / weights[nucleus].sum()
    counts = np.array([np.mean(drawn == i) for i in nucleus])
    assert np.abs(counts - expected).max() < 5 * np.sqrt(0.25 / 3000)


def test_draw_never_and_greedy():
    logits = np.array([[5.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    rng = np.random.default_rng(0)
    assert draw(logits, rng, 0.0).tolist() == [0, 2]
    assert draw(logits, rng, 0.0, never=0).tolist() == [1, 2]
    assert 0 not in draw(np.repeat(logits, 500, axis=1), rng, 1.0, never=0)


def test_the_unknown_character_is_never_sampled():
    tokenizer = CharTokenizer("<UNK>").fit("ab\n")
    model = CharModel(tokenizer.vocab_size, 4, seed=0)
    model.parameters["by"][tokenizer.oov_index] = 50.0
    assert "<UNK>" not in sample(model, tokenizer, start="Ž", max_length=50, stop=None, seed=0)[0]


def test_reading_by_character_matches_the_sequence(trained, engine):
    model, tokenizer = trained
    indices = tokenizer.encode("triatops")
    logits, _, _ = model.forward(indices[None, :])
    stream = model.stream(2)
    for t, i in enumerate(indices):
        read = stream.read(np.array([i, i]))
        for j in range(2):
            assert_close(read[:, j], logits[:, 0, t], TOLERANCE["float32"])


def test_a_tokenizer_of_another_size(trained):
    with pytest.raises(ValueError, match="`tokenizer` must have vocab_size = 15, like `model`; got 3"):
        sample(trained[0], CharTokenizer(None).fit("ab\n"))
    only_unknown = CharTokenizer.from_vocab(["<UNK>"], "<UNK>")
    with pytest.raises(ValueError, match="must contain a character to start with"):
        sample(CharModel(1, 2, seed=0), only_unknown)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"temperature": -1}, "`temperature` must be a number of at least 0; got -1"),
        ({"n": 0}, "`n` must be an integer from 1 to 1000000; got 0"),
        ({"start": "Ž"}, "the vocabulary does not contain 'Ž'"),
        ({"start": ["a"], "n": 2}, "`start` must be one text or a sequence of n = 2 texts; got 1"),
        ({"max_length": 2.5}, "`max_length` must be an integer from 1 to 1000000; got 2.5"),
        ({"top_k": 0}, "`top_k` must be an integer of at least 1; got 0"),
        ({"top_p": 0.0}, r"`top_p` must be a number in \(0, 1\]; got 0.0"),
        ({"stop": "ab"}, "`stop` must be one character; got 'ab'"),
    ],
)
def test_sampling_messages(trained, keywords, message):
    with pytest.raises((ValueError, TypeError), match=message):
        sample(*trained, **keywords)
