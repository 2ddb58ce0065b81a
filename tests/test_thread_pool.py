"""Which thread runs what, and who wakes whom, by the states of slices. No thread runs, and times are simulated."""

import pytest
from numba import njit

from rnnx.engines.cpu.runtime import workers
from rnnx.engines.cpu.runtime.thread_pool import ThreadPool

NUMBER = 1000  # of the job


@njit
def claim(me, address):
    return workers._claim(me, workers.mailbox_at(address))


@njit
def has_work(n, sections, thread, address):
    return workers._has_work(workers.mailbox_at(address), NUMBER, n, 2 * (NUMBER + sections), thread)


def pool_with(slices, sections, per_thread=1, waits=0):
    """Return a pool without threads, with a job of which nobody has begun a section."""
    pool = ThreadPool()
    job = {"number": NUMBER, "slices": slices, "per_thread": per_thread, "sections": sections}
    for field, value in (job | {"loop_end": sections, "waits": waits}).items():
        pool.mail[field] = value
    pool.workers["state"][:slices] = 2 * NUMBER
    return pool


def times(speeds, slices, sections, waits=0):
    """Run a job on threads that take 1 / speed for a section; return the time, and the slices of all that each ran."""
    pool = pool_with(slices, sections, slices // len(speeds), waits)
    now, busy, ran = 0.0, {}, [[] for _ in speeds]
    while True:
        for me in range(len(speeds)):
            if me not in busy and (i := int(claim(me, pool.address))) >= 0:
                busy[me] = now + 1 / speeds[me], i
                ran[me].append(i)
        if not busy:
            assert (pool.workers["state"][:slices] == 2 * (NUMBER + sections)).all()
            return now, ran
        me = min(busy, key=busy.get)
        now, i = busy.pop(me)
        pool.workers["state"][i] += 1


def test_threads_of_equal_speed_keep_their_slices():
    for slices in (2, 4):
        now, ran = times((1, 1), slices, 20)
        assert now == 10 * slices
        assert [{*mine} for mine in ran] == [{*range(slices // 2)}, {*range(slices // 2, slices)}]


@pytest.mark.parametrize(
    "speeds", [(1, 0.8), (0.6, 1), (0.5, 1), (1, 0.3), (0.2, 1), (1, 1, 0.3), (0.2, 1, 1, 0.5), (1, 0.4, 0.4, 0.4)]
)
def test_a_slower_core_costs_what_it_lacks(speeds):
    """And few of its sections at the end, if each thread has two slices."""
    ideal = 100 * len(speeds) / sum(speeds)
    assert times(speeds, 2 * len(speeds), 50)[0] <= ideal + 3 / min(speeds)


def test_units_wait_in_every_step():
    now, _ = times((1, 0.5), 2, 10, waits=1)
    assert now == 20


@pytest.mark.parametrize(
    ("states", "others", "caller"),
    [
        ((10, 10), True, True),  # one for the thread that has run a section, and one more
        ((20, 10), False, False),  # only one is left
        ((11, 10), False, False),
        ((2, 1), False, False),  # the second section follows the first ones of all slices
        ((2, 2), True, True),
        ((20, 20), False, True),  # the caller leaves
        ((10, 11, 12, 20), True, True),
    ],
)
def test_threads_are_woken_for_work_only(states, others, caller):
    """Waking one that only looks around takes as long as a section, which a slower thread would pay after each of its
    last ones.
    """
    pool, n = pool_with(len(states), 10), len(states)
    pool.workers["state"][:n] = [2 * NUMBER + state for state in states]
    assert has_work(n, 10, 1, pool.address) == others
    assert has_work(n, 10, 0, pool.address) == caller
