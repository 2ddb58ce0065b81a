"""Comparisons with torch and Keras. The models are small: starting a process costs more than its steps."""

import csv
import importlib
import json
import operator
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import rnnx
from rnnx import compare
from rnnx.compare import process, runner, task
from rnnx.compare.records import CONTINUATION, Request, Result, Settings
from rnnx.compare.report import Report
from rnnx.compare.rnnx_side import RnnxSide

SMALL = {"hidden_size": 12, "num_layers": 2, "batch_size": 3, "seq_length": 7, "steps": 4, "learning_rate": 0.01}
TEXT = np.random.default_rng(5).integers(0, 9, 500)


def installed(*modules):
    """Skip unless the modules are installed, without importing them."""
    for module in modules:
        if not runner.importlib.util.find_spec(module):
            pytest.skip(f"could not import {module!r}")


@pytest.fixture
def here(monkeypatch):
    """Sides run in this process."""

    def call(target, *arguments, **_):
        module, _, function = target.partition(":")
        return operator.attrgetter(function)(importlib.import_module(module))(*arguments), 1.0

    monkeypatch.setattr(process, "call", call)


def check(report, labels, folder, tolerance="1e-05"):
    assert list(report.sides) == labels
    for label in labels[1:]:
        assert report.loss_differences(label)[: report.sides[label].checked_losses].max() <= 1e-5
        errors = report.gradient_errors(label)
        assert len(errors) == len(report.sides[label].gradients) > 2
        assert {"dWy", "dby"} < set(errors)
        assert max(errors.values()) <= 1e-5
    assert report.agrees
    for side in report.sides.values():
        assert side.losses.shape == side.seconds.shape == (SMALL["steps"],)
        assert (side.seconds > 0).all()
        assert np.ptp(side.losses) > 1e-3  # it has learned something: equal constants would agree as well
        if sys.platform == "linux":
            assert 10 < side.memory_start <= side.memory_peak
    text = report.text()
    for row in (
        "loss of the first batch",
        "loss after one update",
        "relative difference, one update",
        "first step, s",
        "median of later steps, ms",
        "peak memory, MiB",
        "dWy",
        f"gradients agree to {tolerance}",
    ):
        assert row in text
    assert all(label in text for label in labels)
    check_files(report, folder)


def check_files(report, folder):
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert (folder / "report.txt").read_text(encoding="utf-8") == report.text() + "\n"
    values = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert values["sides"]["rnnx"]["losses"] == report.sides["rnnx"].losses.tolist()
    with (folder / "losses.csv").open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["step", *report.sides]
    assert [float(row[1]) for row in rows] == report.sides["rnnx"].losses.tolist()


@pytest.mark.parametrize(("cell", "optimizer"), [("lstm", "adam"), ("gru", "sgd")])
@pytest.mark.slow
def test_torch(cell, optimizer, tmp_path, request):
    """In processes of their own, and in this one, which takes less time."""
    installed("torch")
    if cell == "gru":
        request.getfixturevalue("here")
    started = []
    report = compare.run(
        "torch",
        TEXT,
        cell=cell,
        reset_after=cell == "gru",
        optimizer=optimizer,
        output=tmp_path / "out",
        progress=started.append,
        **SMALL,
    )
    check(report, ["rnnx", "torch loop"], tmp_path / "out")
    assert started == ["rnnx", "torch loop"]
    assert "torch" not in report.sides["rnnx"].versions


