"""The base of losses: a function of a model's outputs and a target, its gradient, and what the outputs predict.

Dimensions: n targets, n_y = parts n outputs, m examples, T steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_indices, check_lengths, check_shape
from rnnx._core.harmless_errors import ignore_harmless_errors
from rnnx._core.inputs import bools_to_integers, check_weights, host_lengths, weights_of_steps
from rnnx._core.layout import valid_examples
from rnnx._core.words import shown
from rnnx.cells.derivatives import gradients
from rnnx.cells.expressions import Expression
from rnnx.cells.graph import Graph, symbolic_ops, symbols
from rnnx.cells.programs import Program
from rnnx.cells.vocabulary import Ops, array_ops
from rnnx.engines.operations import Loss as RowLoss
from rnnx.engines.operations import Statistic
from rnnx.losses.quantiles import checked_levels


@dataclass(frozen=True)
class _Value:
    """The value of a loss, as a function of an engine's operands."""

    program: Program

    def __call__(self, ops: Ops, *operands: Any) -> Any:
        return self.program(ops, *operands)[0]


@dataclass(frozen=True)
class _Gradient:
    """Its gradient; the last operand is the statistic, which it does not need."""

    program: Program

    def __call__(self, ops: Ops, *operands: Any) -> tuple[Any, ...]:
        return self.program(ops, *operands[:-1])


def _sum(_ops: Ops, total: Any) -> Any:
    return total


