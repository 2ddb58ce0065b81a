"""CUDA without a GPU: every kernel compiles, CuPy arrays are recognized, cuBLAS gets the right arguments.

CuPy is installed without a driver. Its arrays are made around addresses that are never read.
"""

import contextlib
import hashlib
import itertools
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import fake_cupy
import ml_dtypes
import numpy as np
import pytest
from cells_by_hand import MGU, ONE_SIDED
from fake_cupy import FakeBlas, FakeCupy, FakeStream
from mean_cells import MEANS
from session_locks import alone
from wide_cells import THREE_WIDTHS
from words import ALL_WORDS

import rnnx
import rnnx.functional.losses
import rnnx.optim
from rnnx._core import arrays as ns
from rnnx.cells import BUILT_IN
from rnnx.engines.gpu import codegen, geometry, operation_kernels, operations, persistent, sending
from rnnx.engines.gpu.cublas import Blas
from rnnx.engines.gpu.device import Matrix, Processor, Stack
from rnnx.engines.gpu.kernel import kernel_names, read
from rnnx.engines.gpu.kernel import options as compiler_options
from rnnx.engines.gpu.pass_key import PassKey
from rnnx.functional import signatures
from rnnx.functional.signatures import checked_call

CHIPS = ["sm_80", "sm_90", "sm_100"]
DTYPES = [np.dtype(d) for d in ("float32", "float64", "float16", ml_dtypes.bfloat16)]
CELLS = [*BUILT_IN.values(), MGU]


# --- the compiler -------------------------------------------------------------------------------------------------


def compile_cuda(source, chip, options):
    """Compile with NVRTC, which needs no GPU, and the options that CuPy uses; return the log.

    Logs of sources that compiled are kept from one run to the next, like the machine code of the CPU engine.
    """
    pytest.importorskip("cupy", reason="no CuPy")
    from cupy.cuda import nvrtc

    options = [f"-arch={chip}", "-ftz=true", "--ptxas-options=-v", *options]
    try:
        program = nvrtc.createProgram(source, "kernels.cu", [], [])
        key = repr((nvrtc.getVersion(), nvrtc.__file__, source, options))
    except Exception as error:
        pytest.skip(f"no NVRTC: {error}")
    kept = Path(os.environ["RNNX_CACHE_DIR"]) / f"nvrtc-{hashlib.sha256(key.encode()).hexdigest()[:24]}.log"
    if kept.exists():
        return kept.read_text()
    try:
        nvrtc.compileProgram(program, options)
        assert nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    log = nvrtc.getProgramLog(program)
    with alone(kept.name):
        kept.write_text(log)
    return log


def assert_no_spills(log, names):
    for name in names:
        assert f"Compiling entry function '{name}'" in log
    for amount, what in re.findall(r"(\d+) bytes (stack frame|spill stores|spill loads)", log):
        assert amount == "0", f"{amount} bytes {what}"


def every_kernel():
    """The kernels of the LSTM for each dtype and chip, and those of other cells on some chip.

    The 16-bit types differ in loads and stores, which are the same for all cells: each of these has one of them.
    """
    for i, cell in enumerate([*CELLS, *ONE_SIDED, *MEANS, THREE_WIDTHS]):
        for j, dtype in enumerate(DTYPES if cell.name == "lstm" else [*DTYPES[:2], DTYPES[2 + i % 2]]):
            for chip in CHIPS if cell.name == "lstm" else [CHIPS[(i + j) % len(CHIPS)]]:
                yield pytest.param(cell, dtype, chip, id=f"{cell.name}-{dtype}-{chip}")


