"""Training on lower case: the whole text, large files, prompts, and checkpoints from before the setting."""

import json
from pathlib import Path

import numpy as np
import pytest
from lab import NAMES, ok

from rnnx.data import files, make_corpus
from rnnx.data.lowercase import Lowercase
from rnnx.training import Settings, load_checkpoint, save_checkpoint

# Capital I with a dot has two characters in lower case; a capital sigma depends on its place in the word.
TEXTS = [
    "ODY\u03a3\u03a3EU\u03a3 AN\nPO\u03a3, O\u03a3. \u03a3 A\u03a3' A\u03a3'A A\u0301\u03a3\u0301B\n" * 3,
    "\u0130STANBUL'DAK\u0130 \u0130LK G\u00dcN, \u0130\u0130\n" * 3,
    "\u00dcber GRO\u1e9eE H\u00e4user A\u03a3",
    "\u03a3" * 50,
    "A\u03a3" + "'" * 30 + "A A\u03a3" + "'" * 30,
    "",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_chunks_join_to_the_lower_case_of_the_text(text, size):
    pieces = Lowercase([text[at : at + size] for at in range(0, len(text), size)])
    assert ["".join(pieces), "".join(pieces)] == [text.lower()] * 2


def test_a_word_without_end_stays_bounded():
    pieces = ["\u03a3" * 3000 for _ in range(10)]
    assert max(map(len, Lowercase(pieces))) <= 3000


@pytest.mark.parametrize("by", ["lines", "windows"])
def test_a_text_and_a_file_in_small_chunks(tmp_path, monkeypatch, by):
    text = "".join(TEXTS)
    path = tmp_path / "t.txt"
    path.write_text(text, encoding="utf-8")
    expected = make_corpus("t", text.lower(), by=by)
    whole = make_corpus("t", text, by=by, lower=True)
    monkeypatch.setattr(files.TextFile.__init__, "__defaults__", (3,))
    from_file = make_corpus("t", path, by=by, lower=True)
    for corpus in (whole, from_file):
        assert corpus.fingerprint == expected.fingerprint
        assert corpus.tokenizer == expected.tokenizer
        for batch, other in zip(corpus.train.batches(4), expected.train.batches(4), strict=True):
            np.testing.assert_array_equal(batch.inputs, other.inputs)


def test_the_option_lower(run, monkeypatch):
    """A run on lower case equals one on a file in lower case; prompts and other texts are converted too."""
    Path("upper.txt").write_text(NAMES.upper() + "\n\u0130guanodon")
    Path("lower.txt").write_text((NAMES.upper() + "\n\u0130guanodon").lower())
    tiny = ("--hidden-size", 4, "--epochs", 1, "--output")
    ok(run("train", "--text", "upper.txt", "--lower", *tiny, "a"))
    ok(run("train", "--text", "lower.txt", *tiny, "b"))
    a, b = load_checkpoint("a"), load_checkpoint("b")
    assert a.tokenizer == b.tokenizer
    assert all(np.array_equal(a.model.parameters[k], b.model.parameters[k]) for k in a.model.parameters)
    assert a.training["settings"]["lower"] is True
    texts = ok(run("sample", "a", "--start", "TR\u0130", "-n", 2, "--seed", 0))
    assert texts == ok(run("sample", "b", "--start", "tri\u0307", "-n", 2, "--seed", 0))
    assert all(line.startswith("tri\u0307") for line in texts.splitlines())
    losses = [ok(run("evaluate", run_, "--text", text)) for run_, text in (("a", "upper.txt"), ("b", "lower.txt"))]
    assert losses[0].splitlines()[1:] == losses[1].splitlines()[1:]
    monkeypatch.setattr("rnnx.plots.style.to_bytes", lambda figure, suffix: b"")  # drawing takes seconds
    ok(run("plot", "a", "--text", "TRITOPS"))
    assert "resuming" in ok(run("train", "--resume", "a", "--epochs", 2))
    assert "cannot be combined with --lower" in run("train", "--resume", "a", "--lower")[2]
    assert "does not contain 'T'" in run("sample", "b", "--start", "Tri")[2]


def test_a_checkpoint_from_before_the_setting(run):
    ok(run("train", "--text", "names.txt", "--hidden-size", 4, "--epochs", 1, "--output", "a"))
    loaded = load_checkpoint("a")
    training = json.loads(json.dumps(loaded.training))
    del training["settings"]["lower"]
    loaded.training.clear()
    loaded.training.update(training)
    save_checkpoint("a/model.safetensors", loaded)
    assert Settings.of(load_checkpoint("a")).lower is False
    ok(run("sample", "a", "--start", "tri"))
    ok(run("train", "--resume", "a", "--epochs", 2))
    del training["settings"]["seed"]
    save_checkpoint("a/model.safetensors", loaded)
    loaded.training.update(training)
    save_checkpoint("a/model.safetensors", loaded)
    message = "the settings in the checkpoint are wrong: missing ['seed']"
    assert message in run("train", "--resume", "a", "--epochs", 2)[2]
