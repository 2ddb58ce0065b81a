"""The compiled engine for NumPy arrays: one compiled job for a whole pass, on a team of threads.

Here memory is allocated, and a plan of the pass is bound to it and run. What is done in which stage stands in
`descriptor`; how, in `loops.passes` (the loops), `codegen.gemm` (products), `codegen.pointwise` (the cells'
mathematics) and `codegen.copy`; who does it, in `runtime.thread_pool`; how it is compiled and kept, in
`runtime.object_cache`. See `rnnx.engines` for the interface.

Dimensions: T steps, m examples, n units, n_x inputs, G gates of a stage; L numbers of a vector.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rnnx.cells import Cell
from rnnx.cells.parameters import StageGradients
from rnnx.engines.cpu.codegen.gemm import n_vectors
from rnnx.engines.cpu.dense import matmul as matmul
from rnnx.engines.cpu.descriptor import fields as P
from rnnx.engines.cpu.descriptor.backward import backward_template, gradient_shapes
from rnnx.engines.cpu.descriptor.builder import Shape, Template, address
from rnnx.engines.cpu.descriptor.forward import forward_shapes, forward_template, step_template
from rnnx.engines.cpu.descriptor.stages import Layout, kernels_of, places_in_block
from rnnx.engines.cpu.runtime.buffer_pool import LINE, empty, workspace
from rnnx.engines.cpu.runtime.thread_pool import alone_ns, split, team
from rnnx.engines.legacy import Legacy, StageWeights

Arrays = tuple[np.ndarray, ...]


def compile_ahead(cell: Cell, dtype: str) -> None:
    """Compile, or load, all that a cell needs, by running it on one element."""
    from rnnx.engines.legacy import pack

    def ones(*shape: int) -> np.ndarray:
        return np.ones(shape, dtype)

    parameters = {k: ones(1, 3 - len(gate.weights)) for gate in cell.gates for k in gate.weights}
    parameters |= {gate.bias: ones(1, 1) for gate in cell.gates}
    weights, s0, x = pack(np, cell, parameters), (ones(1, 1),) * len(cell.states), ones(1, 1, 2)
    X, S, K, _, weights = forward(np, cell, x, weights, s0, None, True)
    backward(np, cell, (x,) + (None,) * (len(s0) - 1), (None,) * len(s0), weights, X, S, K, None)
    for external in itertools.product((False, True), repeat=len(s0)):
        kernels_of(cell, x.dtype, external)


# --- memory -------------------------------------------------------------------------------------------------------


_C_CONTIGUOUS_AND_ALIGNED = 0x101  # of the flags of NumPy's C interface


def _own(a: np.ndarray) -> np.ndarray:
    """C-contiguous and aligned: what the jobs read."""
    ready = a.flags.num & _C_CONTIGUOUS_AND_ALIGNED == _C_CONTIGUOUS_AND_ALIGNED
    return a if ready else np.array(a, order="C")


def _block(dtype: np.dtype, shapes: Sequence[tuple[int, ...]]) -> tuple[list[np.ndarray], int]:
    """Arrays side by side in one piece of memory, each at the beginning of a cache line; where it begins."""
    places, size = places_in_block(dtype.itemsize, tuple(shapes))
    memory = empty((size + LINE,), np.uint8)
    base = address(memory)
    shift = -base % LINE
    arrays = [np.ndarray(shape, dtype, memory, shift + at) for shape, at in zip(shapes, places, strict=True)]
    return arrays, base + shift


def _parameters(weights: tuple[StageWeights, ...]) -> list[np.ndarray]:
    """All arrays of the weights, stage by stage, gate by gate: matrices, bias, recurrent bias."""
    arrays = []
    for w in weights:
        for matrices, bias, other in zip(w.weights, w.bias, w.recurrent_bias, strict=True):
            arrays += [*matrices, bias] if other is None else [*matrices, bias, other]
    return list(map(_own, arrays))


def _recurrent(weights: tuple[StageWeights, ...]) -> tuple[tuple[bool, ...], ...]:
    """Which gates have a recurrent bias."""
    return tuple(tuple(b is not None for b in w.recurrent_bias) for w in weights)


def _like(weights: tuple[StageWeights, ...], arrays: Sequence[np.ndarray]) -> tuple[StageWeights, ...]:
    """The same weights, from arrays in the order of `_parameters`."""
    remaining = iter(arrays)
    result = []
    for w in weights:
        matrices, bias, recurrent = [], [], []
        for given, other in zip(w.weights, w.recurrent_bias, strict=True):
            matrices.append(tuple(next(remaining) for _ in given))
            bias.append(next(remaining))
            recurrent.append(None if other is None else next(remaining))
        result.append(StageWeights(w.xp, w.n, tuple(matrices), tuple(bias), tuple(recurrent)))
    return tuple(result)


def _layout_of(a: np.ndarray) -> tuple[np.ndarray, Layout]:
    """The array, or a copy of it if it lies in no order that a job reads."""
    features, _, n_steps = a.shape
    item, flags = a.itemsize, a.flags
    if flags.f_contiguous and flags.aligned:
        return a, Layout(a.strides, True, True)
    by_feature = a.strides[0] == item or features == 1
    if not (flags.aligned and (by_feature or a.strides[2] == item or n_steps == 1)):
        a, by_feature = np.array(a, order="F"), True
    return a, Layout(a.strides, False, by_feature)


def _inputs(x: np.ndarray, own: bool) -> tuple[np.ndarray, Layout | None]:
    """The inputs that a job is given, and how they lie if it has to copy them; else it reads them as they are."""
    if x.ndim == 2:
        return np.asfortranarray(x, np.int64), None
    x, layout = _layout_of(x)
    return x, layout if own or not layout.time_major else None


def _split(cell: Cell, shape: Shape, dtype: np.dtype) -> tuple[int, bool]:
    """How many threads do the job, and whether they share the units."""
    n_steps, m, n, *_ = shape
    arrays = 2 * len(cell.states) + len(cell.saved) + len(cell.gates)
    shared = arrays if n * dtype.itemsize % LINE else 0
    return split(n_steps, m, shape.products(len(cell.gates)), -(-n_vectors(dtype, n) // P.PANEL_UNITS), shared)


def _run(
    cell: Cell, shape: Shape, dtype: np.dtype, bases: list[int], make: Callable[..., Template], *about: Any
) -> None:
    """Do the job of the plan ``make(cell, dtype, shape, threads, wide, *about)`` on the arrays at `bases`."""
    threads, wide = _split(cell, shape, dtype)
    held = False
    try:
        if threads > 1:
            held = team().hold(threads, alone_ns(shape.m, shape.products(len(cell.gates))))
            threads, wide = (threads, wide) if held else (1, False)
        template = make(cell, dtype, shape, threads, wide, *about)
        with workspace(template.workspace) as place:
            template.run([place, *bases])
    finally:
        if held:
            team().release()


# --- forward ------------------------------------------------------------------------------------------------------


def forward(
    xp: Any,
    cell: Cell,
    x: np.ndarray,
    weights: tuple[StageWeights, ...],
    s0: Arrays,
    lengths: np.ndarray | None,
    keep: bool,
) -> tuple[np.ndarray, Arrays, Arrays, Arrays, tuple[StageWeights, ...]]:
    """See `rnnx.engines`."""
    del xp
    (m, n_steps), n, dtype = x.shape[-2:], s0[0].shape[0], s0[0].dtype
    shape = Shape(n_steps, m, n, weights[0].n_x, x.ndim == 2)
    own = keep or lengths is not None
    x, layout = _inputs(x, own)
    arrays, block = _block(dtype, forward_shapes(cell, shape, keep, layout is not None))
    states, saved, X = tuple(arrays[: len(s0)]), tuple(arrays[len(s0) : -1]), arrays[-1]
    for S, s in zip(states, s0, strict=True):
        S[0] = s.T
    given = _parameters(weights)
    bases = [block, address(x)]
    if lengths is not None:
        lengths = np.ascontiguousarray(lengths, np.int64)
        bases.append(address(lengths))
    if own:
        outputs = tuple(empty((n_steps, m, n), dtype) for _ in s0)
        bases += map(address, outputs)
    else:
        outputs = tuple(S[1:] for S in states)
    bases += map(address, given)
    if keep:
        copies, place = _block(dtype, [a.shape for a in given])
        bases.append(place)
    _run(cell, shape, dtype, bases, forward_template, keep, lengths is not None, layout, _recurrent(weights))
    kept = _like(weights, copies) if keep else ()
    return x.T if layout is None else X, states, saved, outputs, kept


# --- backward -----------------------------------------------------------------------------------------------------


def backward(
    xp: Any,
    cell: Cell,
    dS: tuple[np.ndarray | None, ...],
    dlast: tuple[np.ndarray | None, ...],
    weights: tuple[StageWeights, ...],
    X: np.ndarray,
    S: Arrays,
    K: Arrays,
    lengths: np.ndarray | None,
) -> tuple[np.ndarray | None, Arrays, list[StageGradients]]:
    """See `rnnx.engines`."""
    del xp
    (n_steps, m), n, dtype = X.shape[:2], S[0].shape[2], S[0].dtype
    shape = Shape(n_steps, m, n, weights[0].n_x, X.ndim == 2)
    X = np.ascontiguousarray(X, np.int64) if shape.indices else _own(X)
    S, K = tuple(map(_own, S)), tuple(map(_own, K))
    outside = [None if d is None else _layout_of(d) for d in dS]
    ds = tuple(np.zeros((m, n), dtype) if d is None else np.array(d.T, order="C") for d in dlast)
    dX = None if shape.indices else empty(X.shape, dtype)
    gradients, block = _block(dtype, gradient_shapes(cell, dtype, shape))
    given = _parameters(weights)
    inputs = (X,) if dX is None else (X, dX)
    bases = [address(a) for a in (*S, *K, *inputs, *ds, *(d[0] for d in outside if d is not None), *given)]
    bases.append(block)
    if lengths is not None:
        lengths = np.ascontiguousarray(lengths, np.int64)
        bases.append(address(lengths))
    layouts = tuple(None if d is None else d[1] for d in outside)
    recurrent = _recurrent(weights)
    _run(cell, shape, dtype, bases, backward_template, lengths is not None, layouts, recurrent)
    return dX, ds, _as_gradients(cell, n, gradients, recurrent)


def _as_gradients(cell: Cell, n: int, arrays: list[np.ndarray], recurrent: Any) -> list[StageGradients]:
    result = []
    for i, stage in enumerate(cell.stages):
        dw, db, db_h = arrays[3 * i : 3 * i + 3]
        n_c = len(stage.gates) * n
        result.append(StageGradients(dw, db[:n_c], db_h[:n_c] if any(recurrent[i]) else None))
    return result


# --- one step at a time -------------------------------------------------------------------------------------------


class Stepper:
    """See `rnnx.engines`. The weights are packed once; the state goes back and forth between two places."""

    def __init__(self, xp: Any, cell: Cell, weights: tuple[StageWeights, ...], s0: Arrays) -> None:
        del xp
        n, m = s0[0].shape
        self.dtype = s0[0].dtype
        given = _parameters(weights)
        n_x = weights[0].n_x
        shape, recurrent = Shape(1, m, n, n_x), _recurrent(weights)
        self._memory, block = _block(self.dtype, [*[(2, m, n)] * len(s0), *[(m, n)] * len(cell.saved), (m, n_x)])
        self._xt = self._memory[-1].T
        states = self._memory[: len(s0)]
        self._results = tuple(tuple(S[slot].T for S in states) for slot in (1, 0))
        for result in (*self._results[0], *self._results[1]):
            result.flags.writeable = False  # the caller's; the state is moved on behind it
        threads, wide = _split(cell, shape, self.dtype)
        if not wide:  # without the team, what is planned for several threads must do with one
            threads = 1
        templates = [step_template(cell, self.dtype, shape, threads, wide, recurrent, slot) for slot in (0, 1)]
        # All that plans take from the workspace is packed weights and scratch: here it lives as long as this.
        self._workspace = empty((templates[0].workspace + LINE,), np.uint8)
        place = address(self._workspace)
        bases = [place + -place % LINE, block, *map(address, given)]
        self._templates, self._plans = templates, [template.bind(bases) for template in templates]
        self._addresses = [address(plan) for plan in self._plans]
        self._threads, self._job = threads, templates[0].native
        self._nanoseconds = alone_ns(m, shape.products(len(cell.gates)))
        self._pack(templates[0], bases)
        self.set(s0)

    def set(self, states: Arrays) -> None:
        """See `rnnx.engines`."""
        self._slot = 0
        for S, s in zip(self._memory, states, strict=False):
            S[0] = s.T

    def _pack(self, template: Template, bases: Sequence[int]) -> None:
        """Pack the weights, by a step whose result is not used."""
        plan = template.bind(bases)
        plan[P.PACK] = 1
        for array in self._memory:
            array[...] = 0
        team().run(self._job, 1, address(plan))

    def step(self, xt: np.ndarray) -> Arrays:
        """See `rnnx.engines`."""
        self._xt[...] = xt
        slot = self._slot
        self._slot = 1 - slot
        if self._threads == 1 or not team().hold(self._threads, self._nanoseconds):
            self._job(0, 1, self._addresses[slot])
        else:
            try:
                self._plans[slot][P.BARRIER] = team().barrier  # another one in the child of a fork
                team().run(self._job, self._threads, self._addresses[slot])
            finally:
                team().release()
        return self._results[slot]


ENGINE = Legacy(forward, backward, matmul, Stepper)
