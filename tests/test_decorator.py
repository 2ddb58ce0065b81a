"""`rnnx.cell`: tracing, stages, pickling, errors."""

import copy
import functools
import pickle
import subprocess
import sys

import numpy as np
import pytest
from problems import assert_close, central_differences, check_gradients, make_problem

import rnnx
from rnnx import Gate, Input, Vector, cell
from rnnx.cells import exp, relu, sigmoid, tanh, where


@cell
def gru(x, a, *, u=Gate, r=Gate, c=Gate):
    u, r = sigmoid(u(x, a)), sigmoid(r(x, a))
    return u * tanh(c(x, r * a)) + (a - u * a)


@cell
def lstm(x, a, c, *, f=Gate, i=Gate, c_=Gate, o=Gate):
    c = sigmoid(f(x, a)) * c + sigmoid(i(x, a)) * tanh(c_(x, a))
    return sigmoid(o(x, a)) * tanh(c), c


@cell(initial={"bg": 0.5})
def everything(x, a, c, *, p=Gate, q=Gate, g=Gate, u=Vector(2.0), v=Vector((0.5, 0.7)), e=Input, k=0.5):
    c = tanh(q(x)) * c + exp(u * v) * p(a)
    return k * tanh(g(x, c) * e) + v * a, c


@cell
def three_stages(x, a, *, d=Gate, u=Gate, c=Gate):
    a = sigmoid(d(x)) * a
    return a + tanh(u(x, a)) * c(x, u(x, a) * a)


@cell
def of_second_state(x, a, c, *, f=Gate, g=Gate):
    c = tanh(g(x, c))
    return c * sigmoid(f(x)), c


@cell
def untouched(x, a, b, *, g=Gate):
    return tanh(g(x, a)) + b, b


@cell
def late_condition(x, a, *, f=Gate, g=Gate, v=Vector, e=Input):
    """A second product selects by conditions on what the first one and a vector need."""
    z = sigmoid(f(x, a))
    return where(e > 0, where(z > 0.5, g(x, z * a), z), where(v < a, tanh(v), 2 * z))


CELLS = [gru, lstm, everything, three_stages, of_second_state, untouched, late_condition]


@functools.cache
def make_case(own, lengths):
    """A problem, its loss, and numeric gradients by name."""
    problem = make_problem(own, np.random.default_rng(20261120), lengths=lengths and list(lengths))
    return problem, *central_differences(problem)


@pytest.mark.parametrize("lengths", [None, (4, 0, 5)], ids=["full", "lengths"])
@pytest.mark.parametrize("own", CELLS, ids=lambda own: own.name)
def test_gradients(own, engine, lengths):
    check_gradients(*make_case(own, lengths), f"{own.name} {engine}")


@pytest.mark.parametrize("own", [gru, lstm], ids=lambda own: own.name)
def test_the_built_in_cell_of_the_same_equations(own, engine, rng):
    """The same parameters give the same states and gradients."""
    problem = make_problem(rnnx.CELLS[own.name], rng, lengths=[4, 0, 5])
    same = make_problem(own, rng, lengths=[4, 0, 5])
    same.x, same.s0, same.dstates, same.dfinal = problem.x, problem.s0, problem.dstates, problem.dfinal
    names = {key: key.replace("Wc", "Wc_").replace("bc", "bc_") if own is lstm else key for key in problem.parameters}
    same.parameters = {names[key]: a for key, a in problem.parameters.items()}
    expected, results = problem.gradients(), same.gradients()
    for key, a in expected.items():
        assert_close(results["d" + names.get(key[1:], key[1:])], a, 1e-12, key)


def test_what_is_traced():
    assert [len(own.stages) for own in CELLS] == [2, 1, 2, 3, 2, 1, 2]
    assert everything.parameter_keys == ("Wp", "Wq", "bq", "Wg", "bg", "v", "u")
    assert everything.hoisted.sources == ("u", "v")
    assert [gate.sides for stage in everything.stages for gate in stage.gates] == ["h", "x", "xh"]
    parameters = rnnx.initialize_parameters(everything, 3, 50, seed=0)
    assert (parameters["u"] == 2).all()
    assert (parameters["bg"] == 0.5).all()
    assert 0.5 <= parameters["v"].min() < parameters["v"].max() <= 0.7


def test_numbers_are_replaced(rng):
    changed = everything.replace(k=2.0)
    assert changed != everything
    assert changed.replace(k=0.5) == everything
    problem = make_problem(everything, rng)
    before = problem.forward()[0][0]
    problem.cell = changed
    after = problem.forward()[0][0]
    assert np.abs(after - before).max() > 0.1
    for wrong, error in (
        ({"z": 1}, "has no number 'z'"),
        ({"k": "1"}, "must be a number"),
        ({"k": True}, "a number"),
    ):
        with pytest.raises((TypeError, ValueError), match=error):
            everything.replace(**wrong)
    with pytest.raises(TypeError, match="has no numbers to replace"):
        rnnx.CELLS["lstm"].replace(k=1)


@pytest.mark.parametrize(
    "own", [gru, everything.replace(k=3.0), rnnx.CELLS["slstm"], rnnx.CELLS["lstm"]], ids=lambda own: own.name
)
def test_cells_are_copied_and_pickled(own):
    assert copy.copy(own) is own
    assert copy.deepcopy(own) is own
    restored = pickle.loads(pickle.dumps(own))
    assert restored == own
    assert hash(restored) == hash(own)


def test_a_cell_of_a_module_is_pickled_by_reference():
    code = (
        "import pickle, sys; from rnnx.cells.zoo.leaky_esn import leaky_esn as c; "
        "sys.stdout.buffer.write(pickle.dumps((c, c.replace(leak=0.5))))"
    )
    data = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    own, changed = pickle.loads(data)
    assert own is rnnx.CELLS["leaky_esn"]
    assert changed == own.replace(leak=0.5)
    assert len(data) < 1000


