"""Weights to and from torch and Keras: the same outputs and gradients on both sides, and round trips."""

import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import TOLERANCE, assert_close

import rnnx
from rnnx import convert
from rnnx.data import move_padding_to_end
from rnnx.models import Recurrent, SequenceRegressor

N_X, N_A, M, T = 5, 4, 3, 6
TORCH = {"rnn": "RNN", "lstm": "LSTM", "gru_reset_after": "GRU"}
KERAS = {"rnn": "SimpleRNN", "lstm": "LSTM", "gru": "GRU", "gru_reset_after": "GRU"}
STACKS = {"one": (1, False), "two": (2, False), "bidirectional": (2, True)}
FLOAT32 = 1e-5  # Keras on torch multiplies in float32, whatever the dtype


def random_parameters(stack, rng, dtype="float64"):
    """Weights and biases of scale 1: zero biases would hide misplaced ones."""
    shapes = {key: a.shape for key, a in stack.initialize(0, dtype=dtype).items()}
    return {key: rng.standard_normal(shape).astype(dtype) for key, shape in shapes.items()}


def cell_parameters(cell, rng, n_x=N_X, n_a=N_A):
    """Parameters of one cell, with bhc if the cell has it, without an output layer."""
    one = rnnx.initialize_parameters(cell, n_x, n_a, seed=0, dtype="float64")
    return {key: rng.standard_normal(a.shape) for key, a in one.items()}


def assert_equal(actual, desired):
    assert list(actual) == list(desired)
    for key, a in desired.items():
        assert actual[key].dtype == a.dtype
        assert np.array_equal(actual[key], a), key


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def of_keras(test):
    """Mark a test of Keras, which is slow to import."""
    warning = "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"  # NumPy's, of torch's tensors
    return pytest.mark.slow(pytest.mark.filterwarnings(warning)(test))


@pytest.fixture(scope="module")
def keras():
    """Keras on torch; test_compare.py uses Keras on TensorFlow."""
    pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        return pytest.importorskip("keras")


def torch_layer(torch, cell, num_layers=1, bidirectional=False, **options):
    kind = getattr(torch.nn, TORCH[cell])
    return kind(N_X, N_A, num_layers, bidirectional=bidirectional, dtype=torch.float64, **options)


# --- torch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", STACKS)
@pytest.mark.parametrize("name", TORCH)
def test_torch_computes_the_same(torch, name, shape, rng):
    num_layers, bidirectional = STACKS[shape]
    stack = Recurrent(name, N_X, N_A, num_layers, bidirectional=bidirectional)
    parameters = random_parameters(stack, rng)
    layer = torch_layer(torch, name, num_layers, bidirectional)
    layer.load_state_dict({k: torch.from_numpy(v) for k, v in convert.to_torch(name, parameters).items()})
    x = rng.standard_normal((N_X, M, T))
    x_torch = torch.tensor(x.transpose(2, 1, 0).copy(), requires_grad=True)
    expected, _ = layer(x_torch)
    dout = rng.standard_normal(tuple(expected.shape))
    expected.backward(torch.from_numpy(dout))

    out, _, cache = stack.forward(parameters, x)
    gradients = stack.backward(dout.transpose(2, 1, 0), cache)
    assert_close(out, expected.detach().numpy().transpose(2, 1, 0), TOLERANCE["oracle"], "out")
    assert_close(gradients["dx"], x_torch.grad.numpy().transpose(2, 1, 0), TOLERANCE["oracle"], "dx")
    of_torch = {key: p.grad for key, p in layer.named_parameters()}
    converted = convert.from_torch(name, of_torch, stack=True, gradients=True)
    assert converted.keys() == {f"d{key}" for key in parameters}
    for key, gradient in converted.items():
        assert_close(gradients[key], gradient, TOLERANCE["oracle"], key)


@pytest.mark.parametrize("shape", STACKS)
@pytest.mark.parametrize("name", TORCH)
def test_torch_layer_with_its_own_weights(torch, name, shape, rng):
    """torch has two random biases; rnnx's are their sums."""
    num_layers, bidirectional = STACKS[shape]
    layer = torch_layer(torch, name, num_layers, bidirectional)
    stack = Recurrent(name, N_X, N_A, num_layers, bidirectional=bidirectional)
    x = rng.standard_normal((N_X, M, T))
    expected, _ = layer(torch.from_numpy(x.transpose(2, 1, 0).copy()))
    out, _, _ = stack.forward(convert.from_torch(name, layer, stack=True), x)
    assert_close(out, expected.detach().numpy().transpose(2, 1, 0), TOLERANCE["oracle"], "out")


