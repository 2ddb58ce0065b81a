"""The object cache: code is found again, never stale, never loaded if damaged, never required."""

import errno
import inspect
import itertools
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from fractions import Fraction

import numpy as np
import pytest
from llvmlite import ir

from rnnx.cells import Cell, Gate, Stage, gaussian
from rnnx.cells.vocabulary import Ops
from rnnx.engines.cpu.codegen import pointwise
from rnnx.engines.cpu.codegen.ir import Function
from rnnx.engines.cpu.codegen.vector_math import make_ops
from rnnx.engines.cpu.codegen.vectors import Vector, greater
from rnnx.engines.cpu.descriptor import builder, stages
from rnnx.engines.cpu.runtime import object_cache, object_files


def emit(factor):
    """Emit the function scale(x, out): one number times a factor."""

    def write(module):
        f = Function(module, "scale", ("x", "out"), np.float64, public=True)
        product = f.build.fmul(f.load(f.arguments.x, f.real), f.real(float(factor)))
        f.build.store(product, f.pointer(f.arguments.out, f.real))
        f.end()

    return write


def call(factor):
    import ctypes

    x, out = np.array([3.0]), np.zeros(1)
    address = object_cache.functions(emit(factor))["scale"]
    ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(address)(x.ctypes.data, out.ctypes.data)
    return out[0]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and nothing loaded."""
    monkeypatch.setenv("RNNX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(object_cache, "_loaded", {})
    object_files.cache_directory.cache_clear()
    yield tmp_path / "cache"
    object_files.cache_directory.cache_clear()


@pytest.fixture
def compilations(monkeypatch):
    counted = []
    compile_ = object_cache._compile
    monkeypatch.setattr(object_cache, "_compile", lambda text: counted.append(text) or compile_(text))
    return counted


def forget():
    object_cache._loaded.clear()


def test_code_is_found_again(cache, compilations):
    assert call(2) == 6
    forget()
    assert call(2) == 6
    assert len(compilations) == 1
    assert call(5) == 15  # other text, other code
    assert len(compilations) == 2
    assert cache.stat().st_mode & 0o777 == 0o700
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("what", ["cut", "empty", "changed", "foreign"])
def test_a_damaged_file_is_not_loaded(cache, compilations, what):
    call(2)
    (file,) = cache.iterdir()
    data = file.read_bytes()
    damaged = {
        "cut": data[: len(data) // 2],
        "empty": b"",
        "changed": data[:-9] + b"x" + data[-8:],
        "foreign": b"ELF" * 99,
    }
    file.write_bytes(damaged[what])
    forget()
    assert call(2) == 6
    assert len(compilations) == 2
    assert file.read_bytes() == data  # repaired


def test_the_cache_key_covers_everything(monkeypatch):
    """Another text, another CPU, other features, another compiler: another key."""
    keys = [
        object_cache._key("text"),
        object_cache._key("other"),
        object_cache._key("text", ""),
        object_cache._key("tex", "t"),
    ]
    changes = [
        (object_cache.binding, "get_host_cpu_name", lambda: "other"),
        (object_cache.binding, "get_process_triple", lambda: "riscv64-unknown-linux-gnu"),
        (object_cache, "features", lambda: object_cache.binding.FeatureMap(other=True)),
        (object_cache.llvmlite, "__version__", "0.0"),
    ]
    for where, name, value in changes:
        with monkeypatch.context() as patch:
            patch.setattr(where, name, value)
            keys.append(object_cache._key("text"))
    assert len(set(keys)) == len(keys)
    assert object_cache._key("text") == keys[0]


def test_the_loops_depend_on_sources_and_on_numba(monkeypatch):
    assert "def forward(section, me, n, descriptor)" in object_cache.SOURCES
    keys = []
    monkeypatch.setattr(object_cache, "_load", lambda key, build: keys.append(key) or {"forward": 0, "backward": 0})
    object_cache.loops("loops.passes", "forward", "backward")
    monkeypatch.setattr(object_cache, "SOURCES", "changed")
    object_cache.loops("loops.passes", "forward")
    monkeypatch.setattr(object_cache.importlib.metadata, "version", lambda name: "0.0")
    object_cache.loops("loops.passes", "forward")
    monkeypatch.setattr(object_cache.platform, "python_version", lambda: "3.99")
    object_cache.loops("loops.passes", "forward")
    monkeypatch.setenv("NUMBA_OPT", "0")
    object_cache.loops("loops.passes", "forward")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")  # no other code
    object_cache.loops("loops.passes", "forward")
    assert len(set(keys)) == 6


@pytest.mark.parametrize(("build", "arguments"), [(builder.product, (1,)), (builder.copies, ())])
def test_nothing_is_emitted_for_cached_code(cache, monkeypatch, build, arguments):
    made = build.__wrapped__(np.dtype("float32"), *arguments)
    assert made
    forget()
    monkeypatch.setattr(object_cache.ir, "Module", None)
    assert build.__wrapped__(np.dtype("float32"), *arguments)


def test_code_of_the_engine_is_found_by_everything_that_its_text_depends_on(monkeypatch):
    keys = []
    monkeypatch.setattr(object_cache, "_load", lambda key, build: keys.append(key))
    calls = itertools.product(("codegen.gemm", "other"), ("emit_product", "f"), ("float32", "float64"), (1, 2, 12))
    for module, name, dtype, number in calls:
        object_cache.emitted_by(module, name, np.dtype(dtype), number)
    first = "codegen.gemm", "emit_product", np.dtype("float32")
    object_cache.emitted_by(*first)
    object_cache.emitted_by(*first, 1, 2)
    for name, value in (("SOURCES", "changed"), ("features", lambda: object_cache.binding.FeatureMap(other=True))):
        with monkeypatch.context() as patch:
            patch.setattr(object_cache, name, value)
            object_cache.emitted_by(*first, 1)
    assert len(set(keys)) == len(keys) == 28
    object_cache.emitted_by(*first, 1)
    assert keys[-1] == keys[0]


def of_one_gate(forward):
    """A cell with one gate and this function."""

    def backward(ops, ds, s_prev, s_next, saved):
        dz = ds[0] * saved[0]
        return (dz,), (dz,), (ops.zeros_like(dz),)

    return Cell("mine", ("a",), (Stage((Gate(("W",), "b"),), ("a",), ("z",), forward, backward),))


@pytest.fixture
def described(monkeypatch):
    """What the kernels of a cell depend on, and their IR."""
    monkeypatch.setattr(object_cache, "functions", lambda emit, *depends: (depends, *object_cache._emitted(emit)))

    def describe(cell, given=(True,)):
        return stages.kernels_of.__wrapped__(cell, np.dtype("float32"), given)[:2]

    return describe


def test_kernels_of_a_cell_are_found_by_all_that_its_functions_do(described):
    def of(change, result=lambda z: z, given=(True,)):
        def forward(ops, zx, zh, s):
            z = change(ops, zx[0] + zh[0], s[0])
            return (result(ops.tanh(z)),), (z,)

        return described(of_one_gate(forward), given)

    functions = [
        lambda ops, z, a: z, lambda ops, z, a: z * a, lambda ops, z, a: a * z, lambda ops, z, a: 0.5 * z,
        lambda ops, z, a: 0.25 * z, lambda ops, z, a: ops.relu(z), lambda ops, z, a: z - a,
        lambda ops, z, a: ops.where(ops.greater(z, a), z, a), lambda ops, z, a: ops.where(ops.greater(z, a), a, z),
        lambda ops, z, a: getattr(ops, "twice", lambda z: 2 * z)(z), lambda ops, z, a: getattr(ops, "twice", abs)(z),
    ]  # fmt: skip
    found = [*map(of, functions), of(functions[0], lambda z: -z), of(functions[0], given=(False,))]
    assert all(len(depends) == 4 for depends, _ in found)
    assert len({depends for depends, _ in found}) == len({text for _, text in found}) == len(found)
    assert of(lambda ops, z, a: z * np.float64(0.5)) == of(lambda ops, z, a: z * 0.5)


def test_kernels_of_a_cell_are_found_by_what_its_functions_do_now(described):
    """A number that they read may have changed since the first use, as in a notebook."""
    scale = 0.5

    def forward(ops, zx, zh, s):
        z = zx[0] + zh[0]
        return (scale * z,), (z,)

    cell = of_one_gate(forward)
    first = described(cell)
    scale = 0.25
    second = described(cell)
    assert first[0] != second[0]
    assert first[1] != second[1]


def test_functions_that_are_not_understood_are_emitted(described):
    """And those whose words are computed outside of the CPU engine."""

    def of(change):
        return described(of_one_gate(lambda ops, zx, zh, s: ((change(ops, zx[0] + zh[0]),), (zx[0],))))[0]

    assert of(lambda ops, z: ops.exp(z)) != ()
    unknown = lambda ops, z: z * Fraction(1, 2), lambda ops, z: z * ops.constant(0.5, like=z)
    for change in (*unknown, lambda ops, z: ops.gelu(z), lambda ops, z: ops.mean(z)):
        assert of(change) == ()
    with pytest.raises(TypeError, match="a cell cannot branch on a value"):
        of(lambda ops, z: z if z else -z)


def test_code_of_words_from_outside_is_known(monkeypatch):
    """All other words, if they use anything of `rnnx.cells`, only use what computes nothing."""
    for name, value in vars(gaussian).items():
        if inspect.isfunction(value):
            monkeypatch.setattr(gaussian, name, None)
    monkeypatch.setattr(gaussian, "SPLIT", {})
    f, failing = Function(ir.Module(), "f", ("x",), np.float32), set()
    x = Vector(f, f.constant(0.5))
    arguments = {"where": (greater(x, 0.0), x, x), **dict.fromkeys(("maximum", "minimum", "greater"), (x, x))}
    for word in Ops.__annotations__:
        try:
            getattr(make_ops(np.float32), word)(*arguments.get(word, (0.5, x) if word == "constant" else (x,)))
        except (TypeError, KeyError):
            failing.add(word)
    assert failing == pointwise._FROM_CELLS


@pytest.mark.parametrize("where", ["below a file", "none", "open to others"])
@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_no_directory_for_the_cache(where, tmp_path, monkeypatch, compilations):
    (tmp_path / "file").touch()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    place = {"below a file": str(tmp_path / "file" / "cache"), "none": "", "open to others": str(tmp_path / "open")}
    monkeypatch.setenv("RNNX_CACHE_DIR", place[where])
    monkeypatch.setattr(object_cache, "_loaded", {})
    object_files.cache_directory.cache_clear()
    warned = pytest.warns(RuntimeWarning, match="other users can write to .*open")
    try:
        with warned if where == "open to others" else nullcontext():
            assert object_files.cache_directory() is None
        assert call(2) == 6
        forget()
        assert call(2) == 6
        assert len(compilations) == 2
        assert list((tmp_path / "open").iterdir()) == []
    finally:
        object_files.cache_directory.cache_clear()


@pytest.mark.parametrize("sources", ["", "edited since"])
def test_code_of_changed_sources_is_not_kept(cache, sources, monkeypatch):
    """The sources change while the process runs, or there are none."""
    monkeypatch.setattr(object_cache, "_sources", lambda: sources)
    if not sources:
        monkeypatch.setattr(object_cache, "SOURCES", "")
    assert call(2) == 6
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("function", ["open", "replace"])
def test_a_full_disk(cache, function, monkeypatch):
    system = getattr(os, function)

    def full(path, *arguments, **options):
        if str(path).endswith(".part"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return system(path, *arguments, **options)

    monkeypatch.setattr(object_files.os, function, full)
    assert call(2) == 6
    assert list(cache.iterdir()) == []


def test_the_number_of_files_is_bounded(cache, monkeypatch):
    monkeypatch.setattr(object_files, "_MOST_FILES", 3)
    for factor in range(1, 6):
        call(factor)
        time.sleep(0.01)
    assert len(list(cache.iterdir())) == 3
    forget()
    monkeypatch.setattr(object_cache, "_compile", None)
    assert call(5) == 15  # the newest are kept


@pytest.mark.slow
def test_the_second_process_compiles_nothing(new_cache):
    """Nor does it import Numba, nor emit anything."""
    code = """
import sys, numpy as np, rnnx
from rnnx.engines.cpu.codegen import ir
names, end = [], ir.Function.end
ir.Function.end = lambda f, *made: names.append(f.ir.name) or end(f, *made)
p = rnnx.initialize_parameters("lstm", 3, 5, seed=0)
a, *_, caches = rnnx.lstm_forward(np.ones((3, 2, 4), "float32"), None, p)
rnnx.lstm_backward(np.ones_like(a), caches)
print(caches.engine, "numba" in sys.modules, float(a.sum()), *sorted(names))
"""
    environment = {**os.environ, "RNNX_CACHE_DIR": str(new_cache)}

    def run():
        result = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        return result.stdout.split()

    first, second = run(), run()
    assert first[:2] == ["cpu", "True"]
    assert second[:2] == ["cpu", "False"]
    assert first[2] == second[2]
    assert {"copy", "transpose", "forward_0", "backward_0_tail"} <= {*first}
    assert second[3:] == []
