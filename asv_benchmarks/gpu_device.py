"""What the checks of `gpu.py` run on: CuPy's current GPU, or its emulation on the CPU. And the problems they run.

New memory is full of NaN in both, so that nothing is right by accident.
"""

import contextlib
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "emulation")]

import rnnx  # noqa: E402
from rnnx import engines  # noqa: E402
from rnnx._core import arrays as ns  # noqa: E402

PRECISIONS = {
    "float64": "float64",
    "float32": "float32",
    "tf32": "float32",
    "float16": "float16",
    "bfloat16": "bfloat16",
}


def dtype_of(precision):
    """The NumPy dtype of a precision."""
    if precision != "bfloat16":
        return np.dtype(PRECISIONS[precision])
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def products(precision):
    """The block in which products of float32 are as exact as `precision` says."""
    return rnnx.use_precision("tf32" if precision == "tf32" else "ieee")


class Device:
    """An array library and an engine. `counts`: loops recorded, loops replayed, allocations while recording."""

    engine = ""
    xp = np

    def __init__(self):
        self.counts = {"recorded": 0, "replayed": 0, "allocations in a recording": 0}

    def use(self, precision="float32"):
        """The block in which the engine runs; of this thread only."""
        block = contextlib.ExitStack()
        block.enter_context(rnnx.use_engine(self.engine))
        block.enter_context(products(precision))
        return block

    def stream(self):
        """A block with a stream of its own."""
        return contextlib.nullcontext()

    def count_replays(self, kind):
        """Count the loops that streams of a class capture and replay."""
        capture, counts = kind.capture, self.counts

        def counted(stream, work):
            again = capture(stream, work)
            if again is None:
                return None
            counts["recorded"] += 1

            def replay():
                counts["replayed"] += 1
                again()

            return replay

        kind.capture = counted

    def upload(self, a, order="C"):
        """A NumPy array as one of the device, in C or in Fortran order."""
        return self.to_device(np.ascontiguousarray(a)) if order == "C" else self.to_device(np.ascontiguousarray(a.T)).T

    def to_device(self, a):
        return a.copy()

    def to_host(self, a):
        return np.array(a)

    def synchronize(self):
        """Wait for the device; raises if its context is broken."""


class Gpu(Device):
    """CuPy's current GPU. `watched`: new memory is NaN, and recordings are counted; both cost time."""

    engine = "gpu"

    def __init__(self, *, watched=True):
        super().__init__()
        import cupy

        self.xp, self._pool = cupy, cupy.get_default_memory_pool()
        if watched:
            from rnnx.engines.gpu import cupy_device

            self.count_replays(cupy_device.CupyStream)
            cupy.cuda.set_allocator(self._poisoned)

    def _poisoned(self, size):
        memory = self._pool.malloc(size)
        if self.xp.cuda.get_current_stream().is_capturing():
            self.counts["allocations in a recording"] += 1
        elif size:
            memory.memset_async(0xFF, size)
        return memory

    def stream(self):
        return self.xp.cuda.Stream(non_blocking=True)

    def to_device(self, a):
        # Not CuPy's own conversion of bfloat16, which is no part of what is checked.
        return self.xp.asarray(a.view(np.uint16)).view(a.dtype) if a.dtype.itemsize == 2 else self.xp.asarray(a)

    def to_host(self, a):
        if a.dtype.itemsize == 2:
            return np.ascontiguousarray(a.view(np.uint16).get()).view(a.dtype)
        return a.get()

    def synchronize(self):
        self.xp.cuda.runtime.deviceSynchronize()


class Emulation(Device):
    """The engine's kernels, compiled for the CPU, on NumPy arrays."""

    engine = "emulated"

    def __init__(self):
        super().__init__()
        engines.register_engine("emulated", "emulated_engine:ENGINE", ("numpy",), default=False)
        import emulated_engine

        self.count_replays(emulated_engine.EmulatedStream)
        floats = frozenset(dtype_of(precision) for precision in PRECISIONS)
        ns._floats = lambda _: floats


# --- problems -----------------------------------------------------------------------------------------------------


