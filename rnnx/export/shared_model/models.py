"""Models for one sequence at a time, with one head and with several."""

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np

from .sequences import Sequences


class SharedModel(Sequences):
    """A model for one sequence at a time, and its state.

    Attributes
    ----------
    name, kind : str
    n_x, n_y : int
        Numbers of inputs and outputs.
    indices : bool
        Whether an input is an index, instead of n_x numbers.
    per_step : bool
        Whether `run` returns outputs for every step, rather than at the end.
    bidirectional : bool
        Whether the model needs the whole sequence. It then has no `step`.
    extra : dict
        The inputs besides x by name, with their defaults: a number, "step" (the number of the step), or None.
    vocabulary : list of str or None
        What the outputs stand for.
    predictions : list of str
        The names of what `predict` returns; empty if the outputs themselves are the predictions.

    See Also
    --------
    load, build, SharedMultiTaskModel, rnnx.Stream

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.export import build, load, to_c
    >>> from rnnx.models import SequenceRegressor
    >>> model = load(build(to_c(SequenceRegressor(1, 8, per_step=True, rng=0), "filter.c")[0]))
    >>> signal = np.sin(np.arange(6, dtype="float32"))
    >>> one_by_one = [float(model.step([value])[0]) for value in signal]
    >>> model.reset()
    >>> bool(np.allclose(model.run(signal[None, :])[0], one_by_one))
    True
    """

    def __init__(self, library: ctypes.CDLL, facts: dict[str, Any]) -> None:
        super().__init__(library, facts)
        self._head = head = self.heads[""]
        self.n_y, self.per_step, self.vocabulary = head.n_y, head.per_step, head.vocabulary
        self.predictions = head.predictions

    def step(self, x: Any, extra: Mapping[str, Any] | None = None) -> np.ndarray:
        """Read the inputs of one step, (n_x,) or an index; return the outputs, (n_y,)."""
        return self.outputs_of_step(x, extra)[""]

    def run(self, x: Any, extra: Mapping[str, Any] | None = None) -> np.ndarray:
        """Read a sequence, (n_x, T) or indices (T,), from the current states on.

        `extra` holds the inputs besides x, (T,), by name. Return the outputs, (n_y, T) or, without outputs for every
        step, (n_y,).
        """
        return self.outputs(x, extra)[""]

    def predict(self, y: Any) -> dict[str, np.ndarray]:
        """Return what outputs (n_y,) or (n_y, T) say, by name: probabilities, or numbers in the units of the targets.

        Each is an array (n, ...): of n classes, or of n targets.
        """
        return self._head.predict(y)

    def __repr__(self) -> str:
        return f"<SharedModel {self.name!r}: {self.kind}, {self.n_x} inputs, {self.n_y} outputs>"


class SharedMultiTaskModel(Sequences):
    """A model with several heads for one sequence at a time, and its state.

    Attributes
    ----------
    heads : dict
        The heads by name. Each has `n_y`, `per_step`, `vocabulary` and `predictions`, which are those of a
        `SharedModel`.
    name, kind, n_x, indices, bidirectional, extra
        As for `SharedModel`.

    See Also
    --------
    load, build, SharedModel

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.export import build, load, to_c
    >>> from rnnx.models import Head, MultiTaskModel
    >>> heads = {"load": Head(1, "gaussian", per_step=True), "label": Head(3, "cross_entropy")}
    >>> model = load(build(to_c(MultiTaskModel(2, 8, heads, rng=0), "plant.c")[0]))
    >>> y = model.run(np.ones((2, 5), "float32"))
    >>> {name: outputs.shape for name, outputs in y.items()}
    {'load': (2, 5), 'label': (3,)}
    >>> {name: list(said) for name, said in model.predict(y).items()}
    {'load': ['mean', 'scale'], 'label': ['probability']}
    """

    def step(self, x: Any, extra: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """Read the inputs of one step, (n_x,) or an index; return the outputs of each head, (n_y,)."""
        return self.outputs_of_step(x, extra)

    def run(self, x: Any, extra: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """Read a sequence as `SharedModel.run` does; return the outputs of each head, (n_y, T) or (n_y,)."""
        return self.outputs(x, extra)

    def predict(self, y: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
        """Return what the outputs of heads say, as `SharedModel.predict` does."""
        if not isinstance(y, Mapping):
            raise ValueError(f"`y` must be a dict with outputs by head, {list(self.heads)}; got {type(y).__name__}")
        unknown = [name for name in y if name not in self.heads]
        if unknown:
            raise ValueError(f"`y` may contain the heads {list(self.heads)}; got {unknown[0]!r}")
        return {name: self.heads[name].predict(outputs) for name, outputs in y.items()}

    def __repr__(self) -> str:
        return f"<SharedMultiTaskModel {self.name!r}: {self.n_x} inputs, heads {list(self.heads)}>"
