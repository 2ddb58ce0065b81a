"""The functions of a model in C: its layers, its head, and what a program calls."""

import numpy as np

from rnnx.export.code import Code
from rnnx.export.predictions import described, probabilities
from rnnx.export.stack import StackCode
from rnnx.export.text import function
from rnnx.models.sequence_model import SequenceModel


class Functions:
    """Writes the functions of a model, whose names begin with `name`."""

    def __init__(
        self, model: SequenceModel, parameters: dict[str, np.ndarray], name: str, *, indices: bool, int8: bool
    ):
        self.model, self.parameters, self.name, self.indices = model, parameters, name, indices
        self.code = Code(int8)
        names = self.code.names
        ends = ("state", "init", "reset", "step", "run", "probabilities", "predict", "vocabulary")
        for own in ("head", "advance", "given", "rnnx_model", *(f"{name}_{end}" for end in ends)):
            names(own)
        arguments = self.code, model.stack, parameters, names.within(), self.state_type
        self.stack = StackCode(*arguments, indices=indices, scaler=model.input_scaler)
        self.inputs, self.optional, self.states = self.stack.inputs, self.stack.optional, self.stack.states
        self.bidirectional = self.needs_work = model.stack.bidirectional
        self.classes = model.loss_function.kind == "classes"

    @property
    def state_type(self) -> str:
        """The type of the state."""
        return f"{self.name}_state"

    @property
    def workspaces(self) -> tuple[int, int]:
        """How many numbers per step `run` needs besides the state: for the outputs of layers that others, or the head,
        read. Every other layer has the same memory.
        """
        layers = self.model.stack.layers if self.model.per_step else self.model.stack.layers[:-1]
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
        found = [*self.stack.definitions(), self._head()]
        if self.inputs and self.optional:
            found.append(self.stack.defaults())
        reset = function(f"void {self.name}_reset({self.state_type} *s)", ["int u;", *self.stack.reset()])
        of_sequences = [self._both_ways()] if self.bidirectional else [self.stack.advance(), self._step(), self._run()]
        found += [init(self.code, self.name), reset, *of_sequences]
        if self.classes:
            found.append(probabilities(self.code, self.name, self.model.head.n_out))
        if self.model.objective.describes:
            found.append(described(self.code, self.name, self.model.objective))
        return found

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
                lines += self.code.product(f"Wy{suffix}", W[:, one.rows], self.stack.hidden(one), "y", exact=True)
        return function(f"static void head({argument}, float *y)", lines, "The output layer.")

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
        lines += [f"  if (y) head(s, y + t * {self.model.head.n_out});"] * self.model.per_step
        lines += ["}", *["if (y) head(s, y);"] * (not self.model.per_step), "return 0;"]
        return function(f"int {self.name}_run({self.run_arguments()})", lines)

    def _both_ways(self) -> str:
        """Return the function that runs a bidirectional model over a sequence, layer by layer."""
        model, n_layers = self.model, len(self.model.stack.layers)
        first, second = self.workspaces
        lines = ["size_t t;", *["int u;"] * (bool(first) or self.stack.scaler is not None), *self._checks(True)]
        if self.inputs and self.optional:
            lines.insert(1, f"float own[{len(self.inputs)}];")
        lines += ["if (!work && steps) return 1;" if first else "(void)work;"]
        lines += [f"float *const next = work + steps * {first};"] * bool(second)
        places = ["next" if k % 2 else "work" for k in range(n_layers)]
        lines += self.stack.layer_by_layer(places if model.per_step else [*places[:-1], ""])
        if model.per_step:
            n_x = model.stack.output_size
            row = f"{places[-1]} + t * {n_x}, y + t * {model.head.n_out}"
            lines += ["for (t = 0; y && t < steps; ++t)", f"  head({row});"]
        else:
            lines.append("if (y) head(s, y);")
        return function(f"int {self.name}_run({self.run_arguments()})", [*lines, "return 0;"])


def init(code: Code, name: str) -> str:
    """Return the function that prepares a state; all others must have been written."""
    lines = [f"for (u = 0; u < {size}; ++u) s->{member}[u] = 0.0f;" for member, size in sorted(code.scratch.items())]
    return function(f"void {name}_init({name}_state *s)", ["int u;", *lines, f"{name}_reset(s);"])
