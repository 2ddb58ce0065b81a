"""The command itself, and what its subcommands share."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import rnnx
from rnnx._core.devices import by_device
from rnnx.data import CharTokenizer
from rnnx.training import checkpoint as checkpoints

POSITIVE = click.FloatRange(0, min_open=True)
FRACTION = click.FloatRange(0, 1, min_open=True, max_open=True)


class Group(click.Group):
    """Lists its commands in the order in which one needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order in which they were added."""
        del ctx
        return list(self.commands)


@click.group(
    cls=Group,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: name.replace("_", "-"),
        "show_default": True,
        "max_content_width": 100,
    },
)
@click.version_option(rnnx.__version__, prog_name="rnnx")
def cli() -> None:
    """Recurrent networks on the command line: train a character model, draw texts from it, look inside.

    \b
    Begin with
      rnnx train                      learn the names of dinosaurs, in seconds
      rnnx sample runs/dinos-lstm     invent new ones
      rnnx plot runs/dinos-lstm       pictures of the training and of the gates
      rnnx train --text FILE          learn a text of your own

    Every run has a folder with its checkpoint and its metrics. Options may be written with dashes or underscores.
    """  # noqa: D301


@contextlib.contextmanager
def errors_as_messages() -> Iterator[None]:
    """A user's mistake is one line, not a traceback."""
    try:
        yield
    except (ValueError, TypeError, FloatingPointError, ImportError) as error:
        raise click.ClickException(str(error)) from None
    except BrokenPipeError:  # the reader of our output is gone; nobody is there to be told
        raise SystemExit(1) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(f"{where}{error.strerror or error}") from None
    except (MemoryError, OverflowError) as error:
        raise click.ClickException(f"too large for this machine: {error or 'out of memory'}") from None
    except RuntimeError as error:  # a side of a comparison that failed
        raise click.ClickException(str(error)) from None


def finite(_context: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    """Not infinite and not NaN, which a range lets pass."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number")
    return value


def number(*names: str, type: Any = POSITIVE, **options: Any) -> Any:  # noqa: A002
    """An option that is a finite number."""
    return click.option(*names, type=type, callback=finite, **options)


run_argument = click.argument("run", type=click.Path())
device_option = click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Where to compute; cuda needs CuPy."
)


def load_characters(run: str, device: str = "cpu") -> tuple[checkpoints.Checkpoint, CharTokenizer]:
    """The character model of a run's folder or of a checkpoint file, and its tokenizer.

    Raises
    ------
    ValueError, OSError
        If there is none.
    """
    path = Path(run)
    if path.is_dir() and not checkpoints.file_of(path).exists():
        raise ValueError(f"{path} holds no {checkpoints.FILE_NAME}: it is not the folder of a run")
    loaded = checkpoints.load_checkpoint(path, xp=by_device(device))
    if loaded.tokenizer is None or loaded.model.kind != "characters":
        raise ValueError(f"{path} does not hold a character model")
    return loaded, loaded.tokenizer
