"""``rnnx train``."""

import math
import shlex
import time
from collections.abc import Callable
from typing import Any

import click
from click.core import ParameterSource
from tqdm import tqdm

import rnnx
from rnnx.cli.group import FRACTION, device_option, errors_as_messages, number
from rnnx.cli.interrupt import Interrupt
from rnnx.data import CORPORA
from rnnx.models.generation import sample as draw
from rnnx.optim import OPTIMIZERS
from rnnx.training import Progress
from rnnx.training.runs import Run, free_folder
from rnnx.training.settings import Settings

INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C
_ON_RESUME = ("epochs", "iterations", "patience", "evaluate_every", "text")  # settings that a run may change
_DISPLAY = ("resume", "output", "device", "sample_every", "temperature", "save_every", "quiet")
_POSITIVE_INT = click.IntRange(1)


class _Widths(click.ParamType):
    name = "integers"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            widths = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            widths = ()
        if not widths or min(widths) < 1:
            self.fail(f"{value!r} is not an integer of at least 1, or several with commas between them", param, ctx)
        return widths


@click.command()
# what to learn
@click.option("--dataset", type=click.Choice([*CORPORA]), default="dinos", help="A built-in text.")
@click.option("--text", type=click.Path(dir_okay=False), help="A UTF-8 text file of your own, of any size.")
@click.option(
    "--by",
    type=click.Choice(["auto", "lines", "windows", "streams"]),
    default="auto",
    help="lines: each is a sequence of its own. windows: the text in pieces. streams: the text in order, the state "
    "carried from batch to batch (truncated backpropagation). auto: lines if the text is a list, else windows.",
)
@click.option(
    "--seq-length", type=click.IntRange(1, 10**9), default=64, help="Characters of a window, or of a step of streams."
)
@click.option(
    "--split",
    type=click.Choice(["tail", "blocks"]),
    default="tail",
    help="Hold out its end, or those of ten parts.",
)
@number("--validation", type=FRACTION, default=0.1, help="Fraction that is held out.")
@click.option("--min-count", type=_POSITIVE_INT, default=1, help="Rarer characters become one unknown character.")
# the model
@click.option("--cell", "--model", type=click.Choice(["rnn", "lstm", "gru"]), default="lstm", help="Recurrent cell.")
@click.option("--reset-after", is_flag=True, help="The GRU of PyTorch and Keras instead of the course's.")
@click.option("--hidden-size", "--rnn-size", type=_Widths(), default="128", help="Units of a layer; 256,128: of each.")
@click.option("--num-layers", type=_POSITIVE_INT, default=1, help="Recurrent layers.")
@number("--dropout", type=click.FloatRange(0, 1, max_open=True), default=0.0, help="Between the layers, in training.")
@click.option(
    "--init", "scheme", type=click.Choice(["keras", "torch", "course"]), default="keras", help="Initial parameters."
)
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", help="Precision.")
# how to learn
@click.option("--epochs", type=_POSITIVE_INT, help="Passes over the text.  [default: 12]")
@click.option("--iterations", type=_POSITIVE_INT, help="Steps, in place of epochs.")
@click.option("--batch-size", type=_POSITIVE_INT, default=16, help="Sequences of a step; 1: single examples.")
@click.option("--optimizer", type=click.Choice([*OPTIMIZERS]), default="adam", help="Update rule.")
@number("--learning-rate", default=0.003, help="Step size of the update rule.")
@number("--momentum", type=click.FloatRange(0, 1, max_open=True), default=0.9, help="Of momentum and nesterov.")
@number("--weight-decay", type=click.FloatRange(0), help="Pull of all parameters towards zero.")
@click.option(
    "--decay",
    type=click.Choice(["none", "step", "exponential", "cosine"]),
    default="none",
    help="Of the step size; cosine: over the whole run, anew if --resume makes it longer.",
)
@number("--decay-every", default=1.0, help="Epochs in which the step size falls by --decay-factor.")
@number(
    "--decay-factor", type=click.FloatRange(0, 1, min_open=True), default=0.5, help="Of step and exponential decay."
)
@click.option("--warmup", type=click.IntRange(0), default=0, help="Steps over which the step size grows from zero.")
@number("--clip-norm", default=5.0, help="Largest norm of all gradients together.")
@number("--clip-value", help="Largest value of a single gradient.")
@click.option("--patience", type=_POSITIVE_INT, help="Stop after so many evaluations without progress.")
@click.option(
    "--segment-length",
    type=click.IntRange(0),
    help="Save memory on long sequences: keep so many steps only "
    "and compute the rest again; 0 finds the best number. The gradients are the same.",
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Same seed, same result, bit for bit.")
@click.option("--deterministic", is_flag=True, help="The batches in the order of the text, not shuffled.")
# the run
@click.option("--output", type=click.Path(), help="Folder of the run; default: runs/DATASET-CELL.")
@click.option("--resume", type=click.Path(), metavar="RUN", help="Go on with the run in this folder.")
@click.option("--evaluate-every", type=_POSITIVE_INT, help="Steps between evaluations; default: an epoch.")
@click.option("--sample-every", type=click.IntRange(0), default=3, help="Evaluations between samples; 0: at the end.")
@number("--temperature", type=click.FloatRange(0), default=0.8, help="Of the samples.")
@number("--save-every", type=click.FloatRange(0), default=30.0, help="Seconds between checkpoints.")
@device_option
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.pass_context
def train(context: click.Context, **options: Any) -> None:
    """Train a character model.

    Without options it learns the names of dinosaurs and invents new ones, in less than a minute. Ctrl-C stops it, and
    --resume goes on; so it does after a crash.

    \b
    rnnx train --dataset pydoc --by streams --num-layers 2 --hidden-size 256 --dropout 0.2
    rnnx train --text poems.txt --optimizer adamw --decay cosine --epochs 30
    rnnx train --resume runs/poems-lstm --epochs 60
    """  # noqa: D301
    with errors_as_messages(), Interrupt() as interrupt:
        for name in ("text", "resume", "output"):
            if options[name] == "":
                raise ValueError(f"--{name} is empty")
        run = _started(context, options) if options["resume"] is None else _resumed(context, options)
        display = _Display(run, options)
        display.describe()
        display.train(interrupt)
        if interrupt.requested:
            click.echo(f"stopped in epoch {run.trainer.epoch}; ", nl=False)
            if run.trainer.step:
                click.echo(f"go on with: rnnx train --resume {shlex.quote(str(run.folder))}")
            else:
                click.echo("nothing was learned yet")
            raise SystemExit(INTERRUPTED)
        display.finish()


def _on_command_line(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) == ParameterSource.COMMANDLINE


def _started(context: click.Context, options: dict[str, Any]) -> Run:
    if options["text"] is not None and _on_command_line(context, "dataset"):
        raise ValueError("--text and --dataset: one of them")
    given = {name: value for name, value in options.items() if name not in _DISPLAY}
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
    fixed = [name for name in given if name not in (*_ON_RESUME, *_DISPLAY) or name == "output"]
    if fixed:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in fixed)
        raise ValueError(f"a run goes on with the settings it began with; --resume does not take {names}")
    changes = {name: options[name] for name in given if name in _ON_RESUME}
    if "iterations" in changes or "epochs" in changes:  # the one that is not named is no limit any more
        changes = {"epochs": None, "iterations": None, **changes}
    return Run.resume(options["resume"], options["device"], **changes)