def make(cell, rng, size, precision="float32", *, indexed=False, ended=False):
    """A problem of the tests, with every optional parameter; `ended`: with lengths, from none to all steps."""
    from problems import make_problem

    n_x, n_a, m, n_steps = size
    scale = (n_a + n_x) ** -0.5
    lengths = [0, n_steps, *rng.integers(0, n_steps + 1, m)][:m] if ended else None
    problem = make_problem(cell, rng, n_x, n_a, m, n_steps, scale=scale, lengths=lengths)
    problem.parameters |= {key: scale * rng.standard_normal((n_a, 1)) for key in cell.optional_keys}
    problem = problem.astype(dtype_of(precision))
    if indexed:
        problem.x = rng.integers(0, n_x, (m, n_steps))
    return problem


def reference(problem):
    """The results of a problem in float64 by the reference engine on NumPy arrays."""
    wide = problem.astype("float64")
    if problem.x.ndim == 2:
        wide.x = problem.x
    with rnnx.use_engine("reference"):
        return results(wide, *forward(wide))


def upload(device, problem, order="C"):
    """The problem with all arrays on the device."""
    from problems import Problem

    def up(a):
        return device.upload(a, order)

    x = up(problem.x) if problem.x.ndim == 3 else device.upload(problem.x)
    parameters = {key: up(p) for key, p in problem.parameters.items()}
    s0, dstates, dfinal = ([*map(up, arrays)] for arrays in (problem.s0, problem.dstates, problem.dfinal))
    return Problem(problem.cell, x, s0, parameters, dstates, dfinal, problem.lengths)


def forward(problem):
    """The states of all steps, and the caches."""
    states, _, caches = rnnx.recurrent_forward(
        problem.cell, problem.x, problem.s0, problem.parameters, lengths=problem.lengths
    )
    return states, caches


def results(problem, states, caches):
    """All that a problem returns, by name, after a backward pass."""
    final = {f"final {name}": state for name, state in caches.final_state.items()}
    gradients = rnnx.recurrent_backward(problem.cell, problem.dstates, caches, ds_final=problem.dfinal)
    return {**dict(zip(problem.cell.states, states, strict=True)), **final, **gradients}


def call(device, problem, precision="float32", order="C"):
    """The results of a problem on the device, as NumPy arrays."""
    given = upload(device, problem, order)
    with device.use(precision):
        found = results(given, *forward(given))
    return {name: device.to_host(a) for name, a in found.items()}


def same_bits(first, second):
    """Whether two results are the same to the last bit."""
    return list(first) == list(second) and all(a.tobytes() == second[name].tobytes() for name, a in first.items())


def worst_error(actual, expected):
    """The largest relative error in norm, and of which array."""
    errors = {}
    for name, want in expected.items():
        difference = np.linalg.norm(actual[name].astype(np.float64) - want) / max(np.linalg.norm(want), 1e-300)
        errors[name] = difference if np.isfinite(difference) else np.inf
    name = max(errors, key=errors.get)
    return float(errors[name]), name


# --- the machine --------------------------------------------------------------------------------------------------


def machine(options):
    """One row: the chip and the versions; or why there is nothing to run on."""
    if options["emulate"]:
        yield {"kind": "machine", "text": f"emulation on the CPU, NumPy {np.__version__}"}
        return
    try:
        import cupy
    except ImportError as error:
        yield {"kind": "absent", "text": f"no CuPy: {error}"}
        return
    if not cupy.is_available():
        yield {"kind": "absent", "text": "CuPy finds no GPU"}
        return
    from rnnx.engines.gpu import cupy_device

    with cupy_device.stream_of(cupy.zeros(1, cupy.float32)) as stream:
        precision = stream.precision
    runtime = cupy.cuda.runtime
    said = [
        runtime.getDeviceProperties(0)["name"].decode(),
        f"driver {_driver()} (CUDA {runtime.driverGetVersion()})",
        f"runtime {runtime.runtimeGetVersion()}",
        f"CuPy {cupy.__version__}",
        f"NumPy {np.__version__}",
        f"float32 products are {precision} unless asked otherwise",
    ]
    yield {"kind": "machine", "text": ", ".join(said)}


def _driver():
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.TimeoutExpired, IndexError):
        return "unknown"


CHILDREN = {"machine": machine}
