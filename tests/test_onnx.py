"""Exported models compute in onnxruntime what they compute here."""

import json

import numpy as np
import pytest
from head_cells import HEADS
from lab import ok
from mean_cells import MEANS
from wide_cells import WIDE

import rnnx
from rnnx.convert import save_onnx, to_onnx
from rnnx.data import Scaler
from rnnx.models import CharModel, Seq2Seq, SequenceClassifier, SequenceRegressor
from rnnx.training.checkpoint import load_run

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

ZOO = list(rnnx.CELLS.values())
OWN = [cell for cell in (*HEADS, *MEANS, *WIDE) if cell not in ZOO]
LENGTHS = [7, 3, 1, 5]


@pytest.fixture(autouse=True)
def _nothing_to_compile():
    with rnnx.use_engine("reference"):
        yield


def session(model):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    data = model if isinstance(model, str) else model.SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def results(proto, x, lengths, states, extra):
    """All results of onnxruntime by name."""
    feed = {"inputs": np.ascontiguousarray(x.T)}
    feed |= {name: np.ascontiguousarray(s.T) for name, s in states.items()}
    feed |= {name: np.ascontiguousarray(e.T)[:, :, None] for name, e in extra.items()}
    if lengths is not None:
        feed["lengths"] = np.array(lengths)
    one = session(proto)
    return dict(zip([output.name for output in one.get_outputs()], one.run(None, feed), strict=True))


def compare(model, rng, lengths, indices=False, described=False):
    """Compare outputs and final states."""
    m, n_steps, stack = 4, 7, model.stack
    x = rng.standard_normal((stack.input_size, m, n_steps)).astype(model.dtype)
    if indices:
        x = rng.integers(0, stack.input_size, (m, n_steps))
    sizes = {name: size for one in stack.directions for name, size in one.state_sizes.items()}
    # Positive, because some cells divide by a state.
    states = {name: rng.uniform(0.5, 1, (size, m)).astype(model.dtype) for name, size in sizes.items()}
    extra = {name: rng.random((m, n_steps)).astype(model.dtype) for name in stack.cell.inputs}
    found = results(to_onnx(model, states=True, lengths=lengths is not None), x, lengths, states, extra)
    y, final = model.outputs(x, lengths=lengths, states=states, extra=extra or None)
    more = model.loss_function.outputs if described else ()
    assert found.keys() == {"outputs", *(name + "_final" for name in sizes), *more}
    for name, expected in {"outputs": y, **{name + "_final": s for name, s in final.items()}}.items():
        assert found[name].dtype == model.dtype
        np.testing.assert_allclose(found[name], expected.T, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("lengths", "options"),
    [
        (None, {}),
        (LENGTHS, {"per_step": True}),
        (LENGTHS, {"bidirectional": True}),
        (None, {"per_step": True, "bidirectional": True}),
    ],
)
@pytest.mark.parametrize("cell", [*ZOO, *OWN], ids=lambda cell: cell.name)
def test_any_cell_and_stack(cell, lengths, options, rng):
    model = SequenceRegressor(3, 4 * cell.multiple, 2, num_layers=2, cell=cell, seed=0, **options)
    compare(model, rng, lengths)


@pytest.mark.parametrize("cell", ["lstm", "gru", "mgu", "relu_rnn"])
def test_character_models(cell, rng):
    compare(CharModel(11, 8, 2, cell=cell, seed=0), rng, LENGTHS, indices=True)


@pytest.mark.parametrize("cell", ["lstm", "mgu"])
def test_classifiers_zoneout_and_double_precision(cell, rng):
    """Evaluation mixes old and new states with zoneout. onnxruntime has no recurrent nodes in double precision."""
    compare(SequenceClassifier(3, 8, 4, cell=cell, zoneout=0.25, seed=0), rng, LENGTHS)
    compare(SequenceClassifier(3, 8, 4, cell="mgu", dtype="float64", seed=0), rng, None)


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        ("lstm", {"attention": "additive"}),
        ("gru", {"attention": "dot", "bidirectional_encoder": False}),
        ("mgu", {"attention": "scaled_dot", "num_layers": 2, "zoneout": 0.25}),
        ("phased_lstm", {"attention": None}),
    ],
)
def test_encoders_with_decoders(cell, options, rng):
    """One file decodes greedily, until all examples have ended or there are max_length steps."""
    model = Seq2Seq(9, 6, 8, cell=cell, seed=2, end_token=1, **options)
    model.set_parameters({key: 2 * a for key, a in model.parameters.items()})  # for outputs that differ from each other
    source = rng.integers(0, 9, (4, 7))
    for lengths, most in ((None, 9), (LENGTHS, 9), (LENGTHS, 2)):
        one = session(to_onnx(model, lengths=lengths is not None))
        feed = {"source": source.T.copy(), "max_length": np.array(most)}
        feed |= {} if lengths is None else {"source_lengths": np.array(lengths)}
        found = dict(zip([output.name for output in one.get_outputs()], one.run(None, feed), strict=True))
        expected = model.predict(source, source_lengths=lengths, max_length=most)
        np.testing.assert_array_equal(found["indices"].T, expected.indices)
        np.testing.assert_array_equal(found["lengths"], expected.lengths)
        assert ("weights" in found) == (options["attention"] is not None)
        if "weights" in found:
            np.testing.assert_allclose(found["weights"].swapaxes(0, 1), expected.weights, rtol=1e-5, atol=1e-5)


