"""The rules of the cell protocol, and user-defined cells on every engine."""

import ast
import inspect
import textwrap

import pytest
from problems import MGU, TOLERANCE, assert_close, make_problem, numeric_gradient

import rnnx
from rnnx.cells import Cell, Gate, Stage
from rnnx.cells.vocabulary import Ops

ALLOWED = (
    ast.FunctionDef, ast.arguments, ast.arg, ast.Assign, ast.Return, ast.Tuple, ast.Name, ast.Load, ast.Store,
    ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Call, ast.Attribute,
)  # fmt: skip


def broken_rules(function) -> list[str]:
    """List what a cell function uses besides ``+ - *``, ``ops.<name>(...)`` and tuples."""
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
            if not is_op or called.attr not in Ops._fields or node.keywords:
                problems.append(f"call of {ast.unparse(called)}")
    return problems


ALL_FUNCTIONS = [f for cell in rnnx.CELLS.values() for stage in cell.stages for f in (stage.forward, stage.backward)]


@pytest.mark.parametrize("function", ALL_FUNCTIONS, ids=lambda f: f"{f.__module__}.{f.__name__}")
def test_cell_functions_follow_the_rules(function):
    assert broken_rules(function) == []


def literal(ops, zx, zh, s):
    (z,) = zx
    return (1.0 - z,), ()


def indexing(ops, zx, zh, s):
    return (zx[0],), ()


def branch(ops, zx, zh, s):
    (z,), (z_h,) = zx, zh
    return (z if z > z else z_h,), ()


def other_call(ops, zx, zh, s):
    (z,) = zx
    return (abs(z),), ()


@pytest.mark.parametrize("function", [literal, indexing, branch, other_call])
def test_broken_rules_are_found(function):
    assert broken_rules(function)


# --- a cell that no table lists --------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, [4, 0, 5]])
def test_own_cell_runs_on_every_engine(engine, lengths, rng):
    (stage,) = MGU.stages
    assert broken_rules(stage.forward) == broken_rules(stage.backward) == []
    problem = make_problem(MGU, rng, n_y=2, lengths=lengths)
    gradients = problem.gradients()
    for name, array in problem.inputs.items():
        numeric = numeric_gradient(problem.loss, array)
        assert_close(gradients["d" + name], numeric, TOLERANCE["gradient"], f"mgu {engine} d{name}")
    _, y, caches = rnnx.recurrent_forward(MGU, problem.x, problem.s0, problem.parameters)
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


def test_every_word_of_the_vocabulary(engine, rng):
    problem = make_problem(WORDS, rng)
    gradients = problem.gradients()
    for name, array in problem.inputs.items():
        assert_close(gradients["d" + name], numeric_gradient(problem.loss, array), TOLERANCE["gradient"], name)


def test_records_are_checked():
    stage = rnnx.CELLS["rnn"].stages[0]
    with pytest.raises(ValueError, match=r"last stage of cell 'bad' must return the cell's states \('h',\)"):
        Cell("bad", ("h",), (stage,))
    with pytest.raises(ValueError, match=r"cell 'bad' shows \['zt'\] in its cache, which no stage saves"):
        Cell("bad", ("a",), (stage,), cache=("zt",))


def test_a_pickled_cell_keeps_no_hash():
    """Hashes of strings differ between processes."""
    import pickle

    cell = rnnx.CELLS["lstm"]
    assert hash(cell) == hash(cell)
    copy = pickle.loads(pickle.dumps(cell))
    assert copy == cell
    assert "_hash" not in copy.__dict__
    assert {cell: 1}[copy] == 1
