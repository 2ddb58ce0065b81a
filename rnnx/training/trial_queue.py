"""Which trial of a study a process trains next. Several processes may share the study. Imported only with Optuna."""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from rnnx._core.locks import InUse, is_held
from rnnx.training import checkpoint as checkpoints
from rnnx.training import studies
from rnnx.training.folders import free_folder
from rnnx.training.runs import Run
from rnnx.training.trials import FAILURES, SweepTrial, run_folder

_TO_BEGIN = 10.0  # seconds that a process has from asking for a trial to storing its folder; it takes some milliseconds
_POLL = 0.05


class TrialQueue:
    """The trials of a study, of which processes take those that were left, and new ones.

    Parameters
    ----------
    study : Study
    space : dict of str to BaseDistribution
    folder : Path
        Of the runs.
    most : int
        Number of trials of the study.
    start : function
        Starts a run in a folder with the values of a trial.
    resume : function
        Resumes the run in a folder.
    """

    def __init__(
        self,
        study: Study,
        space: dict[str, BaseDistribution],
        folder: Path,
        most: int,
        start: Callable[[Path, Mapping[str, Any]], Run],
        resume: Callable[[Path], Run],
    ) -> None:
        self.study, self.space, self.folder, self.most = study, space, folder, most
        self._start, self._resume = start, resume
        self._without_folder: dict[int, float] = {}  # when this process first saw a trial that has no folder yet

    def trials(self) -> list[FrozenTrial]:
        """Return the trials that count."""
        return studies.counted(self.study.get_trials(deepcopy=False))

    def next(self) -> SweepTrial | None:
        """Return a trial that was left, or a new one; None if the study has all."""
        while True:
            trials = self.trials()
            running = [one for one in trials if one.state.name == "RUNNING"]
            for one in running:
                if left := self._left(one):
                    return left
            without = self._since(running)
            if len(trials) < self.most:
                if new := self.new():
                    return new
            elif not without:
                return None
            else:
                self._withdraw(without)

    def held_by_others(self) -> bool:
        """Whether another process is at work on a trial; False if that cannot be known, as of another machine."""
        folders = [run_folder(one) for one in self.trials() if one.state.name == "RUNNING"]
        return any(is_held(folder) for folder in folders if folder is not None)

    def new(self) -> SweepTrial | None:
        """Return a new trial; None if other processes have begun enough of them, or taken this one."""
        try:
            trial = self.study.ask(self.space)
            if studies.position(self.study, trial.number) >= self.most:
                studies.withdraw(self.study, trial)
                return None
            folder = free_folder(self.folder, f"trial-{trial.number}")
            trial.set_user_attr("folder", str(folder.absolute()))  # from now on, another process may go on with it
        except studies.FINISHED:  # another process has withdrawn the trial, because this one was too slow
            return None
        return self._begun(trial, (), folder)

    def _left(self, frozen: FrozenTrial) -> SweepTrial | None:
        """Return a trial to go on with, unless a process has it."""
        folder = run_folder(frozen)
        if folder is None or not self._made(folder, frozen.number) or is_held(folder) is not False:
            return None
        made = self._begun(studies.trial_of(self.study, frozen), frozen.intermediate_values, folder)
        if made is not None and made.run is not None and made.result.state != "running":  # it has ended meanwhile
            made.run.close()
            return None
        return made

    def _made(self, folder: Path, number: int) -> bool:
        """Whether a sweep made this folder for a trial: others who write to the study choose no folders here."""
        name = rf"trial-{number}(-\d+)?"
        return folder.parent == self.folder.absolute() and re.fullmatch(name, folder.name) is not None

    def _since(self, running: Iterable[FrozenTrial]) -> list[tuple[FrozenTrial, float]]:
        """Return the trials that have no folder yet, and for how many seconds this process has known them."""
        now = time.monotonic()
        found = [one for one in running if run_folder(one) is None]
        self._without_folder = {one.number: self._without_folder.get(one.number, now) for one in found}
        return [(one, now - self._without_folder[one.number]) for one in found]

    def _withdraw(self, without_folder: Iterable[tuple[FrozenTrial, float]]) -> None:
        """Put other trials with the same values in place of those whose process has ended; wait for the others."""
        for frozen, seconds in without_folder:
            if seconds >= _TO_BEGIN and studies.withdraw(self.study, studies.trial_of(self.study, frozen)):
                self.study.enqueue_trial(frozen.params)
        time.sleep(_POLL)

    def _begun(self, trial: Trial, reported: Iterable[int], folder: Path) -> SweepTrial | None:
        """Start or resume the run of a trial; None if another process has it, or has ended it."""
        try:
            exists = (folder / checkpoints.FILE_NAME).exists()
            run = self._resume(folder) if exists else self._start(folder, trial.params)
        except InUse:
            return None
        except FAILURES as error:
            made = SweepTrial(self.study, trial, reported, None)
            return made if made.failed(error) else None
        return SweepTrial(self.study, trial, reported, run)
