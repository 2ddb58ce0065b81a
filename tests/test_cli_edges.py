"""The command line at its edges: signals, encodings, repeated options, memory, environment, files of others."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from lab import ok

from rnnx.data import CharTokenizer
from rnnx.models import CharModel, Seq2Seq, SequenceClassifier, SequenceRegressor
from rnnx.training import Checkpoint, Settings, load_checkpoint, read_metrics, save_checkpoint

SMALL = ("--text", "names.txt", "--hidden-size", 8, "--epochs", 2)
COMMAND = [sys.executable, "-m", "rnnx"]


def before_the_command(code, *arguments):
    """The command, in a process that first runs some code; forking this process, as `preexec_fn` does, is unsafe."""
    start = f"import os, sys; {code}; os.execv(sys.executable, {[*COMMAND, *arguments]!r})"
    return [sys.executable, "-c", start]


# --- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["train", "--seed", "1", "--seed", "2"], "--seed"),
        (["train", "--seed=1", "--cell", "rnn", "--seed=1"], "--seed"),
        (["train", "--cell", "rnn", "--model", "gru"], "--cell / --model"),
        (["train", "--hidden_size", "8", "--hidden-size", "9"], "--hidden-size / --rnn-size"),
        (["train", "--text", "a.txt", "--text", "b.txt"], "--text"),
        (["train", "--quiet", "--quiet"], "--quiet"),
        (["sample", "run", "-n", "1", "--number", "2"], "-n / --number"),
        (["sample", "run", "--start", "a", "--prompt", "b"], "--start / --prompt"),
        (["evaluate", "run", "--seed", "1", "--seed", "1"], "--seed"),
        (["plot", "run", "--format", "png", "--format", "svg"], "--format"),
        (["compare", "torch", "--optimizer", "sgd", "--optimizer", "adam"], "--optimizer"),
    ],
)
def test_an_option_given_twice_is_an_error(run, tmp_path, arguments, name):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.endswith(f"Error: {name} must be given only once\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(os.name == "nt", reason="limits its memory")
def test_a_number_of_layers_that_no_machine_has(tmp_path):
    limits = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({3 << 30}, {3 << 30}))"
    command = before_the_command(limits, "train", "--num-layers", "100000000")
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=20)
    assert result.returncode in (1, 2)
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


# --- output ------------------------------------------------------------------------------------------------------

CHINESE = "床前明月光\n疑是地上霜\n舉頭望明月\n低頭思故鄉\n" * 8


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1"])
def test_redirected_output_is_utf_8(run, tmp_path, monkeypatch, encoding):
    """Whatever the code page is; only a terminal limits the characters."""
    (tmp_path / "poem.txt").write_text(CHINESE, encoding="utf-8")
    ok(run("train", "--text", "poem.txt", "--by", "lines", "--hidden-size", 4, "--epochs", 1, "--output", "run"))
    with open("out.txt", "w", encoding=encoding) as out, open("error.txt", "w", encoding=encoding) as error:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", error)
        assert run("sample", "run", "--start", "床前", "--seed", "1")[0] == 0
        assert Path("error.txt").read_bytes() == b""
        assert run("sample", "床")[0] == 1
    text = Path("out.txt").read_text(encoding="utf-8")
    assert text.startswith("床前")
    assert "\\u" not in text
    assert "床: No such file" in Path("error.txt").read_text(encoding="utf-8")


def test_the_output_of_a_process_is_utf_8(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"}
    command = [*COMMAND, "sample", "床"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert (result.returncode, result.stdout) == (1, b"")
    assert "床: No such file" in result.stderr.decode("utf-8")


def test_the_smoothed_loss_has_one_name_and_one_value(run):
    """The console, the metrics and the plot show the same average, which follows the loss from the first step."""
    out = ok(run("train", *SMALL, "--output", "run"))
    records = read_metrics("run")
    losses = [r["loss"] for r in records if r["validation_loss"] is None]
    assert records[0]["smooth_loss"] == losses[0]
    assert min(losses) < records[-1]["smooth_loss"] < max(losses[-5:])  # it does not lag behind
    assert f"  smoothed {records[-1]['smooth_loss']:.4f}  validation" in out
    assert "smooth " not in out
    plots = pytest.importorskip("rnnx.plots")
    curve = plots.training_curves(records).axes[0].lines[1]
    steps = [r for r in records if r["validation_loss"] is None]
    np.testing.assert_array_equal(curve.get_ydata(), [r["smooth_loss"] for r in steps])


@pytest.mark.skipif(os.name == "nt", reason="closes descriptors")
def test_closed_streams(tmp_path):
    """As a daemon or a scheduler may start the command."""
    close = "[os.close(number) for number in (0, 1, 2)]"
    arguments = ["--cell", "rnn", "--hidden-size", "4", "--iterations", "2", "--output", "run"]
    result = subprocess.run(before_the_command(close, "train", *arguments), cwd=tmp_path, check=False)
    assert result.returncode == 0
    assert load_checkpoint(tmp_path / "run").training["counters"]["step"] == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
@pytest.mark.parametrize("arguments", [["info"], ["--help"], ["train", "--help"], ["info", "m.safetensors"]])
def test_output_that_cannot_be_written(tmp_path, arguments):
    save_checkpoint(tmp_path / "m.safetensors", next(models()))
    command = [*COMMAND, *arguments]
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
    assert (result.returncode, result.stderr) == (1, "Error: cannot write the output: No space left on device\n")


def test_the_next_command_is_printed_as_a_shell_needs_it(run):
    out = ok(run("train", *SMALL, "--output", "-a b"))
    name = "'./-a b'" if os.name == "posix" else ""
    assert f"run saved in {name}" in out
    assert f"more samples: rnnx sample {name}" in out
    ok(run("sample", "./-a b"))


def test_the_best_loss_may_be_zero(run):
    """A text of a single character has no surprises."""
    Path("a.txt").write_text("a" * 100)
    ok(run("train", "--text", "a.txt", "--hidden-size", 4, "--epochs", 1, "--output", "run"))
    assert load_checkpoint("run/best.safetensors").training["counters"]["best_loss"] == 0


@pytest.mark.slow
def test_compiling_is_printed_only_before_something_is_compiled(tmp_path, new_cache):
    environment = {**os.environ, "RNNX_CACHE_DIR": str(new_cache)}
    command = [*COMMAND, "train", "--cell", "rnn", "--hidden-size", "4", "--iterations", "1", "--batch-size", "4"]
    for expected in (1, 0):
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("compiling") == expected


# --- info --------------------------------------------------------------------------------------------------------


def test_info_agrees_with_itself_and_rounds(run, tmp_path):
    ok(run("train", *SMALL, "--output", "run", "--learning-rate", "0.0012345678"))
    out = ok(run("info", "run"))
    about = dict(line.split(maxsplit=1) for line in out.splitlines() if line[0] != " ")
    assert f"{tmp_path / 'names.txt'} (6 of 60 lines held out at random)" in out
    assert about["by"] == "lines"
    assert {"split", "dataset", "text"}.isdisjoint(about)  # tail, dinos: not what was done
    best = load_checkpoint("run").training["counters"]["best_loss"]
    assert f"validation loss    {best:.4f} (best {best:.4f}) nats per character" in out
    assert about["learning_rate"] == "0.00123457"
    ok(run("train", "--text", "prose.txt", *SMALL[2:], "--output", "blocks", "--split", "blocks"))
    assert "in 10 blocks spread evenly over the text)" in ok(run("info", "blocks"))


def models():
    tokenizer = CharTokenizer(None).fit("\nabc")
    yield Checkpoint(CharModel(4, 3, seed=0), tokenizer)
    yield Checkpoint(CharModel(4, 3, seed=0))
    yield Checkpoint(SequenceClassifier(2, 3, 4, seed=0), training={"note": "x", "settings": {"rate": 0.1}})
    yield Checkpoint(SequenceRegressor(2, 3, 1, seed=0), training={"settings": [1], "counters": 7, "split": {}})
    yield Checkpoint(Seq2Seq(4, 4, 3, seed=0), tokenizer, {"counters": {"step": 3}}, target_tokenizer=tokenizer)


@pytest.mark.parametrize("k", range(5))
def test_info_opens_every_checkpoint(run, k):
    checkpoint = list(models())[k]
    save_checkpoint("m.safetensors", checkpoint)
    out = ok(run("info", "m.safetensors"))
    assert type(checkpoint.model).__name__ in out
    for name, value in checkpoint.training.items():
        if name == "note":
            assert value in out


def test_info_prints_no_control_characters(run):
    escape = "\x1b[31m\x9b2J\x07\r"
    tokenizer = CharTokenizer(None).fit("\n" + escape)
    settings = {**dict.fromkeys(Settings().select(*vars(Settings())), escape), escape: escape}
    training = {"settings": settings, "split": escape, "by": [escape], escape: {escape: escape}}
    checkpoint = Checkpoint(CharModel(tokenizer.vocab_size, 3, seed=0), tokenizer, training)
    save_checkpoint("m.safetensors", checkpoint)
    out = ok(run("info", "m.safetensors"))
    assert out.replace("\n", "").isprintable()
    data = Path("m.safetensors").read_bytes()
    for old, new in ((b"characters", b"\\\\u001bacter"), (b"rnnx-checkpoint", b"rnnx-\\\\u001bckpoi")):
        Path("bad.safetensors").write_bytes(data.replace(old, new, 1))
        code, out, err = run("info", "bad.safetensors")
        assert code == 1
        assert (out + err).replace("\n", "").isprintable()


# --- signals -----------------------------------------------------------------------------------------------------

posix = pytest.mark.skipif(os.name == "nt", reason="signals are not sent this way on Windows")


HEEDED = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)"  # also where the tests run under nohup


def start(folder, before=HEEDED, **options):
    arguments = ["--epochs", "1000", "--cell", "rnn", "--hidden-size", "16", "--save-every", "1000"]
    command, environment = before_the_command(before, "train", *arguments), {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, env=environment, text=True, **options)


def wait_for_epoch(process, number):
    for line in process.stdout:
        if line.startswith(f"epoch   {number}"):
            return
    raise AssertionError("the run ended")


@posix
@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_save_and_end(tmp_path, name):
    number = getattr(signal, name)
    with start(tmp_path, stderr=subprocess.PIPE) as process:
        wait_for_epoch(process, 2)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err == ""
    assert "resume with: rnnx train --resume runs/dinos-rnn" in out
    assert load_checkpoint(tmp_path / "runs" / "dinos-rnn").training["counters"]["epoch"] >= 2


@posix
@pytest.mark.slow
def test_a_second_signal_keeps_the_exit_code(tmp_path):
    with start(tmp_path, stderr=subprocess.PIPE) as process:
        wait_for_epoch(process, 1)
        for _ in range(20):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.001)
        _, err = process.communicate(timeout=60)
    assert process.returncode in (128 + signal.SIGTERM, -signal.SIGTERM)  # the latter after the run has been left
    assert "Traceback" not in err


@posix
@pytest.mark.slow
def test_nohup_keeps_a_run_alive(tmp_path):
    ignored = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    with start(tmp_path, before=ignored) as process:
        wait_for_epoch(process, 1)
        process.send_signal(signal.SIGHUP)
        wait_for_epoch(process, 3)
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


@posix
@pytest.mark.slow
def test_a_closed_terminal_saves_the_run(tmp_path):
    """The process writes to the terminal that goes away, and gets SIGHUP."""
    terminal, other_end = pty.openpty()
    take = f"{HEEDED}; import fcntl, os, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
    command = before_the_command(take, "train", "--epochs", "1000", "--cell", "rnn", "--hidden-size", "16")
    process = subprocess.Popen(command, cwd=tmp_path, stdin=other_end, stdout=other_end, stderr=other_end)
    os.close(other_end)
    seen = b""
    while b"epoch   2" not in seen:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    code = process.wait(60)
    assert load_checkpoint(tmp_path / "runs" / "dinos-rnn").training["counters"]["epoch"] >= 2
    assert code in (1, 128 + signal.SIGHUP)


@posix
@pytest.mark.slow
def test_ctrl_c_while_the_command_starts_prints_nothing(tmp_path):
    """From the first line of the package on; Python itself prints a traceback before."""
    code = (
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == sys.argv[1]:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "name = sys.argv[1]\n"
        "sys.argv = ['/bin/rnnx', 'info']\n"
        "Finder.find_spec.__globals__['sys'] = type('S', (), {'argv': ['', name]})\n"
        "from rnnx.__main__ import main\n"
        "main()\n"
    )
    for module in ("numpy", "rnnx.engines", "rnnx.optim", "click", "safetensors", "rnnx.cli.train_command"):
        command = [sys.executable, "-c", code, module]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (result.stdout, result.stderr, result.returncode) == ("", "", -signal.SIGINT), module


def test_importing_the_package_leaves_signals_alone():
    code = "import signal, rnnx; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


@pytest.mark.parametrize("options", [["-m", "other", "rnnx"], ["-mother", "-m", "rnnx"]])
def test_other_programs_are_interrupted_as_usual(tmp_path, options):
    """Also if the package that Python runs imports rnnx, and an argument has its name."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "__init__.py").write_text("import rnnx\n")
    (tmp_path / "other" / "__main__.py").write_text("import signal; print(signal.getsignal(signal.SIGINT))\n")
    result = subprocess.run([sys.executable, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "default_int_handler" in result.stdout


def test_ctrl_c_in_other_commands(run, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("rnnx.training.checkpoint.load_run", interrupted)
    for command in (("sample", "run"), ("info", "run"), ("evaluate", "run"), ("plot", "run")):
        code, out, err = run(*command)
        assert (code, "Traceback" in out + err) == (130, False)


# --- the machine -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [MemoryError(), MemoryError("a b"), OverflowError("too large to convert")])
def test_out_of_memory_is_one_line(run, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("rnnx.training.settings.make_corpus", fail)
    code, out, err = run("train", *SMALL)
    assert (code, out) == (1, "")
    assert err == f"Error: too large for this machine: {str(error) or 'out of memory'}\n"


@pytest.mark.parametrize("value", ["²", "٣", "junk", "-1", "0", "1e3", " ", "", "9" * 5000, "²,2", "2,²"])
def test_a_number_of_threads_that_is_none(monkeypatch, value):
    from rnnx.engines.cpu.runtime.thread_policy import max_threads

    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    usable = max_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert max_threads() == {"2,²": min(2, usable)}.get(value, usable)


def test_settings_of_numba_that_numba_refuses(tmp_path):
    environment = {**os.environ, "NUMBA_NUM_THREADS": "-1", "RNNX_CACHE_DIR": ""}
    command = [*COMMAND, "train", "--hidden-size", "4", "--output", "run"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: Numba cannot be imported: ")
    assert result.stderr.endswith("Check the environment variables NUMBA_*\n")
    assert json.dumps(result.stderr).count("\\n") == 1


# --- newlines in samples -----------------------------------------------------------------------------------------


def test_what_sample_prints_at_a_newline(run, monkeypatch):
    """Lines end before it; other texts contain it; --stop says otherwise."""
    ok(run("train", *SMALL, "--output", "lines"))
    ok(run("train", "--text", "prose.txt", "--by", "windows", *SMALL[2:], "--output", "windows"))
    draws = {}

    def drawn(logits, *_):
        vocabulary = draws["tokenizer"].get_vocab()
        draws["n"] += 1
        character = "\n" if draws["n"] % 3 == draws["first"] else "n"
        return np.full(logits.shape[1], vocabulary.index(character))

    monkeypatch.setattr("rnnx.models.generation.draw", drawn)

    def sampled(folder, *options, first=0):
        draws.update(tokenizer=load_checkpoint(folder).tokenizer, n=0, first=first)
        return ok(run("sample", folder, "--start", "t", "--max-length", 5, *options))

    assert sampled("lines") == "tnn\n"
    assert sampled("lines", first=1) == "t\n"  # the newline came first
    assert sampled("lines", "--stop", "") == "tnn\nnn\n"
    assert sampled("windows") == "tnn\nnn\n"
    assert sampled("windows", "--stop", "\\n") == "tnn\n"
    assert sampled("windows", "--stop", "n") == "t\n"
