"""What all benchmarks share: profile, engines, seeds, warm-up, synchronization.

A new benchmark is a class in the file of its area. Four rules keep results comparable:

* Parameter lists are literals, identical on every machine and for every commit. To skip what cannot run, ``setup``
  raises NotImplementedError.
* Random numbers come from ``self.rng``, seeded in ``setup``.
* Nothing compiles in a ``time_*`` method, because ``setup`` ends with ``self.warm_up(...)``.
* A ``time_*`` method ends with ``self.synchronize()``, because calls on a GPU are asynchronous.

Files only ``import rnnx``, so that a name missing in an old commit fails where it is used and the rest of the suite
still loads. CuPy is not imported at the top, because asv imports all files in every process.
"""

import contextlib
import os
import timeit

import numpy as np

import rnnx

# Array library and engine.
ENGINES = ("numpy-reference", "numpy-cpu", "cupy-reference", "cupy-gpu")
_FORMER_NAMES = {"reference": "plain", "cpu": "jit", "gpu": "fused"}  # in commits before November 2026
# For functions that do not depend on the engine.
LIBRARIES = ("numpy-reference", "cupy-reference")

# (warm-up seconds, (minimum samples, maximum samples, seconds of sampling))
_PROFILES = {
    "fast": (0.0, (2, 10, 0.5)),  # all benchmarks in about ten minutes
    "regular": (0.5, (5, 100, 5.0)),  # results to keep
}
_profile = os.environ.get("RNNX_BENCH_PROFILE", "regular")
if _profile not in _PROFILES:
    raise ValueError(f"RNNX_BENCH_PROFILE must be one of {sorted(_PROFILES)}; got {_profile!r}")


class Benchmark:
    """Sampling settings for asv.

    asv runs every parameter combination in `rounds` processes, each of which takes half a second to start, so one round
    does all repetitions. `number` is 1 because ``setup`` runs before every timed call anyway.
    """

    timer = timeit.default_timer  # wall-clock time: the engines are multithreaded
    rounds = 1
    number = 1
    warmup_time, repeat = _PROFILES[_profile]
    timeout = 120


class EngineBenchmark(Benchmark):
    """A benchmark whose first parameter is the engine. Subclasses append theirs.

    ``self.xp`` is the array library; ``self.synchronize()`` waits for the device.
    """

    params = (ENGINES,)
    param_names = ("engine",)
    _warm = False

    def setup(self, engine, *_):
        self._block = contextlib.ExitStack()
        library, name = engine.split("-")
        self.xp, self.synchronize = _load(library)
        self.rng = np.random.default_rng(0)
        try:
            self._block.enter_context(rnnx.use_engine(name if name in rnnx.engine_names() else _FORMER_NAMES[name]))
        except ValueError as error:  # no such engine at this commit, or what it needs is not installed
            raise NotImplementedError(str(error)) from None

    def teardown(self, *_):
        self._block.close()

    def sequence(self, dtype, n, m, T):
        """Return standard normal numbers (n, m, T) in the memory order that rnnx uses without copying."""
        return self.xp.asarray(self.rng.standard_normal((T, m, n), dtype=dtype)).T

    def warm_up(self, params, *calls):
        """Run the calls to be timed: compile, start threads, fill memory pools."""
        if not self._warm:  # asv runs setup before every sample
            for call in calls:
                for _ in range(
                    1 if self.xp is np else 3
                ):  # on a GPU the second call captures a CUDA graph, the third replays it
                    call(*params)
            self._warm = True
        self.synchronize()


def _load(library):
    """Return the array library and a function that waits for its device."""
    if library == "numpy":
        return np, lambda: None
    try:
        import cupy
    except ImportError:
        raise NotImplementedError("CuPy is not installed") from None
    if not cupy.is_available():
        raise NotImplementedError("CuPy finds no GPU")
    return cupy, lambda: cupy.cuda.get_current_stream().synchronize()