@pytest.mark.parametrize("name", TORCH)
def test_torch_cells_and_absent_biases(torch, name, rng):
    """The keys of torch.nn.LSTMCell have no layer suffix; bias=False has no biases."""
    single = getattr(torch.nn, f"{TORCH[name]}Cell")(N_X, N_A, bias=False, dtype=torch.float64)
    x = rng.standard_normal((N_X, M))
    expected = single(torch.from_numpy(x.T.copy()))
    expected = expected[0] if isinstance(expected, tuple) else expected
    parameters = convert.from_torch(name, single.state_dict())
    (a, *_), _, _ = rnnx.recurrent_forward(name, x[:, :, None], (), parameters)
    assert_close(a[:, :, 0], expected.detach().numpy().T, TOLERANCE["oracle"], "a")
    assert not any(parameters[key].any() for key in parameters if key.startswith("b"))


def test_a_whole_torch_model(torch, rng):
    """Keys of the layers within a module, and a head."""
    model = torch.nn.ModuleDict({"rnn": torch_layer(torch, "lstm"), "head": torch.nn.Linear(N_A, 2).double()})
    p = convert.from_torch("lstm", model, prefix="rnn.") | convert.dense_from_torch(model, prefix="head.")
    x = rng.standard_normal((N_X, M, T))
    _, y, _, _ = rnnx.lstm_forward(x, None, p)
    hidden, _ = model["rnn"](torch.from_numpy(x.transpose(2, 1, 0).copy()))
    expected = torch.softmax(model["head"](hidden), -1).detach().numpy().transpose(2, 1, 0)
    assert_close(y, expected, TOLERANCE["oracle"], "y")
    back = convert.to_torch("lstm", p, prefix="rnn.") | convert.dense_to_torch(p, prefix="head.")
    assert back.keys() == model.state_dict().keys()
    assert np.array_equal(back["head.bias"], model["head"].bias.detach().numpy())


def test_weights_of_a_safetensors_file(tmp_path, rng):
    from safetensors.numpy import load_file, save_file

    parameters = cell_parameters("gru_reset_after", rng)
    save_file(convert.to_torch("gru_reset_after", parameters), tmp_path / "gru.safetensors")
    back = convert.from_torch("gru_reset_after", load_file(tmp_path / "gru.safetensors"))
    assert_equal(back, parameters)


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated
@pytest.mark.parametrize("name", TORCH)
def test_an_embedding_of_torch_folds(torch, name, rng):
    """The model with indices computes what torch's embedding and stack of layers do."""
    embedding = torch.nn.Embedding(7, N_X, dtype=torch.float64)
    layer = torch_layer(torch, name, 2, bidirectional=True)
    parameters = convert.from_torch(name, layer, stack=True, embedding=embedding)
    indices = rng.integers(0, 7, (M, T))
    expected, _ = layer(embedding(torch.from_numpy(indices.T.copy())))
    out, _, _ = Recurrent(name, 7, N_A, 2, bidirectional=True).forward(parameters, indices)
    assert_close(out, expected.detach().numpy().transpose(2, 1, 0), TOLERANCE["oracle"], name)
    script = torch.jit.script(embedding)
    assert_equal(convert.from_torch(name, layer, stack=True, embedding=script), parameters)
    assert_equal(convert.from_torch(name, layer, stack=True, embedding=embedding.weight), parameters)


# --- Keras ---------------------------------------------------------------------------------------------------


def keras_layer(keras, name, n_a=N_A, **options):
    extra = {"reset_after": name == "gru_reset_after"} if name.startswith("gru") else {}
    return getattr(keras.layers, KERAS[name])(n_a, return_sequences=True, **extra, **options)


@of_keras
@pytest.mark.parametrize("name", KERAS)
def test_keras_computes_the_same(keras, name, rng):
    """Two bidirectional layers of different sizes cover all cases at once."""
    stack = Recurrent(name, N_X, (N_A, 3), 2, bidirectional=True)
    parameters = random_parameters(stack, rng)
    layers = [
        keras.layers.Bidirectional(keras_layer(keras, name, n, dtype="float64"), dtype="float64") for n in (N_A, 3)
    ]
    x = rng.standard_normal((N_X, M, T))
    build_stack(layers)
    for layer, weights in zip(layers, convert.to_keras(name, parameters), strict=True):
        layer.set_weights(weights)
    a, _, _ = stack.forward(parameters, x)
    assert_close(a, run_keras(keras, layers, x), FLOAT32, name)
    assert_equal(convert.from_keras(name, layers, stack=True), parameters)


def build_stack(layers):
    for layer, n in zip(layers, (N_X, 2 * N_A), strict=True):
        layer.build((M, T, n))


