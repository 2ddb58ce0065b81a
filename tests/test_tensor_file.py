"""Checkpoints are written one tensor at a time, as safetensors writes them."""

import os
import subprocess
import sys

import numpy as np
import pytest
from lab import ok
from safetensors.numpy import load, load_file, save

from rnnx._core.files import write_pieces
from rnnx.models import CharModel
from rnnx.training import Checkpoint, load_checkpoint, save_checkpoint, tensor_file

DTYPES = ["bool", *(f"{kind}{8 * size}" for kind in ("int", "uint") for size in (1, 2, 4, 8)), "float32", "float64"]
NAMES = ["a", "B", "optimizer/v/W", 'quo"te\\', "tab\t\n\x01\x7f", "Überschrift", "\U0001d518", "\ufb00", "", " "]


def arrays(rng):
    """Every dtype in several shapes, under awkward names."""
    shapes = [(), (1,), (0, 3), (3, 5), (2, 3, 4)]
    made = {
        f"{name}{dtype}{len(shape)}": np.array(rng.standard_normal(shape) * 50).astype(dtype)
        for name, dtype, shape in zip(NAMES * 12, DTYPES * 10, shapes * 22, strict=False)
    }
    return {name: made[name] for name in map(str, rng.permutation([*made]))}


@pytest.mark.parametrize("metadata", [{}, {"rnnx": '{"a": [1, "\\u00e9\\"\\n"], "é": "\x02/"}'}])
def test_the_bytes_of_safetensors(rng, tmp_path, metadata):
    tensors = arrays(rng)
    assert {str(a.dtype) for a in tensors.values()} == {*DTYPES}
    data = b"".join(tensor_file.pieces(tensors, metadata))
    assert data == save(tensors, metadata or None)
    write_pieces(tmp_path / "file", tensor_file.pieces(tensors, metadata))
    assert (tmp_path / "file").read_bytes() == data
    for name, a in load_file(tmp_path / "file").items():
        assert (a.dtype, a.shape, a.tobytes()) == (tensors[name].dtype, tensors[name].shape, tensors[name].tobytes())


def test_any_order_in_memory(rng):
    a = rng.standard_normal((4, 6))
    views = {"f": np.asfortranarray(a), "step": a[::2, ::3], "back": a[::-1], "wide": np.broadcast_to(a[:, :1], (4, 6))}
    views["swapped"] = a.astype(">f8")
    found = load(b"".join(tensor_file.pieces(views, {})))
    assert all(np.array_equal(found[name], view) for name, view in views.items())


def test_only_what_must_be_is_copied(rng):
    tensors = {"a": rng.standard_normal((4, 6)), "f": np.asfortranarray(rng.standard_normal((4, 6)))}
    _, first, second = tensor_file.pieces(tensors, {})
    assert np.shares_memory(first, tensors["a"])
    assert not np.shares_memory(second, tensors["f"])


def test_what_has_no_place_in_a_file(tmp_path):
    model = CharModel(4, 3, seed=0)
    for name in ("__metadata__", "lone \ud800", "model/x", 3):
        with pytest.raises(ValueError, match="a name in `arrays` must be a string"):
            save_checkpoint(tmp_path / "m", Checkpoint(model, arrays={name: np.zeros(3)}))
    save_checkpoint(tmp_path / "m", Checkpoint(model))
    before = (tmp_path / "m").read_bytes()
    with pytest.raises(ValueError, match="the description of the tensors must have at most 100000000 bytes; got"):
        save_checkpoint(tmp_path / "m", Checkpoint(model, training={"text": "x" * 10**8}))
    assert (tmp_path / "m").read_bytes() == before
    assert [*tmp_path.iterdir()] == [tmp_path / "m"]


def test_types_of_others(tmp_path):
    save_checkpoint(tmp_path / "m", Checkpoint(CharModel(4, 3, seed=0), arrays={"x": np.zeros(3, np.uint16)}))
    (tmp_path / "m").write_bytes((tmp_path / "m").read_bytes().replace(b'"U16"', b'"F16"'))
    with pytest.raises(ValueError, match=r"m holds 'x' of type F16; expected one of \['BOOL', "):
        load_checkpoint(tmp_path / "m")


def test_arrays_come_back_as_they_were(tmp_path):
    given = {"zero": np.array(3.0), "swapped": np.arange(3, dtype=">i4"), "turned": np.ones((2, 3), order="F")}
    save_checkpoint(tmp_path / "m", Checkpoint(CharModel(4, 3, seed=0), arrays=given))
    for name, a in load_checkpoint(tmp_path / "m").arrays.items():
        assert a.shape == given[name].shape
        assert np.array_equal(a, given[name])


def test_only_reading_needs_safetensors(tmp_path, monkeypatch):
    model = CharModel(4, 3, seed=0)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "safetensors", None)
        save_checkpoint(tmp_path / "m", Checkpoint(model))
        with pytest.raises(ImportError, match="reading a checkpoint needs safetensors: pip install "):
            load_checkpoint(tmp_path / "m")
    assert load_checkpoint(tmp_path / "m").model.parameters.keys() == model.parameters.keys()


def test_training_without_safetensors():
    """In a browser, and where only rnnx is installed."""
    code = "import sys; sys.modules['safetensors'] = None; import rnnx.training, rnnx.models"
    subprocess.run([sys.executable, "-c", code], check=True)


LIMITED = """
import resource, sys
import numpy as np
from rnnx.models import CharModel
from rnnx.training import Checkpoint, load_checkpoint, save_checkpoint

MIB = 1 << 20
arrays = {f"{i}": np.ones((2048, 1024)) for i in range(12)}  # of 16 MiB
checkpoint = Checkpoint(CharModel(4, 3, seed=0), arrays=arrays)
save_checkpoint("warm-up", Checkpoint(CharModel(4, 3, seed=0)))
load_checkpoint("warm-up")
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 40 * MIB, resource.RLIM_INFINITY))
save_checkpoint("model", checkpoint)
resource.setrlimit(resource.RLIMIT_AS, (now + 4 * MIB, resource.RLIM_INFINITY))
arrays["0"] = np.broadcast_to(np.ones(1), (1 << 30,))
for step in (lambda: save_checkpoint("model", checkpoint), lambda: load_checkpoint("model")):
    try:
        step()
    except MemoryError:
        print("out of memory")
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="limits its memory")
@pytest.mark.slow
def test_memory_for_one_tensor_is_enough(tmp_path):
    """What does not fit is a MemoryError, and leaves the old file."""
    result = subprocess.run([sys.executable, "-c", LIMITED], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, 2 * "out of memory\n"), result.stderr
    assert result.stderr == ""
    assert {*os.listdir(tmp_path)} == {"warm-up", "model"}
    assert len(load_checkpoint(tmp_path / "model").arrays) == 12


def test_out_of_memory_while_saving_is_one_line(run, tmp_path, monkeypatch):
    options = ("--text", "names.txt", "--hidden-size", 8, "--output", "run", "--epochs", 1)
    ok(run("train", *options))
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    written = []

    def fail(array, stored=tensor_file.stored):
        written.append(array)
        if len(written) % 40 == 39:  # in the middle of a file
            raise MemoryError
        return stored(array)

    monkeypatch.setattr(tensor_file, "stored", fail)
    code, _, err = run("train", "--resume", "run", "--epochs", 3)
    assert (code, err) == (1, "Error: too large for this machine: out of memory\n")
    monkeypatch.undo()
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
    assert {*os.listdir(tmp_path / "run")} == {"best.safetensors", "metrics.csv", "metrics.jsonl", "model.safetensors"}
