"""ONNX files with recurrent layers by the exporters of other libraries. As a script, this writes the stored ones."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

STORED = Path(__file__).parent / "onnx_files"
N_X, N, M, T, V = 5, 4, 3, 6, 7


@dataclass
class File:
    """How a file is made, by which packages, whether it is stored, and its kind of inputs and outputs."""

    make: Callable[[str], None]
    packages: tuple[str, ...] = ("torch",)
    stored: bool = False
    indices: str = ""
    softmax: bool = False


def of_torch(path, kind, embedding=False, packed=False, last=False, dynamo=False, **options):
    """Export two layers and a linear one, with open sizes."""
    import torch

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(V, N_X) if embedding else torch.nn.Identity()
            self.rnn = getattr(torch.nn, kind)(N_X, N, 2, batch_first=True, **options)
            self.head = torch.nn.Linear(N * (1 + self.rnn.bidirectional), 2)

        def forward(self, x, lengths=None):
            x = self.embedding(x)
            if packed:
                x = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
            y, _ = self.rnn(x)
            if packed:
                y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True)
            return self.head(y[:, -1] if last else y)

    torch.manual_seed(0)
    inputs = [torch.zeros(M, T, dtype=torch.int64) if embedding else torch.zeros(M, T, N_X)]
    inputs += [torch.tensor([T, 4, 2])] if packed else []
    sizes = {0: "m", 1: "t"}
    shapes = {"dynamic_axes": {"x": sizes, "n": {0: "m"}}}
    if dynamo:
        shapes = {"dynamic_shapes": (dict.fromkeys(sizes, torch.export.Dim.DYNAMIC),)}
    names = ["x", "n"][: len(inputs)]
    network = Network().eval()
    torch.onnx.export(network, tuple(inputs), path, dynamo=dynamo, input_names=names, verbose=False, **shapes)


def network_of_keras(*layers, indices=False):
    """A Keras model on TensorFlow."""
    import keras

    shape = {"shape": (None,), "dtype": "int32"} if indices else {"shape": (None, N_X)}
    network = keras.Sequential([keras.Input(**shape), *layers])
    network(keras.ops.zeros((M, T) if indices else (M, T, N_X), shape.get("dtype", "float32")))
    return network


def of_keras(path):
    """Export an embedding, a bidirectional layer and softmax with `Model.export`."""
    from keras.layers import LSTM, Bidirectional, Dense, Embedding

    layers = Embedding(V, N_X), Bidirectional(LSTM(N, return_sequences=True)), Dense(2, activation="softmax")
    network_of_keras(*layers, indices=True).export(path, format="onnx", verbose=False)


def of_tf2onnx(path):
    """Export two layers, of which the last step is used, with tf2onnx."""
    import tensorflow as tf
    import tf2onnx
    from keras.layers import LSTM, Dense

    network = network_of_keras(LSTM(N, return_sequences=True), LSTM(3), Dense(2, bias_initializer="random_normal"))
    spec = [tf.TensorSpec((None, None, N_X), tf.float32)]
    tf2onnx.convert.from_function(tf.function(network), input_signature=spec, output_path=path)


FILES = {
    "torch_lstm": File(partial(of_torch, kind="LSTM", bidirectional=True)),
    "torch_gru": File(partial(of_torch, kind="GRU", embedding=True, last=True, bias=False), indices="int64"),
    "torch_rnn": File(partial(of_torch, kind="RNN", nonlinearity="relu")),
    "torch_packed": File(partial(of_torch, kind="LSTM", bidirectional=True, packed=True)),
    "torch_dynamo": File(
        partial(of_torch, kind="GRU", embedding=True, last=True, dynamo=True), ("torch", "onnxscript"), True, "int64"
    ),
    "keras": File(of_keras, ("keras", "tensorflow", "tf2onnx"), True, "int32", True),
    "tf2onnx": File(of_tf2onnx, ("keras", "tensorflow", "tf2onnx"), True),
}


def store(name, path):
    """Write a file without its stack traces."""
    import onnx

    FILES[name].make(path)
    proto = onnx.load(path)
    for node in proto.graph.node:
        for field in ("metadata_props", "doc_string"):
            node.ClearField(field)
    for field in ("metadata_props", "doc_string", "value_info"):
        proto.graph.ClearField(field)
    onnx.save(proto, path)
    Path(path + ".data").unlink(missing_ok=True)


if __name__ == "__main__":
    STORED.mkdir(exist_ok=True)
    for name, file in FILES.items():
        if file.stored:
            store(name, str(STORED / f"{name}.onnx"))
