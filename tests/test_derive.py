"""The derived backward function: its operations, what it saves, and its values."""

import itertools
import math
import pickle
from itertools import chain

import numpy as np
import pytest
from cells_by_hand import TWO_STAGES
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from problems import TOLERANCE, assert_close, make_problem
from random_cells import NUMPY, random_stages, torch_words

import rnnx
from rnnx.cells import BUILT_IN, Gate, Stage, derive
from rnnx.cells.derivatives import RULES
from rnnx.cells.derive import complete, derive_stage
from rnnx.cells.expressions import OPERATORS, WORDS
from rnnx.cells.graph import Graph, symbolic_ops
from rnnx.cells.minimum_cut import minimum_cut
from rnnx.cells.programs import Program
from rnnx.cells.wiring import wiring

STAGES = [stage for cell in (*BUILT_IN.values(), TWO_STAGES) for stage in wiring(cell)]


def derived(stage):
    return derive_stage(stage.stage.forward, stage.n_gates, stage.n_gates, len(stage.reads))


# --- hand-written stages ---------------------------------------------------------------------------------------


def program_of(function, **counts):
    """Trace a hand-written function whose arguments have these lengths."""
    graph = Graph()
    arguments = [tuple(graph.leaf(f"{name}{k}") for k in range(n)) for name, n in counts.items()]
    results = function(symbolic_ops(graph), *arguments)
    return Program(tuple(chain(*arguments)), [graph.output(value) for value in chain(*results)])


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: f"{stage.stage.forward.__module__}-{stage.number}")
class TestByHand:
    def test_the_derived_stage_has_the_same_operations_and_saves_as_much(self, stage):
        result, hand = derived(stage), stage.stage
        G, n_in, n_out = stage.n_gates, len(stage.reads), len(stage.writes)
        forward = program_of(hand.forward, zx=G, zh=G, s=n_in)
        backward = program_of(hand.backward, ds=n_out, s_prev=n_in, s_next=n_out, saved=len(hand.saved))
        assert result.forward.program.counts() == forward.counts()
        assert result.backward.program.counts() == backward.counts()
        assert result.n_saved == len(hand.saved)
        assert result.additive == hand.additive

    def test_the_derived_stage_has_the_same_values(self, stage, rng):
        result, hand = derived(stage), stage.stage

        def arrays(n):
            return tuple(rng.standard_normal((5, 7)) for _ in range(n))

        zx, zh, s, ds = map(arrays, (stage.n_gates, stage.n_gates, len(stage.reads), len(stage.writes)))
        (new, saved), (expected, by_hand) = result.forward(NUMPY, zx, zh, s), hand.forward(NUMPY, zx, zh, s)
        np.testing.assert_array_equal(new, expected)
        actual = result.backward(NUMPY, ds, s, new, saved)
        for got, want in zip(chain(*actual), chain(*hand.backward(NUMPY, ds, s, new, by_hand)), strict=True):
            assert_close(got, want, 1e-14)


def test_a_cell_with_derived_stages_runs_as_the_one_by_hand(engine, rng):
    """GRU, whose second stage reads what the first one returns."""
    for cell in (rnnx.CELLS["gru"], rnnx.CELLS["lstm"]):
        problem = make_problem(cell, rng)
        expected = problem.gradients()
        stages = tuple(complete(s.stage, len(s.reads), f"saved{s.number}_") for s in wiring(cell))
        problem.cell = rnnx.Cell("derived", cell.states, stages, (), cell.head)
        for key, array in problem.gradients().items():
            assert_close(array, expected[key], TOLERANCE["oracle"], key)
        assert pickle.loads(pickle.dumps(problem.cell)) == problem.cell


# --- words -----------------------------------------------------------------------------------------------------

