"""The command ``rnnx train``."""

from typing import Any

import click
from click import Choice, FloatRange, IntRange, option
from click.core import ParameterSource

from rnnx.cli.display import Display
from rnnx.cli.group import FRACTION, device_option, errors_as_messages, number
from rnnx.cli.interrupt import Interrupt
from rnnx.data import CORPORA
from rnnx.optim import OPTIMIZERS
from rnnx.training import Run, Settings, free_folder

INTERRUPTED = 130  # the shells' exit code for a program stopped by Ctrl-C
_ON_RESUME = ("epochs", "iterations", "patience", "evaluate_every", "text")  # settings that --resume may change
_NOT_SETTINGS = ("resume", "output", "device", "sample_every", "temperature", "save_every", "quiet")
_POSITIVE_INT = IntRange(1)


def _widths(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Parse the units of all layers, or of each layer."""
    parts = value.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r} is not a positive integer or a comma-separated list of them")
    return tuple(map(int, parts))


@click.command()
# data
@option("--dataset", type=Choice([*CORPORA]), default="dinos", help="Built-in text.")
@option("--text", type=click.Path(dir_okay=False), help="UTF-8 text file to train on, of any size.")
@option(
    "--by",
    type=Choice(["auto", "lines", "windows", "streams"]),
    default="auto",
    help="How to split the text into sequences. lines: one sequence per line. windows: pieces of the text. streams: "
    "the text in order, with the state carried from batch to batch (truncated BPTT). auto: lines if it is a list, "
    "otherwise windows.",
)
@option("--seq-length", type=IntRange(1, 10**9), default=64, help="Characters per window, or per step of streams.")
@option(
    "--split",
    type=Choice(["tail", "blocks"]),
    default="tail",
    help="What to hold out of windows and streams. tail: the end of the text. blocks: the end of each of ten blocks.",
)
@number("--validation", type=FRACTION, default=0.1, help="Fraction of the text held out for validation.")
@option("--min-count", type=_POSITIVE_INT, default=1, help="Treat characters that occur less often as unknown.")
# model
@option("--cell", "--model", type=Choice(["rnn", "lstm", "gru"]), default="lstm", help="Recurrent cell.")
@option("--reset-after", is_flag=True, help="Use the GRU of PyTorch and Keras instead of the course's.")
@option(
    "--hidden-size",
    "--rnn-size",
    callback=_widths,
    metavar="INTEGERS",
    default="128",
    help="Units per layer; 256,128 for unequal layers.",
)
@option("--num-layers", type=_POSITIVE_INT, default=1, help="Number of recurrent layers.")
@number("--dropout", type=FloatRange(0, 1, max_open=True), default=0.0, help="Dropout rate between layers.")
@option(
    "--scheme",
    type=Choice(["keras", "torch", "course"]),
    default="keras",
    help="Initialization of the parameters.",
)
@option("--dtype", type=Choice(["float32", "float64"]), default="float32", help="Floating-point type.")
# training
@option("--epochs", type=_POSITIVE_INT, show_default=str(Settings.epochs), help="Passes over the text.")
@option("--iterations", type=_POSITIVE_INT, help="Training steps, instead of --epochs.")
@option("--batch-size", type=_POSITIVE_INT, default=16, help="Sequences per step.")
@option("--optimizer", type=Choice([*OPTIMIZERS]), default="adam", help="Optimizer.")
@number("--learning-rate", default=0.003, help="Learning rate.")
@number("--momentum", type=FloatRange(0, 1, max_open=True), default=0.9, help="Momentum, for momentum and nesterov.")
@number("--weight-decay", type=FloatRange(0), show_default="that of the optimizer", help="Weight decay.")
@option(
    "--decay",
    type=Choice(["none", "step", "exponential", "cosine"]),
    default="none",
    help="Learning-rate schedule. With cosine, the schedule spans the whole run and is recomputed when --resume "
    "extends it.",
)
@number("--decay-every", default=1.0, help="Epochs in which step and exponential decay apply --decay-factor.")
@number(
    "--decay-factor", type=FloatRange(0, 1, min_open=True), default=0.5, help="Factor of step and exponential decay."
)
@option("--warmup", type=IntRange(0), default=0, help="Steps over which the learning rate rises from zero.")
@number("--clip-norm", default=5.0, help="Clip the global gradient norm to this value.")
@number("--clip-value", help="Clip every gradient entry to this absolute value.")
@option("--patience", type=_POSITIVE_INT, help="Stop after this many evaluations without improvement.")
@option(
    "--segment-length",
    type=IntRange(0),
    help="Save memory on long sequences: store one state per this many steps and recompute the rest during backward. "
    "0 chooses the length that needs the least memory. The gradients are the same.",
)
@option("--seed", type=IntRange(0), default=0, help="Random seed. Same seed, same result, bit for bit.")
@option("--deterministic", is_flag=True, help="Keep the batches in text order instead of shuffling.")
# run
@option("--output", type=click.Path(), show_default="runs/DATASET-CELL", help="Folder of the run.")
@option("--resume", type=click.Path(), metavar="RUN", help="Resume the run in this folder.")
@option("--evaluate-every", type=_POSITIVE_INT, show_default="one epoch", help="Steps between evaluations.")
@option(
    "--sample-every", type=IntRange(0), default=3, help="Evaluations between samples; 0 for samples at the end only."
)
@number("--temperature", type=FloatRange(0), default=0.8, help="Temperature of the samples.")
@number("--save-every", type=FloatRange(0), default=30.0, help="Seconds between checkpoints.")
@device_option
@option("--quiet", is_flag=True, help="Do not show a progress bar.")
@click.pass_context
def train(context: click.Context, /, **options: Any) -> None:
    """Train a character model.

    Without options it trains on dinosaur names and invents new ones, in less than a minute. Ctrl-C saves and stops the
    run; --resume continues it, also after a crash.

    \b
    Examples:
      rnnx train --dataset pydoc --by streams --num-layers 2 --hidden-size 256 --dropout 0.2
      rnnx train --text poems.txt --optimizer adamw --decay cosine --epochs 30
      rnnx train --resume runs/poems-lstm --epochs 60
    """  # noqa: D301
    with errors_as_messages(), Interrupt() as interrupt:
        for name in ("text", "resume", "output"):
            if options[name] == "":
                raise ValueError(f"--{name} is empty")
        run = _started(context, options) if options["resume"] is None else _resumed(context, options)
        display = Display(run, options)
        display.describe()
        display.train(interrupt)
        if interrupt.requested:
            display.interrupted()
            raise SystemExit(INTERRUPTED)
        display.finish()


def _on_command_line(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) == ParameterSource.COMMANDLINE


def _started(context: click.Context, options: dict[str, Any]) -> Run:
    if options["text"] is not None and _on_command_line(context, "dataset"):
        raise ValueError("--text and --dataset cannot be combined")
    given = {name: value for name, value in options.items() if name not in _NOT_SETTINGS}
    given["shuffle"] = not given.pop("deterministic")
    if given["epochs"] is None and given["iterations"] is None:
        given["epochs"] = Settings.epochs
    if given["segment_length"] == 0:
        given["segment_length"] = "sqrt"
    settings = Settings(**given)
    folder = options["output"] or free_folder("runs", f"{settings.name()}-{settings.cell}")
    return Run.start(folder, settings, options["device"])


def _resumed(context: click.Context, options: dict[str, Any]) -> Run:
    given = [name for name in options if _on_command_line(context, name)]
    fixed = [name for name in given if name not in (*_ON_RESUME, *_NOT_SETTINGS) or name == "output"]
    if fixed:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in fixed)
        raise ValueError(f"a resumed run keeps its settings; --resume cannot be combined with {names}")
    changes = {name: options[name] for name in given if name in _ON_RESUME}
    if "iterations" in changes or "epochs" in changes:  # the other one no longer limits the run
        changes = {"epochs": None, "iterations": None, **changes}
    return Run.resume(options["resume"], options["device"], **changes)