@pytest.mark.parametrize(("cell", "dtype", "chip"), [*every_kernel()])
def test_every_kernel_compiles_without_spills(cell, dtype, chip):
    common, own = codegen.sources(cell)
    for source in (own, common) if cell.name == "lstm" else (own,):
        log = compile_cuda(source, chip, compiler_options(dtype))
        assert_no_spills(log, kernel_names(source))


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_operations_of_a_training_step_compile_without_spills(dtype, chip):
    adam = rnnx.optim.Adam()
    kinds = tuple((name, "float32" if name == "rate" else "") for name in adam.numbers(0.1, 1))
    table = [operation_kernels.elementwise_kernel(adam.rule, kinds, 4), operation_kernels.squares_kernel()]
    table += [operation_kernels.elementwise_kernel(operations._same, (), 1)]
    losses = (rnnx.functional.losses.CROSS_ENTROPY, rnnx.functional.losses.SQUARED_ERROR)
    sources = [(one.source, ("-fmad=false",)) for one in table] + [(operation_kernels.finish_kernels()[0], ())]
    sources += [(operation_kernels.loss_kernel(loss, weighted)[1], ()) for loss in losses for weighted in (False, True)]
    for source, more in sources:
        log = compile_cuda(source, chip, (*compiler_options(dtype), *more))
        assert_no_spills(log, kernel_names(source))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_kernel_of_masks_compiles(dtype):
    source = read("prelude.cuh") + read("masks.cu")
    assert_no_spills(compile_cuda(source, CHIPS[0], compiler_options(dtype)), kernel_names(source))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_word_of_the_vocabulary_compiles(dtype):
    """CUDA's sine of float64 has a stack frame."""
    log = compile_cuda(codegen.sources(ALL_WORDS)[1], CHIPS[0], compiler_options(dtype))
    assert set(re.findall(r"(\d+) bytes spill", log)) == {"0"}


# The widest layers, with the most weights in a thread. bfloat16 differs from float16 by one instruction.
WIDEST = [(cell, kind, 256) for cell in CELLS for kind in ("float32", "tf32", "float16")]
WIDEST += [(rnnx.CELLS["lstm"], *wide) for wide in (("float16", 512), ("bfloat16", 256), ("float64", 128))]
WIDEST += [(rnnx.CELLS[name], *wide) for name, *wide in (("lstm", "float16", 1024), ("gru", "tf32", 512))]  # grids


# Older GPUs have no clusters. Those of the LSTM for both chips, the others for each in turn.
WIDEST = [
    (*wide, chip)
    for i, wide in enumerate(WIDEST)
    for chip in (CHIPS[1:] if wide[0].name == "lstm" else [CHIPS[1 + i % 2]])
]


@pytest.mark.parametrize(("cell", "kind", "n", "chip"), WIDEST, ids=lambda value: getattr(value, "name", str(value)))
@pytest.mark.slow
def test_persistent_kernels_compile_without_spills(cell, kind, n, chip):
    dtype = {"tf32": DTYPES[0], "bfloat16": DTYPES[3]}.get(kind) or np.dtype(kind)
    key = PassKey(cell, dtype, 50, 64 if n > 256 else 8, n, 64, False, False, (), True)
    precision = "tf32" if kind == "tf32" else "ieee"
    processor = Processor(int(chip[3:]), 132, 232448, persistent=True)
    for backward, kernel_of in enumerate((persistent.forward_kernel, persistent.backward_kernel)):
        chosen = geometry.choose(key, precision, processor, backward=bool(backward))
        assert chosen or (backward and n == 1024)
        if chosen:
            kernel = kernel_of(cell, chosen)
            log = compile_cuda(persistent.source(chosen, kernel), chip, compiler_options(dtype))
            assert_no_spills(log, [kernel.name])


@pytest.mark.parametrize("chip", CHIPS)
def test_numbers_are_sent_as_arguments(chip):
    """The kernels read them in place, and all fit the 4096 bytes of arguments."""
    log = compile_cuda(sending.source(), chip, ("-std=c++17",))
    assert_no_spills(log, [sending.kernel(size) for size in sending.SIZES])
    assert 8 * max(sending.SIZES) + 16 <= 4096


def test_a_compile_error_is_reported():
    with pytest.raises(pytest.fail.Exception, match="nowhere"):
        compile_cuda('extern "C" __global__ void wrong() { nowhere(); }', "sm_90", ())


def test_kernel_names():
    common, own = codegen.sources(rnnx.CELLS["gru"])
    assert kernel_names(own) == ["forward_0", "backward_0", "forward_1", "backward_1"]
    assert {"copy", "scatter_add"} <= set(kernel_names(common))


# --- CuPy arrays without a GPU ------------------------------------------------------------------------------------


def fake(shape, dtype="float32", *, order="C", device=0):
    """A CuPy array without memory."""
    cupy = pytest.importorskip("cupy", reason="no CuPy")
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(0x1000, max(size, 1), None, device), 0)
    return cupy.ndarray(shape, dtype, memory, order=order)


def parameters(n_x=3, n_a=4, **options):
    shapes = rnnx.initialize_parameters("lstm", n_x, n_a, seed=0)
    return {key: fake(value.shape, **options) for key, value in shapes.items()}


