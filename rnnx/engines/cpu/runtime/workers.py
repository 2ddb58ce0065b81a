"""The protocol between the pool's threads, for Numba, on the records of `mailbox`.

A worker sleeps by waiting for its lock, which is always held: whoever resets the worker's "asleep" flag releases it
once. Arguments are a thread's index, the number of threads, and the address of the mailbox.
"""

from rnnx.engines.cpu.codegen.intrinsics import (
    acquire_lock,
    atomic_add,
    atomic_exchange,
    atomic_load,
    call_job,
    item_of,
    pause,
    record_at,
    release_lock,
    yield_to,
)
from rnnx.engines.cpu.loops.records import function
from rnnx.engines.cpu.runtime.mailbox import BARRIER, MAILBOX, WORKER

_SPINS = 2000  # checks for other threads before yielding to them

mailbox_at, barrier_at = record_at(MAILBOX), record_at(BARRIER)
worker_of = item_of(MAILBOX, "workers", WORKER)


@function
def serve(me, n, address):
    """Run jobs as worker `me` until shutdown."""
    mail = mailbox_at(address)
    worker = worker_of(mail, me)
    seen = 0
    spins = 0
    while True:
        number = atomic_load(worker, "number")
        if number != seen:
            seen = number
            if mail.job == 0:
                return
            call_job(mail.job, me, mail.n_threads, mail.descriptor)
            atomic_add(mail, "done", 1)
            spins = 0
        elif spins < mail.spins:
            pause()
            spins += 1
        else:
            atomic_exchange(worker, "asleep", 1)
            # Whoever resets the flag acts on it: either the leader wakes this worker, or the worker does not sleep.
            if atomic_load(worker, "number") == seen or atomic_exchange(worker, "asleep", 0) == 0:
                acquire_lock(mail.acquire, worker.lock)
            spins = 0


@function
def wake(me, n, address):
    """Wake those of workers 1 ... n - 1 that sleep."""
    mail = mailbox_at(address)
    for i in range(1, n):
        worker = worker_of(mail, i)
        if atomic_exchange(worker, "asleep", 0) == 1:
            release_lock(mail.release, worker.lock)


@function
def _hand_out(n, address):
    for i in range(1, n):
        atomic_add(worker_of(mailbox_at(address), i), "number", 1)
    wake(0, n, address)


@function
def lead(me, n, address):
    """Run the job in the mailbox with n - 1 workers, and wait for them."""
    mail = mailbox_at(address)
    mail.done = 0
    _hand_out(n, address)
    call_job(mail.job, 0, n, mail.descriptor)
    spins = 0
    while atomic_load(mail, "done") < n - 1:
        pause()
        spins += 1
        if spins > _SPINS:
            yield_to(mail.yield_function)


@function
def shut_down(me, n, address):
    """End workers 1 ... n - 1."""
    mailbox_at(address).job = 0
    _hand_out(n, address)


@function
def barrier(n, p):
    """Wait for all n threads of a pass."""
    if n == 1:
        return
    b = barrier_at(p.barrier)
    passed = atomic_load(b, "passed")
    if atomic_add(b, "arrived", 1) == n - 1:
        atomic_exchange(b, "arrived", 0)
        atomic_add(b, "passed", 1)
        return
    spins = 0
    while atomic_load(b, "passed") == passed:
        pause()
        spins += 1
        if spins > _SPINS:
            yield_to(p.yield_function)
