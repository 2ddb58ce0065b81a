"""A model for one sequence at a time, with its state: the calls of a library, and the checks of what they read."""

import ctypes
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from .heads import SharedHead


class Sequences:
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

    def outputs_of_step(self, x: Any, extra: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
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

    def outputs(self, x: Any, extra: Mapping[str, Any] | None) -> dict[str, np.ndarray]:
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