def test_cupy_arrays_run_on_the_gpu_engine():
    x = fake((3, 2, 5))
    assert rnnx.engine_for(x, *parameters().values()) == "gpu"
    with rnnx.use_engine("reference"):
        assert rnnx.engine_for(x) == "reference"
    with (
        rnnx.use_engine("cpu"),
        pytest.raises(ValueError, match=r"engine 'cpu' does not support cupy arrays; use one of \['gpu'"),
    ):
        rnnx.engine_for(x)
    with rnnx.use_engine("gpu"), pytest.raises(ValueError, match="engine 'gpu' does not support numpy arrays"):
        rnnx.engine_for(np.zeros(3))


def call(change, dtype="float32"):
    arguments = {"x": fake((3, 2, 5), dtype), "a0": fake((4, 2), dtype), **parameters(dtype=dtype), **change}
    x, a0 = arguments.pop("x"), arguments.pop("a0")
    return rnnx.lstm_forward(x, a0, arguments)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.zeros((3, 2, 5), np.float32)}, TypeError, "`x` and `a0` must come from the same array library"),
        ({"Wi": np.zeros((4, 7), np.float32)}, TypeError, "the same array library; got cupy and numpy"),
        ({"x": lambda: fake((3, 2))}, ValueError, r"`x` must have shape \(n_x, m, T_x\)"),
        ({"bo": lambda: fake((4, 1), device=1)}, ValueError, "`x` and `bo` must be on the same device; got .*0.*1"),
        (
            {"Wf": lambda: fake((4, 6))},
            ValueError,
            r"`Wf` must have shape \(n_a, n_a \+ n_x\) = \(4, 7\); got \(4, 6\)",
        ),
        ({"Wf": lambda: fake((4, 7), "int32")}, TypeError, "`Wf` must have dtype float16, bfloat16, float32 or"),
        ({"x": lambda: fake((3, 2, 5), "complex64")}, TypeError, "`x` must have dtype .*, integer or bool"),
        (
            {"Wf": lambda: fake((4, 7), ml_dtypes.bfloat16), "bf": lambda: fake((4, 1), "float16")},
            TypeError,
            "float16 and bfloat16 arrays cannot be mixed",
        ),
    ],
)
def test_messages(change, error, message):
    change = {key: value() if callable(value) else value for key, value in change.items()}
    fake((1,))
    with pytest.raises(error, match=message):
        call(change)


def test_a_repeated_call_is_not_checked_again(monkeypatch):
    """Neither shapes and dtypes nor, array by array, the library and the device."""
    x, states = fake((3, 2, 5)), {"a0": fake((4, 2)), "c0": fake((4, 2))}
    weights = parameters()
    checked = [checked_call(rnnx.CELLS["lstm"], x, states, weights)]
    monkeypatch.setattr(ns.compat, "array_namespace", None)
    monkeypatch.setattr(signatures, "Signature", None)
    checked.append(checked_call(rnnx.CELLS["lstm"], x, states, weights))
    assert checked[0][:4] == checked[1][:4]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_valid_call_reaches_the_device(dtype):
    """All checks pass, in every dtype; only the driver is missing."""
    cupy = pytest.importorskip("cupy", reason="no CuPy")
    if cupy.is_available():
        pytest.skip("there is a GPU, and the arrays have no memory")
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError):
        call({}, dtype)


@pytest.mark.parametrize("order", ["C", "F"])
def test_addresses_and_strides(order):
    pytest.importorskip("cupy", reason="no CuPy")
    from rnnx.engines.gpu.cupy_device import CupyStream

    stream = CupyStream.__new__(CupyStream)
    whole = fake((6, 4, 10), "float64", order=order)
    part = whole[1:, :, ::2]
    strides = (40, 10, 1) if order == "C" else (1, 6, 24)
    assert stream.strides(whole) == strides
    assert stream.strides(part) == (strides[0], strides[1], 2 * strides[2])
    assert stream.address(part) == 0x1000 + 8 * strides[0]
    assert stream.strides(whole.T) == strides[::-1]


def test_reference_counts():
    """Every view counts as a reference, which shows whether the memory of a captured pass is free."""
    pytest.importorskip("cupy", reason="no CuPy")
    from rnnx.engines.gpu.cupy_device import CupyStream

    stream = CupyStream.__new__(CupyStream)
    memory = fake((8, 8)).data
    alone = stream.references(memory)
    array = stream.array(memory, 64, (4, 4), np.dtype("float32"))
    assert array.data.ptr == memory.ptr + 64
    view = array[1:].T
    assert stream.references(memory) == alone + 2
    del array
    assert stream.references(memory) > alone
    del view
    assert stream.references(memory) == alone


