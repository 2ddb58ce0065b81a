"""Exported models with several heads, and with every option of a model, compute what they compute here."""

import inspect
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from lab import ok

import rnnx
from rnnx import models
from rnnx.data import Scaler
from rnnx.export import build, library, load, to_c
from rnnx.models import CharModel, Head, MultiTaskModel, Seq2Seq, SequenceClassifier, SequenceRegressor
from rnnx.training import Checkpoint, save_checkpoint

WITH_C = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
STRICT = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror"]
SCALER = Scaler([1e2, -2, 0], [5, -1, 0.1])
HEADS = {
    "load": Head(2, "gaussian", per_step=True, target_scaler=Scaler([30, -2], [20, 0.5])),
    "Load": Head(1, {"name": "quantile", "quantiles": [0.1, 0.9]}, weight=2),
    "é": Head(2, "binary"),
    "add_3": Head(3, "cross_entropy", per_step=True),  # as nodes of a graph might be called
    "state": Head(3, "multi_label"),
    "x": Head(4, "poisson"),
}
SHAPES = [{}, {"bidirectional": True, "input_scaler": SCALER}]
ENDS = {"load", "add_3"}


@pytest.fixture(autouse=True)
def _nothing_to_compile():
    with rnnx.use_engine("reference"):
        yield


def model_of(heads=HEADS, **options):
    return MultiTaskModel(3, [5, 6], heads, **{"cell": "gru", "rng": 0, **options})


def compiled(monkeypatch, folder, model, flags=("-O1",), **options):
    monkeypatch.setattr(library, "_FLAGS", [*library._FLAGS, *STRICT, *flags])
    return load(build(to_c(model, folder / "model.c", **options)[0]))


@WITH_C
@pytest.mark.parametrize("kind", [*SHAPES, {"cell": "phased_lstm"}])
def test_outputs_of_heads_in_c(kind, rng, tmp_path, monkeypatch):
    model = model_of(**kind)
    shared = compiled(monkeypatch, tmp_path, model, vocabulary={"add_3": ["a", "b", "c"]})
    assert {name: (head.n_y, head.per_step) for name, head in shared.heads.items()} == {
        name: (len(model.parameters[f"by_{name}"]), name in ENDS) for name in HEADS
    }
    assert [head.vocabulary for head in shared.heads.values()] == [None] * 3 + [["a", "b", "c"]] + [None] * 2
    x = SCALER.inverse(rng.standard_normal((3, 7))).astype("f4") if "input_scaler" in kind else rng.random((3, 7))
    found, z = shared.run(x), model.forward(x[:, None])[0]
    for name, expected in z.items():
        np.testing.assert_allclose(found[name], expected[:, 0], rtol=1e-5, atol=1e-5, err_msg=name)
    said = shared.predict(found)
    predictions, described = model.predict(x[:, None]), model.predict_distribution(x[:, None])
    for name, head in HEADS.items():
        own = {"probability": predictions[name]} if head.loss.kind == "classes" else described[name]
        assert said[name].keys() == own.keys()
        for key, expected in own.items():
            np.testing.assert_allclose(said[name][key], expected[:, 0], rtol=1e-5, atol=1e-4, err_msg=f"{name}.{key}")


@WITH_C
def test_heads_step_by_step(rng, tmp_path, monkeypatch):
    """Those with one output for a sequence give that of the sequence so far."""
    shared = compiled(monkeypatch, tmp_path, model_of())
    x, other = rng.random((3, 4)), shared.copy()
    for t in range(4):
        y = shared.step(x[:, t])
        so_far = other.copy().run(x[:, : t + 1])
        for name, found in y.items():
            np.testing.assert_array_equal(found, so_far[name][:, t] if name in ENDS else so_far[name], err_msg=name)
    with pytest.raises(ValueError, match=r"`y` may contain the heads \['load', .*; got 'lod'"):
        shared.predict({"lod": [1]})


PROGRAM = """
#include <stdio.h>
#include "model.h"
int main(void) {
  static model_state s;
  static const float x[5 * MODEL_INPUTS] = {1.0f, 2.0f};
  float y[MODEL_OUTPUTS_LABEL], p[MODEL_OUTPUTS_LABEL];
  int i;
  model_init(&s);
  if (model_run(&s, x, 5, NULL, y)) return 1;
  model_probabilities_label(y, 1.0f, p);
  for (i = 0; i < MODEL_OUTPUTS_LABEL; ++i) printf("%s %.5f\\n", model_vocabulary_label[i], p[i]);
  return 0;
}
"""


