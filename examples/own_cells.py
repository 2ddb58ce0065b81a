"""Own cells: two cells of a few lines beside the LSTM, on the adding problem.

A sequence has random numbers in its first row, and in its second row two marks. The answer is the sum of the two marked
numbers, which a network without a long memory cannot give: its error stays at 1/6, that of always answering 1
(S. Hochreiter, J. Schmidhuber, "Long short-term memory", Neural Computation 9, 1997).

    python examples/own_cells.py        prints the errors and saves the curves to own_cells.svg
"""

from pathlib import Path

import numpy as np

import rnnx
from rnnx import Gate, Vector
from rnnx.cells import Cell, sigmoid, tanh
from rnnx.data import Examples
from rnnx.models import SequenceRegressor
from rnnx.optim import Adam
from rnnx.training import Trainer


@rnnx.cell
def slow_and_fast(x, a, *, f=Gate, c=Gate, rate=Vector((-5.0, 0.0))):
    """Every unit has a time scale of its own, which the gate f shortens."""
    return a + sigmoid(f(x, a) + rate) * (tanh(c(x, a)) - a)


@rnnx.cell
def keeper(x, a, c, *, i=Gate, g=Gate):
    """Adds gated inputs to a memory that it never forgets."""
    c = c + sigmoid(i(x)) * g(x)
    return tanh(c), c


def adding(n: int, n_steps: int, seed: int) -> Examples:
    """Return n examples: inputs (2, n, n_steps), targets (1, n)."""
    rng = np.random.default_rng(seed)
    values, marks = rng.random((n, n_steps)), np.zeros((n, n_steps))
    half = n_steps // 2
    first, second = rng.integers(0, half, n), rng.integers(half, n_steps, n)
    marks[np.arange(n), first] = marks[np.arange(n), second] = 1
    return Examples(np.stack([values, marks]), (values * marks).sum(axis=1)[None])


def curve(cell: str | Cell, n_steps: int, n_train: int, epochs: int, hidden_size: int) -> list[float]:
    """Return the mean squared error on unseen sequences after each epoch."""
    train, test = adding(n_train, n_steps, seed=1), adding(1000, n_steps, seed=2)
    model = SequenceRegressor(2, hidden_size, 1, cell=cell, rng=0)
    trainer, errors = Trainer(model, Adam(learning_rate=0.01), clip_norm=1.0, seed=0), []
    for epoch in range(epochs):
        trainer.fit(train, epochs=epoch + 1, batch_size=50)
        errors.append(float(np.mean((model.predict(test.inputs) - test.targets) ** 2)))
    return errors


def draw(curves: dict[str, list[float]], path: Path) -> None:
    """Plot the errors over the epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, errors in curves.items():
        axes.semilogy(range(1, len(errors) + 1), errors, label=name)
    axes.axhline(1 / 6, color="gray", linestyle="dotted", label="always 1")
    axes.set(xlabel="epoch", ylabel="mean squared error", title="The adding problem")
    axes.legend()
    figure.savefig(path)


def main(
    n_steps: int = 60, n_train: int = 5000, epochs: int = 15, hidden_size: int = 32, path: Path = Path("own_cells.svg")
) -> dict[str, list[float]]:
    """Train all three, save the plot, and return the curves."""
    cells: dict[str, str | Cell] = {"lstm": "lstm", slow_and_fast.name: slow_and_fast, keeper.name: keeper}
    for own in (slow_and_fast, keeper):
        rnnx.check_cell(own)
    curves = {name: curve(cell, n_steps, n_train, epochs, hidden_size) for name, cell in cells.items()}
    draw(curves, path)
    return curves


if __name__ == "__main__":
    for name, errors in main().items():
        print(f"{name:14} mean squared error {errors[-1]:.4f}  (always 1: {1 / 6:.4f})")
