"""The command line, end to end."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lab import NAMES, ok

import rnnx
from rnnx._core.install import install_command
from rnnx.data import make_corpus
from rnnx.engines import engines_of
from rnnx.models import CharModel
from rnnx.models.generation import sample
from rnnx.training import checkpoint as checkpoints
from rnnx.training import read_metrics

SMALL = ("--hidden-size", 8, "--epochs", 2, "--sample-every", 1)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_train_and_sample(run, cell, tmp_path, monkeypatch):
    out = ok(run("train", "--text", "names.txt", "--cell", cell, *SMALL))
    assert "names: 54 lines to train on, 6 of 60 lines held out at random" in out
    assert out.count("validation ") == 2 + 1
    assert "samples:" in out
    folder = tmp_path / "runs" / f"names-{cell}"
    assert f"run saved in runs/names-{cell}" in out
    assert sorted(p.name for p in folder.iterdir()) == [
        "best.safetensors",
        "metrics.csv",
        "metrics.jsonl",
        "model.safetensors",
    ]
    options = ("--start", "tri", "-n", 3, "--temperature", 0.8, "--seed", 1)
    texts = ok(run("sample", folder, *options))
    assert len(texts.splitlines()) == 3
    assert all(t.startswith("tri") for t in texts.splitlines())
    assert ok(run("sample", folder / "model.safetensors", *options)) == texts
    with monkeypatch.context() as patch:
        quantized, seen = CharModel.quantized, []
        patch.setattr(CharModel, "quantized", lambda model, weights: seen.append(weights) or quantized(model, weights))
        assert len(ok(run("sample", folder, *options, "--weights", "int8")).splitlines()) == 3
    assert seen == ["int8"]
    first = (folder / "model.safetensors").read_bytes()
    assert "runs/names-" + cell + "-2" in ok(run("train", "--text", "names.txt", "--cell", cell, *SMALL))
    assert (tmp_path / "runs" / f"names-{cell}-2" / "model.safetensors").read_bytes() == first  # bit for bit
    ok(run("train", "--text", "names.txt", "--cell", cell, "--seed", 1, *SMALL, "--output", "other"))
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != first


def test_cells_of_the_zoo(run):
    text = ok(run("train", "--help"))
    assert all(name in text for name in ("gru", "cifg", "ugrnn"))
    with rnnx.use_engine("reference"):
        out = ok(run("train", "--text", "names.txt", "--cell", "ugrnn", "--zoneout", 0.1, *SMALL))
        assert "run saved in runs/names-ugrnn" in out
        assert ok(run("sample", "runs/names-ugrnn", "-n", 2, "--seed", 0))


def test_all_the_options(run):
    out = ok(
        run(
            *("train", "--text", "prose.txt", "--by", "streams", "--seq_length", 12, "--split", "blocks"),
            *("--validation", 0.3, "--cell", "gru", "--reset_after", "--rnn-size", "8,6", "--dropout", 0.2),
            *(
                "--scheme",
                "torch",
                "--dtype",
                "float64",
                "--iterations",
                30,
                "--batch-size",
                2,
                "--optimizer",
                "nesterov",
            ),
            *("--momentum", 0.8, "--learning_rate", 0.1, "--weight-decay", 1e-4, "--decay", "cosine", "--warmup", 5),
            *("--clip-norm", 1, "--clip-value", 0.1, "--patience", 20, "--segment-length", 0, "--deterministic"),
            *("--evaluate-every", 10, "--sample-every", 2, "--temperature", 0.5, "--save-every", 0, "--quiet"),
            *("--output", "out", "--min-count", 12),
        )
    )
    assert "gru_reset_after stack, " in out
    assert "-8-6, " in out
    assert "in 10 blocks" in out
    assert out.count("  step ") == 3
    records = read_metrics("out")
    assert len(records) == 30 + 3
    rates = [r["learning_rate"] for r in records if r["validation_loss"] is None]
    assert rates[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert rates[-1] < 0.01
    about = ok(run("info", "out"))
    assert "nesterov" in about
    assert "Wu_l1" in about
    texts = ok(
        run("sample", "out", "--prompt", "the rain", "--max-length", 30, "--top-k", 3, "--top-p", 0.9, "--stop", ".")
    )
    assert texts.startswith("the rain")


def _steps(loaded, text, by):
    """Inputs and targets of the validation part of a text, in one row."""
    corpus = make_corpus("text", Path(text), by=by, seq_length=20, tokenizer=loaded.tokenizer)
    batches = list(corpus.validation.batches(1))
    return [np.concatenate([getattr(b, name) for b in batches], axis=1) for name in ("inputs", "targets")]


@pytest.mark.parametrize("by", ["lines", "windows", "streams"])
def test_evaluate(run, by):
    text = "names.txt" if by == "lines" else "prose.txt"
    ok(run("train", "--text", text, "--by", by, "--seq-length", 20, *SMALL, "--output", "out", "--batch-size", 2))
    out = ok(run("evaluate", "out", "--baseline", 3))
    loaded = checkpoints.load_checkpoint("out")
    expected = loaded.training["counters"]["validation_loss"]
    if by == "streams":  # training had two streams, each starting from zeros; evaluation has one
        inputs, targets = _steps(loaded, text, by)
        p = loaded.model.predict(inputs)[0]
        expected = -np.log(p[targets[0], 0, np.arange(targets.shape[1])], dtype=np.float64).mean()
    assert f"model    {expected:.4f} nats per character" in out
    assert "3-gram" in out
    assert "perplexity" in ok(run("evaluate", "out", "--part", "train"))
    assert "whole text" in ok(run("evaluate", "out", "--text", text))
    if by == "lines":
        assert "lines sampled at temperature 1" in ok(run("evaluate", "out", "--novelty", 20))
    else:
        assert "--novelty requires a model trained on lines" in run("evaluate", "out", "--novelty", 20)[2]


@pytest.mark.slow
def test_plot(run, tmp_path):
    ok(run("train", "--text", "names.txt", *SMALL, "--output", "out"))
    paths = ok(run("plot", "out", "--text", "triatops")).splitlines()
    assert len(paths) >= 4
    assert all((tmp_path / path).read_bytes().startswith(b"\x89PNG") for path in paths)


def test_built_in_texts(run):
    out = ok(run("train", "--hidden-size", 4, "--epochs", 1, "--batch-size", 256))
    assert "dinos: 1322 lines to train on" in out
    out = ok(run("train", "--dataset", "pydoc", "--hidden-size", 4, "--iterations", 2, "--batch-size", 4))
    assert "windows to train on, last" in out


def test_user_mistakes_are_one_line(run, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"\xff" * 50)
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "short.txt").write_text("too short for so many streams")
    before = sorted(p.name for p in tmp_path.iterdir())
    for arguments, message in (
        (["train", "--text", "nowhere.txt"], "Error: nowhere.txt: No such file or directory"),
        (["train", "--text", "bad.txt"], "Error: bad.txt is not UTF-8: byte 0xff at offset 0, line 1"),
        (["train", "--text", "empty.txt"], "Error: empty.txt is empty"),
        (["train", "--text", "short.txt", "--by", "streams"], "the text is too short for `batch_size` = 16 streams"),
        (["train", "--output", "names.txt"], "Error: cannot write to names.txt: names.txt is not a folder"),
        (["train", "--output", "names.txt/run"], "names.txt is not a folder"),
        (["train", "--temperature", "inf"], "Invalid value for '--temperature'"),
        (["train", "--temperature", "nan"], "Invalid value for '--temperature'"),
        (["train", "--cell", "lsmt"], "'lsmt' is not one of 'rnn', 'lstm', 'gru', 'cifg', "),
        (["train", "--learning-rate", "0"], "Invalid value for '--learning-rate'"),
        (["train", "--hidden-size", "8,x"], "'8,x' is not a positive integer or a comma-separated list"),
        (["train", "--reset-after"], "`reset_after` is only for `cell` = 'gru'; got 'lstm'"),
        (["train", "--warmup", "100000"], "`warmup` must be at least 0 and below the"),
        (["train", "--resume", "nowhere"], "Error: nowhere"),
        (["train", "--resume", "."], "is not a run folder"),
        (["train", "--resume", ""], "--resume must not be empty"),
        (["train", "--text", ""], "--text must not be empty"),
        (["train", "--text", "names.txt", "--dataset", "dinos"], "--text and --dataset cannot be combined"),
        (["train", "--dropout", "0.5"], "`dropout` must be 0 for a single layer"),
        (["train", "--hidden-size", "100000000"], "GiB of memory; this machine has"),
        (["train", "--seq-length", "1" + 30 * "0"], "Invalid value for '--seq-length'"),
        (["train", "--device", "cuda"], "Error: `device` 'cuda'"),
        (["sample", "nowhere"], "Error: nowhere: No such file or directory"),
        (["sample", "."], "is not a run folder"),
        (["sample", "names.txt"], "Error: names.txt is not a checkpoint, or is damaged"),
        (["sample", "nowhere", "--weights", "int8", "--device", "cuda"], "Error: --weights is for the CPU; it cannot"),
        (["sample", "nowhere", "--weights", "int4"], "Invalid value for '--weights'"),
        (["sample", "names.txt", "--temperature", "-1"], "Invalid value for '--temperature'"),
        (["evaluate", "names.txt"], "is not a checkpoint"),
        (["plot", "names.txt"], "is not a checkpoint"),
        (["trian"], "No such command 'trian'"),
    ):
        if arguments[-1] == "cuda" and _has_gpu():
            continue
        code, out, err = run(*arguments)
        assert code in (1, 2), arguments
        assert message in err, arguments
        assert "Traceback" not in out + err
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def _has_gpu():
    try:
        import cupy
    except ImportError:
        return False
    return cupy.is_available()


def test_help_and_version(run):
    out = ok(run("--help"))
    names = ["train", "tune", "sample", "evaluate", "plot", "forecast", "classify", "predict"]
    names += ["export", "compare", "info"]
    assert [line.split()[0] for line in out.split("Commands:")[1].splitlines() if line.strip()] == names
    for name in names:
        assert "Usage: rnnx" in ok(run(name, "--help"))
    assert "--hidden-size" in ok(run("train", "-h"))
    assert "\n    rnnx train --resume runs/poems-lstm --epochs 60\n" in ok(run("train", "-h"))  # on a line of its own
    assert all("\\b" not in ok(run(*name, "--help")) for name in ((), ("train",), ("sample",), ("evaluate",)))
    assert rnnx.__version__ in ok(run("--version"))
    about = dict(line.split(maxsplit=1) for line in ok(run("info")).splitlines())
    assert about["numpy"] == f"{np.__version__}; engines: {', '.join(engines_of('numpy'))}"
    assert set(rnnx.engine_names()) == set(about["engines"].split(", "))
    assert about["rnnx"] == rnnx.__version__
    assert about["cpu"].endswith("threads")
    assert "cuda" in about
    assert {"cupy", "torch", "jax", "numba"} <= set(about)


@pytest.mark.parametrize(
    "sizes",
    [("--num-layers", 100_000_000), ("--hidden-size", "9" * 5000), ("--hidden-size", 999_999_999)],
)
def test_sizes_that_no_machine_has_are_an_error_at_once(run, sizes, tmp_path):
    before = sorted(tmp_path.iterdir())
    code, _, err = run("train", "--text", "names.txt", *sizes, "--output", "out")
    assert code in (1, 2)
    assert "Traceback" not in err
    assert len(err) < 500
    assert sorted(tmp_path.iterdir()) == before


def test_a_device_is_not_read(run):
    """The text of a checkpoint may be any path; only regular files are read."""
    for path in ("/dev/zero", "/dev/stdin"):
        if os.path.exists(path):
            assert "is not a regular file" in run("train", "--text", path, "--output", "out")[2]


# --- resuming ----------------------------------------------------------------------------------------------------


def test_resume(run, tmp_path):
    """Two epochs and two more equal four, bit for bit. Only settings that limit the run can change."""
    ok(run("train", "--text", "names.txt", *SMALL[:2], *SMALL[4:], "--output", "whole", "--epochs", 4))
    ok(run("train", "--text", "names.txt", *SMALL, "--output", "parts"))
    out = ok(run("train", "--resume", "parts", "--epochs", 4))
    assert ", resuming after step " in out
    assert (tmp_path / "parts/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    assert (tmp_path / "parts/best.safetensors").read_bytes() == (tmp_path / "whole/best.safetensors").read_bytes()
    assert _without_times("parts") == _without_times("whole")
    assert "nothing to do" in ok(run("train", "--resume", "parts"))
    assert "nothing to do" in ok(run("train", "--resume", "parts/model.safetensors", "--epochs", 1))
    assert "--resume cannot be combined with --hidden-size" in run("train", "--resume", "parts", "--hidden-size", 9)[2]
    os.makedirs("elsewhere")
    os.chdir("elsewhere")
    assert "best validation loss" in ok(run("train", "--resume", "../parts"))
    os.chdir("..")
    (tmp_path / "moved.txt").write_text(NAMES)
    (tmp_path / "names.txt").write_text(NAMES + "\nnewosaurus")
    assert "best validation loss" in ok(run("train", "--resume", "parts", "--text", "moved.txt"))
    (tmp_path / "moved.txt").write_text(NAMES + "\nnewosaurus")
    assert "moved differs from the text that" in run("train", "--resume", "parts", "--epochs", 6)[2]
    assert "already contains a run" in run("train", "--output", "parts")[2]


def _without_times(folder):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in read_metrics(folder)]


def test_iterations_and_patience_can_be_extended(run):
    ok(run("train", "--text", "names.txt", "--hidden-size", 8, "--iterations", 5, "--output", "out"))
    ok(run("train", "--resume", "out", "--epochs", 3))
    assert checkpoints.load_checkpoint("out").training["counters"]["epoch"] == 3
    ok(run("train", "--resume", "out", "--epochs", 9, "--patience", 1))
    slow = ("--learning-rate", 1e-30, "--patience", 1, "--epochs", 9)
    ok(run("train", "--text", "names.txt", "--hidden-size", 8, *slow, "--output", "slow"))
    assert "was stopped by --patience" in ok(run("train", "--resume", "slow"))
    ok(run("train", "--resume", "slow", "--patience", 1))
    assert checkpoints.load_checkpoint("slow").training["counters"]["epoch"] == 3


def test_a_run_that_diverged_keeps_its_last_good_state(run, monkeypatch):
    """The checkpoint is that of the step before, and resuming gives the result of an undisturbed run."""
    ok(run("train", "--text", "names.txt", *SMALL, "--output", "whole"))
    n = checkpoints.load_checkpoint("whole").training["counters"]["step"]
    train_step, bad = CharModel.train_step, n - 1

    def wrong(self, batch, *, masks, **options):
        step = train_step(self, batch, masks=masks, **options)
        return replace(step, loss=np.nan) if masks.seed[1] == bad else step

    with monkeypatch.context() as patch:
        patch.setattr(CharModel, "train_step", wrong)
        code, _, err = run("train", "--text", "names.txt", *SMALL, "--output", "out", "--save-every", 0)
    assert code == 1
    assert f"the loss is nan at step {bad}; a smaller learning rate may help" in err
    assert checkpoints.load_checkpoint("out").training["counters"]["step"] == bad - 1
    assert [r["step"] for r in read_metrics("out") if r["validation_loss"] is None] == [*range(1, bad)]
    ok(run("train", "--resume", "out"))
    assert Path("out/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()


def test_parameters_that_are_not_finite_are_not_saved(run):
    wild = ("--optimizer", "rms", "--learning-rate", 3e38, "--output", "o")
    with np.errstate(all="ignore"):
        code, _, err = run("train", "--text", "names.txt", *SMALL, *wild)
    assert code == 1
    assert "a smaller learning rate may help" in err
    assert not os.path.exists("o/model.safetensors")


@pytest.mark.parametrize("save_every", [0, 1000])
def test_a_run_that_cannot_be_saved_says_so(run, save_every):
    """The squares of the gradients overflow in Adam's state, while the parameters and the losses stay finite."""
    wild = ("--weight-decay", 1e300, "--dtype", "float64", "--save-every", save_every, "--output", "o")
    with np.errstate(all="ignore"):
        code, out, err = run("train", "--text", "names.txt", *SMALL, *wild)
    assert code == 1
    assert err.startswith("Error: the optimizer state or the parameters are not finite after step ")
    assert err.count("\n") == 1
    assert "saved in" not in out


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_metrics_that_cannot_be_written_do_not_lose_the_model(run, monkeypatch):
    from rnnx.training import MetricsWriter

    begin = MetricsWriter.__init__

    def on_full_disk(self, *arguments):
        begin(self, *arguments)
        self._paths = (Path("/dev/full"), self._paths[1])

    monkeypatch.setattr(MetricsWriter, "__init__", on_full_disk)
    code, _, err = run("train", "--text", "names.txt", *SMALL, "--output", "out")
    assert code == 1
    assert err == "Error: /dev/full: No space left on device\n"
    assert checkpoints.load_checkpoint("out").training["counters"]["step"] > 0


