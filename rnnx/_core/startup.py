"""Ctrl-C while the command ``rnnx`` starts ends it silently, as it ends programs that handle no signals.

This module is imported before all others, because those take a while; `signal` alone would take milliseconds.
"""

import _signal as signal  # type: ignore[import-not-found]
import os
import sys


def is_command() -> bool:
    """Return whether this process runs ``rnnx`` or ``python -m rnnx``."""
    arguments = getattr(sys, "argv", [""])
    if arguments[:1] != ["-m"]:  # what it is while Python imports the package of the module that it will run
        return os.path.basename("".join(arguments[:1])) in ("rnnx", "rnnx.exe")
    return sys.orig_argv[-len(arguments)] in ("rnnx", "-mrnnx")


def interrupts_end_silently() -> None:
    """Until `interrupts_raise`, let Ctrl-C end the process."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupts_raise() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if is_command():
    interrupts_end_silently()
