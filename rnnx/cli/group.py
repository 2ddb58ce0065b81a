"""The command group, and what commands share."""

import contextlib
import math
import os
import shlex
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import rnnx
from rnnx._core.devices import by_device
from rnnx.data import CharTokenizer
from rnnx.training import checkpoint as checkpoints
from rnnx.training import free_folder
from rnnx.training.distributed import group as ranks

POSITIVE = click.FloatRange(0, min_open=True)
BELOW_ONE = click.FloatRange(0, 1, max_open=True)
UP_TO_ONE = click.FloatRange(0, 1, min_open=True)
FRACTION = click.FloatRange(0, 1, min_open=True, max_open=True)


class Command(click.Command):
    """A command that refuses repeated options; click would silently use the last one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:  # noqa: D102
        given = self.make_parser(ctx).parse_args(list(args))[2]
        for parameter in given:
            if isinstance(parameter, click.Option) and not parameter.multiple and given.count(parameter) > 1:
                raise click.UsageError(f"{' / '.join(parameter.opts)} must be given only once", ctx)
        return super().parse_args(ctx, args)


class Group(click.Group):
    """A command group whose help lists the commands in the order in which they were added."""

    def list_commands(self, _ctx: click.Context) -> list[str]:  # noqa: D102
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
    """Train character models, forecast time series and classify sequences.

    \b
    Getting started:
      rnnx train                      train on dinosaur names, in less than a minute
      rnnx sample runs/dinos-lstm     invent new names
      rnnx plot runs/dinos-lstm       plot the training curves and the gates
      rnnx train --text FILE          train on your own text
      rnnx forecast FILE.csv --target load --time timestamp --horizon 24

    A run is a folder with a checkpoint and metrics. Option names accept dashes or underscores.
    """  # noqa: D301


def printable(text: str) -> str:
    """Escape the control characters of a text, which may come from a file, except newlines."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


@contextlib.contextmanager
def errors_as_messages() -> Iterator[None]:
    """Turn errors that users can cause into one-line messages."""
    try:
        yield
        return
    except (ValueError, TypeError, FloatingPointError, ImportError, RuntimeError) as error:
        message = str(error)
    except BrokenPipeError:  # the reader of our output is gone
        raise SystemExit(1) from None
    except OSError as error:
        message = f"{error.filename}: " if error.filename else ""
        message += error.strerror or str(error)
    except (MemoryError, OverflowError) as error:
        message = f"too large for this machine: {str(error) or 'out of memory'}"
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    raise click.ClickException(printable(message))


def finite(_context: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    """Reject NaN and infinity, which click's ranges accept."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number")
    return value


def number(*names: str, type: Any = POSITIVE, **options: Any) -> Any:  # noqa: A002
    """Declare an option that is a finite number."""
    return click.option(*names, type=type, callback=finite, **options)


def quoted(path: str | Path) -> str:
    """Return a path quoted for a shell, so that it is not taken for an option."""
    text = str(path)
    return shlex.quote(f".{os.sep}{text}" if text.startswith("-") else text)


run_argument = click.argument("run", type=click.Path())
device_option = click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Device to run on. cuda requires CuPy."
)


def check_paths(options: Mapping[str, Any], *names: str) -> None:
    """Raise if an option is an empty path."""
    for name in names:
        if options[name] == "":
            raise ValueError(f"--{name} must not be empty")


def on_command_line(context: click.Context, name: str) -> bool:
    """Whether an option was given."""
    return context.get_parameter_source(name) == ParameterSource.COMMANDLINE


def check_one_text(context: click.Context, options: Mapping[str, Any]) -> None:
    """Raise if both --text and --dataset were given."""
    if options["text"] is not None and on_command_line(context, "dataset"):
        raise ValueError("--text and --dataset cannot be combined")


@contextlib.contextmanager
def output_folder(output: str | None, name: str, group: ranks.Group = ranks.ALONE) -> Iterator[str]:
    """Return `output` or, without one, a new folder in runs, which an error removes if it is still empty.

    Rank 0 makes the folder for all.
    """
    new = not output and group.rank == 0
    folder = Path(group.collect(ranks.agreed(group, lambda: str(free_folder("runs", name) if new else output)))[0])
    try:
        yield str(folder)
    except BaseException:
        if new:
            with contextlib.suppress(OSError):  # they are not empty
                folder.rmdir()
                folder.parent.rmdir()
        raise


def load_characters(run: str, device: str = "cpu") -> tuple[checkpoints.Checkpoint, CharTokenizer]:
    """Load a character model's checkpoint and tokenizer; raise ValueError or OSError if there is none."""
    loaded = checkpoints.load_run(run, by_device(device))
    if loaded.tokenizer is None or loaded.model.kind != "characters":
        raise ValueError(f"{run} does not contain a character model")
    return loaded, loaded.tokenizer


def lowered(loaded: checkpoints.Checkpoint, text: str) -> str:
    """Return a text in lower case if the model was trained on lower case."""
    settings = loaded.training.get("settings")
    return text.lower() if isinstance(settings, dict) and settings.get("lower") is True else text


def is_lines(loaded: checkpoints.Checkpoint) -> bool:
    """Whether the model was trained on lines."""
    return loaded.training.get("by") == "lines"
