"""Options of commands that are settings of a run, with the defaults of the settings."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
from click import Choice, FloatRange, IntRange, option

from rnnx.cli.group import BELOW_ONE, POSITIVE, device_option, number
from rnnx.models.layers import CELLS
from rnnx.optim import OPTIMIZERS
from rnnx.training.settings import TrainingSettings


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


resume_option = option("--resume", type=click.Path(), metavar="RUN", help="Resume the run in this folder.")
save_every_option = number("--save-every", type=FloatRange(0), default=30.0, help="Seconds between checkpoints.")
quiet_option = option("--quiet", is_flag=True, help="Hide the progress bar.")
_COUNT = IntRange(1)
_SHARED: dict[str, dict[str, Any]] = {  # options of several commands, by the setting that they are
    "cell": {
        "type": Choice(CELLS),
        "metavar": "NAME",
        "help": f"Recurrent cell: rnn, lstm, gru, or {', '.join(CELLS[3:])}.",
    },
    "hidden_size": {
        "type": str,
        "callback": widths,
        "metavar": "INTEGERS",
        "help": "Units per layer; 256,128 for unequal layers.",
    },
    "num_layers": {"type": _COUNT, "help": "Number of recurrent layers."},
    "dropout": {"type": BELOW_ONE, "help": "Dropout rate between layers."},
    "dtype": {"type": Choice(["float32", "float64"]), "help": "Floating-point type."},
    "epochs": {"type": _COUNT, "help": "Most passes over the training data."},
    "batch_size": {"type": _COUNT, "help": "Sequences per step."},
    "optimizer": {"type": Choice([*OPTIMIZERS]), "help": "Optimizer."},
    "learning_rate": {"type": POSITIVE, "help": "Learning rate."},
    "weight_decay": {"type": FloatRange(0), "help": "Weight decay.", "show_default": "the optimizer's"},
    "clip_norm": {"type": POSITIVE, "help": "Clip the global gradient norm to this value."},
    "seed": {"type": IntRange(0), "help": "Random seed. Same seed, same result, bit for bit."},
}


def shared_option(names: str, **options: Any) -> Any:
    """Declare an option with options of click, besides those that it has in all commands."""
    options = {**_SHARED.get(_name(names), {}), **options}
    declare = number if isinstance(options["type"], FloatRange) else option
    return declare(*names.split(), **options)


def setting_of(settings: type[TrainingSettings], names: str, **options: Any) -> Any:
    """Declare an option for the setting of the same name, with its default; see `shared_option`."""
    default = getattr(settings, _name(names))
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    return shared_option(names, **{"default": default, **options})


def _name(names: str) -> str:
    """Return the setting that an option stands for."""
    return names.split()[0].removeprefix("--").replace("-", "_")


def table_options(settings: type[TrainingSettings]) -> Callable[[Any], Any]:
    """Declare the options of the model, the training and the run that commands on a table share."""
    declared = [
        *(setting_of(settings, f"--{name.replace('_', '-')}") for name in _SHARED),
        option("--run", "folder", type=click.Path(), show_default="in runs", help="Run folder."),
        resume_option,
        save_every_option,
        device_option,
        quiet_option,
    ]

    def decorate(command: Any) -> Any:
        for one in reversed(declared):
            command = one(command)
        return command

    return decorate