class Loss:
    """A loss, as the mean over all targets of a function of a target and the model's outputs for it.

    Subclasses define `value`, with the functions and operators that a cell may use (`rnnx.cell`). The gradient is
    derived from it, unless they define `gradient`, too. Both run compiled on the CPU and the GPU.

    Attributes
    ----------
    outputs : tuple of str
        Names of the numbers that a model puts out for each target. More than one describe a distribution.
    point : int
        Which of them is the prediction.
    kind : {"numbers", "labels", "classes"}
        What targets are: numbers (n, m) or, per step, (n, m, T); such numbers from 0 to 1; or class indices (m,) or
        (m, T).
    by_step : bool
        Whether the loss is a mean over steps, so that a sequence can be divided.

    See Also
    --------
    LOSSES, as_loss, SquaredError

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.losses import Loss
    >>> class LogCosh(Loss):
    ...     def value(self, ops, y, target):
    ...         d = y - target
    ...         return d + ops.softplus(-2 * d) - np.log(2)
    >>> loss, dy = LogCosh()(np.ones((1, 2, 3)), np.zeros((1, 2, 3)))
    >>> bool(np.isclose(loss, np.log(np.cosh(1)))), bool(np.allclose(6 * dy, np.tanh(1)))
    (True, True)
    """

    name: ClassVar[str] = ""  # in checkpoints; those of the user's own have the name of their class
    kind: ClassVar[str] = "numbers"
    by_step: ClassVar[bool] = True
    least: ClassVar[float] = -np.inf  # of a target
    most: ClassVar[float] = np.inf

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs for each target."""
        return ("y",)

    @property
    def point(self) -> int:
        """Which of them is the prediction."""
        return 0

    def value(self, ops: Ops, *operands: Any) -> Any:
        """Return the loss of one target.

        Parameters
        ----------
        ops : Ops
            The vocabulary of cells: ``ops.exp``, ``ops.where``, ...
        *operands : value
            The outputs for the target in the order of `outputs`, and the target.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `value(self, ops, y, target)`")

    def gradient(self, ops: Ops, *operands: Any) -> tuple[Any, ...]:
        """Return the derivatives of `value` by the outputs; if not defined, they are derived from it."""
        raise NotImplementedError

    def distribution(self, ops: Ops, *outputs: Any) -> tuple[Any, ...]:
        """Return what the outputs stand for, such as a mean and a positive scale; by default, themselves."""
        return outputs

    @property
    def shifts(self) -> bool:
        """Whether targets may be shifted, so that they may become negative."""
        return self.least == -np.inf

    @cached_property
    def rule(self) -> RowLoss:
        """The loss as engines compute it."""
        graph = Graph()
        outputs, targets = symbols(graph, y=len(self.outputs), target=1)
        operands, ops = (*outputs, *targets), symbolic_ops(graph)
        value = graph.output(self.value(ops, *operands))
        if type(self).gradient is Loss.gradient:
            derivatives = gradients((value,), (graph.constant(1.0),), outputs)
        else:
            derivatives = self._by_hand(graph, ops, operands)
        programs = Program(operands, (value,)), Program(operands, derivatives)
        if "mean" in programs[0].counts():
            raise ValueError(f"`value` of {type(self).__name__} must be of one target; got a mean over several")
        return RowLoss(False, (Statistic("sum", _Value(programs[0])),), _sum, _Gradient(programs[1]), len(outputs))

    def _by_hand(self, graph: Graph, ops: Ops, operands: tuple[Expression, ...]) -> list[Expression]:
        found = self.gradient(ops, *operands)
        if not isinstance(found, tuple) or len(found) != len(self.outputs):
            expected = f"`gradient` of {type(self).__name__} must return a tuple of {len(self.outputs)} values"
            raise TypeError(f"{expected}; got {shown(found)}")
        return [graph.output(d) for d in found]

    @property
    def config(self) -> dict[str, Any]:
        """The name and the arguments, as plain values."""
        names: list[str] = [f.name for f in fields(self)] if is_dataclass(self) else []
        own = {name: getattr(self, name) for name in names}
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in own.items()}
        return {"name": vars(type(self)).get("name") or type(self).__name__, **plain}

    def n_outputs(self, size: int) -> int:
        """Return the number of a model's outputs for `size` targets, or classes."""
        return size * len(self.outputs)

    def n_targets(self, n_outputs: int) -> int:
        """Return the number of targets, or classes, for which a model has so many outputs."""
        return n_outputs // len(self.outputs)

    def compare(
        self, xp: Any, y: Array, targets: Array, ends: Array | None = None, weights: Array | None = None
    ) -> tuple[Array, Array]:
        """Compute the loss and its gradient without checks, for arrays of one dtype; `ends` are lengths (m,)."""
        return engines.operations(xp, y.shape[1] * y.shape[2]).loss(self.rule, y, targets, ends, weights)

    def __call__(self, y: Array, targets: Array, *, lengths: Any = None, weights: Any = None) -> tuple[Array, Array]:
        """Compute the mean loss and its gradient.

        Parameters
        ----------
        y : array, shape (n_y, m, T_x)
            Outputs: the first of each target, then the second of each, and so on.
        targets : array, shape (n, m, T_x), or for classes (m, T_x)
        lengths : sequence or array of int, shape (m,), optional
            Number of steps of each example; default T_x.
        weights : array, shape (m,) or (m, T_x), optional
            Numbers of at least 0 for a weighted mean of the examples, or of their steps. Those of weight 0 affect
            nothing, even if they are NaN.

        Returns
        -------
        loss : array, shape ()
            Zero if no step has a weight.
        dy : array, shape of y

        Raises
        ------
        ValueError, TypeError
            For wrong shapes, dtypes, lengths or weights, or arrays of two libraries or devices.
        """
        given = {"y": y} if self.kind == "classes" else {"y": y, "targets": targets}
        ns.common_namespace({"y": y, "targets": targets})
        xp, device, arrays = ns.as_floats(given)
        y = arrays[0]
        if y.ndim != 3 or y.shape[0] == 0 or self.n_outputs(self.n_targets(y.shape[0])) != y.shape[0]:
            wanted = f"{len(self.outputs)} outputs per target" if len(self.outputs) > 1 else "n_y >= 1"
            wanted = "n_y = 1" if self.n_outputs(2) == 1 else wanted
            raise ValueError(f"`y` must have shape (n_y, m, T_x) with {wanted}; got {tuple(y.shape)}")
        n_y, m, n_steps = y.shape
        ends = None if lengths is None else check_lengths(xp, device, lengths, m, n_steps)
        if self.kind == "classes":
            targets = self._checked_classes(xp, targets, ends, y)
        else:
            targets = arrays[1]
            check_shape("targets", targets, "(n, m, T_x)", (self.n_targets(n_y), m, n_steps))
        if weights is not None:
            weights = weights_of_steps(xp, device, check_weights(weights, m, n_steps), n_steps, y.dtype)
        self.check_targets("targets", targets, lengths=lengths)
        return self.compare(xp, y, targets, ends, weights)

    def _checked_classes(self, xp: Any, targets: Array, ends: Array | None, y: Array) -> Array:
        check_shape("targets", targets, "(m, T_x)", tuple(y.shape[1:]))
        targets = bools_to_integers(xp, targets)
        if not ns.is_integer(xp, targets):
            raise TypeError(f"`targets` must hold integers; got dtype {targets.dtype}")
        within = ns.is_on_host(targets) and ends is not None
        chosen = targets[valid_examples(xp, ends, y.shape[2])] if within else targets
        check_indices("targets", chosen, "n_y", self.n_targets(y.shape[0]))
        return targets

    def check_targets(self, name: str, targets: Array, *, lengths: Any = None) -> None:
        """Raise unless targets on the host, within the lengths, are in the range of the loss."""
        if (self.least == -np.inf and self.most == np.inf) or not ns.is_on_host(targets):
            return
        bad = (targets < self.least) | (targets > self.most)
        if lengths is not None and targets.ndim == 3:
            ends = host_lengths(lengths)
            bad &= False if ends is None else np.arange(targets.shape[-1]) < ends[:, None]
        if bad.any():
            place = tuple(np.argwhere(bad)[0].tolist())
            allowed = f"at least {self.least:g}" if self.most == np.inf else f"from {self.least:g} to {self.most:g}"
            own = self.config["name"]
            raise ValueError(f"`{name}` of the loss {own!r} must be {allowed}; got {targets[place]} at index {place}")

    @ignore_harmless_errors
    def describe(self, xp: Any, z: Array) -> dict[str, Array]:
        """Return what outputs (n_y, ...) stand for, by name, each of shape (n, ...)."""
        n = z.shape[0] // len(self.outputs)
        parts = [z[k * n : (k + 1) * n, ...] for k in range(len(self.outputs))]
        return dict(zip(self.outputs, self.distribution(array_ops(xp), *parts), strict=True))

    def quantile(self, described: Mapping[str, Any], level: float) -> Any:
        """Return the quantile of this level, between 0 and 1, of the distribution that `describe` returned."""
        others = "'quantile', 'gaussian', 'student_t' and 'poisson'"
        raise ValueError(f"the loss {self.config['name']!r} has no quantiles, unlike {others}")

    @property
    def has_quantiles(self) -> bool:
        """Whether the outputs are quantiles, or a distribution that has them."""
        return type(self).quantile is not Loss.quantile

    def check_levels(self, quantiles: Any) -> tuple[float, ...]:
        """Return increasing levels of quantiles; raise ValueError unless the loss has them."""
        levels = checked_levels(quantiles)
        for level in levels:
            self.quantile(dict.fromkeys(self.outputs, np.full(1, 3.0)), level)
        return levels

    def predict(self, xp: Any, z: Array) -> Array:
        """Return the predictions of outputs: numbers (n, ...), or probabilities (classes, ...)."""
        if type(self).distribution is Loss.distribution and len(self.outputs) == 1:
            return z
        return self.describe(xp, z)[self.outputs[self.point]]

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.config.items() if key != "name")
        return f"{type(self).__name__}({options})"
