"""Model, trainer, sampling, checkpoints and command line."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from problems import TOLERANCE, assert_close, numeric_gradient
from safetensors.numpy import load_file, save_file

import rnnx
from rnnx import checkpoint as checkpoints
from rnnx.__main__ import main
from rnnx.corpus import make_corpus
from rnnx.models import CharModel, CharModelConfig
from rnnx.optim import Adam
from rnnx.sampling import sample
from rnnx.text import Batch
from rnnx.training import Trainer

NAMES = "\n".join(a + b + c for a in ("tri", "tyr", "vel", "ste") for b in "aeiou" for c in ("nosaurus", "tops", "don"))


def make_trainer(seed=0, cell="lstm", **keywords):
    corpus = make_corpus("names", NAMES)
    model = CharModel(CharModelConfig(cell, 12, corpus.tokenizer.vocab_size))
    keywords = {"optimizer": Adam(learning_rate=0.01), **keywords}
    return corpus, Trainer(model, model.initialize(seed), seed=seed, **keywords)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_model_gradients(cell, engine, rng):
    """The whole model, head and one-hot input included, against central differences."""
    model = CharModel(CharModelConfig(cell, 4, 5))
    p = {k: rng.standard_normal(v.shape) for k, v in model.initialize(0).items()}
    batch = Batch(rng.integers(0, 5, (3, 4)), rng.integers(0, 5, (3, 4)), np.array([4, 1, 3]))
    loss, gradients = model.loss_and_gradients(p, batch)
    assert loss == pytest.approx(model.loss(p, batch))
    assert set(gradients) - {"dx", "da0", "dc0"} == {"d" + k for k in p}
    for key, array in p.items():
        numeric = numeric_gradient(lambda: model.loss(p, batch), array)
        assert_close(gradients["d" + key], numeric, TOLERANCE["gradient"], key)


def test_training_learns_and_states_its_losses():
    corpus, trainer = make_trainer()
    start = trainer.evaluate(corpus.validation, 8)
    items = list(trainer.run(corpus.train, corpus.validation, epochs=20, batch_size=8))
    ends = [p for p in items if p.validation_loss is not None]
    assert start == pytest.approx(math.log(corpus.tokenizer.vocab_size), rel=0.1)
    assert ends[-1].validation_loss < 0.6 * start
    assert len(ends) == 20
    assert trainer.step == 20 * corpus.train.n_batches(8)
    smooth = math.log(corpus.tokenizer.vocab_size)
    for p in items:
        if p.validation_loss is None:
            smooth = 0.999 * smooth + 0.001 * p.loss
            assert p.smooth_loss == pytest.approx(smooth)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_same_seed_same_bits(cell):
    def run(seed):
        corpus, trainer = make_trainer(seed, cell)
        losses = [p.loss for p in trainer.run(corpus.train, corpus.validation, epochs=2, batch_size=8)]
        return losses, trainer.parameters

    (losses, parameters), (again, same), (other, _) = run(0), run(0), run(1)
    assert losses == again != other
    assert all(np.array_equal(parameters[k], same[k]) for k in parameters)


def test_a_loss_that_is_not_finite_stops_the_run():
    corpus, trainer = make_trainer()
    trainer.parameters["Wy"][0, 0] = np.nan
    before = trainer.parameters
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1; a smaller learning rate may help"):
        list(trainer.run(corpus.train, corpus.validation, epochs=1, batch_size=8))
    assert trainer.parameters is before
    assert trainer.step == 0


@pytest.fixture(scope="module")
def trained():
    corpus, trainer = make_trainer()
    list(trainer.run(corpus.train, corpus.validation, epochs=30, batch_size=8))
    return trainer.model, trainer.parameters, corpus.tokenizer


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


def test_sampling_follows_the_distribution(trained):
    """First characters, at temperature 2, against softmax of half the logits."""
    model, parameters, tokenizer = trained
    logits = model.stream(parameters, 1).read(tokenizer.encode("\n"))
    expected = rnnx.softmax(logits[:, 0] / 2)
    n = 4000
    firsts = [t[:1] or "\n" for t in sample(*trained, n=n, temperature=2.0, max_length=1, seed=0)]
    counts = np.array([firsts.count(c) for c in tokenizer.get_vocab()]) / n
    assert np.abs(counts - expected).max() < 5 * np.sqrt(0.25 / n)


def test_reading_by_character_is_the_sequence(trained, engine):
    model, parameters, tokenizer = trained
    indices = tokenizer.encode("triatops")
    x = np.eye(len(tokenizer.get_vocab()), dtype="float32")[:, None, indices]
    W, b = (parameters[key] for key in model.cell.head)
    recurrent = {key: p for key, p in parameters.items() if key not in model.cell.head}
    (a, *_), _, _ = rnnx.recurrent_forward(model.cell, x, (), recurrent)
    stream = model.stream(parameters, 2)
    for t, i in enumerate(indices):
        logits = stream.read(np.array([i, i]))
        for j in range(2):
            assert_close(logits[:, [j]], rnnx.dense_forward(a[:, :, t], W, b), TOLERANCE["float32"])


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"temperature": -1}, "`temperature` must be a number of at least 0; got -1"),
        ({"n": 0}, "`n` and `max_length` must be at least 1; got 0 and 60"),
        ({"start": "Ž"}, "the vocabulary does not hold 'Ž'"),
    ],
)
def test_sampling_messages(trained, keywords, message):
    with pytest.raises(ValueError, match=message):
        sample(*trained, **keywords)


# --- checkpoints ------------------------------------------------------------------------------------------


@pytest.fixture
def saved(trained, tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoints.save(path, checkpoints.Checkpoint(*trained, by="lines", training={"epoch": 3}))
    return path


def test_checkpoint_round_trip(trained, saved):
    loaded = checkpoints.load(saved)
    assert loaded.model.config == trained[0].config
    assert loaded.tokenizer.get_vocab() == trained[2].get_vocab()
    assert (loaded.by, loaded.training) == ("lines", {"epoch": 3})
    assert all(np.array_equal(loaded.parameters[k], trained[1][k]) for k in trained[1])
    assert list(saved.parent.iterdir()) == [saved]  # no temporary file stays


def test_damaged_checkpoints(saved, tmp_path):
    data = saved.read_bytes()
    for name, content in {
        "truncated": data[: len(data) // 2],
        "header": data[:20],
        "empty": b"",
        "foreign": b"\x80\x04\x95 a pickle, say" * 20,
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is not a checkpoint, or is damaged"):
            checkpoints.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        checkpoints.load(tmp_path / "missing")


def test_foreign_newer_and_inconsistent_checkpoints(saved, tmp_path):
    tensors = load_file(saved)
    path = tmp_path / "other"
    good = {
        "format": "rnnx-char-model",
        "version": 1,
        "config": checkpoints.load(saved).model.config.as_dict(),
        "vocabulary": ["a"],
        "oov_token": None,
        "by": "lines",
        "training": {},
    }
    for description, message in (
        (None, "is not a checkpoint of rnnx"),
        ("{", "is not a checkpoint of rnnx"),
        ("[]", "is not a checkpoint of rnnx"),
        ({**good, "format": "other"}, "is not a checkpoint of rnnx"),
        ({**good, "version": 2}, "has format version 2; this rnnx reads up to 1: a newer rnnx may read it"),
        ({k: v for k, v in good.items() if k != "config"}, "is a damaged checkpoint: 'config'"),
        (good, "is a damaged checkpoint: "),
        ({**good, "config": {"cell": "os"}}, "is a damaged checkpoint: "),
        ({**good, "config": {**good["config"], "cell": "os"}}, "is a damaged checkpoint: `cell` must be"),
        ({**good, "vocabulary": [1] * 15}, "is a damaged checkpoint: the vocabulary must hold different characters"),
        ({**good, "vocabulary": ["a"] * 15}, "is a damaged checkpoint: the vocabulary must hold different characters"),
        ({**good, "vocabulary": list("abcd")}, "is a damaged checkpoint: 4 characters for 15 outputs"),
        ({**good, "vocabulary": list("abcdefghijklmno"), "by": "pages"}, "unknown kind of text 'pages'"),
    ):
        text = description if isinstance(description, str) else json.dumps(description)
        save_file(tensors, path, None if description is None else {"rnnx": text})
        with pytest.raises(ValueError, match=message):
            checkpoints.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_checkpoints_with_bad_numbers(trained, tmp_path, value):
    model, parameters, tokenizer = trained
    for key, array in (("Wy", np.full_like(parameters["Wy"], value)), ("by", parameters["by"].astype(np.int32))):
        bad = checkpoints.Checkpoint(model, {**parameters, key: array}, tokenizer, by="lines")
        checkpoints.save(tmp_path / "m", bad)
        with pytest.raises(ValueError, match=f"m is a damaged checkpoint: {key} must hold finite float32 or float64"):
            checkpoints.load(tmp_path / "m")


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes and links")
def test_links_and_modes_stay(trained, saved, tmp_path):
    saved.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(saved.name)
    checkpoints.save(link, checkpoints.Checkpoint(*trained, by="windows"))
    assert link.is_symlink()
    assert checkpoints.load(saved).by == "windows"
    assert saved.stat().st_mode & 0o777 == 0o600
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe: it exists and is not a file"):
        checkpoints.check_writable(tmp_path / "pipe")


def test_a_new_file_takes_the_place_of_the_old_one(trained, saved):
    """Never written over in place: a reader, or a crash, meets the old file or the whole new one."""
    with saved.open("rb") as reader:
        old, inode = saved.read_bytes(), saved.stat().st_ino
        checkpoints.save(saved, checkpoints.Checkpoint(*trained, by="windows"))
        assert reader.read() == old
    assert saved.stat().st_ino != inode


def test_a_failed_write_leaves_the_old_file(trained, saved, monkeypatch):
    old = saved.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(saved, checkpoints.Checkpoint(*trained, by="lines"))
    assert saved.read_bytes() == old
    assert list(saved.parent.iterdir()) == [saved]


# --- command line -------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command in a folder of its own; returns (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["rnnx", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out, captured.err

    return call


SMALL = ("--hidden-size", 8, "--epochs", 2, "--sample-every", 1)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_train_and_sample(run, cell, tmp_path):
    (tmp_path / "names.txt").write_text(NAMES)
    code, out, _ = run("train", "--text", "names.txt", "--cell", cell, *SMALL)
    assert code == 0
    assert "names: 54 lines to learn, 6 of 60 lines held out at random" in out
    assert out.count("nats per character") == 2
    assert "samples:" in out
    path = tmp_path / f"names-{cell}.safetensors"
    assert f"the model is in {path.name}" in out
    code, texts, _ = run("sample", path, "--start", "tri", "-n", 3, "--temperature", 0.8, "--seed", 1)
    assert code == 0
    assert len(texts.splitlines()) == 3
    assert all(t.startswith("tri") for t in texts.splitlines())
    assert run("sample", path, "--start", "tri", "-n", 3, "--temperature", 0.8, "--seed", 1)[1] == texts
    first = path.read_bytes()
    run("train", "--text", "names.txt", "--cell", cell, *SMALL)
    assert path.read_bytes() == first  # bit for bit
    run("train", "--text", "names.txt", "--cell", cell, "--seed", 1, *SMALL)
    assert path.read_bytes() != first


def test_prose_and_underscores(run, tmp_path):
    (tmp_path / "prose.txt").write_text("It was a dark and stormy night; the rain fell in torrents.\n\n" * 9, "utf-8")
    code, out, _ = run("train", "--text", "prose.txt", "--hidden_size", 6, "--seq_length", 20, "--epochs", 1)
    assert code == 0
    assert "windows to learn, last 54 of 540 characters held out" in out
    code, text, _ = run("sample", "prose-lstm.safetensors", "--length", 30, "--seed", 0)
    assert code == 0
    assert len(text) == 31


def test_built_in_corpus(run):
    code, out, _ = run("train", "--hidden-size", 4, "--epochs", 1, "--batch-size", 256)
    assert code == 0
    assert "dinosaurs: 1322 lines to learn" in out


def test_user_mistakes_are_one_line(run, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"\xff" * 50)
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "names.txt").write_text(NAMES)
    for arguments, message in (
        (["train", "--text", "nowhere.txt"], "Error: nowhere.txt: No such file or directory"),
        (["train", "--text", "bad.txt"], "Error: bad.txt is not UTF-8: byte 0xff at offset 0, line 1"),
        (["train", "--text", "empty.txt"], "Error: empty.txt is empty"),
        (["train", "--output", "no/folder/m"], "Error: cannot write no/folder/m: there is no folder no/folder"),
        (["train", "--output", "."], "File '.' is a directory"),
        (["train", "--output", "x" * 300], "File name too long"),
        (["train", "--temperature", "inf"], "Invalid value for '--temperature'"),
        (["train", "--temperature", "nan"], "Invalid value for '--temperature'"),
        (["train", "--cell", "lsmt"], "'lsmt' is not one of 'rnn', 'lstm', 'gru'"),
        (["train", "--learning-rate", "0"], "Invalid value for '--learning-rate'"),
        (["sample", "nowhere"], "Error: nowhere: No such file or directory"),
        (["sample", "names.txt"], "Error: names.txt is not a checkpoint, or is damaged"),
        (["sample", "names.txt", "--temperature", "-1"], "Invalid value for '--temperature'"),
        (["trian"], "No such command 'trian'"),
    ):
        code, out, err = run(*arguments)
        assert code in (1, 2)
        assert message in err
        assert "Traceback" not in out + err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.txt", "empty.txt", "names.txt"]


def test_help_and_version(run):
    code, out, _ = run("--help")
    assert code == 0
    assert "train" in out
    assert "sample" in out
    assert "--hidden-size" in run("train", "--help")[1]
    assert rnnx.__version__ in run("--version")[1]


def test_an_error_in_the_output_does_not_lose_the_model(run, tmp_path, monkeypatch):
    """Whatever goes wrong after the first step, the checkpoint is written."""
    (tmp_path / "names.txt").write_text(NAMES)

    def fail(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("rnnx.cli.draw", fail)
    code, _, err = run("train", "--text", "names.txt", *SMALL)
    assert code == 1
    assert "Traceback" not in err
    assert checkpoints.load(tmp_path / "names-lstm.safetensors").training["epoch"] == 1


def test_text_that_the_terminal_cannot_show(tmp_path):
    (tmp_path / "cz.txt").write_text("žluťoučký kůň\n" * 30, encoding="utf-8")
    command = [sys.executable, "-m", "rnnx", "train", "--text", "cz.txt", "--epochs", "2", "--hidden-size", "4"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command += ["--cell", "rnn", "--sample-every", "1"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(os.name == "nt", reason="SIGINT is not sent this way on Windows")
@pytest.mark.parametrize("twice", [False, True])
def test_ctrl_c_writes_the_checkpoint(tmp_path, twice):
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "rnnx", "train", "--epochs", "1000", "--cell", "rnn", "--hidden-size", "16"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout:
            if line.startswith("epoch   2"):
                break
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT) if twice else None
        rest = process.stdout.read()
        code = process.wait(timeout=60)
    if twice:  # the second one may come before or after the end of the step
        assert code in (1, 130)
    else:
        assert code == 130
        assert "stopped in epoch" in rest
    assert [p.name for p in tmp_path.iterdir()] == ["dinosaurs-rnn.safetensors"]
    loaded = checkpoints.load(tmp_path / "dinosaurs-rnn.safetensors")
    assert loaded.training["epoch"] >= 2
    assert len(sample(loaded.model, loaded.parameters, loaded.tokenizer, n=2, seed=0)) == 2


def test_without_the_extra_the_command_says_what_to_install():
    code = "import sys; sys.modules['click'] = None; sys.argv = ['rnnx']; from rnnx.__main__ import main; main()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.strip() == "rnnx: the command line needs click; install it with: pip install 'rnnx[lab]'"