@pytest.mark.slow
def test_keras(tmp_path, monkeypatch):
    """The GRU with two biases, and Adam with its different epsilon, in float64, where a difference shows.

    A loss that is not finite, in the same process.
    """
    installed("tensorflow", "keras")
    call, done = process.call, {}
    sides = [side.partition(":")[2] for side in runner.PEERS["keras"].sides.values()]

    def all_at_once(target, request, **options):
        if "keras_side" not in target:
            return call(target, request, **options)
        if not done:
            calls = [*((side, request) for side in sides), (sides[-1], diverging())]
            results, seconds = call("keras_process:run", calls, folders=[Path(__file__).parent], **options)
            names = [*(f"rnnx.compare.keras_side:{side}.run" for side in sides), "diverging"]
            done.update({name: (result, seconds) for name, result in zip(names, results, strict=True)})
        return done[target]

    monkeypatch.setattr(process, "call", all_at_once)
    words = "".join(chr(97 + index) for index in TEXT)
    (tmp_path / "words.txt").write_text(words, encoding="utf-8")
    options = {"cell": "gru", "reset_after": True, "dtype": "float64", "output": tmp_path, "threads": 1}
    report = compare.run("keras", text=tmp_path / "words.txt", **options, **SMALL)
    check(report, ["rnnx", "Keras fit", "TensorFlow loop", "Keras subclass"], tmp_path, "1e-10")
    # The embedding of the model class is trained too.
    assert report.loss_differences("Keras subclass")[0] <= 1e-10
    assert report.loss_differences("Keras subclass")[1:].min() > 1e-6
    samples = report.samples()
    assert set(samples) == {"rnnx", "Keras subclass"}
    (prompt,) = {sample[: SMALL["seq_length"]] for sample in samples.values()}
    assert prompt in words
    for sample in samples.values():
        assert len(sample) == SMALL["seq_length"] + CONTINUATION
        assert set(sample) <= set(words)
        assert repr(sample) in report.text()
    monkeypatch.setattr(process, "call", lambda *_, **__: done["diverging"])
    check_a_loss_that_is_not_finite("Keras subclass", "keras_side:Subclass")


def test_only_a_peers_side_imports_the_peer():
    peers = ("tensorflow", "keras", "torch")
    code = f"import sys, rnnx.compare, rnnx.convert; print([m for m in {peers} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    source = Path(rnnx.__file__).parent
    importing = {
        str(path.relative_to(source).as_posix())
        for path in source.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.split()[:1] in (["import"], ["from"]) and line.split()[1].split(".")[0] in peers
    }
    importing = {name for name in importing if not name.startswith("interop/")}
    assert importing == {"compare/keras_side.py", "compare/torch_side.py"}


# --- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"peer": "jax"}, ValueError, r"`peer` must be one of \['keras', 'torch'\]; got 'jax'"),
        ({"peer": ["torch"]}, TypeError, r"`peer` must be one of \['keras', 'torch'\]; got \['torch'\]"),
        ({"cell": "gru"}, ValueError, "`reset_after` must be True for `cell` = 'gru' with torch"),
        ({"cell": "gru_reset_after"}, ValueError, r"`cell` must be one of \['gru', 'lstm', 'rnn'\]; got 'gru_reset_"),
        ({"reset_after": True}, ValueError, "`reset_after` is only for `cell` = 'gru'; got 'lstm'"),
        ({"dtype": np.arange(2)}, TypeError, "`dtype` must be one of"),
        ({"progress": 3}, TypeError, "`progress` must be callable; got int"),
        ({"text": "a.txt"}, ValueError, "`indices` and `text` cannot be combined"),
        ({"indices": None, "text": 0}, TypeError, "`text` must be the path of a file; got 0"),
        ({"indices": None, "text": ""}, ValueError, "`text` must be the path of a file; got ''"),
        ({"indices": None, "dataset": ["dinos"]}, TypeError, r"`dataset` must be a str; got \['dinos'\]"),
        ({"num_layers": 10**8}, ValueError, "`num_layers` must be an integer from 1 to 10000; got 100000000"),
        ({"threads": 10**6}, ValueError, "`threads` must be an integer from 1 to 1024; got 1000000"),
        ({"hidden_size": 10**7}, ValueError, "`hidden_size` = 10000000, .* need .* GiB of memory; this machine has"),
        ({"vocab_size": 10**12}, ValueError, "`vocab_size` = 1000000000000 need .* GiB of memory"),
        ({"batch_size": 10**12}, ValueError, "`batch_size` = 1000000000000, .* need .* GiB of memory"),
        ({"steps": 10**12}, ValueError, "`steps` = 1000000000000, .* need .* GiB of memory"),
        ({"cell": "mgu"}, ValueError, "`cell` must be one of"),
        ({"optimizer": "rms"}, ValueError, "`optimizer` must be one of"),
        ({"dtype": "float16"}, ValueError, "`dtype` must be one of"),
        ({"steps": 1}, ValueError, "`steps` must be an integer of at least 2; got 1"),
        ({"hidden_size": 0}, ValueError, "`hidden_size`"),
        ({"batch_size": 1.5}, TypeError, "`batch_size`"),
        ({"threads": 0}, ValueError, "`threads`"),
        ({"learning_rate": float("nan")}, ValueError, "`learning_rate` must be a positive number; got nan"),
        ({"vocab_size": 8}, ValueError, "greater than the largest index, 8; got 8"),
        ({"learning_rate": "a"}, TypeError, "`learning_rate` must be a number; got str"),
        ({"indices": TEXT * 0}, ValueError, "`vocab_size` must be an integer of at least 2; got 1"),
        ({"steps": np.int64(1)}, ValueError, r"`steps` must be an integer of at least 2; got np.int64\(1\)"),
        ({"seq_length": 500}, ValueError, "`seq_length` must be less than the length of the text, 500; got 500"),
        ({"indices": TEXT * 1.0}, TypeError, "`indices` must be integers"),
        ({"indices": TEXT - 5}, ValueError, "non-empty array of non-negative integers"),
    ],
)
def test_mistakes(arguments, error, message, monkeypatch):
    """No process starts."""
    monkeypatch.setattr(process, "call", None)
    with pytest.raises(error, match=message):
        compare.run(**{"peer": "torch", "indices": TEXT, **SMALL, **arguments})


