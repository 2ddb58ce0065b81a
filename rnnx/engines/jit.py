"""The compiled engine for NumPy arrays: one compiled job for a whole pass, on a team of threads.

Here memory is allocated, and a pass is put down as a plan (`_template`): where the arrays are, and what is done with
them in which stage. How it is done stands in `_jit_loops` (the loops), `_tile` (products), `_kernels` (the cells'
mathematics) and `_moves`; who does it in `_team`; how it is compiled and kept in `_native`. See `rnnx.engines` for
the interface.

Dimensions: T steps, m examples, n units, n_x inputs, G gates of a stage; L numbers of a vector.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from rnnx._layout import StageGradients, StageWeights
from rnnx.cells import Cell
from rnnx.engines import _native
from rnnx.engines import _plan as P
from rnnx.engines._kernels import N_STRIDES, emit_kernels
from rnnx.engines._memory import LINE, empty, workspace
from rnnx.engines._team import alone_ns, split, team
from rnnx.engines._template import Template, address, lines, product
from rnnx.engines._tile import K_BLOCK, ROW_BLOCK, n_vectors, panel_vectors

Arrays = tuple[np.ndarray, ...]
Shape = tuple[int, int, int, int]  # T, m, n, n_x

_ROWS_OF_A_CHUNK = 48  # a thread that has all examples computes the input sides of so many rows at once
_TEMPLATES = 256  # that are kept, of each kind


@lru_cache(maxsize=256)
def _kernels(cell: Cell, dtype: np.dtype, external: tuple[bool, ...]) -> Any:
    return _native.functions(lambda module: emit_kernels(module, cell, dtype, external))


def compile_ahead(cell: Cell, dtype: str) -> None:
    """Compile, or load, all that a cell needs, by running it on one element."""
    from rnnx._layout import pack

    def ones(*shape: int) -> np.ndarray:
        return np.ones(shape, dtype)

    parameters = {k: ones(1, 3 - len(gate.weights)) for gate in cell.gates for k in gate.weights}
    parameters |= {gate.bias: ones(1, 1) for gate in cell.gates}
    weights, s0, x = pack(np, cell, parameters), (ones(1, 1),) * len(cell.states), ones(1, 1, 2)
    X, S, K, _, weights = forward(np, cell, x, weights, s0, None, True)
    backward(np, cell, (x,) + (None,) * (len(s0) - 1), (None,) * len(s0), weights, X, S, K, None)
    for external in itertools.product((False, True), repeat=len(s0)):
        _kernels(cell, x.dtype, external)


# --- memory -------------------------------------------------------------------------------------------------------


def _own(a: np.ndarray) -> np.ndarray:
    """C-contiguous and aligned: what the jobs read."""
    return a if a.flags.c_contiguous and a.flags.aligned else np.array(a, order="C")


def _block(dtype: np.dtype, shapes: Sequence[tuple[int, ...]]) -> tuple[list[np.ndarray], int]:
    """Arrays side by side in one piece of memory, each at the beginning of a cache line; where it begins."""
    places, size = _places(dtype.itemsize, tuple(shapes))
    memory = empty((size + LINE,), np.uint8)
    base = address(memory)
    shift = -base % LINE
    arrays = [np.ndarray(shape, dtype, memory, shift + at) for shape, at in zip(shapes, places, strict=True)]
    return arrays, base + shift


@lru_cache(maxsize=_TEMPLATES)
def _places(item: int, shapes: tuple[tuple[int, ...], ...]) -> tuple[list[int], int]:
    """Where the arrays of a block begin, and how large it is."""
    places, size = [], 0
    for shape in shapes:
        places.append(size)
        size += lines(math.prod(shape) * item)
    return places, size


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


class _Layout(NamedTuple):
    """How a public array (features, m, T) lies in memory, as far as a job has to know."""

    strides: tuple[int, ...]
    time_major: bool  # (T, m, features) in C order as it is
    by_feature: bool  # features are contiguous; else steps are


def _layout_of(a: np.ndarray) -> tuple[np.ndarray, _Layout]:
    """The array, or a copy of it if it lies in no order that a job reads."""
    features, _, n_steps = a.shape
    item, flags = a.itemsize, a.flags
    if flags.f_contiguous and flags.aligned:
        return a, _Layout(a.strides, True, True)
    by_feature = a.strides[0] == item or features == 1
    if not (flags.aligned and (by_feature or a.strides[2] == item or n_steps == 1)):
        a, by_feature = np.array(a, order="F"), True
    return a, _Layout(a.strides, False, by_feature)


def _conversion(template: Template, source: int, layout: _Layout, features: int, to: int, ends: bool) -> list[int]:
    """The entry of an array that the job makes time-major."""
    feature, example, step = layout.strides
    return [to, features, source, template.item if layout.by_feature else feature, example, step, int(ends)]


def _products(cell: Cell, shape: Shape) -> int:
    """Multiplications of a forward pass; a backward pass has twice as many."""
    n_steps, m, n, n_x = shape
    return n_steps * m * n * (n + n_x) * len(cell.gates)


def _split(cell: Cell, shape: Shape, dtype: np.dtype) -> tuple[int, bool]:
    """How many threads do the job, and whether they share the units."""
    n_steps, m, n, _ = shape
    arrays = 2 * len(cell.states) + len(cell.saved) + len(cell.gates)
    shared = arrays if n * dtype.itemsize % LINE else 0
    return split(n_steps, m, _products(cell, shape), -(-n_vectors(dtype, n) // P.PANEL_UNITS), shared)


@contextlib.contextmanager
def _sharing(cell: Cell, shape: Shape, dtype: np.dtype) -> Iterator[tuple[int, bool]]:
    """As `_split`, with the team held for the threads."""
    threads, wide = _split(cell, shape, dtype)
    if threads > 1 and not team().hold(threads, alone_ns(shape[1], _products(cell, shape))):
        threads, wide = 1, False
    try:
        yield threads, wide
    finally:
        if threads > 1:
            team().release()


# --- what the plans of both directions have in common -------------------------------------------------------------


class _OverTime(NamedTuple):
    """Addresses of the arrays over time, and their strides from step to step."""

    cell: Cell
    states: Sequence[int]
    saved: Sequence[int]
    step: int  # of the states
    saved_step: int

    def into(self, i: int) -> list[tuple[int, int]]:
        """What enters stage i: (address at step 0, stride)."""
        if i == 0:
            return [(s, self.step) for s in self.states]
        return [(k, self.saved_step) for k in self.saved[self.cell.saved_slices[i - 1][1]]]

    def out_of(self, i: int) -> list[tuple[int, int]]:
        """What leaves it."""
        if i == len(self.cell.stages) - 1:
            return [(s + self.step, self.step) for s in self.states]
        return [(k, self.saved_step) for k in self.saved[self.cell.saved_slices[i][1]]]

    def kept(self, i: int) -> list[tuple[int, int]]:
        """What else it saves."""
        return [(k, self.saved_step) for k in self.saved[self.cell.saved_slices[i][0]]]


def _gates(template: Template, cell: Cell, recurrent: tuple[tuple[bool, ...], ...], bases: Iterator[int]) -> list[int]:
    """The lists of the gates' parameters, per stage, for arrays at the given bases in the order of `_parameters`."""
    n, n_x, item = template.n, template.n_x, template.item
    places = []
    for stage, biases in zip(cell.stages, recurrent, strict=True):
        values: list[int] = []
        for gate, other in zip(stage.gates, biases, strict=True):
            if len(gate.weights) == 2:
                inputs, hidden = next(bases), next(bases)
                values += [hidden, n * item, inputs, n_x * item]
            else:
                both = next(bases)
                values += [both, (n + n_x) * item, both + n * item, (n + n_x) * item]
            values += [next(bases), next(bases) if other else 0]
        places.append(template.append(values))
    return places


