"""rnnx's side, using the public model, gradients and optimizer."""

import sys

import numpy as np

import rnnx
from rnnx import optim
from rnnx.compare.records import CONTINUATION, Arrays, Request, Settings
from rnnx.compare.side import Side
from rnnx.data import Batch
from rnnx.models import CharModel
from rnnx.models.generation import draw


def make_model(s: Settings, rng: np.random.Generator | int = 0) -> CharModel:
    """Return the model of the settings, with random initial parameters."""
    sizes = s.vocab_size, s.hidden_size, s.num_layers
    return CharModel(*sizes, cell=s.cell, reset_after=s.reset_after, rng=rng, dtype=s.dtype)


class RnnxSide(Side):
    """`rnnx.models.CharModel` and `rnnx.optim`."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.versions = {"rnnx": rnnx.__version__, "numpy": np.__version__, "python": sys.version.split()[0]}
        self.model = make_model(self.settings)
        self.model.set_parameters({key: a.copy() for key, a in request.parameters.items()})
        rule = {"sgd": optim.SGD, "adam": optim.Adam}[self.settings.optimizer]
        self.optimizer = rule(self.settings.learning_rate)
        self.state = self.optimizer.init(self.model.parameters)
        self.t = 0

    def first_gradients(self) -> Arrays:  # noqa: D102
        return self._gradients(self.request.inputs[0], self.request.targets[0])[1]

    def _gradients(self, inputs: np.ndarray, targets: np.ndarray) -> tuple[float, Arrays]:
        lengths = np.full(len(inputs), inputs.shape[1])
        return self.model.loss_and_gradients(Batch(inputs, targets, lengths))

    def step(self, inputs: np.ndarray, targets: np.ndarray) -> float:  # noqa: D102
        self.t += 1
        loss, gradients = self._gradients(inputs, targets)
        self.model.parameters, self.state = self.optimizer.update(self.model.parameters, gradients, self.state, self.t)
        return loss

    def sample(self) -> np.ndarray:  # noqa: D102
        rng, stream, text = np.random.default_rng(self.settings.seed), self.model.stream(), list(self.request.prompt)
        for at in range(len(text) + CONTINUATION - 1):
            logits = stream.read(np.array([text[at]]))
            if at + 1 == len(text):
                text.append(draw(logits, rng)[0])
        return np.array(text)
