"""The heads of a model: what its outputs are, and what they say."""

import ctypes
from typing import Any

import numpy as np


class SharedHead:
    """A head of a model in a library.

    Attributes
    ----------
    n_y : int
        Number of outputs.
    per_step : bool
        Whether `run` returns outputs for every step, rather than at the end.
    vocabulary : list of str or None
        What the outputs stand for.
    predictions : list of str
        The names of what `predict` returns; empty if the outputs themselves are the predictions.
    """

    def __init__(self, library: ctypes.CDLL, model: str, facts: dict[str, Any]) -> None:
        self.n_y, self.per_step, self.vocabulary = facts["outputs"], facts["per_step"], facts["vocabulary"]
        self.predictions = facts.get("predictions", [])
        self._of_classes = self.predictions == ["probability"]
        if self.predictions:
            kind = "probabilities" if self._of_classes else "predict"
            self._function = getattr(library, f"{model}_{kind}{facts.get('end', '')}")
            self._function.restype = None

    def predict(self, y: Any) -> dict[str, np.ndarray]:
        """Return what outputs (n_y,) or (n_y, T) say, by name: probabilities, or numbers in the units of the targets.

        Each is an array (n, ...): of n classes, or of n targets.
        """
        given = np.asarray(y, np.float32)
        if given.ndim not in (1, 2) or len(given) != self.n_y:
            raise ValueError(f"`y` must have shape (n_y,) or (n_y, T) with n_y = {self.n_y}; got {given.shape}")
        if not self.predictions:
            return {"y": given.copy()}
        rows = np.ascontiguousarray(given.T).reshape(-1, self.n_y)
        p = np.empty((len(rows), max(self.n_y, 2) if self._of_classes else self.n_y), np.float32)
        for row, into in zip(rows, p, strict=True):
            places = ctypes.c_void_p(row.ctypes.data), ctypes.c_void_p(into.ctypes.data)
            self._function(places[0], *[ctypes.c_float(1.0)] * self._of_classes, places[1])
        parts = [part[:, 0] if given.ndim == 1 else part for part in np.split(p.T, len(self.predictions))]
        return dict(zip(self.predictions, parts, strict=True))

    def empty(self, n_steps: int | None) -> np.ndarray:
        """Return memory for the outputs of n steps, or of a single one."""
        return np.empty((n_steps, self.n_y) if self.per_step and n_steps is not None else self.n_y, np.float32)