def run_keras(keras, layers, x):
    out = x.transpose(1, 2, 0).copy()
    for layer in layers:
        out = layer(out)
    return keras.ops.convert_to_numpy(out).transpose(2, 0, 1)


@of_keras
@pytest.mark.parametrize("name", KERAS)
def test_keras_layer_with_its_own_weights(keras, name, rng):
    layer = keras_layer(keras, name, bias_initializer="random_normal")  # float32, the default
    x = rng.standard_normal((N_X, M, T)).astype("float32")
    expected = run_keras(keras, [layer], x)
    (a, *_), _, _ = rnnx.recurrent_forward(name, x, (), convert.from_keras(name, layer))
    assert_close(a, expected, FLOAT32, name)
    without = keras_layer(keras, name, use_bias=False)
    expected = run_keras(keras, [without], x)
    (a, *_), _, _ = rnnx.recurrent_forward(name, x, (), convert.from_keras(name, without.get_weights()))
    assert_close(a, expected, FLOAT32, f"{name} without bias")


@of_keras
@pytest.mark.parametrize("name", KERAS)
def test_an_embedding_of_keras_folds(keras, name, rng):
    embedding, layer = keras.layers.Embedding(7, N_X), keras_layer(keras, name)
    indices = rng.integers(0, 7, (M, T))
    expected = keras.ops.convert_to_numpy(layer(embedding(indices))).transpose(2, 0, 1)
    parameters = convert.from_keras(name, layer, embedding=embedding)
    (a, *_), _, _ = rnnx.recurrent_forward(name, indices, (), parameters)
    assert_close(a, expected, FLOAT32, name)
    assert_equal(convert.from_keras(name, layer.get_weights(), embedding=embedding.get_weights()), parameters)
    with pytest.raises(ValueError, match="got a layer Embedding: pass it as `embedding`"):
        convert.from_keras(name, [embedding, layer], stack=True)
    with pytest.raises(ValueError, match="`embedding` must be an Embedding layer; got "):
        convert.from_keras(name, layer, embedding=layer)


@of_keras
def test_keras_gradients(keras, torch, rng):
    """The two rows of a bias of a GRU both have the gradient of their sum."""
    stack = Recurrent("gru_reset_after", N_X, N_A)
    parameters = random_parameters(stack, rng)
    layer = keras_layer(keras, "gru_reset_after", dtype="float64")
    layer.build((M, T, N_X))
    layer.set_weights(convert.to_keras("gru_reset_after", parameters)[0])
    x, dout = rng.standard_normal((N_X, M, T)), rng.standard_normal((N_A, M, T))
    (layer(torch.tensor(x.transpose(1, 2, 0))) * torch.tensor(dout.transpose(1, 2, 0))).sum().backward()
    of_keras = [v.value.grad for v in layer.trainable_variables]
    gradients = stack.backward(dout, stack.forward(parameters, x)[2])
    for key, gradient in convert.from_keras("gru_reset_after", of_keras, stack=True, gradients=True).items():
        assert_close(gradients[key], gradient, FLOAT32, key)


@of_keras
def test_keras_head_and_activations(keras, rng):
    head = keras.layers.Dense(2, dtype="float64", bias_initializer="random_normal")
    x = rng.standard_normal((M, N_A))
    y = keras.ops.convert_to_numpy(head(x))
    p = convert.dense_from_keras(head)
    assert_close(p["Wy"] @ x.T + p["by"], y.T, FLOAT32, "dense")
    assert all(np.array_equal(a, b) for a, b in zip(convert.dense_to_keras(p), head.get_weights(), strict=True))
    relu = keras_layer(keras, "lstm", activation="relu")
    relu.build((M, T, N_X))
    with pytest.raises(ValueError, match="activation of the layer must be 'tanh' for cell 'lstm'; got 'relu'"):
        convert.from_keras("lstm", relu)
    gru = keras_layer(keras, "gru_reset_after")
    gru.build((M, T, N_X))
    with pytest.raises(ValueError, match="reset_after of the layer must be False for cell 'gru'; got True"):
        convert.from_keras("gru", gru)
    summed = keras.layers.Bidirectional(keras_layer(keras, "lstm"), merge_mode="sum")
    summed.build((M, T, N_X))
    with pytest.raises(ValueError, match="merge_mode"):
        convert.from_keras("lstm", summed, stack=True)
    with pytest.raises(ValueError, match=r"got a model: pass model\.layers\[0\]$"):
        convert.from_keras("lstm", keras.Sequential([keras.Input((T, N_X)), keras_layer(keras, "lstm")]))


