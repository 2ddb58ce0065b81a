"""The training loop: an iterator over steps and evaluations that prints nothing.

On a device other than the CPU the host runs ahead: it fetches the losses of the steps when one is read, before an
evaluation, and after a fixed number of steps; see `rnnx.training.progress`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import integer, real
from rnnx.data import Dataset, to_device_of
from rnnx.models import Masks, Model, Step
from rnnx.optim import learning_rate_at
from rnnx.training.counters import Counters, Limits
from rnnx.training.progress import Numbers, PendingSteps, Progress, check_finite
from rnnx.training.updates import Updates, copies

Callback = Callable[["Trainer", "Progress"], Any]


@dataclass
class Trainer:
    """A training run. Between two items of `run` its state is consistent, and `state` returns all of it.

    Parameters
    ----------
    model : Model
    optimizer : object
        With ``init``, ``update`` and ``learning_rate``, like the classes in `rnnx.optim`.
    clip_norm : float, optional
        Largest global norm of the gradients.
    clip_value : float, optional
        Largest absolute value of a gradient element; applied after `clip_norm`.
    seed : int
        Seed for the order of batches and for dropout.
    shuffle : bool
        False takes the batches in the order of the dataset.
    segment_length : int, optional
        Recompute the states inside segments of this many steps during the backward pass; see `CharModel.train_step`.
    in_place : bool
        Update NumPy parameters and optimizer state in place: bit-identical, and faster. The trainer then works on its
        own copies, and the next step overwrites the arrays in ``model.parameters``, so copy what you want to keep.
        Otherwise, and on other libraries, every step makes new arrays.

    Raises
    ------
    ValueError
        If a number is out of range.
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
    whole: bool = True  # False: an update was interrupted, and the state is not that of any step
    _pending: PendingSteps = field(default_factory=PendingSteps, init=False, repr=False)
    _error: FloatingPointError | None = field(default=None, init=False, repr=False)  # of the current run

    def __post_init__(self) -> None:
        self.optimizer_state = self.optimizer_state or self.optimizer.init(self.model.parameters)
        for name in ("clip_value", "clip_norm"):
            if getattr(self, name) is not None:
                setattr(self, name, real(name, getattr(self, name), "(0, inf)"))
        self.seed = integer("seed", self.seed, 0)
        self._updates = Updates(self.optimizer, self.clip_norm, self.clip_value, self.in_place)
        if self.counters.smooth_loss is None and hasattr(self.model, "vocab_size"):
            self.counters.smooth_loss = math.log(self.model.vocab_size)

    @property
    def step(self) -> int:
        """Optimizer steps done; on a device, until `settle`, steps launched."""
        return self.counters.step

    @property
    def epoch(self) -> int:
        """The current epoch, from 1; 0 before the first one."""
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
        """Train from the current state until the run has a total number of epochs or steps.

        Parameters
        ----------
        train, validation : Dataset
        epochs, iterations : int
            Total epochs or optimizer steps of the run; it ends when it reaches the first of them.
        batch_size : int
        evaluate_every : int, optional
            Steps between evaluations; default: an epoch. The run also ends with an evaluation.
        patience : int, optional
            Stop after this many evaluations in a row without a better validation loss.

        Yields
        ------
        Progress
            After every step and every evaluation.

        Raises
        ------
        ValueError
            If neither `epochs` nor `iterations` is given, or a number is below 1.
        FloatingPointError
            If a loss is not finite. The parameters are those before that step. On a device the error may come some
            steps later; no step after the failed one changed the parameters.
        """
        limits = Limits(epochs, iterations, batch_size, evaluate_every, patience)
        if patience is not None and validation is None:
            raise ValueError("`patience` needs `validation`")
        self.settle()
        self._error, at = None, self.counters
        if at.batch_size not in (0, batch_size) and at.batch < train.n_batches(at.batch_size):
            raise ValueError(f"`batch_size` must be {at.batch_size} until the epoch has ended; got {batch_size}")
        self._check_whole()
        train, validation = (to_device_of(dataset, self.model.parameters) for dataset in (train, validation))
        return self._run(train, validation, limits)

    def _run(self, train: Dataset, validation: Dataset | None, limits: Limits) -> Iterator[Progress]:
        batch_size = limits.batch_size
        n_batches = train.n_batches(batch_size)
        if n_batches == 0:
            raise ValueError("there is nothing to learn: the training set has no batch")
        while True:
            if limits.evaluates(self.counters, n_batches):  # also if a resumed run stopped just before an evaluation
                yield self._evaluated(validation, batch_size)
            at = self.counters
            if at.epoch == 0 or at.batch >= n_batches or at.batch_size != batch_size:
                if limits.ended_after_epoch(at):
                    return
                self._check_settled()  # so that pending losses are not counted in the next epoch
                self.counters = replace(
                    self.counters, epoch=at.epoch + 1, batch=0, batch_size=batch_size, total=0.0, count=0
                )
            rng = np.random.default_rng([self.seed, self.epoch]) if self.shuffle else None
            for batch in train.batches(batch_size, rng, start=self.counters.batch):
                if limits.ended(self.counters):
                    return
                yield self._learn(batch)
                if self._error is not None:
                    raise self._error
                if limits.evaluates(self.counters, n_batches):
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
        """Run to the end. The options are those of `run`.

        Parameters
        ----------
        callbacks : iterable of callable
            Called with the trainer and the `Progress` after every item. A callback that returns True ends the run.
        progress_bar : bool
            Show a progress bar of tqdm.

        Returns
        -------
        Progress or None
            The last item.
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
                if bar.update(0 if progress.evaluation else 1):  # True if redrawn; only then is the loss fetched
                    bar.set_postfix(loss=f"{progress.loss:.3f}")
                yield progress

    def _learn(self, batch: Any) -> Progress:
        """Do one optimizer step completely, or not at all."""
        if len(self._pending) >= self._pending.max_steps:
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
        return self._update(step, count) if on_host else self._launch_update(step, count, carried)

    def _update(self, step: Step, count: int) -> Progress:
        """Update on the host, if loss and gradients are finite."""
        number = self.step + 1
        check_finite("the loss is", step.loss, number)
        gradients, norm = self._updates.clip(step.gradients)
        check_finite("the gradients are", float(norm), number)
        new = self.counters.after_step(count).with_numbers(step.loss, float(norm), count)
        self.whole = False  # until all of it is done: an interrupt may come anywhere
        arrays = self._updates.on_host(self.model.parameters, self.optimizer_state, gradients, number)
        self._take(arrays, step.states, new)
        return self._progress(step.loss)

    def _launch_update(self, step: Step, count: int, carried: bool) -> Progress:
        """Launch the update on a device, which skips it if loss or gradients are not finite; wait for nothing.

        Initial states are kept, for an error, only if they were carried.
        """
        at, number = self.counters, self.step + 1
        *arrays, norm, finite = self._updates.on_device(
            self.model.parameters,
            self.optimizer_state,
            step.gradients,
            number,
            lambda norm: self._pending.finite(step.loss, norm),
        )
        rate = learning_rate_at(self.optimizer.learning_rate, number)
        progress = Progress(number, at.epoch, rate, fetch=self.settle)
        self.whole = False
        self._pending.add(finite, at, self.states if carried else {}, step.loss, norm, count, progress)
        self._take(arrays, step.states, at.after_step(count))
        return progress

    def _take(self, arrays: Iterable[dict[str, Array]], states: dict[str, Array], counters: Counters) -> None:
        (self.model.parameters, self.optimizer_state), self.states = arrays, states
        self.counters, self.whole = counters, True

    def settle(self) -> None:
        """Fetch all numbers that are still on a device. If a step was not finite, return to the state before it."""
        if len(self._pending):
            self.counters, states, self._error = self._pending.fetch(self.counters)
            self.states = self.states if states is None else states

    def _check_settled(self) -> None:
        self.settle()
        if self._error is not None:
            raise self._error

    def _progress(self, loss: float, **evaluation: Any) -> Progress:
        at = self.counters
        rate = learning_rate_at(self.optimizer.learning_rate, max(at.step, 1))
        return Progress(at.step, at.epoch, rate, Numbers(loss, at.smooth_loss, at.grad_norm), **evaluation)

    def _evaluated(self, validation: Dataset | None, batch_size: int) -> Progress:
        self._check_settled()
        loss = None if validation is None else self.evaluate(validation, batch_size)
        self.counters = at = self.counters.after_evaluation(loss)
        return self._progress(at.total / max(at.count, 1), validation_loss=loss, evaluation=True)

    def _check_whole(self) -> None:
        if not self.whole:
            raise ValueError("an update was interrupted halfway: resume from a checkpoint")

    def evaluate(self, dataset: Dataset, batch_size: int) -> float:
        """Return the mean loss over a dataset, without dropout."""
        return evaluate(self.model, dataset, batch_size)

    def state(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return everything except the model and the settings: plain values, and arrays by name.

        Raises
        ------
        ValueError
            If an update was interrupted halfway, because then there is no state of a step.
        """
        self._check_whole()
        self.settle()
        arrays = {f"optimizer/{key}": a for key, a in self.optimizer_state.items()}
        arrays |= {f"state/{key}": a for key, a in self.states.items()}
        return asdict(self.counters), arrays

    def restore(self, values: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Continue from what `state` returned. The run is then bit-identical to one that was not interrupted.

        Raises
        ------
        ValueError
            If the state does not match the model and the optimizer.
        """
        optimizer = {key.partition("/")[2]: a for key, a in arrays.items() if key.startswith("optimizer/")}
        expected = self.optimizer.init(self.model.parameters)
        if {k: tuple(a.shape) for k, a in optimizer.items()} != {k: tuple(a.shape) for k, a in expected.items()}:
            raise ValueError("the state of the optimizer does not match the model and the optimizer")
        if set(values) != set(asdict(self.counters)):
            raise ValueError(f"the counters of a run are {sorted(asdict(self.counters))}; got {sorted(values)}")
        self.settle()
        self.counters, self._error = Counters(**values), None
        self.optimizer_state, self.whole = copies(optimizer), True
        self.states = {key.partition("/")[2]: a for key, a in arrays.items() if key.startswith("state/")}


def evaluate(model: Model, dataset: Dataset, batch_size: int) -> float:
    """Return the mean loss of a model over a dataset, without dropout.

    Returns
    -------
    float
        In the unit of the model; nats per character for a character model.
    """
    losses, counts = [], []
    states: dict[str, Array] = {}
    for batch in dataset.batches(batch_size):
        loss, states = model.evaluate_step(batch, states=states if getattr(batch, "continues", False) else None)
        losses.append(loss)
        counts.append(model.count(batch))
    total = 0.0
    for loss, terms in zip(ns.numbers(losses), counts, strict=True):  # not `sum`, which may round differently
        total += loss * terms
    return total / max(sum(counts), 1)
