"""The command ``rnnx tune``."""

import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from click import Choice, IntRange, Option, option

from rnnx.cli.group import Command, check_paths, errors_as_messages, printable, quoted
from rnnx.cli.interrupt import Interrupt
from rnnx.cli.run_display import RunDisplay
from rnnx.cli.search import Searched, command_of, searched, shown
from rnnx.cli.train_command import NOT_SETTINGS, new_settings, train
from rnnx.training import Progress, Run, Sweep
from rnnx.training.distributed.mpi import launched, launched_rank
from rnnx.training.sweep import PRUNERS, SAMPLERS, check_results
from rnnx.training.trials import Result, SweepTrial

_SHOWN = 20  # trials
_POLL = 0.2  # seconds between looks at the trials of other ranks


def _of_train(*more: str) -> list[Option]:
    """Return the options of rnnx train that are settings, and some others."""
    left_out = set(NOT_SETTINGS).difference(more)
    return [one for one in train.params if isinstance(one, Option) and one.name not in left_out]


@click.command(cls=Command)
@option(
    "--search",
    multiple=True,
    metavar="NAME=VALUES",
    help="An option of rnnx train to search, and its values: A,B,C, or LOW..HIGH, or LOW..HIGH:log. Give it once for "
    "each.",
)
@option("--trials", type=IntRange(1), show_default="20, or all of a grid", help="Trials of the study in total.")
@option(
    "--storage",
    metavar="FILE|URL",
    show_default="study.log in the folder",
    help="Where the study is: a file, or a database such as sqlite:///sweep.db or postgresql://USER@HOST/NAME.",
)
@option("--study", metavar="NAME", show_default="DATASET-tune", help="Name of the study.")
@option(
    "--sampler",
    type=Choice(SAMPLERS),
    default="tpe",
    help="How to choose values: tpe learns from the trials so far; grid takes all combinations in turn.",
)
@option(
    "--pruner",
    type=Choice(PRUNERS),
    default="median",
    help="What ends trials early, by their validation losses so far. median: those that are worse than the median.",
)
@option("--output", type=click.Path(), show_default="runs/STUDY", help="Folder of the runs.")
@click.pass_context
def tune(context: click.Context, /, **options: Any) -> None:
    """Search the options of a character model with Optuna.

    Trains a run for each trial, with the options given and others that Optuna chooses, and prints the command that
    trains the best one. Call it again, or at the same time in other terminals or on other machines with the same
    --storage, to go on with the study: all share its trials. Ctrl-C saves the run in hand.

    \b
    Examples:
      rnnx tune --search learning-rate=1e-4..1e-1:log --search hidden-size=64,128,256
      rnnx tune --text poems.txt --num-layers 2 --search dropout=0..0.5 --trials 50 --storage sqlite:///sweep.db
    """  # noqa: D301
    with errors_as_messages():
        from rnnx.training.studies import storage_errors  # needs Optuna

        with storage_errors(), Interrupt() as interrupt:
            found, sweep = _sweep(context, options)
            leads = launched_rank() == 0  # of the processes of mpiexec, all of which print their own trials only
            if leads:
                click.echo(sweep.summary)
                click.echo(f"study {sweep.study.study_name}, {sweep.trials} trials in {_relative(sweep.folder)}")
            for trial in _left(sweep, interrupt):
                _train(trial, found, options, interrupt)
            if interrupt.requested:
                if leads:
                    click.echo("stopped; the same command goes on with the study")
                raise SystemExit(interrupt.exit_code)
            if leads:
                _finish(context, sweep.results(), found)


tune.params += _of_train("init_from", "device", "save_every", "quiet")


