"""The results of a backward pass: which there are, and their copies from the memory of the pass.

The pass computes the gradients of the parameters stacked over gates and stages: dw, with a row per unit of a gate, of
which a gate with n_h columns of recurrent weights has the last n_h + n_x columns; db, of the biases and vectors, per
stage; dbh<i>, of recurrent biases.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from rnnx.cells.wiring import StageWiring, wiring
from rnnx.engines.gpu.copies import EMPTY, FROM_REAL, NOT_EMPTY, PAST_END, SAME, Copy, End, Number
from rnnx.engines.gpu.device import Results, Shapes
from rnnx.engines.gpu.kernel import real_dtype
from rnnx.engines.gpu.launches import partial_sums
from rnnx.engines.gpu.pass_key import PassKey


class _Part(NamedTuple):
    """The gradient of a parameter, part of an array in the memory of the pass."""

    name: str
    array: str
    row: int
    rows: int
    column: int = 0
    columns: int = 1


def _parts(key: PassKey) -> Iterator[_Part]:
    """Yield the gradients of the parameters in the order of `rnnx.cells.parameters.name_gradients`."""
    vectors = []
    for stage in wiring(key.cell):
        yield from _gates(key, stage)
        n = stage.units(key.n)
        first = key.layout.sums[stage.number] + stage.n_gates * n
        vectors += [_Part(f"d{name}", "db", first + k * n, n) for k, name in enumerate(stage.stage.vectors)]
    yield from vectors


def _gates(key: PassKey, stage: StageWiring) -> Iterator[_Part]:
    n_h, number, most = stage.columns(key.n), stage.number, key.most_columns
    columns = {"xh": (most - n_h, n_h + key.n_x), "h": (most - n_h, n_h), "x": (most, key.n_x)}
    for gate, _, own in key.gate_rows(stage):
        row, n = key.layout.gates[number] + own.start, own.stop - own.start
        for name, side in zip(gate.weights, ("xh",) if gate.is_joint else gate.sides, strict=True):
            yield _Part(f"d{name}", "dw", row, n, *columns[side])
        if gate.bias:
            yield _Part(f"d{gate.bias}", "db", key.layout.sums[number] + own.start, n)
        if gate.recurrent_bias in key.optional_keys:
            yield _Part(f"d{gate.recurrent_bias}", f"dbh{number}", own.start, n)


def shapes(key: PassKey) -> Shapes:
    """Return the arrays of the gradients of the parameters, and of the partial sums for them."""
    layout, dtype, found = key.layout, key.dtype, Shapes()
    found["dw"], found["db"] = ((layout.gates[-1], key.most_columns + key.n_x), dtype), ((layout.sums[-1],), dtype)
    summed = [count for _, count in layout.summed]
    for stage in wiring(key.cell):
        if key.has_recurrent_bias(stage):
            summed.append(stage.n_zh * stage.units(key.n))
            found[f"dbh{stage.number}"] = ((summed[-1],), dtype)
    found["sums"] = partial_sums(key.n_steps * key.m, max(summed, default=0)), real_dtype(dtype)
    return found


def results(key: PassKey) -> Results:
    """Return the results: of initial states ds<k>, extra inputs dE<k>, x dX, and "d" + key per parameter."""
    found, dtype = Results(), key.dtype
    for k, n in enumerate(key.sizes(key.cell.states)):
        found.add(f"ds{k}", (key.m, n), dtype, reversed_axes=True)
    for k, n in enumerate(key.sizes(key.cell.inputs)):
        found.add(f"dE{k}", (key.n_steps, key.m, n), dtype, reversed_axes=True)
    if not key.indices:
        found.add("dX", (key.n_steps, key.m, key.n_x), dtype, reversed_axes=True)
    for part in _parts(key):
        found.add(part.name, (part.rows, part.columns), dtype)
    return found


def copies(
    key: PassKey, found: Results, address: Callable[[str], int], array_shapes: Shapes, out: Number, *, in_place: bool
) -> list[Copy]:
    """Return the copies of all results to memory at `out`. With `in_place`, dX is there already."""
    lengths, dtype, made = address("lengths"), key.dtype, list[Copy]()

    def add(name: str, source: int, types: int = SAME, lengths: int = 0, rule: int = PAST_END) -> None:
        view = found.views[name]
        n, m, n_steps = (*view.shape, 1)[:3]
        kind = real_dtype(dtype) if types == FROM_REAL else dtype
        shape = (n_steps, m, n)
        ends = End.time_major(source, shape, kind), End.time_major(out, shape, dtype, view.offset)
        made.append(Copy(*ends, (n, m, n_steps), types, lengths, rule))

    for k in range(len(key.cell.states)):
        own = address(f"d_state{k}")
        if lengths and not k:  # of an example without steps, the final one, which no product has made NaN
            add("ds0", address("d_final0"), FROM_REAL, lengths, EMPTY)
            add("ds0", own, FROM_REAL, lengths, NOT_EMPTY)
        else:
            add(f"ds{k}", own, FROM_REAL)
    for k in range(len(key.cell.inputs)):
        add(f"dE{k}", address(f"dE{k}"))
    if not key.indices and not key.layout.inputs:
        add("dX", 0)
    elif not key.indices and (lengths or not in_place):  # zero times an infinite weight is NaN
        add("dX", address("dX"), lengths=lengths)
    return made + [_copy_of(part, found, address(part.array), array_shapes, out) for part in _parts(key)]


def _copy_of(part: _Part, found: Results, address: int, array_shapes: Shapes, out: Number) -> Copy:
    shape, dtype = array_shapes[part.array]
    stride, size = (shape[1] if len(shape) == 2 else 1), dtype.itemsize
    source = End(address + (part.row * stride + part.column) * size, (size, 0, stride * size))
    target = End(out, (size, 0, part.columns * size), found.views[part.name].offset)
    return Copy(source, target, (part.columns, 1, part.rows))