def _stage(cell: Cell, i: int, gates: int) -> dict[int, int]:
    stage = cell.stages[i]
    return {
        P.N_GATES: len(stage.gates),
        P.GATES: gates,
        P.ADDITIVE: int(stage.additive),
        P.LAST: int(i == len(cell.stages) - 1),
        P.N_OUT: len(stage.out),
        P.N_KEPT: len(stage.saved),
    }


def _pointers(template: Template, pointers: Sequence[tuple[int, int, int]]) -> dict[int, int]:
    """The kernel's arrays: (address at step 0, stride of a step, 1 if a row has all gates)."""
    flat = [value for pointer in pointers for value in pointer]
    return {P.POINTERS: template.append(flat), P.N_POINTERS: len(pointers)}


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
    (n_x, m, n_steps), n, dtype = x.shape, s0[0].shape[0], x.dtype
    shape = (n_steps, m, n, n_x)
    x, layout = _layout_of(x)
    own = keep or lengths is not None
    arrays, block = _block(dtype, _forward_shapes(cell, shape, keep, own or not layout.time_major))
    states, saved, X = tuple(arrays[: len(s0)]), tuple(arrays[len(s0) : -1]), arrays[-1]
    for S, s in zip(states, s0, strict=True):
        S[0] = s.T
    given = _parameters(weights)
    outputs, bases = states, [block, address(x)]
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
    with _sharing(cell, shape, dtype) as (threads, wide):
        template = _forward_template(
            cell, dtype, shape, threads, wide, keep, lengths is not None, layout, _recurrent(weights)
        )
        with workspace(template.workspace) as place:
            template.run([place, *bases])
    kept = _like(weights, copies) if keep else ()
    return X if own or not layout.time_major else x.T, states, saved, outputs, kept


