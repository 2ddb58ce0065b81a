"""The compiled loops over time, built for a cell from its record; they know no cell by name.

* For every stage a *kernel* runs the cell's own function on all elements of one step, with loads and stores
  written out for the number of gates, states and saved values (loops over tuples do not vectorise);
* a *chain* of the stages: recurrent product (`rnnx.engines._tile`), kernel, next stage;
* the *loop* over time around the chain, on the examples j0 ... j1 - 1.

Dimensions: t a step, j an example, k a unit of n. All arrays are C-contiguous and writable.
"""

from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core.compiler import CompilerBase, DefaultPassBuilder

from rnnx.cells import Cell
from rnnx.engines._jit_math import OPTIONS, inline


class _NoAlias(CompilerBase):
    """Numba's pipeline, with the promise that no array that is written to overlaps another argument.

    Without it LLVM would have to check at run time, for some twenty arrays, and gives up: the loop stays
    scalar and is six times slower.
    """

    def define_pipelines(self) -> list[Any]:
        self.state.flags.noalias = True
        return [DefaultPassBuilder.define_nopython_pipeline(self.state)]


def _kernel(function: Callable[..., Any]) -> Any:
    return njit(function, nogil=True, pipeline_class=_NoAlias, **OPTIONS)


def _loop(function: Callable[..., Any]) -> Any:
    return njit(function, nogil=True, **OPTIONS)


def _load(item: str, count: int, arguments: str) -> Any:
    """A function of `arguments` that returns the tuple of ``item`` with ``{q}`` = 0 ... count - 1."""
    items = "".join(item.format(q=q) + ", " for q in range(count))
    scope: dict[str, Any] = {}
    exec(f"def load({arguments}):\n    return ({items})", scope)
    return inline(scope["load"])


def _each(statement: str, count: int, arguments: str, scope: dict[str, Any] | None = None) -> Any:
    """A function of `arguments` that runs ``statement`` for ``{q}`` = 0 ... count - 1."""
    body = "".join(f"    {statement.format(q=q)}\n" for q in range(count)) or "    pass\n"
    scope = dict(scope or {})
    exec(f"def each({arguments}):\n{body}", scope)
    return inline(scope["each"])


def _at(count: int) -> Any:
    """The slices of `count` stacked arrays at one step."""
    return _load("a[{q}][t]", count, "a, t")


def _row_helpers(count: int) -> tuple[Any, Any, Any, Any]:
    """(load, store, zero, copy) of one row of `count` arrays (m, n)."""
    return (
        _load("a[{q}][j, k]", count, "a, j, k"),
        _each("a[{q}][j, k] = v[{q}]", count, "a, j, k, v"),
        _each("a[{q}][j] = 0", count, "a, j"),
        _each("a[{q}][j] = b[{q}][j]", count, "a, b, j"),
    )


# --- forward -----------------------------------------------------------------------------------------------


def _forward_kernel(cell: Cell, i: int, ops: Any, recurrent_bias: bool) -> Any:
    """Stage i of one step, elementwise. Rows past their end keep the state the step began with."""
    stage, last = cell.stages[i], i == len(cell.stages) - 1
    n_gates, cell_forward = len(stage.gates), inline(stage.forward)
    load_zx = _load("z[j, {q}, k]", n_gates, "z, j, k")
    item = "z[j, {q} * n + k] + b[{q}, k]" if recurrent_bias else "z[j, {q} * n + k]"
    load_zh = _load(item, n_gates, "z, b, j, k, n")
    load_in, _, _, _ = _row_helpers(len(cell.states if i == 0 else cell.stages[i - 1].out))
    _, store_out, zero_out, copy_out = _row_helpers(len(stage.out))
    _, store_kept, zero_kept, _ = _row_helpers(len(stage.saved))

    @_kernel
    def kernel(t, lengths, j0, j1, zx, zh, bh, begin, s, out, kept):
        n = zx.shape[2]
        for j in range(j0, j1):
            if t < lengths[j]:
                for k in range(n):
                    zh_jk = load_zh(zh, bh, j - j0, k, n)
                    new, values = cell_forward(ops, load_zx(zx, j, k), zh_jk, load_in(s, j, k))
                    store_out(out, j, k, new)
                    store_kept(kept, j, k, values)
            else:
                if last:
                    copy_out(out, begin, j)
                else:
                    zero_out(out, j)
                zero_kept(kept, j)

    return kernel


def _forward_chain(cell: Cell, i: int, ops: Any, product: Any, recurrent_bias: tuple[bool, ...]) -> Any:
    """Stage i of one step and all after it."""
    kernel = _forward_kernel(cell, i, ops, recurrent_bias[i])
    kept_at, out_at = cell.saved_slices[i]

    @inline
    def stage(t, lengths, j0, j1, zx, weights, bh, zh, begin, s, out, saved):
        n = s[0].shape[1]
        product(weights[i], s[0].reshape(s[0].size), j0 * n, n, 1, n, j1 - j0, zh[i], 0, False)
        kernel(t, lengths, j0, j1, zx[i][t], zh[i], bh[i], begin, s, out, saved[kept_at])

    if i == len(cell.stages) - 1:
        return stage
    rest = _forward_chain(cell, i + 1, ops, product, recurrent_bias)

    @inline
    def chain(t, lengths, j0, j1, zx, weights, bh, zh, begin, s, end, saved):
        out = saved[out_at]
        stage(t, lengths, j0, j1, zx, weights, bh, zh, begin, s, out, saved)
        rest(t, lengths, j0, j1, zx, weights, bh, zh, begin, out, end, saved)

    return chain


