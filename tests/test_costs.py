"""The choice of threads by costs of products and of waiting, how they are measured, and their file."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from workers import used_by_others

import rnnx
from rnnx.engines.cpu.codegen import ir
from rnnx.engines.cpu.descriptor.backward import BackwardPass
from rnnx.engines.cpu.descriptor.builder import PassKey
from rnnx.engines.cpu.descriptor.forward import ForwardPass
from rnnx.engines.cpu.runtime import costs, object_cache, object_files, thread_policy, tuning
from rnnx.engines.cpu.runtime.work import Costs, Work, cache_bytes

USUAL = Costs()
MB = 1 << 20


@pytest.fixture
def two_threads(monkeypatch):
    """What two threads choose for a layer's loop over time, with costs and a size of the L2 cache."""
    monkeypatch.setattr(thread_policy, "max_threads", lambda: 2)

    def choose(n, m, cache=2 * MB, n_steps=50, shared_lines=0, **given):
        weights = 4 * n * n
        work = Work(n_steps, m, 2 * n_steps * m * weights, 0, n // 64, shared_lines, True, 4 * n, weights)
        monkeypatch.setattr(thread_policy, "measured", lambda threads: USUAL._replace(**given))
        monkeypatch.setattr("rnnx.engines.cpu.runtime.work.cache_bytes", lambda: cache)
        return thread_policy.split(work)

    return choose


def test_few_rows_share_the_units_and_many_rows_the_examples(two_threads):
    assert two_threads(384, 16) == (2, True)
    assert two_threads(384, 256) == (2, False)
    assert two_threads(512, 1) == (2, True)
    assert two_threads(512, 1, n_steps=1, waiting=10**7) == (1, False)


def test_a_single_example_shares_the_units_where_its_weights_take_longer_than_waiting(two_threads):
    assert two_threads(128, 1) == (2, True)
    assert two_threads(128, 1, waiting=3000) == (1, False)
    assert two_threads(208, 8) == (2, False)  # whose rows would all move between the cores


@pytest.mark.parametrize(("cell", "forward"), [("lstm", 14), ("gru_reset_after", 14), ("gru", 4), ("rnn", 4)])
def test_shares_of_units_begin_micro_panels(cell, forward, monkeypatch):
    """Panels of four vectors, or three if three gates fill them: of a unit vector, or of several."""
    for module in (ir, tuning):
        monkeypatch.setattr(module, "machine", lambda: ir.Machine(64, 32))
    names = [name for name in rnnx.initialize_parameters(cell, 3, 211, seed=0) if name not in ("Wy", "Wya", "by")]
    key = PassKey(rnnx.CELLS[cell], np.dtype("float32"), 7, 1, 211, 3, False, tuple(names), False)
    assert ForwardPass.__wrapped__(key, False, (None,)).work.shares == forward
    assert BackwardPass.__wrapped__(key, (None,) * len(key.cell.states), None).work.shares == 4


def test_reading_weights_counts_where_it_is_slow(two_threads):
    assert two_threads(256, 8, near_rows=1) == (2, False)
    assert two_threads(256, 8, near_rows=9) == (2, True)
    assert two_threads(256, 16, near_rows=1, far_rows=40) == (2, False)  # they stay in the cache
    assert two_threads(256, 16, cache=MB - 1, near_rows=1, far_rows=40) == (2, True)  # half of them stays there


def test_waiting_counts(two_threads):
    assert two_threads(384, 16, waiting=100) == (2, True)
    assert two_threads(384, 16, waiting=100_000) == (2, False)
    assert two_threads(384, 16, shared_lines=100) == (2, False)  # rows that two threads write to


def test_slices_that_begin_at_cache_lines_share_none():
    def ns(row, threads=2):
        return Work(50, 8, 10**7, 0, 0, 12, True, row=row).ns(USUAL, threads, False)

    assert ns(400) == ns(448) < ns(404) == ns(0)  # of which the fifth example begins at byte 1600, 1792, 1616
    assert ns(400, 3) - ns(400) > 50 * 250  # five examples have 2000 bytes


def test_shares_of_unequal_size():
    """Three parts for two threads: one has two of them."""
    even, odd = (Work(50, 8, 10**9, 0, shares, 0, False).ns(USUAL, 2, True) for shares in (4, 3))
    assert odd == pytest.approx(4 / 3 * even, rel=0.01)


def test_two_slices_per_thread_where_they_take_hardly_longer():
    def slices(n=100, m=50, threads=2, n_steps=30):
        weights = 4 * n * n
        work = Work(n_steps, m, n_steps * m * 2 * weights, 0, 0, 0, True, 4 * n, weights)
        return work.slices_per_thread(threads, n_steps)

    assert slices() == slices(m=32) == slices(m=512, threads=16) == 2
    assert slices(threads=1) == 1
    assert slices(m=31) == 1  # of fewer than eight rows
    assert slices(m=32, n=1024) == 1  # which do not hide that all weights are read
    assert slices(n=30) == slices(n=1000, n_steps=7) == 1  # with too few sections to move any
    assert slices(m=1024, threads=17) == 1  # too many to look at all of them


def test_float64_takes_twice_as_long():
    work = Work(50, 8, 10**8, 0, 4, 0, True, 1024, 10**5)
    assert dataclasses.replace(work, item=8).ns(USUAL, 1, False) == 2 * work.ns(USUAL, 1, False)


def test_the_work_of_a_pass():
    key = PassKey(rnnx.CELLS["lstm"], np.dtype("float32"), 7, 5, 64, 3, False, tuple(_names()), False)
    work = ForwardPass(key, False, (None,)).work
    assert (work.weights, work.read, work.item) == (4 * 64 * 64, 64 * 4, 4)
    assert work.products == 7 * 5 * 4 * 64 * (64 + 3)


def _names():
    return [name for name in rnnx.initialize_parameters("lstm", 3, 64, seed=0) if name not in ("Wy", "by")]


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """Costs in a new process with an empty cache, where products and waiting take the given times."""
    monkeypatch.setenv("RNNX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("RNNX_AUTOTUNE", "1")

    def costs_of(times=None, waiting=None, threads=2):
        def measured(value):
            assert value is not None, "measured again"
            return value

        monkeypatch.setattr(costs, "_times", lambda: measured(times))
        monkeypatch.setattr(costs, "_wait", lambda: measured(waiting))
        object_files.cache_directory.cache_clear()
        return costs.costs(threads)

    yield costs_of
    object_files.cache_directory.cache_clear()


def test_costs_follow_from_times(fresh):
    """A hundredth of a nanosecond per row and weight, 0.04 for one row, and 0.2 beyond the cache."""
    assert fresh((0.04, 0.04 + 95 * 0.01, 0.2), 1234.4) == (100, 4, 20, 1234)


def test_costs_are_measured_once(fresh, tmp_path):
    first = fresh((0.04, 0.99, 0.2), 1234, threads=1)
    assert first.waiting == USUAL.waiting  # which one thread needs not know
    assert fresh(waiting=1234) == first._replace(waiting=1234)
    assert fresh() == fresh()
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == 2
    for file in files:
        object_files.write(file.stem, b"-1 0 99999999")
    assert fresh((0.04, 0.515, 0.1), 999) == (200, 8, 20, 999)


def test_costs_stay_near_the_usual_ones(fresh):
    """Whatever else runs during the measurement."""
    assert fresh((0, 0, 0), 0) == (240, 1, 4, 125)


def test_slow_measurements_stay_near_the_usual_ones(fresh):
    assert fresh((90.0, 100.0, 1e5), 1e9) == (15, 16, 52, 2000)


def test_without_autotuning_nothing_is_measured(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("RNNX_AUTOTUNE", "0")
    assert fresh() == USUAL
    assert not (tmp_path / "cache").exists()


def test_the_measurement_itself_runs(monkeypatch):
    monkeypatch.setattr(costs, "_ROUNDS", 1)
    assert all(np.isfinite(costs._times()))
    assert costs._wait() != USUAL.waiting


def test_waiting_is_not_measured_while_the_pool_is_busy(monkeypatch):
    with used_by_others():
        assert costs._wait() == USUAL.waiting


@pytest.mark.parametrize(("text", "expected"), [("512K", MB // 2), ("2048K\n", 2 * MB), ("big", MB), (None, MB)])
def test_the_size_of_the_cache(text, expected, monkeypatch):
    def read(path, encoding):
        if text is None:
            raise FileNotFoundError(path)
        return text

    monkeypatch.setattr(Path, "read_text", read)
    assert cache_bytes.__wrapped__() == expected


def test_numbers_on_disk_outside_their_limits_are_measured_again(tmp_path, monkeypatch):
    monkeypatch.setenv("RNNX_CACHE_DIR", str(tmp_path / "cache"))
    object_files.cache_directory.cache_clear()
    try:
        assert object_cache.remembered("pair", [(1, 4), (5, 9)], lambda: (2, 6)) == (2, 6)
        assert object_cache.remembered("pair", [(1, 4), (5, 9)], lambda: (3, 7)) == (2, 6)
        assert object_cache.remembered("pair", [(3, 4), (5, 9)], lambda: (3, 7)) == (3, 7)
        assert object_cache.remembered("pair", [(3, 4)], lambda: (4,)) == (4,)
    finally:
        object_files.cache_directory.cache_clear()
