"""Signals during training that ask it to end: Ctrl-C, SIGTERM, and SIGHUP when a terminal is closed."""

import contextlib
import errno
import math
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from rnnx.training.distributed.group import Group, any_rank

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupt:
    """Turns signals into a request that the training loop checks between steps. A second one interrupts at once.

    Those that follow within a second count as that one: leaving the run is not interrupted in its turn.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._interrupted = -math.inf  # when the last interrupt was raised, in seconds
        self._held = False
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._signal is not None

    def agree(self, group: Group) -> bool:
        """Return whether a signal has come to any rank, and take it over. All ranks call it."""
        found = any_rank(group, self._signal or 0)  # one that comes meanwhile is for the next call
        if found:
            self._signal = found
        return bool(found)

    @property
    def exit_code(self) -> int:
        """The shells' exit code for a program that the signal ended."""
        return 128 + (self._signal or 0)

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                before = signal.getsignal(number)
                if number == signal.SIGINT or before != signal.SIG_IGN:  # nohup ignores SIGHUP
                    self._before[number] = before
                    signal.signal(number, self._request)
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._held = True
        for number, before in self._before.items():
            signal.signal(number, before or signal.SIG_DFL)
        terminal_closed = isinstance(error, OSError) and error.errno == errno.EIO
        if self.requested and (terminal_closed or isinstance(error, KeyboardInterrupt)):
            raise SystemExit(self.exit_code) from None

    def _request(self, number: int, _frame: object) -> None:
        if not self.requested:
            self._signal = number
        elif not self._held and time.monotonic() - self._interrupted > 1:
            self._interrupted = time.monotonic()
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Interrupt nothing, for instance while a file is written."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
