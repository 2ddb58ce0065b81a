"""A sweep: runs in a folder, whose settings Optuna chooses, and which several processes may share."""

import itertools
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnx._core.checks import check_methods, choice, integer
from rnnx._core.devices import by_device
from rnnx._core.words import shown
from rnnx.training.distributed.group import digest
from rnnx.training.folders import check_folder
from rnnx.training.runs import Run
from rnnx.training.search_space import OF_MODEL, distributions, with_values
from rnnx.training.settings import Settings
from rnnx.training.trials import FAILURES, STATES, Result, SweepTrial, result_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study

SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("median", "halving", "hyperband", "none")
_TRIALS = 20
_TRIED = 20  # trials that must not all fail to start
_ABOUT = "rnnx"  # the attribute of a study that says what all of its trials have in common


class Sweep:
    """Runs of `rnnx train` with settings that Optuna chooses, to find those with the lowest validation loss.

    Iterating yields the trials that are left, for this process to train: each has its `number`, the `values` of what is
    searched, its `run`, `train`, a generator like `Run.train`, and afterwards its `result`, and `ended`, whether this
    process has ended it. A trial that was interrupted, or whose process has ended, is resumed. Several processes with
    the same study share its trials.

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
        If a name or a type in `space` is wrong, the text has no validation part, no run can be started with the values
        of the first trials, or the study has other settings. If only some values are out of range, their trials fail.

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
        from rnnx.training.trial_queue import TrialQueue

        self.settings, self.folder = settings, Path(folder)
        self._device, self._init_from = device, init_from
        self.space = distributions(space, of_model=init_from is not None)
        samplers = studies.Samplers(sampler, self.space, settings.seed)
        most = samplers.grid.size if samplers.grid else None
        self.trials = min(trials or most or _TRIALS, most or sys.maxsize)
        self.summary, about = self._checked(studies.first_values(self.space, sampler, settings.seed, self.trials))
        if storage is None:
            self.folder.mkdir(parents=True, exist_ok=True)
        storage = self.folder / "study.log" if storage is None else storage
        self.study = studies.open_study(str(storage), study or self.folder.absolute().name, samplers, pruner)
        check_same(self.study, about)
        self._queue = TrialQueue(self.study, self.space, self.folder, self.trials, self._start, self._resume)

    def __iter__(self) -> Iterator[SweepTrial]:
        while (trial := self._queue.next()) is not None:
            yield trial

    def run(self) -> list[Result]:
        """Train the trials that are left; return the results of all, as `results` does.

        Raises
        ------
        ValueError
            If no trial is complete, unless other processes train some.
        """
        for trial in self:
            for _ in trial.train():
                pass
        results = self.results()
        check_results(results)
        return results

    def results(self) -> list[Result]:
        """Return the trials of the study, the best one first, and those without a result last.

        Returns
        -------
        list of Result
            Named tuples with the `number` of a trial, its `state` ("complete", "pruned", "diverged", "failed" or
            "running"), its `loss` (the best validation loss; the last one if pruned; or None), the `values` of what is
            searched, the `folder` of its run, and the `error` if it failed.
        """
        found = [result_of(one) for one in self._queue.trials()]
        return sorted(found, key=lambda r: (STATES.index(r.state), math.inf if r.loss is None else r.loss, r.number))

    def others_train(self) -> bool:
        """Whether another process trains a trial; also False if that cannot be known, as of another machine."""
        return self._queue.held_by_others()

    def _start(self, folder: Path, values: Mapping[str, Any]) -> Run:
        return Run.start(folder, with_values(self.settings, values), self._device, init_from=self._init_from)

    def _resume(self, folder: Path) -> Run:
        return Run.resume(folder, self._device)

    def _checked(self, values: Iterable[Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
        """Return a summary of the text, and what all trials have in common, also in other processes.

        Raise if a run cannot be started with any of the values.
        """
        check_folder(self.folder)
        xp = by_device(self._device)
        run = self._first_run(values, xp)
        if run.corpus.validation is None:
            raise ValueError(f"a sweep needs a validation set; {run.corpus.name} is too short")
        of_model = run.settings.select(*OF_MODEL) if self._init_from is not None else {}
        common = {**asdict(self.settings), **of_model, **dict.fromkeys(self.space)}
        del common["dataset"]
        common["text"] = run.corpus.fingerprint
        common["init_from"] = digest(run.model.parameters) if of_model else None
        common["space"] = {name: [type(one).__name__, one._asdict()] for name, one in self.space.items()}
        return run.corpus.summary(), json.loads(json.dumps(common))

    def _first_run(self, values: Iterable[Mapping[str, Any]], xp: Any) -> Run:
        """Return the first of the runs with these values that could be started; raise if none could."""
        first: Exception | None = None
        for one in itertools.islice(values, _TRIED):
            try:
                return Run.unstarted(self.folder, with_values(self.settings, one), xp, init_from=self._init_from)
            except FAILURES as error:
                first = first or error
        raise first or AssertionError


def check_results(results: Sequence[Result]) -> None:
    """Raise if no trial is complete, unless other processes train some."""
    if not any(one.state in ("complete", "running") for one in results):
        best = results[0]
        raise ValueError("no trial is complete" + (f"; trial {best.number}: {best.error}" if best.error else ""))


def check_same(study: "Study", about: Mapping[str, Any]) -> None:
    """Raise unless a study is new, or what its trials have in common is the same."""
    known = study.user_attrs.get(_ABOUT)
    name = study.study_name
    if known is None:
        if study.get_trials(deepcopy=False):
            raise ValueError(f"the study {name!r} is not one of rnnx: choose another name")
        study.set_user_attr(_ABOUT, about)
        return
    known = {**{key: value for key, value in asdict(Settings()).items() if key in about}, **known}
    different = [key for key, value in about.items() if known.get(key) != value]
    if different:
        key = different[0]
        raise ValueError(
            f"the study {name!r} has `{key}` = {shown(known.get(key))}; got {shown(about[key])}: "
            "choose another name for a new study"
        )
