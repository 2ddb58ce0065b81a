"""The examples that a step belongs to, for Numba. See `passes` for the conventions.

An example leaves the batch at its end: each step works on the rows of the others, whose numbers are in a list, in
ascending order. What a pass keeps to itself, such as both sides and their cotangents, has these rows only, one after
another; public arrays have the rows of all examples.
"""

from rnnx.engines.cpu.codegen.intrinsics import call_copy, call_copy_rows, fence, load, store
from rnnx.engines.cpu.loops.records import argument_of, function, output_of
from rnnx.engines.cpu.runtime.buffer_pool import LINE


@function
def share(me, n, total, unit):
    """Return the bounds of slice me's part of `total`, in multiples of `unit`."""
    units = -(-total // unit)
    return min(units * me // n * unit, total), min(units * (me + 1) // n * unit, total)


@function
def vectors_of(p, columns):
    """Return the number of vectors needed for `columns` columns."""
    return -(-columns // p.lanes)


@function
def end_of(p, j):
    """Return the number of steps of example j."""
    return min(p.n_steps, load(p.lengths, j)) if p.lengths else p.n_steps


@function
def next_end(p, t, j0, j1):
    """Return the first step after t before which one of examples j0 ... j1 - 1 ends."""
    until = p.n_steps
    for j in range(j0, j1 if p.lengths else j0):
        end = end_of(p, j)
        until = end if t < end < until else until
    return until


@function
def share_examples(me, n, p):
    """Return the bounds of slice me's examples, which are about as much work as those of the other slices."""
    if p.lengths == 0:
        return share(me, n, p.m, 1)
    j0 = j1 = done = 0
    total = 8 * rows_before(p, p.n_steps, 0) + p.m * p.n_steps  # a step past the end costs an eighth of another
    for j in range(p.m):
        work = 8 * end_of(p, j) + p.n_steps
        middle = (2 * done + work) * n
        j0 = j + 1 if middle < 2 * total * me else j0
        j1 = j + 1 if middle < 2 * total * (me + 1) else j1
        done += work
    return j0, j1


@function
def rows_before(p, t, j):
    """Return the number of rows of steps before t, and of step t before example j."""
    if p.lengths == 0:
        return t * p.m + j
    rows = 0
    for i in range(p.m):
        rows += min(end_of(p, i), t + (i < j))
    return rows


@function
def rows_between(p, t0, t, j0, j1):
    """Return the number of rows of examples j0 ... j1 - 1 in steps t0 ... t - 1."""
    if p.lengths == 0:
        return (t - t0) * (j1 - j0)
    rows = 0
    for j in range(j0, j1 if t0 < t else j0):
        rows += max(0, min(end_of(p, j), t) - t0)
    return rows


@function
def list_rows(p, t, n_steps, j0, j1, rows):
    """List the numbers of the rows of examples j0 ... j1 - 1 in n_steps steps from t; return how many they are."""
    count = 0
    for i in range(n_steps):
        for j in range(j0, j1):
            store(rows, count, i * p.m + j)
            count += t + i < end_of(p, j)
    return count


@function
def move_rows(p, columns, source, source_list, target, target_list, rows, v0, v1):
    """Copy vectors v0 ... v1 - 1 of listed rows; a list of 0 stands for consecutive rows."""
    at, row = v0 * p.lanes * p.item, columns * p.item
    call_copy_rows(
        p.copy_rows_masked, source=source + at, source_row=row, rows=rows, vectors=v1 - v0,
        tail=columns % p.lanes if v1 * p.lanes > columns else 0, target=target + at, target_row=row,
        source_list=source_list, target_list=target_list,
    )  # fmt: skip


@function
def bypasses_cache(p, target, row, size):
    """Return whether an array of `size` bytes is written past the cache: it would not stay there until it is read, and
    has rows of whole cache lines.
    """
    return p.transpose_nontemporal != 0 and size > p.cache and target % LINE == 0 and row % LINE == 0


@function
def copy_output(p, output, units, t, examples, count, u0, u1):
    """Copy units of a state after step t to where the caller wants them."""
    row = units * p.item
    at = t * p.m * row
    source, target = output.source + at, output.target + at
    if bypasses_cache(p, output.target, row, p.n_steps * p.m * row):
        column = u0 * p.lanes * p.item
        call_copy_rows(
            p.copy_rows_nontemporal, source=source + column, source_row=row, rows=count, vectors=u1 - u0, tail=0,
            target=target + column, target_row=row, source_list=examples, target_list=examples,
        )  # fmt: skip
        fence()
    else:
        move_rows(p, units, source, examples, target, examples, count, u0, u1)


@function
def place_of(rows, count, source, row, buffer):
    """Return the address of the listed rows if they are consecutive, else that of the buffer."""
    first = load(rows, 0)
    return source + first * row if load(rows, count - 1) - first == count - 1 else buffer


@function
def consecutive(p, columns, source, rows, count, buffer, v0, v1):
    """Return where the listed rows are one after another: in place or, vectors v0 ... v1 - 1, copied to the buffer."""
    place = place_of(rows, count, source, columns * p.item, buffer)
    if place == buffer:
        move_rows(p, columns, source, rows, buffer, 0, count, v0, v1)
    return place


@function
def copy_final(p, stage, j0, j1, u0, u1):
    """Copy units of the states after the last step of examples j0 ... j1 - 1 to where they are wanted, if at all."""
    units, column = stage.n, u0 * p.lanes * p.item
    tail = units % p.lanes if u1 * p.lanes > units else 0
    for i in range(stage.n_arguments):
        a = argument_of(stage, i)
        for j in range(j0, j1 if a.final and u0 < u1 else j0):
            at = j * units * p.item + column
            source = a.address + (end_of(p, j) - 1) * a.step + at
            call_copy(p.copy_masked, source, 0, rows=1, vectors=u1 - u0, tail=tail, target=a.final + at, target_row=0)


@function
def write_past_end(p, stage, j0, j1, u0, u1):
    """Set the caller's results past the ends of examples j0 ... j1 - 1 to zero."""
    units, column = stage.n, u0 * p.lanes * p.item
    tail = units % p.lanes if u1 * p.lanes > units else 0
    for j in range(j0, j1 if p.lengths and u0 < u1 else j0):
        end, at = end_of(p, j), j * units * p.item + column
        rows, vectors = p.n_steps - end, u1 - u0
        for i in range(stage.n_arguments):
            a = argument_of(stage, i)
            target = a.address + end * a.step + at
            if a.zero_past_end:
                call_copy(p.copy_masked, p.zeros, 0, rows, vectors, tail, target, a.step)
        for i in range(stage.n_outputs):
            step = p.m * units * p.item
            call_copy(
                p.copy_masked, p.zeros, 0, rows, vectors, tail, output_of(stage, i).target + end * step + at, step
            )
