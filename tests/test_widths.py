"""Cells with several widths. Most of their tests are in test_one_sided_cells.py and test_options.py."""

import pickle
import shutil

import numpy as np
import pytest
from oracle import torch_results
from problems import assert_close, make_problem, run
from wide_cells import OF_INPUTS_ALONE, PROJECTION, RECORD, THREE_WIDTHS, WIDE

import rnnx
from rnnx.analysis import gate_values, state_gradients
from rnnx.cells import CELLS, Cell, Gate, Input, Stage, Vector, tanh
from rnnx.cells.wiring import wiring
from rnnx.models import CharModel, Seq2Seq, SequenceClassifier
from rnnx.training import Checkpoint, load_checkpoint, save_checkpoint

ENGINES = ["reference", "cpu", *["emulated"] * bool(shutil.which("g++"))]


def projection_step(p, s, x, e):
    """The equations of the paper: r = W_rm m and, from 18 cells, m = o tanh(c)."""
    import torch

    def z(gate):
        return p[f"W{gate}"] @ torch.cat([a, x]) + p[f"b{gate}"]

    a, c = s
    c = torch.sigmoid(z("f")) * c + torch.sigmoid(z("i")) * z("g").tanh()
    return p["Wp"] @ (torch.sigmoid(z("o")) * c.tanh()), c


def of_inputs_step(p, s, x, e):
    import torch

    a, b = s
    b = (p["Wg"] @ x + p["bg"] + torch.block_diag(*p["Wf"].reshape(2, 1, 1)) @ b).tanh()
    return a * 0.5 + torch.sigmoid(p["Wh"] @ torch.cat([b, x]) + p["bh"]), b


def three_widths_step(p, s, x, e):
    import torch

    a, b, c = s
    b = (p["Wf"] @ torch.cat([a, x]) + p["bf"]).tanh() * b
    a = (p["Wg"] @ torch.cat([a, x]) + p["bg"]).tanh() + a * p["v"]
    c = c * torch.exp(-p["w"]) + ((p["Wh"] @ b) * (p["Wk"] @ a)).tanh() * e["e"]
    normalized = torch.nn.functional.layer_norm(c.T, c.shape[:1], p["w"][:, 0], eps=1e-5).T
    return a, b + torch.sigmoid(p["Wq"] @ c), normalized + e["e"]


STEPS = [(PROJECTION, projection_step), (OF_INPUTS_ALONE, of_inputs_step), (THREE_WIDTHS, three_widths_step)]


@pytest.mark.parametrize("lengths", [None, [4, 0, 5]], ids=["full", "lengths"])
@pytest.mark.parametrize(("cell", "step"), STEPS, ids=lambda value: getattr(value, "name", ""))
def test_the_equations_in_torch(cell, step, engine, lengths, rng):
    for n_a in (4, 19):
        problem = make_problem(cell, rng, n_a=n_a, lengths=lengths)
        results, _ = run(problem)
        for key, value in torch_results(step, problem).items():
            assert_close(results[key], value, 1e-10, key)


