"""The operations of a training step as jobs, for Numba. Every slice calls the kernel on its part."""

from rnnx.engines.cpu.codegen.intrinsics import call_elementwise, call_loss, call_mask, load, store
from rnnx.engines.cpu.loops.examples import share
from rnnx.engines.cpu.loops.records import function, masks_at, rows_at, table_at


@function
def elementwise(section, me, n, descriptor):
    """Call a kernel on slice `me` of every row of a table, with a table of its own."""
    p = table_at(descriptor)
    table, rows = p.scratch + me * p.scratch_size, 0
    for r in range(p.rows):
        at = r * p.width
        first, end = share(me, n, load(p.table, at), 4 * p.lanes)
        if first < end:
            store(table, rows * p.width, end - first)
            for k in range(1, p.width):
                store(table, rows * p.width + k, load(p.table, at + k) + first * p.item)
            rows += 1
    call_elementwise(p.kernel, rows, table, p.numbers)
    if me == 0 and p.done:  # Python sees it once all slices are done
        store(p.done, 0, 1)


@function
def loss(section, me, n, descriptor):
    """Call a kernel on the steps of slice `me`, as sequences that begin there."""
    p = rows_at(descriptor)
    t0, t1 = share(me, n, p.n_steps, 1)
    lengths, first = p.scratch + me * p.scratch_size, t0 * p.m
    for j in range(p.m):
        store(lengths, j, load(p.lengths, j) - t0)
    row = p.n * p.parts * p.item
    call_loss(
        p.kernel, n_steps=t1 - t0, m=p.m, n=p.n, y=p.y + first * row, target=p.target + t0 * p.target_step,
        lengths=lengths, gradient=p.gradient + first * row, count=p.count, values=p.values + 8 * first,
        target_step=p.target_step, target_row=p.target_row, weights=p.weights + first * p.item,
    )  # fmt: skip


@function
def mask(section, me, n, descriptor):
    """Call a kernel on the steps of slice `me`."""
    p = masks_at(descriptor)
    t0, t1 = share(me, n, p.steps, 1)
    at = t0 * p.size * p.item
    call_mask(
        p.kernel, key=p.key, start=p.start + t0, steps=t1 - t0, size=p.size, least=p.least, value=p.value,
        target=p.target + at, source=p.source + at, kept=p.kept + t0 * ((p.size + 7) // 8),
    )  # fmt: skip
