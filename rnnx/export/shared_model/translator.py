"""An encoder and a decoder for one sequence at a time."""

import ctypes
from typing import Any

import numpy as np


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
