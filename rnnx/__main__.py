"""Entry point of ``python -m rnnx`` and of the ``rnnx`` command."""

import io
import os
import sys

from rnnx._core import startup
from rnnx._core.install import install_command


def main() -> None:
    """Run the command line, or say what to install for it."""
    try:
        import safetensors  # noqa: F401  (commands read what they wrote)

        from rnnx.cli import cli
    except ModuleNotFoundError as error:
        if error.name not in ("click", "tqdm", "safetensors"):
            raise
        sys.exit(f"rnnx: the command line needs {error.name}; install it with: {install_command('lab')}")
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):  # characters that a terminal cannot encode are escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")
    startup.interrupts_raise()
    try:
        cli(prog_name="rnnx")
    except OSError as error:  # commands handle all others
        sys.stdout = None  # Python would try again to write the rest
        sys.exit(f"Error: cannot write the output: {error.strerror or error}")


def _open_missing_streams() -> None:
    """Open the standard streams that the program was started without; no other file may get their descriptors."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


if __name__ == "__main__":
    main()
