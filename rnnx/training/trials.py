"""A trial of a sweep: a run whose validation losses are told to a study of Optuna."""

import math
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rnnx.training.progress import Progress
from rnnx.training.runs import Run

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

FAILURES = (ValueError, ArithmeticError, MemoryError)  # that come from the settings of a trial
STATES = ("complete", "pruned", "diverged", "failed", "running")


class Result(NamedTuple):
    """A trial of a sweep.

    Attributes
    ----------
    number : int
    state : {"complete", "pruned", "diverged", "failed", "running"}
    loss : float or None
        Best validation loss if complete, the last one if pruned.
    values : dict
        The settings that were searched.
    folder : Path or None
        Of its run; on the machine that trained it.
    error : str
        Why it diverged or failed.
    """

    number: int
    state: str
    loss: float | None
    values: dict[str, Any]
    folder: Path | None
    error: str


class SweepTrial:
    """A trial that this process trains.

    Attributes
    ----------
    number : int
    values : dict
        The settings that are searched.
    run : Run or None
        None if it could not be started.
    ended : bool
        Whether this process has ended it. Another one may, as a run that is not locked is left to all.
    """

    def __init__(self, study: "Study", trial: "Trial", reported: Iterable[int], run: Run | None) -> None:
        self.number, self.values, self.run, self.ended = trial.number, trial.params, run, False
        self._study, self._trial, self._reported = study, trial, set(reported)

    @property
    def result(self) -> Result:
        """What the study knows of this trial."""
        return result_of(self._study.get_trials(deepcopy=False)[self.number])

    def train(self, save_every: float = 30.0) -> Generator[Progress, None, None]:
        """Train to the end, until it is pruned or until it fails, and tell the study.

        A generator like `Run.train`. One that is closed earlier leaves the trial to the next process that asks for one.
        """
        if self.run is None:
            return
        items = self.run.train(save_every)
        try:
            for progress in items:
                pruned = progress.evaluation and self._is_pruned(self.run, progress)
                yield progress
                if pruned:
                    self._tell("PRUNED")  # while the run is locked, so that no other process resumes it
                    return
            self._tell("COMPLETE", self.run.trainer.counters.best_loss)
        except FAILURES as error:
            self.failed(error)
        finally:
            items.close()

    def failed(self, error: Exception) -> bool:
        """Tell the study of an error; return False if another process has ended the trial.

        A run that diverged counts as pruned, so that the sampler avoids its settings.
        """
        from rnnx.training.studies import FINISHED

        try:
            self._trial.set_user_attr("error", str(error) or type(error).__name__)
        except FINISHED:
            return False
        self._tell("PRUNED" if isinstance(error, FloatingPointError) else "FAIL")
        return True

    def _is_pruned(self, run: Run, progress: Progress) -> bool:
        """Report an evaluation; return whether to stop, which another process may have decided.

        A resumed run may repeat evaluations, with the same losses.
        """
        from rnnx.training.studies import FINISHED

        every = run.settings.evaluate_every
        at = progress.epoch if every is None else math.ceil(progress.step / every)
        try:
            if at not in self._reported and progress.validation_loss is not None:
                self._reported.add(at)
                self._trial.report(progress.validation_loss, at)
            return not run.ended() and self._trial.should_prune()
        except FINISHED:
            if self.result.state == "running":
                raise
            return True

    def _tell(self, state: str, loss: float | None = None) -> None:
        """End the trial, unless another process has: it goes on with a run that is not locked, and has the same end."""
        from optuna.trial import TrialState

        from rnnx.training.studies import FINISHED

        try:
            self._study.tell(self._trial.number, loss, TrialState[state])
            self.ended = True
        except (FINISHED, ValueError):  # which of them depends on when it ended
            if self.result.state == "running":
                raise


def run_folder(trial: "FrozenTrial") -> Path | None:
    """Return the folder of the run of a trial, on the machine that began it; None before that."""
    folder = trial.user_attrs.get("folder")
    return Path(folder) if isinstance(folder, str) else None


def result_of(trial: "FrozenTrial") -> Result:
    """Return what a study knows of a trial."""
    error = str(trial.user_attrs.get("error", ""))
    names = {"COMPLETE": "complete", "PRUNED": "diverged" if error else "pruned", "FAIL": "failed"}
    state = names.get(trial.state.name, "running")
    return Result(trial.number, state, trial.value, dict(trial.params), run_folder(trial), error)
