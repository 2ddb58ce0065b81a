"""If a GPU cannot be used, one line says why and what to install."""

import re
import sys
from types import SimpleNamespace

import pytest

from rnnx._core import devices


class Broken(RuntimeError):
    """An error like CuPy's: one informative line, then a page of advice."""

    def __init__(self):
        super().__init__("libnvrtc.so.13: cannot open shared object file\n\n=====\nadvice\n=====")


def fail(*_, **__):
    raise Broken


def fake_cupy(**changes):
    """The part of CuPy that `devices` uses, with two GPUs."""
    properties = {"name": b"NVIDIA H200", "major": 9, "minor": 0, "totalGlobalMem": 140 * 2**30}
    runtime = {
        "getDeviceCount": lambda: 2,
        "getDeviceProperties": lambda number: properties,
        "driverGetVersion": lambda: 13010,
        "runtimeGetVersion": lambda: 12090,
    }

    class Ones:
        def __matmul__(self, other):
            return SimpleNamespace(sum=lambda: 8.0)

    ones = changes.pop("ones", lambda *_, **__: Ones())
    return SimpleNamespace(ones=ones, cuda=SimpleNamespace(runtime=SimpleNamespace(**{**runtime, **changes})))


@pytest.fixture
def with_cupy(monkeypatch):
    def install(module):
        monkeypatch.setitem(sys.modules, "cupy", module)
        devices._cupy.cache_clear()

    yield install
    devices._cupy.cache_clear()


MISSING = "libnvrtc.so.13: cannot open shared object file"


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (None, "CuPy is not installed: " + re.escape(devices.install_cuda())),
        (fake_cupy(getDeviceCount=lambda: 0), "no GPU was found"),
        (fake_cupy(getDeviceCount=fail), rf"install or update the NVIDIA driver \(Broken: {MISSING}\)"),
        (fake_cupy(ones=fail), rf"pip install 'cupy-cuda12x\[ctk\]' \(Broken: {MISSING}\)"),
    ],
)
def test_no_gpu(with_cupy, module, message):
    with_cupy(module)
    with pytest.raises(ValueError, match=f"^`device` 'cuda': .*{message}$"):
        devices.by_device("cuda")
    ((name, line),) = devices.cuda_lines()
    assert name == "cuda"
    assert "\n" not in line


@pytest.mark.parametrize("error", ["OSError('libcuda.so.1')", "ImportError('libcuda.so.1')", "import libcuda_so_1"])
def test_a_cupy_that_cannot_be_imported(with_cupy, monkeypatch, tmp_path, error):
    (tmp_path / "cupy.py").write_text(error if error.startswith("import") else f"raise {error}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    devices._cupy.cache_clear()
    with pytest.raises(ValueError, match=r"^`device` 'cuda': CuPy cannot be imported: \w+: .*libcuda.so.1"):
        devices.by_device("cuda")


def test_gpus(with_cupy):
    module = fake_cupy()
    with_cupy(module)
    assert devices.by_device("cuda") is module
    assert devices.cuda_lines() == [
        ("cuda:0", "NVIDIA H200, compute capability 9.0, 140 GiB"),
        ("cuda:1", "NVIDIA H200, compute capability 9.0, 140 GiB"),
        ("cuda", "driver for CUDA 13.1, runtime CUDA 12.9"),
    ]


def test_a_gpu_that_does_not_answer(with_cupy):
    with_cupy(fake_cupy(getDeviceProperties=fail))
    assert devices.cuda_lines()[0] == ("cuda:0", f"Broken: {MISSING}")


def test_names():
    assert devices.by_device("cpu") is None
    with pytest.raises(ValueError, match=r"`device` must be one of \['cpu', 'cuda'\]; got 'gpu'"):
        devices.by_device("gpu")