@of_keras
def test_keras_layers_that_compute_something_else(keras):
    """Only their configs, not their arrays, show that they differ from rnnx's."""
    layers = keras.layers
    bidirectional = layers.Bidirectional(
        layers.LSTM(N_A), backward_layer=layers.LSTM(N_A, go_backwards=True, activation="relu")
    )
    for layer, stack, message in (
        (layers.LSTM(N_A, go_backwards=True), False, "go_backwards of the layer must be False .* got True"),
        (bidirectional, True, "activation .* must be 'tanh' .* got 'relu'"),
        (layers.RNN(layers.LSTMCell(N_A, activation="relu")), False, "activation .* must be 'tanh' .* got 'relu'"),
        (layers.RNN([layers.LSTMCell(N_X), layers.LSTMCell(N_X)]), True, "a list of cells"),
    ):
        layer.build((M, T, N_X))
        with pytest.raises(ValueError, match=message):
            convert.from_keras("lstm", layer, stack=stack)
    turned = layers.Bidirectional(layers.LSTM(N_A, go_backwards=True), backward_layer=layers.LSTM(N_A))
    turned.build((M, T, N_X))
    with pytest.raises(ValueError, match="go_backwards of the layer must be False"):
        convert.from_keras("lstm", turned, stack=True)
    plain = layers.RNN(layers.LSTMCell(N_A))
    plain.build((M, T, N_X))
    assert convert.from_keras("lstm", plain)["Wf"].shape == (N_A, N_A + N_X)
    embedding = layers.Embedding(5, N_A)
    embedding.build((M, T))
    for layer, message in (
        (layers.Dense(2, activation="relu"), "activation of the layer must be 'linear' or 'softmax'; got 'relu'"),
        (layers.TimeDistributed(layers.Dense(2, activation="tanh")), "got 'tanh'"),
        (embedding, "must be a dense layer; got an embedding"),
    ):
        if not layer.built:
            layer.build((M, T, N_A))
        with pytest.raises(ValueError, match=message):
            convert.dense_from_keras(layer)
    softmax = layers.Dense(2, activation="softmax")
    softmax.build((M, N_A))
    assert convert.dense_from_keras(softmax)["Wy"].shape == (2, N_A)


# --- round trips, without either ---------------------------------------------------------------------------


