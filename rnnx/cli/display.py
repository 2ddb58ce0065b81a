"""What ``rnnx train`` prints."""

import shlex
import time
from collections.abc import Callable
from typing import Any

import click

from rnnx.cli.group import quoted
from rnnx.cli.run_display import RunDisplay
from rnnx.models.generation import sample
from rnnx.training import Progress, Run


class Display(RunDisplay):
    """Trains a character model and prints its progress."""

    command, unit = "train", " nats per character"

    def __init__(self, run: Run, options: dict[str, Any]) -> None:
        super().__init__(run, options)
        self.lines = run.corpus.by == "lines"

    def summary(self) -> str:
        """Return what the run is trained on."""
        return str(self.run.corpus.summary())

    def evaluated(self, progress: Progress, write: Callable[[str], Any]) -> None:
        """Print the losses and, now and then, samples."""
        super().evaluated(progress, write)
        if self.run.group.rank > 0:
            return
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

    def finish(self) -> None:
        """Print samples, the best loss, and what to do next."""
        if self.run.group.rank > 0:
            return
        folder = quoted(self.run.folder)
        self.say_if_done()
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
