"""A sweep: runs in a folder, whose settings Optuna chooses, and which several processes may share."""

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnx._core.checks import check_methods, choice, integer
from rnnx._core.devices import by_device
from rnnx._core.locks import InUse, abandoned
from rnnx._core.words import shown
from rnnx.training import checkpoint as checkpoints
from rnnx.training.distributed.group import digest
from rnnx.training.folders import check_folder, free_folder
from rnnx.training.initial import initial_model
from rnnx.training.runs import Run
from rnnx.training.search_space import distributions, with_values
from rnnx.training.settings import Settings
from rnnx.training.trials import FAILURES, STATES, Result, SweepTrial, result_of, run_folder

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("median", "halving", "hyperband", "none")
_TRIALS = 20
_ABOUT = "rnnx"  # the attribute of a study that says what all of its trials have in common


class Sweep:
    """Runs of `rnnx train` with settings that Optuna chooses, to find those with the lowest validation loss.

    Iterating yields the trials that are left, for this process to train: each has its `number`, the `values` of what is
    searched, its `run`, `train`, a generator like `Run.train`, and afterwards its `result`. A trial that was
    interrupted, or whose process has ended, is resumed. Several processes with the same study share its trials.

    Parameters
    ----------
    settings : Settings
        Those that all trials have. ``settings.seed`` is also the seed of the sampler.
    space : dict
        What to search: from names of settings to lists of values or distributions of Optuna, such as
        ``optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)``.
    folder : path
        Of the runs, ``trial-0``, ``trial-1``, ...
    trials : int, optional
        Of the study in total. Default: 20, or all combinations of a grid.
    storage : str, optional
        A file, which becomes a journal of Optuna, or the URL of a database, such as "sqlite:///sweep.db". Default:
        ``study.log`` in the folder.
    study : str, optional
        Name of the study; default: the name of the folder.
    sampler : {"tpe", "random", "grid"}
    pruner : {"median", "halving", "hyperband", "none"}
        What ends trials early, given the validation losses of all. "median" ends those that are worse than the median
        of the others at the same evaluation, once five are complete.
    device : {"cpu", "cuda"}
    init_from : path, optional
        See `Run.start`.

    Attributes
    ----------
    study : optuna.study.Study
    trials : int
    summary : str
        Of the text.

    Raises
    ------
    ImportError
        Without Optuna.
    ValueError, TypeError, OSError
        If a setting or a value to search is not valid, the text has no validation part, or the study has other
        settings.

    See Also
    --------
    Run, learning_rate_range

    Examples
    --------
    >>> from optuna.distributions import FloatDistribution
    >>> from rnnx.training import Settings, Sweep
    >>> settings = Settings(hidden_size=(8,), iterations=2, batch_size=4)
    >>> space = {"learning_rate": FloatDistribution(1e-3, 1e-1, log=True), "cell": ["rnn", "gru"]}
    >>> results = Sweep(settings, space, "runs/sweep", trials=2).run()
    >>> [result.state for result in results], results[0].loss < results[1].loss
    (['complete', 'complete'], True)
    """

    def __init__(
        self,
        settings: Settings,
        space: "Mapping[str, list[Any] | BaseDistribution]",
        folder: str | Path,
        *,
        trials: int | None = None,
        storage: str | Path | None = None,
        study: str | None = None,
        sampler: str = "tpe",
        pruner: str = "median",
        device: str = "cpu",
        init_from: str | Path | None = None,
    ) -> None:
        check_methods("settings", settings, "a rnnx.training.Settings", "corpus", "update_rule")
        choice("sampler", sampler, SAMPLERS)
        choice("pruner", pruner, PRUNERS)
        trials = None if trials is None else integer("trials", trials)
        from rnnx.training import studies  # needs Optuna

        self._studies, self.settings, self.folder = studies, settings, Path(folder)
        self._device, self._init_from = device, init_from
        self.space = distributions(space, of_model=init_from is not None)
        samplers = studies.Samplers(sampler, self.space, settings.seed)
        most = len(samplers.grid) if samplers.grid else None
        self.trials = min(trials or most or _TRIALS, most or sys.maxsize)
        about = self._about()
        if storage is None:
            self.folder.mkdir(parents=True, exist_ok=True)
        storage = str(storage or self.folder / "study.log")
        self.study = studies.open_study(storage, study or self.folder.absolute().name, samplers, pruner)
        self._check_same(about)

    def __iter__(self) -> Iterator[SweepTrial]:
        while (trial := self._next()) is not None:
            yield trial

    def run(self) -> list[Result]:
        """Train the trials that are left; return the results of all, as `results` does."""
        for trial in self:
            for _ in trial.train():
                pass
        return self.results()

    def results(self) -> list[Result]:
        """Return the trials of the study, the best one first, and those without a result last.

        Returns
        -------
        list of Result
            Named tuples with the `number` of a trial, its `state` ("complete", "pruned", "diverged", "failed" or
            "running"), its `loss` (the best validation loss; the last one if pruned; or None), the `values` of what is
            searched, the `folder` of its run, and the `error` if it failed.
        """
        found = [result_of(one) for one in self._studies.counted(self.study.get_trials(deepcopy=False))]
        return sorted(found, key=lambda r: (STATES.index(r.state), math.inf if r.loss is None else r.loss, r.number))

    def _next(self) -> SweepTrial | None:
        """Return a trial that has been left, or a new one; None if the study has all."""
        while True:
            trials = self._studies.counted(self.study.get_trials(deepcopy=False))
            for one in trials:
                if one.state.name == "RUNNING" and (left := self._left(one)):
                    return left
            if len(trials) >= self.trials:
                return None
            if new := self._new():
                return new

    def _left(self, frozen: "FrozenTrial") -> SweepTrial | None:
        """Return a trial to go on with, unless a process has it."""
        folder = run_folder(frozen)
        # A study that others may write to does not choose where this process writes.
        if folder is None or folder.parent != self.folder.absolute() or not abandoned(folder):
            return None
        trial = self._studies.trial_of(self.study, frozen)
        made = self._trial(trial, frozen.intermediate_values, folder)
        if made is not None and made.run is not None and made.result.state != "running":  # it has ended meanwhile
            made.run.close()
            return None
        return made

    def _new(self) -> SweepTrial | None:
        """Return a new trial; None if other processes have begun enough of them, or taken this one."""
        from optuna.trial import TrialState

        trial = self.study.ask(self.space)
        if self._studies.position(self.study, trial.number) >= self.trials:
            trial.set_user_attr("surplus", True)
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        folder = free_folder(self.folder, f"trial-{trial.number}")
        trial.set_user_attr("folder", str(folder.absolute()))  # from now on, another process may go on with the trial
        return self._trial(trial, (), folder)

    def _trial(self, trial: "Trial", reported: Iterable[int], folder: Path) -> SweepTrial | None:
        """Start or resume the run of a trial; None if another process has it."""
        try:
            if (folder / checkpoints.FILE_NAME).exists():
                run = Run.resume(folder, self._device)
            else:
                run = Run.start(
                    folder, with_values(self.settings, trial.params), self._device, init_from=self._init_from
                )
        except InUse:
            return None
        except FAILURES as error:
            made = SweepTrial(self.study, trial, reported, None)
            made.failed(error)
            return made
        return SweepTrial(self.study, trial, reported, run)

    def _about(self) -> dict[str, Any]:
        """Return what all trials have in common, also in other processes; raise if they cannot be trained."""
        check_folder(self.folder)
        xp = by_device(self._device)
        path, settings, model = self._init_from, self.settings, None
        if path is None:
            corpus = settings.corpus()
        else:
            settings, corpus, model = initial_model(path, settings, xp, None)
        if corpus.validation is None:
            raise ValueError(f"a sweep needs a validation set; {corpus.name} is too short")
        self.summary = corpus.summary()
        common = {name: value for name, value in asdict(settings).items() if name not in ("dataset", "text")}
        common |= dict.fromkeys(self.space)
        common |= {"text": corpus.fingerprint, "init_from": model and digest(model.parameters)}
        common["space"] = {name: [type(one).__name__, one._asdict()] for name, one in self.space.items()}
        return json.loads(json.dumps(common))

    def _check_same(self, about: dict[str, Any]) -> None:
        """Raise unless the study is new, or has the same settings."""
        known = self.study.user_attrs.get(_ABOUT)
        name = self.study.study_name
        if known is None:
            if self.study.get_trials(deepcopy=False):
                raise ValueError(f"the study {name!r} is not one of rnnx: choose another name")
            self.study.set_user_attr(_ABOUT, about)
            return
        known = {**{key: value for key, value in asdict(Settings()).items() if key in about}, **known}
        different = [key for key, value in about.items() if known.get(key) != value]
        if different:
            key = different[0]
            raise ValueError(
                f"the study {name!r} has `{key}` = {shown(known.get(key))}; got {shown(about[key])}: "
                "choose another name for a new study"
            )
