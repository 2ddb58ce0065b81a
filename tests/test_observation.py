"""Gates and weights of any cell, as arrays and as figures."""

import numpy as np
import pytest

import rnnx
from rnnx.analysis import gate_values, text_gradient_norms, text_values
from rnnx.cells import CELLS
from rnnx.cells.options import with_options
from rnnx.data import CharTokenizer
from rnnx.models import CharModel


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def values_of(cell, rng, **keywords):
    parameters = rnnx.initialize_parameters(cell, 3, 4, seed=0, dtype="float64")
    parameters = {key: rng.standard_normal(p.shape) for key, p in parameters.items()}
    x, s0 = rng.standard_normal((3, 5, 6)), [rng.standard_normal((4, 5)) for _ in cell.states]
    states, _, caches = rnnx.recurrent_forward(cell, x, s0, parameters, **keywords)
    before = [np.concatenate([s[:, :, None], a[:, :, :-1]], axis=2) for s, a in zip(s0, states, strict=True)]
    return gate_values(caches), parameters, x, before, states


def product(p, gate, *operands):
    z = np.concatenate(operands)
    return np.einsum("ij,jmt->imt", p[f"W{gate}"], z) + p[f"b{gate}"][:, :, None]


def test_gates_of_a_traced_cell(rng):
    values, p, x, (a, c), (_, after) = values_of(CELLS["peephole_lstm"], rng)
    assert [*values] == ["ft", "it", "gt", "ot", "a", "c"]
    f, i, g, o = (product(p, gate, a, x) for gate in "figo")
    expected = {
        "ft": sigmoid(f + p["pf"][:, :, None] * c),
        "it": sigmoid(i + p["pi"][:, :, None] * c),
        "gt": np.tanh(g),
        "ot": sigmoid(o + p["po"][:, :, None] * after),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-10, atol=1e-12, err_msg=name)


def test_gates_of_two_stages_with_lengths(rng):
    lengths = np.array([6, 4, 1, 0, 6])
    values, p, x, (y, _), (_, after) = values_of(CELLS["lem"], rng, lengths=lengths)
    assert [*values] == ["d1t", "d2t", "zct", "ct", "y", "z"]
    valid = np.arange(6) < lengths[:, None]
    expected = {
        "d1t": sigmoid(product(p, "d1", y, x)),
        "d2t": sigmoid(product(p, "d2", y, x)),
        "zct": np.tanh(product(p, "zc", y, x)),
        "ct": np.tanh(product(p, "c", after, x)),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], np.where(valid, value, 0), rtol=1e-10, atol=1e-12, err_msg=name)


def test_a_product_without_a_function_is_its_gate_and_states_are_left_out(rng):
    values, p, x, (a, _), _ = values_of(CELLS["multiplicative_lstm"], rng)
    assert [*values] == ["mt", "ft", "it", "gt", "ot", "a", "c"]
    h, w = p["Wm"][:, :4], p["Wm"][:, 4:]
    m = np.einsum("ij,jmt->imt", h, a) * (np.einsum("ij,jmt->imt", w, x) + p["bm"][:, :, None])
    np.testing.assert_allclose(values["mt"], m, rtol=1e-10, atol=1e-12)
    assert [*values_of(CELLS["lstmp"], rng)[0]] == ["ft", "it", "gt", "ot", "a", "c"]  # p gives the state a


@pytest.mark.parametrize("name", ["lstm", "gru", "gru_reset_after"])
def test_gates_of_a_built_in_cell_with_zoneout(name, rng):
    cell = CELLS[name]
    values = values_of(with_options(cell, zoneout=(0.2,) * len(cell.states)), np.random.default_rng(0))[0]
    plain = values_of(cell, np.random.default_rng(0))[0]
    assert [*values] == ["ct" if name == "cct" else name for name in plain if name != "hct"]
    for gate in {*values} - {*cell.states}:
        expected = plain["cct" if gate == "ct" else gate]
        np.testing.assert_allclose(values[gate][:, :, 0], expected[:, :, 0], rtol=1e-10)


@pytest.mark.parametrize("cell", ["sru", "ugrnn", "lem", "lru", "slstm", "lstmp", "mingru"])
@pytest.mark.slow
def test_plots_of_a_model_with_any_cell(cell, tmp_path):
    pytest.importorskip("matplotlib")
    from rnnx import plots

    tokenizer = CharTokenizer().fit("hello world")
    layers = 2 if cell == "lstmp" else 1  # each has its own figures, which take long
    model = CharModel(tokenizer.vocab_size, 6, num_layers=layers, cell=cell, zoneout=0.1, seed=0)
    for values in text_values(model, tokenizer, "hello"):
        assert {*model.cell.states} < {*values}
        plots.gate_activations(values, "hello")
    assert len(text_gradient_norms(model, tokenizer, "hello")) == layers
    plots.weight_histograms(model.parameters, cell=model.cell)
    if cell == "lstmp":  # drawing takes seconds
        paths = plots.plot_run([], model, tokenizer, tmp_path, "hello world", dpi=30)
        assert all(path.stat().st_size for path in paths)


def test_weights_of_a_cell_with_one_sided_gates():
    pytest.importorskip("matplotlib")
    from rnnx.plots.weights import _Keys, _parts

    cell = CELLS["sru"]
    keys = _Keys([cell], {})
    for gate in cell.gates:
        assert [*_parts(f"{gate.weights[0]}_l0", np.zeros((3, 7)), keys)] == ["input weights"]
    for key in {*cell.vectors} & {*cell.parameter_keys}:
        assert keys.is_bias(f"{key}_l0", np.zeros((3, 1)))
