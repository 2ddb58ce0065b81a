"""The record that describes a gate's parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rnnx._core.checks import Shape, flag, integer
from rnnx._core.words import shown

SIDES = ("h", "xh", "x")  # in the order of a stage's gates


@dataclass(frozen=True)
class Gate:
    """The parameter keys and weight layout of one gate.

    In the signature of a function for `rnnx.cell`, ``Gate`` or ``Gate(heads=4)`` declares a gate without keys, which
    are made of its name.

    Parameters
    ----------
    weights : tuple of str
        One key: a joint matrix (n_a, n_a + n_x), which acts on [a_prev; x_t] in that order; of a gate with one side,
        its input weights (n_a, n_x) or recurrent weights (n_a, n_a). Two keys: the input weights and the recurrent
        weights.
    bias : str
        Key of the bias, shape (n_a, 1), on the input side; empty for a gate without a bias.
    recurrent_bias : str or None
        Key of an optional second bias, shape (n_a, 1), on the recurrent side. Redundant in an additive stage.
    forgets : bool
        Whether this is a forget gate, which has its own initial bias.
    sides : {"xh", "x", "h"}
        The sides that the gate has: input, recurrent, or both.
    heads : int
        Number of heads, into which the units are divided evenly and in order. A unit's recurrent weights act on the
        units of its own head only, so the recurrent matrix is block-diagonal. Its blocks are stacked: instead of n_a
        columns, it has n_a / heads. In the signature of a function, `heads` may be the name of a number there.
    width : int
        Number of units of the gate, the rows of its matrices; 0 means n_a. In the signature of a function, `width` may
        be the name of a number there.
    operand_width : int
        Number of units of what the recurrent weights multiply; 0 means n_a.
    biased : bool
        In the signature of a function: whether the input side has a bias.

    See Also
    --------
    cell, Vector, Input

    Examples
    --------
    >>> import rnnx
    >>> from rnnx.cells import sigmoid, tanh
    >>> @rnnx.cell
    ... def gated(x, a, *, f=rnnx.Gate(heads=2), c=rnnx.Gate):
    ...     f = sigmoid(f(x, a))
    ...     return f * a + (1 - f) * tanh(c(x))
    >>> parameters = rnnx.initialize_parameters(gated, n_x=3, n_a=4, rng=0)
    >>> {name: value.shape for name, value in parameters.items()}
    {'Wf': (4, 5), 'bf': (4, 1), 'Wc': (4, 3), 'bc': (4, 1)}
    """

    weights: tuple[str, ...] = ()
    bias: str = ""
    recurrent_bias: str | None = None
    forgets: bool = False
    sides: str = "xh"
    heads: int | str = 1
    width: int | str = 0
    operand_width: int = 0
    biased: bool = True

    def __post_init__(self) -> None:
        flag("forgets", self.forgets)
        flag("biased", self.biased)
        if self.is_declaration:
            return
        if self.sides not in SIDES:
            raise ValueError(f"`sides` of a gate must be one of {list(SIDES)}; got {self.sides!r}")
        allowed, what = ((1, 2), "one or two keys") if self.sides == "xh" else ((1,), "one key")
        if not isinstance(self.weights, tuple) or len(self.weights) not in allowed:
            raise ValueError(f"`weights` of a gate must be a tuple of {what}; got {shown(self.weights)}")
        if (self.bias and "x" not in self.sides) or (self.recurrent_bias and self.sides != "xh"):
            got = f"sides {self.sides!r}, bias {self.bias!r}, recurrent bias {self.recurrent_bias!r}"
            raise ValueError(f"a gate has a `bias` on its input side only, a `recurrent_bias` beside both; got {got}")
        widths = {"width": self.width, "operand_width": self.operand_width}
        given, taken = (integer(name, value, 0) for name, value in widths.items())
        if integer("heads", self.heads) > 1 and "h" not in self.sides:
            raise ValueError(f"`heads` of a gate without a recurrent side must be 1; got {self.heads}")
        if self.heads != 1 and given != taken:
            raise ValueError(f"a gate with heads must be as wide as what it multiplies; got {widths}")

    @property
    def is_declaration(self) -> bool:
        """Whether this is a gate in the signature of a function, without keys."""
        return not (self.weights or self.bias)

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
        rows, of_rows = self.rows(n_a), str(self.width or "n_a")
        n_h, of_h = self.columns(n_a), self.columns_in_symbols
        sides: dict[str, tuple[str, Shape]] = {"x": (f"({of_rows}, n_x)", (rows, n_x))}
        sides["h"] = f"({of_rows}, {of_h})", (rows, n_h)
        joint = (f"({of_rows}, {of_h} + n_x)", (rows, n_h + n_x))
        matrices = [joint] if self.is_joint else [sides[side] for side in self.sides]
        biases = [key for key in (self.bias, self.recurrent_bias) if key]
        return dict(zip(self.weights, matrices, strict=True)) | dict.fromkeys(biases, (f"({of_rows}, 1)", (rows, 1)))

    def rows(self, n_a: int) -> int:
        """Return the number of units of the gate."""
        return int(self.width) or n_a

    def columns(self, n_a: int) -> int:
        """Return the number of columns of the recurrent weights: the units of the operand, or of a head."""
        n_h, rest = divmod(self.operand_width or n_a, int(self.heads))
        if rest:
            what, of_gate = f"`width` = {self.width}" if self.width else f"n_a = {n_a}", f"`{self.weights[0]}`"
            expected = f"must be divisible by the number of heads of {of_gate}, {self.heads}"
            raise ValueError(f"{what.partition(' =')[0]} {expected}; got {what}")
        return n_h

    @property
    def columns_in_symbols(self) -> str:
        """The number of columns of the recurrent weights as text."""
        units = str(self.operand_width or "n_a")
        return units if self.heads == 1 else f"{units} / {self.heads}"

    def places(self, n_a: int) -> dict[str, tuple[str, int]]:
        """Return the key of the weights of each side, "x" and "h", and their first column there."""
        if self.is_joint:
            return {"x": (self.weights[0], self.columns(n_a)), "h": (self.weights[0], 0)}
        return {side: (key, 0) for side, key in zip(self.sides, self.weights, strict=True)}

    def split(self, parameters: Mapping[str, Any], n_a: int) -> tuple[Any, Any]:
        """Return views of the input and recurrent weights, (rows, n_x) and (rows, columns); None if missing."""
        first = parameters[self.weights[0]]
        if self.is_joint:
            n_h = self.columns(n_a)
            return first[:, n_h:], first[:, :n_h]
        by_side = dict(zip(self.sides, (parameters[key] for key in self.weights), strict=True))
        return by_side.get("x"), by_side.get("h")

    def join(self, xp: Any, w_x: Any, w_h: Any) -> dict[str, Any]:
        """Return the weights by key; the inverse of `split`."""
        by_side = {"x": w_x, "h": w_h}
        matrices = [xp.concat([w_h, w_x], axis=1)] if self.is_joint else [by_side[side] for side in self.sides]
        return dict(zip(self.weights, matrices, strict=True))
