"""Programs: the operations that compute some values of a graph of expressions from others."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, NamedTuple, cast

from rnnx.cells.expressions import OPERATORS, Expression
from rnnx.cells.graph import reachable

_LONGEST_PART = 50  # characters of an expression within another


class Instruction(NamedTuple):
    """One operation of a program."""

    operation: str
    arguments: tuple[int, ...]  # values by number: first the operands, then the constants, then the earlier results


class Style(NamedTuple):
    """How a program is written: as Python, unless other functions are given."""

    number: Callable[[float], str] = repr
    word: Callable[[str], str] = str  # the name of the function
    line: Callable[[str, str, str], str] = "{1} = {2}".format  # of an operation, a name, and the value


PYTHON = Style()


class Program:
    """A straight-line program: the operations that compute outputs from inputs.

    Programs are values: they are equal if they do the same operations in the same order, whatever graph they come
    from, and can be hashed and pickled.

    Parameters
    ----------
    inputs : sequence of Expression
        What the program is given, in this order: leaves or any other values of the graph.
    outputs : sequence of Expression
        What it computes. Every leaf that they depend on must be an input or be needed by inputs only.
    """

    def __init__(self, inputs: Sequence[Expression], outputs: Sequence[Expression]) -> None:
        numbers: dict[int, int] = {}
        for k, value in enumerate(inputs):
            if not value.is_constant:
                numbers.setdefault(value.number, k)
        known = [value for value in inputs if not value.is_constant]
        values = reachable(outputs, known)
        constants = [value for value in values if value.is_constant]
        order = list(_in_order(outputs, [*known, *constants], values))
        for value in (*constants, *order):
            if value.operation == "leaf":
                raise ValueError(f"the outputs of the program depend on {value.data!r}, which is not an input")
        numbers |= {value.number: len(inputs) + k for k, value in enumerate((*constants, *order))}
        self.n_operands = len(inputs)
        self.constants = tuple(cast(float, value.data) for value in constants)
        self.instructions = tuple(
            Instruction(value.operation, tuple(numbers[a.number] for a in value.arguments)) for value in order
        )
        self.outputs = tuple(numbers[value.number] for value in outputs)

    @property
    def _content(self) -> tuple[Any, ...]:
        return self.n_operands, self.constants, self.instructions, self.outputs

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self._content == other._content

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Hash of the content, cached. Not pickled, because string hashes differ between processes."""
        return hash(self._content)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_hash", "_function")}

    def __call__(self, ops: Any, *operands: Any) -> tuple[Any, ...]:
        """Return the outputs for operands of any kind.

        Operators are given constants as Python floats; words, and the caller as outputs, as ``ops.constant``.
        """
        if len(operands) != self.n_operands:
            raise TypeError(f"the program takes {self.n_operands} operands; got {len(operands)}")
        results: tuple[Any, ...] = self._function(ops, *operands)
        return results

    @cached_property
    def _function(self) -> Any:
        """The program as a Python function (ops, *operands); interpreting the instructions would take much longer."""
        scope: dict[str, Any] = {f"v{k}": value for k, value in enumerate(self.constants, self.n_operands)}
        exec("\n    ".join(self._lines()), scope)
        return scope["program"]

    def _lines(self) -> Iterator[str]:
        """Yield the lines of `_function`: value k is v<k>, and a constant in the form of the operands w<k>."""
        first = self.n_operands + len(self.constants)
        constants = dict(enumerate(self.constants, self.n_operands))
        made: set[int] = set()

        def whole(numbers: Sequence[int]) -> Iterator[str]:
            for k in numbers:
                if k in constants and k not in made:
                    made.add(k)
                    yield f"w{k} = " + (f"ops.constant(v{k}, v0)" if constants[k] else "ops.zeros_like(v0)")

        def listed(numbers: Sequence[int]) -> str:
            return ", ".join(f"w{k}" if k in constants else f"v{k}" for k in numbers)

        yield f"def program(ops{''.join(f', v{k}' for k in range(self.n_operands))}):"
        for number, (operation, arguments) in enumerate(self.instructions, first):
            if operation == "neg":
                yield f"v{number} = -v{arguments[0]}"
            elif operation in OPERATORS:
                yield f"v{number} = v{arguments[0]} {operation} v{arguments[1]}"
            else:
                yield from whole(arguments)
                yield f"v{number} = ops.{operation}({listed(arguments)})"
        yield from whole(self.outputs)
        yield f"return ({listed(self.outputs)}{',' * bool(self.outputs)})"

    def counts(self) -> Counter[str]:
        """Return how often the program does each operation."""
        return Counter(instruction.operation for instruction in self.instructions)

    def text(self, names: Sequence[str], results: Sequence[str] = (), style: Style = PYTHON) -> str:
        """Return the program as readable source, of Python or another language.

        Parameters
        ----------
        names : sequence of str
            Names of the operands.
        results : sequence of str
            Names of the outputs. Without them, the last line returns the outputs.
        style : Style
        """
        sizes = (len(names), len(results) or len(self.outputs))
        if sizes != (self.n_operands, len(self.outputs)):
            expected = f"{self.n_operands} names for the operands and {len(self.outputs)} or none for the results"
            raise ValueError(f"a program needs {expected}; got {len(names)} and {len(results)}")
        return _listing(self, names, results, style)


