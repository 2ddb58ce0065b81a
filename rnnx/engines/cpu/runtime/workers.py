"""How the threads of the team hand work to each other, for Numba. See `thread_pool` for what it is for.

The *mail* is a list of integers; every worker has a slot of its own in it. A worker that has waited for a while goes
to sleep reading from a pipe; nobody writes to it before the worker has said that it sleeps.
"""

from typing import Any

from numba import njit

from rnnx.engines.cpu.codegen.intrinsics import (
    add_at,
    atomic_get,
    call_job,
    call_system,
    exchange,
    get,
    pause,
    put,
    yield_to,
)
from rnnx.engines.cpu.runtime.thread_pool import (
    ASLEEP,
    DONE,
    JOB,
    N_THREADS,
    NUMBER,
    PLAN,
    READ,
    READ_END,
    SLOT,
    SPINS,
    SYSTEM_YIELD,
    WRITE,
    WRITE_END,
)

_OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
function: Any = njit(**_OPTIONS)
_SPINS_OF_LEADER = 2000


@function
def serve(me, n, mail):
    """The life of worker me. Ends when it is handed no job."""
    slot = mail + 8 * SLOT * me
    seen = 0
    spins = 0
    while True:
        number = atomic_get(slot, NUMBER)
        if number != seen:
            seen = number
            if get(mail, JOB) == 0:
                return
            call_job(get(mail, JOB), me, get(mail, N_THREADS), get(mail, PLAN))
            add_at(mail, DONE, 1)
            spins = 0
        elif spins < get(mail, SPINS):
            pause()
            spins += 1
        else:
            exchange(slot, ASLEEP, 1)
            # Whoever finds the 1 deals with it: the leader by waking us up, we by not going to sleep.
            if atomic_get(slot, NUMBER) == seen or exchange(slot, ASLEEP, 0) == 0:
                while True:
                    call_system(get(mail, READ), get(slot, READ_END), slot + 8 * (READ_END + 2), 1)
                    if atomic_get(slot, ASLEEP) == 0:  # else a signal woke us
                        break
            spins = 0


@function
def wake(me, n, mail):
    """See that workers 1 ... n - 1 do not sleep."""
    for i in range(1, n):
        slot = mail + 8 * SLOT * i
        if exchange(slot, ASLEEP, 0) == 1:
            call_system(get(mail, WRITE), get(slot, WRITE_END), slot + 8 * (READ_END + 2), 1)


@function
def _hand_out(n, mail):
    for i in range(1, n):
        add_at(mail + 8 * SLOT * i, NUMBER, 1)
    wake(0, n, mail)


@function
def lead(me, n, mail):
    """Do the job in the mail with n - 1 workers; returns when all are done."""
    put(mail, DONE, 0)
    _hand_out(n, mail)
    call_job(get(mail, JOB), 0, n, get(mail, PLAN))
    spins = 0
    while atomic_get(mail, DONE) < n - 1:
        pause()
        spins += 1
        if spins > _SPINS_OF_LEADER:
            yield_to(get(mail, SYSTEM_YIELD))


@function
def dismiss(me, n, mail):
    """Send n - 1 workers home."""
    put(mail, JOB, 0)
    _hand_out(n, mail)
