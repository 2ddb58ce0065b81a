"""Tokenizer, datasets, and reading of text files."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnx.corpus import dinosaur_names, make_corpus, read_text
from rnnx.text import CharTokenizer, Lines, Windows


@given(st.lists(st.text(min_size=1), min_size=1))
def test_round_trip_of_any_text(texts):
    tokenizer = CharTokenizer().fit(texts)
    assert tokenizer.sequences_to_texts(tokenizer.texts_to_sequences(texts)) == texts
    assert tokenizer.vocab_size == len(set("".join(texts)))
    again = CharTokenizer.from_vocab(tokenizer.get_vocab())
    assert again.encode(texts[0]).tolist() == tokenizer.encode(texts[0]).tolist()


def test_unknown_characters():
    with pytest.raises(ValueError, match="the vocabulary does not hold 'x', 'z'"):
        CharTokenizer().fit("abc").encode("zax")
    tokenizer = CharTokenizer(oov_token="<UNK>").fit("abc")
    assert tokenizer.encode("azb").tolist() == [1, 0, 2]
    assert tokenizer.decode([1, 0]) == "a<UNK>"


def test_lines_pad_and_shift():
    batch = next(Lines([np.array([1, 2, 3]), np.array([4])], newline=9).batches(2))
    assert batch.inputs.tolist() == [[9, 1, 2, 3], [9, 4, 0, 0]]
    assert batch.targets.tolist() == [[1, 2, 3, 9], [4, 9, 0, 0]]
    assert batch.lengths.tolist() == [4, 2]


@given(n=st.integers(2, 60), length=st.integers(1, 20), batch_size=st.integers(1, 7))
def test_windows_cover_every_transition_once(n, length, batch_size):
    text = np.arange(n)
    windows = Windows(text, length)
    batches = list(windows.batches(batch_size, np.random.default_rng(0)))
    assert len(batches) == windows.n_batches(batch_size)
    pairs = [
        (int(b.inputs[j, t]), int(b.targets[j, t]))
        for b in batches
        for j, length in enumerate(b.lengths)
        for t in range(length)
    ]
    assert sorted(pairs) == [(i, i + 1) for i in range(n - 1)]


def test_every_line_once_an_epoch_in_an_order_of_the_seed():
    lines = Lines([np.full(i + 1, i) for i in range(10)], newline=99)

    def order(seed):
        return [int(row[1]) for b in lines.batches(3, np.random.default_rng(seed)) for row in b.inputs]

    assert sorted(order(0)) == list(range(10))
    assert order(0) == order(0) != order(1)
    assert lines.n_batches(3) == 4


def test_dinosaur_names():
    names = dinosaur_names().splitlines()
    assert len(names) >= 1000
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Z][a-z]+", name) for name in names)
    assert {"Triceratops", "Tyrannosaurus", "Velociraptor", "Archaeoceratops"} <= set(names)


def test_corpus_of_lines_and_of_windows():
    names = "\n".join(f"name{chr(97 + i)}" for i in range(26))
    corpus = make_corpus("names", names)
    assert corpus.by == "lines"
    assert (len(corpus.train), len(corpus.validation)) == (24, 2)
    assert corpus.split == "2 of 26 lines held out at random"
    prose = make_corpus("prose", "It was a dark and stormy night.\n\n" * 30, length=10)
    assert prose.by == "windows"
    assert prose.split == "last 99 of 990 characters held out"
    assert make_corpus("names", names, by="windows").by == "windows"
    np.testing.assert_array_equal(make_corpus("n", names).train.sequences[0], corpus.train.sequences[0])
    with pytest.raises(ValueError, match="short must have at least 20 characters; got 2"):
        make_corpus("short", "ab")
    with pytest.raises(ValueError, match="one must have at least 2 lines"):
        make_corpus("one", "ab", by="lines")


def test_read_text(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes("\ufeffžluťoučký\r\nkůň\r".encode())
    assert read_text(path) == "žluťoučký\nkůň\n"
    path.write_bytes(b"fine\nnot \xff fine")
    with pytest.raises(ValueError, match=r"t.txt is not UTF-8: byte 0xff at offset 9, line 2"):
        read_text(path)
    path.write_bytes(b" \n")
    with pytest.raises(ValueError, match=r"t.txt is empty"):
        read_text(path)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "missing.txt")
