"""The edges of what engines accept: any parameter names, recurrent biases, other dtypes, memmaps."""

import dataclasses

import numpy as np
import pytest
from problems import ENGINES_TOLERANCE, TOLERANCE, assert_close, make_problem, numeric_gradient

import rnnx
from rnnx import Cell, Gate, Stage, engines
from rnnx.cells.rnn import backward, forward

NAMES = ["block", "lengths", "output 0", "kept parameters", "dx", "dx0", "state 0", "parameter b"]


def one_gate(gate):
    return Cell("odd", ("a",), (Stage((gate,), ("a",), (), forward, backward),))


def with_recurrent_biases(cell):
    """Return the cell with a recurrent bias on every gate; in an additive stage it has the effect of the bias."""
    stages = tuple(
        dataclasses.replace(
            stage,
            gates=tuple(dataclasses.replace(gate, recurrent_bias=f"{gate.bias}_h") for gate in stage.gates),
        )
        for stage in cell.stages
    )
    return dataclasses.replace(cell, name=f"{cell.name}_with_biases", stages=stages)


@pytest.mark.parametrize("key", NAMES)
def test_any_key_of_a_parameter(key, engine, rng):
    problem = make_problem(one_gate(Gate((key,), "b")), rng, lengths=[5, 2, 0])
    with rnnx.use_engine("reference"):
        expected = problem.gradients()
    for name, gradient in problem.gradients().items():
        assert_close(gradient, expected[name], 10 * ENGINES_TOLERANCE["float64"], name)
    stream = rnnx.Stream(problem.cell, problem.parameters, m=3, s0=problem.s0)
    (a,), _, _ = rnnx.recurrent_forward(problem.cell, problem.x, problem.s0, problem.parameters)
    for t in range(2):
        assert_close(stream.step(problem.x[:, :, t]), a[:, :, t], 1e-13)


@pytest.mark.parametrize(
    "cell", [with_recurrent_biases(rnnx.CELLS[name]) for name in ("rnn", "lstm", "gru")], ids=lambda c: c.name
)
def test_recurrent_biases_of_additive_stages(cell, engine, rng):
    problem = make_problem(cell, rng, m=2, n_steps=3)
    problem.parameters |= {key: rng.standard_normal((4, 1)) for key in cell.optional_keys}
    found = problem.gradients()
    for gate in cell.gates:
        assert_close(found[f"d{gate.recurrent_bias}"], found[f"d{gate.bias}"], 1e-13)
    key = cell.gates[0].recurrent_bias
    numeric = numeric_gradient(problem.loss, problem.parameters[key])
    assert_close(found[f"d{key}"], numeric, TOLERANCE["gradient"], key)
    stream = rnnx.Stream(cell, problem.parameters, m=2, s0=problem.s0)
    (a, *_), _, _ = rnnx.recurrent_forward(cell, problem.x, problem.s0, problem.parameters)
    assert_close(stream.step(problem.x[:, :, 0]), a[:, :, 0], 1e-13)


def test_no_gradient_of_a_bias_that_was_not_given(engine, rng):
    cell = with_recurrent_biases(rnnx.CELLS["lstm"])
    problem = make_problem(cell, rng)
    problem.parameters = {key: a for key, a in problem.parameters.items() if key == "bi_h" or not key.endswith("_h")}
    assert {key for key in problem.gradients() if key.endswith("_h")} == {"dbi_h"}


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ((Gate(("W",), "b"), Gate(("V",), "b")), "duplicate key 'b'"),
        ((Gate(("x",), "b"),), "'x', which is an argument name"),
        ((Gate(("W",), "a0"),), "'a0', which is an argument name"),
    ],
)
def test_keys_that_would_be_ambiguous(gates, message):
    with pytest.raises(ValueError, match=message):
        Cell("odd", ("a",), (Stage(gates, ("a",), (), forward, backward),))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "float32", "float64"])
@pytest.mark.parametrize("m", [1, 80])
def test_dense_layers_of_other_dtypes(dtype, m, engine, rng):
    a, W = rng.integers(0, 4, (64, m, 2)).astype(dtype), rng.integers(-3, 4, (70, 64)).astype("float32")
    z = rnnx.dense_forward(a, W, np.ones((70, 1), "float32"))
    assert z.dtype == ("float64" if dtype == "float64" else "float32")
    expected = np.einsum("ij,jmt->imt", W.astype(float), a.astype(float)) + 1
    assert np.array_equal(z.astype(float), expected)


@pytest.mark.parametrize("m", [1, 8000])
def test_the_dtype_of_a_product_and_a_bias(m, engine):
    """It depends on the dtypes only, not on the size."""
    a, b = np.ones((m, 64), np.float32), np.ones((64, 64), np.float32)
    assert engines.load(engine).matmul(a, b, np.ones(64)).dtype == np.float64


def test_a_memmap_may_change_after_forward(engine, rng, tmp_path):
    problem = make_problem(rnnx.CELLS["lstm"], rng)
    expected = problem.gradients()
    x = np.memmap(tmp_path / "x", float, "w+", shape=problem.x.shape[::-1]).T
    x[...] = problem.x
    _, _, caches = rnnx.recurrent_forward(problem.cell, x, problem.s0, problem.parameters)
    x[...] = 7
    found = rnnx.recurrent_backward(problem.cell, problem.dstates, caches, ds_final=problem.dfinal)
    for name in expected:
        assert np.array_equal(found[name], expected[name]), name


def test_a_missing_package_makes_no_engine_fail(restored_engines):
    rnnx.register_engine("elsewhere", "somewhere:ENGINE", ("numpy",), requires=("nothing.below", "install it"))
    assert rnnx.engine_for(np.ones(3)) == "cpu"
    with pytest.raises(ValueError, match=r"requires nothing\.below"), rnnx.use_engine("elsewhere"):
        pass
    with pytest.raises(ValueError, match=r"`engine` must be an engine or a string 'module:name'; got 'somewhere'"):
        rnnx.register_engine("wrong", "somewhere")


def test_an_engine_registered_during_a_choice_is_found_by_the_next(restored_engines):
    class Racing(tuple):
        """The libraries of an engine, whose thread registers an engine when they are read."""

        def __contains__(self, library):
            if "late" not in rnnx.engine_names():
                rnnx.register_engine("late", "somewhere:ENGINE", ("nothing",))
            return False

    rnnx.register_engine("racing", "somewhere:ENGINE", Racing(("another",)))
    assert engines.engines_of("nothing") == ("reference",)
    assert engines.engines_of("nothing")[0] == "late"
