"""Random cells as a whole, each with its step on torch: made by `rnnx.cell`, or records of random stages."""

import inspect
import operator
import re
from types import SimpleNamespace

from hypothesis import assume
from hypothesis import strategies as st
from random_cells import FORMS, RandomStage, torch_words

import rnnx
from rnnx.cells import Cell, Gate, Input, Stage, Vector, words

# The vocabulary as functions of a cell that is being traced, by the names of `Ops`.
TRACED = SimpleNamespace(
    **{name: getattr(words, name) for name in rnnx.cells.expressions.WORDS if hasattr(words, name)},
    **{name: lambda x, name=name: words.apply(name, x) for name in ("heaviside", "erf")},
    abs=abs,
    greater=operator.gt,
)
PRODUCTS = ("g(x)", "g(h)", "g(x, h)")
USEFUL = sorted({*FORMS} - {"zeros_like", "constant"})  # these two are not for people
LARGEST, NEAREST = 30, 1e-3  # values are smaller, and further from a jump or a kink


class Watch:
    """Torch's vocabulary, which rejects an example that comes too close to a jump or a kink."""

    def __init__(self, torch):
        self._ops, self._torch = torch_words(torch), torch

    def __getattr__(self, word):
        function = getattr(self._ops, word)
        if word in ("relu", "heaviside", "abs", "sign"):
            return lambda x: (self.check(x), function(x))[1]
        if word == "floor":
            return lambda x: (self.check(x - x.round()), function(x))[1]
        if word in ("greater", "maximum", "minimum"):
            return lambda a, b: (self.check(a - b), function(a, b))[1]
        return function

    def check(self, distance):
        assume(not distance.numel() or float(distance.detach().abs().min()) > NEAREST)

    def check_sizes(self, values):
        assume(all(not v.numel() or float(v.detach().abs().max()) < LARGEST for v in values))


class Equations(SimpleNamespace):
    """A forward function for `rnnx.cell`: steps as those of `RandomStage`, or products of the gates.

    Gate, state, vector or input k has the width k of `widths`, which repeat; the first state has n_a units. Elementwise
    steps take values of one width only.
    """

    n_states: int
    n_gates: int
    n_biased: int
    n_vectors: int
    n_inputs: int
    widths: list
    steps: list
    outputs: list

    def cell(self):
        """Return the cell, without what does not affect its states."""
        named = {f"g{k}": Gate(width=self.width(k), biased=k < self.n_biased) for k in range(self.n_gates)}
        named |= {f"v{k}": Vector((-1.0, 1.0)) for k in range(self.n_vectors)}
        named |= {f"e{k}": Input for k in range(self.n_inputs)}
        while any(isinstance(declared, Gate) for declared in named.values()):
            try:
                cell = rnnx.cell(self._function(named))
            except ValueError as error:
                text = str(error)
                refused = "needed before its recurrent side", "can only be passed to gates", "must have n_a units"
                assume(not any(part in text for part in refused))
                del named[re.fullmatch("`(.*)` does not affect the states that the cell returns", text)[1]]
            else:
                # A vector that is only multiplied by matrices has n_a units; `step` also does what affects no state.
                found = {**dict.fromkeys(named, 0), **dict(cell.widths)}
                assume(all(found[name] == self.width(int(name[1:])) for name in named if name[0] != "g"))
                return cell
        assume(False)

    def _function(self, named):
        def equations(x, *states, **given):
            values = self.values(TRACED, x, states, given)
            return values[0] if self.n_states == 1 else tuple(values)

        kinds = inspect.Parameter
        positional = [kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in ("x", *self.states)]
        keyword = [kinds(name, kinds.KEYWORD_ONLY, default=default) for name, default in named.items()]
        equations.__signature__ = inspect.Signature([*positional, *keyword])
        return equations

    @property
    def states(self):
        return [f"s{k}" for k in range(self.n_states)]

    def width(self, k):
        return self.widths[k % len(self.widths)]

    def values(self, ops, x, states, given, check=None):
        """Return the new states."""
        names = [name for kind in "ev" for name in sorted(given) if name[0] == kind]
        values, widths = [*states], [0, *(self.width(k) for k in range(1, self.n_states))]
        values += [given[name] for name in names]
        widths += [self.width(int(name[1:])) for name in names]
        operands, leaves = {}, len(values)

        def chosen(k, width, count):
            """Return value k, in a circle, of those of a width among the first ones."""
            those = [v for v, own in zip(values[:count], widths[:count], strict=True) if own == width]
            return those[k % len(those)] if those else None

        for form, t, u, leaf in self.steps:
            first, width = values[-t % len(values)], widths[-t % len(values)]
            gate = f"g{leaf % self.n_gates}"
            if form not in PRODUCTS:
                second = chosen(-u, width, len(values))
                other = chosen(leaf, width, leaves)
                value = FORMS[form](ops, first, second, second if other is None else other)
            elif gate in given:
                h = operands.setdefault(gate, first)
                value = given[gate](*{"g(x)": (x,), "g(h)": (h,), "g(x, h)": (x, h)}[form])
                width = self.width(leaf % self.n_gates)
            else:
                value = first  # it does not affect the states
            values.append(value)
            widths.append(width)
        if check:
            check(values)
        outputs = (self.outputs * self.n_states)[: self.n_states]
        return [chosen(-k, width, len(values)) for k, width in zip(outputs, widths, strict=False)]

    def step(self, cell, ops):
        """Return the step for `oracle.torch_results`."""

        def step(p, s, x, extra):
            rows, x = tuple(state.T for state in s), x.T
            given = {gate.weights[0][1:]: _product(p, gate, x) for gate in cell.gates}
            given |= {name: p[name].T.expand(len(x), -1) for name in sorted(cell.parameter_keys) if name[0] == "v"}
            given |= {name: extra[name].T for name in sorted(cell.inputs)}
            return tuple(state.T for state in self.values(ops, x, rows, given, ops.check_sizes))

        return step


