"""What all benchmarks share: profile, engines, seeds, warm-up, synchronisation. No benchmark lives here.

A new benchmark is a class in the file of its room of the library. Four rules keep results comparable:

* The parameter lists are literal, the same on every machine and for every commit. What cannot run here is
  skipped by a NotImplementedError in ``setup``; a list is never shortened.
* Random numbers come from ``self.rng``, which ``setup`` seeds.
* Nothing compiles in a ``time_*`` method: ``setup`` ends with ``self.warm_up(...)``.
* A ``time_*`` method ends with ``self.synchronize()``: a GPU has only been *asked* when a call returns.

Files say ``import rnnx`` and no more: a name that an old commit lacks then fails where it is used, and the
rest of the suite still loads there. CuPy is not imported at the top: asv imports all files in every process it
starts.
"""

import contextlib
import os
import timeit

import numpy as np

import rnnx

# Library and engine, by the name of the parameter.
ENGINES = ("numpy-reference", "numpy-cpu", "cupy-reference", "cupy-gpu")
_FORMER_NAMES = {"reference": "plain", "cpu": "jit", "gpu": "fused"}  # in commits of before November 2026
# For functions without a loop over time, which no engine runs.
LIBRARIES = ("numpy-reference", "cupy-reference")

# (warm-up in seconds, (fewest samples, most samples, seconds after which there are no more))
_PROFILES = {
    "fast": (0.0, (2, 10, 0.5)),  # all benchmarks in some ten minutes
    "regular": (0.5, (5, 100, 5.0)),  # figures to keep
}
_profile = os.environ.get("RNNX_BENCH_PROFILE", "regular")
if _profile not in _PROFILES:
    raise ValueError(f"RNNX_BENCH_PROFILE must be one of {sorted(_PROFILES)}; got {_profile!r}")


class Benchmark:
    """How asv takes its samples.

    asv runs every combination of parameters in a process of its own, `rounds` times over, and a process takes
    half a second to start. So there is one round, and the repetitions are inside it. `number` is 1 since
    ``setup`` runs before every timed call anyway.
    """

    timer = timeit.default_timer  # wall time: the engines have threads
    rounds = 1
    number = 1
    warmup_time, repeat = _PROFILES[_profile]
    timeout = 120


class EngineBenchmark(Benchmark):
    """A benchmark whose first parameter is the engine; subclasses append theirs.

    Attributes
    ----------
    xp : module
        Array library of this run.
    rng : numpy.random.Generator
    synchronize : callable
        Waits until the device has done all it was asked to.
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
        """Normal numbers (n, m, T), in the memory order in which rnnx returns sequences and needs no copy."""
        return self.xp.asarray(self.rng.standard_normal((T, m, n), dtype=dtype)).T

    def warm_up(self, params, *calls):
        """Run, untimed, what will be timed: compiles, starts threads, fills memory pools."""
        if not self._warm:  # asv runs setup before every sample
            for call in calls:
                for _ in range(1 if self.xp is np else 3):  # on a GPU the second call is recorded, the third replayed
                    call(*params)
            self._warm = True
        self.synchronize()


def _load(library):
    """The array library and the function that waits for its device."""
    if library == "numpy":
        return np, lambda: None
    try:
        import cupy
    except ImportError:
        raise NotImplementedError("CuPy is not installed") from None
    if not cupy.is_available():
        raise NotImplementedError("CuPy finds no GPU")
    return cupy, lambda: cupy.cuda.get_current_stream().synchronize()
