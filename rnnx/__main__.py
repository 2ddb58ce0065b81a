"""Entry point of ``python -m rnnx`` and of the ``rnnx`` command."""

import io
import sys

from rnnx._core import startup


def main() -> None:
    """Run the command line, or say what to install for it."""
    try:
        from rnnx.cli import cli
    except ModuleNotFoundError as error:
        if error.name not in ("click", "tqdm", "safetensors"):
            raise
        sys.exit(f"rnnx: the command line needs {error.name}; install it with: pip install 'rnnx[lab]'")
    for stream in (sys.stdout, sys.stderr):  # characters that a terminal cannot encode are escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")
    startup.interrupts_raise()
    cli(prog_name="rnnx")


if __name__ == "__main__":
    main()
