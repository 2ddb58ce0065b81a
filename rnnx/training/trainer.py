"""The training loop: an iterator over steps and evaluations that prints nothing."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from rnnx._core.checks import flag
from rnnx.data import Dataset, to_device_of
from rnnx.optim import learning_rate_at
from rnnx.training.counters import Limits, total_steps
from rnnx.training.distributed.group import any_rank, check_alike, digest
from rnnx.training.evaluation import mean_loss
from rnnx.training.finite import check_dataset, check_kind
from rnnx.training.progress import Progress
from rnnx.training.state import copies
from rnnx.training.stepping import Stepping

_ALIKE = (
    "seed",
    "shuffle",
    "shards",
    "reduce",
    "clip_norm",
    "clip_value",
    "ema",
    "precision",
    "segment_length",
    "frozen",
)
Callback = Callable[["Trainer", "Progress"], Any]


@dataclass
class Trainer(Stepping):
    """A training run. Between two items of `run` its state is consistent, and `state` returns all of it.

    An interrupt (Ctrl-C, the stop button of a notebook) may come at any moment: the step in hand is finished or undone,
    and the next `run` or `fit` goes on.

    Parameters
    ----------
    model : Model
    optimizer : object
        With ``init``, ``update`` and ``learning_rate``, like the classes in `rnnx.optim`.
    clip_norm : float > 0, optional
        Maximum global norm of the gradients.
    clip_value : float > 0, optional
        Maximum absolute value of a gradient element; applied after `clip_norm`.
    seed : int >= 0
        Seed for the order of batches and for dropout.
    shuffle : bool
        False keeps the batches in dataset order.
    segment_length : int, optional
        Recompute the states within segments of this many steps in the backward pass; see `CharModel.train_step`.
    in_place : bool
        Write parameters and optimizer state of NumPy, and those on a GPU, to the same arrays in every step but the
        first: bit-identical, and faster. On a GPU, a step is then one launch of a CUDA graph. Later steps overwrite the
        arrays in ``model.parameters``, also those that you put there, so copy what you want to keep. Otherwise, and in
        other libraries, every step makes new arrays.
    precision : {"float64", "float32", "tf32", "bfloat16", "float16"}, optional
        Precision of the recurrent and dense layers in training; default: that of the parameters, which keep their dtype
        like the optimizer state. See `rnnx.use_precision`. With "float16", the loss is scaled by a power of 2. A step
        whose gradients overflow changes nothing but the scale, which is halved, and has a gradient norm of 0; after
        2000 steps without one the scale is doubled.
    micro_batch_size : int, optional
        Compute a batch in parts of at most this many examples, whose gradients are added up: the same step (with other
        dropout masks) in less memory.
    frozen : list of str
        Parameters that are not trained, by name or pattern: ``["*_l0"]``. They do not count in the norm either.
    shards : int, optional
        Cut every batch into this many parts of about equal size, its shards, which are computed one after the other, or
        on the ranks of a group: the same step (with other dropout masks), bit for bit the same for any number of ranks.
        Evaluations are cut, too. Default: the number of ranks; without a group, batches are not cut.
    group : Group
        The processes that train together, such as `MpiGroup`. Each has a trainer with the same arguments, and makes the
        same calls.
    reduce : {"ordered", "fast"}
        Add up the gradients in the order of the shards, or in the fastest order: the last bits of the result may
        then differ between runs.
    ema : float, in (0, 1), optional
        Keep an exponential moving average of the parameters, with this decay: 0.999 averages over about a thousand
        steps. Evaluations use it, and so does ``restore_best``; `averaged` is the model with it.

    See Also
    --------
    evaluate, Run, save_checkpoint, rnnx.optim

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Examples
    >>> from rnnx.models import SequenceClassifier
    >>> from rnnx.optim import Adam
    >>> from rnnx.training import Trainer
    >>> x = np.random.default_rng(0).standard_normal((1, 64, 6)).astype("float32")  # (n_x, n, T)
    >>> data = Examples(x, (x.sum(axis=(0, 2)) > 0).astype(int))  # is the sum of a sequence positive?
    >>> model = SequenceClassifier(1, 8, num_classes=2, cell="gru", rng=0)
    >>> trainer = Trainer(model, Adam(0.03), clip_norm=1.0, seed=0)
    >>> before = trainer.evaluate(data, batch_size=64)
    >>> progress = trainer.fit(data, epochs=20, batch_size=16)
    >>> progress.step, trainer.evaluate(data, batch_size=64) < before / 2
    (80, True)
    """

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
        """Train from the current state until the run reaches a total number of epochs or steps.

        Yields a `Progress` after every step and every evaluation.

        Parameters
        ----------
        train, validation : Dataset
        epochs, iterations : int
            Total epochs or optimizer steps; the run ends when it reaches either.
        batch_size : int
        evaluate_every : int, optional
            Steps between evaluations; default: an epoch. The run also ends with an evaluation.
        patience : int, optional
            Stop after this many consecutive evaluations without a better validation loss.

        Raises
        ------
        ValueError
            If neither `epochs` nor `iterations` is given, a number is below 1, or a dataset is empty.
        FloatingPointError
            Before the first step, if an input or target of `Examples` is not finite. Later, if a loss is not finite,
            also in an evaluation. The parameters are those before that step. On a device the error may come some
            steps later, but no step after the failed one changed the parameters.
        """
        limits = Limits(epochs, iterations, batch_size, evaluate_every, patience)
        if patience is not None and validation is None:
            raise ValueError("`patience` requires a `validation` set")
        check_kind("train", train)
        if validation is not None:
            check_kind("validation", validation)
        self.settle()
        self._error, at = None, self.counters
        if at.batch_size not in (0, batch_size) and at.batch < train.n_batches(at.batch_size):
            raise ValueError(f"`batch_size` must stay {at.batch_size} until the end of the epoch; got {batch_size}")
        for name, dataset in (("train", train), ("validation", validation)):
            if dataset is not None:
                self.model.check(name, dataset)
                check_dataset(name, dataset, self.model, batch_size)
        self._check_ranks(limits, train, validation)
        train, validation = (to_device_of(dataset, self.model.parameters) for dataset in (train, validation))
        return self._run(train, validation, limits)

    def _check_ranks(self, limits: Limits, train: Dataset, validation: Dataset | None) -> None:
        """Raise unless all ranks have the same arguments and the same state."""
        if self.shards is not None and self.shards > limits.batch_size:
            raise ValueError(f"`shards` must be at most `batch_size` = {limits.batch_size}; got {self.shards}")
        if self.group.size > 1:
            own = {f"`{name}`": getattr(self, name) for name in _ALIKE} | {f"`{k}`": v for k, v in vars(limits).items()}
            own |= {"the length of `train`": len(train)}
            own |= {"the length of `validation`": None if validation is None else len(validation)}
            own |= {"the counters": asdict(self.counters), "the optimizer state": digest(self.optimizer_state)}
            own |= {"the learning rate": float(learning_rate_at(self.optimizer.learning_rate, max(self.step, 1)))}
            check_alike(self.group, own | {"the parameters": digest(self.model.parameters)})

    def _run(self, train: Dataset, validation: Dataset | None, limits: Limits) -> Iterator[Progress]:
        batch_size = limits.batch_size
        n_batches = train.n_batches(batch_size)
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
        restore_best: bool = False,
        **options: Any,
    ) -> Progress | None:
        """Run to the end. The options are those of `run`.

        Parameters
        ----------
        callbacks : iterable of callable
            Called with the trainer and the `Progress` after every item. A callback that returns True ends the run.
        progress_bar : bool
            Show a tqdm progress bar.
        restore_best : bool
            At the end, replace the model's parameters by those of the evaluation with the lowest validation loss. The
            optimizer state and the counters remain those of the last step. An error or an interrupt restores nothing.

        Returns
        -------
        Progress or None
            The last item.

        Warns
        -----
        UserWarning
            If the run had already ended, so that there was nothing to do.
        """
        progress_bar = flag("progress_bar", progress_bar)
        if flag("restore_best", restore_best) and validation is None:
            raise ValueError("`restore_best` requires a `validation` set")
        progress, callbacks = None, list(callbacks)
        best, parameters = math.inf, None
        items: Iterable[Progress] = self.run(train, validation, **options)
        for progress in self._with_bar(items, train, options) if progress_bar else items:
            if restore_best and progress.validation_loss is not None and progress.validation_loss < best:
                best, parameters = progress.validation_loss, copies(self.averaged.parameters)
            stops = [callback(self, progress) is True for callback in callbacks]  # all of them are called
            if any_rank(self.group, any(stops)):
                break
        if parameters is not None:
            self.model.parameters = parameters
        if progress is None:
            warnings.warn(self._nothing_to_do(options.get("patience")), UserWarning, stacklevel=2)
        return progress

    def _nothing_to_do(self, patience: int | None) -> str:
        """Return why a run did nothing."""
        at = self.counters
        why = "`epochs` and `iterations` are totals, not numbers of further ones"
        if patience is not None and at.since_best >= patience:
            why = f"the last {at.since_best} evaluations were not better, and `patience` is {patience}"
        return f"nothing to do: the run has ended after epoch {at.epoch}, step {at.step}; {why}"

    def _with_bar(self, items: Iterable[Progress], train: Dataset, options: Mapping[str, Any]) -> Iterator[Progress]:
        from tqdm import tqdm

        n_batches = train.n_batches(options.get("batch_size", 32))
        steps = total_steps(options.get("epochs"), options.get("iterations"), n_batches)
        with tqdm(total=steps, initial=self.step, unit="step", disable=self.group.rank > 0) as bar:
            for progress in items:
                if bar.update(0 if progress.evaluation else 1):  # True if redrawn; only then is the loss fetched
                    bar.set_postfix(loss=f"{progress.loss:.3f}")
                yield progress

    def _evaluated(self, validation: Dataset | None, batch_size: int) -> Progress:
        self._check_settled()
        try:
            loss = None if validation is None else self.evaluate(validation, batch_size)
        except FloatingPointError as error:
            raise FloatingPointError(f"in the evaluation after step {self.step}, {error}") from None
        if self.group.size > 1:
            check_alike(self.group, {"the parameters": digest(self.model.parameters)})
        self.counters = at = self.counters.after_evaluation(loss)
        return self._progress(at.total / max(at.count, 1), validation_loss=loss, evaluation=True)

    def evaluate(self, dataset: Dataset, batch_size: int) -> float:
        """Return the mean loss over a dataset, without dropout; see `rnnx.training.evaluate`.

        With `shards`, batches are cut as in training, and all ranks must call it.
        """
        return mean_loss(self.averaged, dataset, batch_size, None if self.shards is None else self.parts)
