"""What unit-parallel slices write for each other, for Numba: prefetches of the cache lines that move between cores.

Every step writes to other lines than the one before. Another core may hold them since the previous pass, and takes some
hundred nanoseconds to give one up or to hand it over: as long as reading many weights. Without prefetches, a slice
would wait for these lines at the end of a step, and for those that it reads a few at a time. With many examples, a
product has other work meanwhile, and prefetches would fill the L1 cache.
"""

from rnnx.engines.cpu.codegen.intrinsics import prefetch, prefetch_to_write
from rnnx.engines.cpu.loops.records import function, stage_of
from rnnx.engines.cpu.runtime.buffer_pool import LINE

_MOST = 1 << 14  # bytes of all examples


@function
def fetch(address, size):
    """Prefetch memory that other slices have written, if it is little."""
    for at in range(0, size if size <= _MOST else 0, LINE):
        prefetch(address + at)


@function
def claim_rows(address, row, rows, begin, end):
    """Prefetch bytes `begin` ... `end` - 1 of some rows, to write to them."""
    for r in range(rows):
        for at in range(address + r * row + begin, address + r * row + end, LINE):
            prefetch_to_write(at)


@function
def claim_next_operand(p, step, u0, u1):
    """Prefetch a slice's units of what the next step of a stage multiplies, which this one writes, if it is little."""
    stage = stage_of(p, (step + 1) % p.n_stages)
    size, row = p.item * p.lanes, stage.n_operand * p.item
    if stage.n_zh and step + 1 < p.n_steps * p.n_stages and p.m * row <= _MOST:
        operand = stage.operand + (step + 1) // p.n_stages * stage.operand_step
        claim_rows(operand, row, p.m, u0 * size, min(u1 * size, row))