def _weights(p, gate, n_x):
    """Return W_x, W_h of a gate, transposed; those that it lacks are None."""
    if gate.is_joint:
        n = p[gate.weights[0]].shape[1] - n_x
        return p[gate.weights[0]][:, n:].T, p[gate.weights[0]][:, :n].T
    by_side = {side: p[key].T for side, key in zip(gate.sides, gate.weights, strict=True)}
    return by_side.get("x"), by_side.get("h")


def _product(p, gate, x):
    """Return a function from operands to the sum of their products; those without weights do not affect the states."""
    w_x, w_h = _weights(p, gate, x.shape[1])

    def product(*operands):
        total = x.new_zeros(x.shape[0], (w_h if w_x is None else w_x).shape[1])
        for a in operands:
            if a is x and w_x is not None:
                total = total + a @ w_x + (p[gate.bias].T if gate.bias else 0)
            elif a is not x and w_h is not None:
                total = total + a @ w_h
        return total

    return product


class Record(SimpleNamespace):
    """A cell as a record. `stages` are its stages but for what they read; `flags` choose the layout of gates."""

    n_states: int
    stages: list
    flags: list

    def cell(self):
        """Return the cell."""
        assume(any(s.n_h_only + s.n_both + s.n_x_only for s in self.stages))
        stages, n_reads, flags = [], self.n_states, list(self.flags)
        for k, stage in enumerate(self.stages):
            last = k == len(self.stages) - 1
            stage.n_reads = n_reads
            stage.outputs = (stage.outputs * self.n_states)[: self.n_states] if last else stage.outputs
            n_reads = len(stage.outputs)
            out = tuple(f"s{j}" if last else f"out{k}_{j}" for j in range(n_reads))
            gates = [Gate((f"W{k}h{j}",), "", sides="h") for j in range(stage.n_h_only)]
            for j in range(stage.n_both):
                weights = (f"W{k}{j}",) if flags.pop() else (f"W{k}x{j}", f"W{k}h{j}both")
                bias, recurrent_bias = f"b{k}{j}" if flags.pop() else "", f"bh{k}{j}" if flags.pop() else None
                gates.append(Gate(weights, bias, recurrent_bias=recurrent_bias))
            for j in range(stage.n_x_only):
                gates.append(Gate((f"W{k}x{j}only",), f"b{k}{j}only" if flags.pop() else "", sides="x"))
            names = [f"e{k}{j}" if flags.pop() else f"v{k}{j}" for j in range(stage.n_given)]
            vectors, inputs = ([name for name in names if name[0] == kind] for kind in "ve")
            stages.append(Stage(tuple(gates), out, (), stage, vectors=tuple(vectors), inputs=tuple(inputs)))
        return Cell("record", stages[-1].out, tuple(stages))

    def step(self, cell, ops):
        """Return the step for `oracle.torch_results`."""

        def step(p, s, x, extra):
            s, x = tuple(state.T for state in s), x.T
            for own, stage in zip(self.stages, cell.stages, strict=True):
                zx = [_product(p, gate, x)(x) for gate in stage.of_inputs]
                zh = [_product(p, gate, x)(s[0]) for gate in stage.recurrent]
                pairs = zip(zh, stage.recurrent, strict=True)
                zh = [z + p[g.recurrent_bias].T if g.recurrent_bias else z for z, g in pairs]
                given = [p[key].T.expand(s[0].shape) for key in stage.vectors] + [extra[key].T for key in stage.inputs]
                values = own.values(ops, zx, zh, s, given)
                ops.check_sizes(values)
                s = tuple(values[-k % len(values)] for k in own.outputs)
            return tuple(state.T for state in s)

        return step


def steps_of(forms, most):
    numbers = [st.integers(1, 8)] * 2
    return st.lists(st.tuples(st.sampled_from(forms), *numbers, st.integers(0, 7)), min_size=1, max_size=most)


def _equations(**counts):
    early, products, later = counts.pop("early"), counts.pop("products"), counts.pop("later")
    return Equations(steps=[*early, *products, *later], **counts)


_outputs = st.lists(st.integers(1, 5), min_size=1, max_size=3)


def equations_of(widths):
    return st.builds(
        _equations,
        n_states=st.integers(1, 3),
        n_gates=st.integers(1, 4),
        n_biased=st.integers(0, 4),
        n_vectors=st.integers(0, 3),
        n_inputs=st.integers(0, 2),
        widths=widths,
        early=steps_of(USEFUL, 3) | st.just([]),  # often of vectors alone
        products=steps_of(PRODUCTS, 3),
        later=steps_of([*USEFUL, *PRODUCTS * 4], 16),
        outputs=_outputs,
    )


random_equations = equations_of(st.just([0]))
random_widths = equations_of(st.lists(st.sampled_from([3, 0, 20]), min_size=2, max_size=5))
random_records = st.builds(
    Record,
    n_states=st.integers(1, 3),
    stages=st.lists(
        st.builds(
            RandomStage,
            n_h_only=st.integers(0, 1),
            n_both=st.integers(0, 2),
            n_x_only=st.integers(0, 1),
            n_given=st.integers(0, 2),
            sums_only=st.booleans(),
            steps=steps_of(sorted(FORMS), 8),
            outputs=_outputs,
        ),
        min_size=1,
        max_size=3,
    ),
    flags=st.lists(st.booleans(), min_size=30, max_size=30),
)
random_cells = st.one_of(random_equations, random_widths, random_records)
