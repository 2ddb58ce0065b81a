"""Whether jobs are shared among threads, by the times of their earlier runs."""

import sys
from pathlib import Path

import numpy as np
import pytest
from workers import wait_for_sleep

import rnnx
from rnnx.engines.cpu.descriptor.builder import Template
from rnnx.engines.cpu.runtime import sharing, thread_pool
from rnnx.engines.cpu.runtime.balance import Balance
from rnnx.engines.cpu.runtime.sharing import Shareable
from rnnx.engines.cpu.runtime.thread_policy import Policy, policy, use_policy
from rnnx.engines.cpu.runtime.work import Work

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
    used = []
    for kind in (Template, thread_pool.Task):  # of passes, and of a stream's steps
        run = kind.run_shared
        monkeypatch.setattr(kind, "run_shared", lambda job, given, run=run: used.append(job) or run(job, given))
    monkeypatch.setattr(Balance, "add", lambda balance, shared, ns: setattr(balance, "lost", 1))
    x, parameters = rng.standard_normal((3, 6, 4), np.float32), rnnx.initialize_parameters("rnn", 3, 11, seed=0)
    stream = None
    token = policy.set(Policy(lambda work: (3, False) if work.n_steps > 1 else (3, True)))
    try:
        with rnnx.use_engine("cpu"):
            first = rnnx.rnn_forward(x, None, parameters)[0]
            assert len(used) == 1
            again = rnnx.rnn_forward(x, None, parameters)[0]
            stream = rnnx.Stream("rnn", parameters, m=6)
            for t in range(4):
                np.testing.assert_array_equal(stream.step(x[:, :, t]), first[:, :, t])
    finally:
        policy.reset(token)
    assert len(used) == 2
    np.testing.assert_array_equal(first, again)


def test_workers_sleep_during_runs_alone(monkeypatch, rng):
    """Else they would take time from these runs, which are compared with shared ones."""
    pool = thread_pool.pool()
    spins = int(pool.mail["spins"])
    monkeypatch.setattr(Balance, "add", lambda balance, shared, ns: setattr(balance, "lost", 1))
    x, parameters = rng.standard_normal((3, 6, 4), np.float32), rnnx.initialize_parameters("rnn", 3, 12, seed=0)
    token = policy.set(Policy(lambda work: (2, False)))
    try:
        pool.rest()
        pool.mail["spins"] = 1 << 60  # for ever
        with rnnx.use_engine("cpu"):
            rnnx.rnn_forward(x, None, parameters)
            assert not pool.mail["rests"]
            rnnx.rnn_forward(x, None, parameters)
        wait_for_sleep(1)
    finally:
        policy.reset(token)
        pool.mail["spins"] = spins


class Job(Shareable):
    """A job whose parts take fixed times, which are added up."""

    def __init__(self, alone, shared, choice):
        super().__init__(Work(1, 8, 10**7, 0, 0, 0, False))
        self.times, self.now, self.taken = {"alone": alone, "shared": shared, "choice": choice}, 0, []

    def way(self):
        self.now += self.times["choice"]
        return 2, False

    def divide(self, threads, unit_parallel):
        self.now += 10**9
        return self

    def run_alone(self, given):
        self.now += self.times["alone"]

    def run_shared(self, given):
        self.now += self.times["shared"]

    def runs(self, n, monkeypatch):
        """Run the job n times; return the times that count, and how many runs were shared."""
        add = Balance.add
        monkeypatch.setattr(sharing, "perf_counter_ns", lambda: self.now)
        monkeypatch.setattr(Balance, "add", lambda *found: self.taken.append(found[1:]) or add(*found))
        for _ in range(n):
            self.run(None)
        return {*self.taken}, sum(shared for shared, _ in self.taken)


def test_the_time_of_a_shared_run_includes_the_choice(monkeypatch):
    """But not what is done once. A job that is not shared chooses nothing."""
    counted, shared = Job(alone=60_000, shared=50_000, choice=20_000).runs(1000, monkeypatch)
    assert counted == {(True, 50_000), (True, 70_000), (False, 60_000)}  # the first one also divides the job
    assert shared < 200  # to find out whether it pays off again
    counted, shared = Job(alone=100_000, shared=50_000, choice=20_000).runs(1000, monkeypatch)
    assert counted == {(True, 50_000), (True, 70_000), (False, 100_000)}
    assert shared > 980


def test_no_interrupt_leaves_the_workers_taken(rng):
    """Wherever it comes while the engine shares a job, the next job is shared."""
    cell, x = rnnx.CELLS["rnn"], rng.standard_normal((3, 6, 4), np.float32)
    parameters = rnnx.initialize_parameters(cell, 3, 13, seed=0)
    left, runtime = 0, str(Path(sharing.__file__).parent)

    def trace(frame, event, _):
        nonlocal left
        frame.f_trace_opcodes = frame.f_code.co_filename.startswith(runtime)
        left -= event == "opcode"
        if left == 0 and event == "opcode":
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    pool, interrupts, before = thread_pool.pool(), 0, sys.gettrace()
    with rnnx.use_engine("cpu"), use_policy(lambda work: (2, False)):
        expected = rnnx.rnn_forward(x, None, parameters)[0]
        while interrupts >= 0:
            left = interrupts + 1
            try:
                sys.settrace(trace)
                rnnx.rnn_forward(x, None, parameters)
                break
            except KeyboardInterrupt:
                interrupts += 1
            finally:
                sys.settrace(before)
            number = int(pool.mail["next"])
            np.testing.assert_array_equal(rnnx.rnn_forward(x, None, parameters)[0], expected)
            assert pool.mail["next"] > number, interrupts
    assert interrupts > 50