@given(
    cell=st.sampled_from([*KERAS]),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    n_x=st.integers(1, 4),
    bidirectional=st.booleans(),
    name=st.sampled_from(["", "encoder", "l0"]),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_round_trips_are_exact(cell, sizes, n_x, bidirectional, name, dtype):
    stack = Recurrent(cell, n_x, sizes, len(sizes), bidirectional=bidirectional, name=name)
    parameters = random_parameters(stack, np.random.default_rng(0), dtype)
    others = {"Wy": np.ones((2, 1)), "by": np.ones((2, 1)), "Wf_other_l0": np.ones((2, 1))}
    lists = convert.to_keras(cell, {**parameters, **others}, name=name)
    assert_equal(convert.from_keras(cell, lists, stack=True, name=name), parameters)
    if cell in TORCH and len(set(sizes)) == 1:
        state = convert.to_torch(cell, {**parameters, **others}, name=name, prefix="a.")
        assert all(a.flags.c_contiguous for a in state.values())
        assert_equal(convert.from_torch(cell, state, stack=True, name=name, prefix="a."), parameters)


@pytest.mark.parametrize("name", KERAS)
def test_results_are_copies(name, rng):
    parameters = cell_parameters(name, rng)
    lists = convert.to_keras(name, parameters)
    state = convert.to_torch(name, parameters) if name in TORCH else {}
    kept = {key: a.copy() for key, a in parameters.items()}
    back = convert.from_keras(name, lists)
    for a in (*lists, *state.values()):
        a[...] = 0
    assert_equal(parameters, kept)
    assert_equal(back, kept)


def test_the_order_of_the_gates():
    """By hand, from the documentation of both: LSTM i f c o; GRU r z n in torch, z r h in Keras; u = 1 - z."""
    lstm = {
        f"{kind}{gate}": np.full((1, 2 if kind == "W" else 1), float(v))
        for v, gate in enumerate("fico")
        for kind in "Wb"
    }
    assert convert.to_torch("lstm", lstm)["bias_ih_l0"].tolist() == [1, 0, 2, 3]
    assert convert.to_keras("lstm", lstm)[2].tolist() == [1, 0, 2, 3]
    gru = {
        f"{kind}{g}": np.full((1, 2 if kind == "W" else 1), float(v)) for v, g in enumerate("urc", 1) for kind in "Wb"
    }
    assert convert.to_keras("gru", gru)[2].tolist() == [-1, 2, 3]
    gru |= {"bhc": np.full((1, 1), 4.0)}
    assert convert.to_torch("gru_reset_after", gru)["bias_ih_l0"].tolist() == [2, -1, 3]
    assert convert.to_torch("gru_reset_after", gru)["bias_hh_l0"].tolist() == [0, 0, 4]
    assert convert.to_keras("gru_reset_after", gru)[2].tolist() == [[-1, 2, 3], [0, 0, 4]]


def test_columns_of_the_weights():
    """rnnx: one matrix on [a; x], in that order; the others: two matrices."""
    lstm = {f"W{g}": np.array([[10.0, 20.0, 1.0]]).repeat(2, 0) for g in "fico"} | {
        f"b{g}": np.zeros((2, 1)) for g in "fico"
    }
    state = convert.to_torch("lstm", lstm)
    assert state["weight_hh_l0"].shape == (8, 2)
    assert state["weight_hh_l0"][0].tolist() == [10, 20]
    assert state["weight_ih_l0"][0].tolist() == [1]


# --- mistakes ------------------------------------------------------------------------------------------------


class Module:
    """The attributes of a torch module that the conversion reads."""

    def __init__(self, state, **attributes):
        self.state_dict = lambda: state
        self.__dict__.update(attributes)


def lstm_state():
    shapes = {"weight_ih_l0": (16, 5), "weight_hh_l0": (16, 4), "bias_ih_l0": (16,), "bias_hh_l0": (16,)}
    return {key: np.ones(shape) for key, shape in shapes.items()}


TORCH_MISTAKES = {
    "gru": (lambda: ("gru", lstm_state(), {}), ValueError, "the GRU of torch is 'gru_reset_after'"),
    "unknown": (lambda: ("lstmm", lstm_state(), {}), ValueError, "did you mean 'lstm'"),
    "not a module": (lambda: ("lstm", [1], {}), TypeError, "must be a torch module or a dict of arrays; got list"),
    "other cell": (
        lambda: ("gru_reset_after", lstm_state(), {}),
        ValueError,
        r"`weight_ih_l0` must have shape \(k n_a, n_x\) = \(12, 5\) for cell 'gru_reset_after' \(k = 3\); got",
    ),
    "projection": (lambda: ("lstm", {**lstm_state(), "weight_hr_l0": np.ones((2, 4))}, {}), ValueError, "proj_size"),
    "relu": (
        lambda: ("rnn", Module({}, nonlinearity="relu"), {}),
        ValueError,
        "must be 'tanh'; got 'relu'",
    ),
    "unknown key": (lambda: ("lstm", {**lstm_state(), "bias": np.ones(3)}, {}), ValueError, "unknown key 'bias'"),
    "prefix": (
        lambda: ("lstm", {f"rnn.{k}": v for k, v in lstm_state().items()}, {}),
        ValueError,
        "keys such as 'weight_ih_l0'; got 'rnn.weight_ih_l0'",
    ),
    "missing weight": (
        lambda: ("lstm", {k: v for k, v in lstm_state().items() if k != "weight_hh_l0"}, {}),
        ValueError,
        "missing keys in `weights`: weight_hh_l0",
    ),
    "one bias": (
        lambda: ("lstm", {k: v for k, v in lstm_state().items() if k != "bias_ih_l0"}, {}),
        ValueError,
        "missing keys in `weights`: bias_ih_l0",
    ),
    "gap": (
        lambda: ("lstm", {**lstm_state(), "weight_ih_l2": np.ones((16, 4)), "weight_hh_l2": np.ones((16, 4))}, {}),
        ValueError,
        "missing \\['_l1'\\]",
    ),
    "layers do not fit": (
        lambda: ("lstm", lstm_state() | {k.replace("l0", "l1"): v for k, v in lstm_state().items()}, {"stack": True}),
        ValueError,
        "l1 must have n_x = 4, the output size of the layer below; got 5",
    ),
    "a stack as a cell": (
        lambda: ("lstm", lstm_state() | {f"weight_{k}_l1": np.ones((16, 4)) for k in ("ih", "hh")}, {}),
        ValueError,
        "pass stack=True",
    ),
    "name without stack": (
        lambda: ("lstm", lstm_state(), {"name": "encoder"}),
        ValueError,
        "`name` requires stack=True",
    ),
    "dtype": (lambda: ("lstm", {k: v.astype("f2") for k, v in lstm_state().items()}, {}), TypeError, "got float16"),
    "dimensions": (
        lambda: ("lstm", {**lstm_state(), "bias_hh_l0": np.ones((16, 1))}, {}),
        ValueError,
        r"non-empty .* \(k n_a,\)",
    ),
    "bias": (lambda: ("lstm", {**lstm_state(), "bias_hh_l0": np.ones(4)}, {}), ValueError, r"`bias_hh_l0` .* \(16,\)"),
}


@pytest.mark.parametrize("mistake", TORCH_MISTAKES)
def test_mistakes_about_torch(mistake):
    make, error, message = TORCH_MISTAKES[mistake]
    cell, weights, options = make()
    with pytest.raises(error, match=message):
        convert.from_torch(cell, weights, **options)


def test_projection_and_relu_of_torch_itself(torch):
    with pytest.raises(ValueError, match="proj_size"):
        convert.from_torch("lstm", torch_layer(torch, "lstm", proj_size=2))
    model = torch.nn.Sequential(torch.nn.ReLU(), torch_layer(torch, "rnn", nonlinearity="relu"))
    with pytest.raises(ValueError, match="'relu'"):
        convert.from_torch("rnn", model, prefix="1.")
    with pytest.raises(TypeError, match="weight_ih_l0"):
        convert.from_torch("rnn", torch.nn.RNN(2, 3).bfloat16())


def test_an_embedding_is_no_linear_layer(torch):
    model = torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.Linear(3, 2, bias=False))
    for weights, prefix in ((model[0], ""), (model, "0.")):
        with pytest.raises(ValueError, match="must be a linear layer; got an embedding"):
            convert.dense_from_torch(weights, prefix=prefix)
    assert convert.dense_from_torch(model, prefix="1.")["Wy"].shape == (2, 3)


