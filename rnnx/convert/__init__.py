"""Weights to and from PyTorch and Keras.

The functions move numbers between dicts and lists of arrays. They import neither library: give them a module or
a layer (they call ``state_dict()`` or ``get_weights()``), or the arrays, for instance of a .safetensors file.

=================  ===============================  ============================  =============================
..                 rnnx                             PyTorch                       Keras
=================  ===============================  ============================  =============================
weights            (n_a, n_a + n_x) per gate,       (k n_a, n_x), (k n_a, n_a)    (n_x, k n_a), (n_a, k n_a)
                   on [a; x]
LSTM gates         f, i, c, o                       i, f, g, o                    i, f, c, o
GRU gates          u, r, c                          r, z, n                       z, r, h
GRU's new value    u c~ + (1 - u) a                 (1 - z) n + z h               (1 - z) hh + z h
biases             one per gate; a second one       two per gate                  one per gate; two rows for
                   (bhc) in gru_reset_after                                       a GRU with reset_after
=================  ===============================  ============================  =============================

So u = 1 - z: weights and bias of u have the opposite sign. Where a cell only adds the two biases of a gate, rnnx
holds their sum; on the way back the sum is the input side's and the recurrent side's is zero.
"""

from rnnx.convert.keras import dense_from_keras, dense_to_keras, from_keras, to_keras
from rnnx.convert.torch import dense_from_torch, dense_to_torch, from_torch, to_torch

__all__ = [
    "dense_from_keras",
    "dense_from_torch",
    "dense_to_keras",
    "dense_to_torch",
    "from_keras",
    "from_torch",
    "to_keras",
    "to_torch",
]
