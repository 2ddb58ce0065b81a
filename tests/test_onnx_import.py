"""Models from ONNX files compute what onnxruntime computes from the files."""

import os

import exporters
import numpy as np
import pytest

import rnnx
from rnnx.convert import from_onnx, to_onnx
from rnnx.data import Scaler
from rnnx.models import CharModel, SequenceClassifier, SequenceRegressor

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
helper = pytest.importorskip("onnx.helper")

N_X, N, M, T, V = 5, 4, 3, 6, 7
CELLS = ["rnn", "relu_rnn", "lstm", "gru", "gru_reset_after"]


@pytest.fixture(autouse=True)
def _nothing_to_compile():
    with rnnx.use_engine("reference"):
        yield


def run(file, **feed):
    """All results of onnxruntime, by name."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    data = file.SerializeToString() if isinstance(file, onnx.ModelProto) else file
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feed), strict=True))


def close(actual, desired):
    np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-5)


# --- files of our own ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "lengths": True}, {"per_step": True, "states": True}])
@pytest.mark.parametrize("cell", CELLS)
def test_round_trips_are_exact(cell, options):
    export = {key: options[key] for key in ("lengths", "states") if key in options}
    kind = {key: value for key, value in options.items() if key not in export}
    model = SequenceRegressor(N_X, (N, 3), 2, cell=rnnx.CELLS[cell], seed=0, **kind)
    model.set_parameters({k: a + np.float32(0.1) for k, a in model.parameters.items()})  # biases that are not zero
    back, states = from_onnx(to_onnx(model, **export))
    assert type(back) is SequenceRegressor
    assert {k: v for k, v in back.config.items() if k != "cell"} == {
        k: v for k, v in model.config.items() if k != "cell"
    }
    assert not states
    assert list(back.parameters) == list(model.parameters)
    for key, a in model.parameters.items():
        np.testing.assert_array_equal(back.parameters[key], a, err_msg=key)


def test_a_model_in_raw_units(x):
    """The scaler becomes a part of the weights."""
    model = SequenceRegressor(N_X, N, seed=0, input_scaler=Scaler(np.arange(N_X), np.arange(1, N_X + 1)))
    back, _ = from_onnx(to_onnx(model))
    close(back.outputs(x.T)[0], model.outputs(x.T)[0])


def test_a_one_hot_input_becomes_indices():
    model = CharModel(V, N, seed=0)
    back, _ = from_onnx(to_onnx(model), classes=True)
    assert isinstance(back, SequenceClassifier)
    assert back.per_step
    for key, a in model.parameters.items():
        np.testing.assert_array_equal(back.parameters[key], a, err_msg=key)


# --- files by hand -------------------------------------------------------------------------------------------


class File:
    """Nodes, in order, and constants by name."""

    def __init__(self, rng, **inputs):
        self.rng, self.nodes, self.constants, self.inputs = rng, [], {}, inputs

    def draw(self, name, *shape):
        self.constants[name] = self.rng.standard_normal(shape).astype("float32")
        return name

    def const(self, name, value, dtype="int64"):
        self.constants[name] = np.array(value, dtype)
        return name

    def add(self, kind, *inputs, out, **options):
        name = f"{kind}{1 + sum(node.op_type == kind for node in self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, out if isinstance(out, list) else [out], name, **options))
        return out

    def lstm(self, x="x", lengths="", states=(), n_x=N_X, out=("y", "h", "c"), ways=1, name="", kind="LSTM", **options):
        k = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
        sizes = {"W": (ways, k * N, n_x), "R": (ways, k * N, N), "B": (ways, 2 * k * N)}
        weights = [self.draw(key + name, *shape) for key, shape in sizes.items()]
        options |= {"direction": "bidirectional"} if ways == 2 else {}
        return self.add(kind, x, *weights, lengths, *states, out=list(out), hidden_size=N, **options)

    def proto(self, *outputs, opset=17):
        def info(name, kind, shape):
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)

        inputs = [info(name, kind, shape) for name, (kind, shape) in self.inputs.items()]
        ends = [helper.make_empty_tensor_value_info(name) for name in outputs]
        for end in ends:
            end.type.tensor_type.elem_type = 1
        constants = [onnx.numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "graph", inputs, ends, constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.fixture
def file(rng):
    return File(rng, x=("float32", ["t", "m", N_X]))


@pytest.fixture
def x(rng):
    return rng.standard_normal((T, M, N_X)).astype("float32")


def test_states_and_lengths_that_are_inputs(file, x, rng):
    """The graph begins with a batch of examples, joins two directions out of order, and squeezes its one output."""
    file.inputs |= {"x": ("float32", ["m", "t", N_X]), "n": ("int64", ["m"]), "s": ("float32", [4, "m", N])}
    file.add("Transpose", "x", perm=[1, 0, 2], out="steps")
    file.add("Cast", "n", to=6, out="lengths")
    for k in range(2):
        file.const(f"at{k}", [2 * k, 2 * k + 1])
        file.add("Gather", "s", f"at{k}", axis=0, out=f"s{k}")
    file.lstm("steps", "lengths", ["s0", "s1"], ways=2)
    file.const("both", [1, 0])
    file.add("Gather", "y", "both", axis=1, out="turned")
    file.add("Transpose", "turned", perm=[2, 0, 1, 3], out="by example")
    file.const("shape", [0, 0, -1])
    file.add("Reshape", "by example", "shape", out="features")
    file.add("MatMul", "features", file.draw("W2", 2 * N, 1), out="z")
    file.add("Add", file.draw("b2", 1), "z", out="z2")
    file.const("last", [2])
    file.add("Squeeze", "z2", "last", out="result")
    proto = file.proto("result", "h", "c")
    model, constants = from_onnx(proto)
    assert not constants
    s, lengths = rng.standard_normal((4, M, N)).astype("float32"), np.array([6, 2, 4])
    found = run(proto, x=x.swapaxes(0, 1).copy(), n=lengths, s=s)
    names = ("a_l0", "a_l0_reverse", "c_l0", "c_l0_reverse")
    given = {name: one.T for name, one in zip(names, s, strict=True)}
    y, final = model.outputs(x.T, lengths=lengths, states=given)
    close(y[0], found["result"])
    for name, one in zip(names, np.concatenate([found["h"], found["c"]]), strict=True):
        close(final[name], one.T)


def test_constant_initial_states_are_returned(file, x):
    """And no dense layer: the outputs are the hidden states. Two directions are two nodes here."""
    start = file.draw("start", 1, 1, N)
    file.const("where", [1], "int64")
    file.add("Shape", "x", start=1, end=2, out="m")
    file.add("Concat", "where", "m", "where", axis=0, out="shape")
    file.add("Expand", start, "shape", out="s0")
    file.lstm(kind="GRU", states=["s0"], out=["y", "h"], linear_before_reset=1)
    file.lstm(kind="GRU", out=["y2", "h2"], linear_before_reset=1, name="2", direction="reverse")
    file.add("Concat", "y", "y2", axis=3, out="both")
    file.const("one", [1])
    file.add("Squeeze", "both", "one", out="result")
    proto = file.proto("result")
    model, states = from_onnx(proto)
    assert list(states) == ["a_l0"]
    np.testing.assert_array_equal(states["a_l0"][:, 0], file.constants["start"][0, 0])
    y, _ = model.outputs(x.T, states={key: np.repeat(s, M, axis=1) for key, s in states.items()})
    close(y.T, run(proto, x=x)["result"])


@pytest.mark.parametrize("opset", [12, 17])
def test_the_last_step_of_all_outputs_and_softmax(file, x, opset):
    """A dense layer at every step, of which the last one is taken, and layers that read a part of the features."""
    file.const("columns", [3, 0])
    file.add("Gather", "x", "columns", axis=2, out="part")
    file.lstm("part", n_x=2)
    old = {"axes": [1]} if opset < 13 else {}
    inputs = [] if old else [file.const("axis", [1])]
    file.add("Squeeze", "y", *inputs, out="below", **old)
    file.lstm("below", n_x=N, name="2", out=["y2"])
    file.add("Squeeze", "y2", *inputs, out="features", **old)
    file.const("shape", [-1, N])
    file.add("Reshape", "features", "shape", out="rows")
    file.add("Gemm", "rows", file.draw("W3", 3, N), file.draw("b3", 3), out="z", transB=1, alpha=0.5, beta=2.0)
    file.const("back", [0, -1, 3])
    file.add("Shape", "features", out="sizes")
    file.const("two", [0, 1])
    file.add("Gather", "sizes", "two", axis=0, out="front")
    file.const("three", [3])
    file.add("Concat", "front", "three", axis=0, out="shape2")
    file.add("Reshape", "z", "shape2", out="steps")
    file.const("end", -1)
    file.add("Gather", "steps", "end", axis=0, out="one")
    file.add("Softmax", "one", axis=1, out="result")
    proto = file.proto("result", opset=opset)
    model, _ = from_onnx(proto)
    assert isinstance(model, SequenceClassifier)
    assert not model.per_step
    close(model.predict(x.T).T, run(proto, x=x)["result"])
    assert isinstance(from_onnx(proto.SerializeToString(), classes=False)[0], SequenceRegressor)


def test_examples_first(file, x):
    """onnxruntime does not run layout=1, so the same weights are compared with layout=0."""
    file.lstm()
    expected, _ = from_onnx(file.proto("y", "h"))
    file.nodes[0].attribute.append(helper.make_attribute("layout", 1))
    file.inputs["x"] = ("float32", ["m", "t", N_X])
    model, _ = from_onnx(file.proto("y", "c"))
    np.testing.assert_array_equal(model.outputs(x.T)[0], expected.outputs(x.T)[0])


def test_one_step_of_one_example(file, rng):
    """As voice activity detectors have them: fixed sizes, the states in and out."""
    file.inputs = {"x": ("float32", [1, 1, N_X]), "h0": ("float32", [1, 1, N]), "c0": ("float32", [1, 1, N])}
    file.lstm(states=["h0", "c0"])
    file.const("axes", [0, 1])
    file.add("Squeeze", "h", "axes", out="a")
    file.const("shape", [1, N])
    file.add("Reshape", "a", "shape", out="row")
    file.add("Gemm", "row", file.draw("W2", N, 1), file.draw("b2", 1), out="z")
    proto = file.proto("z", "h", "c")
    model, _ = from_onnx(proto)
    x, h0, c0 = (rng.standard_normal((1, 1, n)).astype("float32") for n in (N_X, N, N))
    found = run(proto, x=x, h0=h0, c0=c0)
    y, final = model.outputs(x.T, states={"a_l0": h0[0].T, "c_l0": c0[0].T})
    close(y.ravel(), found["z"].ravel())
    close(final["c_l0"].T, found["c"][0])


def test_one_embedding_after_negative_indices_are_wrapped(rng):
    """As TensorFlow writes it."""
    file = File(rng, x=("int32", ["m", "t"]))
    file.const("zero", 0, "int32")
    file.add("Less", "x", "zero", out="negative")
    file.add("Add", "x", file.const("size", V, "int32"), out="wrapped")
    file.add("Where", "negative", "wrapped", "x", out="index")
    file.add("Gather", file.draw("table", V, N_X), "index", out="embedded")
    file.add("Transpose", "embedded", perm=[1, 0, 2], out="steps")
    file.lstm("steps", kind="RNN", out=["", "h"])
    proto = file.proto("h")
    model, _ = from_onnx(proto)
    assert model.stack.input_size == V
    indices = rng.integers(0, V, (M, T)).astype("int32")
    close(model.outputs(indices)[0].T, run(proto, x=indices)["h"][0])
    again = run(to_onnx(model, indices=True), inputs=indices.T.astype("int64"))
    close(model.outputs(indices)[0].T, again["outputs"])


def test_one_hot_columns_of_integers_are_cast(rng):
    """With another value than 1, which becomes a part of the weights."""
    file = File(rng, x=("int64", ["t", "m"]))
    file.add("OneHot", "x", file.const("depth", V), file.const("pair", [0, 3]), out="columns")
    file.add("Cast", "columns", out="steps", to=1)
    file.lstm("steps", n_x=V, kind="RNN", out=["", "h"])
    proto = file.proto("h")
    model, _ = from_onnx(proto)
    indices = rng.integers(0, V, (T, M))
    assert model.parameters["Wax_l0"].dtype == np.float32
    close(model.outputs(indices.T)[0].T, run(proto, x=indices)["h"][0])


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_scaled_input_folds(file, x, kind):
    """Standardization, a factor, and a difference the other way round."""
    file.add("Sub", "x", file.draw("mean", N_X), out="x1")
    file.add("Div", "x1", file.const("scale", np.arange(1, N_X + 1), "float32"), out="x2")
    file.add("Mul", file.const("two", 2, "float32"), "x2", out="x3")
    file.add("Sub", file.const("one", [1], "float32"), "x3", out="x4")
    file.lstm("x4", kind=kind, out=["y"], ways=2)
    file.const("axis", [1])
    file.add("Transpose", "y", perm=[0, 2, 1, 3], out="turned")
    file.const("shape", [0, 0, -1])
    file.add("Reshape", "turned", "shape", out="result")
    proto = file.proto("result")
    close(from_onnx(proto)[0].outputs(x.T)[0].T, run(proto, x=x)["result"])


# --- what cannot be converted --------------------------------------------------------------------------------


def relu_behind(file):
    file.lstm()
    file.add("Relu", "y", out="result")
    return "result"


def two_cells(file):
    file.lstm()
    file.const("one", [1])
    file.add("Squeeze", "y", "one", out="below")
    file.lstm("below", n_x=N, kind="RNN", name="2", out=["y2"])
    return "y2"


def two_dense(file):
    file.lstm()
    file.add("MatMul", "y", file.draw("W2", N, 2), out="z")
    file.add("MatMul", "z", file.draw("W3", 2, 2), out="result")
    return "result"


def softmax_over_time(file):
    file.lstm()
    file.add("MatMul", "y", file.draw("W2", N, 1), out="z")
    file.add("Softmax", "z", axis=0, out="result")
    return "result"


def reversed_output(file):
    file.lstm()
    numbers = [file.const(name, [k]) for name, k in (("start", -1), ("end", -(2**31)), ("axis", 0), ("step", -1))]
    file.add("Slice", "y", *numbers, out="result")
    return "result"


def scaled_input(file):
    file.add("Mul", "x", file.draw("scale", 2, 1, N_X), out="scaled")  # not the same for all examples
    file.lstm("scaled")
    return "y"


def encoder(file):
    file.lstm()
    file.inputs["x2"] = ("float32", ["t2", "m", N_X])
    file.lstm("x2", states=["h", "c"], name="2", out=["y2"])
    return "y2"


def two_inputs(file):
    file.inputs["x2"] = ("float32", ["t", "m", 2])
    file.add("Concat", "x", "x2", axis=2, out="both")
    file.lstm("both", n_x=N_X + 2)
    return "y"


def drawn_state(file):
    file.add("RandomNormal", out="s0", shape=[1, 3, N])
    file.lstm(states=["s0"])
    return "y"


def residual(file):
    file.inputs["x"] = ("float32", ["t", "m", N])
    file.lstm(n_x=N)
    file.const("one", [1])
    file.add("Squeeze", "y", "one", out="below")
    file.add("Add", "below", "x", out="sum")
    file.lstm("sum", n_x=N, name="2", out=["y2"])
    return "y2"


def peepholes(file):
    file.lstm(states=["", "", file.draw("P", 1, 3 * N)])
    return "y"


def fixed_lengths(file):
    file.lstm(lengths=file.const("n", [2, 2, 1], "int32"))
    return "y"


def some_steps(file):
    file.const("from", [1])
    file.const("to", [1000])
    file.add("Slice", "x", "from", "to", "from1", out="later")
    file.const("from1", [0])
    file.lstm("later")
    return "y"


def with_options(**options):
    def make(file):
        file.lstm(**options)
        return "y"

    return make


MISTAKES = {
    "relu": (relu_behind, "the output 'result' cannot be converted: it depends on the Relu node 'Relu1'"),
    "cells": (two_cells, "the RNN node 'RNN1' cannot be converted: all layers must have one cell; got 'lstm', 'rnn'"),
    "dense": (two_dense, "the output 'result' must be a state, or one dense layer"),
    "over time": (softmax_over_time, "the output 'result' must be a state, or one dense layer"),
    "reversed": (reversed_output, "the output 'result' must be a state, or one dense layer"),
    "scaled": (scaled_input, "the LSTM node 'LSTM1' cannot be converted: it depends on the Mul node 'Mul1'"),
    "decoder": (encoder, "an initial state must be an input of the file or a constant"),
    "inputs": (two_inputs, "'LSTM1' cannot be converted: X must be one input of the file, or an embedding of one"),
    "drawn": (drawn_state, "'LSTM1' cannot be converted: it depends on the RandomNormal node 'RandomNormal1'"),
    "residual": (residual, "'LSTM2' cannot be converted: it depends on the Add node 'Add1'"),
    "peepholes": (peepholes, "'LSTM1' cannot be converted: it has peepholes"),
    "lengths": (fixed_lengths, "sequence_lens must be an input of the file"),
    "steps": (some_steps, "X must have the steps and examples of an input of the file in their order"),
    "reverse": (with_options(direction="reverse"), "it runs in reverse only"),
    "clip": (with_options(clip=1.0), "`clip` limits its activations"),
    "coupled": (with_options(input_forget=1), "`input_forget` couples its gates"),
    "activations": (with_options(activations=["Sigmoid", "Relu", "Tanh"]), "`activations` must be .* got .*'relu'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_cannot_be_converted(file, mistake):
    make, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        from_onnx(file.proto(make(file)))


def test_files_without_recurrent_nodes(file, tmp_path):
    (tmp_path / "a.onnx").write_text("text")
    with pytest.raises(ValueError, match="`file` must be an ONNX file"):
        from_onnx(tmp_path / "a.onnx")
    with pytest.raises(FileNotFoundError):
        from_onnx(str(tmp_path / "b.onnx"))
    with pytest.raises(TypeError, match=r"`file` must be a path, bytes or an onnx\.ModelProto; got"):
        from_onnx(3)
    model = to_onnx(SequenceRegressor(3, 4, cell="mgu", seed=0))
    with pytest.raises(ValueError, match=r"must have LSTM, GRU or RNN nodes; got .*Scan.* convert the layers with"):
        from_onnx(model)
    file.add("Relu", "x", out="y")
    with pytest.raises(ValueError, match=r"must have LSTM, GRU or RNN nodes; got Relu$"):
        from_onnx(file.proto("y"))


# --- files of others -----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", exporters.FILES)
def test_files_of_others(name, tmp_path, rng):
    """Those of exporters that take long to start are stored; `python tests/exporters.py` makes them anew."""
    one = exporters.FILES[name]
    path = exporters.STORED / f"{name}.onnx"
    if not one.stored or "RNNX_EXPORTERS" in os.environ:
        for package in one.packages:
            pytest.importorskip(package)
        path = tmp_path / "a.onnx"
        one.make(str(path))
    model, states = from_onnx(path)
    assert not states
    (x_name, *rest), result = [[value.name for value in values] for values in ends(path)]
    x = rng.standard_normal((M, T, N_X)).astype("float32")
    own = x.transpose(2, 0, 1)
    if one.indices:
        own = x = rng.integers(0, V, (M, T)).astype(one.indices)
    lengths = np.array([6, 3, 2]) if rest else None
    assert isinstance(model, SequenceClassifier) == one.softmax
    y, _ = model.outputs(own, lengths=lengths)
    close(
        np.moveaxis(rnnx.softmax(y) if one.softmax else y, 0, -1),
        run(path, **{x_name: x}, **dict.fromkeys(rest, lengths))[result[0]],
    )


def ends(path):
    graph = onnx.load(path).graph
    return graph.input, graph.output
