"""torch's side, the training loop of its tutorials. Only this file imports torch."""

import numpy as np
import torch
from torch import nn

from rnnx import convert
from rnnx.compare.records import Arrays, Request
from rnnx.compare.side import Side

KINDS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class TorchSide(Side):
    """`torch.nn` and `torch.optim`."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        s = request.settings
        if s.threads is not None:
            torch.set_num_threads(s.threads)
        self.versions = {"torch": str(torch.__version__)}
        dtype = getattr(torch, s.dtype)
        rnn = KINDS[s.cell](s.vocab_size, s.hidden_size, s.num_layers, dtype=dtype)
        self.net = nn.ModuleDict({"rnn": rnn, "head": nn.Linear(s.hidden_size, s.vocab_size, dtype=dtype)})
        state = convert.to_torch(s.cell_name, request.parameters, prefix="rnn.")
        state |= convert.dense_to_torch(request.parameters, prefix="head.")
        self.net.load_state_dict({key: torch.from_numpy(a) for key, a in state.items()})
        self._freeze_second_biases()
        rule = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[s.optimizer]  # Adam's epsilon is 1e-8, as in rnnx
        self.optimizer = rule(self.net.parameters(), lr=s.learning_rate)

    def _freeze_second_biases(self) -> None:
        """Keep recurrent biases at zero where they are only added; see `keras_side.freeze_second_biases`."""
        for key, p in self.net["rnn"].named_parameters():
            if key.startswith("bias_hh"):
                trained = torch.zeros_like(p)
                if self.settings.cell == "gru":
                    trained[-self.settings.hidden_size :] = 1
                p.register_hook(trained.mul)

    def first_gradients(self) -> Arrays:  # noqa: D102
        self._loss(self.request.inputs[0], self.request.targets[0]).backward()
        found = {key: p.grad for key, p in self.net.named_parameters()}
        recurrent = convert.from_torch(self.settings.cell_name, found, prefix="rnn.", stack=True, gradients=True)
        return recurrent | convert.dense_from_torch(found, prefix="head.", gradients=True)

    def _loss(self, inputs: np.ndarray, targets: np.ndarray) -> torch.Tensor:
        """Return the mean loss over all characters, in torch's default time-major layout."""
        x = nn.functional.one_hot(torch.from_numpy(inputs.T), self.settings.vocab_size)
        logits = self.net["head"](self.net["rnn"](x.to(getattr(torch, self.settings.dtype)))[0])
        return nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets.T).flatten())

    def step(self, inputs: np.ndarray, targets: np.ndarray) -> float:  # noqa: D102
        self.optimizer.zero_grad()
        loss = self._loss(inputs, targets)
        loss.backward()
        self.optimizer.step()
        return loss.item()
