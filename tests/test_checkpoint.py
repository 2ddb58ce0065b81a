"""Checkpoints: round trips, and all kinds of invalid files."""

import json
import os

import numpy as np
import pytest
from lab import make_trainer
from safetensors.numpy import load_file, save_file

from rnnx.data import CharTokenizer
from rnnx.models import MODELS, CharModel, Seq2Seq, SequenceClassifier, SequenceRegressor
from rnnx.training import checkpoint as checkpoints


@pytest.fixture(scope="module")
def trained():
    corpus, trainer = make_trainer()
    list(trainer.run(corpus.train, corpus.validation, epochs=2, batch_size=8))
    return corpus, trainer


@pytest.fixture
def saved(trained, tmp_path):
    corpus, trainer = trained
    values, arrays = trainer.state()
    path = tmp_path / checkpoints.FILE_NAME
    checkpoints.save_checkpoint(
        path, checkpoints.Checkpoint(trainer.model, corpus.tokenizer, {"counters": values}, arrays)
    )
    return path


def test_round_trip(trained, saved):
    corpus, trainer = trained
    for loaded in (checkpoints.load_checkpoint(saved), checkpoints.load_checkpoint(saved.parent)):
        assert loaded.model.config == trainer.model.config
        assert loaded.tokenizer == corpus.tokenizer
        _, again = make_trainer()
        again.model.set_parameters(loaded.model.parameters)
        again.restore(loaded.training["counters"], loaded.arrays)
        assert again.counters == trainer.counters
        assert {*loaded.arrays} == {f"optimizer/{key}" for key in trainer.optimizer_state} | {
            "state/a_l0",
            "state/c_l0",
        }
        for name, p in trainer.model.parameters.items():
            assert np.array_equal(loaded.model.parameters[name], p)
    assert list(saved.parent.iterdir()) == [saved]  # no temporary file is left


def test_every_kind_of_model(tmp_path):
    models = [
        CharModel(5, [4, 3], cell="gru", reset_after=True, dtype="float64", seed=0),
        SequenceClassifier(3, 4, 2, bidirectional=True, seed=0),
        SequenceRegressor(3, 4, 2, per_step=True, seed=0),
    ]
    for model in models:
        checkpoints.save_checkpoint(tmp_path / "m", checkpoints.Checkpoint(model))
        loaded = checkpoints.load_checkpoint(tmp_path / "m")
        assert repr(loaded.model) == repr(model)
        assert loaded.tokenizer is None
        assert all(np.array_equal(loaded.model.parameters[k], p) for k, p in model.parameters.items())
    assert {type(m) for m in models} <= set(MODELS.values())


def test_two_tokenizers(tmp_path):
    """A model with two alphabets gives the same answers after loading."""
    source, target = CharTokenizer().fit("abcde"), CharTokenizer(None).fit("xyz\n")
    (end,) = target.encode("\n")
    model = Seq2Seq(source.vocab_size, target.vocab_size, 4, end_token=end, seed=0)
    assert model.vocab_sizes() == {"tokenizer": 6, "target_tokenizer": 4}
    path = tmp_path / "m"
    checkpoints.save_checkpoint(path, checkpoints.Checkpoint(model, source, target_tokenizer=target))
    first = path.read_bytes()
    loaded = checkpoints.load_checkpoint(path)
    assert (loaded.tokenizer, loaded.target_tokenizer) == (source, target)
    assert loaded.model.translate(["bad", "decade"], loaded.tokenizer, loaded.target_tokenizer, max_length=5) == (
        model.translate(["bad", "decade"], source, target, max_length=5)
    )
    checkpoints.save_checkpoint(path, loaded)
    assert path.read_bytes() == first
    for one, other, message in (
        (target, target, "tokenizer has 4 characters; the model has 6"),
        (source, source, "target_tokenizer has 6 characters; the model has 4"),
        (None, source, "target_tokenizer has 6 characters; the model has 4"),
    ):
        checkpoints.save_checkpoint(path, checkpoints.Checkpoint(model, one, target_tokenizer=other))
        with pytest.raises(ValueError, match=f"is a damaged checkpoint: {message}"):
            checkpoints.load_checkpoint(path)


def test_on_another_library(saved):
    xp = pytest.importorskip("array_api_strict")
    loaded = checkpoints.load_checkpoint(saved, xp=xp)
    assert all(type(p) is type(xp.asarray(0.0)) for p in loaded.model.parameters.values())
    checkpoints.save_checkpoint(saved.parent / "back", loaded)
    assert (saved.parent / "back").read_bytes() == saved.read_bytes()