@lru_cache(maxsize=_TEMPLATES)
def _forward_shapes(cell: Cell, shape: Shape, keep: bool, own_x: bool) -> list[tuple[int, ...]]:
    """States, saved values (without `keep` every step writes over those of the step before), inputs."""
    n_steps, m, n, n_x = shape
    shapes: list[tuple[int, ...]] = [(n_steps + 1, m, n)] * len(cell.states)
    shapes += [(n_steps if keep else 1, m, n)] * len(cell.saved)
    return [*shapes, (n_steps, m, n_x) if own_x else (0,)]


@lru_cache(maxsize=_TEMPLATES)
def _forward_template(
    cell: Cell,
    dtype: np.dtype,
    shape: Shape,
    threads: int,
    wide: bool,
    keep: bool,
    ends: bool,
    layout: _Layout,
    recurrent: tuple[tuple[bool, ...], ...],
) -> Template:
    """The plan of a forward pass.

    Bases: the block of states, saved values and inputs; x; lengths if there are; the caller's states if they are
    copies; the parameters; if they are kept, the block of their copies.
    """
    t = Template("forward", dtype, shape, threads, wide)
    v, n_states, own = t.values, len(cell.states), keep or ends
    block, x = t.base(), t.base()
    places, _ = _places(t.item, tuple(_forward_shapes(cell, shape, keep, own or not layout.time_major)))
    time = _OverTime(
        cell,
        [block + at for at in places[:n_states]],
        [block + at for at in places[n_states:-1]],
        t.step,
        t.step if keep else 0,
    )
    if ends:
        v[P.LENGTHS] = t.base()
    v[P.X], v[P.X_ROW], v[P.X_STEP] = x, t.n_x * t.item, t.m * t.n_x * t.item
    if own or not layout.time_major:
        v[P.X] = block + places[-1]
        t.conversions([_conversion(t, x, layout, t.n_x, v[P.X], ends=True)])
    if own:
        pairs = [value for S in time.states for value in (S + t.step, t.base())]
        v[P.N_OUTPUTS], v[P.OUTPUTS] = n_states, t.append(pairs)
    shapes = _parameter_shapes(cell, t.n, t.n_x, recurrent)
    parameters = [t.base() for _ in shapes]
    if keep:
        copies, (to, _) = t.base(), _places(t.item, tuple(shapes))
        values = []
        for source, (rows, columns), at in zip(parameters, shapes, to, strict=True):
            rows, columns = (1, rows) if columns == 1 else (rows, columns)
            values += [source, columns * t.item, rows, columns, copies + at]
        v[P.COPIES], v[P.N_COPIES] = t.append(values), len(shapes)
    if t.rows == t.m:
        v[P.CHUNK] = max(1, min(t.n_steps, _ROWS_OF_A_CHUNK // t.m))
    return _finish_forward(t, cell, time, _gates(t, cell, recurrent, iter(parameters)))


def _finish_forward(t: Template, cell: Cell, time: _OverTime, gates: list[int]) -> Template:
    stages, v = _forward_stages(t, cell, time, gates), t.values
    widest = max(stage[P.VECTORS] for stage in stages) * t.size
    v[P.Z_SIZE] = lines(widest * t.rows * v[P.CHUNK])
    most = max(stage[P.N_POINTERS] for stage in stages)
    t.scratch(ARGUMENTS=8 * (N_STRIDES + 2 + most), Z=v[P.Z_SIZE] * (len(stages) + 1))
    return t.finish(stages)


def _parameter_shapes(cell: Cell, n: int, n_x: int, recurrent: Any) -> list[tuple[int, int]]:
    """Shapes of the arrays of `_parameters`."""
    shapes = []
    for stage, biases in zip(cell.stages, recurrent, strict=True):
        for gate, other in zip(stage.gates, biases, strict=True):
            shapes += [(n, n_x), (n, n)] if len(gate.weights) == 2 else [(n, n + n_x)]
            shapes += [(n, 1)] * (1 + other)
    return shapes


def _forward_stages(t: Template, cell: Cell, time: _OverTime, gates: list[int]) -> list[dict[int, int]]:
    kernels = _kernels(cell, t.dtype, (True,) + (False,) * (len(cell.states) - 1))
    stages = []
    for i, stage in enumerate(cell.stages):
        into, n_gates = time.into(i), len(stage.gates)
        vectors = n_vectors(t.dtype, t.n) * n_gates
        columns = vectors * t.lanes
        stages.append(
            {
                **_stage(cell, i, gates[i]),
                P.W_H: t.take(t.n, columns),
                P.W_X: t.take(t.n_x, columns),
                P.BIAS: t.take(columns),
                P.BIAS_H: 0 if stage.additive else t.take(columns),
                P.VECTORS: vectors,
                P.NV: panel_vectors(n_gates),
                P.PRODUCT: product(t.dtype, panel_vectors(n_gates)),
                P.OPERAND: into[0][0],
                P.OPERAND_STEP: into[0][1],
                P.KERNEL: kernels[f"forward_{i}"],
                P.KERNEL_TAIL: kernels[f"forward_{i}_tail"],
                P.N_IN: len(into),
                **_pointers(t, [(*pair, 0) for pair in (*into, *time.out_of(i), *time.kept(i))]),
            }
        )
    return stages


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
) -> tuple[np.ndarray, Arrays, list[StageGradients]]:
    """See `rnnx.engines`."""
    del xp
    (n_steps, m, n_x), n, dtype = X.shape, S[0].shape[2], X.dtype
    shape = (n_steps, m, n, n_x)
    X, S, K = _own(X), tuple(map(_own, S)), tuple(map(_own, K))
    outside = [None if d is None else _layout_of(d) for d in dS]
    ds = tuple(np.zeros((m, n), dtype) if d is None else np.array(d.T, order="C") for d in dlast)
    dX = empty((n_steps, m, n_x), dtype)
    gradients, block = _block(dtype, _gradient_shapes(cell, dtype, shape))
    given = _parameters(weights)
    bases = [address(a) for a in (*S, *K, X, dX, *ds, *(d[0] for d in outside if d is not None), *given)]
    bases.append(block)
    if lengths is not None:
        lengths = np.ascontiguousarray(lengths, np.int64)
        bases.append(address(lengths))
    layouts = tuple(None if d is None else d[1] for d in outside)
    recurrent = _recurrent(weights)
    with _sharing(cell, shape, dtype) as (threads, wide):
        template = _backward_template(cell, dtype, shape, threads, wide, lengths is not None, layouts, recurrent)
        with workspace(template.workspace) as place:
            template.run([place, *bases])
    return dX, ds, _as_gradients(cell, n, gradients, recurrent)


def _gradient_shapes(cell: Cell, dtype: np.dtype, shape: Shape) -> list[tuple[int, ...]]:
    """Per stage dW, the sums for the biases and those for the recurrent biases, in whole vectors."""
    _, _, n, n_x = shape
    shapes: list[tuple[int, ...]] = []
    for stage in cell.stages:
        n_c = len(stage.gates) * n
        columns = lines(n_c * dtype.itemsize) // dtype.itemsize
        shapes += [(n_c, n + n_x), (columns,), (columns,)]
    return shapes


def _as_gradients(cell: Cell, n: int, arrays: list[np.ndarray], recurrent: Any) -> list[StageGradients]:
    result = []
    for i, stage in enumerate(cell.stages):
        dw, db, db_h = arrays[3 * i : 3 * i + 3]
        n_c = len(stage.gates) * n
        result.append(StageGradients(dw, db[:n_c], db_h[:n_c] if any(recurrent[i]) else None))
    return result


@lru_cache(maxsize=_TEMPLATES)
def _backward_template(
    cell: Cell,
    dtype: np.dtype,
    shape: Shape,
    threads: int,
    wide: bool,
    ends: bool,
    layouts: tuple[_Layout | None, ...],
    recurrent: tuple[tuple[bool, ...], ...],
) -> Template:
    """The plan of a backward pass.

    Bases: states, saved values, inputs, dx, cotangents of the state, those from outside that are given, parameters,
    the block of `_gradient_shapes`; lengths if there are.
    """
    t = Template("backward", dtype, shape, threads, wide)
    v = t.values
    time = _OverTime(cell, [t.base() for _ in cell.states], [t.base() for _ in cell.saved], t.step, t.step)
    v[P.X], v[P.DX], v[P.FLAT_DX] = t.base(), t.base(), int(t.rows == t.m)
    ds = [t.base() for _ in cell.states]
    outside, conversions = [], []
    for layout in layouts:
        if layout is not None:
            outside.append(t.base())
            if not layout.time_major:
                source, outside[-1] = outside[-1], t.take(t.n_steps, t.m, t.n)
                conversions.append(_conversion(t, source, layout, t.n, outside[-1], ends=False))
    t.conversions(conversions)
    parameters = [t.base() for _ in _parameter_shapes(cell, t.n, t.n_x, recurrent)]
    gradients = t.base()
    if ends:
        v[P.LENGTHS] = t.base()
    kernels = _kernels(cell, dtype, tuple(layout is not None for layout in layouts))
    gates = _gates(t, cell, recurrent, iter(parameters))
    stages = _backward_stages(t, cell, time, gates, kernels, ds, outside)
    places, _ = _places(t.item, tuple(_gradient_shapes(cell, dtype, shape)))
    for i, stage in enumerate(stages):
        stage[P.DW], stage[P.DB_X], stage[P.DB_H] = (gradients + at for at in places[3 * i : 3 * i + 3])
    most = max(stage[P.N_POINTERS] for stage in stages)
    columns = (n_vectors(dtype, t.n) + n_vectors(dtype, t.n_x)) * t.lanes
    t.scratch(
        ARGUMENTS=8 * (N_STRIDES + most),
        BLOCK_A=K_BLOCK * (ROW_BLOCK + t.lanes) * t.item,
        BLOCK_B=min(K_BLOCK, t.n_steps * t.m) * columns * t.item,
    )
    return t.finish(stages)


def _backward_stages(
    t: Template, cell: Cell, time: _OverTime, gates: list[int], kernels: Any, ds: list[int], outside: list[int]
) -> list[dict[int, int]]:
    mid = [t.take(t.m, t.n) for _ in cell.saved]  # cotangents between the stages
    stages = []
    for i, stage in enumerate(cell.stages):
        last, n_c = i == len(cell.stages) - 1, len(stage.gates) * t.n
        d_out = ds if last else mid[cell.saved_slices[i][1]]
        d_in = ds if i == 0 else mid[cell.saved_slices[i - 1][1]]
        dz = [t.take(t.n_steps, t.m, n_c) for _ in range(1 if stage.additive else 2)]
        pointers = [(d, 0, 0) for d in d_out] + [(d, t.step, 0) for d in outside if last]
        pointers += [(*pair, 0) for pair in (*time.into(i), *time.out_of(i), *time.kept(i))]
        pointers += [(d, t.step * len(stage.gates), 1) for d in dz] + [(d, 0, 0) for d in d_in]
        stages.append(
            {
                **_stage(cell, i, gates[i]),
                P.W_H: t.take(n_c, n_vectors(t.dtype, t.n) * t.lanes),
                P.W_X: t.take(n_c, n_vectors(t.dtype, t.n_x) * t.lanes),
                P.OPERAND: time.into(i)[0][0],
                P.KERNEL: kernels[f"backward_{i}"],
                P.KERNEL_TAIL: kernels[f"backward_{i}_tail"],
                P.DZ_X: dz[0],
                P.DZ_H: dz[-1],
                P.D_OPERAND: d_in[0],
                **_pointers(t, pointers),
            }
        )
    return stages


# --- one step at a time -------------------------------------------------------------------------------------------


class Stepper:
    """See `rnnx.engines`. The weights are packed once; the state goes back and forth between two places."""

    def __init__(self, xp: Any, cell: Cell, weights: tuple[StageWeights, ...], s0: Arrays) -> None:
        del xp
        n, m = s0[0].shape
        self.dtype = s0[0].dtype
        given = _parameters(weights)
        n_x = weights[0].inputs[0].shape[1]
        shape, recurrent = (1, m, n, n_x), _recurrent(weights)
        self._memory, block = _block(self.dtype, [*[(2, m, n)] * len(s0), *[(m, n)] * len(cell.saved), (m, n_x)])
        self._xt = self._memory[-1].T
        states = self._memory[: len(s0)]
        self._results = tuple(tuple(S[slot].T for S in states) for slot in (1, 0))
        for result in (*self._results[0], *self._results[1]):
            result.flags.writeable = False  # the caller's; the state is moved on behind it
        threads, wide = _split(cell, shape, self.dtype)
        if not wide:  # without the team, what is planned for several threads must do with one
            threads = 1
        templates = [_step_template(cell, self.dtype, shape, threads, wide, recurrent, slot) for slot in (0, 1)]
        # All that plans take from the workspace is packed weights and scratch: here it lives as long as this.
        self._workspace = empty((templates[0].workspace + LINE,), np.uint8)
        place = address(self._workspace)
        bases = [place + -place % LINE, block, *map(address, given)]
        self._templates, self._plans = templates, [template.bind(bases) for template in templates]
        self._addresses = [address(plan) for plan in self._plans]
        self._threads, self._job = threads, templates[0].native
        self._nanoseconds = alone_ns(shape[1], _products(cell, shape))
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


@lru_cache(maxsize=_TEMPLATES)
def _step_template(
    cell: Cell,
    dtype: np.dtype,
    shape: Shape,
    threads: int,
    wide: bool,
    recurrent: tuple[tuple[bool, ...], ...],
    slot: int,
) -> Template:
    """The plan of one step from one place of the state to the other.

    Bases: the block of states (both places), saved values and inputs; the parameters.
    """
    t = Template("forward", dtype, shape, threads, wide)
    n_states, block = len(cell.states), t.base()
    shapes = [*[(2, t.m, t.n)] * n_states, *[(t.m, t.n)] * len(cell.saved), (t.m, t.n_x)]
    places, _ = _places(t.item, tuple(shapes))
    states = [block + at + slot * t.step for at in places[:n_states]]
    time = _OverTime(cell, states, [block + at for at in places[n_states:-1]], -t.step if slot else t.step, 0)
    t.values[P.PACK] = 0
    t.values[P.X], t.values[P.X_ROW] = block + places[-1], t.n_x * t.item
    parameters = [t.base() for _ in _parameter_shapes(cell, t.n, t.n_x, recurrent)]
    return _finish_forward(t, cell, time, _gates(t, cell, recurrent, iter(parameters)))