def test_mistakes_about_embeddings(torch):
    state, call = lstm_state(), convert.from_torch
    for embedding, error, message in (
        (np.ones((7, 4)), ValueError, r"`embedding` must have shape \(vocab_size, n_x\) with n_x = 5; got \(7, 4\)"),
        (
            np.ones(5),
            ValueError,
            r"`embedding` must be a non-empty array of shape \(vocab_size, n_x\); got shape \(5,\)",
        ),
        (torch.nn.Linear(5, 7), ValueError, r"must be a torch\.nn\.Embedding without max_norm; got Linear"),
        (torch.nn.Embedding(7, 5, max_norm=1.0), ValueError, r"must be a torch\.nn\.Embedding without max_norm"),
        (np.ones((7, 5), int), TypeError, "`embedding` must have dtype float32 or float64; got int64"),
    ):
        with pytest.raises(error, match=message):
            call("lstm", state, embedding=embedding)
    with pytest.raises(ValueError, match="`embedding` must be None for gradients"):
        call("lstm", state, embedding=np.ones((7, 5)), gradients=True)


def test_a_layer_has_one_dtype(rng):
    """Parameters in two dtypes become the wider one, as in rnnx's own computations."""
    p = random_parameters(Recurrent("lstm", 2, 3, 2), rng)
    p["Wf_l1"] = p["Wf_l1"].astype("float32")
    p["bi_l0"] = p["bi_l0"].astype("float32")
    p |= {"Wy": np.ones((2, 3), "float32"), "by": np.ones((2, 1))}
    arrays = [*convert.to_torch("lstm", p).values(), *convert.dense_to_torch(p).values(), *convert.dense_to_keras(p)]
    arrays += [a for layer in convert.to_keras("lstm", p) for a in layer]
    assert {a.dtype for a in arrays} == {np.dtype("float64")}
    narrow = {key: a.astype("float32") for key, a in p.items()}
    assert {a.dtype for a in convert.to_torch("lstm", narrow).values()} == {np.dtype("float32")}


