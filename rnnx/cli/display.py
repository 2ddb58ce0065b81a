"""What ``rnnx train`` prints."""

import contextlib
import shlex
import time
from collections.abc import Callable
from typing import Any

import click
from tqdm import tqdm

import rnnx
from rnnx.cli.group import quoted
from rnnx.cli.interrupt import Interrupt
from rnnx.engines.registry import missing
from rnnx.models.generation import sample
from rnnx.training import Progress, Run
from rnnx.training.counters import total_steps
from rnnx.training.distributed.group import all_end


class Display:
    """Trains a run and prints its progress."""

    def __init__(self, run: Run, options: dict[str, Any]) -> None:
        self.run, self.options = run, options
        self.lines = run.corpus.by == "lines"
        self.evaluations, self.first_step = 0, run.trainer.step
        self.started = time.perf_counter()

    def describe(self) -> None:
        """Print the corpus, the model and the engine, and compile unless the object cache holds the code."""
        run, model = self.run, self.run.model
        engine = rnnx.engine_for(*model.parameters.values())
        click.echo(run.corpus.summary())
        if run.group.size > 1:
            click.echo(f"{run.group.size} ranks, {run.settings.shards} shards of a batch")
        click.echo(f"{repr(model.stack).strip('<>')}, {model.n_parameters:,} parameters, {engine} engine", nl=False)
        click.echo(f", resuming after step {run.trainer.step}" if run.trainer.step else "")
        if engine == "reference" and (why := missing("cpu")):
            click.echo(f"slow: {why}")
        if engine == "cpu":
            text = "compiling (takes a few seconds on first use) ..."
            cells = {model.stack.regularization.training, model.stack.regularization.evaluation}
            rnnx.warm_up(*cells, dtypes=(run.settings.dtype,), on_compile=lambda: click.echo(text))

    def train(self, interrupt: Interrupt) -> None:
        """Train to the end or until an interrupt, with a progress bar on a terminal."""
        settings, trainer = self.run.settings, self.run.trainer
        n_batches = self.run.corpus.train.n_batches(settings.batch_size)
        steps = total_steps(settings.epochs, settings.iterations, n_batches)
        disable = True if self.options["quiet"] or self.run.group.rank > 0 else None  # None: only on a terminal
        items = self.run.train(self.options["save_every"])
        with tqdm(total=steps, initial=trainer.step, unit="step", disable=disable, leave=False) as bar:
            try:
                with all_end(self.run.group):
                    for progress in items:
                        interrupt.agree(self.run.group)
                        if interrupt.requested:
                            return
                        if progress.evaluation:
                            self._evaluated(progress, bar.write)
                        elif bar.update():  # only when it is redrawn: reading the loss synchronizes with the device
                            bar.set_postfix(loss=f"{progress.loss:.3f}", smoothed=f"{progress.smooth_loss:.3f}")
            finally:
                with interrupt.held():
                    items.close()  # saves the checkpoint

    def _evaluated(self, progress: Progress, write: Callable[[str], Any]) -> None:
        if self.run.group.rank > 0:
            return
        self.evaluations += 1
        write(
            f"epoch {progress.epoch:3d}  step {progress.step:6d}  loss {progress.loss:.4f}  "
            f"smoothed {progress.smooth_loss:.4f}  validation {progress.validation_loss:.4f} nats per character"
        )
        every = self.options["sample_every"]
        if every and self.evaluations % every == 0:
            texts = self._samples(4)
            write("    " + ("  ".join(texts) if self.lines else repr(texts[0])))

    def _samples(self, n: int) -> list[str]:
        """Sample n lines or one longer text from the current model."""
        return sample(
            self.run.model,
            self.run.corpus.tokenizer,
            n=n if self.lines else 1,
            temperature=self.options["temperature"],
            max_length=60 if self.lines else 200,
            stop="\n" if self.lines else None,
            seed=self.run.settings.seed,
        )

    def interrupted(self) -> None:
        """Print how to resume."""
        what_next = "no step was completed"
        if self.run.trainer.step:
            what_next = f"resume with: rnnx train --resume {quoted(self.run.folder)}"
        with contextlib.suppress(OSError):  # the terminal may be gone
            click.echo(f"stopped in epoch {self.run.trainer.epoch}; {what_next}")

    def finish(self) -> None:
        """Print samples, the best loss, and what to do next."""
        if self.run.group.rank > 0:
            return
        folder = quoted(self.run.folder)
        if self.run.trainer.step == self.first_step:
            why = "was stopped by --patience" if self.run.out_of_patience() else "is complete"
            click.echo(f"nothing to do: the run {why}; extend it with --epochs, --iterations or --patience")
        click.echo("samples:")
        for text in self._samples(10):
            click.echo("    " + text.replace("\n", "\n    "))
        best = self.run.trainer.counters.best_loss
        click.echo(f"best validation loss {best:.4f} nats per character ({self.run.corpus.split})")
        click.echo(f"{time.perf_counter() - self.started:.0f} s; run saved in {folder}")
        start = f"--start {shlex.quote(letters)} " if (letters := self._example_start()) else ""
        click.echo(f"more samples: rnnx sample {folder} {start}--temperature 0.8; plots: rnnx plot {folder}")

    def _example_start(self) -> str:
        vocabulary = set(self.run.corpus.tokenizer.get_vocab()) if self.lines else set()
        return "Tri" if set("Tri") <= vocabulary else min(filter(str.isalpha, vocabulary), default="")
