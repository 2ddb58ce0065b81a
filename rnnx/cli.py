"""The command line: all printing, all exit codes. What is computed stands in the modules below it."""

import contextlib
import math
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

import rnnx
from rnnx import checkpoint as checkpoints
from rnnx.corpus import Corpus, dinosaur_names, make_corpus, read_text
from rnnx.models import CharModel, CharModelConfig
from rnnx.optim import OPTIMIZERS
from rnnx.sampling import sample as draw
from rnnx.training import Progress, Trainer

INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


@contextlib.contextmanager
def _errors_as_messages() -> Iterator[None]:
    """A user's mistake is one line, not a traceback."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        raise click.ClickException(str(error)) from None
    except BrokenPipeError:  # the reader of our output is gone; nobody is there to be told
        raise SystemExit(1) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(f"{where}{error.strerror or error}") from None


def _finite(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    """Not infinite and not NaN, which a range lets pass."""
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a finite number")
    return value


_POSITIVE = click.FloatRange(0, min_open=True)


@click.group(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: name.replace("_", "-"),
        "show_default": True,
    }
)
@click.version_option(rnnx.__version__, prog_name="rnnx")
def cli() -> None:
    """Recurrent networks with explicit forward and backward passes: train a character model, sample from it."""


@cli.command()
@click.option("--text", type=click.Path(dir_okay=False), help="UTF-8 text to learn; without it, dinosaur names.")
@click.option(
    "--by",
    type=click.Choice(["auto", "lines", "windows"]),
    default="auto",
    help="Each line is a sequence of its own, or the text is cut into windows; auto looks at the lines.",
)
@click.option("--seq-length", type=click.IntRange(1), default=64, help="Characters of a window.")
@click.option("--cell", type=click.Choice(["rnn", "lstm", "gru"]), default="lstm", help="The recurrent cell.")
@click.option("--hidden-size", type=click.IntRange(1), default=128, help="Units of the cell.")
@click.option("--epochs", type=click.IntRange(1), default=12, help="Passes over the training part.")
@click.option("--batch-size", type=click.IntRange(1), default=16, help="Sequences of one step.")
@click.option("--optimizer", type=click.Choice(sorted(OPTIMIZERS)), default="adam", help="Update rule.")
@click.option("--learning-rate", type=_POSITIVE, callback=_finite, default=0.003, help="Step size of the update rule.")
@click.option(
    "--clip-norm", type=_POSITIVE, callback=_finite, default=5.0, help="Largest norm of all gradients together."
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Same seed, same result, bit for bit.")
@click.option("--sample-every", type=click.IntRange(0), default=3, help="Epochs between samples; 0: only at the end.")
@click.option("--temperature", type=click.FloatRange(0), callback=_finite, default=0.8, help="Of the samples.")
@click.option("--output", type=click.Path(dir_okay=False), help="Checkpoint; default: CORPUS-CELL.safetensors.")
def train(text: str | None, by: str, seq_length: int, seed: int, output: str | None, **options: Any) -> None:
    """Train a character model and show what it learns.

    Without options it learns the names of dinosaurs and invents new ones, in less than a minute. The
    checkpoint is written at the end, and also when you stop it with Ctrl-C.
    """
    with _errors_as_messages(), _Interrupt() as interrupt:
        name = Path(text).stem if text else "dinosaurs"
        corpus = make_corpus(name, read_text(text) if text else dinosaur_names(), by=by, length=seq_length, seed=seed)
        path = Path(output or f"{name}-{options['cell']}.safetensors")
        checkpoints.check_writable(path)
        run = _Run(corpus, path, seed, options)
        run.describe()
        try:
            run.train(interrupt)
        finally:  # whatever happened, what was learned is not lost
            if run.trainer.step:
                with interrupt.ignored():
                    run.save()
        if interrupt.requested:
            click.echo(f"stopped in epoch {run.trainer.epoch}; ", nl=False)
            click.echo(f"the model so far is in {path}" if run.trainer.step else "nothing was learned yet")
            raise SystemExit(INTERRUPTED)
        run.finish()


class _Interrupt:
    """Ctrl-C as a request that the training loop honours between two steps; the second one interrupts at once."""

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def __enter__(self) -> "_Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _request(self, *_: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    @contextlib.contextmanager
    def ignored(self) -> Iterator[None]:
        """While a file is written."""
        if self._before is None:
            yield
            return
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, self._request)


class _Run:
    """A run of ``rnnx train``: the trainer and what is shown of it."""

    def __init__(self, corpus: Corpus, path: Path, seed: int, options: dict[str, Any]) -> None:
        self.corpus, self.path, self.seed, self.options = corpus, path, seed, options
        config = CharModelConfig(options["cell"], options["hidden_size"], corpus.tokenizer.vocab_size)
        self.model = CharModel(config)
        self.trainer = Trainer(
            self.model,
            self.model.initialize(seed),
            OPTIMIZERS[options["optimizer"]](learning_rate=options["learning_rate"]),
            clip_norm=options["clip_norm"],
            seed=seed,
        )
        self.last: Progress | None = None
        self.started = time.perf_counter()

    def describe(self) -> None:
        """What is about to happen."""
        corpus, config = self.corpus, self.model.config
        size = sum(p.size for p in self.trainer.parameters.values())
        engine = rnnx.engine_for(*self.trainer.parameters.values())
        click.echo(
            f"{corpus.name}: {len(corpus.train)} {corpus.by} to learn, {corpus.split}; "
            f"{corpus.tokenizer.vocab_size} characters"
        )
        click.echo(f"{config.cell}, {config.hidden_size} units, {size:,} parameters, {engine} engine")
        if engine == "jit":
            click.echo("compiling (some seconds, the first time on a machine) ...")
            rnnx.warm_up(config.cell, dtypes=("float32",))

    def train(self, interrupt: _Interrupt) -> None:
        """All epochs, with a progress bar on a terminal, or until an interrupt."""
        epochs, batch_size = self.options["epochs"], self.options["batch_size"]
        steps = epochs * self.corpus.train.n_batches(batch_size)
        with tqdm(total=steps, unit="step", disable=None, leave=False) as bar:
            for progress in self.trainer.run(
                self.corpus.train, self.corpus.validation, epochs=epochs, batch_size=batch_size
            ):
                if interrupt.requested:
                    return
                if progress.validation_loss is None:
                    bar.update()
                    bar.set_postfix(loss=f"{progress.loss:.3f}", smooth=f"{progress.smooth_loss:.3f}", refresh=False)
                else:
                    self.last = progress
                    self._end_of_epoch(progress, bar.write)

    def _end_of_epoch(self, progress: Progress, write: Callable[[str], Any]) -> None:
        write(
            f"epoch {progress.epoch:3d}  loss {progress.loss:.4f}  smooth {progress.smooth_loss:.4f}  "
            f"validation {progress.validation_loss:.4f} nats per character"
        )
        every = self.options["sample_every"]
        if every and progress.epoch % every == 0 and progress.epoch < self.options["epochs"]:
            shown = self.samples(4)
            write("    " + ("  ".join(shown) if self.corpus.by == "lines" else repr(shown[0])))

    def samples(self, n: int) -> list[str]:
        """Texts from the model as it is."""
        lines = self.corpus.by == "lines"
        return draw(
            self.model,
            self.trainer.parameters,
            self.corpus.tokenizer,
            n=n if lines else 1,
            temperature=self.options["temperature"],
            max_length=60 if lines else 200,
            stop="\n" if lines else None,
            seed=self.seed,
        )

    def save(self) -> None:
        """Write the checkpoint."""
        training = {
            "corpus": self.corpus.name,
            "split": self.corpus.split,
            "seed": self.seed,
            "step": self.trainer.step,
            "epoch": self.trainer.epoch,
            "smooth_loss": self.trainer.smooth_loss,
            "validation_loss": self.last.validation_loss if self.last else None,
            "options": self.options,
            "rnnx": rnnx.__version__,
        }
        checkpoints.save(
            self.path,
            checkpoints.Checkpoint(
                self.model, self.trainer.parameters, self.corpus.tokenizer, self.corpus.by, training
            ),
        )

    def finish(self) -> None:
        """Samples, and where the model is."""
        click.echo("samples:")
        for text in self.samples(10):
            click.echo("    " + text.replace("\n", "\n    "))
        click.echo(f"{time.perf_counter() - self.started:.0f} s; the model is in {self.path}")
        start = f"--start {self._example_start()} " if self.corpus.by == "lines" else ""
        click.echo(f"more: rnnx sample {shlex.quote(str(self.path))} {start}--temperature 0.8")

    def _example_start(self) -> str:
        vocabulary = set(self.corpus.tokenizer.get_vocab())
        letters = sorted(c for c in vocabulary if c.isalpha())
        return "Tri" if set("Tri") <= vocabulary else shlex.quote(letters[0] if letters else "")


@cli.command()
@click.argument("checkpoint", type=click.Path(dir_okay=False))
@click.option("--start", default="", help="What every text starts with.")
@click.option(
    "--temperature",
    type=click.FloatRange(0),
    callback=_finite,
    default=1.0,
    help="Below 1 more careful, 0 the likeliest.",
)
@click.option("-n", "--number", type=click.IntRange(1), default=1, help="How many texts.")
@click.option("--length", type=click.IntRange(1), help="Characters at most; default 60 for lines, else 500.")
@click.option("--seed", type=click.IntRange(0), help="Same seed, same texts.")
def sample(checkpoint: str, start: str, temperature: float, number: int, length: int | None, seed: int | None) -> None:
    """Draw texts from the model in CHECKPOINT."""
    with _errors_as_messages():
        loaded = checkpoints.load(checkpoint)
        lines = loaded.by == "lines"
        texts = draw(
            loaded.model,
            loaded.parameters,
            loaded.tokenizer,
            start=start,
            n=number,
            temperature=temperature,
            max_length=length or (60 if lines else 500),
            stop="\n" if lines else None,
            seed=seed,
        )
    for text in texts:
        click.echo(text)
