"""The training loop: it yields what happened and prints nothing.

On a device other than the CPU the host only tells it what to do next. What a step's loss was, it asks when somebody
looks, before an evaluation, and every so many steps; see `rnnx.training.progress`.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import integer, real
from rnnx.data import Dataset, to_device_of
from rnnx.models import Masks, Model
from rnnx.models.base import Step
from rnnx.optim import clip_by_global_norm, clip_by_value, learning_rate_at
from rnnx.optim.flat import ALL, Flat, fits
from rnnx.optim.optimizers import ELEMENTWISE
from rnnx.training.progress import Counters, Progress, Unread, check_finite

__all__ = ["Counters", "Progress", "Trainer", "evaluate", "owned"]
_NEVER = 3e38  # a norm that no float32 gradient exceeds
Callback = Callable[["Trainer", "Progress"], Any]


@dataclass
class Trainer:
    """The state of a training run. Between two items of `run` it is consistent, and `state` has all of it.

    Parameters
    ----------
    model : Model
    optimizer : object
        With ``init``, ``update`` and ``learning_rate`` as the classes in `rnnx.optim`.
    clip_norm : float, optional
        Largest global norm of the gradients.
    clip_value : float, optional
        Largest absolute value of an element of a gradient, after `clip_norm`.
    seed : int
        For the order of the batches and for dropout.
    shuffle : bool
        False takes the batches in the order of the text.
    segment_length : int, optional
        Compute the states between every so many steps again on the way back; see `CharModel.train_step`.
    in_place : bool
        Write to the parameters and the optimizer's state if they are NumPy's: the same bits, faster. The arrays are
        the trainer's own copies, and what ``model.parameters`` shows at one step is written over in the next: copy
        what is to be kept. Without it, and on other libraries, every step makes new arrays.

    Raises
    ------
    ValueError
        For a number out of its range.
    """

    model: Any
    optimizer: Any
    clip_norm: float | None = 5.0
    clip_value: float | None = None
    seed: int = 0
    shuffle: bool = True
    segment_length: int | None = None
    in_place: bool = True
    counters: Counters = field(default_factory=Counters)
    optimizer_state: dict[str, Array] = field(default_factory=dict)
    states: dict[str, Array] = field(default_factory=dict)  # carried from batch to batch
    whole: bool = True  # False: an interrupt came in the middle of an update, and the state is of no step
    _own: Any = field(default=None, repr=False)  # the parameters that nobody else holds
    _unread: Unread = field(default_factory=Unread, init=False, repr=False)
    _last: "_Joined | None" = field(default=None, init=False, repr=False)
    _error: FloatingPointError | None = field(default=None, init=False, repr=False)  # for the run that made it

    def __post_init__(self) -> None:
        self.optimizer_state = self.optimizer_state or self.optimizer.init(self.model.parameters)
        for name in ("clip_value", "clip_norm"):
            if getattr(self, name) is not None:
                setattr(self, name, real(name, getattr(self, name), "(0, inf)"))
        self.seed = integer("seed", self.seed, 0)
        self.in_place = self.in_place and "in_place" in inspect.signature(self.optimizer.update).parameters
        if self.counters.smooth_loss is None and hasattr(self.model, "vocab_size"):
            self.counters.smooth_loss = math.log(self.model.vocab_size)

    @property
    def step(self) -> int:
        """Optimizer steps done; on a device, until `settle`, those that were asked for."""
        return self.counters.step

    @property
    def epoch(self) -> int:
        """The epoch under way, from 1; 0 before the first one."""
        return self.counters.epoch

    def run(
        self,
        train: Dataset,
        validation: Dataset | None = None,
        *,
        epochs: int | None = None,
        iterations: int | None = None,
        batch_size: int = 32,
        evaluate_every: int | None = None,
        patience: int | None = None,
    ) -> Iterator[Progress]:
        """Train, from wherever the run is, until it has done so many epochs or steps in all.

        Parameters
        ----------
        train, validation : Dataset
        epochs, iterations : int
            Epochs or optimizer steps of the whole run; the first that is reached ends it.
        batch_size : int
        evaluate_every : int, optional
            Steps between evaluations; default: an epoch. There is one at the end of the run, too.
        patience : int, optional
            Stop after so many evaluations in a row without a better validation loss.

        Yields
        ------
        Progress
            After every step, and after every evaluation.

        Raises
        ------
        ValueError
            If neither `epochs` nor `iterations` is given, or for a number below 1.
        FloatingPointError
            If the loss is no longer finite; the parameters are those before that step. On a device that may show some
            steps later: those after it were not done, either.
        """
        numbers = {"epochs": epochs, "iterations": iterations, "batch_size": batch_size, "patience": patience}
        if epochs is None and iterations is None:
            raise ValueError("one of `epochs` and `iterations` must be given")
        for name, value in {**numbers, "evaluate_every": evaluate_every}.items():
            if value is not None:
                integer(name, value)
        if patience is not None and validation is None:
            raise ValueError("`patience` needs `validation`")
        self.settle()
        self._error, at = None, self.counters
        if at.batch_size not in (0, batch_size) and at.batch < train.n_batches(at.batch_size):
            raise ValueError(f"`batch_size` must be {at.batch_size} until the epoch has ended; got {batch_size}")
        self._check_whole()
        train, validation = (to_device_of(dataset, self.model.parameters) for dataset in (train, validation))
        return self._run(train, validation, epochs, iterations, batch_size, evaluate_every, patience)

    def _run(
        self,
        train: Dataset,
        validation: Dataset | None,
        epochs: int | None,
        iterations: int | None,
        batch_size: int,
        evaluate_every: int | None,
        patience: int | None,
    ) -> Iterator[Progress]:
        n_batches = train.n_batches(batch_size)
        if n_batches == 0:
            raise ValueError("there is nothing to learn: the training set has no batch")

        def due() -> bool:
            at = self.counters
            end_of_epoch = at.batch == n_batches
            asked = end_of_epoch if evaluate_every is None else at.step % evaluate_every == 0
            end = at.step == iterations or (end_of_epoch and at.epoch == epochs)
            return at.evaluated != at.step and (asked or end)

        def ended() -> bool:
            at = self.counters
            tired = patience is not None and at.since_best >= patience
            past = epochs is not None and at.epoch > epochs
            return tired or past or (iterations is not None and at.step >= iterations)

        while True:
            if due():  # a run that goes on may have stopped just before an evaluation
                yield self._evaluated(validation, batch_size)
            at = self.counters
            if at.epoch == 0 or at.batch >= n_batches or at.batch_size != batch_size:
                if ended() or (epochs is not None and at.epoch >= epochs):
                    return
                self._check_settled()  # so that no sum of losses is of two epochs
                self.counters = replace(
                    self.counters, epoch=at.epoch + 1, batch=0, batch_size=batch_size, total=0.0, count=0
                )
            rng = np.random.default_rng([self.seed, self.epoch]) if self.shuffle else None
            for batch in train.batches(batch_size, rng, start=self.counters.batch):
                if ended():
                    return
                yield self._learn(batch)
                if self._error is not None:
                    raise self._error
                if due():
                    yield self._evaluated(validation, batch_size)

    def fit(
        self,
        train: Dataset,
        validation: Dataset | None = None,
        *,
        callbacks: Iterable[Callback] = (),
        progress_bar: bool = False,
        **options: Any,
    ) -> Progress | None:
        """`run` to its end. The options are those of `run`.

        Parameters
        ----------
        callbacks : iterable of callable
            Called with the trainer and the `Progress` after every item; one that returns True ends the run.
        progress_bar : bool
            Show one of tqdm's.

        Returns
        -------
        Progress or None
            The last one.
        """
        progress, callbacks = None, list(callbacks)
        items: Iterable[Progress] = self.run(train, validation, **options)
        for progress in self._with_bar(items, train, options) if progress_bar else items:
            answers = [callback(self, progress) for callback in callbacks]
            if any(answer is True for answer in answers):
                break
        return progress

    def _with_bar(self, items: Iterable[Progress], train: Dataset, options: Mapping[str, Any]) -> Iterator[Progress]:
        from tqdm import tqdm

        epochs = options.get("epochs") or math.inf
        steps = min(options.get("iterations") or math.inf, epochs * train.n_batches(options.get("batch_size", 32)))
        with tqdm(total=steps, initial=self.step, unit="step") as bar:
            for progress in items:
                if bar.update(0 if progress.evaluation else 1):  # drawn: to know the loss each time could cost a wait
                    bar.set_postfix(loss=f"{progress.loss:.3f}")
                yield progress

    def _learn(self, batch: Any) -> Progress:
        """One optimizer step, whole or not at all."""
        if len(self._unread) >= self._unread.most:
            self._check_settled()
        carried = getattr(batch, "continues", False)
        step = self.model.train_step(
            batch,
            states=self.states if carried else None,
            masks=Masks((self.seed, self.step + 1)),
            segment_length=self.segment_length,
        )
        on_host = all(map(ns.is_on_host, self.model.parameters.values()))
        count = self.model.count(batch)
        return self._do(step, count) if on_host else self._ask(step, count, carried)

    def _do(self, step: Step, count: int) -> Progress:
        """The update, if loss and gradients are finite."""
        at, number = self.counters, self.step + 1
        check_finite("the loss is", step.loss, number)
        gradients, norm = self._clipped(step.gradients)
        check_finite("the gradients are", float(norm), number)
        if self.in_place and self._own is not self.model.parameters:  # what others may hold is not written to
            self.model.parameters, self.optimizer_state = owned(self.model.parameters), owned(self.optimizer_state)
        new = at.done(count).told(step.loss, float(norm), count)
        options = {"in_place": True} if self.in_place else {}
        self.whole = False  # until all of it is done: an interrupt may come anywhere
        arrays = self.optimizer.update(self.model.parameters, gradients, self.optimizer_state, number, **options)
        self._take(arrays, step.states, new)
        return self._progress(new, step.loss)

    def _ask(self, step: Step, count: int, carried: bool) -> Progress:
        """The update on a device, if it finds there that loss and gradients are finite; nobody waits for that.

        States that are not carried on are not kept to come back to.
        """
        at, number = self.counters, self.step + 1
        joined = self._joined()
        parameters, state = joined.arrays if joined else (self.model.parameters, self.optimizer_state)
        given = {"d" + ALL: joined.flat.join(step.gradients, "d{}")} if joined else step.gradients
        gradients, norm = self._clipped(given)
        good = self._unread.good(step.loss, norm)
        new = self.optimizer.update(parameters, gradients, state, number)
        arrays = tuple(_where(good, a, b) for a, b in zip(new, (parameters, state), strict=True))
        rate = learning_rate_at(self.optimizer.learning_rate, number)
        progress = Progress.later(self.settle, number, at.epoch, rate)
        self.whole = False
        self._unread.add(good, at, self.states if carried else {}, step.loss, norm, count, progress)
        self._take(joined.part(arrays) if joined else arrays, step.states, at.done(count))
        return progress

    def _joined(self) -> "_Joined | None":
        """Parameters and state as one array each, for rules of elements; those of the last step if they still are."""
        if type(self.optimizer) not in ELEMENTWISE:  # a rule of somebody's own may be one of whole arrays
            return None
        if self._last is None or not self._last.shows(self.model.parameters, self.optimizer_state):
            slots = self.optimizer.slots
            if not fits(self.model.parameters, self.optimizer_state, slots):
                return None
            self._last = _Joined(self.model.parameters, self.optimizer_state, slots)
        return self._last

    def _take(self, arrays: tuple[dict[str, Array], ...], states: dict[str, Array], counters: Counters) -> None:
        (self.model.parameters, self.optimizer_state), self.states = arrays, states
        self._own = self.model.parameters
        self.counters, self.whole = counters, True

    def settle(self) -> None:
        """Fetch what is still on a device. If a step there was not finite, the state is the one before it."""
        if len(self._unread):
            self.counters, states, self._error = self._unread.read(self.counters)
            self.states = self.states if states is None else states

    def _check_settled(self) -> None:
        self.settle()
        if self._error is not None:
            raise self._error

    def _clipped(self, gradients: dict[str, Array]) -> tuple[dict[str, Array], Any]:
        """The gradients as the optimizer gets them, and their norm before that, an array of shape ()."""
        with np.errstate(invalid="ignore"):  # of gradients that are not finite, which are refused
            clipped, norm = clip_by_global_norm(gradients, self.clip_norm or _NEVER)
        if self.clip_value is not None:
            clipped = clip_by_value(clipped, self.clip_value)
        return clipped, norm

    def _progress(
        self, at: Counters, loss: float, validation_loss: float | None = None, evaluation: bool = False
    ) -> Progress:
        rate = learning_rate_at(self.optimizer.learning_rate, max(at.step, 1))
        return Progress(at.step, at.epoch, loss, at.smooth_loss, validation_loss, rate, at.grad_norm, evaluation)

    def _evaluated(self, validation: Dataset | None, batch_size: int) -> Progress:
        self._check_settled()
        loss = None if validation is None else self.evaluate(validation, batch_size)
        at = self.counters
        new = replace(at, evaluated=at.step, validation_loss=loss)
        if loss is not None and (at.best_loss is None or loss < at.best_loss):
            new = replace(new, best_loss=loss, since_best=0)
        elif loss is not None:
            new = replace(new, since_best=at.since_best + 1)
        self.counters = new
        return self._progress(new, at.total / max(at.count, 1), loss, evaluation=True)

    def _check_whole(self) -> None:
        if not self.whole:
            raise ValueError("an interrupt came in the middle of an update: go on from a checkpoint")

    def evaluate(self, dataset: Dataset, batch_size: int) -> float:
        """Mean loss over a dataset, in its own order, without dropout."""
        return evaluate(self.model, dataset, batch_size)

    # --- to go on later -------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Everything but the model and the settings: plain values, and arrays by name.

        Raises
        ------
        ValueError
            If an interrupt came in the middle of an update: then there is no state of a step.
        """
        self._check_whole()
        self.settle()
        arrays = {f"optimizer/{key}": a for key, a in self.optimizer_state.items()}
        arrays |= {f"state/{key}": a for key, a in self.states.items()}
        return asdict(self.counters), arrays

    def restore(self, values: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Go on from what `state` returned: the run then is, bit for bit, the one that was not interrupted.

        Raises
        ------
        ValueError
            If it is not the state of a run of this model and optimizer.
        """
        optimizer = {key.partition("/")[2]: a for key, a in arrays.items() if key.startswith("optimizer/")}
        expected = self.optimizer.init(self.model.parameters)
        if {k: tuple(a.shape) for k, a in optimizer.items()} != {k: tuple(a.shape) for k, a in expected.items()}:
            raise ValueError("the state of the optimizer does not fit the model and the optimizer")
        if set(values) != set(asdict(self.counters)):
            raise ValueError(f"the counters of a run are {sorted(asdict(self.counters))}; got {sorted(values)}")
        self.settle()
        self.counters, self._error = Counters(**values), None
        self.optimizer_state, self._own, self.whole = optimizer, None, True
        self.states = {key.partition("/")[2]: a for key, a in arrays.items() if key.startswith("state/")}


class _Joined:
    """Parameters and an optimizer's state, each joined to one array, and the views of them that are shown."""

    def __init__(self, parameters: dict[str, Array], state: dict[str, Array], slots: tuple[str, ...]) -> None:
        self.flat, self._slots = Flat(parameters), slots
        self._names = [f"{slot}.d{name}" for name in parameters for slot in slots]  # as an update orders them
        moments = {f"{slot}.d{ALL}": self.flat.join(state, slot + ".d{}") for slot in slots}
        self.arrays = {ALL: self.flat.join(parameters)}, moments
        self._shown = parameters, state

    def shows(self, parameters: dict[str, Array], state: dict[str, Array]) -> bool:
        """Whether these are the dicts of the last step."""
        return self._shown[0] is parameters and self._shown[1] is state

    def part(self, arrays: tuple[dict[str, Array], ...]) -> tuple[dict[str, Array], dict[str, Array]]:
        """New arrays, joined, and what is to be shown of them."""
        parameters, state = self.arrays = arrays[0], arrays[1]
        shown: dict[str, Array] = {}
        for slot in self._slots:
            shown |= self.flat.part(state[f"{slot}.d{ALL}"], slot + ".d{}")
        self._shown = self.flat.part(parameters[ALL]), {name: shown[name] for name in self._names}
        return self._shown


def owned(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Copies that nobody else holds."""
    if not arrays:
        return {}
    xp, _ = ns.common_namespace(arrays)
    return {name: ns.owned_copy(xp, a) for name, a in arrays.items()}


def _where(good: Array, new: Mapping[str, Array], old: Mapping[str, Array]) -> dict[str, Array]:
    """The new arrays, or the old ones."""
    xp, _ = ns.common_namespace({"good": good})
    return {name: xp.where(good, a, old[name]) for name, a in new.items()}


def evaluate(model: Model, dataset: Dataset, batch_size: int) -> float:
    """Mean loss of a model over a dataset, in its own order, without dropout.

    Returns
    -------
    float
        In the model's unit; for a character model, nats per character.
    """
    losses, counts = [], []
    states: dict[str, Array] = {}
    for batch in dataset.batches(batch_size):
        loss, states = model.evaluate_step(batch, states=states if getattr(batch, "continues", False) else None)
        losses.append(loss)
        counts.append(model.count(batch))
    total = 0.0
    for loss, terms in zip(ns.numbers(losses), counts, strict=True):  # not `sum`, which rounds otherwise
        total += loss * terms
    return total / max(sum(counts), 1)
