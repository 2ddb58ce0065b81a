"""Models that run one time step at a time and keep their states."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_indices, check_shape
from rnnx._core.harmless_errors import ignore_harmless_errors
from rnnx._core.inputs import real_array
from rnnx.functional.streaming import Stream
from rnnx.models.decoding import one_hot_columns
from rnnx.models.layers import States

if TYPE_CHECKING:
    from rnnx.models.character import CharModel
    from rnnx.models.recurrent import Recurrent


class StackStream:
    """A stack that runs one step at a time. See `Recurrent.stream` and `rnnx.Stream`.

    See Also
    --------
    CharStream, Recurrent, rnnx.Stream

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.models import SequenceRegressor
    >>> model = SequenceRegressor(3, [8, 4], per_step=True, rng=0)
    >>> stream = model.stack.stream(model.parameters)
    >>> for measurement in np.ones((5, 3, 1), "float32"):  # (T, n_x, m)
    ...     a = stream.step(measurement)
    >>> a.shape, sorted(stream.states)
    ((4, 1), ['a_l0', 'a_l1', 'c_l0', 'c_l1'])
    """

    def __init__(
        self, stack: "Recurrent", parameters: Mapping[str, Array], m: int, states: Mapping[str, Array]
    ) -> None:
        self._streams: dict[str, Stream] = {}
        for (one,) in stack.layers:
            one.check(parameters)
            s0 = tuple([states.get(name) for name in one.state_names])
            self._streams[one.suffix] = Stream(stack.regularization.evaluation, one.own(parameters), m=m, s0=s0)

    def step(self, xt: Array, extra: Mapping[str, Array] | None = None) -> Array:
        """Run one step, from xt (input_size, m) to the last layer's hidden state, like `rnnx.Stream.step`."""
        for stream in self._streams.values():
            xt = stream.step(xt, inputs=extra)
        return xt

    @property
    def states(self) -> States:
        """Copies of the current states by name (see `Recurrent.state_names`)."""
        return {state + suffix: s for suffix, stream in self._streams.items() for state, s in stream.states.items()}


class CharStream:
    """Reads m texts one character at a time. See `CharModel.stream`.

    See Also
    --------
    CharModel, StackStream, rnnx.Stream

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.models import CharModel
    >>> model = CharModel(5, hidden_size=8, dtype="float64", rng=0)
    >>> stream = model.stream(m=2)  # two texts at a time
    >>> for characters in ([3, 1], [4, 4], [0, 2]):
    ...     logits = stream.read(np.array(characters))
    >>> whole, _, _ = model.forward(np.array([[3, 4, 0], [1, 4, 2]]))
    >>> logits.shape, bool(np.allclose(logits, whole[:, :, -1]))
    ((5, 2), True)
    """

    def __init__(self, model: "CharModel", m: int, states: Mapping[str, Array] | None) -> None:
        weights, bias = model.parameters["Wy"], model.parameters["by"]
        xp, _ = ns.common_namespace({"Wy": weights})
        self._weights, self._bias = ns.owned_copy(xp, weights), ns.owned_copy(xp, bias)
        self._columns = one_hot_columns(model.vocab_size, weights)
        self._stream = model.stack.stream(model.parameters, m, states)
        self._m, self._vocab_size = m, model.vocab_size

    def _checked(self, indices: Any) -> np.ndarray:
        xp, indices = real_array("indices", indices)
        if not ns.is_integer(xp, indices):
            raise TypeError(f"`indices` must hold integers; got dtype {indices.dtype}")
        check_shape("indices", indices, "(m,)", (self._m,))
        check_indices("indices", indices, "vocab_size", self._vocab_size)
        return indices

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_columns": None}  # a function

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._columns = one_hot_columns(self._weights.shape[0], self._weights)

    @ignore_harmless_errors
    def read(self, indices: np.ndarray, extra: Mapping[str, Array] | None = None) -> Array:
        """Read the next character of every text, (m,), and return the logits of the one after it, (vocab_size, m).

        `extra` holds the inputs besides the character that the cell has, as in `rnnx.Stream.step`.
        """
        indices = self._checked(indices)
        return self._weights @ self._stream.step(self._columns(indices), extra) + self._bias

    @property
    def states(self) -> States:
        """Copies of the states, from which another stream or `CharModel.forward` can continue."""
        return self._stream.states