def test_damaged_files(saved, tmp_path):
    data = saved.read_bytes()
    for name, content in {
        "truncated": data[: len(data) // 2],
        "header": data[:20],
        "empty": b"",
        "foreign": b"\x80\x04\x95 a pickle, say" * 20,
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is not a checkpoint, or is damaged"):
            checkpoints.load_checkpoint(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        checkpoints.load_checkpoint(tmp_path / "missing")


def test_truncated_anywhere(saved, tmp_path):
    data = saved.read_bytes()
    for size in [*range(0, 16), *range(16, len(data), 997)]:
        (tmp_path / "cut").write_bytes(data[:size])
        with pytest.raises(ValueError, match="cut is not a checkpoint, or is damaged"):
            checkpoints.load_checkpoint(tmp_path / "cut")


def test_a_flipped_bit_is_detected(saved, tmp_path):
    data = bytearray(saved.read_bytes())
    rng = np.random.default_rng(0)
    for at in [*rng.integers(0, len(data), 60), len(data) - 3]:
        data[at] ^= 1
        (tmp_path / "flipped").write_bytes(data)
        with pytest.raises(ValueError, match=r"flipped is (not an? .*checkpoint|a damaged)|has format version"):
            checkpoints.load_checkpoint(tmp_path / "flipped")
        data[at] ^= 1


def test_foreign_newer_and_inconsistent_files(saved, tmp_path):
    tensors = load_file(saved)
    path = tmp_path / "other"
    model = checkpoints.load_checkpoint(saved).model
    good = {
        "format": "rnnx-checkpoint",
        "version": 1,
        "model": "characters",
        "config": model.config,
        "tokenizer": CharTokenizer(None).fit("ab").to_dict(),
        "training": {},
    }
    for description, message in (
        (None, "is not an rnnx checkpoint"),
        ("{", "is not an rnnx checkpoint"),
        ("[" * 200_000, "is not an rnnx checkpoint"),
        ("[]", "is not an rnnx checkpoint"),
        ({**good, "format": "other"}, "is not an rnnx checkpoint"),
        ({**good, "version": 2}, "has format version 2; this rnnx reads versions up to 1: update rnnx"),
        ({k: v for k, v in good.items() if k != "config"}, "is a damaged checkpoint: 'config'"),
        (good, "is a damaged checkpoint: tokenizer has 2 characters; the model has 15"),
        ({**good, "model": "os.system"}, "unknown model kind 'os.system'"),
        ({**good, "config": {"cell": "os"}}, "is a damaged checkpoint: "),
        ({**good, "config": [1]}, "config and training must be JSON objects"),
        ({**good, "config": {**good["config"], "cell": "os"}}, "is a damaged checkpoint: `cell` must be"),
        ({**good, "config": {**good["config"], "hidden_size": 10**9}}, "is a damaged checkpoint: "),
        ({**good, "config": {**good["config"], "xp": "os"}}, "is a damaged checkpoint: "),
        ({**good, "tokenizer": {"tokens": [1] * 15}}, "is a damaged checkpoint: "),
        ({**good, "tokenizer": None, "target_tokenizer": "x"}, "is a damaged checkpoint: not an rnnx tokenizer"),
    ):
        text = description if isinstance(description, str) else json.dumps(description)
        save_file(tensors, path, None if description is None else {"rnnx": text})
        with pytest.raises(ValueError, match=message):
            checkpoints.load_checkpoint(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_numbers(trained, tmp_path, value):
    corpus, trainer = trained
    parameters = trainer.model.parameters
    for key, array in (("Wy", np.full_like(parameters["Wy"], value)), ("by", parameters["by"].astype(np.int32))):
        bad = CharModel(**trainer.model.config, parameters=parameters)
        bad.parameters = {**parameters, key: array}
        checkpoints.save_checkpoint(tmp_path / "m", checkpoints.Checkpoint(bad, corpus.tokenizer))
        with pytest.raises(ValueError, match=f"{key} must hold finite float32 or float64 numbers"):
            checkpoints.load_checkpoint(tmp_path / "m")


def test_a_failed_write_leaves_the_old_file(trained, saved, monkeypatch):
    corpus, trainer = trained
    old = saved.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save_checkpoint(saved, checkpoints.Checkpoint(trainer.model, corpus.tokenizer))
    assert saved.read_bytes() == old
    assert list(saved.parent.iterdir()) == [saved]
