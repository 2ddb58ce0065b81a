"""The protocol between the pool's threads, for Numba, on the records of `mailbox`.

A job is divided into *slices* and into *sections*, which follow each other. Whoever sets the state of a slice from "to
be run" to "running" runs its next section. A thread prefers its own slices, and takes others that their threads have
not begun, because they sleep, have lost their core, or are slower. Nobody ever waits for a thread that has nothing to
do, and nobody wakes one: a system call and an interrupt of another core may take as long as a section.

A state contains the number of its job, and numbers never repeat, so a thread that acts on an earlier job cannot claim
anything. Only between a claim and the end of that section may a thread read the descriptor: the caller waits for
sections that run, and for nothing else, before it frees the descriptor.

A thread sleeps by waiting for its lock, which is always held: whoever resets its "asleep" flag releases it once.
"""

from rnnx.engines.cpu.codegen.intrinsics import (
    acquire_lock,
    atomic_claim,
    atomic_exchange,
    atomic_load,
    call_job,
    item_of,
    pause,
    record_at,
    release_lock,
    try_lock,
    yield_to,
)
from rnnx.engines.cpu.loops.records import function
from rnnx.engines.cpu.runtime.mailbox import MAILBOX, TASK, WORKER

_HEAD_START = 4  # a thread that is two sections ahead helps with other slices
_PURE_SPINS = 64  # checks for work before yielding to other threads, too, every eighth time
_PAUSES = 32  # a microsecond or so, in which another thread can begin its share
_NOTHING, _FINISHED = -1, -2

task_at, mailbox_at = record_at(TASK), record_at(MAILBOX)
worker_of = item_of(MAILBOX, "workers", WORKER)


@function
def _slowest(mail, n):
    """Return the smallest state of n slices, and the smallest one of a slice to be run with the slice's index."""
    least = atomic_load(worker_of(mail, 0), "state")
    free, slice_ = least, -(least % 2)
    for i in range(1, n):
        state = atomic_load(worker_of(mail, i), "state")
        least = min(least, state)
        if state % 2 == 0 and (slice_ < 0 or state < free):
            free, slice_ = state, i
    return least, free, slice_


@function
def _of_its_own(mail, first, last, end):
    """Return the state of the slice that a thread prefers among its own that are to be run, and its index, or -1.

    It is the slowest one, unless that is far behind: then this thread is slow, and leaves it to others.
    """
    state, slice_ = end, -1
    ahead, ahead_slice = state, slice_
    for i in range(first, last):
        found = atomic_load(worker_of(mail, i), "state")
        if found % 2 or found >= end:
            continue
        if slice_ < 0 or found < state:
            state, slice_ = found, i
        if ahead_slice < 0 or found > ahead:
            ahead, ahead_slice = found, i
    return (ahead, ahead_slice) if ahead >= state + _HEAD_START else (state, slice_)


@function
def _is_open(mail, number, state, least):
    """Return whether a section may run: the first, the second, the first after the loop, and, if threads wait for each
    other, all of the loop come after the previous sections of all slices.
    """
    k, loop_end = state // 2 - number, atomic_load(mail, "loop_end")
    together = k <= 1 or k == loop_end or (k < loop_end and atomic_load(mail, "waits") == 1)
    return least >= state or not together


@function
def _claim(me, mail):
    """Return a slice whose next section thread `me` has to run, _NOTHING if there is none now, or _FINISHED."""
    number, n, per_thread = atomic_load(mail, "number"), atomic_load(mail, "slices"), atomic_load(mail, "per_thread")
    if number == 0 or me * per_thread >= n:
        return _FINISHED
    least, state, i = _slowest(mail, n)
    end = 2 * (number + atomic_load(mail, "sections"))
    if least >= end:
        return _FINISHED
    own, k = _of_its_own(mail, me * per_thread, min((me + 1) * per_thread, n), end)
    helps = own >= least + _HEAD_START and i // per_thread != me
    if k >= 0 and not helps and _is_open(mail, number, own, least):
        i, state = k, own
    elif i < 0 or state >= end or not _is_open(mail, number, state, least):
        return _NOTHING
    # The state cannot be claimed if another job has begun, unless the fields above were read during the change.
    if atomic_load(mail, "number") == number and atomic_claim(worker_of(mail, i), "state", state) == state:
        return i
    return _NOTHING


@function
def _wake(mail, i):
    worker = worker_of(mail, i)
    if atomic_load(worker, "asleep") == 1 and atomic_exchange(worker, "asleep", 0) == 1:
        release_lock(mail.release, worker.lock)