def test_precision(monkeypatch):
    pytest.importorskip("cupy", reason="no CuPy")
    from rnnx.engines.gpu import cupy_device

    precision, library = cupy_device._precision, cupy_device._linalg
    assert precision() == "ieee"
    monkeypatch.setattr(library, "get_compute_type", lambda dtype: library.COMPUTE_TYPE_TF32)
    assert precision() == "tf32"
    with rnnx.use_precision("ieee"):
        assert precision() == "ieee"
    monkeypatch.undo()
    with rnnx.use_precision("tf32"):
        assert precision() == "tf32"
    assert precision() == "ieee"
    for name, expected in (("float32", "ieee"), ("float16", "ieee")):
        with rnnx.use_precision(name):
            assert precision() == expected
    message = r"`name` must be one of \['bf.*', 'ieee', 'tf32'\]; got 'b'"
    with pytest.raises(ValueError, match=message), rnnx.use_precision("b"):
        pass


def test_numpy_never_imports_cupy():
    code = """
import sys, numpy as np, rnnx
rnnx.engines.load("cpu")
p = rnnx.initialize_parameters("lstm", 2, 3, seed=0)
with rnnx.use_engine("reference"):
    _, _, _, caches = rnnx.lstm_forward(np.ones((2, 1, 4)), None, p)
    rnnx.lstm_backward(np.ones((3, 1, 4)), caches)
print(rnnx.engine_names(), "cupy" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "('reference', 'cpu', 'gpu') False\n"


def test_the_gpu_engine_needs_cupy(monkeypatch):
    from rnnx import engines

    monkeypatch.setattr(engines.registry, "_found", lambda package: package != "cupy")
    with pytest.raises(
        ValueError,
        match=r"engine 'gpu' requires cupy, which is disabled or not installed \(pip install .*cupy-cuda13x",
    ):
        rnnx.use_engine("gpu").__enter__()


# --- cuBLAS -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ta", "tb", "beta"), [*itertools.product([False, True], [False, True], [0, 1])])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gemm_passes_operands_in_the_right_order(ta, tb, beta, dtype, rng):
    blas = Blas(FakeBlas())
    rows, columns, inner = 3, 4, 5
    wide = [rng.standard_normal(shape).astype(dtype) for shape in ((9, 9), (9, 9), (9, 9))]
    shapes = [(inner, rows) if ta else (rows, inner), (columns, inner) if tb else (inner, columns), (rows, columns)]
    a, b, c = (w[1 : 1 + r, 2 : 2 + k] for w, (r, k) in zip(wide, shapes, strict=True))
    expected = (a.T if ta else a) @ (b.T if tb else b) + beta * c
    outside = wide[2].copy()

    def matrix(array, transposed=False):
        return Matrix(array.ctypes.data, *array.shape, 9, array.dtype, transposed)

    blas.gemm(matrix(a, ta), matrix(b, tb), matrix(c), beta, tf32=False)
    np.testing.assert_allclose(c, expected, rtol=1e-5 if dtype == "float32" else 1e-13)
    outside[1:4, 2:6] = c
    np.testing.assert_array_equal(wide[2], outside)


def test_stacks_of_products(rng):
    """One call for all, whose matrices are at equal distances."""
    library, (count, rows, columns, inner) = FakeBlas(), (3, 2, 4, 5)
    a, b = rng.standard_normal((count, inner, rows)), rng.standard_normal((count, 7, columns))  # transposed; with gaps
    c = np.zeros((count, rows, columns))
    matrices = [Matrix(x.ctypes.data, *x.shape[1:], x.shape[2], x.dtype) for x in (a, b[:, :inner], c)]
    stack = Stack(count, tuple(x.strides[0] // 8 for x in (a, b, c)))
    Blas(library).gemm(matrices[0].T, matrices[1], matrices[2], 0, tf32=False, stack=stack)
    np.testing.assert_allclose(c, a.swapaxes(1, 2) @ b[:, :inner], rtol=1e-13)
    assert [name for name, _ in library.calls].count("gemm") == 1


@pytest.mark.parametrize(
    ("dtype", "tf32", "expected"),
    [("float32", False, (0, 0, 0, 68)), ("float32", True, (0, 0, 0, 77)), ("float64", True, (1, 1, 1, 70))],
)
def test_precision_of_products(dtype, tf32, expected):
    library = FakeBlas()
    a = np.ones((2, 2), dtype)
    matrix = Matrix(a.ctypes.data, 2, 2, 2, a.dtype)
    Blas(library).gemm(matrix, matrix, matrix, 0, tf32=tf32)
    assert ("cublasSetMathMode", 16) in [(name, arguments[-1]) for name, arguments in library.calls]
    assert library.calls[-1] == ("gemm", expected)


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize(("dtype", "kind"), [(DTYPES[2], 2), (DTYPES[3], 14)], ids=["float16", "bfloat16"])
def test_16_bit_products_are_accumulated_in_float32(dtype, kind, tf32):
    library = FakeBlas()
    library.cublasGemmEx = lambda *arguments: library.calls.append(arguments)
    a = Matrix(0, 2, 2, 2, dtype)
    Blas(library).gemm(a, a, a, 0, tf32=tf32)
    Blas(library).gemm(a, a, a._replace(dtype=np.dtype("float32")), 1, tf32=tf32)
    for arguments, of_c in zip((c for c in library.calls if len(c) == 19), (kind, 0), strict=True):
        assert (arguments[8], arguments[11], arguments[15], arguments[17]) == (kind, kind, of_c, 68)


def test_large_sizes_use_the_64_bit_function():
    library = FakeBlas()
    a = Matrix(0, 2**31, 1, 1, DTYPES[0])
    Blas(library).gemm(a.T, a, Matrix(0, 1, 1, 1, DTYPES[0]), 0, tf32=False)
    assert library.calls[-1][0] == "cublasGemmEx_64"


def test_a_failure_raises():
    library = FakeBlas()
    library.cublasSetStream_v2 = lambda *arguments: 1
    with pytest.raises(RuntimeError, match="cublasSetStream_v2 failed with status 1"):
        Blas(library).use(0, 0)


# --- streams and CUDA graphs, on a fake CuPy ----------------------------------------------------------------------


class OnDevice:
    class device:
        id = 0


@pytest.fixture
def faked(monkeypatch):
    """The module `cupy_device` on the fake CuPy, and the streams that were set in cuBLAS."""
    pytest.importorskip("cupy", reason="no CuPy")
    module, library = fake_cupy.install(monkeypatch)
    return module, lambda: [arguments[1] for name, arguments in library.calls if name == "cublasSetStream_v2"]


def multiply(stream):
    a = np.ones((1, 1))
    stream.gemm(*[Matrix(a.ctypes.data, 1, 1, 1, a.dtype)] * 3)


class FakePool:
    def malloc(self, size):
        FakeCupy.log.append("pool")
        return FakeCupy.cuda.alloc(size)


def test_a_whole_step_is_captured_with_memory_of_its_own(faked, monkeypatch):
    """Its work runs twice on a stream of its own, in order with the caller's, and passes capture nothing themselves."""
    module, _ = faked
    allocators, order = [], []

    @contextlib.contextmanager
    def using_allocator(allocate):
        allocators.append(allocate.__self__)
        yield
        allocators.pop()

    monkeypatch.setattr(FakeCupy.cuda, "MemoryPool", FakePool, raising=False)
    monkeypatch.setattr(FakeCupy.cuda, "using_allocator", using_allocator, raising=False)
    monkeypatch.setattr(FakeStream, "record", lambda self: f"event of {self.ptr}", raising=False)
    monkeypatch.setattr(FakeStream, "wait_event", lambda self, e: order.append((self.ptr, e)), raising=False)

    def work():
        with module.stream_of(OnDevice) as stream:
            order.append(
                (FakeCupy.stream.ptr, FakeCupy.stream.captured is not None, stream.can_capture, len(allocators))
            )

    replay = module.CupySteps().capture(OnDevice, work)
    assert order == [(77, "event of 0"), (77, False, False, 1), (0, "event of 77"), (77, True, False, 1)]
    assert allocators == []
    replay()
    assert FakeCupy.log == [("graph", 0)]
    FakeCupy.error = "not permitted"
    with pytest.raises(RuntimeError, match="not permitted"):
        module.CupySteps().capture(OnDevice, work)
    with module.stream_of(OnDevice) as stream:
        assert stream.can_capture
    with FakeStream(5) as _:
        FakeCupy.stream.begin_capture()
        with pytest.raises(RuntimeError, match="cannot be called during stream capture"), module.stream_of(OnDevice):
            pass