def test_mistakes_about_parameters(rng):
    p = cell_parameters("lstm", rng)
    with pytest.raises(ValueError, match="the GRU of torch is 'gru_reset_after'"):
        convert.to_torch("gru", cell_parameters("gru", rng))
    with pytest.raises(ValueError, match="missing \\['bo'\\]"):
        convert.to_torch("lstm", {k: a for k, a in p.items() if k != "bo"})
    with pytest.raises(ValueError, match="unknown key 'bhc'"):
        convert.to_keras("gru", cell_parameters("gru_reset_after", rng))
    with pytest.raises(ValueError, match=r"`Wi` must have shape .* got \(4, 8\)"):
        convert.to_torch("lstm", {**p, "Wi": np.ones((4, 8))})
    with pytest.raises(ValueError, match="must contain the weights of a recurrent layer"):
        convert.to_torch("lstm", {"Wy": np.ones((2, 2))})
    with pytest.raises(TypeError, match="must be a dict"):
        convert.to_torch("lstm", [p])
    with pytest.raises(TypeError, match="`bo` must be an array"):
        convert.to_torch("lstm", {**p, "bo": [1]})
    unequal = random_parameters(Recurrent("lstm", 2, (3, 4), 2), rng)
    with pytest.raises(ValueError, match=r"the same n_a in all layers; got \[3, 4\]"):
        convert.to_torch("lstm", unequal)
    with pytest.raises(ValueError, match=r"`bf` must have shape .* \(in l1\)"):
        convert.to_keras("lstm", {**unequal, "bf_l1": np.ones((4, 2))})
    with pytest.raises(ValueError, match="missing \\['_l0'\\]"):
        convert.to_keras("lstm", {k: a for k, a in unequal.items() if k.endswith("l1")})
    with pytest.raises(ValueError, match=r"keys \['Wy', 'by'\] of an output layer; missing \['by'\]"):
        convert.dense_to_torch({"Wy": np.ones((2, 3))})
    own = rnnx.Cell("mine", ("a",), rnnx.CELLS["rnn"].stages)
    with pytest.raises(ValueError, match="got 'mine'"):
        convert.to_keras(own, p)


def test_mistakes_about_keras(rng):
    kernel, recurrent, bias = convert.to_keras("lstm", cell_parameters("lstm", rng))
    with pytest.raises(TypeError, match="must be a Keras layer or a list of arrays; got dict"):
        convert.from_keras("lstm", {})
    with pytest.raises(ValueError, match="got 0 arrays"):
        convert.from_keras("lstm", [])
    with pytest.raises(ValueError, match=r"`kernel` .* = \(5, 12\) for cell 'gru' \(k = 3\); got \(5, 16\)"):
        convert.from_keras("gru", [kernel, recurrent, bias])
    with pytest.raises(ValueError, match=r"`bias` .* of shape \(k n_a,\); got shape \(2, 16\)"):
        convert.from_keras("lstm", [kernel, recurrent, np.stack([bias, bias])])
    with pytest.raises(ValueError, match=r"`kernel` .* got \(5, 8\)"):
        convert.from_keras("lstm", [kernel[:, :8], recurrent, bias])
    with pytest.raises(ValueError, match="pass stack=True"):
        convert.from_keras("lstm", [kernel, recurrent, bias] * 2)
    with pytest.raises(ValueError, match=r"l0_reverse must have .* as l0, \[4, 5\]; got \[4, 3\]"):
        convert.from_keras("lstm", [kernel, recurrent, bias, kernel[:3], recurrent, bias], stack=True)
    with pytest.raises(ValueError, match="got 3 arrays"):
        convert.dense_from_keras([kernel, bias, bias])


def reloaded(torch, script):
    """A TorchScript module from a file, which does not need its class."""
    file = io.BytesIO()
    torch.jit.save(script, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_modules(torch):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = torch.nn.LSTM(3, 5), torch.nn.Linear(5, 2)

        def forward(self, x):
            return self.head(self.rnn(x)[0])

    net = Net()
    scripts = [torch.jit.script(net), torch.jit.trace(net, torch.zeros(2, 1, 3))]
    scripts += [reloaded(torch, script) for script in scripts]
    for module in (*scripts, torch.nn.DataParallel(net)):
        prefix = "module." if isinstance(module, torch.nn.DataParallel) else ""
        for ours, theirs in (
            (convert.from_torch("lstm", module, prefix=f"{prefix}rnn."), convert.from_torch("lstm", net.rnn)),
            (convert.dense_from_torch(module, prefix=f"{prefix}head."), convert.dense_from_torch(net.head)),
        ):
            assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)
    relu = torch.jit.script(torch.nn.RNN(3, 5, nonlinearity="relu"))
    traced = torch.jit.trace(torch.nn.Sequential(torch.nn.RNN(3, 5, nonlinearity="relu")), torch.zeros(2, 1, 3))
    for module, prefix in ((relu, ""), (reloaded(torch, relu), ""), (traced, "0."), (reloaded(torch, traced), "0.")):
        with pytest.raises(ValueError, match="nonlinearity of the layer must be 'tanh'; got 'relu'"):
            convert.from_torch("rnn", module, prefix=prefix)
    embedding = torch.jit.trace(torch.nn.Sequential(torch.nn.Embedding(5, 3)), torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="must be a linear layer; got an embedding"):
        convert.dense_from_torch(reloaded(torch, embedding), prefix="0.")


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "model.module."])
def test_a_prefix_is_suggested(wrapper):
    state = {f"{wrapper}rnn.{key}": a for key, a in lstm_state().items()} | {f"{wrapper}head.weight": np.ones((2, 4))}
    for prefix in ("", "rnn.", f"{wrapper}rnn"):
        with pytest.raises(ValueError, match=re.escape(f": pass prefix='{wrapper}rnn.'")):
            convert.from_torch("lstm", state, prefix=prefix)
    assert convert.from_torch("lstm", state, prefix=f"{wrapper}rnn.")
    with pytest.raises(ValueError, match=re.escape(f": pass prefix='{wrapper}head.'")):
        convert.dense_from_torch(state, prefix="head.")
    with pytest.raises(TypeError, match=re.escape("got one of dicts: pass weights['state_dict']")):
        convert.from_torch("lstm", {"state_dict": state})


