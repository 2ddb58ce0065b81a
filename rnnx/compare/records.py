"""The records that a comparison passes between processes: settings, request, result."""

from dataclasses import dataclass

import numpy as np

from rnnx.models.layers import chosen_cell

Arrays = dict[str, np.ndarray]
PROMPT, CONTINUATION = 16, 80  # characters of a sample: at most so many of the first batch, and of the model


@dataclass(frozen=True)
class Settings:
    """The task, the same for every side."""

    vocab_size: int
    hidden_size: int = 128
    num_layers: int = 1
    cell: str = "lstm"
    reset_after: bool = False
    batch_size: int = 32
    seq_length: int = 64
    steps: int = 100
    seed: int = 0
    optimizer: str = "adam"
    learning_rate: float = 0.003
    dtype: str = "float32"
    threads: int | None = None

    @property
    def cell_name(self) -> str:
        """The cell's name in rnnx's table of cells."""
        return chosen_cell(self.cell, self.reset_after)[0].name


@dataclass(frozen=True)
class Request:
    """The task of one side: inputs and targets of every step, (steps, m, T), and initial `CharModel` parameters."""

    settings: Settings
    inputs: np.ndarray
    targets: np.ndarray
    parameters: Arrays

    @property
    def prompt(self) -> np.ndarray:
        """The beginning of the first sequence, which samples continue."""
        return self.inputs[0, 0, :PROMPT]


@dataclass(frozen=True)
class Result:
    """The measurements of one side."""

    losses: np.ndarray  # (steps,): of every batch before its update, in nats per character
    seconds: np.ndarray  # (steps,): wall-clock time of every step; the first one includes compilation
    gradients: Arrays  # of the first batch at the initial parameters, under rnnx's names
    start_seconds: float  # from starting the process until everything is imported
    memory_start: float | None  # resident memory before training, in MiB; None where the system does not report it
    memory_peak: float | None  # its peak during training, likewise
    versions: dict[str, str]  # of the libraries
    checked_losses: int = 2  # so many must agree with rnnx's
    note: str = ""  # how the side's model differs from rnnx's
    sample: np.ndarray | None = None  # indices: the request's prompt, continued by the trained model
