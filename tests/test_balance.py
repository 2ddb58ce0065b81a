"""Whether jobs are shared among threads, by the times of their earlier runs."""

import time

import numpy as np
import pytest

import rnnx
from rnnx.engines.cpu.runtime import thread_pool
from rnnx.engines.cpu.runtime.balance import Balance
from rnnx.engines.cpu.runtime.thread_policy import Policy, policy, use_policy

MS = 1_000_000


def run(balance, n, alone, shared):
    """Run a job n times, with the time of a run on several threads from a function; return the whole time."""
    total = 0
    for _ in range(n):
        shares = balance.shares()
        ns = shared() if shares else alone
        balance.add(shares, ns)
        total += ns
    return total


@pytest.mark.parametrize("alone", [0.05 * MS, 1 * MS, 20 * MS])
@pytest.mark.parametrize("ratio", [1.1, 1.5, 10])
def test_sharing_that_is_slower_costs_at_most_a_twentieth(alone, ratio):
    """And the first two runs."""
    n = int(2000 * MS / alone)
    assert run(Balance(alone), n, alone, lambda: ratio * alone) <= (1.05 * n + 2 * (ratio - 1)) * alone


@pytest.mark.parametrize("alone", [0.2 * MS, 1 * MS, 20 * MS])
def test_sharing_that_is_faster_is_used_even_if_threads_stop_now_and_then(alone):
    rng, n = np.random.default_rng(0), int(5000 * MS / alone)
    time = run(Balance(alone), n, alone, lambda: 0.55 * alone + 3 * MS * (rng.random() < alone / (100 * MS)))
    assert time < 0.65 * n * alone


@pytest.mark.parametrize(("alone", "shared", "stop"), [(33, 25, 20), (8, 4.5, 20), (1, 0.55, 15), (50, 30, 40)])
def test_stops_of_a_virtual_machine_are_set_against_what_was_won(alone, shared, stop):
    """Every 300 ms of work, a host takes a core away for longer than a run wins."""
    rng, n = np.random.default_rng(0), int(20_000 / alone)
    chance = shared / 300
    time = run(Balance(MS), n, alone * MS, lambda: (shared + stop * (rng.random() < chance)) * MS)
    assert time < 1.1 * n * (shared + stop * chance) * MS


@pytest.mark.parametrize(("alone", "shared"), [(45, 30), (20, 11), (2, 1.1)])
@pytest.mark.parametrize("seconds", [0.2, 1, 5])
def test_a_machine_whose_speed_changes_goes_on_sharing(alone, shared, seconds):
    """Other guests of a host slow down all its cores for a while."""
    balance, now, ideal = Balance(MS), 0.0, 0.0
    while now < 20_000:
        slower = 2.5 if int(now / (1000 * seconds)) % 2 else 1
        shares = balance.shares()
        ms = slower * (shared if shares else alone)
        balance.add(shares, ms * MS)
        now, ideal = now + ms, ideal + slower * shared
    assert now < 1.1 * ideal


@pytest.mark.parametrize("alone", [0.2 * MS, 2 * MS, 20 * MS])
def test_single_slow_runs_do_not_cost_runs_alone(alone):
    """A quarter of all runs are slow, with or without sharing, because other guests use the same cores."""
    rng, n, shared = np.random.default_rng(0), int(20_000 * MS / alone), 0.6 * alone
    balance, total, ideal = Balance(alone), 0.0, 0.0
    for _ in range(n):
        slower, shares = rng.choice([1, 2.2], p=[0.75, 0.25]), balance.shares()
        ns = slower * (shared if shares else alone)
        balance.add(shares, ns)
        total, ideal = total + ns, ideal + slower * shared
    assert total < 1.03 * ideal


@pytest.mark.parametrize(("ratio", "noise"), [(1.1, 0.1), (1.1, 0.2), (1.2, 0.2)])
def test_times_that_vary_are_no_reason_to_share(ratio, noise):
    rng, balance, total, ideal = np.random.default_rng(0), Balance(MS), 0.0, 0.0
    for factor in np.exp(noise * rng.standard_normal(8000)):
        shares, ns = balance.shares(), 0.5 * MS * factor
        balance.add(shares, ratio * ns if shares else ns)
        total, ideal = total + (ratio * ns if shares else ns), ideal + ns
    assert total < 1.045 * ideal