UNARY = [word for word, n in WORDS.items() if n == 1]
FUNCTIONS = {word: lambda ops, x, word=word: getattr(ops, word)(x) for word in UNARY}
FUNCTIONS |= {"neg": lambda ops, x: -x, "square": lambda ops, x: x * x, "inverse": lambda ops, x: 2.0 / x}
FUNCTIONS |= {f"a {name} b": lambda ops, a, b, f=f: f(a, b) for name, f in OPERATORS.items() if name != "neg"}
FUNCTIONS |= {word: lambda ops, a, b, word=word: getattr(ops, word)(a, b) for word in ("maximum", "minimum")}
FUNCTIONS |= {
    "maximum with a number": lambda ops, x: ops.maximum(x, 0.0),
    "minimum with a number": lambda ops, x: ops.minimum(0.5, x),
    "where": lambda ops, a, b: ops.where(ops.greater(a, b), 2 * a, 3 * b),
    "where with a number": lambda ops, a, b: ops.where(ops.greater(a, 0.0), 1.5, b),
}
ONE = [name for name, f in FUNCTIONS.items() if f.__code__.co_varnames[1] == "x"]
REGULAR = np.array([-3.3, -1.2, -0.4, -0.01, 0.01, 0.3, 1.1, 2.7])
SPECIAL = [0.0, -0.0, 5e-324, -5e-324, 1e-310, -1e-310, 1e-30, -1e-7, 1e-6, 0.5, 36.0, -36.0, 39.0, -39.0, 750.0]
SPECIAL = np.array([*SPECIAL, -750.0, 1e160, -1e160, 1e300, -1e300, np.inf, -np.inf])


def test_every_operation_has_a_rule_and_a_cost():
    assert {*OPERATORS, *WORDS} == set(RULES) == set(derive.COSTS)


def slopes(function, *x, as_states):
    """Return the derived derivatives of a function of arrays, which are states (free) or input sides (saved)."""

    def forward(ops, zx, zh, s):
        return (function(ops, *zx, *s),), ()

    result = derive_stage(forward, 0 if as_states else len(x), 0, len(x) if as_states else 0)
    zx, s = ((), x) if as_states else (x, ())
    with np.errstate(all="ignore"):
        new, saved = result.forward(NUMPY, zx, (), s)
        dzx, _, ds = result.backward(NUMPY, (np.ones_like(x[0]),), s, new, saved)
    return ds if as_states else dzx


def torch_slopes(function, *x):
    torch = pytest.importorskip("torch")
    tensors = [torch.tensor(a, requires_grad=True) for a in x]
    return torch_gradients(tensors, function(torch_words(torch), *tensors).sum())


def torch_gradients(tensors, total):
    if total.requires_grad:
        total.backward()
    return [np.zeros(t.shape) if t.grad is None else t.grad.numpy() for t in tensors]


def points(name, regular):
    values = REGULAR if regular else SPECIAL
    if name in ("log", "sqrt"):
        values = values[values > 0] if regular else values[values >= 0]
    if name in ONE:
        return [values]
    return [a.ravel() for a in np.meshgrid(values, 0.9 * values if regular else values)]