@dataclass(frozen=True)
class StageForward:
    """The forward function of a stage as a program: of its values, the first `n_out` are written, the others saved."""

    program: Program
    n_out: int

    def __call__(self, ops: Any, zx: Any, zh: Any, s: Any, given: Any = ()) -> tuple[Any, Any]:
        """Return (s_next, saved)."""
        values = self.program(ops, *zx, *zh, *s, *given)
        return values[: self.n_out], values[self.n_out :]


def _in_order(
    outputs: Sequence[Expression], known: Sequence[Expression], values: Sequence[Expression]
) -> Iterator[Expression]:
    """Yield values in an order in which few of them wait for their use: of an operation's arguments, first the one
    that needs most registers (Sethi and Ullman's rule, which is optimal for trees).
    """
    done = {value.number for value in known}
    need = dict.fromkeys(done, 0)
    for value in values:
        if value.number not in done:
            of_arguments = sorted((need[a.number] for a in value.arguments), reverse=True)
            need[value.number] = max((n + k for k, n in enumerate(of_arguments)), default=0) or 1
    todo = list(reversed(outputs))
    while todo:
        value = todo[-1]
        missing = [a for a in value.arguments if a.number not in done]
        if value.number in done:
            todo.pop()
        elif missing:
            todo.append(max(missing, key=lambda a: need[a.number]))
        else:
            done.add(value.number)
            yield todo.pop()


class _Term(NamedTuple):
    """An expression as text, with the precedence of its operator: from 1 for a sum to 4 for a name."""

    text: str
    precedence: int = 4

    def within(self, precedence: int) -> str:
        """Return the text, in parentheses unless its operator binds at least this strongly."""
        return self.text if self.precedence >= precedence else f"({self.text})"


def _term(operation: str, arguments: Sequence[_Term], style: Style) -> _Term:
    """Write an operation. Sums of sums keep their parentheses, because their rounding depends on them."""
    if operation == "neg":
        return _Term(f"-{arguments[0].within(3)}", 3)
    if operation in OPERATORS:
        (left, right), precedence = arguments, 1 if operation in "+-" else 2
        return _Term(f"{left.within(precedence)} {operation} {right.within(precedence + 1)}", precedence)
    return _Term(f"{style.word(operation)}({', '.join(a.text for a in arguments)})")


def _listing(program: Program, names: Sequence[str], results: Sequence[str], style: Style) -> str:
    """Write a program. A value that is used once is written where it is used, unless the line would be long."""
    uses = Counter(k for instruction in program.instructions for k in instruction.arguments) + Counter(program.outputs)
    own_names = dict(zip(reversed(program.outputs), reversed(results), strict=True)) if results else {}
    fresh = (name for k in count() if (name := f"t{k}") not in (*names, *results))
    terms = [_Term(name) for name in names] + [_Term(style.number(c), 3 if c < 0 else 4) for c in program.constants]
    lines = []
    for operation, arguments in program.instructions:
        number, term = len(terms), _term(operation, [terms[k] for k in arguments], style)
        if number in own_names or uses[number] > 1 or len(term.text) > _LONGEST_PART:
            name = own_names[number] if number in own_names else next(fresh)
            lines.append(style.line(operation, name, term.text))
            term = _Term(name)
        terms.append(term)
    outputs = [terms[k].text for k in program.outputs]
    if not results:
        return "\n".join([*lines, f"return {', '.join(outputs)}"])
    more = [style.line("", a, b) for a, b in zip(results, outputs, strict=True) if a != b]
    return "\n".join(lines + more)
