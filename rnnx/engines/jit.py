"""The compiled engine for NumPy arrays: one compiled job for a whole pass, on a team of threads.

Here a pass is put down as a plan: memory is allocated, and addresses, counts and strides are listed. What is done
with them stands in `_jit_loops` (the loops), `_tile` (products), `_kernels` (the cells' mathematics) and `_moves`;
who does it in `_team`; how it is compiled and kept in `_native`. See `rnnx.engines` for the interface.

Dimensions: T steps, m examples, n units, n_x inputs, G gates of a stage; L numbers of a vector.
"""

import ctypes
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from rnnx._layout import StageGradients, StageWeights
from rnnx.cells import Cell
from rnnx.engines import _native
from rnnx.engines import _plan as P
from rnnx.engines._ir import lanes
from rnnx.engines._kernels import N_STRIDES, emit_kernels
from rnnx.engines._memory import Workspace, empty
from rnnx.engines._moves import emit_moves
from rnnx.engines._team import split, system_functions, team
from rnnx.engines._tile import K_BLOCK, ROW_BLOCK, emit_product, n_vectors, panel_vectors

Arrays = tuple[np.ndarray, ...]

_LINE = 64
_BYTE: Any = ctypes.c_char
_ROWS_OF_A_CHUNK = 48  # a thread that has all examples computes the input sides of so many rows at once
_PANEL_UNITS = 4  # see _jit_loops


@lru_cache(maxsize=1)
def _jobs() -> Any:
    return _native.loops("_jit_loops", "forward", "backward")


@lru_cache(maxsize=16)
def _product(dtype: np.dtype, panel: int) -> int:
    """The address of the product on panels of so many vectors."""
    return _native.functions(lambda module: emit_product(module, dtype, panel))[f"product_{panel}"]


@lru_cache(maxsize=4)
def _moves(dtype: np.dtype) -> Any:
    return _native.functions(lambda module: emit_moves(module, dtype))


@lru_cache(maxsize=256)
def _kernels(cell: Cell, dtype: np.dtype, external: tuple[bool, ...]) -> Any:
    return _native.functions(lambda module: emit_kernels(module, cell, dtype, external))


def compile_ahead(cell: Cell, dtype: str) -> None:
    """Compile, or load, all that a cell needs, by running it on one element."""
    from rnnx._layout import pack

    one = np.ones((1, 1), dtype)
    parameters = {
        key: np.ones((1, 2 if len(gate.weights) == 1 else 1), dtype) for gate in cell.gates for key in gate.weights
    }
    parameters |= {gate.bias: one for gate in cell.gates}
    weights, s0 = pack(np, cell, parameters), (one,) * len(cell.states)
    x = np.ones((1, 1, 2), dtype)
    result = forward(np, cell, x, weights, s0, None, True)
    for outside in (x, None):
        ds = (outside,) + (None,) * (len(s0) - 1)
        backward(np, cell, ds, (None,) * len(s0), weights, result[0], result[1], result[2], None)


def _address(a: np.ndarray) -> int:
    try:
        return ctypes.addressof(_BYTE.from_buffer(a))
    except (TypeError, ValueError, BufferError):  # read-only, empty or not contiguous; this takes a microsecond
        return int(a.ctypes.data)


def _rows(a: np.ndarray) -> np.ndarray:
    """A matrix whose rows are contiguous: what the jobs read."""
    return a if a.strides[1] == a.itemsize and a.flags.aligned else np.array(a, order="C")


def _gates(weights: StageWeights) -> tuple[list[int], list[np.ndarray]]:
    """Addresses and strides of a stage's parameters, and the arrays that must live as long."""
    values: list[int] = []
    arrays: list[np.ndarray] = []

    def address(a: np.ndarray) -> int:
        arrays.append(a)
        return _address(a)

    for matrices, bias, other in zip(weights.weights, weights.bias, weights.recurrent_bias, strict=True):
        if len(matrices) == 2:
            inputs, hidden = map(_rows, matrices)
            values += [address(hidden), hidden.strides[0], address(inputs), inputs.strides[0]]
        else:
            both = _rows(matrices[0])
            at, row = address(both), both.strides[0]
            values += [at, row, at + weights.n * both.itemsize, row]
        values += [address(_column(bias)), 0 if other is None else address(_column(other))]
    return values, arrays


