"""The functions of a model in C: its layers, its head, and what a program calls."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rnnx.cells.cell import STEP
from rnnx.export.code import Code
from rnnx.export.layers import Layer, layer_function, with_hoisted
from rnnx.export.text import comment, number
from rnnx.models.layers import Direction
from rnnx.models.sequence_model import SequenceModel


class State(NamedTuple):
    """A state of a layer."""

    name: str  # in the library
    member: str  # of the struct
    size: int


class Functions:
    """Writes the functions of a model, whose names begin with `name`."""

    def __init__(
        self, model: SequenceModel, parameters: dict[str, np.ndarray], name: str, *, indices: bool, int8: bool
    ):
        self.model, self.parameters, self.name, self.indices = model, parameters, name, indices
        self.code = Code(int8)
        self.cell = model.stack.regularization.evaluation
        self.inputs, self.bidirectional = self.cell.inputs, model.stack.bidirectional
        self.counts = any(value == STEP for _, value in self.cell.defaults)
        names = self.code.names
        ends = ("state", "init", "reset", "step", "run", "probabilities", "vocabulary")
        for own in ("head", "advance", "given", "rnnx_model", *(f"{name}_{end}" for end in ends)):
            names(own)
        members = names.within()
        self.states = [
            State(own, members(own), size) for one in model.stack.directions for own, size in one.state_sizes.items()
        ]
        self.classes = model.loss_function.kind == "classes"

    @property
    def state_type(self) -> str:
        """The type of the state."""
        return f"{self.name}_state"

    @property
    def optional(self) -> bool:
        """Whether the inputs besides x may be missing."""
        return len(self.cell.defaults) == len(self.inputs)

    @property
    def workspaces(self) -> tuple[int, int]:
        """How many numbers per step `run` needs besides the state: for the outputs of layers that others, or the head,
        read. Every other layer has the same memory.
        """
        layers = self.model.stack.layers if self.model.per_step else self.model.stack.layers[:-1]
        widths = [2 * layer[0].hidden_size for layer in layers] if self.bidirectional else []
        return max(widths[::2], default=0), max(widths[1::2], default=0)

    # --- prototypes ------------------------------------------------------------------------------------------------

    def step_arguments(self) -> str:
        """The arguments of the function of a step."""
        x = "int32_t x" if self.indices else "const float *x"
        return ", ".join([f"{self.state_type} *s", x, *["const float *extra"] * bool(self.inputs), "float *y"])

    def run_arguments(self) -> str:
        """The arguments of the function of a sequence."""
        x = "const int32_t *x" if self.indices else "const float *x"
        arguments = [
            f"{self.state_type} *s",
            x,
            "size_t steps",
            *["const float *extra"] * bool(self.inputs),
            "float *y",
        ]
        return ", ".join([*arguments, *["float *work"] * self.bidirectional])

    # --- definitions -----------------------------------------------------------------------------------------------

    def definitions(self) -> list[str]:
        """Return the definitions of all functions."""
        steps = [self._layer(one, k == 0) for k, layer in enumerate(self.model.stack.layers) for one in layer]
        found = [text for _, text in steps]
        found.append(self._head())
        if self.inputs and self.optional:
            found.append(self._defaults())
        found += [self._init(), self._reset()]
        by_layer = iter([name for name, _ in steps])
        names = [[next(by_layer) for _ in layer] for layer in self.model.stack.layers]
        found += [self._both_ways(names)] if self.bidirectional else [self._advance(names), self._step(), self._run()]
        return found + [self._probabilities()] * self.classes

    def _layer(self, one: Direction, first: bool) -> tuple[str, str]:
        own = {key: np.asarray(value, np.float32) for key, value in one.own(self.parameters).items()}
        members = [self._member(name) for name in one.state_names]
        indices = first and self.indices
        layer = Layer(
            self.cell, with_hoisted(self.cell, own), one.suffix, one.input_size, one.hidden_size, members, indices
        )
        return layer_function(self.code, layer, self.state_type)

    def _member(self, name: str) -> str:
        return next(state.member for state in self.states if state.name == name)

    def _hidden(self, one: Direction) -> str:
        return f"s->{self._member(one.state_names[0])}"

    def _head(self) -> str:
        """Return the function of the dense layer: of its input (both directions at a step), or of the last states."""
        W = self.parameters["Wy"].astype(np.float32)
        lines = self.code.start("by", self.parameters["by"], "y")
        if self.bidirectional and self.model.per_step:
            argument = "const float *a"
            lines += self.code.product("Wy", W, "a", "y", exact=True)
        else:
            argument = f"const {self.state_type} *s"
            for one in self.model.stack.layers[-1]:
                suffix = "_reverse" if one.reverse else ""
                lines += self.code.product(f"Wy{suffix}", W[:, one.rows], self._hidden(one), "y", exact=True)
        return _function(f"static void head({argument}, float *y)", lines, "The output layer.")

    def _defaults(self) -> str:
        defaults = dict(self.cell.defaults)
        lines = ["if (extra) return extra;"]
        for k, name in enumerate(self.inputs):
            value = "(float)step" if defaults[name] == STEP else number(float(defaults[name]))
            lines.append(f"own[{k}] = {value};")
        if not self.counts:
            lines.append("(void)step;")
        head = "static const float *given(const float *extra, float *own, size_t step)"
        return _function(head, [*lines, "return own;"], "The inputs besides x, or their defaults.")

    def _init(self) -> str:
        lines = [
            f"for (u = 0; u < {size}; ++u) s->{name}[u] = 0.0f;" for name, size in sorted(self.code.scratch.items())
        ]
        return _function(f"void {self.name}_init({self.state_type} *s)", ["int u;", *lines, f"{self.name}_reset(s);"])

    def _reset(self) -> str:
        lines = [f"for (u = 0; u < {state.size}; ++u) s->{state.member}[u] = 0.0f;" for state in self.states]
        lines += ["s->steps = 0;"] * self.has_counter
        return _function(f"void {self.name}_reset({self.state_type} *s)", ["int u;", *lines])

    @property
    def has_counter(self) -> bool:
        """Whether the state counts the steps."""
        return self.counts and not self.bidirectional

    def _advance(self, names: Sequence[Sequence[str]]) -> str:
        lines, x = [], "x"
        extra = ", extra" if self.inputs else ""
        if self.inputs and self.optional:
            lines += [f"float own[{len(self.inputs)}];"]
            lines += [f"extra = given(extra, own, {'s->steps' if self.counts else '0'});"]
        for (name,), (one,) in zip(names, self.model.stack.layers, strict=True):
            lines.append(f"{name}(s, {x}{extra});")
            x = self._hidden(one)
        lines += ["++s->steps;"] * self.has_counter
        kind = "int32_t x" if self.indices else "const float *x"
        more = ", const float *extra" if self.inputs else ""
        return _function(f"static void advance({self.state_type} *s, {kind}{more})", lines, "All layers.")

    def _checks(self, of_sequence: bool) -> list[str]:
        n, lines = self.model.stack.input_size, []
        if self.indices and of_sequence:
            lines += ["for (t = 0; t < steps; ++t)", f"  if (x[t] < 0 || x[t] >= {n}) return 1;"]
        elif self.indices:
            lines.append(f"if (x < 0 || x >= {n}) return 1;")
        if self.inputs and not self.optional:
            lines.append("if (!extra && steps) return 1;" if of_sequence else "if (!extra) return 1;")
        return lines

    def _step(self) -> str:
        lines = [*self._checks(False), f"advance(s, x{', extra' if self.inputs else ''});", "if (y) head(s, y);"]
        return _function(f"int {self.name}_step({self.step_arguments()})", [*lines, "return 0;"])

    def _input(self) -> str:
        """The inputs of step t."""
        n = self.model.stack.input_size
        return "x[t]" if self.indices else f"x + t * {n}"

    def _extra(self) -> str:
        """The inputs besides x of step t, as a further argument."""
        if not self.inputs:
            return ""
        of_step = f"extra + t * {len(self.inputs)}"
        return f", extra ? {of_step} : extra" if self.optional else f", {of_step}"

    def _run(self) -> str:
        lines = ["size_t t;", *self._checks(True), "for (t = 0; t < steps; ++t) {"]
        lines.append(f"  advance(s, {self._input()}{self._extra()});")
        lines += [f"  if (y) head(s, y + t * {self.model.head.n_out});"] * self.model.per_step
        lines += ["}", *["if (y) head(s, y);"] * (not self.model.per_step), "return 0;"]
        return _function(f"int {self.name}_run({self.run_arguments()})", lines)

    def _both_ways(self, names: Sequence[Sequence[str]]) -> str:
        """Return the function that runs a bidirectional model over a sequence, layer by layer."""
        model, layers = self.model, self.model.stack.layers
        first, second = self.workspaces
        lines = ["size_t t;", *["int u;"] * bool(first), *self._checks(True)]
        if self.inputs and self.optional:
            lines.insert(1, f"float own[{len(self.inputs)}];")
        lines += ["if (!work && steps) return 1;" if first else "(void)work;"]
        lines += [f"float *const next = work + steps * {first};"] * bool(second)
        x, n_x = "x", model.stack.input_size
        for k, (pair, layer) in enumerate(zip(names, layers, strict=True)):
            keeps = model.per_step or k < len(layers) - 1
            out = ("next" if k % 2 else "work") if keeps else ""
            for name, one in zip(pair, layer, strict=True):
                lines += self._pass(name, one, x, n_x, out, k == 0)
            x, n_x = out, 2 * layer[0].hidden_size
        if model.per_step:
            lines += ["for (t = 0; y && t < steps; ++t)", f"  head({x} + t * {n_x}, y + t * {model.head.n_out});"]
        else:
            lines.append("if (y) head(s, y);")
        return _function(f"int {self.name}_run({self.run_arguments()})", [*lines, "return 0;"])

    def _pass(self, name: str, one: Direction, x: str, n_x: int, out: str, first: bool) -> list[str]:
        """Return the loop of one direction, which writes its hidden states to its columns of `out`."""
        of_step = "x[t]" if first and self.indices else f"{x} + t * {n_x}"
        extra = ""
        if self.inputs:
            extra = f"extra + t * {len(self.inputs)}"
            extra = f", given(extra ? {extra} : extra, own, t)" if self.optional else f", {extra}"
        head = "for (t = steps; t-- > 0;) {" if one.reverse else "for (t = 0; t < steps; ++t) {"
        lines = [head, f"  {name}(s, {of_step}{extra});"]
        if out:
            n, width = one.hidden_size, 2 * one.hidden_size
            at = f" + {n} + u" if one.reverse else " + u"
            lines.append(f"  for (u = 0; u < {n}; ++u) {out}[t * {width}{at}] = {self._hidden(one)}[u];")
        return [*lines, "}"]

    def _probabilities(self) -> str:
        n = self.model.head.n_out
        self.code.words.add("exp")
        head = f"void {self.name}_probabilities(const float *y, float temperature, float *p)"
        lines = [
            "float most = y[0], sum = 0.0f;",
            "int u;",
            f"for (u = 1; u < {n}; ++u) most = y[u] > most ? y[u] : most;",
            f"for (u = 0; u < {n}; ++u) p[u] = op_exp((y[u] - most) / temperature);",
            f"for (u = 0; u < {n}; ++u) sum += p[u];",
            f"for (u = 0; u < {n}; ++u) p[u] /= sum;",
        ]
        return _function(head, lines)


def _function(head: str, lines: Sequence[str], about: str = "") -> str:
    body = [f"  {line}" for line in lines]
    return "\n".join([*[f"/* {comment(about)} */"] * bool(about), f"{head} {{", *body, "}"])
