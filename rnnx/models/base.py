"""The base of all models: a config to rebuild the model, and a training step."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import integer
from rnnx._core.randomness import RNG, generator, takes_rng
from rnnx.functional.quantization import check_trainable
from rnnx.models.layers import Layer, Parameters, States
from rnnx.models.masks import Masks
from rnnx.models.parameters import Parameterized
from rnnx.models.segments import scaled, train_in_segments

Ready = Callable[[Parameters], Any]  # is given gradients that are final, during a backward pass


class Initialization(TypedDict, total=False):
    """Keyword arguments of all models, with the defaults of `rnnx.initialize_parameters`."""

    rng: RNG
    scheme: str
    dtype: str
    xp: Any
    device: Any
    parameters: Mapping[str, Array] | None  # instead of new ones


@dataclass(frozen=True)
class Step:
    """The result of a training step.

    See Also
    --------
    Model, rnnx.training.Trainer

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Batch
    >>> from rnnx.models import CharModel
    >>> model = CharModel(3, hidden_size=4, rng=0)
    >>> step = model.train_step(Batch(np.array([[0, 1]]), np.array([[1, 2]]), None))
    >>> step.gradients["dby"].shape, sorted(step.states)
    ((3, 1), ['a_l0', 'c_l0'])
    >>> following = model.train_step(Batch(np.array([[2]]), np.array([[0]]), None), states=step.states)
    """

    loss: Any  # a float; on a device an array of shape (), which has not been fetched
    gradients: Parameters  # "d" + name for every parameter
    states: States  # after the last step, for a batch that continues


class Model(Parameterized, ABC):
    """A model and its parameters.

    Attributes
    ----------
    parameters : dict of str to array
        An optimizer replaces the dict or writes to its arrays.
    xp, device, dtype : object
        Array namespace, device and dtype of the parameters.
    config : dict
        Plain values; ``type(model)(**model.config, parameters=model.parameters)`` rebuilds the model.

    See Also
    --------
    SequenceClassifier, SequenceRegressor, CharModel, Seq2Seq, MultiTaskModel

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Batch
    >>> from rnnx.models import CharModel
    >>> model = CharModel(3, hidden_size=4, dtype="float64", rng=0)
    >>> batch = Batch(np.array([[0, 1, 2]]), np.array([[1, 2, 0]]), None)
    >>> loss, gradients = model.loss_and_gradients(batch)
    >>> h = 1e-6
    >>> model.parameters["by"][0, 0] += h
    >>> bool(np.isclose((model.loss(batch) - loss) / h, gradients["dby"][0, 0]))  # a difference quotient
    True
    >>> copy = type(model)(**model.config, parameters=model.parameters)
    >>> copy.loss(batch) == model.loss(batch)
    True
    """

    kind: ClassVar[str]  # the name in checkpoints
    config: dict[str, Any]
    runs_in_segments = False

    @takes_rng
    def __init__(
        self,
        parts: Sequence[Layer],
        config: dict[str, Any],
        *,
        rng: RNG = None,
        scheme: str = "keras",
        dtype: str = "float32",
        xp: Any = None,
        device: Any = None,
        parameters: Mapping[str, Array] | None = None,
    ) -> None:
        self.parts, self.config = parts, config
        random = generator("rng", rng)
        if parameters is None:
            self.parameters = self.initialize(random, scheme=scheme, dtype=dtype, xp=xp, device=device)
        else:
            self.set_parameters(parameters)

    @abstractmethod
    def backward(self, dz: Array, cache: Any, *, consume: bool = False) -> Parameters:
        """Return at least the gradients of all parameters, from the cotangent of the outputs."""

    @abstractmethod
    def checked(self, batch: Any) -> Any:
        """Check a batch and return it with arrays in place of lists, and integers in place of boolean classes.

        Raise ValueError or TypeError, in terms of the attributes of the batch, if it does not fit the model.
        """

    @abstractmethod
    def run(
        self, batch: Any, states: States | None, masks: Masks | None, keep_caches: bool
    ) -> tuple[Array, States, Any]:
        """Return the outputs for a checked batch, the final states, and a cache for `backward`."""

    @abstractmethod
    def compare(self, z: Array, batch: Any) -> tuple[Any, Array]:
        """Return the loss of the outputs for a checked batch, as in `Step`, and its gradient."""

    def part(self, batch: Any, rows: slice) -> Any:
        """Return some examples of a checked batch, cut to the longest of them.

        The loss of a part is its share of the loss of the batch, so that the losses of all parts add up to it. A model
        of your own that defines it needs batches with the attribute `size`, their number of examples.
        """
        del batch, rows
        raise TypeError(f"{type(self).__name__} cannot cut batches: it has no method `part`")

    @abstractmethod
    def run_backward(self, dz: Array, cache: Any, *, ready: Ready | None = None) -> Parameters:
        """Run `backward` without checks, for a gradient from `compare`, and free the cache."""

    def train_step(
        self,
        batch: Any,
        *,
        states: States | None = None,
        masks: Masks | None = None,
        segment_length: int | None = None,
        loss_scale: Any = None,
        ready: Ready | None = None,
    ) -> Step:
        """Return the loss, the gradients and the final states of a batch.

        Parameters
        ----------
        batch : Batch
        states : dict of str to array, optional
            Initial states, treated as constants (truncated BPTT), for models that carry them from batch to batch.
        masks : Masks, optional
        segment_length : int, optional
            Keep only the states of every `segment_length`-th step and recompute the others in the backward pass. The
            gradients are unchanged. This needs the memory of T / segment_length + segment_length steps and one more
            forward pass.
        loss_scale : float or array of shape (), optional
            Multiply the gradients by this number, from the gradient of the outputs on.
        ready : callable, optional
            Called with gradients as soon as they are final, those of a layer while the next ones are computed; not
            called for a batch in segments.

        Raises
        ------
        ValueError, TypeError
            If the batch, the states or the segment length do not fit the model.
        """
        batch = self.checked(batch)
        self.check_parameters()
        check_trainable(self.parameters)
        if segment_length is not None:
            if not self.runs_in_segments:
                needs = "a unidirectional model whose losses are means over steps or examples"
                raise ValueError(f"`segment_length` needs {needs}")
            if integer("segment_length", segment_length) < batch.inputs.shape[-1]:
                return Step(*train_in_segments(self, batch, states or {}, masks, segment_length, loss_scale))
        z, final, cache = self.run(batch, states, masks, True)
        loss, dz = self.compare(z, batch)
        return Step(loss, self.own_gradients(self.run_backward(scaled(dz, loss_scale), cache, ready=ready)), final)

    @property
    def largest(self) -> float:
        """The largest number of the dtype of the parameters; infinity if the library does not say."""
        try:
            return float(self.xp.finfo(self.dtype).max)
        except (TypeError, ValueError):
            return math.inf

    def own_gradients(self, gradients: Parameters) -> Parameters:
        """Return the gradients of the parameters only."""
        return {"d" + name: gradients["d" + name] for name in self.parameters}

    def evaluate_step(self, batch: Any, *, states: States | None = None) -> tuple[Any, States]:
        """Return the loss without dropout, as in `Step`, and the final states."""
        batch = self.checked(batch)
        self.check_parameters()
        z, final, _ = self.run(batch, states, None, False)
        return self.compare(z, batch)[0], final

    def loss_and_gradients(self, batch: Any, *, masks: Masks | None = None) -> tuple[Any, Parameters]:
        """Return the loss of a batch, as in `Step`, and the gradients by "d" + name of the parameter."""
        step = self.train_step(batch, masks=masks)
        return step.loss, step.gradients

    def loss(self, batch: Any) -> float:
        """Return the mean loss of a batch without dropout; for texts, in nats per character."""
        return ns.numbers([self.evaluate_step(batch)[0]])[0]

    def vocab_sizes(self) -> dict[str, int]:
        """Return the vocabulary size of each tokenizer, by its name in a checkpoint."""
        return {}

    def count(self, batch: Any) -> float:
        """Return the number of terms that the loss averages, or the sum of their weights."""
        return int(np.sum(batch.lengths))

    def check(self, name: str, dataset: Any) -> None:
        """Check all examples of a dataset of `rnnx.data` at once; others are checked batch by batch.

        Raise ValueError or TypeError if it does not fit the model.
        """
        if callable(getattr(dataset, "extremes", None)):
            try:
                self.checked(dataset.extremes())
            except (TypeError, ValueError) as error:
                raise type(error)(f"`{name}` does not fit the model: {error}") from None


def check_attributes(model: Model, batch: Any, dataset: str, names: Sequence[str]) -> None:
    """Raise unless a batch has the attributes of those of a dataset."""
    if not all(hasattr(batch, name) for name in names):
        words = f"with the attributes {', '.join(names)}, as `rnnx.data.{dataset}` yields them"
        raise TypeError(f"`batch` of {type(model).__name__} must be a batch {words}; got {type(batch).__name__}")
