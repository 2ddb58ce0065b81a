"""The interface of all models: named parameters, a config to rebuild the model, a summary, and a training step."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_shape, listed
from rnnx._core.copying import Portable
from rnnx.models.dropout import Masks
from rnnx.models.layers import Parameters, States


@dataclass(frozen=True)
class Step:
    """The result of a training step."""

    loss: Any  # a float; on a device an array of shape (), which has not been fetched
    gradients: Parameters  # "d" + name for every parameter
    states: States  # after the last step, for a batch that continues


class Model(Portable, ABC):
    """A model and its parameters.

    Attributes
    ----------
    parameters : dict of str to array
        An optimizer replaces the dict or writes to its arrays.
    xp, device, dtype : object
        Array namespace, device and dtype of the parameters.
    config : dict
        Plain values; ``type(model)(**model.config, parameters=model.parameters)`` rebuilds the model.
    """

    kind: ClassVar[str]  # the name in checkpoints
    config: dict[str, Any]
    _parameters: Parameters = {}  # noqa: RUF012  # replaced, never written to

    @property
    def parameters(self) -> Parameters:
        """The parameters by name."""
        return self._parameters

    @parameters.setter
    def parameters(self, parameters: Parameters) -> None:
        name, array = next(iter(parameters.items()))
        if array is not self._parameters.get(name):  # the same object after an update in place
            self.xp, self.device = ns.common_namespace({name: array})
            self.dtype = array.dtype
        self._parameters = parameters

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter."""

    @abstractmethod
    def train_step(
        self, batch: Any, *, states: States | None = None, masks: Masks | None = None, segment_length: int | None = None
    ) -> Step:
        """Return the loss, the gradients and the final states of a batch.

        Parameters
        ----------
        batch : Batch
        states : dict of str to array, optional
            Initial states, for models that carry them from batch to batch. They are treated as constants (truncated
            BPTT).
        masks : Masks, optional
            Dropout masks.
        segment_length : int, optional
            Keep only the states of every `segment_length`-th step and recompute the others in the backward pass. The
            gradients are still those of the whole sequence. This needs the memory of T / segment_length +
            segment_length steps and one more forward pass.
        """

    @abstractmethod
    def evaluate_step(self, batch: Any, *, states: States | None = None) -> tuple[Any, States]:
        """Return the loss without dropout, as in `Step`, and the final states."""

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

    def count(self, batch: Any) -> int:
        """Return the number of terms that the loss averages."""
        return int(np.sum(batch.lengths))

    def set_parameters(self, parameters: Mapping[str, Array]) -> None:
        """Replace all parameters.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a shape is wrong.
        TypeError
            If arrays come from different libraries, or a dtype is not float32 or float64.
        """
        expected = self.shapes()
        missing = [name for name in expected if name not in parameters]
        unknown = [name for name in parameters if name not in expected]
        if missing or unknown:
            raise ValueError(
                f"`parameters` must hold {listed([*expected])}; missing {listed(missing)}, unknown {listed(unknown)}"
            )
        xp, _ = ns.common_namespace(parameters)
        for name, shape in expected.items():
            check_shape(name, parameters[name], "(as the config says)", shape)
        ns.floating_dtype(xp, parameters, {})
        self.parameters = {name: parameters[name] for name in expected}

    @property
    def n_parameters(self) -> int:
        """Total number of parameter elements."""
        return sum(math.prod(shape) for shape in self.shapes().values())

    def summary(self) -> str:
        """Return a table of the parameters and their shapes."""
        shapes = self.shapes()
        width = max(map(len, shapes))
        lines = [repr(self).strip("<>")]
        for name, shape in shapes.items():
            lines.append(f"  {name:<{width}}  {shape!s:>14}  {math.prod(shape):>12,}")
        lines.append(f"  {'total':<{width}}  {'':>14}  {self.n_parameters:>12,}  {self.dtype}")
        return "\n".join(lines)

    def array(self, values: Any) -> Array:
        """Convert batch values to the library of the parameters, and floats to their dtype."""
        if isinstance(values, np.ndarray | list | tuple):
            values = self.xp.asarray(np.ascontiguousarray(values), device=self.device)
        return values if ns.is_integer(self.xp, values) else ns.astype(self.xp, values, self.dtype)


def needed_lengths(lengths: Any, m: int, n_steps: int) -> Any:
    """Return None if NumPy lengths say that every example has all steps, because masks are then unnecessary."""
    if isinstance(lengths, np.ndarray) and lengths.shape == (m,) and m and (lengths == n_steps).all():
        return None
    return lengths