def _sweep(context: click.Context, options: dict[str, Any]) -> tuple[dict[str, Searched], Sweep]:
    """Return what is searched by settings, and the sweep, after checking the options."""
    import optuna

    check_paths(options, "text", "init_from", "output", "storage", "study")
    found = searched(context, options["search"], _of_train())
    if "iterations" in found and options["epochs"] is None:
        options = {**options, "iterations": 1}  # no default for the epochs
    settings = new_settings(context, options)
    study = options["study"] or f"{settings.name()}-tune"
    if options["output"] is None and Path(study).name != study:
        raise ValueError(f"--study {study} is not the name of a folder, so --output is needed")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return found, Sweep(
        settings,
        {setting: one.values for setting, one in found.items()},
        options["output"] or Path("runs") / study,
        study=study,
        **{name: options[name] for name in ("trials", "storage", "sampler", "pruner", "device", "init_from")},
    )


def _left(sweep: Sweep, interrupt: Interrupt) -> Iterator[SweepTrial]:
    """Yield the trials that are left, until an interrupt. Under mpiexec, rank 0 waits for those of the others.

    When nobody trains any more, it looks again: a process unlocks its run shortly before it ends the trial.
    """
    waits, done = launched() > 1 and launched_rank() == 0, False
    while not interrupt.requested:
        trial = next(iter(sweep), None)
        if trial is not None:
            done = False
            yield trial
        elif waits and sweep.others_train():
            done = False
            time.sleep(_POLL)
        elif waits and not done:
            done = True
        else:
            return


def _train(trial: SweepTrial, found: Mapping[str, Searched], options: dict[str, Any], interrupt: Interrupt) -> None:
    """Train a trial, with a progress bar on a terminal, and print what came out, unless another process ends it."""
    started, about = time.perf_counter(), ""
    if trial.run is not None:
        display = TrialDisplay(trial, trial.run, options)
        display.compile()
        display.train(interrupt)
        about = f"  epoch {trial.run.trainer.epoch}, {time.perf_counter() - started:.0f} s"
    if trial.ended:
        click.echo(_row(trial.result, found) + about)


class TrialDisplay(RunDisplay):
    """Trains a trial and shows its progress."""

    command = "tune"

    def __init__(self, trial: SweepTrial, run: Run, options: dict[str, Any]) -> None:
        super().__init__(run, options)
        self.trial = trial

    @property
    def bar_options(self) -> dict[str, Any]:  # noqa: D102
        return {**super().bar_options, "desc": f"trial {self.trial.number}"}

    def summary(self) -> str:  # noqa: D102
        return str(self.run.corpus.summary())

    def items(self) -> Generator[Progress, None, None]:  # noqa: D102
        return self.trial.train(self.options["save_every"])

    def evaluated(self, progress: Progress, write: Any) -> None:
        """Print nothing: a study has many."""


def _row(result: Result, found: Mapping[str, Searched]) -> str:
    loss = "" if result.loss is None else f"{result.loss:.4f}"
    error = f"  ({result.error})" if result.error else ""
    return printable(f"trial {result.number:4d}  {result.state:<8} {loss:>8}  {shown(found, result.values)}{error}")


def _relative(folder: Path) -> str:
    """Return a folder for a shell, relative to the current one if it is in it."""
    here = Path.cwd()
    return quoted(folder.relative_to(here) if folder.is_relative_to(here) else folder)


def _finish(context: click.Context, results: list[Result], found: Mapping[str, Searched]) -> None:
    """Print the best trials, and how to go on with the first."""
    states = Counter(one.state for one in results)
    click.echo(f"{len(results)} trials: " + ", ".join(f"{n} {state}" for state, n in states.items()))
    for one in results[:_SHOWN]:
        click.echo(_row(one, found))
    if len(results) > _SHOWN:
        click.echo(f"and {len(results) - _SHOWN} more")
    check_results(results)
    best = results[0]
    if best.state != "complete":  # other processes train
        click.echo("no trial is complete yet")
        return
    click.echo(f"best validation loss {best.loss:.4f} nats per character; to train this model again:")
    click.echo("  " + command_of(context, _of_train("init_from", "device"), found, best.values))
    if best.folder is not None:
        click.echo(f"samples: rnnx sample {_relative(best.folder)} --temperature 0.8")
