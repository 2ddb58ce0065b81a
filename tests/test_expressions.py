"""Expressions, their simplification, and programs."""

import operator
import pickle
import subprocess
import sys
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_cells import FORMS, NUMPY, random_stages

from rnnx.cells.expressions import OPERATORS, WORDS
from rnnx.cells.graph import Graph, symbolic_ops
from rnnx.cells.programs import Program

SPECIAL = np.array([0.0, -0.0, 1.0, -1.5, 5e-324, -1e-310, 1e300, -1e300, np.inf, -np.inf, np.nan])


@pytest.fixture
def graph():
    return Graph()


def leaves(graph, names):
    return tuple(graph.leaf(name) for name in names.split())


def test_forms_cover_the_language():
    assert {*OPERATORS, *WORDS, "zeros_like", "constant"} - {"greater"} <= set(FORMS)


# --- the graph -------------------------------------------------------------------------------------------------


def test_equal_expressions_are_one(graph):
    a, b = leaves(graph, "a b")
    ops = symbolic_ops(graph)
    assert a + b is b + a
    assert a * b is b * a
    assert ops.maximum(a, b) is ops.maximum(b, a)
    assert a - b is not b - a
    assert ops.tanh(a) is ops.tanh(a)
    assert graph.leaf("a") is a
    assert a * 2 is 2.0 * a is np.float64(2) * a is a * np.int32(2)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (lambda a, b: a + 0, lambda a, b: a),
        (lambda a, b: sum((a, b)), lambda a, b: a + b),
        (lambda a, b: 0 - a, lambda a, b: -a),
        (lambda a, b: a * 1 / 1 - 0, lambda a, b: a),
        (lambda a, b: -1 * a * b, lambda a, b: -(a * b)),
        (lambda a, b: -a / -b, lambda a, b: a / b),
        (lambda a, b: 0 - (-a), lambda a, b: a),
        (lambda a, b: -(a - b), lambda a, b: b - a),
        (lambda a, b: a - -b, lambda a, b: a + b),
        (lambda a, b: -a + b, lambda a, b: b - a),
        (lambda a, b: a + -b, lambda a, b: a - b),
    ],
)
def test_simplification(graph, expression, expected):
    a, b = leaves(graph, "a b")
    assert expression(a, b) is expected(a, b)


def test_constants_are_folded(graph):
    two, three = graph.constant(2), graph.constant(3)
    assert (two * three - 1 / two).data == 5.5
    assert (-two).data == -2
    assert graph.constant(-0.0) is graph.constant(0)


def test_what_rounding_and_special_values_forbid_stays(graph):
    (a,) = leaves(graph, "a")
    for expression in (a - a, 0 * a, (a + 1) - 1, 2 * (a * 0.5), a / 3):
        assert not expression.is_constant
        assert expression is not a
    assert (a / 3).operation == "/"


@given(random_stages, st.integers(0, 2**31))
def test_programs_compute_what_the_function_does(stage, seed):
    """With the same bits, except for the sign of a zero; on special values, too."""
    rng = np.random.default_rng(seed)
    counts = (stage.n_x, stage.n_h, stage.n_reads, stage.n_given)
    arrays = [tuple(rng.choice(SPECIAL, 8) for _ in range(n)) for n in counts]
    with np.errstate(all="ignore"):
        expected, _ = stage(NUMPY, *arrays)
        graph = Graph()
        symbols = [tuple(graph.leaf(f"{role}{k}") for k in range(n)) for role, n in zip("xhsv", counts, strict=True)]
        outputs, _ = stage(symbolic_ops(graph), *symbols)
        program = Program(tuple(chain(*symbols)), outputs)
        actual = program(NUMPY, *chain(*arrays))
        named = {leaf.data: array for leaf, array in zip(chain(*symbols), chain(*arrays), strict=True)}
        results = [f"r{k}" for k in range(len(outputs))]
        for text in (program.text([*named]).replace("return", "returned =") + ",", program.text([*named], results)):
            exec(text, vars(NUMPY) | {"__builtins__": {}}, variables := dict(named))
            written = variables["returned"] if "returned" in variables else [variables[r] for r in results]
            for want, got, read in zip(expected, actual, written, strict=True):
                np.testing.assert_array_equal(got, want)
                np.testing.assert_array_equal(np.broadcast_to(read, 8), want)


# --- programs --------------------------------------------------------------------------------------------------


def example(names="a b"):
    graph = Graph()
    a, b = leaves(graph, names)
    ops = symbolic_ops(graph)
    t = ops.tanh(a + b)
    return Program((a, b), (t * b - 0.5 * (a - b), ops.maximum(t, 0.25), graph.constant(2.0)))


def test_programs_are_values():
    program, same = example(), example("x y")
    assert program == same
    assert hash(program) == hash(same)
    program(NUMPY, np.ones(2), np.ones(2))  # compiled functions are not pickled
    copy = pickle.loads(pickle.dumps(program))
    assert copy == program
    assert {program: 1}[copy] == 1
    graph = Graph()
    a, b = leaves(graph, "a b")
    assert len({Program((a, b), (e,)) for e in (a, b, a + b, a - b, b - a, a + 1, a + 2)}) == 7
    assert program != "program"


