"""Whether several threads are faster than one, from the times of a job's earlier runs.

If other processes, or the threads of a BLAS that wait for their next product, use the cores, too, sharing a job may
take longer than running it alone. Nothing else tells that reliably, so both ways are measured.
"""

from rnnx.engines.cpu.runtime.thread_policy import policy

_MEASURED = frozenset({2, 8, 32, 128})  # runs on one thread, to learn their time, as is every 256th
_LONG = 30_000_000  # nanoseconds; longer jobs are always shared: they lose little, and a run alone is expensive
_CREDIT = 20_000_000  # nanoseconds won that count, at most, with a run alone; a host may stop a thread for as long
_DEBT = 10  # times that of a run alone and the credit are the most lost time that counts: a computer may be suspended
_RATE = 0.03  # of the time of runs alone: what may be lost to find out whether sharing pays off again


class Balance:
    """The nanoseconds lost so far by sharing a job, less those won. The job is shared unless the sum is positive.

    Sharing thus loses no more than the credit, a few runs, and a small part of the whole time, whatever the reason.
    After a shared run that took longer than one alone, the next run is alone: it tells whether sharing has become slow
    or the whole machine.
    """

    def __init__(self, estimate_ns: float) -> None:
        self.lost = 0.0
        self._alone = 0.0
        self._doubtful = 0.0  # the time of a shared run that took longer than one alone, until the next run alone
        self._runs = -1 if estimate_ns > _LONG else 0

    def shares(self) -> bool:
        """Return whether to share the next run."""
        if self._runs < 0 or not policy.get().measures:
            return True
        self._runs += 1
        measured = self._doubtful or self._runs in _MEASURED or self._runs % 256 == 0
        return self.lost <= 0 and not measured

    def add(self, shared: bool, ns: float) -> None:
        """Take the time of a run into account."""
        if shared and ns > self._alone:
            self._doubtful = ns if self._alone else 0
        elif shared:
            self.lost += ns - self._alone
        else:  # the smallest time, and slowly more if it becomes longer
            self.lost += self._doubtful - ns if self._doubtful else 0
            self._doubtful = 0
            self.lost -= 0 if self._alone else ns  # so that a stop in one of the first runs counts little
            self._alone = min(ns, self._alone + (ns - self._alone) / 8) if self._alone else ns
            self.lost -= _RATE * ns
        self.lost = min(max(self.lost, -_CREDIT - self._alone), _CREDIT + _DEBT * self._alone)
