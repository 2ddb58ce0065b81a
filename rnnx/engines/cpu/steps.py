# ruff: noqa: D102 - methods are documented in `rnnx.engines.protocol`
"""Single steps with caches: what a forward step keeps is one allocation, which its backward step reads.

Unlike a pass over a sequence, a step keeps no copies of parameters: a program may keep the caches of many steps. Its
backward step reads the caller's input and parameters again.
"""

from collections.abc import Callable, Sequence

import numpy as np

from rnnx._core.arrays import Array
from rnnx.cells.parameters import recurrent_parameters
from rnnx.engines.cpu.descriptor.backward import BackwardPass
from rnnx.engines.cpu.descriptor.builder import PassKey, zeros
from rnnx.engines.cpu.descriptor.forward import ForwardPass
from rnnx.engines.cpu.descriptor.layout import View, Views, lines, memory_of, reading, rows, to_contiguous, to_rows
from rnnx.engines.cpu.descriptor.stages import Pass
from rnnx.engines.cpu.plans import Selection
from rnnx.engines.protocol import Arrays, Call

_MANY_EXAMPLES = 8


class CpuStep:
    """See `rnnx.engines.protocol.PreparedStep`."""

    def __init__(self, call: Call) -> None:
        cell, dtype, n_states = call.cell, call.dtype, len(call.s0)
        own = recurrent_parameters(cell, call.parameters)
        key = PassKey(cell, dtype, 1, call.m, call.n_a, call.n_x, False, tuple(own), False)
        of_x = reading(memory_of(call.x), dtype.itemsize)
        layouts = (None if of_x.layout.time_major else of_x.layout,)
        forward = ForwardPass(key, True, layouts, borrows=True)
        alone_or_shared = forward.work.is_small or key.m >= _MANY_EXAMPLES  # among threads by examples, not by units
        head = [name for name in cell.head if name in call.parameters and alone_or_shared]
        if head:
            forward = ForwardPass(key, True, layouts, borrows=True, n_y=call.parameters[head[0]].shape[0])
        names = [*own, *head]
        places = [1 + n_states + [*call.parameters].index(name) for name in names]
        changes = [of_x.change, *[to_rows(memory_of(s)) for s in call.s0]]
        changes += [to_contiguous(memory_of(call.parameters[name])) for name in names]
        self._select = Selection([*range(1 + n_states), *places], changes)
        self._n_states, self._n_given = n_states, 1 + n_states + len(own)
        self._has_y, self._turns = bool(head), key.m > 1  # one example is the same in both orders
        self._run, self._values = _runs(forward), _views(forward)
        changes = [to_rows(memory_of(call.x[:, :, 0])), *changes[1 + n_states : self._n_given]]
        self._select_again = Selection([0, *[k - n_states for k in places[: len(own)]]], changes)
        backward = BackwardPass(key, (None,) * n_states, forward.kept_at, borrows=True)
        self._run_back, self._results = _runs(backward), _results(backward)
        self.names = backward.block.names
        self._spread = backward.block.spread
        self._zeros = [zeros(dtype, cell.size(name, key.n), key.m) for name in cell.states]

    def forward(self, arrays: Arrays) -> tuple[Arrays, Array | None, Arrays, np.ndarray]:
        memory, views = self._values.allocate()
        given, n, end = self._select(arrays), self._n_states, self._n_given
        if self._has_y:
            self._run((memory, *views[1 : 1 + n], *given[:end], views[0], *given[end:]))
            y, *values = [a.T for a in views] if self._turns else views
        else:
            self._run((memory, *views[:n], *given))
            y, values = None, [a.T for a in views] if self._turns else list(views)
        return tuple(values[:n]), y, tuple(values[n:]), memory

    def backward(
        self, kept: np.ndarray, arrays: Arrays, cotangents: Sequence[np.ndarray | None]
    ) -> Sequence[np.ndarray]:
        memory, views = self._results.allocate()
        final = [zero if d is None else rows(d) for d, zero in zip(cotangents, self._zeros)]  # noqa: B905 - one a state
        self._run_back((memory, views[0], kept, *self._select_again(arrays), *final))
        n = 1 + self._n_states
        if self._turns:
            views = [*[a.T for a in views[:n]], *views[n:]]
        if self._spread:
            views = [np.array(a, order="C") if k - n in self._spread else a for k, a in enumerate(views)]
        return views


def _runs(job: Pass) -> Callable[[Sequence[np.ndarray]], None]:
    """Return what runs a job, on one thread if it is small."""
    return job.alone.run_alone if job.work.is_small else job.run


def _results(job: BackwardPass) -> Views:
    """Return the views of the gradients of xt, which follow the job's block, the states and the parameters."""
    key, block, n = job.key, job.block, len(job.block.names)
    end = lines(block.size)
    views: list[View] = [((key.m, key.n_x), end, None), *block.views[n:], *block.views[:n]]
    return Views(key.dtype, _of_columns(views, 1 + len(block.views) - n), end + key.m * key.n_x * key.dtype.itemsize)


def _of_columns(views: Sequence[View], n: int) -> list[View]:
    """Return views of which the first n, of one row, are columns."""
    turned = [((shape[1], 1) if shape[0] == 1 else shape, at, strides) for shape, at, strides in views[:n]]
    return [*turned, *views[n:]]


def _views(job: ForwardPass) -> Views:
    """Return the views of a step's memory: the outputs, if the job computes them, and the caller's states, which follow
    the job's block, and the values of the cache tuple.
    """
    cell, key, offsets = job.key.cell, job.key, job.block.offsets
    n, names = len(cell.states), (*cell.states, *cell.saved)
    shapes = [(key.m, cell.size(name, key.n)) for name in names]
    sizes = [m * units * key.dtype.itemsize for m, units in shapes]
    of_y = [(key.m, job.n_y)] if job.n_y else []
    ends = [lines(job.block.size)]
    for m, units in (*of_y, *shapes[:n]):
        ends.append(ends[-1] + lines(m * units * key.dtype.itemsize))
    of_values = dict(zip(names, zip(shapes, offsets, strict=False), strict=True))
    views = [*zip((*of_y, *shapes[:n]), ends, strict=False)]
    views += [(shape, at + size) for shape, at, size in zip(shapes[:n], offsets, sizes, strict=False)]
    views += [of_values[name] for name in (*cell.states, *cell.cache)]
    return Views(key.dtype, _of_columns([(*view, None) for view in views], len(views)), ends[-1])
