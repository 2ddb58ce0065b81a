"""Gates with heads, whose recurrent weights are block-diagonal. Most of their tests are in test_one_sided_cells.py."""

import pickle

import numpy as np
import pytest
from head_cells import BIASED_HEADS, HEADS, MANY_HEADS, OF_ALL_KINDS
from oracle import torch_results
from problems import assert_close, make_problem, run

import rnnx
from rnnx.cells import CELLS, Cell, Gate, Stage, mean, tanh
from rnnx.models import CharModel, SequenceClassifier
from rnnx.training import Checkpoint, load_checkpoint, save_checkpoint


def slstm_step(p, s, x, e):
    """The equations of the paper with four heads, as one matrix with zeros besides the blocks."""
    import torch

    a, c, n, m = s
    d = a.shape[0] // 4

    def z(gate):
        blocks = p[f"W{gate}"][:, :d].reshape(4, d, d)
        return torch.block_diag(*blocks) @ a + p[f"W{gate}"][:, d:] @ x + p[f"b{gate}"]

    i, f = z("i"), torch.nn.functional.logsigmoid(z("f"))
    new = torch.maximum(f + m, i)
    c = torch.exp(f + m - new) * c + torch.exp(i - new) * z("z").tanh()
    n = torch.exp(f + m - new) * n + torch.exp(i - new)
    return torch.sigmoid(z("o")) * c / n, c, n, new


@pytest.mark.parametrize("n_a", [8, 20, 68])
@pytest.mark.parametrize("lengths", [None, [4, 0, 5]], ids=["full", "lengths"])
def test_slstm_with_heads_computes_the_equations_of_its_paper(engine, lengths, n_a, rng):
    problem = make_problem(MANY_HEADS, rng, n_a=n_a, lengths=lengths, scale=1 if n_a < 20 else 0.3)
    problem.s0[2][...] = 1 + np.abs(problem.s0[2])
    results, _ = run(problem)
    for key, value in torch_results(slstm_step, problem).items():
        assert_close(results[key], value, 1e-10, key)


@pytest.mark.parametrize("cell", [*HEADS, MANY_HEADS], ids=lambda cell: cell.name)
def test_check_cell_takes_a_size_that_the_heads_divide(cell):
    assert max(rnnx.check_cell(cell).values()) < 1e-6


def test_one_head_is_a_full_matrix():
    assert CELLS["slstm"].replace(heads=1) == CELLS["slstm"]
    assert not any(stage.heads > 1 for stage in CELLS["slstm"].stages)
    assert CELLS["slstm"] != MANY_HEADS == CELLS["slstm"].replace(heads=4)
    assert pickle.loads(pickle.dumps(MANY_HEADS)) == MANY_HEADS


def test_heads_are_independent(engine, rng):
    """The heads of a cell are cells of their own, and what is not finite stays in its head."""
    problem = make_problem(MANY_HEADS, rng, n_x=3, n_a=12, m=2)
    problem.s0[2][...] = 1 + np.abs(problem.s0[2])
    states = problem.forward()[0]
    for head in range(4):
        rows = slice(3 * head, 3 * head + 3)
        p = {key: array[rows] for key, array in problem.parameters.items()}
        alone, _, _ = rnnx.recurrent_forward("slstm", problem.x, [s[rows] for s in problem.s0], p)
        for whole, part in zip(states, alone, strict=True):
            assert_close(whole[rows], part, 1e-12)
    problem.s0[0][4] = np.nan
    results, _ = run(problem)
    for key, array in results.items():
        if key != "dx":
            assert np.isfinite(np.delete(array, slice(3, 6), axis=0)).all(), key
    assert np.isnan(results["a"][3:6]).all()


def test_initial_weights_are_orthogonal_blocks():
    p = rnnx.initialize_parameters(MANY_HEADS, 3, 12, seed=0, dtype="float64")
    assert {key: array.shape for key, array in p.items() if key[0] == "W"} == dict.fromkeys(
        ("Wf", "Wi", "Wz", "Wo"), (12, 6)
    )
    for block in p["Wf"][:, :3].reshape(4, 3, 3):
        np.testing.assert_allclose(block @ block.T, np.eye(3), atol=1e-12)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="n_a must be divisible by the number of heads of `Wf`, 4; got n_a = 10"):
        rnnx.initialize_parameters(MANY_HEADS, 3, 10)
    with pytest.raises(ValueError, match="n_a must be divisible by the number of heads of `Wf`, 4; got n_a = 10"):
        SequenceClassifier(3, 10, num_classes=2, cell=MANY_HEADS)
    p = rnnx.initialize_parameters(MANY_HEADS, 3, 12, seed=0)
    with pytest.raises(ValueError, match=r"`Wz` must have shape \(n_a, n_a / 4 \+ n_x\) = \(12, 6\); got \(12, 15\)"):
        rnnx.recurrent_forward(MANY_HEADS, np.ones((3, 2, 4)), (), {**p, "Wz": np.ones((12, 15))})
    with pytest.raises(ValueError, match=r"`Wf` must have shape \(n_a, n_a / 4 \+ n_x\) = \(12, 6\); got \(12, 3\)"):
        rnnx.recurrent_forward(MANY_HEADS, np.ones((3, 2, 4)), (), {**p, "Wf": np.ones((12, 3))})