@pytest.mark.parametrize("cell", WIDE, ids=lambda cell: cell.name)
def test_central_differences(cell):
    sizes = {"n_x": 2, "n_a": -(-2 // cell.multiple) * cell.multiple, "m": 2, "n_steps": 3}
    assert max(rnnx.check_cell(cell, engine_names=ENGINES, **sizes).values()) < 1e-6


def test_the_projection_has_the_parameters_of_torch():
    """weight_hr is (proj_size, hidden_size), and the others have hidden_size rows and proj_size columns."""
    p = rnnx.initialize_parameters(CELLS["lstmp"].replace(cells=64), 3, 16, seed=0)
    shapes = {key: array.shape for key, array in p.items()}
    assert shapes["Wf"] == (64, 16 + 3)
    assert shapes["bf"] == (64, 1)
    assert shapes["Wp"] == (16, 64)
    assert (p["bf"] == 1).all()
    assert CELLS["lstmp"].replace(cells=0) == CELLS["lstmp"]
    assert not CELLS["lstmp"].has_widths
    assert pickle.loads(pickle.dumps(PROJECTION)) == PROJECTION


def test_widths_are_inferred():
    assert dict(THREE_WIDTHS.widths) == {"b": 3, "c": 21, "w": 21, "e": 21, "hoisted 0": 21}
    assert [stage.width for stage in wiring(PROJECTION)] == [18, 0, 0, 18]
    assert [stage.width for stage in wiring(CELLS["lstmp"])] == [0, 0]
    gates = {gate.weights[0]: (gate.width, gate.operand_width) for gate in PROJECTION.gates}
    assert gates == dict.fromkeys(("Wf", "Wi", "Wg", "Wo"), (18, 0)) | {"Wp": (0, 18)}


@pytest.mark.parametrize("engine_name", ENGINES)
def test_what_does_not_fit_is_named(engine_name):
    p, x = rnnx.initialize_parameters(PROJECTION, 3, 4, seed=0, dtype="float64"), np.ones((3, 2, 5))
    with rnnx.use_engine(engine_name):
        for key, shape, message in (
            ("Wf", (18, 8), r"`Wf` must have shape \(18, n_a \+ n_x\) = \(18, 7\); got \(18, 8\)"),
            ("Wf", (17, 7), r"`Wf` must have shape \(18, n_a \+ n_x\) = \(18, 7\); got \(17, 7\)"),
            ("bf", (4, 1), r"`bf` must have shape \(18, 1\) = \(18, 1\); got \(4, 1\)"),
            ("Wp", (4, 4), r"`Wp` must have shape \(n_a, 18\) = \(4, 18\); got \(4, 4\)"),
        ):
            with pytest.raises(ValueError, match=message):
                rnnx.recurrent_forward(PROJECTION, x, (), {**p, key: np.ones(shape)})
        with pytest.raises(ValueError, match=r"`c0` must have shape \(18, m\) = \(18, 2\); got \(4, 2\)"):
            rnnx.recurrent_forward(PROJECTION, x, (None, np.ones((4, 2))), p)
        states, _, caches = rnnx.recurrent_forward(PROJECTION, x, (), p)
        assert [s.shape for s in states] == [(4, 2, 5), (18, 2, 5)]
        with pytest.raises(ValueError, match=r"`dc` must have shape \(18, m, T\) = \(18, 2, T\)"):
            rnnx.recurrent_backward(PROJECTION, (None, np.ones((4, 2, 5))), caches)
        with pytest.raises(ValueError, match=r"`dc_final` must have shape \(18, m\) = \(18, 2\); got \(4, 2\)"):
            rnnx.recurrent_backward(PROJECTION, (), caches, ds_final=(None, np.ones((4, 2))))
    q = rnnx.initialize_parameters(THREE_WIDTHS, 3, 4, seed=0)
    with pytest.raises(ValueError, match=r"`e` must have shape \(21, m, T_x\) = \(21, 2, 5\) or .*; got \(4, 2, 5\)"):
        rnnx.recurrent_forward(THREE_WIDTHS, x, (), q, inputs={"e": np.ones((4, 2, 5))})
    stream = rnnx.Stream(THREE_WIDTHS, q, m=2)
    with pytest.raises(ValueError, match=r"`e` must have shape \(21, m\) = \(21, 2\) or .*; got \(4, 2\)"):
        stream.step(x[:, :, 0], inputs={"e": np.ones((4, 2))})


def different(x, a, *, f=Gate(width=3), g=Gate):
    return tanh(g(x, a) + f(x))


def wide_hidden_state(x, a, *, f=Gate(width=3)):
    return tanh(f(x, a))


def two_numbers(x, a, b, *, f=Gate(width=3), g=Gate(width=4), v=Vector):
    return a, tanh(f(x) * v + b) - g(x)


def without_n_a(x, a, b, *, f=Gate(width=3), v=Vector):
    return tanh(a), f(x, a) + b * v


def with_heads(x, a, b, *, f=Gate(width=4, heads=2), g=Gate, e=Input):
    return tanh(g(x, a) * e), f(a) + b


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (different, "values of different widths are combined: state `a` has n_a units and gate `f` 3"),
        (wide_hidden_state, "values of different widths are combined: state `a` has n_a units and gate `f` 3"),
        (two_numbers, "values of different widths are combined: gate `f` has 3 units and gate `g` 4"),
        (without_n_a, "a gate or vector of cell 'without_n_a' must have n_a units, as the first state has"),
        (with_heads, "a gate with heads must be as wide as what it multiplies"),
    ],
)
def test_cells_that_cannot_be(function, message):
    with pytest.raises(ValueError, match=message):
        rnnx.cell(function)


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (2.5, TypeError)])
def test_numbers_that_are_no_width(value, error):
    with pytest.raises(error, match="`cells` must be an integer of at least 0"):
        CELLS["lstmp"].replace(cells=value)