def test_a_pickled_program_is_the_same_in_another_process():
    code = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read()).text(['a', 'b']))"
    run = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(example()), capture_output=True, check=True)
    assert run.stdout.decode().splitlines() == example().text(["a", "b"]).splitlines()


def test_text():
    assert example().text(["a", "b"]) == ("t0 = tanh(a + b)\nreturn t0 * b - 0.5 * (a - b), maximum(t0, 0.25), 2.0")
    assert example().text(["t0", "b"], ["u", "v", "w"]) == (
        "t1 = tanh(t0 + b)\nu = t1 * b - 0.5 * (t0 - b)\nv = maximum(t1, 0.25)\nw = 2.0"
    )


def test_counts():
    assert example().counts() == {"+": 1, "tanh": 1, "*": 2, "-": 2, "maximum": 1}


def test_inputs_may_be_any_values(graph):
    a, b = leaves(graph, "a b")
    program = Program((a * b, b), ((a * b) * b, b))
    assert program(NUMPY, 6.0, 2.0) == (12.0, 2.0)
    with pytest.raises(ValueError, match="depend on 'a', which is not an input"):
        Program((b,), (a * b,))
    with pytest.raises(TypeError, match="takes 2 operands; got 1"):
        program(NUMPY, 6.0)
    with pytest.raises(ValueError, match="2 names for the operands and 2 or none for the results; got 1 and 0"):
        program.text(["a"])


def test_few_values_wait_for_their_use(graph):
    """A sum of products takes three registers in whatever order it is written."""
    a = leaves(graph, "a0 a1 a2 a3 a4 a5 a6 a7")
    products = [x * y for x, y in pairwise(a)]
    total = products[0]
    for product in products[1:]:
        total = product + total
    program = Program(a, (total,))
    last = {k: i for i, (_, used) in enumerate(program.instructions) for k in used}
    waiting = [
        sum(k <= i + len(a) and last.get(k, i) > i for k in range(len(a), len(a) + len(program.instructions)))
        for i in range(len(program.instructions))
    ]
    assert max(waiting) <= 2


def test_a_long_function_needs_no_deep_recursion(graph):
    a, b = leaves(graph, "a b")
    value = a
    for _ in range(5000):
        value = value * b + a
    program = Program((a, b), (value,))
    assert program(NUMPY, 1.0, 0.0) == (1.0,)
    assert len(program.text(["a", "b"]).splitlines()) < 5000


# --- errors ----------------------------------------------------------------------------------------------------


def test_a_cell_cannot_branch(graph):
    a, b = leaves(graph, "a b")
    with pytest.raises(TypeError, match=r"cannot branch on a value.*use ops\.where"):
        bool(a)
    for compare in (operator.le, operator.ge, operator.eq, operator.ne):
        for pair in ((a, b), (a, 1.0), (1.0, a)):
            with pytest.raises(TypeError, match="compares values with > and <"):
                compare(*pair)
    assert (a > b) is (b < a)
    assert (a > 1.0) is (1.0 < a)  # noqa: SIM300
    assert (a > b).is_condition


def test_unknown_words(graph):
    ops = symbolic_ops(graph)
    with pytest.raises(AttributeError, match="no 'tan'; did you mean 'tanh'"):
        ops.tan(graph.leaf("a"))
    with pytest.raises(TypeError, match=r"ops\.maximum takes 2 argument\(s\); got 1"):
        ops.maximum(graph.leaf("a"))


def test_operands_are_checked(graph):
    a, b = leaves(graph, "a b")
    ops = symbolic_ops(graph)
    for wrong in ("x", None, np.ones(2), [1.0], 1j):
        for operation in (operator.add, operator.sub, operator.mul, operator.truediv):
            for pair in ((a, wrong), (wrong, a)):
                with pytest.raises(TypeError, match=r"unsupported|can't multiply|concatenate|not support"):
                    operation(*pair)
        with pytest.raises(TypeError, match=r"ops\.tanh takes values of the cell and numbers; got "):
            ops.tanh(wrong)
    with pytest.raises(TypeError):
        np.tanh(a)
    for value in (np.inf, -np.inf, np.nan):
        with pytest.raises(ValueError, match="must be a finite number"):
            a + value
    with pytest.raises(ValueError, match="a value of another cell"):
        a + Graph().leaf("a")
    assert repr(ops.tanh(a + b)) == "<Expression 3: tanh>"
    assert repr(b) == "<Expression 1: leaf b>"


def test_conditions_are_for_where_only(graph):
    a, b = leaves(graph, "a b")
    ops = symbolic_ops(graph)
    condition = ops.greater(a, b)
    message = r"the result of ops\.greater can only be the first argument of ops\.where"
    for wrong in (
        lambda: condition + a,
        lambda: a * condition,
        lambda: -condition,
        lambda: ops.tanh(condition),
        lambda: ops.greater(condition, a),
        lambda: ops.where(condition, condition, a),
        lambda: ops.where(a, a, b),
        lambda: ops.where(1.0, a, b),
    ):
        with pytest.raises(TypeError, match=message):
            wrong()
    with pytest.raises(TypeError, match="returns values and numbers; got a condition"):
        graph.output(condition)
    with pytest.raises(TypeError, match="a cell's function returns values of the cell and numbers; got 'a'"):
        graph.output("a")