@WITH_C
def test_a_program_that_reads_one_head(tmp_path):
    heads = {"load": Head(1, "gaussian", per_step=True), "label": Head(3, "cross_entropy")}
    model = MultiTaskModel(3, 8, heads, rng=0)
    to_c(model, tmp_path / "model.c", vocabulary={"label": ["on", "off", "idle"]})
    (tmp_path / "main.c").write_text(PROGRAM)
    command = ["cc", *STRICT, "-O3", "-march=native", "main.c", "model.c", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    printed = subprocess.run(["./main"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    x = np.zeros((3, 1, 5), "f4")
    x[:2, 0, 0] = 1, 2
    found = [line.split() for line in printed.splitlines()]
    assert [name for name, _ in found] == ["on", "off", "idle"]
    np.testing.assert_allclose([float(p) for _, p in found], model.predict(x)["label"][:, 0], atol=1e-5)


@WITH_C
@pytest.mark.parametrize("n", [4, 8, 12])
def test_constants_with_all_optimizations(n, tmp_path, monkeypatch, rng):
    """GCC 12 makes wrong vectors for AVX-512 of constants such as n ones and then zeros: also scalers and vectors."""
    ones = np.float32(np.arange(16) < n)
    scalers = {"input_scaler": Scaler(1 - ones, 1 + ones), "target_scaler": Scaler(ones, 2 - ones)}
    model = SequenceRegressor(16, 16, 16, cell="peephole_lstm", rng=0, **scalers)
    for name, p in model.parameters.items():
        if p.shape == (16,) or name.startswith("p"):
            model.parameters[name] = ones.reshape(p.shape)
    shared, x = compiled(monkeypatch, tmp_path, model, flags=()), rng.random((16, 5))
    y = shared.run(x)
    np.testing.assert_allclose(y, model.outputs(x[:, None])[0][:, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(shared.predict(y)["y"], model.predict(x[:, None])[:, 0], rtol=1e-5, atol=1e-5)
    source = (tmp_path / "model.c").read_text()
    for name in ("pf_l0", "pi_l0", "po_l0", "input_mean", "input_scale", "target_mean", "target_scale"):
        assert f"OPAQUE({name}_at);" in source  # as this bug depends on the constants
        assert f"{name}[u]" not in source


@pytest.mark.parametrize("loss", ["squared_error", "quantile", "poisson", "binary", "multi_label", "cross_entropy"])
def test_every_function_of_a_file_is_called(loss, tmp_path):
    """Compilers warn of others; GCC not of inline ones."""
    source = to_c(MultiTaskModel(3, 5, {"a": Head(2, loss)}, rng=0), tmp_path / "model.c")[0].read_text()
    source = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
    names = re.findall(r"^static [^=;{]*?(\w+)\(", source, re.MULTILINE)
    assert "op_tanh" in names
    assert [name for name in names if len(re.findall(rf"\b{name}\b", source)) < 2] == []


@WITH_C
@pytest.mark.parametrize("kind", ["float64", "torch", "int8"])
def test_eight_bits_of_any_model(kind, rng, tmp_path, monkeypatch):
    xp = pytest.importorskip("array_api_compat.torch", reason="no torch") if kind == "torch" else np
    model = model_of(dtype="float64" if kind == "float64" else "float32", xp=xp)
    same = model_of(parameters={name: np.asarray(p, "f4") for name, p in model.parameters.items()}).quantized("int8")
    shared = compiled(monkeypatch, tmp_path, same if kind == "int8" else model, weights="int8")
    x = rng.random((3, 7), "f4")
    for name, expected in same.forward(x[:, None], keep_caches=False)[0].items():
        np.testing.assert_allclose(shared.run(x)[name], expected[:, 0], rtol=1e-5, atol=1e-5, err_msg=name)
        shared.reset()


@WITH_C
def test_inputs_of_a_library(tmp_path, monkeypatch):
    shared = compiled(monkeypatch, tmp_path, model_of(cell="phased_lstm"))
    empty = shared.run(np.zeros((3, 0)))
    assert {name: y.shape for name, y in empty.items()} == {
        name: (head.n_y, 0) if head.per_step else (head.n_y,) for name, head in shared.heads.items()
    }
    for message, call in (
        (r"`extra\['t'\]` must hold a number per step, \(T,\) = \(4,\); got \(3,\)",
         lambda: shared.run(np.zeros((3, 4)), {"t": [1, 2, 3]})),
        (r"`extra\['t'\]` must hold a number per step, .*; got \(2, 2\)",
         lambda: shared.run(np.zeros((3, 4)), {"t": [[1, 2], [3, 4]]})),
        (r"`y` must be a dict with outputs by head, \['load', .*; got list", lambda: shared.predict([1, 2])),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            call()


def test_errors(tmp_path):
    model, path = model_of(), tmp_path / "model.c"
    for error, message, call in (
        (TypeError, r"`vocabulary` must be a dict with names of heads, \['load', .*; got \['a'\]",
         lambda: to_c(model, path, vocabulary=["a"])),
        (ValueError, "`vocabulary` has no head 'lod'.*load", lambda: to_c(model, path, vocabulary={"lod": ["a"]})),
        (ValueError, r"`vocabulary\['é'\]` must have an entry for each of the 2 outputs; got 1",
         lambda: to_c(model, path, vocabulary={"é": ["a"]})),
        (TypeError, r"`vocabulary\['é'\]` must be a sequence of str; got \{", # without an order
         lambda: to_c(model, path, vocabulary={"é": {"a", "b"}})),
        (ValueError, "`indices` must be False", lambda: to_c(model_of(input_scaler=SCALER), path, indices=True)),
        (TypeError, "`model` must be a CharModel, .* MultiTaskModel or Seq2Seq; got", lambda: to_c(model.stack, path)),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            call()
    model.parameters["by_x"] = np.full((4, 1), np.inf, "f4")
    with pytest.raises(ValueError, match="finite in float32; 'by_x' is not"):
        to_c(model, path)
    model.parameters["by_x"] = np.zeros((3, 1), "f4")
    with pytest.raises(ValueError, match=r"`by_x` must have shape .* \(4, 1\); got \(3, 1\)"):
        to_c(model, path)
    assert not list(tmp_path.iterdir())


# --- ONNX ----------------------------------------------------------------------------------------------------------


def session(proto):
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def to_onnx(*arguments, **options):
    pytest.importorskip("onnx")
    from rnnx import convert

    return convert.to_onnx(*arguments, **options)


def results(one, feed):
    return dict(zip([output.name for output in one.get_outputs()], one.run(None, feed), strict=True))


@pytest.mark.parametrize("kind", [*SHAPES, {"cell": "mgu"}])
def test_outputs_of_heads_in_onnx(kind, rng):
    model, lengths = model_of(**kind), [7, 2, 4, 1]
    x = rng.standard_normal((3, 4, 7)).astype("f4")
    x = SCALER.inverse(x).astype("f4") if "input_scaler" in kind else x
    one = session(to_onnx(model, lengths=True, states=True))
    sizes = {name: size for d in model.stack.directions for name, size in d.state_sizes.items()}
    states = {name: rng.uniform(0.5, 1, (4, size)).astype("f4") for name, size in sizes.items()}
    found = results(one, {"inputs": x.T.copy(), "lengths": np.array(lengths), **states})
    z, final, _ = model.forward(x, lengths=lengths, states={name: s.T.copy() for name, s in states.items()})
    expected = {**z, **{f"{name}_final": s for name, s in final.items()}}
    for name, readout in model.readouts.items():
        if readout.objective.describes:
            said = readout.objective.described(np, z[name])
            expected |= {f"{name}.{key}": values for key, values in said.items()}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values.T, rtol=1e-5, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", ["inputs", "lengths", "a_l0", "a_l0_final"])
def test_heads_called_like_inputs(name):
    with pytest.raises(ValueError, match=f"an ONNX file must have different names; '{name}', of a head"):
        to_onnx(model_of({name: Head(1)}), states=True, lengths=True)


# --- every option of every model -----------------------------------------------------------------------------------

SIZES = {CharModel: (5, 8), SequenceClassifier: (3, 8, 2), SequenceRegressor: (3, 8, 2), Seq2Seq: (5, 4, 8)}
SIZES |= {MultiTaskModel: (3, 8, {"load": Head(1), "label": Head(2, "cross_entropy", per_step=True)})}


@rnnx.cell
def own_cell(x, a, *, f=rnnx.Gate, c=rnnx.Gate):
    f = rnnx.cells.sigmoid(f(x, a))
    return f * rnnx.cells.tanh(c(x, f * a)) + (1 - f) * a


OPTIONS = {
    "num_layers": 2, "cell": own_cell, "reset_after": True, "bidirectional": True, "dropout": 0.5,
    "zoneout": [0.2, 0.1], "recurrent_dropout": 0.5, "per_step": True, "loss": None, "input_scaler": SCALER,
    "classes": ["no", "yes"], "target_scaler": Scaler([1, 2], [3, 4]), "attention": "scaled_dot",
    "bidirectional_encoder": False, "end_token": 2, "dtype": "float64", "xp": "torch",
}  # fmt: skip
OF_PARAMETERS = {"rng", "scheme", "parameters", "device"}  # options that only choose these
LOSSES = {
    SequenceClassifier: ["binary", "multi_label", rnnx.losses.CrossEntropy(label_smoothing=0.1)],
    SequenceRegressor: ["absolute_error", "huber", "gaussian", "student_t", "poisson", rnnx.losses.Quantile([0.3])],
}
NEEDS = {"reset_after": {"cell": "gru"}, "dropout": {"num_layers": 2}}


def cases():
    for kind in SIZES:
        for name, value in OPTIONS.items():
            for chosen in LOSSES.get(kind, []) if name == "loss" else [value]:
                yield pytest.param(kind, name, chosen, id=f"{kind.__name__}-{name}-{chosen}"[:60])


def made(kind, name, value):
    """Return a model with an option, or None if the class has no such option."""
    given = {**NEEDS.get(name, {}), name: value}
    if "torch" in given.values():
        given["xp"] = pytest.importorskip("array_api_compat.torch", reason="no torch")
    try:
        return kind(*SIZES[kind], **{"rng": 0, **given})
    except (TypeError, ValueError) as error:
        if name not in str(error):
            raise
        return None


def test_options_of_the_table_are_all():
    """A new option, or a new class, is to be exported or refused."""
    assert {*SIZES} == {*models.MODELS.values()}
    for kind in SIZES:
        own = {*inspect.signature(kind.__init__).parameters}
        hints = {key for base in ("Options", "StackOptions", "Initialization") for key in _hints(base)}
        assert own - {"self", "options", "initialization"} <= {*OPTIONS, *_POSITIONAL}, kind
        assert hints <= {*OPTIONS, *OF_PARAMETERS}


_POSITIONAL = {
    "input_size", "hidden_size", "num_classes", "output_size", "heads", "vocab_size", "source_vocab_size",
    "target_vocab_size",
}  # fmt: skip


def _hints(name):
    from rnnx.models import base, sequence_model, stack_model

    return next(getattr(m, name) for m in (sequence_model, stack_model, base) if hasattr(m, name)).__annotations__


@pytest.mark.parametrize(("kind", "name", "value"), [*cases()])
def test_every_option(kind, name, value, rng, tmp_path, monkeypatch):
    model = made(kind, name, value)
    if model is None:
        return
    numpy_model = kind(**{**model.config, "parameters": {k: np.asarray(p) for k, p in model.parameters.items()}})
    proto = to_onnx(model, states=False) if kind is not Seq2Seq else to_onnx(model)
    x = rng.integers(0, 5, (1, 6)) if kind in (CharModel, Seq2Seq) else rng.standard_normal((3, 1, 6))
    if kind is Seq2Seq:
        expected = {"indices": numpy_model.predict(x, max_length=5).indices}
        feed = {"source": x.T.copy(), "max_length": np.array(5)}
    else:
        found = numpy_model.forward(x)[0]
        expected = found if isinstance(found, dict) else {"outputs": found}
        feed = {"inputs": x.T.copy() if kind is CharModel else x.T.astype(model_dtype(model))}
    if name != "dtype":  # onnxruntime has no recurrent nodes in double precision
        y = results(session(proto), feed)
        for key, values in expected.items():
            np.testing.assert_allclose(y[key].T, values, rtol=1e-5, atol=1e-5, err_msg=key)
    if not shutil.which("cc"):
        return
    shared = compiled(monkeypatch, tmp_path, model, ["-O0"])
    if kind is Seq2Seq:
        np.testing.assert_array_equal(shared.translate(x[0], 5), [i for i in expected["indices"][0] if i != shared.end])
        return
    y = shared.run(x[..., 0, :])
    for key, values in expected.items():
        own = y[key] if isinstance(y, dict) else y
        np.testing.assert_allclose(own, values[:, 0], rtol=1e-5, atol=1e-5, err_msg=key)


def model_dtype(model):
    return np.asarray(model.parameters[next(iter(model.parameters))]).dtype


@WITH_C
def test_the_command(run, tmp_path):
    onnx = pytest.importorskip("onnx")
    model = model_of({"load": Head(1, per_step=True), "label": Head(2, "cross_entropy")})
    save_checkpoint("run.safetensors", Checkpoint(model))
    ok(run("export", "run.safetensors", "plant.c", "--shared"))
    ok(run("export", "run.safetensors", "plant.onnx"))
    assert [value.name for value in onnx.load(tmp_path / "plant.onnx").graph.output] == ["load", "label"]
    shared = load(Path("plant").with_suffix(library.suffix(None)))
    assert json.dumps([*shared.heads]) == '["load", "label"]'
