"""The record that describes a recurrent cell.

One time step is a chain of *stages*, see `rnnx.cells.stage`. RNN and LSTM have one, the course's GRU two.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import lcm
from typing import Any

from rnnx._core.checks import integer
from rnnx.cells.gate import Gate
from rnnx.cells.stage import Hoisted, Stage

STEP = "step"  # instead of a number, the default of an input that is the number of the step


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
    hoisted : Hoisted or None
        What is computed from parameters alone.
    initial : tuple of (str, value)
        Initial values of vectors and biases by key: a number, or (low, high) for a uniform distribution. Others are
        drawn as biases are.
    defaults : tuple of (str, value)
        Inputs that may be missing, and what they then are: a number, or "step", the number of the step from 0.
    widths : tuple of (str, int)
        Widths of states, vectors and inputs that are not n_a, by name; the first state has n_a units. Values of
        different widths are only combined in products: see `Gate.width`.
    definition : Definition or None
        Where the cell comes from, if `rnnx.cell` has made it. It is then pickled by reference.
    """

    name: str
    states: tuple[str, ...]
    stages: tuple[Stage, ...]
    cache: tuple[str, ...] = ()
    head: tuple[str, str] = ("Wy", "by")
    hoisted: Hoisted | None = None
    initial: tuple[tuple[str, Any], ...] = ()
    defaults: tuple[tuple[str, Any], ...] = ()
    widths: tuple[tuple[str, int], ...] = ()
    definition: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", _with_backward(self.states, self.stages))
        if not self.stages or self.stages[-1].out != self.states:
            raise ValueError(f"the last stage of cell {self.name!r} must return the cell's states {self.states}")
        unknown = set(self.cache) - set(self.saved)
        if unknown:
            raise ValueError(f"`cache` of cell {self.name!r} contains {sorted(unknown)}, which no stage saves")
        if not self.parameter_keys:
            raise ValueError(f"cell {self.name!r} must have at least one gate or vector; got neither")
        others = [name for name, _ in self.defaults if name not in self.inputs]
        if others:
            raise ValueError(f"`defaults` of cell {self.name!r} contains {others}, which are not among its inputs")
        keys = Counter((*self.parameter_keys, *self.optional_keys, *self.head, *self.inputs))
        arguments = {"x", "xt", *(f"{state}{end}" for state in self.states for end in ("0", "_prev"))}
        for key, count in keys.items():
            if count > 1:
                raise ValueError(f"cell {self.name!r} has duplicate key {key!r} of a parameter or an input")
            if key in arguments:
                raise ValueError(f"cell {self.name!r} has parameter key {key!r}, which is an argument name")
        self._check_widths()

    def _check_widths(self) -> None:
        for name, width in self.widths:
            if name not in (*self.states[1:], *self.vectors, *self.inputs, *self.parameter_keys):
                raise ValueError(f"`widths` of cell {self.name!r} has {name!r}, which cannot have a width of its own")
            integer("widths", width)
        self.size(self.states[0], 1)  # raises an error if a stage combines values of different widths
        wide = {name for name, _ in self.widths}.union(*(gate.keys for gate in self.gates if gate.width))
        if wide.issuperset(self.parameter_keys):
            raise ValueError(f"a gate or vector of cell {self.name!r} must have n_a units, as the first state has")

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Hash of all fields, cached. Not pickled, because string hashes differ between processes."""
        return hash((self.name, self.states, self.stages, self.cache, self.head))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_hash"}

    def __reduce_ex__(self, protocol: Any) -> Any:
        return super().__reduce_ex__(protocol) if self.definition is None else self.definition.reduced(self)

    def __repr__(self) -> str:
        return f"<Cell {self.name!r} with states {', '.join(self.states)}>"

    def __copy__(self) -> "Cell":
        return self

    def __deepcopy__(self, memo: Any) -> "Cell":
        return self

    def replace(self, **numbers: float) -> "Cell":
        """Return the cell with other values of its numbers, the keyword arguments of its function with a default.

        Raises
        ------
        ValueError, TypeError
            For a name that is not one of them, a value that is not a number, or a cell that `rnnx.cell` has not made.
        """
        if self.definition is None:
            raise TypeError(f"cell {self.name!r} has no numbers to replace: it was not created by `rnnx.cell`")
        cell: Cell = self.definition.replaced(numbers)
        return cell

    def explain(self) -> str:
        """Return the cell's forward and backward functions as text, with what is saved between them."""
        from rnnx.cells.explain import explain

        return explain(self)

    @cached_property
    def gates(self) -> tuple[Gate, ...]:
        """All gates, stage by stage."""
        return tuple(gate for stage in self.stages for gate in stage.gates)

    @cached_property
    def multiple(self) -> int:
        """What n_a must be a multiple of: 1, or the number of heads."""
        return lcm(*(stage.heads for stage in self.stages))

    @cached_property
    def parts(self) -> tuple[Stage, ...]:
        """The stages as engines run them, each with values of one width: see `rnnx.cells.widths`."""
        if not self.has_widths:
            return self.stages
        from rnnx.cells.wiring import wiring

        return tuple(wired.stage for wired in wiring(self))

    def size(self, name: str, n_a: int) -> int:
        """Return the number of units of a state, vector, input or saved value, if the first state has n_a."""
        return self._own_widths.get(name) or n_a

    @cached_property
    def has_widths(self) -> bool:
        """Whether some values have another number of units than n_a."""
        return bool(self.widths) or any(gate.width or gate.operand_width for gate in self.gates)

    @cached_property
    def _own_widths(self) -> Mapping[str, int]:
        if not self.has_widths:
            return {}
        from rnnx.cells.widths import widths_of

        return widths_of(self)

    @cached_property
    def saved(self) -> tuple[str, ...]:
        """Names of all values stored per step besides the states: per stage, those saved, then those passed on."""
        *first, last = self.stages
        return (*(name for stage in first for name in stage.saved + stage.out), *last.saved)

    @cached_property
    def parameter_keys(self) -> tuple[str, ...]:
        """Required keys without the output layer, in the order of the public gradients."""
        hoisted = self.hoisted or Hoisted((), (), tuple, tuple)
        vectors = [key for key in self.vectors if key not in hoisted.results]
        return (*(key for gate in self.gates for key in gate.keys), *dict.fromkeys((*vectors, *hoisted.sources)))

    @cached_property
    def vectors(self) -> tuple[str, ...]:
        """Keys of the vectors, stage by stage."""
        return tuple(key for stage in self.stages for key in stage.vectors)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs besides x, stage by stage."""
        return tuple(name for stage in self.stages for name in stage.inputs)

    @cached_property
    def optional_keys(self) -> tuple[str, ...]:
        """Keys of the optional recurrent biases."""
        return tuple(gate.recurrent_bias for gate in self.gates if gate.recurrent_bias)


def _with_backward(states: tuple[str, ...], stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Return the stages with the missing backward functions, derived from forward."""
    if all(stage.backward is not None for stage in stages):
        return stages
    from rnnx.cells.derive import complete  # the built-in cells do not need it

    n_reads = [len(states), *(len(stage.out) for stage in stages)]
    return tuple(
        complete(stage, n, f"saved{k}_") if stage.backward is None else stage
        for k, (stage, n) in enumerate(zip(stages, n_reads, strict=False))
    )
