"""Whether several threads are faster than one, from the times of a job's earlier runs.

If other processes, or the threads of a BLAS that wait for their next product, use the cores, too, sharing a job may
take longer than running it alone. Nothing else tells that reliably, so both ways are measured.
"""

from rnnx.engines.cpu.runtime.thread_policy import policy

_MEASURED = frozenset({2, 8, 32, 128})  # runs on one thread, to learn their time, as is every 256th
_LONG = 30_000_000  # nanoseconds; longer jobs are always shared: they lose little, and a run alone is expensive
_CREDIT = 20_000_000  # nanoseconds won that count, at most, with a run alone
_STOP = 10_000_000  # nanoseconds that count of the loss of a single slow run, at most, with a run alone
_DEBT = 10  # times that of a run alone and the credit are the most lost time that counts: a computer may be suspended
_RATE = 0.03  # of the time of runs alone: what may be lost to find out whether sharing pays off again


class Balance:
    """The nanoseconds lost so far by sharing a job, less those won. The job is shared unless the sum is positive.

    Sharing thus loses no more than the credit, a few runs, and a small part of the whole time, whatever the reason. A
    single slow run between faster ones may be a long stop of the host: only a part of it counts. When slow runs have
    used up what was won, a run alone tells whether sharing has become slow or the whole machine. Before that, it is not
    worth its time.
    """

    def __init__(self, estimate_ns: float) -> None:
        self.lost = 0.0
        self._alone = 0.0
        self._slow = 0  # shared runs that took longer than one alone, since the last run alone
        self._excess = 0.0  # lost by the last shared run beyond `_STOP`, which counts if the next one is slow, too
        self._runs = -1 if estimate_ns > _LONG else 0

    def shares(self) -> bool:
        """Return whether to share the next run."""
        if self._always:
            return True
        self._runs += 1
        return self.lost <= 0 and self._runs not in _MEASURED and self._runs % 256 > 0

    @property
    def expects_to_share(self) -> bool:
        """Whether runs are to be shared from now on, but for those that are measured alone."""
        return self.lost <= 0 or self._always

    @property
    def _always(self) -> bool:
        return self._runs < 0 or not policy.get().measures

    def add(self, shared: bool, ns: float) -> None:
        """Take the time of a run into account."""
        if shared and self._alone:
            lost = ns - self._alone
            counted = min(lost, _STOP + self._alone)
            self.lost += counted + (self._excess if lost > 0 else 0)
            self._excess = lost - counted
            self._slow += lost > 0
        elif shared:
            self._excess = ns
        else:  # the smallest time, and slowly more if it becomes longer
            before = self._alone or ns
            if not self._alone:  # a credit: a stop in one of the next runs counts little
                self.lost, self._excess = self.lost - ns, max(self._excess - ns, 0)
            self.lost -= self._slow * max(ns - before, 0) + _RATE * ns
            self._alone = min(ns, before + min(ns - before, before) / 8)
            self._slow = 0
        self.lost = min(max(self.lost, -_CREDIT - self._alone), _CREDIT + _DEBT * self._alone)
