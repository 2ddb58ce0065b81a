"""Texts, text files, and how they are split."""

import hashlib
import os
import re
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rnnx.data import (
    CORPORA,
    CharTokenizer,
    Streams,
    TextFile,
    Windows,
    dinosaur_names,
    encode_file,
    files,
    lines,
    make_corpus,
    open_text,
    order,
    python_prose,
    read_text,
)
from rnnx.data.lines import line_bounds, looks_like_list

NAMES = "\n".join(f"name{chr(97 + i)}" for i in range(26))
PROSE = "It was a dark and stormy night.\n\n" * 30


def normal(text):
    return text.replace("\r\n", "\n").replace("\r", "\n")


# Files


@given(st.text(st.sampled_from("a\r\n é€\U0001f600\ufeff")), st.integers(1, 9))
def test_pieces_of_any_size(tmp_path_factory, text, piece):
    path = tmp_path_factory.getbasetemp() / "pieces.txt"
    path.write_bytes(b"\xef\xbb\xbfx" + text.encode())
    with TextFile(path, piece) as pieces:
        assert "".join(pieces) == normal("x" + text)
        first, second = iter(pieces), iter(pieces)  # two alternating readers
        assert "".join(a + b for a, b in zip(first, second, strict=True)) == "".join(p + p for p in pieces)


@given(
    st.text(st.sampled_from("ab\r\né€")),
    st.sampled_from([b"\xff", b"\xc3(", b"\xe2\x82(", b"\xed\xa0\x80", b"\xc3", b"\xe2\x82"]),
    st.booleans(),
    st.integers(1, 9),
)
def test_bad_encoding_says_where(tmp_path_factory, text, bad, bom, piece):
    path = tmp_path_factory.getbasetemp() / "bad.txt"
    before = b"\xef\xbb\xbf" * bom + b"x" + text.encode()
    path.write_bytes(before + bad)
    line = normal("x" + text).count("\n") + 1
    message = f"bad.txt is not UTF-8: byte 0x{bad[0]:02x} at offset {len(before)}, line {line}"
    with pytest.raises(ValueError, match=f"{re.escape(message)}$"), TextFile(path, piece) as pieces:
        list(pieces)


def test_read_text(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes("\ufeffžluťoučký\r\nkůň\r".encode())
    assert read_text(path) == "žluťoučký\nkůň\n"
    path.write_bytes(b"fine\nnot \xff fine")
    for read in (read_text, encode_file, lambda path: make_corpus("t", path)):
        with pytest.raises(ValueError, match=r"t.txt is not UTF-8: byte 0xff at offset 9, line 2"):
            read(path)
        for empty in (b"", b" \r\n", b"\xef\xbb\xbf"):
            (tmp_path / "empty.txt").write_bytes(empty)
            with pytest.raises(ValueError, match=r"empty.txt is empty"):
                read(tmp_path / "empty.txt")
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "missing.txt")
        with pytest.raises(PermissionError if sys.platform == "win32" else IsADirectoryError):
            read(tmp_path)


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.booleans())
def test_encode_file(tmp_path_factory, text, in_file):
    path = tmp_path_factory.getbasetemp() / "encode.txt"
    path.write_bytes(("x" + text).encode())
    encoded = encode_file(path, memory_limit=0 if in_file else 1000)
    expected = normal("x" + text)
    assert encoded.indices.flags.writeable != in_file
    assert encoded.indices.dtype == np.uint8
    assert encoded.tokenizer.decode(encoded.indices) == expected
    assert encoded.tokenizer.get_vocab() == sorted(set(expected))
    assert encoded.fingerprint == hashlib.sha256(expected.encode()).hexdigest()


