"""Ranks of data-parallel training as threads of one process, for tests."""

import threading

import numpy as np


class Threads:
    """The ranks of a group; `calls` counts the calls of rank 0 by name."""

    def __init__(self, size):
        self.size, self.calls = size, {}
        self.barrier, self.slots = threading.Barrier(size, timeout=20), [None] * size

    def rank(self, number):
        return _Rank(self, number)


class _Rank:
    def __init__(self, threads, rank):
        self._threads, self.rank, self.size, self.calls = threads, rank, threads.size, threads.calls

    def collect(self, value, name="collect"):
        threads = self._threads
        if self.rank == 0:
            threads.calls[name] = threads.calls.get(name, 0) + 1
        threads.slots[self.rank] = name, value
        threads.barrier.wait()
        found = list(threads.slots)
        threads.barrier.wait()
        assert len({name for name, _ in found}) == 1, "the ranks make different calls"
        return [value for _, value in found]

    def exchange(self, rows):
        assert rows.shape[0] == self.size
        return np.stack([other[self.rank] for other in self.collect(rows.copy(), "exchange")])

    def gather(self, row):
        return np.stack(self.collect(row.copy(), "gather"))

    def start_sum(self, array):
        found = self.collect(array.copy(), "sum")
        return lambda: sum(found[::-1])

    def abort(self, message):
        self._threads.barrier.abort()


def in_ranks(size, work):
    """Call ``work(group)`` in every rank at the same time; return the results, or raise the first error of a rank."""
    ranks, results = Threads(size), [None] * size

    def run(rank):
        try:
            results[rank] = work(ranks.rank(rank))
        except BaseException as error:
            results[rank] = error
            if isinstance(error, AssertionError):
                ranks.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        first = next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])
        raise first
    return results
