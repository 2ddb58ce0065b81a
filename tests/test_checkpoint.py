"""Checkpoints: round trips, and all kinds of invalid files."""

import json
import os
import tracemalloc

import numpy as np
import pytest
from lab import NAMES, make_trainer
from safetensors.numpy import load_file, save_file

from rnnx.data import CharTokenizer
from rnnx.models import MODELS, CharModel, Seq2Seq, SequenceClassifier, SequenceRegressor
from rnnx.training import Run, Settings, read_metrics
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
        with pytest.raises(ValueError, match=f"cannot save .*: {message}"):
            checkpoints.save_checkpoint(path, checkpoints.Checkpoint(model, one, target_tokenizer=other))
        assert path.read_bytes() == first


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
def test_bad_numbers(trained, saved, monkeypatch, value):
    """They are not saved, and not loaded if another program saved them."""
    corpus, trainer = trained
    before, parameters = saved.read_bytes(), trainer.model.parameters
    for key, array in (("Wy", np.full_like(parameters["Wy"], value)), ("by", parameters["by"].astype(np.int32))):
        bad = CharModel(**trainer.model.config, parameters=parameters)
        bad.parameters = {**parameters, key: array}
        message = f"{key} must hold finite float32 or float64 numbers"
        with pytest.raises(ValueError, match=f"cannot save .*: model/{message}"):
            checkpoints.save_checkpoint(saved, checkpoints.Checkpoint(bad, corpus.tokenizer))
        assert saved.read_bytes() == before
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "_checkpoint", lambda *_: None)
            checkpoints.save_checkpoint(saved.parent / "bad", checkpoints.Checkpoint(bad, corpus.tokenizer))
        with pytest.raises(ValueError, match=f"damaged checkpoint: model/{message}"):
            checkpoints.load_checkpoint(saved.parent / "bad")


class Other(CharModel):
    kind = "other"


def test_what_can_be_saved_can_be_loaded(tmp_path):
    """Everything else is an error before anything is written."""
    path, model = tmp_path / "m", SequenceClassifier(1, 4, 2, seed=0)
    arrays = {"classes": np.array([3, 7]), "used": np.array([True]), "scaler/mean": np.array([1.5])}
    training = {"mean": np.float32(1.5), "n": np.int64(3), "ok": np.bool_(True), "shape": (1, 2), "nan": float("nan")}
    checkpoints.save_checkpoint(path, checkpoints.Checkpoint(model, training=training, arrays=arrays))
    loaded = checkpoints.load_checkpoint(path)
    assert loaded.arrays.keys() == arrays.keys()
    for name, a in arrays.items():
        assert np.array_equal(loaded.arrays[name], a)
        assert loaded.arrays[name].dtype == a.dtype
    assert str(loaded.training) == "{'mean': 1.5, 'n': 3, 'ok': True, 'shape': [1, 2], 'nan': nan}"
    before = path.read_bytes()
    for wrong, error, message in (
        ({"arrays": {"mean": np.array([np.nan])}}, ValueError, "mean must hold finite float32 or float64 numbers, int"),
        ({"arrays": {"mean": np.array([1j])}}, ValueError, "mean must hold finite float32"),
        ({"arrays": {"optimizer/v": np.array([1])}}, ValueError, "optimizer/v must hold finite float32"),
        ({"arrays": {"names": np.array(["a"])}}, ValueError, "names must hold finite float32"),
        ({"arrays": {"mean": [1.5]}}, TypeError, "`mean` must be an array"),
        ({"arrays": {"model/Wy": np.zeros(1)}}, ValueError, "a name in `arrays` must be a string that does not begin"),
        ({"arrays": {3: np.zeros(1)}}, ValueError, "a name in `arrays` must be a string"),
        (
            {"training": {"a": np.zeros(2)}},
            TypeError,
            r"`training` and .* must hold plain values .*: got numpy.ndarray",
        ),
        ({"training": {"a": object()}}, TypeError, r"must hold plain values .*: got object"),
        ({"training": {(1, 2): 3}}, TypeError, "must hold plain values"),
        ({"training": [1]}, ValueError, "config and training must be JSON objects"),
        ({"model": Other(5, 3, seed=0)}, ValueError, "unknown model kind 'other'"),
        ({"tokenizer": CharTokenizer(None).fit("ab"), "model": CharModel(5, 3, seed=0)}, ValueError, "tokenizer has 2"),
    ):
        with pytest.raises(error, match=message):
            checkpoints.save_checkpoint(path, checkpoints.Checkpoint(**{"model": model, **wrong}))
        assert path.read_bytes() == before


