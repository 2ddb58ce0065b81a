"""Passes for arrays of one kind: all that depends on shapes and memory layouts is decided once."""

import operator
import weakref
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from rnnx.cells.parameters import recurrent_parameters
from rnnx.engines.cpu.descriptor.backward import BackwardPass
from rnnx.engines.cpu.descriptor.builder import PassKey, zeros
from rnnx.engines.cpu.descriptor.forward import ForwardPass
from rnnx.engines.cpu.descriptor.layout import Change, Views, reading, to_contiguous, to_indices, to_rows
from rnnx.engines.cpu.packed import Matrices, packed
from rnnx.engines.cpu.runtime.buffer_pool import allocation
from rnnx.engines.cpu.tape import CpuTape, Kept, Run
from rnnx.engines.protocol import Arrays, Gradients


def _picks(places: Sequence[int]) -> Callable[[Arrays], Arrays]:
    """Return a function that picks the arrays at these places."""
    if len(places) > 1:
        return operator.itemgetter(*places)
    return lambda arrays: tuple([arrays[k] for k in places])


class Selection:
    """The arrays that a job reads, in their order, of those given and further ones.

    `changes`: in the same order, what to do with an array first, a function or None.
    """

    def __init__(self, order: Sequence[int], changes: Sequence[Change | None], more: Arrays = ()) -> None:
        self._more, self._pick = more, _picks(order)
        self._changes = [(k, change) for k, change in enumerate(changes) if change is not None]

    def __call__(self, arrays: Arrays) -> Sequence[np.ndarray]:
        """Return the arrays that a job reads."""
        picked: Sequence[np.ndarray] = self._pick(arrays + self._more if self._more else arrays)
        if not self._changes:
            return picked
        changed = list(picked)
        for k, change in self._changes:
            changed[k] = change(changed[k])
        return changed


@lru_cache(maxsize=256)
class ForwardPlan:
    """A forward pass.

    `key`: with the keys of all parameters that `run` takes. `memory`: `memory_of` the arrays that `run` takes, in
    their order; None for initial states that are zero and not among them. `only_first`: see `Call`.
    """

    def __init__(self, xp: Any, key: PassKey, keep: bool, memory: tuple[Any, ...], only_first: bool) -> None:
        cell, keys, item = key.cell, key.keys, key.dtype.itemsize
        self.keep = keep
        self.key = key = key._replace(keys=tuple(recurrent_parameters(cell, dict.fromkeys(keys))))
        end, n_inputs = 1 + len(cell.states), len(cell.inputs)
        sequences, states = [0, *range(end, end + n_inputs)], range(1, end)
        own = [end + n_inputs + keys.index(name) for name in key.keys]
        readings = [None if k == 0 and key.indices else reading(memory[k], item) for k in sequences]
        layouts = [r.layout if r and (keep or not r.layout.time_major) else None for r in readings]
        self.job = ForwardPass(key, keep, tuple(layouts), None, only_first)
        if self.job.kept_sizes:
            self._ready = ForwardPass(key, keep, tuple(layouts), None, only_first, True)
            names = [name for gate in cell.gates for name in gate.weights]
            among = [k for k, of in enumerate(memory) if of is not None]
            self._weights = _picks([among.index(end + n_inputs + keys.index(name)) for name in names])
            self._layer = cell, key.n, key.n_x, key.indices
            self._latest: Callable[[], Matrices | None] = lambda: None  # a weak reference
        self._reads_x = layouts[0] is None  # in place
        given = [k for k, of in enumerate(memory) if of is not None]
        zero = [k for k in states if memory[k] is None]
        initial = tuple([zeros(key.dtype, cell.size(cell.states[k - 1], key.n), key.m) for k in zero])
        order = [(*given, *zero).index(k) for k in (*sequences, *states, *own)]
        of_states = [memory[k] and to_rows(memory[k]) for k in states]
        of_sequences = [r.change if r else to_indices for r in readings]
        changes = [*of_sequences, *of_states, *[to_contiguous(memory[k]) for k in own]]
        self._select = Selection(order, changes, initial)
        shapes = [(key.n_steps, key.m, cell.size(name, key.n)) for name in cell.states]
        results = [*shapes[: len(self.job.outputs)], *[(1, *shape[1:]) for shape in shapes[: len(self.job.final)]]]
        self._results = [allocation(shape, key.dtype) for shape in results]
        offsets, size = self.job.block.offsets, self.job.block.size
        rows = [m * n * item for _, m, n in shapes]
        if keep:  # the states after the last step, which are those of shorter examples, too
            views = [((1, *s[1:]), offsets[k] + key.n_steps * rows[k], None) for k, s in enumerate(shapes)]
        else:  # all states but the initial ones
            views = [(s, offsets[k] + rows[k], None) for k, s in enumerate(shapes[: 1 if only_first else None])]
        self._views = Views(key.dtype, views, size)
        self.known = {"cell": cell, "xp": xp, "dtype": key.dtype, "indices": key.indices, "n_x": key.n_x}

    def run(self, arrays: Arrays, lengths: np.ndarray | None) -> tuple[Arrays, CpuTape]:
        """Run the pass on x, the given initial states, the extra inputs and the parameters."""
        memory = self.job.block.memory()
        given = self._select(arrays)
        results = tuple([allocate() for allocate in self._results])
        ends = () if lengths is None else (np.ascontiguousarray(lengths, np.int64),)
        if self.job.kept_sizes:
            self._run_packed(arrays, (memory, *given, *results), ends)
        else:
            self.job.run((memory, *given, *results, *ends))
        states: Sequence[np.ndarray] = results
        if self.keep:  # the caller's arrays are not needed any more
            run = Run(self, memory, given[:1] if self._reads_x else (), (), lengths)
        else:
            states, run = self._views(memory), Run(self, memory, given, results)
        return tuple([a.T for a in states]), CpuTape(run, lengths)

    def _run_packed(self, arrays: Arrays, given: Arrays, ends: Arrays) -> None:
        """Run the pass with packed weights that are kept, which it packs unless they have been."""
        weights = self._weights(arrays)
        matrices = self._latest()
        if matrices is None or not matrices.are_of(weights):
            matrices = packed(self._layer, weights, self.job.kept_sizes)
            self._latest = weakref.ref(matrices)
        if matrices.are_filled:
            self._ready.run((*given, *matrices.memory, *ends))
        else:
            self.job.run((*given, *matrices.memory, *ends))
            matrices.fill()

    def final(self, memory: np.ndarray) -> Sequence[np.ndarray]:
        """Return views of the final states, (1, m, n), with `keep`."""
        return self._views(memory)

    def fields(self, run: Run) -> dict[str, Any]:
        """Return the fields of the tape."""
        key, n_states, n_keys = self.key, len(self.key.cell.states), len(self.key.keys)
        if self.keep:
            block, end = self.job.block.arrays(run.memory), n_states + len(key.cell.saved)
            states, saved = tuple(block[:n_states]), tuple(block[n_states:end])
            if run.lengths is not None:
                _write_past_ends(states, saved, run.lengths)
            x, values = run.given[0].T if self._reads_x else block[end], block[-n_keys:]
            inputs, own = tuple(block[end + 1 : -n_keys]), Kept(run, (states, saved, x))
            fields: dict[str, Any] = {"states": states, "saved": saved, "inputs": inputs, "own": own}
        else:
            x, values = run.given[0].T, run.given[-n_keys:]
            fields = {"states": run.final, "saved": None, "inputs": (), "own": None}
        return {**fields, "x": x, "parameters": dict(zip(key.keys, values, strict=True))}