@pytest.mark.parametrize("convert_weights", ["torch", "keras"])
@pytest.mark.parametrize("dtype", ["int64", "complex64", "object", "U1", "M8[D]", "float16", "masked"])
def test_dtypes_of_weights(convert_weights, dtype):
    def bad(a):
        return np.ma.masked_equal(a, 2) if dtype == "masked" else a.astype(dtype)

    message = "must not be a masked array" if dtype == "masked" else "must have dtype float32 or float64; got"
    calls = {
        "torch": (
            lambda: convert.from_torch("lstm", {key: bad(a) for key, a in lstm_state().items()}),
            lambda: convert.dense_from_torch({"weight": bad(np.ones((2, 3)))}),
        ),
        "keras": (
            lambda: convert.from_keras("lstm", [bad(np.ones((3, 16))), bad(np.ones((4, 16))), bad(np.ones(16))]),
            lambda: convert.dense_from_keras([bad(np.ones((2, 3)))]),
        ),
    }
    for call in calls[convert_weights]:
        with pytest.raises(TypeError, match=message):
            call()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: convert.from_torch("lstm", None), "weights"),
        (lambda: convert.from_torch("lstm", lstm_state(), prefix=None), "prefix"),
        (lambda: convert.from_torch("lstm", lstm_state(), name=3, stack=True), "name"),
        (lambda: convert.from_torch("lstm", {3: np.ones((2, 2))}), "weights"),
        (lambda: convert.dense_from_torch(np.ones((2, 3))), "weights"),
        (lambda: convert.dense_from_torch({"weight": np.ones((2, 3))}, keys="Wy"), "keys"),
        (lambda: convert.dense_from_torch({"weight": np.ones((2, 3))}, keys=None), "keys"),
        (lambda: convert.dense_to_torch(None), "parameters"),
        (lambda: convert.dense_to_torch([np.ones((2, 3))]), "parameters"),
        (lambda: convert.dense_to_keras({"Wy": 1}, keys=("Wy",)), "keys"),
        (lambda: convert.to_torch("lstm", {}, prefix=3), "prefix"),
        (lambda: convert.to_keras("lstm", {}, name=None), "name"),
        (lambda: convert.from_keras("lstm", None), "weights"),
        (lambda: convert.from_keras("lstm", np.ones((3, 16))), "weights"),
        (lambda: convert.dense_from_keras("abc"), "weights"),
    ],
)
def test_wrong_containers(call, name):
    with pytest.raises(TypeError, match=f"`{name}` must be"):
        call()


@of_keras
def test_keras_models_that_mask_steps(keras, rng):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((7, 3)),
            layers.Masking(0.0),
            layers.LSTM(5, return_sequences=True),
            layers.LSTM(4),
            layers.Dense(1),
        ]
    )
    with pytest.raises(
        ValueError, match=r"pass \[model.layers\[1\], model.layers\[2\]\], stack=True. It masks .*padding_to_end"
    ):
        convert.from_keras("lstm", model, stack=True)
    with pytest.raises(ValueError, match=r"got a layer Masking: leave it out; .*move_padding_to_end"):
        convert.from_keras("lstm", model.layers, stack=True)
    with pytest.raises(ValueError, match="got a layer Dense: convert it with `dense_from_keras`"):
        convert.from_keras("lstm", model.layers[1:], stack=True)
    parameters = convert.from_keras("lstm", model.layers[1:3], stack=True)
    ours = SequenceRegressor(3, [5, 4], 1, parameters=parameters | convert.dense_from_keras(model.layers[-1]))
    inputs = rng.standard_normal((4, 7, 3)).astype("float32")
    inputs[0, :3], inputs[1, 2:4], inputs[2, :1], inputs[2, 5:] = 0, 0, 0, 0
    moved, lengths = move_padding_to_end(inputs.transpose(2, 0, 1))
    assert lengths.tolist() == [4, 5, 4, 7]
    assert_close(ours.predict(moved, lengths=lengths).T, model.predict(inputs, verbose=0), TOLERANCE["float32"])
