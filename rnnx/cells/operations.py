"""What the functions of a stage do: which operations on which values, in which order."""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

from rnnx.cells.vocabulary import Ops
from rnnx.cells.wiring import StageWiring


class Operations(NamedTuple):
    """The operations that a stage's functions use, and all that they do as text; None if that was not understood."""

    operations: frozenset[str]
    text: str | None


class _Value:
    """The symbol of a value."""

    __array_ufunc__ = None  # makes NumPy functions raise

    def __init__(self, notes: "_Notes", number: int) -> None:
        self.notes, self.number = notes, number

    def __bool__(self) -> bool:
        self.notes.is_whole = False  # engines raise
        return True


def _operator(name: str) -> Callable[..., _Value]:
    return lambda self, *others: self.notes.note(name, self, *others)


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "neg", "abs"):
    setattr(_Value, f"__{_name}__", _operator(_name))


class _Notes:
    """Notes operations. Functions find the same vocabulary as in an engine, and may ask it for a word."""

    def __init__(self) -> None:
        self.ops = Ops(**{word: partial(self.note, word) for word in Ops._fields})
        self.operations: set[str] = set()
        self.lines: list[str] = []
        self.count, self.is_whole = 0, True

    def values(self, count: int) -> tuple[_Value, ...]:
        """Return new values."""
        self.count += count
        return tuple([_Value(self, k) for k in range(self.count - count, self.count)])

    def note(self, operation: str, *operands: Any, **named: Any) -> _Value:
        """Note an operation; return its result."""
        self.operations.add(operation)
        self.is_whole &= not named  # engines know the names of operands
        self.lines.append(f"{operation} {self.named(operands)}")
        return self.values(1)[0]

    def named(self, values: Any) -> str:
        """Return values, numbers, and what is made of them, as text."""
        if isinstance(values, _Value) and values.notes is self:
            return f"v{values.number}"
        if isinstance(values, int | float):
            return float(values).hex()
        if isinstance(values, Mapping):
            return "".join([f"{key}={self.named(value)}" for key, value in values.items()])
        if isinstance(values, tuple | list):
            return f"({','.join(map(self.named, values))})"
        self.is_whole = False
        return ""


def operations_of(stage: StageWiring) -> Operations:
    """Call the functions of a stage with symbols. They are called anew each time: what they read may have changed."""
    to = _Notes()
    n_given = len(stage.vectors + stage.inputs)
    forward = (stage.n_zx, stage.n_zh, len(stage.reads), n_given)
    backward = (len(stage.writes), len(stage.reads), len(stage.writes), len(stage.saves), n_given)
    for function, counts in ((stage.forward, forward), (stage.backward, backward)):
        to.lines.append(to.named(function(to.ops, *map(to.values, counts))))
    return Operations(frozenset(to.operations), "\n".join(to.lines) if to.is_whole else None)


@lru_cache(maxsize=256)
def uses_means(stage: StageWiring) -> bool:
    """Return whether a function of the stage contains a mean, so that a row is computed as a whole."""
    return "mean" in operations_of(stage).operations
