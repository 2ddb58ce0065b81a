"""The record that describes a recurrent cell.

One time step is a chain of *stages*, each one recurrent product and the elementwise operations around it. RNN and LSTM
have one stage, the course's GRU two. A stage is a pair of pure functions::

    forward(ops, zx, zh, s)                -> (s_next, saved)
    backward(ops, ds, s_prev, s_next, saved) -> (dzx, dzh, ds_prev)

``zx`` is the input side ``W_x x_t + b`` and ``zh`` the recurrent side ``W_h s[0]``, with one entry per gate. ``s`` and
``s_next`` are the states before and after the stage. All arguments and results are tuples of arrays, scalars or traced
symbols, so the functions use only ``+ - *`` and calls to ``ops.<name>`` (see `rnnx.cells.vocabulary`): no literals, no
indexing, no branches. ``ds_prev[0]`` is the gradient along the direct path into ``s[0]``; the engine adds the path
through the recurrent weights, ``W_h.T dzh``.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rnnx._core.checks import Shape
from rnnx._core.words import shown


@dataclass(frozen=True)
class Gate:
    """The parameter keys and weight layout of one gate.

    Parameters
    ----------
    weights : tuple of str
        One key: a joint matrix (n_a, n_a + n_x), which acts on [a_prev; x_t] in that order. Two keys: the input
        weights (n_a, n_x) and the recurrent weights (n_a, n_a).
    bias : str
        Key of the bias, shape (n_a, 1), on the input side.
    recurrent_bias : str or None
        Key of an optional second bias, shape (n_a, 1), on the recurrent side. Redundant in an additive stage.
    forgets : bool
        Whether this is a forget gate, which has its own initial bias.
    """

    weights: tuple[str, ...]
    bias: str
    recurrent_bias: str | None = None
    forgets: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.weights, tuple) or len(self.weights) not in (1, 2):
            raise ValueError(f"`weights` of a gate must be a tuple of one or two keys; got {shown(self.weights)}")

    @property
    def keys(self) -> tuple[str, ...]:
        """The required keys, weights first."""
        return (*self.weights, self.bias)

    @property
    def is_joint(self) -> bool:
        """Whether one matrix holds the recurrent and the input weights."""
        return len(self.weights) == 1

    def shapes(self, n_x: int, n_a: int) -> dict[str, tuple[str, Shape]]:
        """Return each parameter's shape by key, in symbols and in numbers."""
        matrices: list[tuple[str, Shape]] = [("(n_a, n_a + n_x)", (n_a, n_a + n_x))]
        if not self.is_joint:
            matrices = [("(n_a, n_x)", (n_a, n_x)), ("(n_a, n_a)", (n_a, n_a))]
        biases = [key for key in (self.bias, self.recurrent_bias) if key]
        return dict(zip(self.weights, matrices, strict=True)) | dict.fromkeys(biases, ("(n_a, 1)", (n_a, 1)))

    def split(self, parameters: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return views of the input weights (n_a, n_x) and the recurrent weights (n_a, n_a)."""
        if not self.is_joint:
            return parameters[self.weights[0]], parameters[self.weights[1]]
        joint = parameters[self.weights[0]]
        return joint[:, joint.shape[0] :], joint[:, : joint.shape[0]]

    def join(self, xp: Any, w_x: Any, w_h: Any) -> dict[str, Any]:
        """Return the weights by key; the inverse of `split`."""
        matrices = (xp.concat([w_h, w_x], axis=1),) if self.is_joint else (w_x, w_h)
        return dict(zip(self.weights, matrices, strict=True))


@dataclass(frozen=True)
class Stage:
    """A stage of a cell.

    Parameters
    ----------
    gates : tuple of Gate
        In the order of `zx` and `zh`.
    out : tuple of str
        Names of the values that the stage returns. Those of the last stage are the cell's states.
    saved : tuple of str
        Names of the other values that backward needs, in the order that forward returns them.
    forward, backward : callable
        The two functions of the stage, described in `rnnx.cells.cell`.
    additive : bool
        Whether the stage uses only ``zx + zh``. Then dzx equals dzh, and engines store it once.
    """

    gates: tuple[Gate, ...]
    out: tuple[str, ...]
    saved: tuple[str, ...]
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    additive: bool = True


@dataclass(frozen=True)
class Cell:
    """A recurrent cell.

    Parameters
    ----------
    name : str
        Name used in messages and tables.
    states : tuple of str
        Names of the states; the first is the hidden state ``a``.
    stages : tuple of Stage
        The stages of one time step, in order; the last one's `out` equals `states`.
    cache : tuple of str
        Names of the saved values in the public cache tuple of a step, in order.
    head : tuple of str
        Keys of the output layer's weights and bias.
    """

    name: str
    states: tuple[str, ...]
    stages: tuple[Stage, ...]
    cache: tuple[str, ...] = ()
    head: tuple[str, str] = ("Wy", "by")

    def __post_init__(self) -> None:
        if not self.stages or self.stages[-1].out != self.states:
            raise ValueError(f"the last stage of cell {self.name!r} must return the cell's states {self.states}")
        unknown = set(self.cache) - set(self.saved)
        if unknown:
            raise ValueError(f"`cache` of cell {self.name!r} contains {sorted(unknown)}, which no stage saves")
        keys = Counter((*self.parameter_keys, *self.optional_keys))
        arguments = {"x", "xt", *(f"{state}{end}" for state in self.states for end in ("0", "_prev"))}
        for key, count in keys.items():
            if count > 1:
                raise ValueError(f"cell {self.name!r} has duplicate parameter key {key!r}")
            if key in arguments:
                raise ValueError(f"cell {self.name!r} has parameter key {key!r}, which is an argument name")

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Hash of all fields, cached. Not pickled, because string hashes differ between processes."""
        return hash((self.name, self.states, self.stages, self.cache, self.head))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_hash"}

    @cached_property
    def gates(self) -> tuple[Gate, ...]:
        """All gates, stage by stage."""
        return tuple(gate for stage in self.stages for gate in stage.gates)

    @cached_property
    def saved(self) -> tuple[str, ...]:
        """Names of all values stored per step besides the states: per stage, those saved, then those passed on."""
        *first, last = self.stages
        return (*(name for stage in first for name in stage.saved + stage.out), *last.saved)

    @cached_property
    def parameter_keys(self) -> tuple[str, ...]:
        """Required keys without the output layer, in the order of the public gradients."""
        return tuple(key for gate in self.gates for key in gate.keys)

    @cached_property
    def optional_keys(self) -> tuple[str, ...]:
        """Keys of the optional recurrent biases."""
        return tuple(gate.recurrent_bias for gate in self.gates if gate.recurrent_bias)