@pytest.mark.parametrize(
    ("heads", "error", "message"),
    [
        (0, ValueError, "`heads` must be an integer of at least 1; got 0"),
        (2.5, TypeError, "`heads` must be an integer of at least 1; got 2.5"),
        ("four", TypeError, "`heads` must be a number; got 'four'"),
    ],
)
def test_numbers_of_heads_that_are_none(heads, error, message):
    with pytest.raises(error, match=message):
        CELLS["slstm"].replace(heads=heads)


def of_inputs(x, a, *, f=Gate(heads=2), g=Gate):
    return tanh(f(x) + g(a))


def of_nothing(x, a, *, f=Gate(heads="h")):
    return tanh(f(x, a))


def with_keys(x, a, *, f=Gate(("W",), "b", heads=2)):
    return tanh(f(x, a))


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (of_inputs, ValueError, "gate `f` has 2 heads, so it must be called with more than x"),
        (of_nothing, ValueError, "`heads` of gate `f` must be a number, or the name of one in the signature"),
        (with_keys, TypeError, "a cell's function declares a gate by Gate, or Gate with"),
    ],
)
def test_declarations_that_make_no_sense(function, error, message):
    with pytest.raises(error, match=message):
        rnnx.cell(function)


def test_records_that_make_no_sense():
    for heads, error in ((0, ValueError), (1.5, TypeError), ("h", TypeError)):
        with pytest.raises(error, match="`heads` must be an integer of at least 1"):
            Gate(("W",), "b", heads=heads)
    with pytest.raises(ValueError, match="`heads` of a gate without a recurrent side must be 1; got 2"):
        Gate(("W",), "b", sides="x", heads=2)
    forward = BIASED_HEADS.stages[0].forward
    with pytest.raises(ValueError, match=r"`gates` of a stage must have the same number of heads; got \[1, 2\]"):
        Stage((Gate(("W",), "b"), Gate(("V",), "c", heads=2)), ("a",), (), forward)
    with pytest.raises(ValueError, match="`gates` of a stage must have `weights`"):
        Stage((Gate(heads=2),), ("a",), (), forward)


def test_gates_with_other_heads_are_another_stage():
    assert [stage.heads for stage in OF_ALL_KINDS.stages] == [1, 2, 3, 2]
    assert OF_ALL_KINDS.multiple == 6


def test_the_products_in_words():
    text = MANY_HEADS.explain()
    assert "f_x = Wf[:, n_a / 4:] @ x + bf" in text
    assert "f_h = block_diagonal(Wf[:, :n_a / 4]) @ a_prev" in text


@rnnx.cell
def pooling(x, a, *, f=Gate(heads=2)):
    return tanh(f(x, a)) - mean(a)


def test_models_and_checkpoints(tmp_path):
    for cell in (MANY_HEADS, pooling):
        model = CharModel(5, 8, cell=cell, num_layers=2, seed=0)
        save_checkpoint(tmp_path / "model.safetensors", Checkpoint(model))
        loaded = load_checkpoint(tmp_path / "model.safetensors", cell=cell).model
        assert loaded.cell == cell
        x = np.array([[0, 3, 1]])
        np.testing.assert_array_equal(loaded.forward(x)[0], model.forward(x)[0])
    save_checkpoint(tmp_path / "model.safetensors", Checkpoint(CharModel(5, 8, cell=MANY_HEADS)))
    with pytest.raises(ValueError, match="`cell` must have the numbers"):
        load_checkpoint(tmp_path / "model.safetensors", cell=MANY_HEADS.replace(heads=2))


def test_a_cell_of_cells(rng):
    """A record with heads in a stage without an input side, after one without gates."""

    def first(ops, zx, zh, s):
        return (ops.tanh(s[0]),), ()

    def second(ops, zx, zh, s):
        return (zh[0] + zx[0],), ()

    gates = Gate(("Wh",), "", sides="h", heads=4), Gate(("Wx",), "b", sides="x")
    cell = Cell("cell", ("a",), (Stage((), ("t",), (), first), Stage(gates, ("a",), (), second)))
    assert rnnx.initialize_parameters(cell, 3, 8)["Wh"].shape == (8, 2)
    assert max(rnnx.check_cell(cell).values()) < 1e-6