@pytest.mark.parametrize("as_states", [False, True], ids=["saved", "free"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_against_central_differences(name, as_states):
    x = points(name, regular=True)
    for k, slope in enumerate(slopes(FUNCTIONS[name], *x, as_states=as_states)):
        above, below = ([a + step * (i == k) for i, a in enumerate(x)] for step in (1e-6, -1e-6))
        numeric = (FUNCTIONS[name](NUMPY, *above) - FUNCTIONS[name](NUMPY, *below)) / 2e-6
        assert_close(slope, numeric, TOLERANCE["gradient"], name)


@pytest.mark.parametrize("regular", [True, False], ids=["regular", "special"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_against_torch(name, regular):
    """At 0, ties, subnormal, large and infinite values, too, wherever torch's derivative is finite."""
    x = points(name, regular)
    smallest = 1e-270 if name == "gelu" else 1e-300  # torch's distribution function is 0 from -8.3 on
    for as_states in (False, True):
        actual = slopes(FUNCTIONS[name], *x, as_states=as_states)
        for slope, expected in zip(actual, torch_slopes(FUNCTIONS[name], *x), strict=True):
            finite = np.isfinite(expected)
            np.testing.assert_allclose(slope[finite], expected[finite], 1e-13, smallest)


@pytest.mark.parametrize("name", ONE)
def test_derivatives_have_their_limits_at_infinity(name):
    """torch returns NaN for some."""
    limits = {
        "relu": (0, 1),
        "softplus": (0, 1),
        "gelu": (0, 1),
        "log_sigmoid": (1, 0),
        "abs": (-1, 1),
        "neg": (-1, -1),
    }
    limits |= {"maximum with a number": (0, 1), "minimum with a number": (1, 0), "square": (-np.inf, np.inf)}
    limits |= {
        "mean": (1, 1),
        "exp": (0, np.inf),
        "log": (None, 0),
        "sqrt": (None, 0),
        "sin": (None, None),
        "cos": (None, None),
    }
    for as_states in (False, True):
        (slope,) = slopes(FUNCTIONS[name], np.array([-np.inf, np.inf]), as_states=as_states)
        for got, limit in zip(slope, limits.get(name, (0, 0)), strict=True):
            assert limit is None or got == limit, (name, slope)


def test_ties_share_the_cotangent():
    """torch and JAX do the same; relu and abs pass nothing on at 0."""
    x = np.array([0.0, -1.5, 2.0])
    for name in ("maximum", "minimum"):
        for slope in slopes(FUNCTIONS[name], x, x.copy(), as_states=True):
            np.testing.assert_array_equal(slope, 0.5)
    (slope,) = slopes(lambda ops, x: ops.maximum(x, x), x, as_states=True)
    np.testing.assert_array_equal(slope, 1.0)
    for name in ("relu", "abs"):
        assert slopes(FUNCTIONS[name], np.zeros(1), as_states=True)[0] == 0


SELECTIONS = {
    "where": lambda ops, x: ops.where(ops.greater(x, 0.0), x, 1.0),
    "relu": lambda ops, x: ops.relu(x),
    "maximum": lambda ops, x: ops.maximum(x, 0.0),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_branch_that_is_not_taken_passes_nothing_on(name):
    """Not even of an infinite cotangent, as that of sqrt at 0."""
    x = np.array([-2.0, 4.0])
    (slope,) = slopes(lambda ops, x: ops.sqrt(SELECTIONS[name](ops, x)), x, as_states=False)
    np.testing.assert_array_equal(slope, [0, 0.25])


def test_sqrt_and_log_at_zero():
    for name in ("sqrt", "log"):
        assert slopes(FUNCTIONS[name], np.zeros(1), as_states=True)[0] == np.inf


# --- random cells ----------------------------------------------------------------------------------------------


def random_cotangents(stage, arguments, seed):
    """Return the derived stage and its gradients for random cotangents, as one tuple, and the cotangents."""
    result = derive_stage(stage, stage.n_x, stage.n_h, stage.n_reads, stage.n_given, stage.n_both)
    zx, zh, s, v = arguments
    ds = tuple(np.random.default_rng(seed).standard_normal((len(stage.outputs), *s[0].shape)))
    new, saved = result.forward(NUMPY, zx, zh, s, v)
    assert len(saved) == result.n_saved
    gradients = result.backward(NUMPY, ds, s, new, saved, v)
    assert list(map(len, gradients)) == [len(part) for part in arguments][: len(gradients)]
    assert len(gradients) == (4 if v else 3)
    if result.additive:
        for k in range(stage.n_both):
            assert gradients[0][k] is gradients[1][stage.n_h_only + k]
    assert result.additive or not stage.sums_only
    return result, tuple(chain(*gradients)), ds


def assert_near(actual, expected, tolerance):
    """Check gradients that may all be zero up to rounding."""
    assert np.linalg.norm(np.subtract(actual, expected)) <= tolerance * (1 + np.linalg.norm(expected))


@settings(max_examples=200)
@given(random_stages, st.integers(0, 2**31))
def test_random_cells_against_central_differences(stage, seed):
    arguments = stage.arguments(seed)
    assume(all(np.abs(value).max() < 30 for value in stage.values(NUMPY, *arguments)))
    _, gradients, ds = random_cotangents(stage, arguments, seed)

    def loss():
        return sum(np.sum(d * value) for d, value in zip(ds, stage(NUMPY, *arguments)[0], strict=True))

    flat, numeric = tuple(chain(*arguments)), []
    for array in flat:
        numeric.append(np.zeros_like(array))
        for place in np.ndindex(array.shape):
            kept, values = array[place], []
            for step in (1e-5, -1e-5, 2e-5, -2e-5):
                array[place] = kept + step
                values.append(loss())
            array[place] = kept
            numeric[-1][place] = (8 * (values[0] - values[1]) - (values[2] - values[3])) / 12e-5
    assert_near(gradients, numeric, TOLERANCE["gradient"])


@settings(max_examples=200)
@given(random_stages, st.integers(0, 2**31))
def test_random_cells_against_torch(stage, seed):
    torch = pytest.importorskip("torch")
    arguments = stage.arguments(seed)
    assume(all(np.abs(value).max() < 30 for value in stage.values(NUMPY, *arguments)))
    _, gradients, ds = random_cotangents(stage, arguments, seed)
    tensors = [tuple(torch.tensor(a, requires_grad=True) for a in part) for part in arguments]
    outputs, _ = stage(torch_words(torch), *tensors)
    total = sum((torch.tensor(d) * value).sum() for d, value in zip(ds, outputs, strict=True))
    expected = torch_gradients(tuple(chain(*tensors)), total)
    assert_near(gradients, expected, TOLERANCE["oracle"])


@given(random_stages)
def test_derived_stages_are_values(stage):
    """Equal forward functions give equal programs, which survive pickling."""
    first, second = (derive_stage(stage, stage.n_x, stage.n_h, stage.n_reads, stage.n_given) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert pickle.loads(pickle.dumps(first)) == first


# --- what to save ----------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 9)), max_size=14))
def test_minimum_cut_against_all_cuts(edges):
    """Nodes 0 (source) to 5 (sink). Of several minimum cuts, the one with the fewest nodes at the sink."""
    others = {a for edge in edges for a in edge[:2]} - {0, 5}
    cuts = []
    for n in range(len(others) + 1):
        for chosen in itertools.combinations(sorted(others), n):
            side = {5, *chosen}
            cuts.append((sum(c for a, b, c in edges if a not in side and b in side), len(side), side))
    assert minimum_cut(edges, 0, 5) == min(cuts, key=lambda cut: cut[:2])[2]


def cost(saved, used, free, savable):
    """Return the cost of saving these values and recomputing all others that are used; infinite if impossible."""
    total, todo, seen = derive.SAVE_COST * len(saved), list(used), set()
    while todo:
        value = todo.pop()
        if value.number in free or value.is_constant or value.number in seen:
            continue
        seen.add(value.number)
        if value.number in {v.number for v in saved}:
            if value.number not in savable:
                return math.inf
        elif not value.arguments:
            return math.inf
        else:
            total += derive.COSTS[value.operation]
            todo += value.arguments
    return total


@settings(max_examples=100)
@given(random_stages)
def test_what_is_saved_costs_least(stage):
    """Of all subsets of what could be saved."""
    graph = Graph()
    trace = derive._trace(graph, stage, stage.n_x, stage.n_h, stage.n_reads, stage.n_given)
    ds = tuple(graph.leaf(f"ds{k}") for k in range(len(trace.new)))
    gradients = derive.gradients(trace.new, ds, trace.arguments)
    saved = derive._choose_saved(trace, ds, gradients)
    used = derive._forward_values(ds, gradients)
    free = {value.number for value in (*trace.s, *trace.new, *trace.v)}
    values = derive.reachable(used)
    full = derive.depending_on((*trace.zx, *trace.zh, *trace.s), values)
    savable = {value.number for value in values if value.number in full and not value.is_condition}
    candidates = [value for value in values if value.number in savable - free]
    assume(len(candidates) <= 12)
    subsets = chain.from_iterable(itertools.combinations(candidates, n) for n in range(len(candidates) + 1))
    assert cost(saved, used, free, savable) == min(cost(subset, used, free, savable) for subset in subsets) < math.inf


def test_what_is_free_is_not_saved():
    def forward(ops, zx, zh, s, v):
        (z,), (h,), (a, c), (p, q) = zx, zh, s, v
        c = ops.exp(p * q) * c + ops.exp(-ops.exp(p)) * a
        return (ops.tanh(z + h), c), ()

    assert derive_stage(forward, 1, 1, 2, 2).n_saved == 0


def test_what_depends_on_a_new_state_may_be_saved():
    """The sigmoid in the derivative costs more than saving it; its argument is free."""

    def forward(ops, zx, zh, s):
        (a,) = s
        return (a * a, ops.log_sigmoid(a * a)), ()

    assert derive_stage(forward, 0, 0, 1).n_saved == 1


def test_a_condition_is_not_saved():
    def forward(ops, zx, zh, s):
        (z,), (a,) = zx, s
        return (ops.where(ops.greater(z, a), z * a, a),), ()

    result = derive_stage(forward, 1, 0, 1)
    assert result.n_saved == 1
    z, a = np.array([0.5, -2.0]), np.array([1.0, -3.0])
    new, saved = result.forward(NUMPY, (z,), (), (a,))
    assert saved == (z,)
    dzx, dzh, ds = result.backward(NUMPY, (np.ones(2),), (a,), new, saved)
    np.testing.assert_array_equal((*dzx, *ds), [[0, -3], [1, -2]])
    assert dzh == ()


# --- additive stages -------------------------------------------------------------------------------------------


def additive(f, n_both=None, n_x=1, n_h=1):
    return derive_stage(lambda ops, zx, zh, s: (f(ops, *zx, *zh, *s), ()), n_x, n_h, 1, n_both=n_both).additive


def test_additive_stages_are_found():
    assert additive(lambda ops, x, h, a: (ops.tanh(x + h) * a,))
    assert additive(lambda ops, x, h, a: (ops.tanh(h + x) * (x + h),))
    assert additive(lambda ops, x, h, a: (a,))
    assert not additive(lambda ops, x, h, a: (ops.tanh(x + a * h),))
    assert not additive(lambda ops, x, h, a: (ops.tanh(x + h) * x,))
    assert not additive(lambda ops, x, h, a: (ops.tanh(x + h) + h,))
    assert not additive(lambda ops, x, h, a: (x,))
    assert not additive(lambda ops, x, h, a: (x + x + h,))


def test_gates_with_one_side_do_not_matter():
    """A gate on h, then one with both sides, then one on x: zh has two entries, zx has two."""

    def f(ops, both_x, x, h, both_h, a):
        return (ops.tanh(x) * h + ops.sigmoid(both_x + both_h) * a,)

    assert additive(f, n_both=1, n_x=2, n_h=2)
    assert not additive(f, n_both=2, n_x=2, n_h=2)
    assert additive(lambda ops, x, h, a: (x * h,), n_both=0)


# --- complete and its errors -----------------------------------------------------------------------------------


def stage_of(forward, out=("a",)):
    return Stage((Gate(("W",), "b"),), out, ("ignored",), forward, None, False)


def test_complete():
    def forward(ops, zx, zh, s):
        (z,), (h,), (a,) = zx, zh, s
        return (ops.sigmoid(z + h) * a,), ()

    stage = complete(stage_of(forward), 1)
    assert stage.saved == ("saved0",)
    assert stage.additive
    assert stage == complete(stage_of(forward), 1)
    assert stage.gates == (Gate(("W",), "b"),)


def test_errors_of_forward_functions():
    with pytest.raises(ValueError, match=r"with `out` = \('a', 'c'\) must return as many states; got 1"):
        complete(stage_of(lambda ops, zx, zh, s: (s, ()), ("a", "c")), 1)
    for wrong in (lambda ops, zx, zh, s: s, lambda ops, zx, zh, s: s[0], lambda ops, zx, zh, s: (s[0], ())):
        with pytest.raises(TypeError, match=r"must return two tuples, \(s_next, saved\); got "):
            complete(stage_of(wrong), 1)
    with pytest.raises(TypeError, match="got a condition"):
        complete(stage_of(lambda ops, zx, zh, s: ((ops.greater(s[0], 0.0),), ())), 1)
    with pytest.raises(TypeError, match="values of the cell and numbers; got None"):
        complete(stage_of(lambda ops, zx, zh, s: ((None,), ())), 1)
    with pytest.raises(TypeError, match="cannot branch on a value"):
        complete(stage_of(lambda ops, zx, zh, s: ((s[0] if s[0] else zx[0],), ())), 1)


def test_states_may_be_constants_or_passed_on():
    def forward(ops, zx, zh, s):
        (z,), (a, c) = zx, s
        return (c, 0.5, ops.zeros_like(a), z), ()

    result = derive_stage(forward, 1, 1, 2)
    z, h, a, c = np.arange(12.0).reshape(4, 3)
    new, saved = result.forward(NUMPY, (z,), (h,), (a, c))
    np.testing.assert_array_equal(new, [c, [0.5] * 3, [0] * 3, z])
    assert saved == ()
    ds = tuple(np.ones((4, 3)) * [[1], [2], [3], [4]])
    dzx, dzh, ds_prev = result.backward(NUMPY, ds, (a, c), new, saved)
    np.testing.assert_array_equal([*dzx, *dzh, *ds_prev], np.ones((4, 3)) * [[4], [0], [0], [1]])