def forward_loop(cell: Cell, ops: Any, product: Any, recurrent_bias: tuple[bool, ...]) -> Any:
    chain = _forward_chain(cell, 0, ops, product, recurrent_bias)
    states_at, saved_at = _at(len(cell.states)), _at(len(cell.saved))

    @_loop
    def loop(j0, j1, zx, weights, bh, zh, states, saved, saved_stride, lengths):
        for t in range(zx[0].shape[0]):
            s, end = states_at(states, t), states_at(states, t + 1)
            chain(t, lengths, j0, j1, zx, weights, bh, zh, s, s, end, saved_at(saved, t * saved_stride))

    return loop


# --- backward ----------------------------------------------------------------------------------------------


def _backward_kernel(cell: Cell, i: int, ops: Any) -> Any:
    """Stage i of one step, elementwise. Rows past their end pass the cotangent of the state through."""
    stage, first = cell.stages[i], i == 0
    n_gates, additive, cell_backward = len(stage.gates), stage.additive, inline(stage.backward)
    load_in, store_in, zero_in, copy_in = _row_helpers(len(cell.states if first else cell.stages[i - 1].out))
    load_out, _, _, _ = _row_helpers(len(stage.out))
    load_kept, _, _, _ = _row_helpers(len(stage.saved))
    store_dz = _each("dz[j, {q}, k] = v[{q}]", n_gates, "dz, j, k, v")

    @_kernel
    def kernel(t, lengths, j0, j1, d_end, d_out, s_prev, s_next, kept, dzx, dzh, d_in):
        for j in range(j0, j1):
            if t < lengths[j]:
                for k in range(dzx.shape[2]):
                    before, after = load_in(s_prev, j, k), load_out(s_next, j, k)
                    vx, vh, d = cell_backward(ops, load_out(d_out, j, k), before, after, load_kept(kept, j, k))
                    store_dz(dzx, j, k, vx)
                    if not additive:
                        store_dz(dzh, j, k, vh)
                    store_in(d_in, j, k, d)
            else:
                dzx[j] = 0
                if not additive:
                    dzh[j] = 0
                if first:
                    copy_in(d_in, d_end, j)
                else:
                    zero_in(d_in, j)

    return kernel


@_kernel
def _add_product(a, product, j0, j1):
    for j in range(j0, j1):
        for k in range(a.shape[1]):
            a[j, k] += product[j - j0, k]


@_kernel
def _add_output(a, b, t, lengths, j0, j1):
    for j in range(j0, j1):
        if t < lengths[j]:
            for k in range(a.shape[1]):
                a[j, k] += b[j, k]


def _backward_chain(cell: Cell, i: int, ops: Any, product: Any) -> Any:
    """All stages after i of one step, then stage i. `mid` holds the cotangents between stages, laid out as
    cell.saved is.
    """
    kernel = _backward_kernel(cell, i, ops)
    kept_at, out_at = cell.saved_slices[i]

    @inline
    def stage(t, lengths, j0, j1, d_end, d_out, d_in, weights, da, s, out, saved, dzx, dzh):
        kernel(t, lengths, j0, j1, d_end, d_out, s, out, saved[kept_at], dzx[i][t], dzh[i][t], d_in)
        _, m, n_gates, n = dzh[i].shape
        width = n_gates * n
        product(weights[i], dzh[i][t].reshape(m * width), j0 * width, width, 1, width, j1 - j0, da, 0, False)
        _add_product(d_in[0], da, j0, j1)

    if i == len(cell.stages) - 1:

        @inline
        def chain(t, lengths, j0, j1, d_end, d_in, mid, weights, da, s, end, saved, dzx, dzh):
            stage(t, lengths, j0, j1, d_end, d_end, d_in, weights, da, s, end, saved, dzx, dzh)
    else:
        rest = _backward_chain(cell, i + 1, ops, product)

        @inline
        def chain(t, lengths, j0, j1, d_end, d_in, mid, weights, da, s, end, saved, dzx, dzh):
            out, d_out = saved[out_at], mid[out_at]
            rest(t, lengths, j0, j1, d_end, d_out, mid, weights, da, out, end, saved, dzx, dzh)
            stage(t, lengths, j0, j1, d_end, d_out, d_in, weights, da, s, out, saved, dzx, dzh)

    return chain


def backward_loop(cell: Cell, ops: Any, product: Any) -> Any:
    chain = _backward_chain(cell, 0, ops, product)
    states_at, saved_at = _at(len(cell.states)), _at(len(cell.saved))
    statement = "add(ds[{q}], dS[{q}][t], t, lengths, j0, j1) if t < dS[{q}].shape[0] else None"
    add_outputs = _each(statement, len(cell.states), "ds, dS, t, lengths, j0, j1", {"add": _add_output})

    @_loop
    def loop(j0, j1, dS, ds, ds_other, mid, weights, da, states, saved, dzx, dzh, lengths):
        for t in range(dzx[0].shape[0] - 1, -1, -1):
            add_outputs(ds, dS, t, lengths, j0, j1)
            s, end = states_at(states, t), states_at(states, t + 1)
            chain(t, lengths, j0, j1, ds, ds_other, mid, weights, da, s, end, saved_at(saved, t), dzx, dzh)
            ds, ds_other = ds_other, ds

    return loop
