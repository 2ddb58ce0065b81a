"""`rnnx.cell`: a cell from a forward function that is written as the equations of a paper."""

import inspect
import math
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, overload

from rnnx._core.checks import integer
from rnnx._core.words import shown
from rnnx.cells.cell import STEP, Cell
from rnnx.cells.gate import Gate
from rnnx.cells.inference import named_widths, widths_in
from rnnx.cells.tracing import Signature, Trace, hoist, stages_of


@dataclass(frozen=True)
class Vector:
    """In the signature of a cell: a learnable number per unit, parameter shape (n_a, 1).

    Parameters
    ----------
    initial : float or (float, float)
        Initial value, or the bounds of a uniform distribution.

    See Also
    --------
    cell, Gate, Input

    Examples
    --------
    >>> import rnnx
    >>> from rnnx.cells import sigmoid, tanh
    >>> @rnnx.cell
    ... def leaky(x, a, *, c=rnnx.Gate, rate=rnnx.Vector((-2.0, 2.0))):
    ...     return a + sigmoid(rate) * (tanh(c(x, a)) - a)
    >>> parameters = rnnx.initialize_parameters(leaky, n_x=3, n_a=5, rng=0)
    >>> {name: value.shape for name, value in parameters.items()}
    {'Wc': (5, 8), 'bc': (5, 1), 'rate': (5, 1)}
    """

    initial: float | tuple[float, float] = 0.0


@dataclass(frozen=True)
class Input:
    """In the signature of a cell: an input besides x, one number per unit or the same for all units.

    Parameters
    ----------
    default : float or "step", optional
        What it is if it is not given: a number, or the number of the step, from 0.

    See Also
    --------
    cell, Gate, Vector, recurrent_forward

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> from rnnx.cells import tanh
    >>> @rnnx.cell
    ... def timed(x, a, *, c=rnnx.Gate, dt=rnnx.Input(1.0)):
    ...     return a + dt * (tanh(c(x, a)) - a)
    >>> parameters = rnnx.initialize_parameters(timed, n_x=3, n_a=5, rng=0, dtype="float64")
    >>> dt = np.full((2, 7), 0.1)  # one number for all units
    >>> (a,), _, _ = rnnx.recurrent_forward(timed, np.ones((3, 2, 7)), (), parameters, inputs={"dt": dt})
    >>> a.shape
    (5, 2, 7)
    """

    default: float | str | None = None

    def __post_init__(self) -> None:
        value = self.default
        is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if not (value is None or is_number or (isinstance(value, str) and value == STEP)):
            raise ValueError(f"`default` of an Input must be a finite number or {STEP!r}; got {shown(value)}")