def test_an_interrupt_before_the_record_of_an_evaluation(run, monkeypatch, tmp_path):
    """The evaluation is written when the run is left, or comes again."""
    from rnnx.training import MetricsWriter, Run

    ok(run("train", "--text", "names.txt", *SMALL, "--output", "whole"))
    write, first = MetricsWriter.write, []

    def interrupted(self, progress, seconds):
        if progress.evaluation and not first:
            first.append(progress)
            raise KeyboardInterrupt
        write(self, progress, seconds)

    monkeypatch.setattr(MetricsWriter, "write", interrupted)
    settings = Run.resume("whole").settings
    with pytest.raises(KeyboardInterrupt):
        list(Run.start("parts", settings).train())
    list(Run.resume("parts").train())
    assert _without_times("parts") == _without_times("whole")
    assert (tmp_path / "parts/best.safetensors").read_bytes() == (tmp_path / "whole/best.safetensors").read_bytes()


@pytest.mark.slow
def test_killed_at_random_moments(run, tmp_path):
    """SIGKILL, again and again; what goes on from the folder ends as the run that was left alone."""
    common = ["--text", "names.txt", "--hidden-size", "12", "--num-layers", "2", "--dropout", "0.2", "--epochs", "14"]
    common += ["--batch-size", "4", "--save-every", "0", "--sample-every", "0", "--evaluate-every", "7", "--quiet"]
    ok(run("train", *common, "--output", "whole"))
    rng = np.random.default_rng(0)
    killed, saved = 0, tmp_path / "killed" / "model.safetensors"
    for _ in range(200):
        arguments = ["--resume", "killed"] if saved.exists() else [*common, "--output", "killed"]
        with subprocess.Popen(
            [sys.executable, "-m", "rnnx", "train", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            if killed < 3:
                before = saved.stat().st_mtime_ns if saved.exists() else 0
                while process.poll() is None and (saved.stat().st_mtime_ns if saved.exists() else 0) == before:
                    time.sleep(0.002)  # until it trains
                time.sleep(float(rng.uniform(0, 0.1)))
                process.kill()
            error = process.stderr.read()
            code = process.wait()
        assert code in (0, -signal.SIGKILL if os.name != "nt" else 1), error
        killed += code != 0
        if code == 0:
            break
    assert killed == 3
    assert saved.read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert (tmp_path / "killed/best.safetensors").read_bytes() == (tmp_path / "whole/best.safetensors").read_bytes()
    assert _without_times("killed") == _without_times("whole")


def test_an_error_in_the_output_does_not_lose_the_model(run, monkeypatch):
    """The checkpoint is written whatever goes wrong after the first step."""

    def fail(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("rnnx.cli.display.sample", fail)
    code, _, err = run("train", "--text", "names.txt", *SMALL, "--output", "out")
    assert code == 1
    assert "Traceback" not in err
    assert checkpoints.load_checkpoint("out").training["counters"]["epoch"] == 1


@pytest.mark.skipif(os.name == "nt", reason="SIGINT is not sent this way on Windows")
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.slow
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
        assert "resume with: rnnx train --resume runs/dinos-rnn" in rest
    loaded = checkpoints.load_checkpoint(tmp_path / "runs" / "dinos-rnn")
    assert loaded.training["counters"]["epoch"] >= 2
    assert len(sample(loaded.model, loaded.tokenizer, n=2, seed=0)) == 2


@pytest.mark.parametrize("package", ["click", "safetensors"])
def test_without_the_extra_the_command_says_what_to_install(package):
    code = f"import sys; sys.modules['{package}'] = None; sys.argv = ['rnnx']; from rnnx.__main__ import main; main()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    expected = f"rnnx: the command line needs {package}; install it with: {install_command('lab')}"
    assert result.stderr.strip() == expected


# --- comparisons -------------------------------------------------------------------------------------------------


def test_compare(run, tmp_path, monkeypatch):
    """Options for the same things are those of train, and every comparison has a folder of its own."""
    from types import SimpleNamespace

    from rnnx import compare
    from rnnx.cli.commands import compare as command
    from rnnx.cli.train_command import train

    names = {option.name: set(option.opts) for option in train.params}
    shared = [option for option in command.params if option.name in names]
    assert {option.name for option in shared} > {"cell", "reset_after", "hidden_size", "num_layers", "seq_length"}
    for option in shared:
        assert set(option.opts) == names[option.name]
        if option.name == "cell":
            choices = next(p for p in train.params if p.name == "cell").type.choices
            assert tuple(option.type.choices) == tuple(choices[:3])  # the others have no peer
    calls = []

    def compared(peer, *, output, progress, **options):
        Path(output).mkdir(parents=True, exist_ok=True)
        calls.append({"output": output, **options})
        return SimpleNamespace(agrees=True, text=lambda: "a table")

    monkeypatch.setattr(compare, "run", compared)
    out = ok(run("compare", "keras", "--model", "gru", "--rnn-size", 8, "--iterations", 5))
    assert out == f"a table\nreport saved in {Path('runs/compare-keras')}\n"
    ok(run("compare", "torch", "--cell", "gru", "--reset-after"))
    ok(run("compare", "keras", "--output", "mine"))
    ok(run("compare", "keras"))
    folders = [Path("runs/compare-keras"), Path("runs/compare-torch"), Path("mine"), Path("runs/compare-keras-2")]
    assert [Path(call["output"]) for call in calls] == folders
    assert (calls[0]["cell"], calls[0]["hidden_size"], calls[0]["steps"]) == ("gru", 8, 5)
    assert [call["reset_after"] for call in calls[:2]] == [False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["torch", "--cell", "gru"], "PyTorch's GRU resets after the product: add --reset-after"),
        (["torch", "--reset-after"], "`reset_after` is only for `cell` = 'gru'"),
        (["torch", "--text", "names.txt", "--dataset", "dinos"], "--text and --dataset cannot be combined"),
        (["torch", "--text", ""], "--text must not be empty"),
        (["torch", "--output", ""], "--output must not be empty"),
        (["torch", "--text", "missing.txt"], "missing.txt: No such file"),
        (["torch", "--text", "names.txt", "--seq-length", 9999], "`seq_length` must be less than the length"),
        (["torch", "--num-layers", 10**8], "`num_layers` must be an integer from 1 to 10000; got 100000000"),
        (["torch", "--hidden-size", 10**9], "GiB of memory"),
        (["torch", "--output", "names.txt"], "names.txt"),
    ],
)
def test_compare_refuses(run, arguments, message, tmp_path, monkeypatch):
    from rnnx.compare import process, runner

    monkeypatch.setattr(runner, "_check_installed", lambda *_: None)
    monkeypatch.setattr(process, "call", None)
    code, out, err = run("compare", *arguments)
    assert code in (1, 2)
    assert message in err
    assert "Traceback" not in out + err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["names.txt", "prose.txt"]
