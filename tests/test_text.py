"""Tokenizer."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnnx.data import CharTokenizer, count_characters

any_text = st.text(st.characters(codec=None), min_size=1)  # lone surrogates too


@given(st.lists(any_text, min_size=1), st.sampled_from([None, "<UNK>"]))
def test_round_trip_of_any_text(texts, oov_token):
    tokenizer = CharTokenizer(oov_token).fit(texts)
    assert tokenizer.sequences_to_texts(tokenizer.texts_to_sequences(texts)) == texts
    characters = set("".join(texts))
    assert tokenizer.vocab_size == len(characters) + (oov_token is not None)
    assert tokenizer.get_vocab() == ([oov_token] if oov_token else []) + sorted(characters)
    again = CharTokenizer.from_vocab(tokenizer.get_vocab(), oov_token)
    assert again == tokenizer
    assert again.encode(texts[0]).tolist() == tokenizer.encode(texts[0]).tolist()


@given(any_text, any_text)
def test_unknown_characters_become_the_oov_token(known, text):
    tokenizer = CharTokenizer().fit(known)
    expected = [tokenizer.get_vocab().index(c) if c in known else 0 for c in text]
    assert tokenizer.encode(text).tolist() == expected
    assert tokenizer.oov_index == 0
    assert tokenizer.decode(tokenizer.encode(text)) == "".join(c if c in known else "<UNK>" for c in text)


def test_unknown_characters_are_an_error_without_it():
    tokenizer = CharTokenizer(None).fit("abc")
    assert tokenizer.oov_index is None
    with pytest.raises(ValueError, match=r"^the vocabulary does not contain 'x', 'z'$"):
        tokenizer.encode("zaxz")
    with pytest.raises(ValueError, match=r"contain 'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I', 'J' and 2 more$"):
        tokenizer.encode("LKJIHGFEDCBAabc")
    with pytest.raises(ValueError, match=r"contain '\\U0010ffff'"):  # beyond the end of the table
        tokenizer.texts_to_sequences(["ab", "\U0010ffff"])


def test_oov_token_wherever_it_stands():
    tokenizer = CharTokenizer.from_vocab(["a", "b", "?"], "?")
    assert tokenizer.oov_index == 2
    assert tokenizer.encode("bxa?").tolist() == [1, 2, 0, 2]
    assert CharTokenizer("?").fit("a?").get_vocab() == ["?", "a"]


def test_fit():
    tokenizer = CharTokenizer().fit(iter(["ba", "", "cab"]))
    assert tokenizer.get_vocab() == ["<UNK>", "a", "b", "c"]
    assert tokenizer.fit("xyx", min_count=2).get_vocab() == ["<UNK>", "x"]
    assert tokenizer.encode("xyz").tolist() == [1, 0, 0]
    assert "2 tokens, oov_token='<UNK>'" in repr(tokenizer)
    assert CharTokenizer(None).fit("xx", min_count=2).vocab_size == 1
    for nothing in ("", [], ["", ""]):
        with pytest.raises(ValueError, match="`texts` must contain at least one character"):
            CharTokenizer().fit(nothing)
    with pytest.raises(ValueError, match="`min_count` = 2 requires an `oov_token`"):
        CharTokenizer(None).fit("xyx", min_count=2)
    with pytest.raises(ValueError, match="`min_count` = 3 leaves no character: the most frequent one occurs 2 times"):
        CharTokenizer().fit("xyx", min_count=3)
    with pytest.raises(ValueError, match="`min_count` must be an integer of at least 1; got 0"):
        CharTokenizer().fit("x", min_count=0)
    with pytest.raises(TypeError, match="got an element of type int"):
        CharTokenizer().fit(["a", 1])
    with pytest.raises(TypeError, match="got bytes"):
        CharTokenizer().fit(b"a")
    with pytest.raises(TypeError, match="`oov_token` must be None or a non-empty string; got ''"):
        CharTokenizer("")


@given(st.text("ab\n\U0001f600\ud800", min_size=1), st.integers(200, 500))
def test_counts_of_long_and_short_texts(text, times):
    counts = count_characters([text, text * times])
    assert counts == {c: text.count(c) * (times + 1) for c in set(text)}


def test_encode_and_decode_check_what_they_get():
    tokenizer = CharTokenizer(None).fit("abc")
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.encode("ab").dtype == np.int64
    assert tokenizer.encode("ab", tokenizer.index_dtype).dtype == np.uint8
    assert tokenizer.decode(np.array([0, 2], np.uint8)) == tokenizer.decode([np.int64(0), 2]) == "ac"
    with pytest.raises(ValueError, match=r"`indices` must be in .*= \[0, 3\); got -1"):
        tokenizer.decode([0, -1])
    with pytest.raises(ValueError, match="got 3"):
        tokenizer.decode(np.array([3]))
    with pytest.raises(TypeError):
        tokenizer.decode([0.5])
    with pytest.raises(TypeError, match="`texts` must be a list of str; got str"):
        tokenizer.texts_to_sequences("abc")
    with pytest.raises(TypeError, match="`text` must be a str; got list"):
        tokenizer.encode(["a"])


def test_no_dtype_in_which_indices_wrap_around():
    tokenizer = CharTokenizer.from_vocab([chr(k) for k in range(300)])
    assert tokenizer.encode(chr(299), np.int16).tolist() == [299]
    assert CharTokenizer.from_vocab([chr(k) for k in range(128)]).encode(chr(127), "int8").tolist() == [127]
    for dtype in (np.uint8, "int8"):
        with pytest.raises(ValueError, match=f"`dtype` must hold vocab_size - 1 = 299; got {np.dtype(dtype)}"):
            tokenizer.encode("a", dtype)
    for dtype in (np.float32, bool, complex):
        with pytest.raises(TypeError, match="`dtype` must be an integer dtype; got"):
            tokenizer.encode("a", dtype)


@pytest.mark.parametrize(("n", "dtype"), [(256, np.uint8), (257, np.uint16), (65_537, np.uint32)])
def test_narrow_indices_of_large_vocabularies(n, dtype):
    text = "".join(map(chr, range(0x10000, 0x10000 + n)))
    tokenizer = CharTokenizer(None).fit(text)
    indices = tokenizer.encode(text, tokenizer.index_dtype)
    assert indices.dtype == dtype
    assert indices[-1] == n - 1
    assert tokenizer.decode(indices) == text


@given(st.lists(any_text, min_size=1), st.sampled_from([None, "<UNK>", "a"]))
def test_dict_round_trip(texts, oov_token):
    tokenizer = CharTokenizer(oov_token).fit(texts)
    assert CharTokenizer.from_dict(json.loads(json.dumps(tokenizer.to_dict()))) == tokenizer
    assert tokenizer != CharTokenizer("<OTHER>").fit(texts)


def test_save_and_load(tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer = CharTokenizer().fit("žluťoučký\n\ud800")
    tokenizer.save(path)
    assert CharTokenizer.load(path) == tokenizer
    first = path.read_bytes()
    tokenizer.save(path)
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]
    with pytest.raises(FileNotFoundError):
        CharTokenizer.load(tmp_path / "missing.json")


def test_every_truncation_is_an_error(tmp_path):
    path = tmp_path / "tokenizer.json"
    CharTokenizer().fit("ab").save(path)
    whole = path.read_bytes()
    for n in range(len(whole) - 1):  # the last byte is a newline
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer, or is damaged"):
            CharTokenizer.load(path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\x89PNG", b"[" * 100_000, b"NaN,"])
def test_a_file_of_something_else(tmp_path, content):
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.json is not a tokenizer, or is damaged: invalid JSON"):
        CharTokenizer.load(path)


GOOD = CharTokenizer().fit("ab").to_dict()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "not an rnnx tokenizer"),
        ({}, "not an rnnx tokenizer"),
        ({**GOOD, "format": "other"}, "not an rnnx tokenizer"),
        ({**GOOD, "version": 2}, "format version 2 requires a newer rnnx"),
        ({**GOOD, "version": "1"}, "damaged tokenizer: `version` must be an integer of at least 1; got '1'"),
        ({**GOOD, "version": 0}, "damaged tokenizer: `version` must be an integer of at least 1; got 0"),
        ({k: v for k, v in GOOD.items() if k != "oov_token"}, "damaged tokenizer: 'oov_token' is missing"),
        ({**GOOD, "vocabulary": []}, "a non-empty list of characters"),
        ({**GOOD, "vocabulary": "ab"}, "a non-empty list of characters"),
        ({**GOOD, "vocabulary": None}, "a non-empty list of characters"),
        ({**GOOD, "vocabulary": ["<UNK>", "a", "a"]}, "duplicates; got 'a'"),
        ({**GOOD, "vocabulary": ["<UNK>", "a", 1]}, "single characters and `oov_token`; got 1"),
        ({**GOOD, "vocabulary": ["<UNK>", "a", ["b"]]}, "single characters and `oov_token`; got "),
        ({**GOOD, "vocabulary": ["<UNK>", "ab"]}, "single characters and `oov_token`; got 'ab'"),
        ({**GOOD, "vocabulary": ["a"]}, "must contain `oov_token`, '<UNK>'"),
        ({**GOOD, "oov_token": None}, "single characters and `oov_token`; got '<UNK>'"),
        ({**GOOD, "oov_token": 3}, "`oov_token` must be None or a non-empty string"),
    ],
)
def test_inconsistent_files(tmp_path, values, message):
    path = tmp_path / "t.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message) as error:
        CharTokenizer.load(path)
    assert "t.json" in str(error.value)


@pytest.mark.parametrize("indices", [[True, False], np.array([True]), [1.0], np.array([1.0]), ["a"]])
def test_only_integers_are_decoded(indices):
    with pytest.raises(TypeError, match=r"^`indices` must hold integers; got (True|1\.0|'a')$"):
        CharTokenizer.from_vocab(["a", "b"]).decode(indices)