@function
def _has_work(mail, number, n, end, thread):
    """Return whether a thread that sleeps has something to do: a slice beside the one that the thread which asks goes
    on with, or, for the caller, to leave.
    """
    least, free = _slowest(mail, n)[0], 0
    for i in range(n):
        state = atomic_load(worker_of(mail, i), "state")
        free += state % 2 == 0 and state < end and _is_open(mail, number, state, least)
    return free > 1 or (thread == 0 and least >= end)


@function
def _run(i, mail):
    """Run the claimed section of slice i, and wake threads that now have work."""
    worker, n, per_thread = worker_of(mail, i), atomic_load(mail, "slices"), atomic_load(mail, "per_thread")
    state, number = atomic_load(worker, "state"), atomic_load(mail, "number")
    end = 2 * (number + atomic_load(mail, "sections"))
    call_job(atomic_load(mail, "job"), state // 2 - number, i, n, atomic_load(mail, "descriptor"))
    atomic_exchange(worker, "state", state + 1)  # from now on, the job may end and another one begin
    for thread in range(n // per_thread):
        if atomic_load(worker_of(mail, thread), "asleep") == 1 and _has_work(mail, number, n, end, thread):
            _wake(mail, thread)


@function
def _wait(mail, spins):
    pause()
    if spins > _PURE_SPINS and spins % 8 == 0:
        yield_to(mail.yield_function)


@function
def spin(n, _, address):
    """Look for work n times in vain, to measure how long that takes."""
    mail = mailbox_at(address)
    for i in range(n):
        _claim(0, mail)
        _wait(mail, i)


@function
def _spins(mail):
    """Return how often a worker looks for the next job before it sleeps."""
    return 0 if atomic_load(mail, "rests") else mail.spins


@function
def _work(me, mail, leads):
    """Run what thread `me` can claim, the caller until the job is finished, a worker until the pool stops."""
    worker = worker_of(mail, me)
    spins, sleepy = 0, False
    while True:
        i = _claim(me, mail)
        leaves = i == _FINISHED if leads else atomic_load(mail, "stop") == 1
        if i >= 0 or leaves:
            if sleepy and atomic_exchange(worker, "asleep", 0) == 0:
                acquire_lock(mail.acquire, worker.lock)  # it has been released, or will be
            spins, sleepy = 0, False
            if i < 0:
                return
            _run(i, mail)
        elif sleepy:
            acquire_lock(mail.acquire, worker.lock)
            spins, sleepy = 0, False
        elif spins < (mail.patience if i == _NOTHING else _spins(mail)):
            spins += 1
            _wait(mail, spins)
        else:
            atomic_exchange(worker, "asleep", 1)
            sleepy = True  # after one more look, as there may be work that came before the flag was set


@function
def serve(me, _, address):
    """Run jobs as worker `me` until the pool stops."""
    _work(me, mailbox_at(address), False)


@function
def _lead(task, descriptor, mail):
    """Run a job with the workers that are free."""
    new, number = task_at(task), mail.next
    mail.next = number + new.sections + 1
    atomic_exchange(mail, "rests", 0)
    atomic_exchange(mail, "number", 0)
    atomic_exchange(mail, "job", new.job)
    atomic_exchange(mail, "descriptor", descriptor)
    atomic_exchange(mail, "slices", new.slices)
    atomic_exchange(mail, "per_thread", new.per_thread)
    atomic_exchange(mail, "sections", new.sections)
    atomic_exchange(mail, "loop_end", new.loop_end)
    atomic_exchange(mail, "waits", new.waits)
    for i in range(new.slices):
        atomic_exchange(worker_of(mail, i), "state", 2 * (number + new.first))
    atomic_exchange(mail, "number", number)
    for thread in range(1, new.slices // new.per_thread):
        _wake(mail, thread)
    _work(0, mail, True)


@function
def share_job(task, descriptor, address):
    """Run a job with the workers, or all its slices on this thread while another one uses them.

    The workers are taken and given back in here, where no exception comes between.
    """
    mail, of = mailbox_at(address), task_at(task)
    if try_lock(mail.acquire, mail.lock):
        _lead(task, descriptor, mail)
        release_lock(mail.release, mail.lock)
        return
    for section in range(of.first, of.sections):
        for me in range(of.slices):
            call_job(of.job, section, me, of.slices, descriptor)


@function
def alone(task, descriptor, _):
    """Run a job as a single slice on this thread."""
    of = task_at(task)
    for section in range(of.first, of.sections):
        call_job(of.job, section, 0, 1, descriptor)


@function
def idle(section, me, n, descriptor):
    """Pause some times, as a job, to measure how long threads wait for each other."""
    for _ in range(_PAUSES):
        pause()


@function
def shut_down(n, _, address):
    """End workers 1 ... n - 1."""
    mail = mailbox_at(address)
    atomic_exchange(mail, "stop", 1)
    for i in range(1, n):
        _wake(mail, i)
