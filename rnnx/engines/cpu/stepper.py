# ruff: noqa: D102 - methods are documented in `rnnx.engines.protocol`
"""Single steps, with the weights packed once."""

import numpy as np

from rnnx.cells.parameters import recurrent_parameters
from rnnx.engines.cpu.descriptor.builder import PassKey, kept_format
from rnnx.engines.cpu.descriptor.forward import ForwardPass
from rnnx.engines.cpu.descriptor.layout import contiguous
from rnnx.engines.cpu.runtime.buffer_pool import address, addresses, aligned
from rnnx.engines.cpu.runtime.sharing import Shareable
from rnnx.engines.cpu.runtime.thread_policy import choice
from rnnx.engines.cpu.runtime.thread_pool import Task
from rnnx.engines.cpu.runtime.work import Work
from rnnx.engines.protocol import Arrays, Call


class CpuStepper:
    """See `rnnx.engines.protocol.Stepper`. The states alternate between two slots."""

    def __init__(self, call: Call) -> None:
        n, m = call.s0[0].shape
        parameters = recurrent_parameters(call.cell, call.parameters)
        key = PassKey(call.cell, call.dtype, 1, m, n, call.n_x, False, tuple(parameters), False, kept_format(call))
        passes = [ForwardPass(key, False, (None,) * (1 + len(call.inputs)), slot) for slot in (0, 1)]
        (at, block), X = passes[0].block.allocate(), np.zeros((m, call.n_x), call.dtype)
        for array in block:
            array[...] = 0
        E = [np.zeros((m, e.shape[0]), call.dtype) for e in call.inputs]
        self._xt, self._inputs, self._states = X.T, [e.T for e in E], block[: len(call.s0)]
        self._results = tuple(tuple(S[slot].T for S in self._states) for slot in (1, 0))
        for result in (*self._results[0], *self._results[1]):
            result.flags.writeable = False  # later steps overwrite it
        threads, unit_parallel = choice(passes[0].work)
        if not unit_parallel:
            threads = 1
        templates = [step.divide(threads, unit_parallel) for step in passes]
        # It holds the packed weights, so it must live as long as the stepper.
        self._workspace = aligned(templates[0].workspace)
        place = address(self._workspace)
        # The kernels read the vectors of parameters at every step, and the caller's may change.
        parameters |= {key: np.array(parameters[key], order="C") for key in call.cell.vectors}
        self._vectors = [parameters[key] for key in call.cell.vectors]
        arrays = [X, *E, *contiguous(parameters.values())]
        self._descriptors = [template.bind(place, [at, *addresses(arrays)]) for template in templates]
        self._addresses = [address(descriptor) for descriptor in self._descriptors]
        self._templates = templates  # which own memory that the descriptors refer to
        job, sections = templates[0].job, templates[0].sections
        task = Task(job, threads, **sections | {"first": 1})
        self._run = _Step(passes[0].work, task, threads).run if threads > 1 else task.run_alone
        Task(job, 1, 1).run_alone(self._addresses[0])  # the preparation, which packs the weights
        self.set(call.s0)

    def set(self, states: Arrays) -> None:
        self._slot = 0
        for S, s in zip(self._states, states, strict=True):
            S[0] = s.T

    def step(self, xt: np.ndarray, inputs: Arrays = ()) -> Arrays:
        self._xt[...] = xt
        if inputs:
            for own, given in zip(self._inputs, inputs, strict=True):
                own[...] = given
        slot = self._slot
        self._slot = 1 - slot
        self._run(self._addresses[slot])
        return self._results[slot]


class _Step(Shareable[int]):
    """The job of a step, which is given a descriptor. Unit-parallel ones are also those of a single slice."""

    def __init__(self, work: Work, task: Task, threads: int) -> None:
        super().__init__(work)
        self._task, self._threads = task, threads

    def way(self) -> tuple[int, bool]:
        """See `Shareable`: as when the descriptors were written."""
        return self._threads, True

    def divide(self, threads: int, unit_parallel: bool) -> Task:
        """See `Shareable`."""
        return self._task