@pytest.mark.parametrize(("peer", "command"), [("keras", "pip install tensorflow"), ("torch", "pip install torch")])
def test_a_peer_that_is_not_installed(peer, command, monkeypatch):
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=command):
        compare.run(peer, TEXT, **SMALL)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("folder", ValueError, "`text` must be a regular file; .*text.txt is not"),
        ("pipe", ValueError, "`text` must be a regular file; .*text.txt is not"),
        (None, FileNotFoundError, "text.txt"),
        (b"", ValueError, "text.txt is empty"),
        (b" \n", ValueError, "text.txt is empty"),
        (b"ab", ValueError, "`seq_length` must be less than the length of the text, 2; got 7"),
        (b"a" * 50, ValueError, "`vocab_size` must be an integer of at least 2; got 1"),
        (b"\xff" * 50, ValueError, "text.txt is not UTF-8"),
    ],
)
def test_files_that_are_no_text(content, error, message, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "call", None)
    path = tmp_path / "text.txt"
    if content == "folder":
        path.mkdir()
    elif content == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("no named pipes")
        os.mkfifo(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message):
        compare.run("torch", text=path, output=tmp_path / "out", **SMALL)
    assert not (tmp_path / "out").exists()


def make_request(**settings):
    return task.make_request(TEXT, Settings(9, **{**SMALL, **settings}))


def diverging():
    return make_request(optimizer="sgd", learning_rate=1e38, steps=9)


def check_a_loss_that_is_not_finite(label, side):
    message = rf"^the loss of {label} is (nan|inf) at step \d; a smaller learning rate may help$"
    with pytest.raises(FloatingPointError, match=message):
        runner._run_sides({label: side}, diverging())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_is_not_finite(monkeypatch):
    monkeypatch.setattr(process, "call", lambda target, *given, **_: (RnnxSide.run(*given), 0.0))
    check_a_loss_that_is_not_finite("rnnx", "rnnx_side:RnnxSide")


@pytest.mark.slow
def test_a_loss_of_torch_that_is_not_finite(here):
    installed("torch")
    check_a_loss_that_is_not_finite("torch loop", "torch_side:TorchSide")


def test_the_folder_of_a_report(tmp_path, monkeypatch):
    """A comparison never writes over another one or over other files, and leaves no trace of a failure."""
    monkeypatch.setattr(runner, "_check_installed", lambda *_: None)
    results = {name: result([4.0, 2.0, 1.0, 0.5], [3.0, 4.0], 1.0) for name in ("rnnx", "torch loop")}
    monkeypatch.setattr(runner, "_run_sides", lambda *_: results)
    folder = tmp_path / "a" / "b"
    compare.run("torch", TEXT, output=folder, **SMALL)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert len(before) == 4
    monkeypatch.setattr(runner, "_run_sides", None)
    with pytest.raises(ValueError, match=r"`output` must not contain a report; .*b contains report.txt"):
        compare.run("torch", TEXT, output=folder, **SMALL)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "losses.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"mine contains losses\.csv"):
        compare.run("torch", TEXT, output=tmp_path / "mine", **SMALL)

    def meanwhile(*_):
        with pytest.raises(ValueError, match="must not contain a report"):
            compare.run("torch", TEXT, output=tmp_path / "c" / "d", **SMALL)
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_run_sides", meanwhile)
    with pytest.raises(KeyboardInterrupt):
        compare.run("torch", TEXT, output=tmp_path / "c" / "d", **SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "mine"]
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["losses.csv"]