def test_encode_file_with_a_tokenizer(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("abcab")
    tokenizer = CharTokenizer().fit("ab")
    encoded = encode_file(path, tokenizer)
    assert encoded.tokenizer is tokenizer
    assert encoded.indices.tolist() == [1, 2, 0, 1, 2]
    with pytest.raises(ValueError, match="the vocabulary does not contain 'c'"):
        encode_file(path, CharTokenizer(None).fit("ab"))


@pytest.mark.parametrize("times", [40, 60])
@pytest.mark.parametrize("limit", [0, 1000])
def test_a_file_that_changes_is_noticed(tmp_path, monkeypatch, times, limit):
    path = tmp_path / "t.txt"
    path.write_text("ab" * 50)
    fit_counts = CharTokenizer.fit_counts

    def fit_and_change(self, counts, **options):
        path.write_text("ab" * times)
        return fit_counts(self, counts, **options)

    monkeypatch.setattr(CharTokenizer, "fit_counts", fit_and_change)
    with pytest.raises(ValueError, match="the text changed while it was being read"):
        encode_file(path, memory_limit=limit)


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes of POSIX")
def test_pipes_and_devices_are_an_error(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(ValueError, match=f"cannot read {path}: it is not a regular file"):
            make_corpus("names", path)


@pytest.mark.slow
def test_memory_for_a_large_file(tmp_path):
    path = tmp_path / "large.txt"
    block = "It was a dark and stormy night; the rain fell in torrents - € ….\n"
    path.write_text(block * 470_000, encoding="utf-8", newline="\n")
    n = len(block) * 470_000
    tracemalloc.start()
    try:
        corpus = make_corpus("large", path, by="streams", seq_length=50, split="blocks")
        _, peak = tracemalloc.get_traced_memory()
        assert n > 30_000_000
        assert peak < n + 8_000_000  # one byte per character, and working memory
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        encoded = encode_file(path, memory_limit=1_000_000)
        _, peak = tracemalloc.get_traced_memory()
        assert peak - before < 8_000_000
    finally:
        tracemalloc.stop()
    assert corpus.fingerprint == encoded.fingerprint
    assert corpus.tokenizer.decode(encoded.indices[-len(block) :]) == block


def test_an_epoch_of_a_mapped_text_takes_little_memory(tmp_path, monkeypatch):
    """Neither the text is in memory nor the order of its windows, which are shuffled."""
    monkeypatch.setitem(files.encode.__kwdefaults__, "memory_limit", 1_000_000)
    monkeypatch.setattr(order, "_IN_MEMORY", 1000)
    path = tmp_path / "large.txt"
    path.write_text("It was a dark and stormy night; the rain fell in torrents.\n" * 200_000, newline="\n")
    tracemalloc.start()
    try:
        corpus = make_corpus("large", path, by="windows", seq_length=2)
        batches = corpus.train.batches(64, np.random.default_rng(0))
        inputs = np.concatenate([batch.inputs for batch, _ in zip(batches, range(20), strict=False)])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(corpus.train) > 5_000_000
    assert peak < 8_000_000  # less than the text
    assert len(np.unique(inputs, axis=0)) > 20


@pytest.mark.parametrize("n", [1, 2, 3, 5, 64, 65, 1000])
def test_a_large_order_is_a_random_order(n):
    first, second = (order.LargeOrder(n, np.random.default_rng(seed)) for seed in (0, 1))
    whole = first[0:n]
    assert sorted(whole.tolist()) == list(range(n))
    np.testing.assert_array_equal(np.concatenate([first[0 : n // 3], first[n // 3 : n + 5]]), whole)
    if n == 1000:
        assert not np.array_equal(second[0:n], whole)
        assert abs(np.corrcoef(whole, np.arange(n))[0, 1]) < 0.1
        assert abs(np.corrcoef(whole[1:], whole[:-1])[0, 1]) < 0.1


# Lines


@given(st.text(st.sampled_from("ab \n\t"), min_size=1), st.integers(1, 5))
def test_lines_of_pieces(text, piece):
    pieces = [text[at : at + piece] for at in range(0, len(text), piece)]
    found = [text[start:stop] for start, stop in zip(*line_bounds(pieces), strict=True)]
    assert found == [line for line in text.split("\n") if line.strip()]


def test_looks_like_list():
    assert looks_like_list([NAMES])
    assert looks_like_list(["\n\n", " \n" * 5, NAMES, "\n" * 9])
    assert looks_like_list([NAMES + "\n" + "x" * 64])
    assert not looks_like_list([NAMES + "\n" + "x" * 65])
    assert looks_like_list([NAMES.replace("\n", "\n\n", 2)])
    assert not looks_like_list([NAMES.replace("\n", "\n\n", 3)])
    assert not looks_like_list([NAMES[: 19 * 6]])
    assert looks_like_list([NAMES[: 20 * 6]])


# Corpora


def test_dinosaur_names():
    names = dinosaur_names().splitlines()
    assert len(names) >= 1000
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Z][a-z]+", name) for name in names)
    assert {"Triceratops", "Tyrannosaurus", "Velociraptor", "Archaeoceratops"} <= set(names)


def test_python_prose(monkeypatch):
    text = python_prose()
    assert len(text) > 200_000
    assert text == python_prose()
    assert "expression" in text
    assert make_corpus("pydoc", text).by == "windows"
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ValueError, match="this Python installation lacks its help texts"):
        python_prose()


def test_table_of_corpora():
    assert sorted(CORPORA) == ["dinos", "dinosaurs", "pydoc"]
    assert CORPORA["dinos"]() == CORPORA["dinosaurs"]() == dinosaur_names()


def test_corpus_of_lines_and_of_windows():
    corpus = make_corpus("names", NAMES)
    assert corpus.by == "lines"
    assert (len(corpus.train), len(corpus.validation)) == (24, 2)
    assert corpus.split == "2 of 26 lines held out at random"
    assert corpus.summary() == "names: 24 lines to train on, 2 of 26 lines held out at random; 27 characters"
    prose = make_corpus("prose", PROSE, seq_length=10)
    assert prose.by == "windows"
    assert prose.split == "last 99 of 990 characters held out"
    assert prose.summary().startswith("prose: 89 windows to train on, last 99")
    assert make_corpus("names", NAMES, by="windows").by == "windows"
    streams = make_corpus("prose", PROSE, seq_length=10, by="streams")
    assert isinstance(streams.train, Streams)
    assert streams.split == prose.split
    assert streams.summary().startswith("prose: 890 characters in streams to train on, last 99")


def test_lines_of_a_seed():
    first, again, other = (make_corpus("names", NAMES, seed=seed) for seed in (0, 0, 1))

    def held_out(corpus):
        return corpus.tokenizer.sequences_to_texts(corpus.validation.sequences)

    assert held_out(first) == held_out(again) != held_out(other)
    np.testing.assert_array_equal(first.train.sequences[0], again.train.sequences[0])
    assert len(first.train.sequences[3:5]) == 2
    np.testing.assert_array_equal(first.train.sequences[3:5][1], first.train.sequences[4])


@given(st.integers(2, 60), st.floats(0.001, 0.999), st.integers(0, 3))
def test_lines_are_on_one_side(n, validation, seed):
    lines = [chr(65 + i) + "x" * (i % 7) for i in range(n)]
    corpus = make_corpus("l", "\n \n".join(lines) + "\n", by="lines", validation=validation, seed=seed)
    train, held_out = (
        corpus.tokenizer.sequences_to_texts(part.sequences) for part in (corpus.train, corpus.validation)
    )
    assert sorted(train + held_out) == sorted(lines)
    assert len(held_out) == min(max(1, int(n * validation + 1e-9)), n - 1)
    assert corpus.split == f"{len(held_out)} of {n} lines held out at random"


@given(st.lists(st.sampled_from(["a", "b", "ab", "ba", "abb", "b "]), min_size=2, max_size=40), st.floats(0.001, 0.999))
def test_equal_lines_are_on_one_side(lines, validation):
    different = len(set(lines))
    assume(different > 1)
    corpus = make_corpus("l", "\n".join(lines), by="lines", validation=validation)
    train, held_out = (
        corpus.tokenizer.sequences_to_texts(part.sequences) for part in (corpus.train, corpus.validation)
    )
    assert not set(train) & set(held_out)
    assert sorted(train + held_out) == sorted(lines)
    wanted = min(max(1, int(different * validation + 1e-9)), different - 1)
    assert len(set(held_out)) == wanted
    words = f"{len(held_out)} of {len(lines)} lines held out at random"
    assert corpus.split == words + (f", {wanted} of {different} different ones" if different < len(lines) else "")


def test_equal_lines_cannot_be_split():
    with pytest.raises(ValueError, match="l must have at least 2 different lines, so that one can be held out; got 1"):
        make_corpus("l", "abc\n" * 30)
    assert len(make_corpus("l", "abc\n" * 30, validation=None).train) == 30


def test_the_split_of_the_dinosaurs():
    """Published losses refer to this split, so it must not change."""
    corpus = make_corpus("dinos", dinosaur_names())
    names = dinosaur_names().splitlines()
    order = np.random.default_rng(0).permutation(len(names))
    count = len(names) // 10
    for part, chosen in ((corpus.validation, order[:count]), (corpus.train, order[count:])):
        assert corpus.tokenizer.sequences_to_texts(part.sequences) == [names[i] for i in chosen]


def test_line_bounds_beyond_32_bits(monkeypatch):
    expected = line_bounds(["ab\n\nc\nde"])
    assert [places.tolist() for places in expected] == [[0, 4, 6], [2, 5, 8]]
    assert expected[0].dtype == np.uint32
    monkeypatch.setattr(lines, "_MAX_UINT32", 4)
    wide = line_bounds(["ab\n\nc\nde"])
    assert wide[0].dtype == np.uint64
    np.testing.assert_array_equal(wide, expected)
    assert line_bounds([""])[0].shape == (0,)


@given(
    n=st.integers(20, 250),
    by=st.sampled_from(["windows", "streams"]),
    split=st.sampled_from(["tail", "blocks"]),
    n_blocks=st.integers(2, 5),
    validation=st.floats(0.01, 0.5),
    length=st.integers(1, 20),
)
def test_no_text_is_on_both_sides(n, by, split, n_blocks, validation, length):
    text = "".join(map(chr, range(0x4E00, 0x4E00 + n)))  # every character only once
    corpus = make_corpus("t", text, by=by, split=split, n_blocks=n_blocks, validation=validation, seq_length=length)
    places = {}
    for side, dataset in (("train", corpus.train), ("validation", corpus.validation)):
        for batch in dataset.batches(1):
            for inputs, targets, steps in zip(batch.inputs, batch.targets, batch.lengths, strict=True):
                assert (targets[:steps] == inputs[:steps] + 1).all()
                for i in (*inputs[:steps].tolist(), *targets[:steps].tolist()):
                    assert places.setdefault(i, side) == side
    assert len(places) == n
    held_out = sum(side == "validation" for side in places.values())
    if split == "tail":
        assert corpus.split == f"last {held_out} of {n} characters held out"
        assert held_out == max(2, int(n * validation + 1e-9))
        assert all(places[i] == "validation" for i in range(n - held_out, n))
    else:
        words = f"{held_out} of {n} characters held out, in {n_blocks} blocks spread evenly over the text"
        assert corpus.split == words
        blocks = Counter(zip(map(places.get, range(n - 1)), map(places.get, range(1, n)), strict=True))
        assert blocks["train", "validation"] == n_blocks
        edges = [i for i in range(1, n) if (places[i - 1], places[i]) == ("validation", "train")]
        assert edges == [i * n // n_blocks for i in range(1, n_blocks)]


def test_all_of_a_text(tmp_path):
    for by, text, size in (("lines", NAMES, "26 lines"), ("windows", PROSE, "99 windows"), ("lines", "abc", "1 lines")):
        corpus = make_corpus("t", text, by=by, seq_length=10, validation=None)
        assert corpus.validation is None
        assert corpus.summary().startswith(f"t: {size} to train on, nothing held out; ")
    assert len(make_corpus("t", "ab", by="streams", validation=None).train) == 1
    names = make_corpus("t", NAMES, validation=None)
    assert names.tokenizer.sequences_to_texts(names.train.sequences) == NAMES.split("\n")
    with pytest.raises(ValueError, match="t must have at least 2 characters; got 1"):
        make_corpus("t", "a", validation=None)
    with pytest.raises(ValueError, match="t must have at least 1 line; got 0"):
        make_corpus("t", " ", by="lines", validation=None)


def test_fraction_is_exact():
    for percent in range(1, 99):
        corpus = make_corpus("t", "ab" * 5000, by="windows", validation=percent / 100)
        assert corpus.split == f"last {percent * 100} of 10000 characters held out"


def test_files_and_texts_are_the_same_corpus(tmp_path):
    path = tmp_path / "t.txt"
    for text in (NAMES, PROSE + "It rained.\n"):
        path.write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
        for by in ("auto", "lines", "windows", "streams"):
            a, b = make_corpus("t", text, by=by), make_corpus("t", path, by=by)
            assert (a.by, a.split, a.fingerprint, a.tokenizer) == (b.by, b.split, b.fingerprint, b.tokenizer)
            for x, y in zip(a.train.batches(4), b.train.batches(4), strict=True):
                np.testing.assert_array_equal(x.inputs, y.inputs)
                np.testing.assert_array_equal(x.targets, y.targets)
            returns = make_corpus("t", text.replace("\n", "\r\n"), by=by)
            assert (returns.by, returns.fingerprint, returns.tokenizer) == (b.by, b.fingerprint, b.tokenizer)
            old = make_corpus("t", text.replace("\n", "\r"), by=by)
            assert (old.by, old.fingerprint, old.split) == (b.by, b.fingerprint, b.split)
    assert make_corpus("t", NAMES).fingerprint == hashlib.sha256(NAMES.encode()).hexdigest()
    assert make_corpus("t", NAMES + "x").fingerprint != make_corpus("t", NAMES).fingerprint


def test_vocabulary_of_a_corpus():
    assert make_corpus("n", NAMES).tokenizer.oov_index is None
    limited = make_corpus("n", NAMES, oov_token="<UNK>", min_count=26)
    assert limited.tokenizer.get_vocab() == [
        "<UNK>",
        "\n",
        "a",
        "e",
        "m",
        "n",
    ]  # the newline stays, although there are only 25
    with pytest.raises(ValueError, match="`min_count` = 26 requires an `oov_token`"):
        make_corpus("n", NAMES, min_count=26)
    trained = make_corpus("n", NAMES).tokenizer
    assert make_corpus("m", "nameq\nnamea\n" * 15, tokenizer=trained).tokenizer is trained
    assert trained.vocab_size == 27
    with pytest.raises(ValueError, match="the vocabulary does not contain 'Q'"):
        make_corpus("m", "nameQ\n" * 30, tokenizer=trained)
    with pytest.raises(ValueError, match="the vocabulary of `tokenizer` must contain the newline"):
        make_corpus("m", NAMES, tokenizer=CharTokenizer().fit("name"))
    with pytest.raises(ValueError, match="`oov_token` and `min_count` must not be given with `tokenizer`"):
        make_corpus("m", NAMES, tokenizer=trained, oov_token="?")


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("short", "ab", {}, "short must have at least 20 characters; got 2"),
        ("none", "", {}, "none must have at least 20 characters; got 0"),
        ("one", "ab", {"by": "lines"}, "one must have at least 2 different lines, so that one can be held out; got 1"),
        ("p", PROSE, {"by": "pages"}, r"`by` must be one of \['auto', 'lines', 'streams', 'windows'\]; got 'pages'"),
        ("p", PROSE, {"split": "head"}, r"`split` must be one of \['blocks', 'tail'\]; got 'head'"),
        ("p", PROSE, {"validation": 0.0}, "`validation` must be a number in \\(0, 1\\); got 0.0"),
        ("p", PROSE, {"validation": 1.0}, "`validation` must be a number in \\(0, 1\\); got 1.0"),
        ("p", PROSE, {"validation": float("nan")}, "`validation` must be a number in \\(0, 1\\); got nan"),
        ("p", PROSE, {"validation": "a"}, "`validation` must be a number; got str"),
        ("p", PROSE, {"validation": 0.999}, "p is too short to hold out 0.999: it has 990 characters"),
        ("p", PROSE, {"split": "blocks", "n_blocks": 300}, "too short to hold out 0.1 of each of 300 blocks"),
        ("p", PROSE, {"split": "blocks", "n_blocks": 0}, "`n_blocks` must be an integer of at least 1; got 0"),
        ("p", PROSE, {"seq_length": 0}, "`seq_length` must be an integer of at least 1; got 0"),
        ("n", NAMES, {"split": "blocks"}, "`split` must be 'tail' for lines, which are held out at random"),
    ],
)
def test_errors(name, text, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make_corpus(name, text, **options)


def test_a_path_as_a_str_is_a_mistake(tmp_path):
    path = tmp_path / "shakespeare.txt"
    path.write_text(PROSE)
    with pytest.raises(ValueError, match=r"must be a text or a Path; to read this file, pass Path\('"):
        make_corpus("x", str(path))
    assert make_corpus("x", str(tmp_path / "missing.txt") + " and so on").by == "windows"
    assert make_corpus("x", "x" * 10_000 + "\0").by == "windows"
    assert make_corpus("x", "abcdefghi\0jklmnopqrstu").by == "windows"


def test_text_of_a_wrong_type():
    with pytest.raises(TypeError, match="`text` must be a str or a Path; got bytes"):
        make_corpus("b", b"text")


def test_open_text_for_a_tokenizer(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("hello")
    with open_text(path) as pieces:
        assert CharTokenizer(None).fit(pieces).get_vocab() == list("ehlo")
    assert isinstance(path, Path)
    assert isinstance(make_corpus("w", PROSE).train, Windows)
