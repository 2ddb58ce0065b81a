"""What all models have: parameters by name, a config to rebuild them from, a summary, and a step of training."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_shape
from rnnx.models.dropout import Masks
from rnnx.models.recurrent import Parameters, States


@dataclass(frozen=True)
class Step:
    """What a batch says to the trainer."""

    loss: Any  # a float; of another library than NumPy an array of shape (), which nobody has looked at
    gradients: Parameters  # "d" + name of every parameter
    states: States  # after the last step, for a batch that continues


class Model(ABC):
    """A model and its parameters.

    Attributes
    ----------
    parameters : dict of str to array
        Optimizers replace it, or write to its arrays.
    config : dict
        Plain values; ``type(model)(**model.config, parameters=model.parameters)`` is the same model again.
    """

    kind: ClassVar[str]  # the name in checkpoints
    parameters: Parameters
    config: dict[str, Any]

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter with its shape."""

    @abstractmethod
    def loss_and_gradients(self, batch: Any, *, masks: Masks | None = None) -> tuple[Any, Parameters]:
        """The loss, a float or of another library than NumPy an array of shape (); and the gradients ("d" + name)."""

    @abstractmethod
    def loss(self, batch: Any) -> float:
        """The mean loss of a batch."""

    def vocab_sizes(self) -> dict[str, int]:
        """Characters of its tokenizers, by their names in a checkpoint; nothing for a model without texts."""
        return {}

    def count(self, batch: Any) -> int:
        """Of how many terms `loss` is the mean."""
        return int(np.sum(batch.lengths))

    def train_step(
        self, batch: Any, *, states: States | None = None, masks: Masks | None = None, segment_length: int | None = None
    ) -> Step:
        """Loss and gradients as the trainer asks for them."""
        if states or segment_length is not None:
            raise ValueError(f"a {self.kind} model neither carries states nor recomputes segments")
        return Step(*self.loss_and_gradients(batch, masks=masks), {})

    def evaluate_step(self, batch: Any, *, states: States | None = None) -> tuple[Any, States]:
        """The loss as `loss_and_gradients` has it, and the states after the last step, for a batch that continues."""
        del states
        return self.loss(batch), {}

    def set_parameters(self, parameters: Mapping[str, Array]) -> None:
        """Take these parameters over.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a shape is wrong.
        TypeError
            For arrays of two libraries, or a dtype that is not float32 or float64.
        """
        expected = self.shapes()
        missing = [name for name in expected if name not in parameters]
        unknown = [name for name in parameters if name not in expected]
        if missing or unknown:
            raise ValueError(f"`parameters` must hold {list(expected)}; missing {missing}, unknown {unknown}")
        xp, _ = ns.common_namespace(parameters)
        for name, shape in expected.items():
            check_shape(name, parameters[name], "(as the config says)", shape)
        ns.floating_dtype(xp, parameters, {})
        self.parameters = {name: parameters[name] for name in expected}

    @property
    def n_parameters(self) -> int:
        """Numbers in all parameters together."""
        return sum(int(np.prod(shape)) for shape in self.shapes().values())

    def summary(self) -> str:
        """A table of the parameters with their shapes."""
        shapes = self.shapes()
        width = max(map(len, shapes))
        lines = [repr(self).strip("<>")]
        for name, shape in shapes.items():
            lines.append(f"  {name:<{width}}  {shape!s:>14}  {int(np.prod(shape)):>12,}")
        example = next(iter(self.parameters.values()))
        lines.append(f"  {'total':<{width}}  {'':>14}  {self.n_parameters:>12,}  {example.dtype}")
        return "\n".join(lines)

    def _namespace(self) -> tuple[Any, Any, Any]:
        """Library, device and dtype of the parameters."""
        name, array = next(iter(self.parameters.items()))
        return *ns.common_namespace({name: array}), array.dtype

    def _array(self, values: Any) -> Array:
        """Indices or numbers of a batch, in the library of the parameters; numbers in their dtype."""
        xp, device, dtype = self._namespace()
        if isinstance(values, np.ndarray | list | tuple):
            values = xp.asarray(np.ascontiguousarray(values), device=device)
        return values if ns.is_integer(xp, values) else ns.astype(xp, values, dtype)