@overload
def cell(function: Callable[..., Any], /) -> Cell: ...
@overload
def cell(*, name: str | None = None, initial: Mapping[str, Any] | None = None) -> Callable[..., Cell]: ...
def cell(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    initial: Mapping[str, Any] | None = None,
) -> Cell | Callable[..., Cell]:
    """Make a cell of a function that computes one time step.

    Parameters
    ----------
    function : callable
        Its positional parameters are the input x and the previous states, the hidden state first; it returns the new
        states. Its keyword-only parameters are declared by their defaults:

        * ``f=Gate``: a gate. ``f(x, a)`` is W_x x + W_h a + b, with parameters ``Wf`` (n_a, n_a + n_x), acting on
          [a; x], and ``bf`` (n_a, 1). ``f(x)`` is W_x x + b and ``f(a)`` is W_h a. Instead of the state ``a`` it may
          be any value. A gate that is only called with one of them has ``Wf`` (n_a, n_x) or (n_a, n_a), and ``bf``
          only with x.
        * ``f=Gate(heads=4)``: a gate whose units are divided into heads: a unit sees only the units of its own head
          in ``f(a)``, so that W_h is block-diagonal and ``Wf`` is (n_a, n_a / 4 + n_x). ``heads`` may also be the name
          of one of the cell's numbers.
        * ``f=Gate(width=512)``: a gate with 512 units instead of n_a, and ``Wf`` of so many rows; 0 means n_a. States,
          vectors and inputs that are combined with its values are as wide. Products alone lead from one width to
          another. ``width`` may also be the name of one of the cell's numbers.
        * ``f=Gate(biased=False)``: a gate without ``bf``.
        * ``p=Vector`` or ``p=Vector(initial)``: a learnable number per unit.
        * ``e=Input``: an input besides x, given to `recurrent_forward` as ``inputs={"e": ...}``. With
          ``Input(default)`` it may be missing.
        * a number: a constant, which `Cell.replace` changes.

        Values may be combined with ``+ - * /``, compared with ``> <`` for `where`, and passed to the functions in
        `rnnx.cells.words`. The function is called once, so Python's ``if`` cannot depend on a value.
    name : str, optional
        Name of the cell; default: that of the function.
    initial : dict of str to float or (float, float), optional
        Initial values of biases and vectors by key, as for `Vector`: ``{"bf": 1.0}``.

    Returns
    -------
    cell : Cell
        Its backward function is derived. It is pickled by reference, so its function must then be in a module.

    Raises
    ------
    TypeError, ValueError
        For a signature, a value or an operation that a cell cannot have.

    See Also
    --------
    Gate, Vector, Input, check_cell, recurrent_forward

    Examples
    --------
    >>> import rnnx
    >>> from rnnx.cells.words import sigmoid, tanh
    >>> @rnnx.cell
    ... def minimal(x, a, *, f=rnnx.Gate, c=rnnx.Gate):
    ...     f = sigmoid(f(x, a))
    ...     return f * tanh(c(x, f * a)) + (1 - f) * a
    >>> minimal.parameter_keys
    ('Wf', 'bf', 'Wc', 'bc')
    """
    if function is None:
        return lambda function: _define(Definition(function, name or function.__name__, tuple((initial or {}).items())))
    if not inspect.isfunction(function):
        raise TypeError(f"`rnnx.cell` takes a function; got {shown(function)}")
    return _define(Definition(function, name or function.__name__, ()))


@dataclass(frozen=True)
class Definition:
    """Where a cell comes from."""

    function: Callable[..., Any]
    name: str
    initial: tuple[tuple[str, Any], ...]
    numbers: Mapping[str, float] = field(default_factory=dict)  # those that differ from the function's defaults

    @property
    def all_numbers(self) -> dict[str, float]:
        """The cell's numbers by name."""
        return {**_signature(self.function).numbers, **self.numbers}

    def replaced(self, numbers: Mapping[str, float]) -> Cell:
        """Return the cell with other numbers."""
        own = _signature(self.function).numbers
        for name, value in numbers.items():
            if name not in own:
                raise ValueError(f"cell {self.name!r} has no number {shown(name)}; it has {list(own)}")
            if not isinstance(value, Real) or isinstance(value, bool):
                raise TypeError(f"`{name}` must be a number; got {shown(value)}")
        given = {name: float(value) for name, value in numbers.items()}
        return _define(Definition(self.function, self.name, self.initial, {**self.numbers, **given}))

    def reduced(self, cell: Cell) -> Any:
        """Return what pickle needs: the place of the function, under which the module holds the cell."""
        module, place = self.function.__module__, self.function.__qualname__
        found: Any = sys.modules.get(module)
        for part in place.split("."):
            found = getattr(found, part, None)
        if not isinstance(found, Cell) or found.definition is None or found.definition.function is not self.function:
            where = f"{module}.{place}"
            raise pickle.PicklingError(
                f"cell {self.name!r} cannot be pickled, because {where} does not lead to it: define it at the top "
                "level of a module, under the name of its function"
            )
        return _find, (module, place, tuple(self.numbers.items()))


def _find(module: str, place: str, numbers: tuple[tuple[str, float], ...]) -> Cell:
    """Return a cell by the place of its function."""
    __import__(module)
    found: Any = sys.modules[module]
    for part in place.split("."):
        found = getattr(found, part)
    cell: Cell = found
    return cell.replace(**dict(numbers)) if numbers else cell