def rewritten(path, change):
    """Change the description in a checkpoint, and its digest."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        description = json.loads(json.loads(file.read(size))["__metadata__"]["rnnx"])
    change(description)
    tensors = load_file(path)
    description.pop("digest")
    description["digest"] = checkpoints._digest(description, tensors)
    save_file(tensors, path, {"rnnx": json.dumps(description)})


@pytest.fixture
def folder(tmp_path):
    """A folder with a short run."""
    (tmp_path / "names.txt").write_text(NAMES, encoding="utf-8")
    settings = Settings(text=str(tmp_path / "names.txt"), hidden_size=(4,), epochs=1)
    list(Run.start(tmp_path / "run", settings).train())
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["training"].pop("counters"), "contains a model, but no training state"),
        (
            lambda d: d["training"]["counters"].pop("step"),
            r"the counters in `values` are wrong: missing \['step'\], unknown \[\]",
        ),
        (lambda d: d["training"]["counters"].update(step="1"), "wrong counters: `step` must be an integer"),
        (lambda d: d["training"]["counters"].update(step=-1), "`step` must be an integer from 0"),
        (lambda d: d["training"]["counters"].update(epoch=10**30), "`epoch` must be an integer from 0"),
        (lambda d: d["training"]["counters"].update(best_loss=float("nan")), "`best_loss` must be a finite number"),
        (lambda d: d["training"]["counters"].update(total=None), "`total` must be a number; got NoneType"),
        (lambda d: d["training"].pop("split"), "it has no `split`"),
        (lambda d: d["training"].update(by=3), "it has no `by`"),
        (lambda d: d["training"]["settings"].pop("cell"), r"missing \['cell'\], unknown \[\]"),
        (lambda d: d["training"]["settings"].update(new=1), r"missing \[\], unknown \['new'\]"),
        (lambda d: d["training"]["settings"].update(batch_size="x"), "`batch_size` must be int; got 'x'"),
        (lambda d: d["training"]["settings"].update(hidden_size=8), "`hidden_size` must be tuple.*; got 8"),
        (lambda d: d["training"]["settings"].update(dataset=[]), "`dataset` must be str"),
        (lambda d: d["training"]["settings"].update(epochs=0), "`epochs` must be an integer of at least 1"),
        (lambda d: d["training"]["settings"].update(text="/dev/zero"), "not a regular file|zero differs from the text"),
        (lambda d: d.update(version=float("inf")), "is not an rnnx checkpoint"),
        (lambda d: d.update(version=True), "is not an rnnx checkpoint"),
        (lambda d: d["config"].update(num_layers=300_000_000, hidden_size=4), "`num_layers` must be at most"),
        (
            lambda d: d["config"].update(num_layers=1000, hidden_size=4),
            "at most the number of parameters, 10; got 1000",
        ),
        (lambda d: d["config"].update(hidden_size=[4] * 100_000), "at most 10000 numbers; got 100000"),
        (lambda d: d["config"].update(hidden_size=10**30), "`Wf_l0` must have shape|damaged"),
        (lambda d: d["config"].update({"\x1b[31m": 1}), r"damaged.*\\x1b"),
        (lambda d: d["config"].update(dropout=10**400), "`dropout` must be"),
    ],
)
def test_content_is_checked_before_it_is_used(folder, change, message):
    """Resuming is a ValueError of one short line, and allocates little."""
    path = folder / checkpoints.FILE_NAME
    rewritten(path, change)
    changed = path.read_bytes()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message) as error:
            Run.resume(folder)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 500
    assert str(error.value).isprintable()
    assert path.read_bytes() == changed


@pytest.mark.parametrize(
    "model",
    [
        CharModel(4, 3, seed=0),
        SequenceClassifier(2, 3, 4, seed=0),
        SequenceRegressor(2, 3, 1, seed=0),
        Seq2Seq(4, 4, 3, seed=0),
    ],
    ids=lambda model: model.kind,
)
def test_layers_do_not_outnumber_tensors(tmp_path, model):
    path = tmp_path / "m.safetensors"
    checkpoints.save_checkpoint(path, checkpoints.Checkpoint(model))
    rewritten(path, lambda d: d["config"].update(num_layers=9000, hidden_size=3))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"`num_layers` must be at most the number of parameters, \d+; got 9000"):
            checkpoints.load_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_settings_are_plain_values():
    settings = Settings(hidden_size=[np.int64(3)], learning_rate=np.float32(0.5), epochs=np.int32(2))
    assert (settings.hidden_size, settings.learning_rate, settings.epochs) == ((3,), 0.5, 2)
    assert {type(value) for value in vars(settings).values()} <= {str, int, float, bool, tuple, type(None)}
    for wrong in ({"epochs": 1.5}, {"seed": True}, {"shuffle": 1}, {"cell": None}, {"hidden_size": (2.5,)}):
        with pytest.raises(TypeError, match=f"`{next(iter(wrong))}` must be"):
            Settings(**wrong)


def test_a_damaged_line_of_metrics_does_not_block_the_run(folder):
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    n = len(lines)
    damage = [b"\xff", b"null", b"[" * 100_000, lines[1].replace(b'"step": 2', b'"step": "2"')]
    path.write_bytes(b"\n".join([lines[0], *damage, *lines[1:]]) + b"\n")
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: not a metrics record"):
        read_metrics(path)
    run = Run.resume(folder, epochs=2)
    with pytest.warns(UserWarning, match=r"metrics.jsonl: dropped damaged lines: \[2, 3, 4, 5\]"):
        list(run.train())
    assert len(read_metrics(path)) == 2 * n


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