def test_models_with_a_scaler_and_several_outputs_for_each_target(rng):
    model = SequenceRegressor(3, 4, 2, loss="quantile", input_scaler=Scaler([1, 2, 3], [0.5, 2, 3]), seed=0)
    compare(model, rng, LENGTHS, described=True)
    assert session(to_onnx(model)).get_outputs()[0].shape == ["m", 6]


@pytest.mark.parametrize("per_step", [True, False])
@pytest.mark.parametrize("loss", ["squared_error", "quantile", "student_t", "poisson"])
def test_what_outputs_say(loss, per_step, rng):
    """Further outputs are the numbers of `predict_distribution`, in the units of the targets."""
    scaler = None if loss == "poisson" else Scaler([-50, 3], [20, 0.5])
    model = SequenceRegressor(3, 4, 2, loss=loss, target_scaler=scaler, per_step=per_step, seed=0)
    x = rng.standard_normal((3, 4, 7)).astype("float32")
    found = results(to_onnx(model, lengths=True), x, LENGTHS, {}, {})
    expected = model.predict_distribution(x, lengths=LENGTHS)
    assert found.keys() == {"outputs", *expected}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values.T, rtol=1e-5, atol=1e-4, err_msg=name)


def test_initial_states_are_zero_by_default(rng):
    model = SequenceClassifier(3, 8, 4, seed=0)
    x = rng.standard_normal((3, 2, 5)).astype("float32")
    found = results(to_onnx(model), x, None, {}, {})
    np.testing.assert_allclose(found["outputs"], model.outputs(x)[0].T, atol=1e-5)
    assert found.keys() == {"outputs"}


def test_a_text_in_parts(rng):
    model = CharModel(11, 8, seed=0)
    proto = to_onnx(model)
    x = rng.integers(0, 11, (1, 9))
    states = {name: np.zeros((8, 1), "float32") for name in model.stack.state_names}
    whole, parts = results(proto, x, None, states, {}), []
    for t in range(9):
        found = results(proto, x[:, t : t + 1], None, states, {})
        states = {name: found[name + "_final"].T for name in states}
        parts.append(found["outputs"])
    np.testing.assert_allclose(np.concatenate(parts), whole["outputs"], atol=1e-6)


def test_a_file_of_its_own(tmp_path, rng):
    model = SequenceRegressor(3, 8, cell="mgu", seed=0)
    save_onnx(model, tmp_path / "model.onnx", lengths=True)
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    assert [i.name for i in session(str(tmp_path / "model.onnx")).get_inputs()] == ["inputs", "lengths"]


def test_errors(tmp_path):
    with pytest.raises(TypeError, match=r"`model` must be a CharModel, .* MultiTaskModel or Seq2Seq"):
        to_onnx(None)
    with pytest.raises(ValueError, match="`states` must be False for a Seq2Seq"):
        to_onnx(Seq2Seq(5, 5, 4), states=True)
    with pytest.raises(ValueError, match="`indices` must be True for a Seq2Seq"):
        to_onnx(Seq2Seq(5, 5, 4), indices=False)
    scaled = SequenceRegressor(2, 4, input_scaler=Scaler([1, 2], [3, 4]))
    with pytest.raises(ValueError, match="`indices` must be False for a model with an `input_scaler`"):
        to_onnx(scaled, indices=True)
    with pytest.raises(TypeError, match="`lengths` must be True or False"):
        to_onnx(CharModel(5, 4), lengths="no")
    with pytest.raises(TypeError, match="`states` must be True or False"):
        save_onnx(CharModel(5, 4), tmp_path / "model.onnx", states=1)
    assert not list(tmp_path.iterdir())


def test_the_command(run, tmp_path):
    ok(run("train", "--text", "names.txt", "--hidden-size", 8, "--iterations", 2, "--output", "run"))
    assert "names.onnx" in ok(run("export", "run", "names.onnx"))
    loaded, proto = load_run("run", np), onnx.load(tmp_path / "names.onnx")
    (entry,) = proto.metadata_props
    assert json.loads(entry.value) == loaded.tokenizer.get_vocab()
    x = loaded.tokenizer.encode("tri")[None].astype(np.int64)
    states = {name: np.zeros((8, 1), "float32") for name in loaded.model.stack.state_names}
    found = results(proto, x, None, states, {})
    np.testing.assert_allclose(found["outputs"], loaded.model.outputs(x)[0].T, atol=1e-5)
    code, _, message = run("export", "run", "names.onnx", "--int8")
    assert code == 1
    assert "--int8 is not for .onnx files" in message