def test_the_capture_of_whole_steps_can_be_turned_off(faked, monkeypatch):
    module, _ = faked
    assert isinstance(module._steps(), module.CupySteps)
    for name in ("RNNX_CUDA_GRAPHS", "RNNX_CUDA_STEP_GRAPHS"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "0")
            assert module._steps() is None


def test_every_stream_has_its_own_object(faked):
    module, streams = faked
    seen = {}
    for ptr in (0, 5, 0, 5, 9):
        with FakeStream(ptr), module.stream_of(OnDevice) as stream:
            assert seen.setdefault(ptr, stream) is stream
            multiply(stream)
            multiply(stream)
    assert streams() == [0, 5, 0, 5, 9]  # set by the first product
    assert len(set(map(id, seen.values()))) == 3
    for ptr in range(100, 100 + module._MAX_STREAMS):
        with FakeStream(ptr), module.stream_of(OnDevice):
            pass
    with FakeStream(5), module.stream_of(OnDevice) as stream:
        assert stream is not seen[5]
    assert len(module._devices[0].streams) == module._MAX_STREAMS


def test_threads_do_not_share_a_per_thread_default_stream(faked):
    """Not even one after another: CUDA may run the work of a finished thread's stream later."""
    module, _ = faked
    seen = []

    def use():
        with FakeStream(2), module.stream_of(OnDevice) as stream:
            seen.append(stream)

    for _ in range(3):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
    assert len(set(map(id, seen))) == 3


