"""The protocol of engines: registering an engine, tapes, and the engine of a backward pass."""

import numpy as np
import pytest
from problems import assert_close, make_problem

import rnnx
from rnnx import engines
from rnnx.engines.protocol import Cotangents
from rnnx.functional.signatures import checked_call

REFERENCE = engines.load("reference")


class CountingEngine:
    """The reference engine, which counts the calls of its methods."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def method(*args, **keywords):
            self.calls.append(name)
            return getattr(REFERENCE, name)(*args, **keywords)

        return method


ENGINE = CountingEngine()  # for registration by the name of this module


@pytest.fixture
def toy(restored_engines):
    """An engine to register."""
    return CountingEngine()


def forward(problem):
    states, _, caches = rnnx.recurrent_forward(problem.cell, problem.x, problem.s0, problem.parameters)
    return states[0], caches


# --- registering -------------------------------------------------------------------------------------------------


def test_a_default_engine_runs_its_library(toy, rng):
    problem = make_problem(rnnx.CELLS["lstm"], rng)
    expected, _ = forward(problem)
    rnnx.register_engine("toy", toy, ("numpy",))
    assert "toy" in rnnx.engine_names()
    assert rnnx.engine_for(problem.x) == "toy"
    actual, caches = forward(problem)
    assert caches.engine == "toy"
    assert_close(actual, expected, 1e-14)
    rnnx.recurrent_backward("lstm", problem.dstates, caches)
    rnnx.dense_forward(problem.x, np.ones((2, 3)), np.ones((2, 1)))
    rnnx.Stream("lstm", problem.parameters)
    assert toy.calls == ["forward", "backward", "matmul", "stepper"]
    with rnnx.use_engine("reference"):
        assert forward(problem)[1].engine == "reference"
    strict = pytest.importorskip("array_api_strict")
    assert rnnx.engine_for(strict.zeros(3)) == "reference"


def test_the_newest_default_engine_comes_first(toy):
    before = engines.engines_of("numpy")
    rnnx.register_engine("older", CountingEngine(), ("numpy",))
    rnnx.register_engine("newer", toy)
    assert engines.engines_of("numpy") == ("newer", "older", *before)
    assert engines.engines_of("torch") == ("newer", "reference")


def test_another_engine_runs_on_request(toy, rng):
    problem = make_problem(rnnx.CELLS["rnn"], rng)
    before = rnnx.engine_for(problem.x)
    rnnx.register_engine("toy", toy, ("numpy",), default=False)
    assert rnnx.engine_for(problem.x) == before
    forward(problem)
    assert toy.calls == []
    with rnnx.use_engine("toy"):
        assert forward(problem)[1].engine == "toy"
    assert toy.calls == ["forward"]
    strict = pytest.importorskip("array_api_strict")
    message = "engine 'toy' does not support array_api_strict arrays"
    with rnnx.use_engine("toy"), pytest.raises(ValueError, match=message):
        rnnx.engine_for(strict.zeros(3))


def test_names_of_engines_are_unique(toy):
    rnnx.register_engine("toy", toy, ("numpy",))
    for name in ("toy", "reference"):
        with pytest.raises(ValueError, match=f"`name` '{name}' is already registered"):
            rnnx.register_engine(name, toy)


def test_engines_are_imported_when_first_used(toy, rng):
    problem = make_problem(rnnx.CELLS["rnn"], rng)
    rnnx.register_engine("imported", f"{__name__}:ENGINE", ("numpy",), default=False)
    rnnx.register_engine("missing", "no_such_module:ENGINE", ("numpy",), default=False)
    with rnnx.use_engine("imported"):
        forward(problem)
    assert ENGINE.calls == ["forward"]
    with rnnx.use_engine("missing"), pytest.raises(ModuleNotFoundError, match="no_such_module"):
        forward(problem)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, REFERENCE), "`name` must be a str; got 3"),
        (("toy", REFERENCE, "numpy"), "`libraries` must be a tuple of str; got 'numpy'"),
        (("toy", REFERENCE, (np,)), r"`libraries` must be a tuple of str; got \(<module 'numpy'"),
        (("toy", object()), "`engine` must be an object with the methods forward, backward, matmul, stepper; got <obj"),
        (("toy", type(REFERENCE)), "`engine` must be an object with the methods .*; got <class"),
        (("toy", None), "`engine` must be an object with the methods .*; got None"),
    ],
)
def test_wrong_types_are_not_registered(restored_engines, arguments, message):
    before = rnnx.engine_names()
    with pytest.raises(TypeError, match=message):
        rnnx.register_engine(*arguments)
    assert rnnx.engine_names() == before


@pytest.mark.parametrize(
    ("requires", "error", "message"),
    [
        ("numba", TypeError, "`requires` must be a tuple of str; got 'numba'"),
        (("numba",), ValueError, "`requires` must be a package and the command that installs it; got"),
    ],
)
def test_a_wrong_requirement_is_not_registered(restored_engines, requires, error, message):
    with pytest.raises(error, match=message):
        rnnx.register_engine("toy", REFERENCE, requires=requires)


def test_an_imported_engine_is_checked_too(toy):
    rnnx.register_engine("list", "builtins:list", ("numpy",), default=False)
    message = "engine 'list', builtins:list, must be an object with the methods"
    with rnnx.use_engine("list"), pytest.raises(TypeError, match=message):
        rnnx.dense_forward(np.ones((3, 1)), np.ones((2, 3)), np.ones((2, 1)))


def test_unregistering(toy, rng):
    problem = make_problem(rnnx.CELLS["rnn"], rng)
    before, names = rnnx.engine_for(problem.x), rnnx.engine_names()
    rnnx.register_engine("toy", toy, ("numpy",))
    _, caches = forward(problem)
    rnnx.unregister_engine("toy")
    assert (rnnx.engine_for(problem.x), rnnx.engine_names()) == (before, names)
    with pytest.raises(ValueError, match="engine 'toy' is no longer registered"):
        rnnx.recurrent_backward("rnn", problem.dstates, caches)
    other = CountingEngine()
    rnnx.register_engine("toy", other)  # the name is free again
    forward(problem)
    assert (toy.calls, other.calls) == (["forward"], ["forward"])
    for name in ("cpu", "nothing"):
        with pytest.raises(ValueError, match=f"`name` must be one of .*'toy'.*; got '{name}'"):
            rnnx.unregister_engine(name)


def test_an_engine_without_its_package_is_not_chosen(toy):
    before = rnnx.engine_for(np.zeros(3))
    rnnx.register_engine("toy", toy, ("numpy",), requires=("no_such_package", "pip install none"))
    assert rnnx.engine_for(np.zeros(3)) == before
    message = r"engine 'toy' requires no_such_package, which is disabled or not installed \(pip install none\)"
    with pytest.raises(ValueError, match=message), rnnx.use_engine("toy"):
        pass


def test_backward_runs_on_the_engine_of_its_forward_pass(toy, rng):
    rnnx.register_engine("toy", toy, ("numpy",), default=False)
    problem = make_problem(rnnx.CELLS["gru"], rng)
    with rnnx.use_engine("toy"):
        _, caches = forward(problem)
    expected = problem.gradients()
    with rnnx.use_engine("reference"):
        _, other = forward(problem)
        gradients = rnnx.recurrent_backward("gru", problem.dstates, caches, ds_final=problem.dfinal)
    assert toy.calls == ["forward", "backward"]
    for name, d in gradients.items():
        assert_close(d, expected[name], 1e-13, name)
    with rnnx.use_engine("toy"):
        rnnx.recurrent_backward("gru", problem.dstates, other)
        rnnx.recurrent_backward("gru", problem.dstates, tuple(other))  # its unpacked (steps, x)
    assert toy.calls == ["forward", "backward"]
    with rnnx.use_engine("toy"):  # hand-built caches have no engine of their own
        rnnx.recurrent_backward("gru", problem.dstates, (list(other[0]), problem.x))
    assert toy.calls == ["forward", "backward", "backward"]


# --- tapes -------------------------------------------------------------------------------------------------------


def make_tape(problem, keep=True):
    names = [f"{s}0" for s in problem.cell.states]
    states = dict(zip(names, problem.s0, strict=True))
    call = checked_call(problem.cell, problem.x, states, problem.parameters, problem.lengths)
    return REFERENCE.forward(call, keep=keep)[1]


@pytest.mark.parametrize("lengths", [None, [5, 1, 3]])
def test_steps_of_a_tape(cell, lengths, rng):
    """Some steps of a tape give the gradients of a forward pass over these steps."""
    problem = make_problem(cell, rng, lengths=lengths)
    tape = make_tape(problem)
    assert tape.steps(0, 5) is tape
    part = tape.steps(1, 4)
    assert (part.n_steps, part.m, part.n_a) == (3, 3, 4)
    assert [s.shape for s in part.states] == [(4, 3, 4)] * len(cell.states)
    assert [s.shape for s in part.saved] == [(3, 3, 4)] * len(cell.saved)
    if lengths is not None:
        assert part.lengths.tolist() == [4, 0, 2]
        assert tape.steps(0, 2).lengths.tolist() == lengths
    problem.x = problem.x[:, :, 1:4]
    problem.s0 = [s[1].T for s in tape.states]
    problem.lengths = None if lengths is None else [3, 0, 2]
    cotangents = Cotangents(tuple(d[:, :, 1:4] for d in problem.dstates), tuple(problem.dfinal))
    expected = REFERENCE.backward(make_tape(problem), cotangents)
    actual = REFERENCE.backward(part, cotangents)
    np.testing.assert_array_equal(actual.x, expected.x)
    for name, d in expected.parameters.items():
        np.testing.assert_array_equal(actual.parameters[name], d)
    for d, other in zip(actual.s0, expected.s0, strict=True):
        np.testing.assert_array_equal(d, other)


def test_dtype_of_a_tape(cell, rng):
    problem = make_problem(cell, rng, lengths=[5, 1, 3]).astype("float32")
    tape = make_tape(problem)
    assert tape.astype(np.dtype("float32")) is tape
    assert tape.own is not None
    other = tape.astype(np.dtype("float64"))
    arrays = (other.x, *other.states, *other.saved, *other.parameters.values())
    assert {a.dtype for a in arrays} == {other.dtype} == {np.dtype("float64")}
    assert other.own is None  # packed in the former dtype
    np.testing.assert_array_equal(other.lengths, tape.lengths)
    np.testing.assert_array_equal(other.states[0], tape.states[0])
    problem.x = rng.integers(0, 3, (3, 5))
    assert make_tape(problem).astype(np.dtype("float64")).x.dtype == np.int64
    final = make_tape(problem, keep=False)
    assert final.astype(np.dtype("float64")) is final
    assert [s.shape for s in final.states] == [(1, 3, 4)] * len(cell.states)
