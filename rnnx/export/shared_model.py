"""Run a model that `rnnx export` has compiled to a shared library.

This file needs NumPy and nothing else, not even rnnx: copy it and the library beside your program::

    from shared_model import load

    model = load("dinos.so")
    y = model.run(x)
"""

import ctypes
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

FORMAT = 1  # of the description in a library
_loaded: dict[str, list[tuple[int, int]]] = {}  # the files that a path has named


def load(path: str | os.PathLike[str]) -> Any:
    """Load a shared library of `rnnx.export.build`.

    Return a `SharedModel`; of a MultiTaskModel a `SharedMultiTaskModel`, of a Seq2Seq a `SharedTranslator`.

    Raises
    ------
    OSError
        If the file is not a library for this machine.
    ValueError
        If it is a library of another kind.

    See Also
    --------
    build, SharedModel

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.export import build, load, to_c
    >>> from rnnx.models import SequenceRegressor
    >>> model = SequenceRegressor(3, 8, rng=0)
    >>> shared = load(build(to_c(model, "model.c")[0]))
    >>> x = np.ones((3, 5), "float32")  # (n_x, T): one sequence
    >>> bool(np.allclose(shared.run(x), model.predict(x[:, None, :])[:, 0], atol=1e-5))
    True
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"`path` must be a str or Path; got {type(path).__name__}")
    library = ctypes.CDLL(_name_of(Path(path).resolve()))
    if not hasattr(library, "rnnx_model"):
        raise ValueError(f"{path} is not a library of rnnx.export.build")
    library.rnnx_model.restype = ctypes.c_char_p
    pieces, k = [], 0
    while (piece := library.rnnx_model(k)) is not None:
        pieces.append(piece)
        k += 1
    facts = json.loads(b"".join(pieces))
    if facts["format"] != FORMAT:
        raise ValueError(f"{path} has format {facts['format']}; this version of shared_model.py reads format {FORMAT}")
    if facts["kind"] == "seq2seq":
        return SharedTranslator(library, facts)
    return SharedMultiTaskModel(library, facts) if "heads" in facts else SharedModel(library, facts)


def _name_of(path: Path) -> str:
    """Return a name of the file. The system knows libraries by name, so a new file in the place of one has another."""
    found = path.stat()
    versions = _loaded.setdefault(str(path), [])
    version = found.st_ino, found.st_mtime_ns
    if version not in versions:
        versions.append(version)
    return os.path.join(path.parent, *["."] * versions.index(version), path.name)


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


class _Sequences:
    """A model for one sequence at a time, and its state."""

    def __init__(self, library: ctypes.CDLL, facts: dict[str, Any]) -> None:
        self._library, self._facts = library, facts
        self.name, self.kind, self.n_x = facts["name"], facts["kind"], facts["inputs"]
        self.indices, self.bidirectional, self.extra = facts["indices"], facts["bidirectional"], dict(facts["extra"])
        of_heads = facts.get("heads", [facts | {"name": ""}])
        self.heads = {one["name"]: SharedHead(library, self.name, one) for one in of_heads}
        self._memory = np.zeros(facts["state_bytes"] // 4, np.float32)
        self._state = ctypes.c_void_p(self._memory.ctypes.data)
        self._step, self._run = self._function("step"), self._function("run")
        self._function("init")(self._state)

    def _function(self, name: str) -> Any:
        function = getattr(self._library, f"{self.name}_{name}", None)
        if function is not None:
            function.restype = ctypes.c_int
        return function

    def reset(self) -> None:
        """Return to the beginning of a sequence."""
        self._function("reset")(self._state)

    @property
    def states(self) -> dict[str, np.ndarray]:
        """Copies of the states of the layers, by name. They can be set."""
        found, at = {}, 0
        for name, size in self._facts["states"]:
            found[name] = self._memory[at : at + size].copy()
            at += size
        return found

    @states.setter
    def states(self, states: Mapping[str, Any]) -> None:
        own = self.states
        for name, values in states.items():
            if name not in own:
                raise ValueError(f"`states` may contain {list(own)}; got {name!r}")
            if np.shape(values) != own[name].shape:
                raise ValueError(f"`states[{name!r}]` must have shape {own[name].shape}; got {np.shape(values)}")
        self._memory[: sum(map(len, own.values()))] = np.concatenate(list((own | dict(states)).values()))

    def _outputs_of_step(self, x: Any, extra: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
        """Read the inputs of one step; return the outputs by head."""
        if self.bidirectional:
            raise ValueError("a bidirectional model cannot run step by step: its reverse layers start at the last step")
        if self.indices:
            x = ctypes.c_int32(self._checked(np.asarray(x)[None], 1)[0])
        else:
            x = self._checked(np.reshape(x, (-1, 1)), 1).ctypes.data_as(ctypes.c_void_p)
        more, keep = self._extra(extra, 1)
        y = {name: head.empty(None) for name, head in self.heads.items()}
        if self._step(self._state, x, *more, *[a.ctypes.data_as(ctypes.c_void_p) for a in y.values()]):
            raise ValueError(f"`extra` must hold {list(self.extra)}")
        del keep
        return y

    def _outputs(self, x: Any, extra: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
        """Read a sequence; return the outputs by head."""
        n_steps = np.shape(x)[-1] if np.ndim(x) else 0
        x = self._checked(np.asarray(x), n_steps)
        more, keep = self._extra(extra, n_steps)
        y = {name: head.empty(n_steps) for name, head in self.heads.items()}
        work = np.empty(self._facts["workspace"] * n_steps, np.float32)
        arguments = [a.ctypes.data_as(ctypes.c_void_p) for a in (*y.values(), *[work] * self.bidirectional)]
        data = x.ctypes.data_as(ctypes.c_void_p)
        if self._run(self._state, data, ctypes.c_size_t(n_steps), *more, *arguments):
            raise ValueError(f"`extra` must hold {list(self.extra)}")
        del keep
        return {name: a.T for name, a in y.items()}

    def _checked(self, x: np.ndarray, n_steps: int) -> np.ndarray:
        """Return the inputs step by step, as the library takes them."""
        if self.indices:
            if x.ndim != 1 or x.dtype.kind not in "iu":
                raise ValueError(f"`x` must hold indices, integers of shape (T,); got {x.dtype} of shape {x.shape}")
            if x.size and not 0 <= x.min() <= x.max() < self.n_x:
                raise ValueError(f"`x` must hold indices in [0, n_x) = [0, {self.n_x}); got {x.min()} to {x.max()}")
            return np.ascontiguousarray(x, np.int32)
        if x.shape != (self.n_x, n_steps) or x.dtype.kind not in "fiub":
            raise ValueError(f"`x` must hold real numbers, (n_x, T) = ({self.n_x}, T); got {x.dtype}, {x.shape}")
        return np.ascontiguousarray(x.T, np.float32)

    def _extra(self, extra: Mapping[str, Any] | None, n_steps: int) -> tuple[list[Any], Any]:
        """Return the argument for the inputs besides x, if the model has them, and an array to keep."""
        given = dict(extra or {})
        missing = [name for name, default in self.extra.items() if name not in given and default is None]
        if missing or not given.keys() <= self.extra.keys():
            raise ValueError(f"`extra` must hold {list(self.extra)}; got {list(given)}")
        if not self.extra:
            return [], None
        if not given:
            return [None], None
        rows = np.empty((n_steps, len(self.extra)), np.float32)
        for k, (name, default) in enumerate(self.extra.items()):
            if name not in given and default == "step":
                raise ValueError(f"`extra` must hold {name!r} if it holds another input")
            values = np.asarray(given.get(name, default))
            if values.shape not in ((), (n_steps,)):
                shapes = f"(T,) = ({n_steps},); got {values.shape}"
                raise ValueError(f"`extra[{name!r}]` must hold a number per step, {shapes}")
            rows[:, k] = values
        return [rows.ctypes.data_as(ctypes.c_void_p)], rows

    def copy(self) -> Self:
        """Return an independent model in the same state."""
        other = type(self)(self._library, self._facts)
        other._memory[:] = self._memory
        return other


class SharedModel(_Sequences):
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
        return self._outputs_of_step(x, extra)[""]

    def run(self, x: Any, extra: Mapping[str, Any] | None = None) -> np.ndarray:
        """Read a sequence, (n_x, T) or indices (T,), from the current states on.

        `extra` holds the inputs besides x, (T,), by name. Return the outputs, (n_y, T) or, without outputs for every
        step, (n_y,).
        """
        return self._outputs(x, extra)[""]

    def predict(self, y: Any) -> dict[str, np.ndarray]:
        """Return what outputs (n_y,) or (n_y, T) say, by name: probabilities, or numbers in the units of the targets.

        Each is an array (n, ...): of n classes, or of n targets.
        """
        return self._head.predict(y)

    def __repr__(self) -> str:
        return f"<SharedModel {self.name!r}: {self.kind}, {self.n_x} inputs, {self.n_y} outputs>"


class SharedMultiTaskModel(_Sequences):
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
        return self._outputs_of_step(x, extra)

    def run(self, x: Any, extra: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """Read a sequence as `SharedModel.run` does; return the outputs of each head, (n_y, T) or (n_y,)."""
        return self._outputs(x, extra)

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


class SharedTranslator:
    """An encoder and a decoder for one sequence at a time, and their state.

    Attributes
    ----------
    name, kind : str
    n_x, n_y, end : int
        Numbers of distinct inputs and target tokens; the token that begins and ends every target.
    vocabulary, target_vocabulary : list of str or None
        What inputs and tokens stand for.

    See Also
    --------
    load, build, SharedModel

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.export import build, load, to_c
    >>> from rnnx.models import Seq2Seq
    >>> model = Seq2Seq(27, 12, hidden_size=16, rng=0)
    >>> translator = load(build(to_c(model, "translator.c")[0]))
    >>> source = np.array([3, 1, 2])
    >>> found = model.predict(source[None], max_length=4)
    >>> translator.translate(source, 4).tolist() == found.indices[0, : found.lengths[0]].tolist()
    True
    """

    def __init__(self, library: ctypes.CDLL, facts: dict[str, Any]) -> None:
        self._library, self._facts = library, facts
        self.name, self.kind, self.n_x, self.n_y = facts["name"], facts["kind"], facts["inputs"], facts["outputs"]
        self.end, self.vocabulary = facts["end"], facts["vocabulary"]
        self.target_vocabulary: list[str] | None = facts["target_vocabulary"]
        self._memory, self._n_source = np.zeros(facts["state_bytes"] // 4, np.float32), 0
        self._work = np.zeros(0, np.float32)
        self._call("init")

    def _call(self, name: str, *arguments: Any) -> int:
        """Call a function of the library with the state, and numbers, arrays or None."""
        given = [ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else a for a in (self._memory, *arguments)]
        found: int = getattr(self._library, f"{self.name}_{name}")(*given)
        return found

    def _source(self, source: Any) -> list[Any]:
        """Return the arguments for a source."""
        x = np.asarray(source)
        if x.ndim != 1 or x.dtype.kind not in "iu" or (x.size and not 0 <= x.min() <= x.max() < self.n_x):
            raise ValueError(f"`source` must hold integers in [0, {self.n_x}), of shape (T_x,); got {x!r:.200}")
        self._n_source = len(x)
        self._work = np.zeros(self._facts["workspace"] * len(x), np.float32)
        work = [self._work] * self._facts["needs_work"]
        return [np.ascontiguousarray(x, np.int32), ctypes.c_size_t(len(x)), *work]

    def encode(self, source: Any) -> None:
        """Read a source, indices (T_x,)."""
        self._call("encode", *self._source(source))

    def decode(self, token: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Read a target token, at first `end`.

        Return the logits (n_y,) of the next one and, with attention, the weights (T_x,) of the steps of the source.
        """
        if not isinstance(token, int | np.integer) or not 0 <= token < self.n_y:
            raise ValueError(f"`token` must be an integer in [0, {self.n_y}); got {token!r:.200}")
        y, weights = np.empty(self.n_y, np.float32), np.zeros(self._n_source, np.float32)
        attends = self._facts["attends"]
        self._call("decode", ctypes.c_int32(token), *[self._work] * attends, y, *[weights] * attends)
        return y, weights if attends else None

    def translate(self, source: Any, max_length: int) -> np.ndarray:
        """Return the most likely tokens for a source, indices (T_x,), at most `max_length`, up to the end token."""
        if not isinstance(max_length, int | np.integer) or not 0 <= max_length < 2**31:
            raise ValueError(f"`max_length` must be an integer from 0 to 2^31 - 1; got {max_length!r:.200}")
        tokens = np.zeros(max_length, np.int32)
        return tokens[: self._call("translate", *self._source(source), tokens, ctypes.c_int32(max_length))]

    def copy(self) -> "SharedTranslator":
        """Return an independent model in the same state."""
        other = SharedTranslator(self._library, self._facts)
        other._memory[:] = self._memory
        other._work, other._n_source = self._work.copy(), self._n_source
        return other

    def __repr__(self) -> str:
        return f"<SharedTranslator {self.name!r}: {self.n_x} inputs, {self.n_y} tokens>"
