"""Passes that XLA calls with the addresses of its buffers in a call frame, for Numba."""

from rnnx.engines.cpu.codegen.call_frame import BUFFER, FRAME, offset
from rnnx.engines.cpu.codegen.intrinsics import load, record_at, release_lock, store, try_lock
from rnnx.engines.cpu.descriptor.fields import CALLED
from rnnx.engines.cpu.loops.binding import bind, bind_and_run, binding_at
from rnnx.engines.cpu.loops.records import function
from rnnx.engines.cpu.runtime.mailbox import MAILBOX
from rnnx.engines.cpu.runtime.workers import lead

frame_at, called_at, mailbox_at = record_at(FRAME), record_at(CALLED), record_at(MAILBOX)
DATA = offset(BUFFER, "data")


@function
def run(frame, called, _):
    """Run a pass on the results, of which the last one is the workspace, and the arguments of a frame.

    It uses several threads if it may and nobody else holds the pool.
    """
    f, c = frame_at(frame), called_at(called)
    n = f.n_results - 1
    place = load(load(f.results, n) + DATA, 0)
    arrays = place + c.listed
    for i in range(n):
        store(arrays, i, load(f.results, i))
    for i in range(f.n_arguments):
        store(arrays, n + i, load(f.arguments, i))
    if c.shared:
        mail = mailbox_at(c.pool)
        if try_lock(mail.acquire, mail.lock):
            bind(arrays, c.shared, place)
            b = binding_at(c.shared)
            lead(b.task, place + b.workspace, c.pool)
            release_lock(mail.release, mail.lock)
            return
    bind_and_run(arrays, c.alone, place)
