"""The layers of a stack in C: one step of all of them, or a whole sequence layer by layer."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rnnx.cells.cell import STEP
from rnnx.data import Scaler
from rnnx.export.code import Code
from rnnx.export.layers import Layer, layer_function, with_hoisted
from rnnx.export.text import function, indented, number
from rnnx.models.layers import Direction
from rnnx.models.recurrent import Recurrent


class State(NamedTuple):
    """A state of a layer."""

    name: str  # in the library
    member: str  # of the struct
    size: int


class StackCode:
    """Writes the functions of the layers of a stack.

    Parameters
    ----------
    code : Code
    stack : Recurrent
    parameters : dict of str to array
        Of the model.
    member : callable
        Returns the member of the struct for a name.
    state_type : str
        The struct.
    indices : bool
        Whether the inputs are indices.
    scaler : Scaler, optional
        Of the inputs.
    """

    def __init__(
        self,
        code: Code,
        stack: Recurrent,
        parameters: dict[str, np.ndarray],
        member: Callable[[str], str],
        state_type: str,
        *,
        indices: bool,
        scaler: Scaler | None = None,
    ) -> None:
        self.code, self.stack, self.indices, self.scaler = code, stack, indices, scaler
        self._parameters, self._state_type = parameters, state_type
        self.cell = stack.regularization.evaluation
        self.inputs = self.cell.inputs
        self.optional = len(self.cell.defaults) == len(self.inputs)  # the inputs besides x may be missing
        self.counts = any(value == STEP for _, value in self.cell.defaults)
        self.has_counter = self.counts and not stack.bidirectional  # the state counts the steps
        sizes = [pair for one in stack.directions for pair in one.state_sizes.items()]
        self.states = [State(name, member(name), size) for name, size in sizes]
        self._members = {state.name: state.member for state in self.states}
        if scaler is not None:
            numbers = {"input_mean": scaler.mean, "input_scale": scaler.scale}
            self._scaling = [code.constants(name, np.array(values)) for name, values in numbers.items()]
        self._names: list[list[str]] = []  # of the functions, by layer

    def definitions(self) -> list[str]:
        """Return the functions of a step of each layer."""
        found = []
        for k, layer in enumerate(self.stack.layers):
            steps = [self._layer(one, k == 0) for one in layer]
            self._names.append([name for name, _ in steps])
            found += [text for _, text in steps]
        return found

    def _layer(self, one: Direction, first: bool) -> tuple[str, str]:
        own = {key: np.asarray(value, np.float32) for key, value in one.own(self._parameters).items()}
        members = [self._members[name] for name in one.state_names]
        indices = first and self.indices
        layer = Layer(
            self.cell, with_hoisted(self.cell, own), one.suffix, one.input_size, one.hidden_size, members, indices
        )
        return layer_function(self.code, layer, self._state_type)

    def place(self, name: str) -> str:
        """Return where a state is."""
        return f"s->{self._members[name]}"

    def hidden(self, one: Direction) -> str:
        """Return where the hidden state of a layer is."""
        return self.place(one.state_names[0])

    def defaults(self) -> str:
        """Return the function of the inputs besides x that are missing."""
        defaults = dict(self.cell.defaults)
        lines = ["if (extra) return extra;"]
        for k, name in enumerate(self.inputs):
            value = "(float)step" if defaults[name] == STEP else number(float(defaults[name]))
            lines.append(f"own[{k}] = {value};")
        if not self.counts:
            lines.append("(void)step;")
        head = "static const float *given(const float *extra, float *own, size_t step)"
        return function(head, [*lines, "return own;"], "The inputs besides x, or their defaults.")

    def reset(self) -> list[str]:
        """Return the lines that set all states to zero."""
        lines = [f"for (u = 0; u < {state.size}; ++u) s->{state.member}[u] = 0.0f;" for state in self.states]
        return [*lines, *["s->steps = 0;"] * self.has_counter]

    def advance(self) -> str:
        """Return the function of a step of all layers."""
        lines, x = self._standardized("x")
        extra = ", extra" if self.inputs else ""
        if self.inputs and self.optional:
            lines += [f"float own[{len(self.inputs)}];"]
            lines += [f"extra = given(extra, own, {'s->steps' if self.counts else '0'});"]
        for (name,), (one,) in zip(self._names, self.stack.layers, strict=True):
            lines.append(f"{name}(s, {x}{extra});")
            x = self.hidden(one)
        lines += ["++s->steps;"] * self.has_counter
        lines = ["int u;", *lines] if self.scaler else lines
        kind = "int32_t x" if self.indices else "const float *x"
        more = ", const float *extra" if self.inputs else ""
        return function(f"static void advance({self._state_type} *s, {kind}{more})", lines, "All layers.")

    def layer_by_layer(self, places: Sequence[str]) -> list[str]:
        """Return lines that run a sequence of `steps` inputs at x through one layer after another.

        `places`: for each layer, where its outputs go, (steps, n), or "" if nothing reads them. The lines need
        variables t, u and, with inputs besides x that may be missing, own.
        """
        x, n_x, lines = "x", self.stack.input_size, list[str]()
        for k, (names, layer, out) in enumerate(zip(self._names, self.stack.layers, places, strict=True)):
            width = sum(one.hidden_size for one in layer)
            for name, one in zip(names, layer, strict=True):
                lines += self._pass(name, one, x, n_x, out, width, k == 0)
            x, n_x = out, width
        return lines

    def _pass(self, name: str, one: Direction, x: str, n_x: int, out: str, width: int, first: bool) -> list[str]:
        """Return the loop of one direction, which writes its hidden states to its columns of `out`."""
        of_step = "x[t]" if first and self.indices else f"{x} + t * {n_x}"
        standardizing, of_step = self._standardized(of_step) if first else ([], of_step)
        extra = ""
        if self.inputs:
            extra = f"extra + t * {len(self.inputs)}"
            extra = f", given(extra ? {extra} : extra, own, t)" if self.optional else f", {extra}"
        head = "for (t = steps; t-- > 0;) {" if one.reverse else "for (t = 0; t < steps; ++t) {"
        lines = [head, *indented(standardizing), f"  {name}(s, {of_step}{extra});"]
        if out:
            at = f" + {one.hidden_size} + u" if one.reverse else " + u"
            lines.append(f"  for (u = 0; u < {one.hidden_size}; ++u) {out}[t * {width}{at}] = {self.hidden(one)}[u];")
        return [*lines, "}"]

    def _standardized(self, x: str) -> tuple[list[str], str]:
        """Return lines that standardize the inputs at x, and where they are then."""
        if self.scaler is None:
            return [], x
        n, place = self.stack.input_size, self.code.memory("input", self.stack.input_size)
        (mean, lines), (scale, more) = map(self.code.pointer, self._scaling)
        return [*lines, *more, f"for (u = 0; u < {n}; ++u) {place}[u] = (({x})[u] - {mean}[u]) / {scale}[u];"], place