class _Display:
    """What is shown of a run."""

    def __init__(self, run: Run, options: dict[str, Any]) -> None:
        self.run, self.options = run, options
        self.evaluations, self.began_at = 0, run.trainer.step
        self.started = time.perf_counter()

    def describe(self) -> None:
        """What is about to happen."""
        run, model = self.run, self.run.model
        engine = rnnx.engine_for(*model.parameters.values())
        click.echo(run.corpus.summary())
        click.echo(f"{repr(model.stack).strip('<>')}, {model.n_parameters:,} parameters, {engine} engine", nl=False)
        click.echo(f", from step {run.trainer.step} on" if run.trainer.step else "")
        if engine == "cpu":
            click.echo("compiling (some seconds, the first time on a machine) ...")
            rnnx.warm_up(model.cell, dtypes=(run.settings.dtype,))

    def train(self, interrupt: Interrupt) -> None:
        """To the end, with a progress bar on a terminal, or until an interrupt."""
        settings, trainer = self.run.settings, self.run.trainer
        n_batches = self.run.corpus.train.n_batches(settings.batch_size)
        epochs = math.inf if settings.epochs is None else settings.epochs * n_batches
        steps = min(epochs, settings.iterations or math.inf)
        disable = True if self.options["quiet"] else None  # None: where there is no terminal
        items = self.run.train(self.options["save_every"])
        with tqdm(total=steps, initial=trainer.step, unit="step", disable=disable, leave=False) as bar:
            try:
                for progress in items:
                    if interrupt.requested:
                        return
                    if progress.evaluation:
                        self._evaluated(progress, bar.write)
                    elif bar.update():  # it was drawn; to know the loss after each step, a device would be waited for
                        bar.set_postfix(loss=f"{progress.loss:.3f}", smooth=f"{progress.smooth_loss:.3f}")
            finally:
                with interrupt.ignored():
                    items.close()  # saves

    def _evaluated(self, progress: Progress, write: Callable[[str], Any]) -> None:
        self.evaluations += 1
        write(
            f"epoch {progress.epoch:3d}  step {progress.step:6d}  loss {progress.loss:.4f}  "
            f"smooth {progress.smooth_loss:.4f}  validation {progress.validation_loss:.4f} nats per character"
        )
        every = self.options["sample_every"]
        if every and self.evaluations % every == 0:
            shown = self._samples(4)
            write("    " + ("  ".join(shown) if self.run.corpus.by == "lines" else repr(shown[0])))

    def _samples(self, n: int) -> list[str]:
        """Texts from the model as it is."""
        lines = self.run.corpus.by == "lines"
        return draw(
            self.run.model,
            self.run.corpus.tokenizer,
            n=n if lines else 1,
            temperature=self.options["temperature"],
            max_length=60 if lines else 200,
            stop="\n" if lines else None,
            seed=self.run.settings.seed,
        )

    def finish(self) -> None:
        """Samples, and where the model is."""
        folder = shlex.quote(str(self.run.folder))
        if self.run.trainer.step == self.began_at:
            why = "its patience" if self.run.out_of_patience() else "its end"
            click.echo(
                f"nothing left to do: the run has reached {why}; --epochs, --iterations, --patience set a later one"
            )
        click.echo("samples:")
        for text in self._samples(10):
            click.echo("    " + text.replace("\n", "\n    "))
        best = self.run.trainer.counters.best_loss
        click.echo(f"best validation loss {best:.4f} nats per character ({self.run.corpus.split})")
        click.echo(f"{time.perf_counter() - self.started:.0f} s; the run is in {folder}")
        example = self._example_start() if self.run.corpus.by == "lines" else ""
        start = f"--start {shlex.quote(example)} " if example else ""
        click.echo(f"more: rnnx sample {folder} {start}--temperature 0.8; pictures: rnnx plot {folder}")

    def _example_start(self) -> str:
        vocabulary = set(self.run.corpus.tokenizer.get_vocab())
        letters = sorted(c for c in vocabulary if c.isalpha())
        return "Tri" if set("Tri") <= vocabulary else (letters[0] if letters else "")
