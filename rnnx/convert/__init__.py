"""Convert weights to and from PyTorch and Keras, and models to and from ONNX.

`to_onnx` and `save_onnx` export models, `from_onnx` makes a model of a file; they require onnx. The other functions
rearrange dicts and lists of arrays and import neither library. They accept a module or a layer, on which they call
``state_dict()`` or ``get_weights()``, or the arrays themselves, for instance from a .safetensors file.

=================  ===============================  ============================  =============================
what               rnnx                             PyTorch                       Keras
=================  ===============================  ============================  =============================
weights            (n_a, n_a + n_x) per gate,       (k n_a, n_x), (k n_a, n_a)    (n_x, k n_a), (n_a, k n_a)
                   on [a; x]
LSTM gates         f, i, c, o                       i, f, g, o                    i, f, c, o
GRU gates          u, r, c                          r, z, n                       z, r, h
GRU's new state    u c~ + (1 - u) a                 (1 - z) n + z h               (1 - z) hh + z h
biases             one per gate; a second one       two per gate                  one per gate; two rows for
                   (bhc) in gru_reset_after                                       a GRU with reset_after
=================  ===============================  ============================  =============================

So u = 1 - z, and the weights and bias of u have the opposite sign. Where a cell only adds the two biases of a gate,
rnnx stores their sum. In the other direction the sum becomes the input bias, and the recurrent bias is zero.
"""

from rnnx.convert.keras import dense_from_keras, dense_to_keras, from_keras, to_keras
from rnnx.convert.onnx import from_onnx, save_onnx, to_onnx
from rnnx.convert.torch import dense_from_torch, dense_to_torch, from_torch, to_torch

__all__ = [
    "dense_from_keras",
    "dense_from_torch",
    "dense_to_keras",
    "dense_to_torch",
    "from_keras",
    "from_onnx",
    "from_torch",
    "save_onnx",
    "to_keras",
    "to_onnx",
    "to_torch",
]
