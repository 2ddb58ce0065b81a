"""Optuna's studies: their storage, samplers and pruners. Imported only when a study is opened."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnx._core.files import open_regular

try:
    import optuna
except ModuleNotFoundError as error:
    from rnnx._core.install import install_command

    if error.name != "optuna":
        raise
    raise ImportError(f"a sweep needs optuna: {install_command('tune')}") from None

import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

Space = Mapping[str, BaseDistribution]

PRUNERS = {
    "median": MedianPruner,
    "halving": SuccessiveHalvingPruner,
    "hyperband": HyperbandPruner,
    "none": NopPruner,
}
_TRIES = 5  # to open a database, whose tables another process may be making at the same time
# What a storage raises for a trial that has ended; a subclass of it since Optuna 4.3.
FINISHED = RuntimeError
_SURPLUS = "surplus"  # the attribute of a trial that does not count


class Samplers(BaseSampler):
    """A sampler for each trial, seeded with the number of the trial.

    So trials are the same whether one process or several calls in turn make them, and processes make different ones.
    """

    def __init__(self, name: str, space: Space, seed: int) -> None:
        self.space, self.seed = space, seed
        self.grid = Grid(space) if name == "grid" else None
        self._kind = TPESampler if name == "tpe" else RandomSampler
        self._sampler: BaseSampler | None = None
        self._number = -1

    def of(self, trial: FrozenTrial) -> BaseSampler:
        """Return the sampler of a trial."""
        if self._sampler is None or self._number != trial.number:
            seed = (self.seed * 1_000_003 + trial.number) % 2**32
            self._sampler, self._number = self._kind(seed=seed), trial.number
        return self._sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the settings that are sampled together."""
        return {} if self.grid else self.of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample settings together."""
        return {} if self.grid else self.of(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """Sample a setting by itself."""
        if self.grid:
            return self.grid.value(name, position(study, trial.number))
        return self.of(trial).sample_independent(study, trial, name, distribution)


class Grid:
    """All combinations of the values in a space, the last setting changing first; after the last one, from the start.

    None of them is stored: there may be very many.
    """

    def __init__(self, space: Space) -> None:
        self.values: dict[str, Sequence[Any]] = {}
        for name, one in space.items():
            if isinstance(one, CategoricalDistribution):
                self.values[name] = one.choices
            elif isinstance(one, IntDistribution) and not one.log:
                self.values[name] = range(one.low, one.high + 1, one.step)
            else:
                raise ValueError(f"a grid needs values and not a range; got a range for `{name}`")
        self.size = math.prod(map(len, self.values.values()))

    def value(self, name: str, number: int) -> Any:
        """Return the value of a setting in a combination."""
        names = list(self.values)
        later = math.prod(len(self.values[one]) for one in names[names.index(name) + 1 :])
        own = self.values[name]
        return own[number // later % len(own)]


def counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that count: not those that wait, or that were withdrawn."""
    return [one for one in trials if one.state != TrialState.WAITING and _SURPLUS not in one.user_attrs]


def position(study: Study, number: int) -> int:
    """Return how many trials that count come before this one."""
    return sum(one.number < number for one in counted(study.get_trials(deepcopy=False)))


def withdraw(study: Study, trial: Trial) -> bool:
    """End a trial so that it does not count; return False if it has ended already."""
    try:
        trial.set_user_attr(_SURPLUS, True)
        study.tell(trial, state=TrialState.FAIL)
    except (FINISHED, ValueError):
        return False
    return True


def first_values(space: Space, sampler: str, seed: int, trials: int) -> Iterator[dict[str, Any]]:
    """Yield what a new study would try, as long as every trial fails."""
    with _quiet():
        study = optuna.create_study(sampler=Samplers(sampler, space, seed))
    for _ in range(trials):
        trial = study.ask(dict(space))
        yield trial.params
        study.tell(trial, state=TrialState.FAIL)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from announcing a study that nobody asked for."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Turn the errors of a database into one line."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        text = str(getattr(cause, "orig", None) or cause or error)
        raise RuntimeError(f"the storage of the study cannot be used: {text.splitlines()[0]}") from error


def open_study(storage: str, name: str, sampler: Samplers, pruner: str) -> Study:
    """Open or create a study in a file or, if `storage` is a URL, a database."""
    made = PRUNERS[pruner]()
    with storage_errors():
        for left in reversed(range(_TRIES)):
            try:
                found = _database(storage) if "://" in storage else _journal(Path(storage))
                return optuna.create_study(
                    storage=found, study_name=name, sampler=sampler, pruner=made, load_if_exists=True
                )
            except (sqlalchemy.exc.OperationalError, sqlalchemy.exc.IntegrityError):
                if not left:
                    raise
                time.sleep(0.2)
    raise AssertionError


def _database(url: str) -> BaseStorage:
    # Processes wait for each other's writes; a server closes connections that are idle during a long trial.
    waits: dict[str, Any] = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        return RDBStorage(url, engine_kwargs=waits)
    except ImportError:
        scheme = url.partition("://")[0]
        raise ImportError(f"`storage` {scheme}:// needs SQLAlchemy's driver for it, which is not installed") from None
    except sqlalchemy.exc.ArgumentError:
        raise ValueError(
            f"`storage` must be a file or the URL of a database; got {url.partition('://')[0]}://"
        ) from None


def _journal(path: Path) -> BaseStorage:
    if path.is_file():
        with open_regular(path) as file:
            start = file.read(30)
        if start.startswith(b"SQLite"):
            raise ValueError(f"{path} is a database, which `storage` names as sqlite:///{path}")
        if start and b'"op_code"' not in start:  # Optuna would append to a file of one line, whatever it is
            raise ValueError(f"{path} is not a journal of Optuna")
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
    except (ValueError, KeyError, TypeError):  # UnicodeDecodeError, JSONDecodeError
        raise ValueError(f"{path} is not a journal of Optuna") from None


def trial_of(study: Study, frozen: FrozenTrial) -> Trial:
    """Return a trial that is running, to go on with it."""
    return Trial(study, frozen._trial_id)