def test_a_graph_is_captured_on_a_new_stream_and_replayed_on_the_current_one(faked):
    module, streams = faked
    done = []
    with FakeStream(5), module.stream_of(OnDevice) as stream:
        again = stream.capture(lambda: done.append((FakeCupy.stream.ptr, multiply(stream))))
        assert done == [(77, None)]
        multiply(stream)
        assert streams() == [77, 5]
        again()
    with FakeStream(9):
        again()
    assert FakeCupy.log == [("graph", 5), ("graph", 9)]


def test_a_failed_capture_warns_once(faked):
    module, streams = faked
    FakeCupy.error = "no capture today"
    with FakeStream(5), module.stream_of(OnDevice) as stream:
        assert stream.can_capture
        with pytest.warns(RuntimeWarning, match="CUDA graphs disabled because stream capture failed: no capture today"):
            assert stream.capture(lambda: multiply(stream)) is None
        multiply(stream)
        assert streams() == [77, 5]
        assert not stream.can_capture


def test_calls_inside_a_capture_raise(faked):
    module, _ = faked
    stream = FakeStream(5)
    stream.begin_capture()
    with (
        stream,
        pytest.raises(RuntimeError, match="called during stream capture"),
        module.stream_of(OnDevice),
    ):
        pass


def test_a_grid_without_room_is_refused(faked, monkeypatch):
    """All of its blocks wait for each other. It is compiled for launches that start them together."""
    module, _ = faked
    text = '#define RNNX_GRID 1\nextern "C" __global__ void wait() {}'
    launched = []
    monkeypatch.setattr(fake_cupy.FakeKernel, "__call__", lambda self, blocks, *_, **__: launched.append(blocks))
    with module.stream_of(OnDevice) as stream:
        launch = stream.kernels((text,), ())
        launch("wait", (132, 1), (256, 1), [])
        with pytest.raises(RuntimeError, match="room for 132 of the 133 blocks of a persistent kernel; set RNNX"):
            launch("wait", (133, 1), (256, 1), [])
        monkeypatch.setattr(FakeCupy.cuda.driver, "room", 0)
        with pytest.raises(RuntimeError, match="room for 0 of the 2 blocks"):
            launch("wait", (2, 1), (256, 1), [])
    assert launched == [(132, 1)]


@pytest.mark.parametrize(("switch", "expected"), [(None, None), ("0", False), ("1", True)])
def test_switches(faked, monkeypatch, switch, expected):
    module, _ = faked
    for name in ("RNNX_CUDA_PERSISTENT", "RNNX_CUDA_GRAPHS"):
        monkeypatch.setenv(name, switch) if switch else monkeypatch.delenv(name, raising=False)
    with module.stream_of(OnDevice) as stream:
        assert stream.processor == Processor(90, 132, 232448, expected)
        assert stream.can_capture == (switch != "0")
        assert stream.graph_memory() == 1 << 30
    module._devices.clear()
    monkeypatch.setenv("RNNX_CUDA_PERSISTENT", "yes")
    with (
        pytest.raises(ValueError, match="variable RNNX_CUDA_PERSISTENT must be 0 or 1; got 'yes'"),
        module.stream_of(OnDevice),
    ):
        pass
