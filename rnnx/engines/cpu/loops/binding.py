"""The binding of a descriptor to the arrays of a call, for Numba."""

from rnnx.engines.cpu.codegen.intrinsics import load, record_at, store
from rnnx.engines.cpu.descriptor.fields import BINDING
from rnnx.engines.cpu.loops.records import function
from rnnx.engines.cpu.runtime.buffer_pool import LINE
from rnnx.engines.cpu.runtime.workers import alone, share_job

binding_at = record_at(BINDING)


@function
def bind(arrays, binding, place):
    """Write a descriptor behind its workspace, at `place`, for the array objects whose addresses are at `arrays`."""
    b = binding_at(binding)
    target = place + b.workspace
    for i in range(b.size):
        k, base = load(b.bases, i), 0
        if k == 1:
            base = place
        elif k > 1:
            base = load(load(arrays, k - 2) + b.data, 0)
            if k - 2 < b.blocks:
                base = -(-base // LINE) * LINE
        store(target, i, base + load(b.offsets, i))


@function
def bind_and_run(arrays, binding, place):
    """Bind a descriptor, and run its job on the thread pool or on this thread."""
    bind(arrays, binding, place)
    b = binding_at(binding)
    if b.pool:
        share_job(b.task, place + b.workspace, b.pool)
    else:
        alone(b.task, place + b.workspace, 0)