@pytest.mark.slow
def test_a_side_that_fails():
    request = make_request()
    broken = Request(request.settings, request.inputs, request.targets, {"by": request.parameters["by"]})
    with pytest.raises(RuntimeError, match=r"mine exited with code 1:\n(.*\n)*ValueError: `parameters` must"):
        runner._run_sides({"mine": "rnnx_side:RnnxSide"}, broken)
    with pytest.raises(RuntimeError, match="No module named"):
        runner._run_sides({"mine": "_no_side:Side"}, request)


def test_sides_import_nothing_from_the_current_folder(tmp_path, monkeypatch):
    """rnnx's side imports numpy; the current folder may have a file of that name."""
    (tmp_path / "numpy.py").write_text("raise RuntimeError('mine')")
    monkeypatch.chdir(tmp_path)
    results = runner._run_sides({"mine": "rnnx_side:RnnxSide"}, make_request())
    assert len(results["mine"].losses) == SMALL["steps"]
    assert 0 < results["mine"].start_seconds < 60


def test_a_function_in_a_process_of_its_own(tmp_path):
    """Arguments and results may be anything that can be pickled, and functions may come from additional folders."""
    (tmp_path / "mine.py").write_text(
        "import os\n\ndef f(*a):\n    return os.getpid(), os.environ['OMP_NUM_THREADS'], a"
    )
    (pid, threads, arguments), seconds = process.call("mine:f", {"a": (1, None)}, "b", threads=3, folders=[tmp_path])
    assert pid != os.getpid()
    assert (threads, arguments) == ("3", ({"a": (1, None)}, "b"))
    assert seconds > 0
    (tmp_path / "mine.py").write_text("import os, signal\n\ndef f():\n    os.kill(os.getpid(), signal.SIGTERM)")
    with pytest.raises(RuntimeError, match=r"the process of mine:f\(\) (was killed by signal 15|exited with code 15)$"):
        process.call("mine:f", folders=[tmp_path])


def test_calls_in_turn():
    order = []
    results = process.in_turn({name: lambda name=name: order.append(name) or len(order) for name in "ab"}, rounds=2)
    assert order == [*"abab"]
    assert results == {"a": [1, 3], "b": [2, 4]}


