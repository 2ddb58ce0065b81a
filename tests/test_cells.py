"""The rules of the cell protocol, the wiring of cells, and user-defined cells on every engine."""

import ast
import functools
import inspect
import textwrap

import numpy as np
import pytest
from array_api_compat import array_namespace
from cells_by_hand import MGU, ONE_SIDED, TWO_STAGES
from problems import central_differences, check_gradients, make_problem
from words import ALL_WORDS, EVERY_WORD

import rnnx
from rnnx.cells import BUILT_IN, Cell, Gate, Stage
from rnnx.cells.parameters import StageGradients, name_gradients, stack_weights
from rnnx.cells.vocabulary import Ops, array_ops
from rnnx.cells.wiring import Slot, wiring

ALLOWED = (
    ast.FunctionDef, ast.arguments, ast.arg, ast.Assign, ast.Return, ast.Tuple, ast.Name, ast.Load, ast.Store,
    ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.UnaryOp, ast.USub, ast.Constant, ast.Call, ast.Attribute,
)  # fmt: skip


def broken_rules(function) -> list[str]:
    """List what a cell function uses besides ``+ - * /``, numbers, ``abs``, ``ops.<name>(...)`` and tuples."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    problems = []
    for node in ast.walk(tree):
        if not isinstance(node, ALLOWED):
            problems.append(f"{type(node).__name__} in line {getattr(node, 'lineno', '?')}")
        if isinstance(node, ast.Call):
            called = node.func
            is_op = (
                isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id == "ops"
            )
            if isinstance(called, ast.Name) and called.id == "abs":
                continue
            if not is_op or called.attr not in Ops._fields or node.keywords:
                problems.append(f"call of {ast.unparse(called)}")
    return problems


ALL_FUNCTIONS = [f for cell in BUILT_IN.values() for stage in cell.stages for f in (stage.forward, stage.backward)]


@pytest.mark.parametrize("function", ALL_FUNCTIONS, ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_cell_functions_follow_the_rules(function):
    assert broken_rules(function) == []


def power(ops, zx, zh, s):
    (z,) = zx
    return (z**2,), ()


def indexing(ops, zx, zh, s):
    return (zx[0],), ()


def branch(ops, zx, zh, s):
    (z,), (z_h,) = zx, zh
    return (z if z > z else z_h,), ()


def other_call(ops, zx, zh, s):
    (z,) = zx
    return (max(z, z),), ()


@pytest.mark.parametrize("function", [power, indexing, branch, other_call])
def test_broken_rules_are_found(function):
    assert broken_rules(function)


# --- cells that no table lists ---------------------------------------------------------------------------------


@functools.cache
def make_case(cell, lengths=None):
    """A problem, its loss, and numeric gradients by name."""
    rng = np.random.default_rng(1)
    problem = make_problem(cell, rng, n_y=2, lengths=lengths and list(lengths))
    problem.parameters |= {key: rng.standard_normal((4, 1)) for key in cell.optional_keys}
    return problem, *central_differences(problem, most=30)


@pytest.mark.parametrize("cell", [MGU, TWO_STAGES, *ONE_SIDED], ids=lambda cell: cell.name)
def test_own_cells_follow_the_rules(cell):
    for stage in cell.stages:
        assert broken_rules(stage.forward) == broken_rules(stage.backward) == []


@pytest.mark.parametrize("lengths", [None, (4, 0, 5)])
@pytest.mark.parametrize("cell", [MGU, TWO_STAGES, *ONE_SIDED], ids=lambda cell: cell.name)
def test_own_cell_runs_on_every_engine(cell, engine, lengths):
    problem, *expected = make_case(cell, lengths)
    check_gradients(problem, *expected, f"{cell.name} {engine}")
    _, y, caches = problem.forward()
    assert y.shape == (2, 3, 5)
    assert caches.engine == engine


# --- every word of the vocabulary ------------------------------------------------------------------------------


def words_forward(ops, zx, zh, s):
    (z_x,), (z_h,), (a,) = zx, zh, s
    z = z_x + z_h
    e = ops.exp(z - z - ops.relu(z))
    return (ops.relu(z) * e + ops.tanh(a),), (z, e)


def words_backward(ops, ds, s_prev, s_next, saved):
    (da,), (a,), (z, e) = ds, s_prev, saved
    r, step, t = ops.relu(z), ops.heaviside(z), ops.tanh(a)
    dz = (da * e * (step - r * step),)
    return dz, dz, (da - da * t * t + ops.zeros_like(da),)


WORDS = Cell(
    "words", ("a",), (Stage((Gate(("Wx", "Wh"), "b"),), ("a",), ("z", "e"), words_forward, words_backward),), ("z", "e")
)


def test_every_word_of_the_vocabulary(engine):
    check_gradients(*make_case(WORDS), engine)


def assert_equals_numpy(actual, u, v):
    dtype = u.dtype
    for name, (_, function) in EVERY_WORD.items():
        with np.errstate(all="ignore"):  # in float64, rounded once
            expected = function(u.astype(np.float64), v.astype(np.float64)).astype(dtype)
        np.testing.assert_allclose(actual[name], expected, 8 * np.finfo(dtype).eps, np.finfo(dtype).tiny, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_word_of_the_vocabulary_equals_numpy(engine, dtype, rng):
    assert set(Ops._fields) - {"mean"} <= set(EVERY_WORD)  # for means see test_means.py
    special = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e30, -1e30]
    u = np.repeat([*special, *rng.normal(scale=1.5, size=30)], 7).astype(dtype)[None]
    v = np.tile([*special[:6], 2.0, *rng.standard_normal(32)], 7).astype(dtype)[None]
    zero, W = np.zeros_like(u), np.ones((1, 1), dtype)
    problem = (zero[:, :, None], (zero, u, v, *[zero] * len(EVERY_WORD)), {"Wx": W, "Wh": W, "b": W[:, 0:1] * 0})
    with np.errstate(all="ignore"):
        states, _, caches = rnnx.recurrent_forward(ALL_WORDS, *problem)
        actual = {name: state[:, :, 0] for name, state in zip(ALL_WORDS.states, states, strict=True)}
        gradients = rnnx.recurrent_backward(ALL_WORDS, tuple(map(np.zeros_like, states)), caches)
    assert {state.dtype for state in states} == {np.dtype(dtype)}
    assert_equals_numpy(actual, u, v)
    # constants as results of backward
    np.testing.assert_array_equal(gradients["dx"], np.full((1, u.size, 1), 0.25))
    np.testing.assert_array_equal(gradients["da0"], np.full((1, u.size), 0.25))
    np.testing.assert_array_equal(gradients["dv0"], np.full((1, u.size), 2.0))


@pytest.mark.parametrize("library", ["array_api_strict", "torch", "jax"])
def test_every_word_on_arrays_of_other_libraries(library, rng):
    namespace = pytest.importorskip(library)
    xp = array_namespace((namespace.numpy if library == "jax" else namespace).asarray([1.0]))
    u, v = (rng.normal(scale=3, size=(2, 40)).astype("float32") for _ in range(2))
    u[0, :5] = [0, np.inf, -np.inf, np.nan, 1e30]
    operands = [xp.asarray(a.copy()) for a in (u, v)]
    ops = array_ops(xp)
    with np.errstate(all="ignore"):
        actual = {name: word(ops, *operands) for name, (word, _) in EVERY_WORD.items()}
    assert all(value.dtype == xp.float32 for value in actual.values())
    assert_equals_numpy({name: np.from_dlpack(value) for name, value in actual.items()}, u, v)


def test_conditions_only_select():
    ops, x = array_ops(np), np.ones(3)
    condition = ops.greater(x, 0.0)
    wrong = [
        lambda: bool(condition), lambda: condition * x, lambda: x * condition, lambda: np.tanh(condition),
        lambda: ops.where(x > 0, x, x), lambda: ops.where(condition, 1.0, 2), lambda: ops.greater(1.0, 2.0),
        lambda: ops.maximum(1.0, 2.0),
    ]  # fmt: skip
    for call in wrong:
        with pytest.raises(TypeError):
            call()


def test_records_are_checked():
    stage = rnnx.CELLS["rnn"].stages[0]
    with pytest.raises(ValueError, match=r"last stage of cell 'bad' must return the cell's states \('h',\)"):
        Cell("bad", ("h",), (stage,))
    with pytest.raises(ValueError, match=r"`cache` of cell 'bad' contains \['zt'\], which no stage saves"):
        Cell("bad", ("a",), (stage,), cache=("zt",))
    with pytest.raises(ValueError, match="cell 'bad' must have at least one gate or vector; got neither"):
        Cell("bad", ("a",), (Stage((), ("a",), (), lambda ops, zx, zh, s: (s, ())),))


def test_a_pickled_cell_keeps_no_hash():
    """Hashes of strings differ between processes."""
    import pickle

    cell = rnnx.CELLS["lstm"]
    assert hash(cell) == hash(cell)
    copy = pickle.loads(pickle.dumps(cell))
    assert copy == cell
    assert "_hash" not in copy.__dict__
    assert {cell: 1}[copy] == 1


# --- gates, stacked parameters and wiring ----------------------------------------------------------------------


@pytest.mark.parametrize("weights", [("W",), ("Wx", "Wh")], ids=["joint", "split"])
def test_gate_weights(weights, rng):
    """`split` and `join` are inverses, with the shapes that `shapes` promises."""
    n_x, n_a = 3, 5
    gate = Gate(weights, "b", recurrent_bias="bh")
    shapes = gate.shapes(n_x, n_a)
    assert list(shapes) == [*weights, "b", "bh"]
    parameters = {key: rng.standard_normal(shape) for key, (_, shape) in shapes.items()}
    w_x, w_h = gate.split(parameters, n_a)
    assert (w_x.shape, w_h.shape) == ((n_a, n_x), (n_a, n_a))
    joined = gate.join(np, w_x, w_h)
    assert list(joined) == list(weights)
    for key, array in joined.items():
        np.testing.assert_array_equal(array, parameters[key])
    if gate.is_joint:  # acts on [a_prev; x_t]
        np.testing.assert_array_equal(parameters["W"], np.hstack([w_h, w_x]))
        assert shapes["W"] == ("(n_a, n_a + n_x)", (5, 8))
    else:
        assert w_x is parameters["Wx"]
        assert w_h is parameters["Wh"]
        assert shapes["Wx"] == ("(n_a, n_x)", (5, 3))
        assert shapes["Wh"] == ("(n_a, n_a)", (5, 5))
    assert shapes["bh"] == ("(n_a, 1)", (5, 1))


@pytest.mark.parametrize("with_recurrent_bias", [False, True])
def test_stacked_parameters_and_gradients(with_recurrent_bias, rng):
    """Gates are stacked in order, and named gradients undo the stacking."""
    n_x, n_a = 3, 4
    stage = Stage((Gate(("Wf",), "bf"), Gate(("Wx", "Wh"), "b", recurrent_bias="bh")), ("a",), (), len, len)
    shapes = {key: shape for gate in stage.gates for key, (_, shape) in gate.shapes(n_x, n_a).items()}
    parameters = {key: rng.standard_normal(shape) for key, shape in shapes.items()}
    if not with_recurrent_bias:
        del parameters["bh"]
    cell = Cell("two", ("a",), (stage,))
    wx, wh, b, bh, vectors = stack_weights(np, wiring(cell)[0], parameters, n_x, n_a)
    assert vectors == ()
    np.testing.assert_array_equal(wx, np.vstack([parameters["Wf"][:, n_a:], parameters["Wx"]]))
    np.testing.assert_array_equal(wh, np.vstack([parameters["Wf"][:, :n_a], parameters["Wh"]]))
    np.testing.assert_array_equal(b, np.vstack([parameters["bf"], parameters["b"]])[:, 0])
    if with_recurrent_bias:
        np.testing.assert_array_equal(bh, [0, 0, 0, 0, *parameters["bh"][:, 0]])
    else:
        assert bh is None
    gradients = [StageGradients(np.hstack([wh, wx]), b, bh)]
    named = name_gradients(np, cell, parameters, gradients, n_x)
    assert list(named) == ["d" + key for key in parameters]
    for key, array in parameters.items():
        np.testing.assert_array_equal(named["d" + key], array)


@pytest.mark.parametrize("cell", [*BUILT_IN.values(), MGU, TWO_STAGES], ids=lambda cell: cell.name)
def test_wiring_of_cells(cell):
    """Slots have the names of the record; every saved value has one slot; a stage reads what the one before wrote."""

    def names(slots):
        return tuple((cell.states if slot.kind == "state" else cell.saved)[slot.number] for slot in slots)

    stages, reads = wiring(cell), tuple(Slot("state", k) for k in range(len(cell.states)))
    saved = []
    for i, (stage, one) in enumerate(zip(cell.stages, stages, strict=True)):
        assert (one.stage, one.number, one.n_gates) == (stage, i, len(stage.gates))
        assert one.reads == reads
        assert one.operand == reads[0]
        assert names(one.saves) == stage.saved
        assert names(one.writes) == stage.out
        assert one.is_last == (i == len(cell.stages) - 1)
        assert {slot.kind for slot in one.writes} == {"state" if one.is_last else "saved"}
        assert all(slot.after == one.is_last for slot in one.writes)
        saved += [*one.saves, *(() if one.is_last else one.writes)]
        reads = one.writes
    assert saved == [Slot("saved", k) for k in range(len(cell.saved))]


def test_slots_and_arguments_of_two_stages():
    first, last = wiring(TWO_STAGES)
    assert first.reads == (Slot("state", 0), Slot("state", 1), Slot("state", 2))
    assert first.saves == (Slot("saved", 0), Slot("saved", 1))
    assert first.writes == last.reads == tuple(Slot("saved", k) for k in (2, 3, 4, 5))
    assert last.saves == (Slot("saved", 6), Slot("saved", 7))
    assert last.writes == tuple(Slot("state", k, after=True) for k in (0, 1, 2))

    def counts(arguments):
        """Number of arguments of each role, in order."""
        for role in {a.role for a in arguments}:
            own = [a for a in arguments if a.role == role]
            assert [a.number for a in own] == list(range(len(own)))
            assert arguments.index(own[-1]) - arguments.index(own[0]) == len(own) - 1
        return {role: sum(a.role == role for a in arguments) for role in dict.fromkeys(a.role for a in arguments)}

    assert counts(first.forward_arguments()) == {"zx": 1, "reads": 3, "writes": 4, "saves": 2}
    assert counts(last.forward_arguments()) == {"zx": 1, "zh": 1, "reads": 4, "writes": 3, "saves": 2}
    assert counts(first.backward_arguments()) == {
        "d_writes": 4, "reads": 3, "writes": 4, "saves": 2, "dzx": 1, "d_reads": 3,
    }  # fmt: skip
    assert counts(last.backward_arguments()) == {
        "d_writes": 3, "d_given": 3, "reads": 4, "writes": 3, "saves": 2, "dzx": 1, "dzh": 1, "d_reads": 4,
    }  # fmt: skip
    assert [a.role for a in last.backward_arguments() if a.per_gate] == ["dzx", "dzh"]
