"""What all commands that train print: the model, progress, and how to resume."""

import contextlib
import time
from abc import abstractmethod
from collections.abc import Callable, Generator
from typing import Any

import click
from tqdm import tqdm

import rnnx
from rnnx.cli.group import quoted
from rnnx.cli.interrupt import Interrupt
from rnnx.engines.registry import missing
from rnnx.training import Progress
from rnnx.training.counters import total_steps
from rnnx.training.distributed.group import all_end
from rnnx.training.folder_run import FolderRun


class RunDisplay:
    """Trains a run and prints its progress."""

    command: str  # that resumes the run
    unit = ""  # of the loss

    def __init__(self, run: FolderRun, options: dict[str, Any]) -> None:
        self.run: Any = run
        self.options = options
        self.evaluations, self.first_step = 0, run.trainer.step
        self.started = time.perf_counter()

    @abstractmethod
    def summary(self) -> str:
        """Return what the run is trained on."""

    def describe(self) -> None:
        """Print the data, the model and the engine, and compile."""
        run, model = self.run, self.run.model
        engine = rnnx.engine_for(*model.parameters.values())
        click.echo(self.summary())
        if run.group.size > 1:
            click.echo(f"{run.group.size} ranks, {run.settings.shards} shards of a batch")
        click.echo(f"{repr(model.stack).strip('<>')}, {model.n_parameters:,} parameters, {engine} engine", nl=False)
        click.echo(f", resuming after step {run.trainer.step}" if run.trainer.step else "")
        if engine == "reference" and (why := missing("cpu")):
            click.echo(f"slow: {why}")
        self.compile()

    def compile(self) -> None:
        """Compile for the CPU engine, unless the object cache holds the code."""
        model = self.run.model
        if rnnx.engine_for(*model.parameters.values()) == "cpu":
            text = "compiling (takes a few seconds on first use) ..."
            cells = {model.stack.regularization.training, model.stack.regularization.evaluation}
            rnnx.warm_up(*cells, dtypes=(self.run.settings.dtype,), on_compile=lambda: click.echo(text))

    def items(self) -> Generator[Progress, None, None]:
        """Train the run."""
        return self.run.train(self.options["save_every"])

    @property
    def bar_options(self) -> dict[str, Any]:
        """The options of a progress bar, which is shown only on a terminal."""
        disable = True if self.options["quiet"] or self.run.group.rank > 0 else None
        return {"unit": "step", "disable": disable, "leave": False}

    def train(self, interrupt: Interrupt) -> None:
        """Train to the end or until an interrupt, with a progress bar on a terminal."""
        settings, trainer = self.run.settings, self.run.trainer
        n_batches = self.run.train_set.n_batches(settings.batch_size)
        steps = total_steps(settings.epochs, settings.iterations, n_batches)
        items = self.items()
        with tqdm(total=steps, initial=trainer.step, **self.bar_options) as bar:
            try:
                with all_end(self.run.group):
                    for progress in items:
                        if interrupt.agree(self.run.group):
                            return
                        if progress.evaluation:
                            self.evaluated(progress, bar.write)
                        elif bar.update():  # only when it is redrawn: reading the loss synchronizes with the device
                            bar.set_postfix(loss=f"{progress.loss:.3f}", smoothed=f"{progress.smooth_loss:.3f}")
            finally:
                with interrupt.held():
                    items.close()  # saves the checkpoint

    def evaluated(self, progress: Progress, write: Callable[[str], Any]) -> None:
        """Print the losses of an evaluation."""
        if self.run.group.rank > 0:
            return
        self.evaluations += 1
        loss = progress.validation_loss
        held_out = "" if loss is None else f"  validation {loss:.4f}"
        write(
            f"epoch {progress.epoch:3d}  step {progress.step:6d}  loss {progress.loss:.4f}  "
            f"smoothed {progress.smooth_loss:.4f}{held_out}{self.unit}"
        )

    def interrupted(self) -> None:
        """Print how to resume."""
        what_next = "no step was completed"
        if self.run.trainer.step:
            what_next = f"resume with: rnnx {self.command} --resume {quoted(self.run.folder)}"
        with contextlib.suppress(OSError):  # the terminal may be gone
            click.echo(f"stopped in epoch {self.run.trainer.epoch}; {what_next}")

    def say_if_done(self) -> None:
        """Say so if there was nothing to do."""
        if self.run.trainer.step == self.first_step:
            why = "was stopped by --patience" if self.run.out_of_patience() else "is complete"
            click.echo(f"nothing to do: the run {why}; extend it with --epochs, --iterations or --patience")
