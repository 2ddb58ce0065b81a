"""Options of commands that are settings of a run, with the defaults of the settings."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
from click import Choice, FloatRange, IntRange, option

from rnnx.cli.group import BELOW_ONE, POSITIVE, device_option, number
from rnnx.models.layers import CELLS
from rnnx.optim import OPTIMIZERS
from rnnx.training.settings import TrainingSettings

_COUNT = IntRange(1)


def setting_of(settings: type[TrainingSettings], names: str, type: Any, help: str, **options: Any) -> Any:  # noqa: A002
    """Declare an option for the setting of the same name, with its default."""
    declare = number if isinstance(type, FloatRange) else option
    first, *others = names.split()
    default = getattr(settings, first.removeprefix("--").replace("-", "_"))
    return declare(first, *others, **{"type": type, "help": help, "default": default, **options})


def widths(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Parse the units of all layers, or of each layer."""
    parts = value.split(",")
    if not all(part.strip().isdecimal() and len(part) < 10 and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value[:50]!r} is not a positive integer or a comma-separated list of them")
    return tuple(map(int, parts))


def columns(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Parse a comma-separated list of columns."""
    names = tuple(name.strip() for name in (value or "").split(",")) if value is not None else ()
    if "" in names or len(set(names)) < len(names):
        raise click.BadParameter(f"{value!r} is not a comma-separated list of different columns")
    return names


def levels(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Parse a comma-separated list of numbers."""
    if value is None:
        return None
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value[:50]!r} is not a comma-separated list of numbers") from None


def as_options(names: Iterable[str]) -> str:
    """Return the options of these names as they are written on the command line."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def check_resumed(fixed: Sequence[str]) -> None:
    """Raise if options are given that a resumed run does not change."""
    if fixed:
        raise ValueError(f"a resumed run keeps its settings; --resume cannot be combined with {as_options(fixed)}")


def table_options(settings: type[TrainingSettings]) -> Callable[[Any], Any]:
    """Declare the options of the model, the training and the run that commands on a table share."""

    def declare(names: str, type: Any, help: str, **options: Any) -> Any:  # noqa: A002
        return setting_of(settings, names, type, help, **options)

    width = ",".join(map(str, settings.hidden_size))
    declared = [
        declare("--cell", Choice(CELLS), "Recurrent cell: rnn, lstm, gru, or another of rnnx.CELLS.", metavar="NAME"),
        declare("--hidden-size", str, "Units per layer.", callback=widths, metavar="INTEGERS", default=width),
        declare("--num-layers", _COUNT, "Number of recurrent layers."),
        declare("--dropout", BELOW_ONE, "Dropout rate between layers."),
        declare("--dtype", Choice(["float32", "float64"]), "Floating-point type."),
        declare("--epochs", _COUNT, "Most passes over the training data."),
        declare("--batch-size", _COUNT, "Sequences per step."),
        declare("--optimizer", Choice([*OPTIMIZERS]), "Optimizer."),
        declare("--learning-rate", POSITIVE, "Learning rate."),
        declare("--weight-decay", FloatRange(0), "Weight decay.", show_default="the optimizer's"),
        declare("--clip-norm", POSITIVE, "Clip the global gradient norm to this value."),
        declare("--seed", IntRange(0), "Random seed. Same seed, same result, bit for bit."),
        option("--run", "folder", type=click.Path(), show_default="in runs", help="Run folder."),
        option("--resume", type=click.Path(), metavar="RUN", help="Resume the run in this folder."),
        number("--save-every", type=FloatRange(0), default=30.0, help="Seconds between checkpoints."),
        device_option,
        option("--quiet", is_flag=True, help="Hide the progress bar."),
    ]

    def decorate(command: Any) -> Any:
        for one in reversed(declared):
            command = one(command)
        return command

    return decorate
