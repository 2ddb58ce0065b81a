"""rnnx's side: the model, the gradients and the optimizer of the public interface."""

import sys

import numpy as np

import rnnx
from rnnx import optim
from rnnx.compare.exchange import Arrays, Request
from rnnx.compare.side import main, timed
from rnnx.data import Batch
from rnnx.models import CharModel


class RnnxSide:
    """`CharModel`, and `rnnx.optim`."""

    def __init__(self, request: Request, way: str) -> None:
        del way
        s = request.settings
        self.request = request
        self.versions = {"rnnx": rnnx.__version__, "numpy": np.__version__, "python": sys.version.split()[0]}
        name = "gru" if s.cell == "gru_reset_after" else s.cell
        self.model = CharModel(
            s.vocab_size, s.hidden_size, s.num_layers, cell=name, reset_after=name != s.cell, dtype=s.dtype
        )
        self.model.set_parameters({key: a.copy() for key, a in request.parameters.items()})
        self.optimizer = {"sgd": optim.SGD, "adam": optim.Adam}[s.optimizer](s.learning_rate)
        self.state = self.optimizer.init(self.model.parameters)
        self.t = 0

    def train(self) -> tuple[list[float], list[float]]:
        """Losses and seconds of all steps."""
        return timed(self.request, self._step)

    def first_gradients(self) -> Arrays:
        """Gradients of the first batch."""
        return self._gradients(self.request.inputs[0], self.request.targets[0])[1]

    def _gradients(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[float, Arrays]:
        lengths = np.full(len(inputs), inputs.shape[1])
        return self.model.loss_and_gradients(Batch(inputs, targets, lengths))

    def _step(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        self.t += 1
        loss, gradients = self._gradients(inputs, targets)
        self.model.parameters, self.state = self.optimizer.update(self.model.parameters, gradients, self.state, self.t)
        return loss


if __name__ == "__main__":
    main(RnnxSide)