@pytest.mark.parametrize(("alone", "shared"), [(0.36, 0.44), (0.7, 0.8), (9, 11)])
def test_stops_of_runs_alone_are_no_reason_to_share(alone, shared):
    """Beside a busy process, any run may lose its core for 4 ms, a shared one twice as often."""
    rng, balance, total, ideal = np.random.default_rng(0), Balance(MS), 0.0, 0.0
    while ideal < 10_000:
        shares = balance.shares()
        a, b = (ms * (1 + 0.15 * rng.random()) + 4 * (rng.random() < ms / t) for ms, t in ((alone, 20), (shared, 10)))
        balance.add(shares, MS * (b if shares else a))
        total, ideal = total + (b if shares else a), ideal + a
    assert total < 1.05 * ideal


@pytest.mark.parametrize(
    ("alone", "shared", "stop", "every"), [(8, 4.5, 60, 500), (25, 15, 100, 2000), (1, 0.6, 30, 500)]
)
def test_long_stops_between_faster_runs_count_little(alone, shared, stop, every):
    """A host takes a core away for many times a run's time, now and then."""
    rng, n = np.random.default_rng(0), int(60_000 / alone)
    times = [(shared + stop * (rng.random() < shared / every)) * MS for _ in range(n)]
    given = iter(times)
    assert run(Balance(MS), n, alone * MS, lambda: next(given)) < 1.02 * sum(times)


def test_a_stop_in_one_of_the_first_runs_counts_little():
    balance, times = Balance(25 * MS), iter([14 * MS, 40 * MS])
    assert run(balance, 30, 25 * MS, lambda: next(times, 14 * MS)) < (30 * 14 + 26 + 4 * 11) * MS


def test_a_load_that_comes_and_goes():
    balance = Balance(MS)
    assert run(balance, 2000, MS, lambda: 0.55 * MS) < 0.57 * 2000 * MS
    assert run(balance, 2000, MS, lambda: 2 * MS) < 1.05 * 2000 * MS
    run(balance, 100, MS, lambda: 0.55 * MS)
    assert run(balance, 2000, MS, lambda: 0.55 * MS) < 0.57 * 2000 * MS


def test_long_jobs_are_always_shared():
    balance = Balance(100 * MS)
    assert run(balance, 100, 100 * MS, lambda: 1) == 100


def test_the_policy_of_a_context_shares_all(rng):
    balance = Balance(MS)
    balance.lost = MS
    assert not balance.shares()
    with use_policy(lambda work: (3, False)):
        assert balance.shares()


def test_a_pass_that_loses_time_on_several_threads_runs_alone(monkeypatch, rng):
    used, acquire = [], thread_pool.ThreadPool.acquire
    monkeypatch.setattr(thread_pool.ThreadPool, "acquire", lambda pool, n: used.append(n) or acquire(pool, n))
    monkeypatch.setattr(Balance, "add", lambda balance, shared, ns: setattr(balance, "lost", 1))
    x, parameters = rng.standard_normal((3, 6, 4), np.float32), rnnx.initialize_parameters("rnn", 3, 11, seed=0)
    stream = None
    token = policy.set(Policy(lambda work: (3, False) if work.n_steps > 1 else (3, True)))
    try:
        with rnnx.use_engine("cpu"):
            first = rnnx.rnn_forward(x, None, parameters)[0]
            assert used == [3]
            again = rnnx.rnn_forward(x, None, parameters)[0]
            stream = rnnx.Stream("rnn", parameters, m=6)
            for t in range(4):
                np.testing.assert_array_equal(stream.step(x[:, :, t]), first[:, :, t])
    finally:
        policy.reset(token)
    assert used == [3, 3]
    np.testing.assert_array_equal(first, again)


def test_workers_sleep_during_runs_alone(monkeypatch, rng):
    """Else they would take time from these runs, which are compared with shared ones."""
    pool = thread_pool.pool()
    monkeypatch.setattr(pool, "_checks", 1 << 60)  # for ever
    pool.rest(True)
    monkeypatch.setattr(Balance, "add", lambda balance, shared, ns: setattr(balance, "lost", 1))
    x, parameters = rng.standard_normal((3, 6, 4), np.float32), rnnx.initialize_parameters("rnn", 3, 12, seed=0)
    token = policy.set(Policy(lambda work: (2, False)))
    try:
        with rnnx.use_engine("cpu"):
            rnnx.rnn_forward(x, None, parameters)
            assert pool.mail["spins"] == 1 << 60
            rnnx.rnn_forward(x, None, parameters)
        until = time.monotonic() + 10
        while not pool.workers["asleep"][1]:
            assert time.monotonic() < until
    finally:
        policy.reset(token)
        monkeypatch.undo()
        pool.rest(True)
        pool.rest(False)
