"""The sides of `real_data.py` that torch computes: an LSTM of the same size, with the same data and steps."""

import copy
import time

import numpy as np
import torch
from torch import nn

torch.set_num_threads(1)


class Classifier(nn.Module):
    """An LSTM, and a dense layer on its last hidden state."""

    def __init__(self, n_x: int, hidden_size: int, n_classes: int) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(n_x, hidden_size, batch_first=True), nn.Linear(hidden_size, n_classes)

    def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
        return self.head(self.lstm(nn.utils.rnn.pack_sequence(x, enforce_sorted=False))[1][0][-1])


def classify_with_torch(x, y, x_test, seed, *, hidden_size, epochs, batch_size, learning_rate):
    """Predicted labels."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    joined = np.concatenate(x)
    mean, scale = joined.mean(axis=0), joined.std(axis=0)
    rows, others = ([torch.tensor((s - mean) / scale, dtype=torch.float32) for s in part] for part in (x, x_test))
    classes, targets = np.unique(y, return_inverse=True)
    model = Classifier(joined.shape[1], hidden_size, len(classes))
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    for _ in range(epochs):
        order = rng.permutation(len(rows))
        for k in range(0, len(rows), batch_size):
            chosen = order[k : k + batch_size]
            loss = nn.functional.cross_entropy(model([rows[j] for j in chosen]), torch.tensor(targets[chosen]))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
    with torch.no_grad():
        return classes[model(others).argmax(dim=1).numpy()]


class Forecaster(nn.Module):
    """An LSTM with three quantiles at every step."""

    def __init__(self, n_x: int, hidden_size: int) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(n_x, hidden_size, batch_first=True), nn.Linear(hidden_size, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0])


def pinball(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The mean loss of the quantiles."""
    d = y[..., None] - z
    q = torch.tensor([0.1, 0.5, 0.9])
    return torch.maximum(q * d, (q - 1) * d).mean()


def forecast_with_torch(train, held, test, scalers, seed, *, hidden_size, epochs, batch_size, learning_rate, patience):
    """Forecasts (m, H) of the median, and the seconds of training."""
    torch.manual_seed(seed)
    horizon = train.horizon

    def tensors(batch):
        x = scalers["input_scaler"].transform(batch.inputs).transpose(1, 2, 0)
        y = scalers["target_scaler"].transform(batch.targets)[0, :, -horizon:]
        return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)

    started = time.perf_counter()
    model = Forecaster(train.n_inputs, hidden_size)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    x_held, y_held = tensors(held.gather(np.arange(len(held))))
    best, state, since = np.inf, None, 0
    for epoch in range(epochs):
        for batch in train.batches(batch_size, np.random.default_rng([seed, epoch])):
            x, y = tensors(batch)
            optimizer.zero_grad()
            pinball(model(x)[:, -horizon:], y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        with torch.no_grad():
            loss = float(pinball(model(x_held)[:, -horizon:], y_held))
        since += 1
        if loss < best:
            best, state, since = loss, copy.deepcopy(model.state_dict()), 0
        if since >= patience:
            break
    model.load_state_dict(state)
    seconds = time.perf_counter() - started
    chosen = np.arange(len(test))
    with torch.no_grad():
        median = model(tensors(test.gather(chosen))[0])[..., 1].numpy()
    return test.restore(scalers["target_scaler"].inverse(median[None]), chosen)[0], seconds
