"""The course's recurrent functions, and the same for any cell."""

from rnnx.functional.gru import gru_backward, gru_cell_backward, gru_cell_forward, gru_forward
from rnnx.functional.lstm import lstm_backward, lstm_cell_backward, lstm_cell_forward, lstm_forward
from rnnx.functional.recurrent import recurrent_backward, recurrent_forward
from rnnx.functional.rnn import rnn_backward, rnn_cell_backward, rnn_cell_forward, rnn_forward

__all__ = [
    "gru_backward", "gru_cell_backward", "gru_cell_forward", "gru_forward", "lstm_backward", "lstm_cell_backward",
    "lstm_cell_forward", "lstm_forward", "recurrent_backward", "recurrent_forward", "rnn_backward", "rnn_cell_backward",
    "rnn_cell_forward", "rnn_forward",
]  # fmt: skip