def test_a_local_cell_cannot_be_pickled():
    @cell
    def local(x, a, *, g=Gate):
        return tanh(g(x, a))

    for own in (local, cell(lambda x, a, *, g=Gate: tanh(g(x, a))), local.replace()):
        with pytest.raises(pickle.PicklingError, match="define it at the top level of a module"):
            pickle.dumps(own)
        assert copy.deepcopy(own) is own


def wrong_result(x, a, c, *, g=Gate):
    return tanh(g(x, a))


def unused_gate(x, a, *, g=Gate, h=Gate):
    return tanh(g(x, a))


def unused_vector(x, a, *, g=Gate, v=Vector):
    return tanh(g(x, a)) + 0 * a


def x_outside(x, a, *, g=Gate):
    return tanh(g(x, a)) + x


def two_operands(x, a, *, g=Gate):
    return g(a) + g(tanh(a)) + g(x)


def too_late(x, a, *, g=Gate, h=Gate):
    return h(sigmoid(h(x)) * a) + g(x, a)


def branches(x, a, *, g=Gate):
    return a if a > 0 else g(x, a)


def numpy_function(x, a, *, g=Gate):
    return np.tanh(g(x, a))


def of_a_number(x, a, *, g=Gate):
    return g(x, 1.0)


def called_without(x, a, *, g=Gate):
    return g()


def collides(x, a, *, y=Gate):
    return tanh(y(x, a))


def twice(x, a, *, g=Gate, bg=Vector):
    return tanh(g(x, a) + bg)


def no_gate(x, a, *, v=Vector):
    return v * a


def no_state(x, *, g=Gate):
    return g(x)


def positional(x, a, g=Gate):
    return g(x, a)


def unknown_kind(x, a, *, g=Gate, v="vector"):
    return g(x, a)


def condition(x, a, *, g=Gate):
    return where(g(x, a), a, 0.0)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (wrong_result, r"must return its states \('a', 'c'\); got 1 values"),
        (unused_gate, "`h` does not affect the states"),
        (unused_vector, "`v` does not affect the states"),
        (x_outside, "`x` can only be passed to gates"),
        (two_operands, "gate `g` is applied to two different values"),
        (too_late, "the input side of gate `h` is needed before its recurrent side; use two gates"),
        (branches, "cannot branch on a value"),
        (numpy_function, "does not support ufuncs"),
        (of_a_number, "gate `g` must be called with x, a state or another value; got 1.0"),
        (called_without, "got nothing"),
        (collides, "duplicate key 'Wy'"),
        (twice, "duplicate key 'bg'"),
        (no_gate, "for x, for a state and for a gate"),
        (no_state, "for x, for a state and for a gate"),
        (positional, "got `g="),
        (unknown_kind, "got `v='vector'`"),
        (condition, "the result of ops.greater can only"),
        (print, "takes a function"),
    ],
)
def test_errors(function, message):
    with pytest.raises((TypeError, ValueError), match=message):
        cell(function)


def test_wrong_initial_values():
    with pytest.raises(ValueError, match=r"`initial` has \['bz'\]"):
        cell(initial={"bz": 1.0})(gru.definition.function)


def test_functions_of_arrays_take_values_of_a_cell(rng):
    @cell
    def own(x, a, *, g=Gate):
        return rnnx.tanh(rnnx.sigmoid(g(x, a)) + rnnx.relu(a))

    @cell
    def same(x, a, *, g=Gate):
        return tanh(sigmoid(g(x, a)) + relu(a))

    assert own.stages[0].forward == same.stages[0].forward
    with pytest.raises(TypeError, match="takes values of a cell that is being traced; got ndarray"):
        tanh(np.ones(3))


def test_explanation():
    text = everything.explain()
    assert "Once per sequence:\n    hoisted0 = exp(u * v)" in text
    assert "Stage 1 of 2: Products:" in text
    assert "p_h = Wp @ a_prev" in text
    assert all(own.explain() for own in (*CELLS, *rnnx.CELLS.values()))


def test_inputs_are_checked(rng):
    problem = make_problem(everything, rng)
    arguments = (everything, problem.x, problem.s0, problem.parameters)
    e = problem.extra["e"]
    for inputs, message in (
        (None, r"`inputs` must have the keys \['e'\]"),
        ({"f": e}, r"got \['f'\]"),
        ([e], "must be a dict"),
        ({"e": e[:, :, 1:]}, r"`e` must have shape \(n_a, m, T_x\)"),
        ({"e": e.tolist()}, "`e` must be an array"),
        ({"e": e + 1j}, "`e` must have dtype"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            rnnx.recurrent_forward(*arguments, inputs=inputs)
    with pytest.raises(ValueError, match="`inputs` must be empty for cell 'gru'"):
        rnnx.recurrent_forward(gru, problem.x, (), rnnx.initialize_parameters(gru, 3, 4), inputs={"e": e})


def test_check_cell_finds_a_wrong_gradient():
    stage = rnnx.CELLS["rnn"].stages[0]

    def backward(ops, ds, s_prev, s_next, saved):
        dzx, dzh, _ = stage.backward(ops, ds, s_prev, s_next, saved)
        return dzx, dzh, ds

    wrong = rnnx.Cell("wrong", ("a",), (rnnx.Stage(stage.gates, ("a",), (), stage.forward, backward),))
    with pytest.raises(ValueError, match=r"the gradient of `.*` of cell 'wrong' on engine 'reference' differs"):
        rnnx.check_cell(wrong, engine_names=["reference"])
    assert rnnx.check_cell("rnn", engine_names=["reference"])["reference"] < 1e-7
