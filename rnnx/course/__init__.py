"""The functions of the course's two recurrent-network assignments under one import.

``from rnnx.course import *`` replaces the helper modules of both notebooks: ``rnn_utils`` of "Building your Recurrent
Neural Network, Step by Step", and ``utils`` of "Character level language model, Dinosaurus Island". It also contains
the functions that the second notebook asks the learner to write. Names, arguments, shapes, return orders, printed text
and updates in place are those of the assignments; `rnn_forward` and `rnn_backward` accept the signatures of both.

The parameters of the character model are NumPy arrays: Wax (n_a, n_x), Waa (n_a, n_a), Wya (n_y, n_a), b (n_a, 1) and
by (n_y, 1), with n_a hidden units and n_x = n_y characters in the vocabulary. An example is one name of T characters;
its loss is the sum over the characters, in nats.
"""

from rnnx.course.characters import (
    initialize_parameters,
    rnn_backward,
    rnn_forward,
    rnn_step_backward,
    rnn_step_forward,
)
from rnnx.course.training import (
    clip,
    get_initial_loss,
    get_sample,
    model,
    optimize,
    print_sample,
    sample,
    smooth,
    update_parameters,
)
from rnnx.functional import (
    gru_backward,
    gru_cell_backward,
    gru_cell_forward,
    gru_forward,
    lstm_backward,
    lstm_cell_backward,
    lstm_cell_forward,
    lstm_forward,
    rnn_cell_backward,
    rnn_cell_forward,
)
from rnnx.functional.activations import sigmoid, softmax
from rnnx.optim import initialize_adam, update_parameters_with_adam

__all__ = [
    "clip",
    "get_initial_loss",
    "get_sample",
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
    "model",
    "optimize",
    "print_sample",
    "rnn_backward",
    "rnn_cell_backward",
    "rnn_cell_forward",
    "rnn_forward",
    "rnn_step_backward",
    "rnn_step_forward",
    "sample",
    "sigmoid",
    "smooth",
    "softmax",
    "update_parameters",
    "update_parameters_with_adam",
]
