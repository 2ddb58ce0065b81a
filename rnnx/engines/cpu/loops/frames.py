"""Passes that XLA calls with the addresses of its buffers in a call frame, for Numba."""

from rnnx.engines.cpu.codegen.call_frame import BUFFER, FRAME, offset
from rnnx.engines.cpu.codegen.intrinsics import load, record_at, store
from rnnx.engines.cpu.descriptor.fields import CALLED
from rnnx.engines.cpu.loops.binding import bind_and_run
from rnnx.engines.cpu.loops.records import function

frame_at, called_at = record_at(FRAME), record_at(CALLED)
DATA = offset(BUFFER, "data")


@function
def run(frame, called, _):
    """Run a pass on the results, of which the last one is the workspace, and the arguments of a frame."""
    f, c = frame_at(frame), called_at(called)
    n = f.n_results - 1
    place = load(load(f.results, n) + DATA, 0)
    arrays = place + c.listed
    for i in range(n):
        store(arrays, i, load(f.results, i))
    for i in range(f.n_arguments):
        store(arrays, n + i, load(f.arguments, i))
    bind_and_run(arrays, c.binding, place)
