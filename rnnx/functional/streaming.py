"""Recurrent layers fed one time step at a time."""

from collections.abc import Mapping, Sequence
from typing import Any

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import boolean_array, check_shape, check_size, integer
from rnnx._core.harmless_errors import ignore_harmless_errors
from rnnx.cells import Cell, cell_of
from rnnx.cells.cell import STEP
from rnnx.functional import arguments, schedule, signatures
from rnnx.functional.quantization import marked
from rnnx.functional.shapes import check_parameters


class Stream:
    """Run a cell one time step at a time, keeping its state and packed weights between calls.

    On the `cpu` engine, `step` allocates no memory for inputs of the parameters' dtype. For whole sequences,
    `recurrent_forward` is faster. A stream is not thread-safe. Errors are those of `recurrent_forward`.

    Parameters
    ----------
    cell : Cell or str
        Your own cell, or the name of one in ``rnnx.CELLS``.
    parameters : dict of str to array
        As in `recurrent_forward`, or from `quantize`; copied. An output layer is ignored.
    m : int
        Number of examples.
    s0 : sequence of array or None, shape (n_a, m)
        Initial states in the order of ``cell.states``; None and missing entries mean zeros.

    Attributes
    ----------
    cell : Cell
    engine : str
        Name of the engine that runs the steps.

    See Also
    --------
    lstm_forward, quantize

    Examples
    --------
    >>> import numpy as np, rnnx
    >>> stream = rnnx.Stream("lstm", rnnx.initialize_parameters("lstm", n_x=3, n_a=5, rng=0, dtype="float64"))
    >>> for xt in np.ones((4, 3, 1)):
    ...     a = stream.step(xt)
    >>> a.shape
    (5, 1)
    """

    def __init__(
        self, cell: Cell | str, parameters: Mapping[str, Array], *, m: int = 1, s0: Sequence[Array | None] = ()
    ) -> None:
        self.cell = cell_of(cell)
        m = integer("m", m)
        n_x, _ = check_parameters(self.cell, parameters)
        states = arguments.by_state("s0", s0, self.cell, "{}0")
        xp, device = ns.common_namespace(parameters)
        check_size((n_x, m), n_x=n_x, m=m)
        like = parameters[self.cell.parameter_keys[0]]
        x = xp.zeros((n_x, m), dtype=like.dtype, device=device)
        inputs = {name: xp.zeros((m,), dtype=like.dtype, device=device) for name in self.cell.inputs}
        call = signatures.checked_call(self.cell, x, states, parameters, inputs=inputs, one_step=True)
        self._xp, self.engine = xp, engines.select(xp)
        self._s0 = tuple(ns.owned_copy(xp, s) for s in call.s0)
        own = {key: ns.owned_copy(xp, a) for key, a in parameters.items()}
        self._parameters = marked(own, parameters)  # for copies of the stream
        self._stepper = engines.load(self.engine).stepper(schedule.with_hoisted(call._replace(s0=self._s0)))
        self._states: tuple[Array, ...] = self._s0
        self._expected = type(call.x), call.dtype, (n_x, m)
        self._n_steps = 0

    def step(self, xt: Array, *, inputs: Mapping[str, Array] | None = None, resets: Any = None) -> Array:
        """Run one step.

        Parameters
        ----------
        xt : array, shape (n_x, m)
            In the library of the parameters; converted to their dtype.
        inputs : dict of str to array, shape (n_a, m) or (m,), optional
            The cell's extra inputs, converted likewise to the parameters' dtype. Steps are counted from the beginning
            of the stream.
        resets : array of bool, shape (m,), optional
            NumPy or the library of the parameters. Where it is true, an example returns to its initial state first.

        Returns
        -------
        a : array, shape (n_a, m)
            The new hidden state. Do not write to it: the next step reads it. On the `cpu` engine, the step after
            next overwrites it, so copy it to keep it.
        """
        kind, dtype, shape = self._expected
        if type(xt) is not kind or xt.dtype != dtype or xt.shape != shape:
            xt = self._converted("xt", xt, "(n_x, m)", shape)
        if resets is not None:
            reset = boolean_array(self._xp, ns.device(self._s0[0]), "resets", resets)
            check_shape("resets", reset, "(m,)", shape[1:])
        more: tuple[Array, ...] = ()
        if inputs or self.cell.inputs:
            more = self._inputs(arguments.named_inputs(self.cell, inputs))
        if resets is not None:
            where = self._xp.where
            self._stepper.set(tuple(where(reset, s0, s) for s0, s in zip(self._s0, self._states, strict=True)))
        self._states = self._stepper.step(xt, more) if more else self._stepper.step(xt)
        self._n_steps += 1
        return self._states[0]

    def _inputs(self, given: Mapping[str, Array]) -> tuple[Array, ...]:
        """Return all extra inputs, (n_a, m) or of their own widths."""
        defaults, like, arrays = dict(self.cell.defaults), self._s0[0], []
        n_a, m = like.shape
        for name in self.cell.inputs:
            shape = self.cell.size(name, n_a), m
            if name in given:
                self._check(name, given[name])
                arguments.check_input(self.cell, name, given[name], n_a, m, None)
                array = ns.astype(self._xp, given[name], self._expected[1])
            else:
                value = self._n_steps if defaults[name] == STEP else defaults[name]
                array = self._xp.full((1,), value, dtype=self._expected[1], device=ns.device(like))
            arrays.append(array if tuple(array.shape) == shape else self._xp.broadcast_to(array, shape))
        return tuple(arrays)

    def _check(self, name: str, array: Array) -> None:
        ns.common_namespace({"parameters": self._s0[0], name: array})
        ns.floating_dtype(self._xp, {}, {name: array})

    @ignore_harmless_errors
    def _converted(self, name: str, array: Array, symbols: str, shape: tuple[int, ...]) -> Array:
        self._check(name, array)
        check_shape(name, array, symbols, shape)
        return ns.astype(self._xp, array, self._expected[1])

    @property
    def states(self) -> dict[str, Array]:
        """Copies of the current states by name ("a", and "c" for an LSTM), each (n_a, m)."""
        return {name: ns.owned_copy(self._xp, s) for name, s in zip(self.cell.states, self._states, strict=True)}

    def reset(self) -> None:
        """Return to the initial state."""
        self._stepper.set(self._s0)
        self._states = self._s0
        self._n_steps = 0

    def __reduce__(self) -> tuple[Any, ...]:
        states = tuple(self.states.values())
        return _restored, (self.cell, self.engine, self._parameters, self._s0, states, self._n_steps)

    def __repr__(self) -> str:
        n_a, m = self._s0[0].shape
        return f"<stream of {self.cell.name}, n_a={n_a}, m={m}, engine={self.engine!r}>"


def _restored(
    cell: Cell,
    engine: str,
    parameters: Mapping[str, Array],
    s0: tuple[Array, ...],
    states: tuple[Array, ...],
    n_steps: int,
) -> Stream:
    """Rebuild a copied or pickled stream."""
    with engines.use_engine(engine):
        stream = Stream(cell, parameters, m=s0[0].shape[1], s0=s0)
    stream._stepper.set(states)
    stream._states, stream._n_steps = states, n_steps
    return stream
