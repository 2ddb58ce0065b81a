"""Layers of onnxruntime: one node, as torch's exporter writes it, with random weights."""

import tempfile
from pathlib import Path

import numpy as np
from shared import GATES

# Cell -> operator and attributes.
_NODES = {
    "rnn": ("RNN", {}),
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {"linear_before_reset": 0}),
    "gru_reset_after": ("GRU", {"linear_before_reset": 1}),
}


def onnx_sequence(cell, n, x, quantized=False, threads=0):
    """Return a function that runs a layer of n units on x, time-major; 0 threads are all cores.

    `quantized` is onnxruntime's dynamic quantization to int8.
    """
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper
    from onnxruntime import quantization

    (operator, attributes), gates = _NODES[cell], GATES[cell]
    rng, n_x = np.random.default_rng(0), x.shape[2]
    shapes = {"W": (1, gates * n, n_x), "R": (1, gates * n, n), "B": (1, 2 * gates * n)}
    weights = [
        onnx.numpy_helper.from_array((rng.standard_normal(shape) / np.sqrt(n)).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    node = helper.make_node(operator, ["x", *shapes], ["y"], hidden_size=n, **attributes)
    sizes = {"x": list(x.shape), "y": [x.shape[0], 1, x.shape[1], n]}
    given, found = (helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items())
    graph = helper.make_graph([node], cell, [given], [found], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path, small = (Path(folder) / name for name in ("layer.onnx", "int8.onnx"))
        onnx.save(model, path)
        if quantized:
            quantization.quantize_dynamic(path, small, weight_type=quantization.QuantType.QInt8, per_channel=True)
        session = onnxruntime.InferenceSession(small if quantized else path, options)
    return lambda: session.run(None, {"x": x})
