"""``python -m rnnx`` and the ``rnnx`` command."""

import io
import sys


def main() -> None:
    """Run the command line, or say what it needs."""
    try:
        from rnnx.cli import cli
    except ModuleNotFoundError as error:
        if error.name not in ("click", "tqdm", "safetensors"):
            raise
        sys.exit(f"rnnx: the command line needs {error.name}; install it with: pip install 'rnnx[lab]'")
    for stream in (sys.stdout, sys.stderr):  # a terminal or pipe that cannot show a character shows an escape
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    cli(prog_name="rnnx")


if __name__ == "__main__":
    main()