def test_records_that_cannot_be():
    (stage,), gates = RECORD.stages, RECORD.gates
    forward = stage.forward

    def record(gates, widths):
        return Cell("record", ("a", "c"), (Stage(gates, ("a", "c"), (), forward),), widths=widths)

    for widths, message in (
        ((), "cell 'record': values of different widths are combined: 'Wc' has 9 units and 'c' n_a"),
        ((("c", 8),), "cell 'record': values of different widths are combined: 'Wc' has 9 units and 'c' 8"),
        ((("a", 9), ("c", 9)), "`widths` of cell 'record' has 'a', which cannot have a width of its own"),
        ((("d", 9),), "`widths` of cell 'record' has 'd', which cannot have a width of its own"),
    ):
        with pytest.raises(ValueError, match=message):
            record(gates, widths)
    with pytest.raises(ValueError, match=r"`operand_width` of \['Wc'\] of cell 'record' must be 0, that of 'a'"):
        record((Gate(("Wc",), "bc", width=9, operand_width=9), gates[1]), (("c", 9),))


def test_the_equations_in_words():
    text = PROJECTION.explain()
    assert "Stage 1 of 4, 18 units: Products:\n    f_x = Wf[:, n_a:] @ x + bf" in text
    assert "f_h = Wf[:, :n_a] @ a_prev" in text
    assert "p_h = Wp @ out0_0" in text


@pytest.mark.parametrize("engine_name", ENGINES)
def test_models(engine_name, tmp_path, rng):
    options = {"cell": PROJECTION, "num_layers": 2, "seed": 0}
    with rnnx.use_engine(engine_name):
        model = CharModel(5, 8, **options, zoneout=0.1, recurrent_dropout=0.2)
        x = np.array([[0, 3, 1, 2], [4, 4, 0, 1]])
        out = model.forward(x)[0]
        save_checkpoint(tmp_path / "model.safetensors", Checkpoint(model))
        loaded = load_checkpoint(tmp_path / "model.safetensors", cell=PROJECTION).model
        np.testing.assert_array_equal(loaded.forward(x)[0], out)
        classifier = SequenceClassifier(3, 8, num_classes=2, bidirectional=True, **options)
        assert classifier.predict(rng.standard_normal((3, 2, 4)).astype("float32")).shape[-1] == 2
        translator = Seq2Seq(6, 6, 8, cell=PROJECTION, seed=0)
        assert translator.predict(np.array([[3, 1, 2], [5, 0, 0]]), source_lengths=[3, 1], max_length=4)


def test_inspection(rng):
    problem = make_problem(PROJECTION, rng)
    _, _, caches = problem.forward()
    values = gate_values(caches)
    assert {name: array.shape[0] for name, array in values.items()} == {
        **dict.fromkeys(("ft", "it", "gt", "ot", "c"), 18),
        "a": 4,
    }
    gradients = state_gradients(caches, ds_final=problem.dfinal)
    assert [gradients[name].shape for name in ("da", "dc")] == [(4, 3, 6), (18, 3, 6)]
