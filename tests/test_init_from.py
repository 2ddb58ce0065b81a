"""Models that are trained further on another text."""

import numpy as np
import pytest
from lab import NAMES, ok
from problems import TOLERANCE, assert_close

from rnnx.data import CharTokenizer, Lines, make_corpus
from rnnx.models import CharModel, SequenceRegressor
from rnnx.training import Checkpoint, Run, Settings, load_checkpoint, save_checkpoint


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_model_for_more_characters_predicts_the_same_ones(cell, rng):
    """Up to the new characters' share of the probability."""
    tokenizer = CharTokenizer(None).fit("abc")
    more = tokenizer.extended("cabbage\n")
    assert more.get_vocab() == [*"abc", "\n", "e", "g"]
    assert tokenizer.extended("abc").get_vocab() == [*"abc"]
    model = CharModel(3, [5, 4], cell=cell, seed=1, dtype="float64")
    larger, text = model.extended(6, seed=2), rng.integers(0, 3, (2, 7))
    z, _, _ = larger.forward(text)
    assert_close(z[:3], model.forward(text)[0], TOLERANCE["oracle"])
    assert larger.vocab_size == 6
    assert larger.dtype == model.dtype
    assert not np.array_equal(z[3], z[4])
    with pytest.raises(ValueError, match="`vocab_size` must be an integer of at least 3; got 2"):
        model.extended(2)


def test_a_corpus_with_new_characters():
    tokenizer = make_corpus("names", NAMES).tokenizer
    with pytest.raises(ValueError, match="é"):
        make_corpus("more", NAMES + "é\n", tokenizer=tokenizer)
    more = make_corpus("more", NAMES + "é\n", tokenizer=tokenizer, extend=True)
    assert more.tokenizer.get_vocab() == [*tokenizer.get_vocab(), "é"]
    assert isinstance(more.train, Lines)
    with pytest.raises(ValueError, match="`extend` needs a `tokenizer`"):
        make_corpus("more", NAMES, extend=True)


def test_the_command(run, tmp_path):
    for name, more in (("a", ""), ("b", "\nZoë\nÅsa")):
        (tmp_path / f"{name}.txt").write_text(NAMES + more, encoding="utf-8")
    first, second = tmp_path / "first", tmp_path / "second"
    text = ["--text", str(tmp_path / "a.txt")]
    ok(
        run(
            "train",
            *text,
            "--hidden-size",
            "6",
            "--cell",
            "gru",
            "--iterations",
            "3",
            "--output",
            str(first),
            "--quiet",
        )
    )
    own = ["--text", str(tmp_path / "b.txt"), "--init-from", str(first), "--iterations", "3", "--quiet"]
    ok(run("train", *own, "--output", str(second)))
    before, after = load_checkpoint(first), load_checkpoint(second)
    assert {*after.tokenizer.get_vocab()} - {*before.tokenizer.get_vocab()} == {*"ëÅZ"} - {
        *before.tokenizer.get_vocab()
    }
    assert after.model.config == {**before.model.config, "vocab_size": after.tokenizer.vocab_size}
    ok(run("train", "--resume", str(second), "--iterations", "5", "--quiet"))
    code, _, error = run("train", *own, "--cell", "rnn", "--output", str(tmp_path / "third"))
    assert code
    assert "--init-from cannot be combined with --cell" in error
    code, _, error = run("train", "--resume", str(second), "--init-from", str(first))
    assert code
    assert "--resume cannot be combined with --init-from" in error


def test_a_file_without_a_character_model(tmp_path):
    path, text = tmp_path / "m.safetensors", tmp_path / "a.txt"
    save_checkpoint(path, Checkpoint(SequenceRegressor(1, 2, seed=0)))
    text.write_text(NAMES)
    with pytest.raises(ValueError, match="`init_from` must have a character model with its tokenizer"):
        Run.start(tmp_path / "r", Settings(text=str(text), iterations=1), init_from=path)
