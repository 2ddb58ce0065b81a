"""What goes to a side and what comes back: two .npz files, plain numbers and text only."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Settings:
    """The task, the same for every side."""

    vocab_size: int
    hidden_size: int = 128
    num_layers: int = 1
    cell: str = "lstm"
    batch_size: int = 32
    seq_length: int = 64
    steps: int = 100
    seed: int = 0
    optimizer: str = "adam"
    learning_rate: float = 0.003
    dtype: str = "float32"
    threads: int | None = None


@dataclass(frozen=True)
class Request:
    """What a side is given.

    Attributes
    ----------
    settings : Settings
    inputs, targets : array of int, shape (steps, m, T)
        The batch of every step.
    parameters : dict of str to array
        Initial parameters of a `rnnx.models.CharModel`.
    """

    settings: Settings
    inputs: np.ndarray
    targets: np.ndarray
    parameters: Arrays

    def save(self, path: str | Path) -> None:
        """Write it to a file."""
        arrays = {"inputs": self.inputs, "targets": self.targets, **_prefixed("p.", self.parameters)}
        _save(path, asdict(self.settings), arrays)

    @classmethod
    def load(cls, path: str | Path) -> "Request":
        """Read what `save` wrote."""
        settings, arrays = _load(path)
        return cls(Settings(**settings), arrays["inputs"], arrays["targets"], _unprefixed("p.", arrays))


@dataclass(frozen=True)
class Result:
    """What a side has found.

    Attributes
    ----------
    losses : array, shape (steps,)
        Of every step's batch, before that step's update; nats per character.
    seconds : array, shape (steps,)
        Wall-clock time of every step; the first one includes what is compiled or built only once.
    gradients : dict of str to array
        Of the first batch's loss at the initial parameters, under rnnx's names.
    start_seconds : float
        From the start of the process until all is imported.
    memory_start, memory_peak : float or None
        Resident memory after importing, and its peak until the last step, MiB; None if the system does not tell.
    versions : dict of str to str
    """

    losses: np.ndarray
    seconds: np.ndarray
    gradients: Arrays
    start_seconds: float
    memory_start: float | None
    memory_peak: float | None
    versions: dict[str, str] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write it to a file."""
        plain = {key: getattr(self, key) for key in ("start_seconds", "memory_start", "memory_peak", "versions")}
        _save(path, plain, {"losses": self.losses, "seconds": self.seconds, **_prefixed("g.", self.gradients)})

    @classmethod
    def load(cls, path: str | Path) -> "Result":
        """Read what `save` wrote."""
        plain, arrays = _load(path)
        return cls(arrays["losses"], arrays["seconds"], _unprefixed("g.", arrays), **plain)


def _prefixed(prefix: str, arrays: Arrays) -> Arrays:
    return {prefix + key: a for key, a in arrays.items()}


def _unprefixed(prefix: str, arrays: Arrays) -> Arrays:
    return {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)}


def _save(path: str | Path, plain: dict[str, Any], arrays: Arrays) -> None:
    named: dict[str, Any] = {"plain": np.array(json.dumps(plain)), **arrays}
    np.savez(path, **named)


def _load(path: str | Path) -> tuple[dict[str, Any], Arrays]:
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    return json.loads(str(arrays.pop("plain"))), arrays
