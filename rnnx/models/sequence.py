"""A classifier and a regressor of sequences."""

from collections.abc import Sequence
from typing import Any, Unpack

from rnnx._core.arrays import Array
from rnnx.functional.activations import softmax
from rnnx.functional.heads import softmax_cross_entropy, squared_error
from rnnx.models.sequence_model import Options, SequenceModel


class SequenceClassifier(SequenceModel):
    """Which class a sequence, or every step of it, belongs to.

    Parameters
    ----------
    input_size : int
        Features of a step, or number of indices if the inputs are indices.
    hidden_size : int or sequence of int
        Units of every layer, or of each one.
    num_classes : int
    num_layers : int
    cell : {"lstm", "gru", "rnn"}
    reset_after : bool
        The GRU of PyTorch and of Keras' default instead of the course's.
    bidirectional : bool
        Every layer reads the sequence in both directions.
    dropout : float
        Between the layers, in training.
    per_step : bool
        A class for every step (targets (m, T)) instead of one for the sequence (targets (m,)).
    seed : int, optional
        Of the initial parameters.
    scheme, dtype, xp, device
        As for `rnnx.initialize_parameters`.
    parameters : dict of str to array, optional
        Parameters to take over instead of new ones.

    Raises
    ------
    ValueError
        For a size below 1, parameters that do not fit, an unknown cell, or a dropout that is not in [0, 1).

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.models import SequenceClassifier
    >>> model = SequenceClassifier(3, 16, num_classes=2, bidirectional=True, seed=0)
    >>> model.predict(np.zeros((3, 5, 7))).shape
    (2, 5)
    """

    kind = "classifier"
    _loss = staticmethod(softmax_cross_entropy)

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_classes: int,
        num_layers: int = 1,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(input_size, hidden_size, num_classes, num_layers, **options)
        self.config |= {
            "input_size": int(input_size),
            "num_classes": int(num_classes),
            "bidirectional": self.stack.bidirectional,
            "per_step": self.per_step,
        }

    def predict(self, inputs: Any, lengths: Any = None) -> Array:
        """Probabilities of the classes, (num_classes, m), or (num_classes, m, T) per step."""
        return softmax(self.forward(inputs, lengths=lengths, keep_caches=False)[0])


class SequenceRegressor(SequenceModel):
    """Numbers for a sequence, or for every step of it, by least squares.

    Parameters
    ----------
    input_size : int
        Features of a step.
    hidden_size : int or sequence of int
        Units of every layer, or of each one.
    output_size : int
        Numbers to predict.
    num_layers, cell, reset_after, bidirectional, dropout, seed, scheme, dtype, xp, device, parameters
        As for `SequenceClassifier`.
    per_step : bool
        Predict at every step (targets (output_size, m, T)) instead of at the end (targets (output_size, m)).

    Raises
    ------
    ValueError
        As `SequenceClassifier`.
    """

    kind = "regressor"
    _loss = staticmethod(squared_error)

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        output_size: int = 1,
        num_layers: int = 1,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(input_size, hidden_size, output_size, num_layers, **options)
        self.config |= {
            "input_size": int(input_size),
            "output_size": int(output_size),
            "bidirectional": self.stack.bidirectional,
            "per_step": self.per_step,
        }

    def predict(self, inputs: Any, lengths: Any = None) -> Array:
        """The predicted numbers, (output_size, m), or (output_size, m, T) per step."""
        return self.forward(inputs, lengths=lengths, keep_caches=False)[0]
