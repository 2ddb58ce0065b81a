"""Recurrent networks with explicit forward and hand-derived backward passes, on any array library."""

from rnnx._caches import Caches
from rnnx.activations import (
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    softmax,
    softmax_backward,
    tanh,
    tanh_backward,
)
from rnnx.cells import CELLS, Cell, Gate, Stage
from rnnx.engines import engine_for, engine_names, use_engine, warm_up
from rnnx.functional import (
    gru_backward,
    gru_cell_backward,
    gru_cell_forward,
    gru_forward,
    lstm_backward,
    lstm_cell_backward,
    lstm_cell_forward,
    lstm_forward,
    recurrent_backward,
    recurrent_forward,
    rnn_backward,
    rnn_cell_backward,
    rnn_cell_forward,
    rnn_forward,
)
from rnnx.heads import dense_backward, dense_forward, softmax_cross_entropy
from rnnx.initialization import initialize_parameters
from rnnx.optim import (
    SGD,
    Adam,
    clip_by_global_norm,
    clip_by_value,
    initialize_adam,
    update_parameters_with_adam,
    update_parameters_with_sgd,
)
from rnnx.streaming import Stream

__version__ = "0.1.0"

__all__ = [
    "CELLS",
    "SGD",
    "Adam",
    "Caches",
    "Cell",
    "Gate",
    "Stage",
    "Stream",
    "clip_by_global_norm",
    "clip_by_value",
    "dense_backward",
    "dense_forward",
    "engine_for",
    "engine_names",
    "gru_backward",
    "gru_cell_backward",
    "gru_cell_forward",
    "gru_forward",
    "initialize_adam",
    "initialize_parameters",
    "lstm_backward",
    "lstm_cell_backward",
    "lstm_cell_forward",
    "lstm_forward",
    "recurrent_backward",
    "recurrent_forward",
    "relu",
    "relu_backward",
    "rnn_backward",
    "rnn_cell_backward",
    "rnn_cell_forward",
    "rnn_forward",
    "sigmoid",
    "sigmoid_backward",
    "softmax",
    "softmax_backward",
    "softmax_cross_entropy",
    "tanh",
    "tanh_backward",
    "update_parameters_with_adam",
    "update_parameters_with_sgd",
    "use_engine",
    "warm_up",
]
