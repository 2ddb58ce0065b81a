"""Recurrent layers for torch on the engines of rnnx. Requires torch.

Replacing ``torch.nn`` by ``rnnx.interop.torch`` before `LSTM`, `GRU` or `RNN` is all that a model needs: arguments,
parameters, state dicts, results and errors are the same. `Recurrent` takes any cell.
"""

from rnnx.interop.torch.modules import GRU, LSTM, RNN
from rnnx.interop.torch.recurrent import Recurrent

__all__ = ["GRU", "LSTM", "RNN", "Recurrent"]
