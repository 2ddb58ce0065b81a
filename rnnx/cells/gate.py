"""The record that describes a gate's parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rnnx._core.checks import Shape, flag
from rnnx._core.words import shown

SIDES = ("h", "xh", "x")  # in the order of a stage's gates


@dataclass(frozen=True)
class Gate:
    """The parameter keys and weight layout of one gate.

    Parameters
    ----------
    weights : tuple of str
        One key: a joint matrix (n_a, n_a + n_x), which acts on [a_prev; x_t] in that order; of a gate with one side,
        its input weights (n_a, n_x) or recurrent weights (n_a, n_a). Two keys: the input weights and the recurrent
        weights.
    bias : str
        Key of the bias, shape (n_a, 1), on the input side; empty for a gate without that side.
    recurrent_bias : str or None
        Key of an optional second bias, shape (n_a, 1), on the recurrent side. Redundant in an additive stage.
    forgets : bool
        Whether this is a forget gate, which has its own initial bias.
    sides : {"xh", "x", "h"}
        The sides that the gate has: input, recurrent, or both.
    """

    weights: tuple[str, ...]
    bias: str
    recurrent_bias: str | None = None
    forgets: bool = False
    sides: str = "xh"

    def __post_init__(self) -> None:
        flag("forgets", self.forgets)
        if self.sides not in SIDES:
            raise ValueError(f"`sides` of a gate must be one of {list(SIDES)}; got {self.sides!r}")
        allowed, what = ((1, 2), "one or two keys") if self.sides == "xh" else ((1,), "one key")
        if not isinstance(self.weights, tuple) or len(self.weights) not in allowed:
            raise ValueError(f"`weights` of a gate must be a tuple of {what}; got {shown(self.weights)}")
        if bool(self.bias) != ("x" in self.sides) or (self.recurrent_bias and self.sides != "xh"):
            got = f"sides {self.sides!r}, bias {self.bias!r}, recurrent bias {self.recurrent_bias!r}"
            raise ValueError(f"a gate needs a `bias` if it has an input side, and has no other; got {got}")

    @property
    def short_name(self) -> str:
        """The key of its weights, without the W that it begins with."""
        return self.weights[0].removeprefix("W") or self.weights[0]

    @property
    def keys(self) -> tuple[str, ...]:
        """The required keys, weights first."""
        return (*self.weights, self.bias) if self.bias else self.weights

    @property
    def is_joint(self) -> bool:
        """Whether one matrix holds the recurrent and the input weights."""
        return len(self.weights) == 1 and self.sides == "xh"

    def shapes(self, n_x: int, n_a: int) -> dict[str, tuple[str, Shape]]:
        """Return each parameter's shape by key, in symbols and in numbers."""
        sides: dict[str, tuple[str, Shape]] = {"x": ("(n_a, n_x)", (n_a, n_x)), "h": ("(n_a, n_a)", (n_a, n_a))}
        matrices = [("(n_a, n_a + n_x)", (n_a, n_a + n_x))] if self.is_joint else [sides[side] for side in self.sides]
        biases = [key for key in (self.bias, self.recurrent_bias) if key]
        return dict(zip(self.weights, matrices, strict=True)) | dict.fromkeys(biases, ("(n_a, 1)", (n_a, 1)))

    def split(self, parameters: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return views of the input and recurrent weights, (n_a, n_x) and (n_a, n_a); None for a missing side."""
        first = parameters[self.weights[0]]
        if self.is_joint:
            return first[:, first.shape[0] :], first[:, : first.shape[0]]
        by_side = dict(zip(self.sides, (parameters[key] for key in self.weights), strict=True))
        return by_side.get("x"), by_side.get("h")

    def join(self, xp: Any, w_x: Any, w_h: Any) -> dict[str, Any]:
        """Return the weights by key; the inverse of `split`."""
        by_side = {"x": w_x, "h": w_h}
        matrices = [xp.concat([w_h, w_x], axis=1)] if self.is_joint else [by_side[side] for side in self.sides]
        return dict(zip(self.weights, matrices, strict=True))
