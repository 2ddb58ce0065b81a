"""Fixtures: runtimes (library x engine), engines and cells. Settings of hypothesis."""

import contextlib
import os
import re
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before NumPy and torch are imported. `-n` uses all cores, so that threads of BLAS and OpenMP that wait for each other,
# and compute nothing meanwhile, would take them from other tests.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pytest
from hypothesis import settings
from selection import pytest_addoption, pytest_collection_modifyitems, pytest_configure  # noqa: F401

# A shell ignores SIGINT for commands in the background, and so would the processes that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The object cache of the tests and the processes that they start, kept from one run to the next.
os.environ.setdefault("RNNX_AUTOTUNE", "0")  # what it chooses changes no result
os.environ.setdefault("RNNX_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "rnnx"))

# Before JAX is imported. Compiling takes most of the time of its tests.
os.environ.setdefault("JAX_ENABLE_X64", "true")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
# What JAX compiles is kept, too, however small it is.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(os.environ["RNNX_CACHE_DIR"]) / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

sys.path.insert(0, str(Path(__file__).parent / "emulation"))

from session_locks import share_object_cache

import rnnx
from rnnx import engines
from rnnx.cells import BUILT_IN
from rnnx.engines.cpu.runtime import thread_policy

share_object_cache()
# This limit is not for the compiled engine, which uses no more threads than BLAS where threadpoolctl is imported.
BLAS_CONTROLLERS, thread_policy._blas_controllers = thread_policy._blas_controllers, list
# The GPU engine with its kernels compiled for the CPU is one more engine for NumPy arrays.
engines.register_engine("emulated", "emulated_engine:ENGINE", ("numpy",), default=False)
NO_COMPILER = "no C++ compiler (g++) for the emulation of CUDA"

settings.register_profile("rnnx", deadline=None, max_examples=25, derandomize=True)  # first calls compile
settings.load_profile("rnnx")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Each worker of `-n` begins with tests that follow each other, and so share fixtures, cases and loaded code."""
    if config.option.dist != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@dataclass(frozen=True)
class Runtime:
    """An array library and an engine."""

    xp: Any
    engine: str
    readonly: bool = False

    def asarray(self, a):
        """Convert a NumPy array to this library."""
        out = self.xp.asarray(np.array(a))
        if self.readonly:
            out.flags.writeable = False
        return out

    def use(self):
        return rnnx.use_engine(self.engine)


def to_numpy(a):
    """Convert an array of any library to NumPy; the package itself never does this silently."""
    if isinstance(a, np.ndarray):  # NumPy 2.0 cannot export read-only arrays
        return a
    return a.get() if hasattr(a, "get") else np.from_dlpack(a)


def make_runtime(name: str) -> Runtime:
    library, engine = name.rsplit("-", 1)
    if engine == "emulated" and not shutil.which("g++"):
        pytest.skip(NO_COMPILER)
    if library in ("numpy", "readonly"):
        return Runtime(np, engine, readonly=library == "readonly")
    if library == "strict":
        return Runtime(pytest.importorskip("array_api_strict"), engine)
    if library == "torch":
        return Runtime(pytest.importorskip("torch"), engine)
    if library == "jax":
        return Runtime(pytest.importorskip("jax").numpy, engine)
    cupy = pytest.importorskip("cupy", reason="no CuPy")
    if not cupy.is_available():
        pytest.skip("no GPU")
    return Runtime(cupy, engine)


def engines_for(library: str) -> list[str]:
    """Every engine of the table for a library, also if it cannot run here."""
    able = engines.registry.able(library)
    return [name for name in rnnx.engine_names() if name in able]


RUNTIMES = [f"{kind}-{name}" for kind in ("numpy", "readonly") for name in engines_for("numpy")]
RUNTIMES += ["strict-reference", "torch-reference", pytest.param("jax-reference", marks=pytest.mark.slow)]
RUNTIMES += [pytest.param(f"cupy-{name}", marks=pytest.mark.gpu) for name in engines_for("cupy")]
if "RNNX_TEST_RUNTIMES" in os.environ:
    RUNTIMES = os.environ["RNNX_TEST_RUNTIMES"].split(",")


@pytest.fixture(params=RUNTIMES)
def runtime(request):
    return make_runtime(request.param)


# Thread policies of the compiled engine: see rnnx.engines.cpu.runtime.thread_policy.
PATHS = {
    "alone": lambda work: (1, False),
    "batch_parallel": lambda work: (min(3, work.m), False),
    "unit_parallel": lambda work: (min(3, work.shares), True),
}


def with_policies(name: str) -> list[str]:
    return [f"cpu-{path}" for path in PATHS] if name == "cpu" else [name]


@pytest.fixture(params=[one for name in engines_for("numpy") for one in with_policies(name)])
def engine(request):
    """The engines by name, on NumPy arrays; the compiled one with every thread policy."""
    name, _, path = request.param.partition("-")
    if name == "emulated" and not shutil.which("g++"):
        pytest.skip(NO_COMPILER)
    policy = contextlib.nullcontext()
    if path:
        from rnnx.engines.cpu.runtime.thread_policy import use_policy

        policy = use_policy(PATHS[path])
    with rnnx.use_engine(name), policy:
        yield name


@pytest.fixture
def restored_engines():
    """Afterwards, unregister the engines that the test has registered."""
    before = rnnx.engine_names()
    yield
    for name in set(rnnx.engine_names()) - set(before):
        rnnx.unregister_engine(name)


@pytest.fixture(params=list(BUILT_IN))
def cell(request):
    return rnnx.CELLS[request.param]


@pytest.fixture
def rng():
    return np.random.default_rng(20261120)


# Of x86. Processors with AVX2 have nothing whose name begins with avx512; a baseline has nothing beyond these.
BASELINE = {"64bit", "cmov", "cx8", "fxsr", "mmx", "sse", "sse2", "x87"}
PROCESSORS = {
    "this": lambda name: True,
    "AVX2": lambda name: not name.startswith(("avx512", "avx10", "amx")),
    "baseline": BASELINE.__contains__,
}


@pytest.fixture(params=PROCESSORS)
def processor(request, monkeypatch):
    """Compile for other processors, too, as far as this one can run their code."""
    from llvmlite import binding

    from rnnx.engines.cpu import kernels
    from rnnx.engines.cpu.codegen import ir, masks
    from rnnx.engines.cpu.runtime import object_cache

    own = ir.features()
    if request.param != "this" and not own.get("sse2"):
        pytest.skip("no processor of x86")
    features = binding.FeatureMap({name: has and PROCESSORS[request.param](name) for name, has in own.items()})
    for module in (ir, masks, object_cache):
        monkeypatch.setattr(module, "features", lambda: features)
    monkeypatch.setattr(ir, "machine", ir.machine.__wrapped__)
    monkeypatch.setattr(kernels, "mask", kernels.mask.__wrapped__)


@pytest.fixture
def new_cache(tmp_path):
    """A folder for an object cache with nothing but what Numba compiles, which takes half a minute."""
    from rnnx.engines.cpu.runtime import object_cache, thread_pool

    object_cache.loops("loops.passes", "forward", "backward")
    thread_pool.pool()
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    for path in Path(os.environ["RNNX_CACHE_DIR"]).glob("*.o"):
        if re.search(rb"5loops|7workers(?!9shut_down)", path.read_bytes()[:300]):
            shutil.copy(path, folder)
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command `rnnx` in a folder of its own and return (exit code, stdout, stderr)."""
    from lab import NAMES, PROSE

    from rnnx.__main__ import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text(NAMES)
    (tmp_path / "prose.txt").write_text(PROSE)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["rnnx", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out, captured.err

    return call
