"""The functions of a model in C: its layers, its heads, and what a program calls."""

import numpy as np

from rnnx.export.code import Code
from rnnx.export.heads import HeadCode
from rnnx.export.stack import StackCode
from rnnx.export.text import function
from rnnx.models.stack_model import StackModel


class Functions:
    """Writes the functions of a model, whose names begin with `name`."""

    def __init__(self, model: StackModel, parameters: dict[str, np.ndarray], name: str, *, indices: bool, int8: bool):
        self.model, self.parameters, self.name, self.indices = model, parameters, name, indices
        self.code = Code(int8)
        names = self.code.names
        for own in ("advance", "given", "rnnx_model", *(f"{name}_{end}" for end in _ENDS)):
            names(own)
        self.heads = [HeadCode(self.code, name, *pair) for pair in model.readouts.items()]
        self.per_step = any(head.per_step for head in self.heads)
        arguments = self.code, model.stack, parameters, names.within(), self.state_type
        self.stack = StackCode(*arguments, indices=indices, scaler=model.input_scaler)
        self.inputs, self.optional, self.states = self.stack.inputs, self.stack.optional, self.stack.states
        self.bidirectional = self.needs_work = model.stack.bidirectional

    @property
    def state_type(self) -> str:
        """The type of the state."""
        return f"{self.name}_state"

    @property
    def workspaces(self) -> tuple[int, int]:
        """How many numbers per step `run` needs besides the state: for the outputs of layers that others, or a head,
        read. Every other layer has the same memory.
        """
        layers = self.model.stack.layers if self.per_step else self.model.stack.layers[:-1]
        widths = [2 * layer[0].hidden_size for layer in layers] if self.bidirectional else []
        return max(widths[::2], default=0), max(widths[1::2], default=0)

    @property
    def work_size(self) -> int:
        """Numbers per step in the memory that `run` needs."""
        return sum(self.workspaces)

    @property
    def counters(self) -> dict[str, str]:
        """Integers in the state, and what they count."""
        return {"steps": "since the reset"} if self.stack.has_counter else {}

    # --- prototypes ------------------------------------------------------------------------------------------------

    def step_arguments(self) -> str:
        """The arguments of the function of a step."""
        x = "int32_t x" if self.indices else "const float *x"
        extra = ["const float *extra"] * bool(self.inputs)
        return ", ".join([f"{self.state_type} *s", x, *extra, *(f"float *{head.y}" for head in self.heads)])

    def run_arguments(self) -> str:
        """The arguments of the function of a sequence."""
        x = "const int32_t *x" if self.indices else "const float *x"
        arguments = [f"{self.state_type} *s", x, "size_t steps", *["const float *extra"] * bool(self.inputs)]
        arguments += [f"float *{head.y}" for head in self.heads]
        return ", ".join([*arguments, *["float *work"] * self.bidirectional])

    # --- definitions -----------------------------------------------------------------------------------------------

    def definitions(self) -> list[str]:
        """Return the definitions of all functions."""
        found = self.stack.definitions()
        found += [head.definition(self.stack, self.parameters, self.state_type) for head in self.heads]
        if self.inputs and self.optional:
            found.append(self.stack.defaults())
        reset = function(f"void {self.name}_reset({self.state_type} *s)", ["int u;", *self.stack.reset()])
        of_sequences = [self._both_ways()] if self.bidirectional else [self.stack.advance(), self._step(), self._run()]
        found += [init(self.code, self.name), reset, *of_sequences]
        return [*found, *(text for head in self.heads for text in head.definitions_of_predictions())]

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
        lines = [*self._checks(False), f"advance(s, x{', extra' if self.inputs else ''});"]
        lines += [f"if ({head.y}) {head.function}(s, {head.y});" for head in self.heads]
        return function(f"int {self.name}_step({self.step_arguments()})", [*lines, "return 0;"])

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
        for head in self.heads:
            lines += [f"  if ({head.y}) {head.function}(s, {head.y} + t * {head.n});"] * head.per_step
        lines += ["}", *(f"if ({one.y}) {one.function}(s, {one.y});" for one in self.heads if not one.per_step)]
        return function(f"int {self.name}_run({self.run_arguments()})", [*lines, "return 0;"])

    def _both_ways(self) -> str:
        """Return the function that runs a bidirectional model over a sequence, layer by layer."""
        stack, n_layers = self.model.stack, len(self.model.stack.layers)
        first, second = self.workspaces
        lines = ["size_t t;", *["int u;"] * (bool(first) or self.stack.scaler is not None), *self._checks(True)]
        if self.inputs and self.optional:
            lines.insert(1, f"float own[{len(self.inputs)}];")
        lines += ["if (!work && steps) return 1;" if first else "(void)work;"]
        lines += [f"float *const next = steps ? work + steps * {first} : work;"] * bool(second)
        places = ["next" if k % 2 else "work" for k in range(n_layers)]
        lines += self.stack.layer_by_layer(places if self.per_step else [*places[:-1], ""])
        for head in self.heads:
            if head.per_step:
                row = f"{places[-1]} + t * {stack.output_size}, {head.y} + t * {head.n}"
                lines += [f"for (t = 0; {head.y} && t < steps; ++t)", f"  {head.function}({row});"]
            else:
                lines.append(f"if ({head.y}) {head.function}(s, {head.y});")
        return function(f"int {self.name}_run({self.run_arguments()})", [*lines, "return 0;"])


_ENDS = "state", "init", "reset", "step", "run"


def init(code: Code, name: str) -> str:
    """Return the function that prepares a state; all others must have been written."""
    lines = [f"for (u = 0; u < {size}; ++u) s->{member}[u] = 0.0f;" for member, size in sorted(code.scratch.items())]
    return function(f"void {name}_init({name}_state *s)", ["int u;", *lines, f"{name}_reset(s);"])