def _write_past_ends(states: Arrays, saved: Arrays, lengths: np.ndarray) -> None:
    """Write what no pass needs to states (T + 1, m, n) and saved values (T, m, n) past the ends: the last states, and
    zeros.
    """
    n_steps, m = len(states[0]) - 1, len(lengths)
    past = np.flatnonzero(np.arange(n_steps)[:, None] >= lengths)  # rows of all steps
    last = (lengths * m + np.arange(m))[past % m]
    for state in states:
        rows = state.reshape(-1, state.shape[-1])  # a view
        rows[past + m] = rows[last]
    for value in saved:
        value.reshape(-1, value.shape[-1])[past] = 0


@lru_cache(maxsize=256)
class BackwardPlan:
    """A backward pass.

    `memory`: `memory_of` the cotangents, of the states of all steps and of the final states; None for those not given.
    `kept_at`: see `BackwardPass`.
    """

    def __init__(self, key: PassKey, memory: tuple[Any, ...], kept_at: tuple[int, ...] | None) -> None:
        cell, self.key = key.cell, key
        n_states, item = len(cell.states), key.dtype.itemsize
        readings = [None if of is None else reading(of, item) for of in memory[:n_states]]
        self.job = BackwardPass(key, tuple([r and r.layout for r in readings]), kept_at)
        given = [k for k, of in enumerate(memory) if of is not None]
        zero = [k for k in range(n_states, 2 * n_states) if memory[k] is None]
        final = tuple([zeros(key.dtype, cell.size(cell.states[k - n_states], key.n), key.m) for k in zero])
        places = [*range(n_states, 2 * n_states), *[k for k in given if k < n_states]]
        changes = [*[of and to_rows(of) for of in memory[n_states:]], *[r.change for r in readings if r]]
        self._select = Selection([(*given, *zero).index(k) for k in places], changes, final)
        shapes = [(key.n_steps, key.m, cell.size(name, key.n)) for name in cell.inputs]
        shapes += [] if key.indices else [(key.n_steps, key.m, key.n_x)]
        self._results = [allocation(shape, key.dtype) for shape in shapes]

    def run(self, kept: Arrays, cotangents: Arrays, lengths: np.ndarray | None) -> Gradients:
        """Run the pass on arrays, memory first, that hold all that a forward pass has kept, with given cotangents."""
        job, results = self.job, [allocate() for allocate in self._results]
        memory = job.block.memory()
        ends = () if lengths is None else (np.ascontiguousarray(lengths, np.int64),)
        job.run((memory, *kept, *results, *self._select(cotangents), *ends))
        parts = [d.T for d in results]
        dx = None if self.key.indices else parts.pop()
        gradients, ds = job.block.gradients(memory)
        return Gradients(dx, tuple([d.T for d in ds]), gradients, tuple(parts))
