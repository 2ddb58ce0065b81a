"""The command ``rnnx train``."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import click
from click import Choice, FloatRange, IntRange, option

from rnnx.cli.display import Display
from rnnx.cli.group import (
    BELOW_ONE,
    FRACTION,
    POSITIVE,
    UP_TO_ONE,
    Command,
    check_one_text,
    check_paths,
    device_option,
    errors_as_messages,
    number,
    on_command_line,
    output_folder,
)
from rnnx.cli.interrupt import Interrupt
from rnnx.cli.options import (
    as_options,
    check_resumed,
    quiet_option,
    resume_option,
    save_every_option,
    setting_of,
)
from rnnx.cli.ranks import training_group
from rnnx.data import find_text
from rnnx.data.corpus import BY, SPLITS
from rnnx.engines.precision import PRECISIONS
from rnnx.functional.initialization import SCHEMES
from rnnx.training import Run, Settings
from rnnx.training.distributed.group import Group, agreed
from rnnx.training.search_space import OF_MODEL
from rnnx.training.settings import DECAYS
from rnnx.training.state import REDUCTIONS

_ON_RESUME = ("epochs", "iterations", "patience", "evaluate_every", "text")  # settings that --resume may change
NOT_SETTINGS = ("resume", "init_from", "output", "device", "sample_every", "temperature", "save_every", "quiet")
_COUNT = IntRange(1)
_setting = partial(setting_of, Settings)


@click.command(cls=Command)
# data
@_setting(
    "--dataset",
    type=str,
    help="Text by name: dinos or pydoc, which are built in; NAME for the file data/NAME.txt; shakespeare, which is "
    "downloaded once.",
    metavar="NAME",
)
@_setting("--text", type=click.Path(dir_okay=False), help="UTF-8 text file to train on, of any size.")
@option("--lower", is_flag=True, help="Convert the text to lower case, and later the --start of samples.")
@_setting(
    "--by",
    type=Choice(BY),
    help="How to split the text into sequences. lines: one sequence per line. windows: pieces of the text. streams: "
    "the text in order, with the state carried from batch to batch (truncated BPTT). auto: lines if the text is a "
    "list, otherwise windows.",
)
@_setting("--seq-length", type=IntRange(1, 10**9), help="Characters per window, or per step of streams.")
@_setting(
    "--split",
    type=Choice(SPLITS),
    help="What to hold out of windows and streams. tail: the end of the text. blocks: the end of each of ten blocks.",
)
@_setting("--validation", type=FRACTION, help="Fraction of the text held out for validation.")
@_setting("--min-count", type=_COUNT, help="Treat characters that occur less often as unknown.")
# model
@_setting("--cell --model")
@option("--reset-after", is_flag=True, help="Use the GRU variant of PyTorch and Keras instead of the course's.")
@_setting("--hidden-size --rnn-size")
@_setting("--num-layers")
@_setting("--dropout")
@_setting("--zoneout", type=BELOW_ONE, help="Rate at which units keep their previous state in training.")
@_setting(
    "--recurrent-dropout",
    type=BELOW_ONE,
    help="Dropout rate of what recurrent weights multiply, with one mask for all steps.",
)
@_setting("--scheme", type=Choice([*SCHEMES]), help="Initialization of the parameters.")
@_setting("--dtype")
# training
@_setting(
    "--precision",
    type=Choice(PRECISIONS),
    help="Precision of the layers in training; the parameters keep their dtype. tf32 needs a GPU.",
    show_default="--dtype",
)
@_setting("--epochs", default=None, show_default=str(Settings.epochs))
@_setting("--iterations", type=_COUNT, help="Training steps, instead of --epochs.")
@_setting("--batch-size")
@_setting("--optimizer")
@_setting("--learning-rate")
@_setting("--momentum", type=BELOW_ONE, help="Momentum of the momentum and nesterov optimizers.")
@_setting("--weight-decay")
@_setting(
    "--decay",
    type=Choice([*DECAYS]),
    help="Learning-rate schedule. cosine spans the whole run and is recomputed when --resume extends it.",
)
@_setting(
    "--decay-every", type=POSITIVE, help="Epochs after which step and exponential decay multiply by --decay-factor."
)
@_setting("--decay-factor", type=UP_TO_ONE, help="Factor of step and exponential decay.")
@_setting("--warmup", type=IntRange(0), help="Steps over which the learning rate rises from zero.")
@_setting("--clip-norm")
@_setting("--clip-value", type=POSITIVE, help="Clip every gradient entry to this absolute value.")
@_setting("--patience", type=_COUNT, help="Stop after this many evaluations without improvement.")
@_setting(
    "--segment-length",
    type=IntRange(0),
    help="Save memory on long sequences: store only every N-th state and recompute the rest during backward. "
    "0 picks the length that needs the least memory. The gradients are the same.",
)
@_setting("--seed")
@option("--deterministic", is_flag=True, help="Keep the batches in text order instead of shuffling.")
@_setting("--evaluate-every", type=_COUNT, help="Steps between evaluations.", show_default="one epoch")
@_setting(
    "--shards",
    type=_COUNT,
    help="Parts of a batch, computed one after the other or on the ranks of mpiexec, with the same result.",
    show_default="the number of ranks",
)
@_setting(
    "--reduce",
    type=Choice(REDUCTIONS),
    help="Add up the gradients in the order of the shards, or in the fastest one, which depends on the number of "
    "ranks.",
)
# run
@option("--output", type=click.Path(), show_default="runs/DATASET-CELL", help="Run folder.")
@resume_option
@option(
    "--init-from",
    type=click.Path(),
    metavar="MODEL",
    help="Train the model of this run or checkpoint further, on another text; new characters are added.",
)
@option("--sample-every", type=IntRange(0), default=3, help="Evaluations between samples; 0 samples only at the end.")
@number("--temperature", type=FloatRange(0), default=0.8, help="Sampling temperature.")
@save_every_option
@device_option
@quiet_option
@click.pass_context
def train(context: click.Context, /, **options: Any) -> None:
    """Train a character model.

    Without options it trains on dinosaur names and invents new ones, in less than a minute. Ctrl-C, SIGTERM and
    SIGHUP save and stop the run; --resume continues it, also after a crash.

    \b
    Examples:
      rnnx train --dataset pydoc --by streams --num-layers 2 --hidden-size 256 --dropout 0.2
      rnnx train --text poems.txt --optimizer adamw --decay cosine --epochs 30
      rnnx train --resume runs/poems-lstm --epochs 60
      mpiexec -n 4 rnnx train --text poems.txt --batch-size 256
    """  # noqa: D301
    with errors_as_messages(), training_group(options["device"]) as group, Interrupt() as interrupt:
        settings, changes = agreed(group, lambda: _checked(context, options))
        run = _started(settings, options, group) if changes is None else _resumed(changes, options, group)
        display = Display(run, options)
        display.describe()
        display.train(interrupt)
        if interrupt.requested:
            display.interrupted()
            raise SystemExit(interrupt.exit_code)
        display.finish()


def _checked(context: click.Context, options: dict[str, Any]) -> tuple[Settings, dict[str, Any] | None]:
    """Return the settings of a new run, and with --resume the changes, after checking the options."""
    check_paths(options, "text", "resume", "init_from", "output")
    if options["resume"] is not None:
        return Settings(), _changes(context, options)
    settings = new_settings(context, options)
    if settings.text is None:
        find_text(settings.dataset)  # raises if there is none, before a folder gets its name
    return settings, None


def new_settings(context: click.Context, options: Mapping[str, Any]) -> Settings:
    """Return the settings of a new run from the options of the command, after checking them."""
    check_one_text(context, options)
    fixed = [name for name in OF_MODEL if on_command_line(context, name)] if options["init_from"] else []
    if fixed:
        raise ValueError(f"a model keeps its cell and sizes; --init-from cannot be combined with {as_options(fixed)}")
    names = {parameter.name for parameter in train.params}.difference(NOT_SETTINGS)
    given = dict(as_setting(name, value) for name, value in options.items() if name in names)
    if given["epochs"] is None and given["iterations"] is None:
        given["epochs"] = Settings.epochs
    return Settings(**given)


def as_setting(name: str, value: Any) -> tuple[str, Any]:
    """Return the setting, and its value, that an option stands for."""
    if name == "deterministic":
        return "shuffle", not value
    return name, "sqrt" if name == "segment_length" and value == 0 else value


def as_option(name: str, value: Any) -> Any:
    """Return the value of an option that stands for a setting with this value."""
    if name == "deterministic":
        return not value
    return 0 if name == "segment_length" and value == "sqrt" else value


def _started(settings: Settings, options: dict[str, Any], group: Group) -> Run:
    with output_folder(options["output"], f"{settings.name()}-{settings.cell}", group) as folder:
        return Run.start(folder, settings, options["device"], init_from=options["init_from"], group=group)


def _changes(context: click.Context, options: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that --resume changes."""
    given = [name for name in options if on_command_line(context, name)]
    fixed = [name for name in given if name not in (*_ON_RESUME, *NOT_SETTINGS) or name in ("output", "init_from")]
    check_resumed(fixed)
    changes = {name: options[name] for name in given if name in _ON_RESUME}
    if "iterations" in changes or "epochs" in changes:  # the other one no longer limits the run
        changes = {"epochs": None, "iterations": None, **changes}
    return changes


def _resumed(changes: dict[str, Any], options: dict[str, Any], group: Group) -> Run:
    return Run.resume(options["resume"], options["device"], group=group, **changes)