def _define(definition: Definition) -> Cell:
    signature = _signature(definition.function)
    numbers = {**signature.numbers, **definition.numbers}
    gates = {name: _resolved(name, gate, numbers) for name, gate in signature.gates.items()}
    signature = signature._replace(numbers=numbers, gates=gates)
    trace = Trace(definition.function, signature)
    hoisted, vectors = hoist(trace)
    widths = widths_in(trace)
    kinds = {name: p.default for name, p in inspect.signature(definition.function).parameters.items()}
    initial = {name: v.initial for name, v in kinds.items() if isinstance(v, Vector) and v.initial != 0}
    made = Cell(
        definition.name,
        signature.states,
        stages_of(trace, vectors, widths.of),
        hoisted=hoisted,
        initial=tuple((initial | dict(definition.initial)).items()),
        defaults=tuple((name, value) for name in signature.inputs if (value := _default(kinds[name])) is not None),
        widths=named_widths(widths, trace, vectors),
        definition=definition,
    )
    unknown = [key for key, _ in made.initial if key not in made.parameter_keys]
    if unknown:
        raise ValueError(f"`initial` has {unknown}, which are not among the parameters {made.parameter_keys}")
    return made


def _default(declared: Any) -> float | str | None:
    """Return the default of an input that is declared as Input or Input(...)."""
    return declared.default if isinstance(declared, Input) else None


def _signature(function: Callable[..., Any]) -> Signature:
    """Read the names in the signature of a forward function."""
    positional: list[str] = []
    gates: dict[str, Gate] = {}
    kinds: dict[str, list[str]] = {"vectors": [], "inputs": []}
    numbers: dict[str, float] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        default = parameter.default
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and default is parameter.empty:
            positional.append(name)
        elif parameter.kind is parameter.KEYWORD_ONLY and (default is Gate or isinstance(default, Gate)):
            gates[name] = default if isinstance(default, Gate) else Gate()
            given = gates[name]
            if given != Gate(heads=given.heads, width=given.width, biased=given.biased):
                expected = "Gate, or Gate with `heads`, `width` or `biased`"
                raise TypeError(f"a cell's function declares a gate by {expected}; got `{parameter}`")
        elif parameter.kind is parameter.KEYWORD_ONLY and (default is Vector or isinstance(default, Vector)):
            kinds["vectors"].append(name)
        elif parameter.kind is parameter.KEYWORD_ONLY and (default is Input or isinstance(default, Input)):
            kinds["inputs"].append(name)
        elif parameter.kind is parameter.KEYWORD_ONLY and isinstance(default, Real) and not isinstance(default, bool):
            numbers[name] = float(default)
        else:
            expected = (
                "x and the states, then keyword-only parameters whose defaults are Gate, Vector, Input or numbers"
            )
            raise TypeError(f"the function of a cell must have {expected}; got `{parameter}`")
    if len(positional) < 2 or not gates:
        raise TypeError("the function of a cell must have parameters for x, for a state and for a gate")
    x, *states = positional
    vectors, inputs = map(tuple, kinds.values())
    return Signature(x, tuple(states), gates, vectors, inputs, numbers)


def _resolved(name: str, gate: Gate, numbers: Mapping[str, float]) -> Gate:
    """Return a gate with the numbers that it refers to by name."""

    def resolved(what: str, value: int | str, least: int) -> int:
        if not isinstance(value, str):
            return integer(what, value, least)
        if value not in numbers:
            expected = f"a number, or the name of one in the signature, {list(numbers)}"
            raise ValueError(f"`{what}` of gate `{name}` must be {expected}; got {shown(value)}")
        return integer(value, int(numbers[value]) if numbers[value].is_integer() else numbers[value], least)

    return replace(gate, heads=resolved("heads", gate.heads, 1), width=resolved("width", gate.width, 0))