def _column(a: np.ndarray) -> np.ndarray:
    """(n, 1) whose numbers are contiguous."""
    return a if a.strides[0] == a.itemsize and a.flags.aligned else np.array(a, order="C")


def _block(dtype: np.dtype, *shapes: tuple[int, ...]) -> tuple[list[np.ndarray], list[int]]:
    """Arrays side by side in one piece of memory, each at the beginning of a cache line; and their addresses."""
    places, size = [], 0
    for shape in shapes:
        places.append(size)
        size += -(-math.prod(shape) * dtype.itemsize // _LINE) * _LINE
    memory = empty((size + _LINE,), np.uint8)
    base = _address(memory)
    shift = -base % _LINE
    arrays = [np.ndarray(shape, dtype, memory, shift + at) for shape, at in zip(shapes, places, strict=True)]
    return arrays, [base + shift + at for at in places]


_ZEROS = np.zeros(1 << 16, np.uint8)


class _Plan:
    """The list of integers of a job; with the workspace and the arrays that must live as long as it.

    Used as a context manager, inside of which it has its workspace and, for several threads, the team.
    """

    def __init__(self, cell: Cell, dtype: np.dtype, n_steps: int, m: int, n: int, n_x: int) -> None:
        self.workspace = Workspace()
        self.cell, self.dtype, self.n, self.n_x, self.m = cell, dtype, n, n_x, m
        self.lanes, self.item = lanes(dtype), dtype.itemsize
        self.size = self.lanes * self.item
        self.held: list[Any] = []
        self.values = _header(dtype)
        v = self.values
        v[P.T], v[P.M], v[P.N], v[P.N_X] = n_steps, m, n, n_x
        widest = (max(n, n_x) + self.lanes) * self.item
        if widest > _ZEROS.nbytes:
            v[P.ZEROS] = self.address(np.zeros(widest, np.uint8))
        products = n_steps * m * n * (n + n_x) * len(cell.gates)
        self.sharing = split(n_steps, m, products, -(-n_vectors(dtype, n) // _PANEL_UNITS))

    def __enter__(self) -> "_Plan":
        self.workspace.__enter__()
        self.threads, wide = self.sharing
        if self.threads > 1 and not team().hold(self.threads):
            self.threads, wide = 1, False
        self.values[P.WIDE] = int(wide)
        self.rows = self.m if wide else -(-self.m // self.threads)  # that a thread has at most
        return self

    def __exit__(self, *exception: object) -> None:
        if self.threads > 1:
            team().release()
        self.workspace.__exit__(*exception)

    def append(self, values: Sequence[int]) -> int:
        """The place of a list in the plan."""
        place = len(self.values)
        self.values.extend(values)
        return place

    def address(self, a: np.ndarray) -> int:
        """Of an array that is held until the job is done."""
        self.held.append(a)
        return _address(a)

    def take(self, *shape: int) -> int:
        """Memory for an array, until the job is done."""
        return self.workspace.take(math.prod(shape) * self.item)

    def convert(self, public: np.ndarray, to: int, ends: bool) -> list[int]:
        """How a public array (features, m, T) gets to (T, m, features) at an address."""
        features, _, n_steps = public.shape
        along = (public.strides[0] == self.item or features == 1, public.strides[2] == self.item or n_steps == 1)
        if not (public.flags.aligned and any(along)):
            public, along = np.array(public, order="F"), (True, False)
        feature, example, step = public.strides
        return [to, features, self.address(public), self.item if along[0] else feature, example, step, int(ends)]

    def lengths(self, lengths: np.ndarray | None) -> None:
        if lengths is not None:
            self.values[P.LENGTHS] = self.address(np.ascontiguousarray(lengths, np.int64))

    def conversions(self, lists: Sequence[Sequence[int]]) -> None:
        self.values[P.CONVERSIONS] = self.append([value for one in lists for value in one])
        self.values[P.N_CONVERSIONS] = len(lists)

    def gates(self, weights: StageWeights) -> int:
        """The list of the gates' parameters."""
        if "gates" not in weights.notes:
            weights.notes["gates"] = _gates(weights)
        values, arrays = weights.notes["gates"]
        self.held.append(arrays)
        return self.append(values)

    def copies(self, weights: tuple[StageWeights, ...]) -> tuple[StageWeights, ...]:
        """Memory for the same weights; the job copies them."""
        given: list[np.ndarray] = []
        for w in weights:
            w.map(lambda a: given.append(_rows(a) if a.shape[1] > 1 else _column(a)) or a)  # type: ignore[func-returns-value]
        copies, addresses = _block(self.dtype, *[a.shape for a in given])
        values: list[int] = []
        for a, to in zip(given, addresses, strict=True):
            rows, columns = a.shape if a.shape[1] > 1 else (1, a.shape[0])
            values += [self.address(a), a.strides[0], rows, columns, to]
        self.values[P.COPIES], self.values[P.N_COPIES] = self.append(values), len(given)
        remaining = iter(copies)
        return tuple(w.map(lambda _: next(remaining)) for w in weights)

    def scratch(self, **sizes: int) -> None:
        """Memory of every thread: a place for each name, so many bytes large."""
        at = 0
        for name, size in sizes.items():
            self.values[getattr(P, name)] = at
            at += -(-size // _LINE) * _LINE
        self.values[P.SCRATCH], self.values[P.SCRATCH_SIZE] = self.workspace.take(at * self.threads), at

    def stages(self, lists: Sequence[dict[int, int]]) -> None:
        self.values[P.N_STAGES] = len(lists)
        block = [0] * (P.STAGE_SIZE * len(lists))
        for i, stage in enumerate(lists):
            for place, value in stage.items():
                block[i * P.STAGE_SIZE + place] = value
        self.values[P.STAGES] = self.append(block)

    def run(self, job: str) -> None:
        self.values[P.BARRIER] = team().barrier
        plan = np.array(self.values, np.int64)
        team().run(_jobs()[job], self.threads, _address(plan))


@lru_cache(maxsize=4)
def _constants(dtype: np.dtype) -> tuple[int, ...]:
    """The header of a plan, as far as it is the same for all."""
    v = [0] * P.HEADER_SIZE
    moves = _moves(dtype)
    v[P.ITEM], v[P.LANES], v[P.PACK], v[P.CHUNK] = dtype.itemsize, lanes(dtype), 1, 1
    v[P.YIELD], v[P.ZEROS] = system_functions()["yield"], _address(_ZEROS)
    v[P.COPY], v[P.COPY_MASKED] = moves["copy"], moves["copy_masked"]
    v[P.TRANSPOSE], v[P.TRANSPOSE_MASKED] = moves["transpose"], moves["transpose_masked"]
    v[P.ADD_ROWS] = moves["add_rows"]
    v[P.PLAIN_NV] = panel_vectors(1)
    v[P.PLAIN_PRODUCT] = _product(dtype, panel_vectors(1))
    return tuple(v)


def _header(dtype: np.dtype) -> list[int]:
    return list(_constants(dtype))


class _Memory(NamedTuple):
    """Addresses of the arrays over time, and their strides from step to step."""

    states: Sequence[int]
    saved: Sequence[int]
    step: int  # of the states
    saved_step: int

    def into(self, cell: Cell, i: int) -> list[tuple[int, int]]:
        """What enters stage i: (address at step 0, stride)."""
        if i == 0:
            return [(s, self.step) for s in self.states]
        return [(k, self.saved_step) for k in self.saved[cell.saved_slices[i - 1][1]]]

    def out_of(self, cell: Cell, i: int) -> list[tuple[int, int]]:
        if i == len(cell.stages) - 1:
            return [(s + self.step, self.step) for s in self.states]
        return [(k, self.saved_step) for k in self.saved[cell.saved_slices[i][1]]]

    def kept(self, cell: Cell, i: int) -> list[tuple[int, int]]:
        return [(k, self.saved_step) for k in self.saved[cell.saved_slices[i][0]]]


def _common(cell: Cell, i: int) -> dict[int, int]:
    stage = cell.stages[i]
    return {
        P.N_GATES: len(stage.gates),
        P.ADDITIVE: int(stage.additive),
        P.LAST: int(i == len(cell.stages) - 1),
        P.N_OUT: len(stage.out),
        P.N_KEPT: len(stage.saved),
    }


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
    own = keep or lengths is not None
    direct = not own and x.T.flags.c_contiguous and x.flags.aligned
    shapes = [(n_steps + 1, m, n)] * len(cell.states) + [(n_steps if keep else 1, m, n)] * len(cell.saved)
    arrays, addresses = _block(dtype, *shapes, (0,) if direct else (n_steps, m, n_x))
    *arrays, X = arrays
    states, saved = tuple(arrays[: len(s0)]), tuple(arrays[len(s0) :])
    for S, s in zip(states, s0, strict=True):
        S[0] = s.T
    outputs = tuple(empty((n_steps, m, n), dtype) for _ in s0) if own else tuple(S[1:] for S in states)

    with _Plan(cell, dtype, n_steps, m, n, n_x) as plan:
        v, step = plan.values, m * n * plan.item
        memory = _Memory(addresses[: len(s0)], addresses[len(s0) : -1], step, step if keep else 0)
        plan.lengths(lengths)
        if direct:
            X, v[P.X] = x.T, plan.address(x)
        else:
            v[P.X] = addresses[-1]
            plan.conversions([plan.convert(x, v[P.X], ends=True)])
        v[P.X_ROW], v[P.X_STEP] = n_x * plan.item, m * n_x * plan.item
        if own:
            pairs = [(S + step, _address(out)) for S, out in zip(memory.states, outputs, strict=True)]
            v[P.N_OUTPUTS], v[P.OUTPUTS] = len(pairs), plan.append([a for pair in pairs for a in pair])
        if plan.rows == m:
            v[P.CHUNK] = max(1, min(n_steps, _ROWS_OF_A_CHUNK // m))
        _forward_stages(plan, weights, memory)
        kept = plan.copies(weights) if keep else ()
        plan.run("forward")
    return X, states, saved, outputs, kept


def _forward_stages(plan: _Plan, weights: tuple[StageWeights, ...], memory: _Memory) -> None:
    cell, dtype, n = plan.cell, plan.dtype, plan.n
    kernels = _kernels(cell, dtype, (True,) + (False,) * (len(cell.states) - 1))
    lists, most_pointers, most_z, units = [], 0, 0, n_vectors(dtype, n)
    for i, (stage, w) in enumerate(zip(cell.stages, weights, strict=True)):
        into, out, kept = memory.into(cell, i), memory.out_of(cell, i), memory.kept(cell, i)
        n_gates = len(stage.gates)
        vectors, panel = units * n_gates, panel_vectors(n_gates)
        columns = vectors * plan.lanes
        pointers = [value for address, step in (*into, *out, *kept) for value in (address, step, 0)]
        most_pointers, most_z = max(most_pointers, len(pointers)), max(most_z, vectors * plan.size)
        lists.append(
            {
                **_common(cell, i),
                P.GATES: plan.gates(w),
                P.W_H: plan.take(n, columns),
                P.W_X: plan.take(plan.n_x, columns),
                P.BIAS: plan.take(columns),
                P.BIAS_H: 0 if stage.additive else plan.take(columns),
                P.VECTORS: vectors,
                P.NV: panel,
                P.PRODUCT: _product(dtype, panel),
                P.OPERAND: into[0][0],
                P.OPERAND_STEP: into[0][1],
                P.KERNEL: kernels[f"forward_{i}"],
                P.KERNEL_TAIL: kernels[f"forward_{i}_tail"],
                P.N_IN: len(into),
                P.POINTERS: plan.append(pointers),
                P.N_POINTERS: len(pointers) // 3,
            }
        )
    z_size = -(-most_z * plan.rows * plan.values[P.CHUNK] // _LINE) * _LINE
    plan.values[P.Z_SIZE] = z_size
    plan.stages(lists)
    plan.scratch(ARGUMENTS=8 * (N_STRIDES + 2 + most_pointers), Z=z_size * (len(lists) + 1))


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
    with _Plan(cell, dtype, n_steps, m, n, n_x) as plan:
        v, step = plan.values, plan.item * n * m
        saved = [plan.address(_own(k)) for k in K]
        memory = _Memory([plan.address(_own(s)) for s in S], saved, step, step)
        plan.lengths(lengths)
        v[P.X] = plan.address(_own(X))
        outside = _outside(plan, dS)
        ds = tuple(np.zeros((m, n), dtype) if d is None else np.array(d.T, order="C") for d in dlast)
        dX = empty((n_steps, m, n_x), dtype)
        v[P.DX], v[P.FLAT_DX] = _address(dX), int(plan.rows == m)
        gradients = _backward_stages(plan, weights, memory, outside, ds)
        plan.run("backward")
    return dX, ds, gradients


def _own(a: np.ndarray) -> np.ndarray:
    """C-contiguous and aligned: what the jobs read."""
    return a if a.flags.c_contiguous and a.flags.aligned else np.array(a, order="C")


def _outside(plan: _Plan, dS: tuple[np.ndarray | None, ...]) -> list[int]:
    """Addresses of the cotangents of all steps, time-major; 0 for none."""
    addresses, lists = [], []
    for d in dS:
        if d is None:
            addresses.append(0)
        elif d.T.flags.c_contiguous and d.flags.aligned:
            addresses.append(plan.address(d))
        else:
            addresses.append(plan.take(*d.shape))
            lists.append(plan.convert(d, addresses[-1], ends=False))
    plan.conversions(lists)
    return addresses


def _backward_stages(
    plan: _Plan,
    weights: tuple[StageWeights, ...],
    memory: _Memory,
    outside: list[int],
    ds: Arrays,
) -> list[StageGradients]:
    cell, dtype, n, n_x, lanes_ = plan.cell, plan.dtype, plan.n, plan.n_x, plan.lanes
    kernels = _kernels(cell, dtype, tuple(address != 0 for address in outside))
    ends = [_address(d) for d in ds]
    mid = [plan.take(plan.m, n) for _ in cell.saved]  # cotangents between the stages
    lists, gradients, most_pointers = [], [], 0
    wide = [-(-columns // lanes_) * lanes_ for columns in (n, n_x)]  # columns of packed weights
    for i, (stage, w) in enumerate(zip(cell.stages, weights, strict=True)):
        into, out, kept = memory.into(cell, i), memory.out_of(cell, i), memory.kept(cell, i)
        last, n_c = i == len(cell.stages) - 1, len(stage.gates) * n
        d_out = ends if last else mid[cell.saved_slices[i][1]]
        d_in = ends if i == 0 else mid[cell.saved_slices[i - 1][1]]
        added = [(a, memory.step) for a in outside if a] if last else []
        dz_x = plan.take(plan.values[P.T], plan.m, n_c)
        dz_h = dz_x if stage.additive else plan.take(plan.values[P.T], plan.m, n_c)
        pointers = [value for d in d_out for value in (d, 0, 0)]
        pointers += [value for address, step in (*added, *into, *out, *kept) for value in (address, step, 0)]
        for address in (dz_x,) if stage.additive else (dz_x, dz_h):
            pointers += [address, memory.step * len(stage.gates), 1]
        pointers += [value for d in d_in for value in (d, 0, 0)]
        most_pointers = max(most_pointers, len(pointers))
        dw = empty((n_c, n + n_x), dtype)
        db_x, db_h = (np.zeros(n_c + lanes_, dtype) for _ in range(2))
        recurrent = any(b is not None for b in w.recurrent_bias)
        gradients.append(StageGradients(dw, db_x[:n_c], db_h[:n_c] if recurrent else None))
        lists.append(
            {
                **_common(cell, i),
                P.GATES: plan.gates(w),
                P.W_H: plan.take(n_c, wide[0]),
                P.W_X: plan.take(n_c, wide[1]),
                P.OPERAND: into[0][0],
                P.KERNEL: kernels[f"backward_{i}"],
                P.KERNEL_TAIL: kernels[f"backward_{i}_tail"],
                P.POINTERS: plan.append(pointers),
                P.N_POINTERS: len(pointers) // 3,
                P.DZ_H: dz_h,
                P.DZ_X: dz_x,
                P.D_OPERAND: d_in[0],
                P.DW: plan.address(dw),
                P.DB_X: plan.address(db_x),
                P.DB_H: plan.address(db_h),
            }
        )
    plan.stages(lists)
    rows = min(K_BLOCK, plan.values[P.T] * plan.m)
    plan.scratch(
        ARGUMENTS=8 * (N_STRIDES + most_pointers),
        BLOCK_A=K_BLOCK * (ROW_BLOCK + lanes_) * plan.item,
        BLOCK_B=rows * sum(wide) * plan.item,
    )
    return gradients