def test_the_environment_of_a_process(monkeypatch, tmp_path):
    folder = str(Path(rnnx.__file__).resolve().parent.parent)
    monkeypatch.setattr(process.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", "a")
    assert process.environment()["PYTHONPATH"] == f"{folder}{os.pathsep}a"
    assert process.environment(folders=["b"])["PYTHONPATH"] == f"b{os.pathsep}{folder}{os.pathsep}a"
    monkeypatch.delenv("PYTHONPATH")
    for name in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        monkeypatch.delenv(f"{name}_NUM_THREADS", raising=False)
    assert process.environment()["PYTHONPATH"] == folder
    assert "MKL_NUM_THREADS" not in process.environment()
    environment = process.environment(3)
    for name in ("OMP_NUM", "OPENBLAS_NUM", "MKL_NUM", "NUMBA_NUM", "VECLIB_MAXIMUM"):
        assert environment[f"{name}_THREADS"] == "3"
    monkeypatch.setattr(process.sysconfig, "get_path", lambda name: folder)
    assert "PYTHONPATH" not in process.environment()


def test_numbers_of_numpy(monkeypatch):
    """They become Python numbers, which JSON can hold."""
    monkeypatch.setattr(runner, "_check_installed", lambda *_: None)
    monkeypatch.setattr(runner, "_run_sides", lambda *_: {})
    numbers = {"steps": np.int64(3), "batch_size": np.uint8(2), "learning_rate": np.float32(0.5)}
    report = compare.run("torch", TEXT, **{**SMALL, **numbers})
    assert (type(report.settings.steps), type(report.settings.learning_rate)) == (int, float)
    assert json.loads(json.dumps(asdict(report.settings)))["batch_size"] == 2


def test_a_loss_that_is_not_finite_is_an_error(monkeypatch):
    monkeypatch.setattr(runner, "_check_installed", lambda *_: None)
    monkeypatch.setattr(process, "call", lambda *_, **__: (result([4.0, float("nan")], [3.0]), 1.0))
    with pytest.raises(FloatingPointError, match="the loss of rnnx is nan at step 2; a smaller learning rate may"):
        compare.run("torch", TEXT, **{**SMALL, "steps": 2})


def test_the_figure(tmp_path):
    """The figure has the style of rnnx.plots, and its file is the same every time."""
    from rnnx.plots import style

    sides = {name: result([4.0, 2.0, 1.0], [3.0, 4.0], 1.0) for name in ("rnnx", "torch loop")}
    report = Report("torch", Settings(9, **{**SMALL, "steps": 3}), sides)
    figure = report.figure()
    assert isinstance(figure, style.Picture)
    assert [line.get_color() for line in figure.axes[0].lines] == list(style.COLORS[:2])
    first, second = (report.save(tmp_path / name)[-1].read_bytes() for name in "ab")
    assert first == second
    assert b"matplotlib" not in first.lower()


def test_what_is_read(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abcab", encoding="utf-8")
    indices, vocabulary = task.read(None, "", path)
    assert (indices.tolist(), vocabulary) == ([0, 1, 2, 0, 1], ["a", "b", "c"])
    assert len(set(task.read(None, "dinos", None)[0])) == 53
    with pytest.raises(ValueError, match="there is no dataset 'dino'; available: dinos, "):
        compare.run("torch", dataset="dino")


def test_the_batches():
    request = make_request()
    assert request.inputs.shape == (SMALL["steps"], SMALL["batch_size"], SMALL["seq_length"])
    assert np.array_equal(request.inputs[..., 1:], request.targets[..., :-1])
    again = make_request()
    assert np.array_equal(request.inputs, again.inputs)
    assert all(np.array_equal(a, again.parameters[key]) for key, a in request.parameters.items())


def result(losses, gradient, memory=None):
    return Result(np.array(losses), np.ones(len(losses)), {"dWy": np.array(gradient)}, 1.0, memory, memory, {})


@pytest.mark.parametrize(
    ("losses", "gradient", "agrees"),
    [
        ([4.0, 2.0, 1.0], [3.0, 4.0], True),
        ([4.0, 2.0, 1.5], [3.0, 4.0], True),  # a later drift is reported but does not count
        ([4.0, 2.0001, 1.0], [3.0, 4.0], False),
        ([4.0, 2.0, 1.0], [3.0, 4.001], False),
        ([4.0, float("nan"), 1.0], [3.0, 4.0], False),
        ([4.0, 2.0, 1.0], [float("nan"), 4.0], False),
    ],
)
def test_the_verdict(losses, gradient, agrees):
    sides = {"rnnx": result([4.0, 2.0, 1.0], [3.0, 4.0]), "torch loop": result(losses, gradient)}
    report = Report("torch", Settings(9, **{**SMALL, "steps": 3}), sides)
    assert report.agrees == agrees
    assert ("DO NOT AGREE" in report.text()) != agrees
    assert "unknown" in report.text()  # memory, on a system that does not report it


def test_a_model_that_is_not_the_same():
    """Only its first loss and its gradients count; the report says why, and shows its sample next to rnnx's."""
    own, other = result([4.0, 2.0, 0.0], [3.0, 4.0]), result([4.0, 1.0, 0.0], [3.0, 4.0])
    other = replace(other, checked_losses=1, note="is trained otherwise.", sample=np.array([1, 0, 2]))
    sides = {"rnnx": replace(own, sample=np.array([1, 2, 0])), "Keras subclass": other}
    report = Report("keras", Settings(9, **{**SMALL, "steps": 3}), sides, ["a", "b", "\n"])
    assert report.agrees
    assert report.loss_differences("Keras subclass").tolist() == [0, 0.5, 0]  # also where the loss is 0
    assert report.samples() == {"rnnx": "b\na", "Keras subclass": "ba\n"}
    assert "\nKeras subclass is trained otherwise.\n" in report.text()
    assert [line.split() for line in report.text().splitlines() if "'" in line][1:] == [
        ["rnnx", "'b\\na'"],
        ["Keras", "subclass", "'ba\\n'"],
    ]
    assert json.loads(json.dumps(report.as_dict()))["samples"] == report.samples()
    assert replace(report, vocabulary=None).samples()["rnnx"] == "1 2 0"
    assert replace(report, sides={"rnnx": sides["rnnx"], "torch loop": own}).samples() == {}
    assert not replace(report, sides={**sides, "rnnx": result([5.0, 2.0, 0.0], [3.0, 4.0])}).agrees
