"""A stack of recurrent layers: any widths, one or two directions, dropout between the layers. It holds no arrays.

Names of parameters and states carry the suffixes of torch: "Wf_l0", "c_l1", "Wf_l0_reverse"; with the name
"encoder", "Wf_encoder_l0". Dimensions: n features, m examples, T steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import integer, real
from rnnx._core.layout import to_public, to_time_major
from rnnx.cells import Cell, cell_of
from rnnx.cells.parameters import expected_shapes
from rnnx.functional import recurrent_backward, recurrent_forward
from rnnx.functional.caches import Caches
from rnnx.functional.initialization import initialize_parameters
from rnnx.functional.streaming import Stream
from rnnx.models.dropout import Masks

Parameters = dict[str, Array]
States = dict[str, Array]


@dataclass(frozen=True)
class Direction:
    """One recurrent layer in one direction."""

    suffix: str  # of its parameters and states
    input_size: int
    hidden_size: int
    reverse: bool


@dataclass
class StackCache:
    """What `Recurrent.backward` needs."""

    layers: list[list[Caches]]  # per layer, per direction, forward first
    masks: list[Array | None]  # of the output of every layer
    lengths: Any


class Recurrent:
    """A stack of recurrent layers.

    Parameters
    ----------
    cell : str or Cell
        "rnn", "lstm", "gru", "gru_reset_after", or a cell record.
    input_size : int
        Features of x.
    hidden_size : int or sequence of int
        Units of every layer, or of each one.
    num_layers : int
        Number of layers, if `hidden_size` is one number.
    bidirectional : bool
        Every layer also runs from the last step to the first; the outputs are put together.
    dropout : float, 0 <= dropout < 1
        Probability with which an output of a layer, except those of the last one, is zero in training.
    name : str
        Part of the names of the parameters, to tell several stacks apart.

    Attributes
    ----------
    output_size : int
    state_names : tuple of str
    layers : list of list of Direction
    """

    def __init__(
        self,
        cell: Cell | str,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        name: str = "",
    ) -> None:
        self.cell = cell_of(cell)
        widths = check_widths(hidden_size, num_layers)
        input_size, dropout = integer("input_size", input_size), real("dropout", dropout, "[0, 1)")
        if dropout and len(widths) == 1:
            raise ValueError("`dropout` is between layers; with one layer there is none")
        self.bidirectional, self.dropout, self.name = bool(bidirectional), dropout, name
        self.layers: list[list[Direction]] = []
        prefix = f"_{name}_l" if name else "_l"
        for k, width in enumerate(widths):
            ends = ("", "_reverse") if bidirectional else ("",)
            self.layers.append([Direction(f"{prefix}{k}{end}", input_size, width, end != "") for end in ends])
            input_size = width * len(ends)
        self.input_size, self.output_size = self.layers[0][0].input_size, input_size
        self.state_names = tuple(
            f"{state}{one.suffix}" for layer in self.layers for one in layer for state in self.cell.states
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter with its shape."""
        return {
            key + one.suffix: shape
            for layer in self.layers
            for one in layer
            for key, (_, shape) in expected_shapes(self.cell, one.input_size, one.hidden_size).items()
        }

    def initialize(
        self,
        seed: int | np.random.Generator | None = None,
        *,
        scheme: str = "keras",
        forget_bias: float | None = None,
        dtype: str = "float32",
        xp: Any = None,
        device: Any = None,
    ) -> Parameters:
        """Initial parameters; see `rnnx.initialize_parameters`."""
        rng = np.random.default_rng(seed)
        options: dict[str, Any] = {"scheme": scheme, "forget_bias": forget_bias, "dtype": dtype}
        result: Parameters = {}
        for layer in self.layers:
            for one in layer:
                values = initialize_parameters(
                    self.cell, one.input_size, one.hidden_size, seed=rng, xp=xp, device=device, **options
                )
                result |= {key + one.suffix: value for key, value in values.items()}
        return result

    def forward(
        self,
        parameters: Mapping[str, Array],
        x: Array,
        states: Mapping[str, Array] | None = None,
        *,
        lengths: Any = None,
        keep_caches: bool = True,
        masks: Masks | None = None,
    ) -> tuple[Array, States, StackCache]:
        """Run the stack over sequences.

        Parameters
        ----------
        parameters : dict of str to array
            Others than the stack's own are ignored.
        x : array, shape (input_size, m, T), or (m, T) of integers
            Inputs, or indices that stand for one-hot columns.
        states : dict of str to array, shape (n, m), optional
            Initial states by the names in `state_names`; missing ones are zero.
        lengths : sequence or array of int, shape (m,), optional
            Steps of each example. The reverse direction begins at an example's own end.
        keep_caches : bool
            False if no backward pass follows.
        masks : Masks, optional
            The source of dropout; without it nothing is dropped, as in evaluation.

        Returns
        -------
        out : array, shape (output_size, m, T)
        states : dict of str to array, shape (n, m)
            After each example's last step; of a reverse layer, after its first.
        cache : StackCache

        Raises
        ------
        ValueError, TypeError
            As `rnnx.recurrent_forward`.
        """
        given = self._named("states", states)
        final: States = {}
        cache = StackCache([], [], lengths)
        for k, layer in enumerate(self.layers):
            outs, kept = [], []
            for one in layer:
                own = own_parameters(self.cell, parameters, one.suffix)
                s0 = tuple(given.get(state + one.suffix) for state in self.cell.states)
                inputs = reverse_steps(x, lengths) if one.reverse else x
                (a, *_), _, caches = recurrent_forward(
                    self.cell, inputs, s0, own, lengths=lengths, keep_caches=keep_caches
                )
                outs.append(reverse_steps(a, lengths) if one.reverse else a)
                final |= {state + one.suffix: s for state, s in caches.final_state.items()}
                kept.append(caches)
            x = _concat(outs)
            mask = None
            if masks is not None and self.dropout and k < len(self.layers) - 1:
                mask = masks.draw(layer[0].suffix, self.dropout, x)
                x = x * mask
            cache.layers.append(kept)
            cache.masks.append(mask)
        return x, final, cache

    def backward(
        self, dout: Array | None, cache: StackCache, dfinal: Mapping[str, Array] | None = None, *, consume: bool = False
    ) -> dict[str, Array]:
        """Gradients of `forward`.

        Parameters
        ----------
        dout : array, shape (output_size, m, T), or None
            Cotangent of the outputs; None stands for zeros.
        cache : StackCache
        dfinal : dict of str to array, shape (n, m), optional
            Cotangents of the final states, by the names in `state_names`.
        consume : bool
            True frees the memory of `cache` layer by layer; it cannot be used again.

        Returns
        -------
        gradients : dict
            "d" + name of every parameter and every initial state; and dx (input_size, m, T), unless x were indices.
        """
        final = self._named("dfinal", dfinal)
        gradients: dict[str, Array] = {}
        d: Array | None = dout
        for k in range(len(self.layers) - 1, -1, -1):
            mask, at, parts = cache.masks[k], 0, []
            if mask is not None and d is not None:
                d = d * mask
            for one, caches in zip(self.layers[k], cache.layers[k], strict=True):
                da = None if d is None else d[at : at + one.hidden_size, :, :]
                at += one.hidden_size
                if one.reverse and da is not None:
                    da = reverse_steps(da, cache.lengths)
                found = recurrent_backward(
                    self.cell,
                    (da,),
                    caches,
                    ds_final=tuple(final.get(state + one.suffix) for state in self.cell.states),
                    consume=consume,
                )
                dx = found.pop("dx", None)
                if dx is not None:
                    parts.append(reverse_steps(dx, cache.lengths) if one.reverse else dx)
                for state in self.cell.states:
                    gradients[f"d{state}{one.suffix}"] = found.pop(f"d{state}0")
                gradients |= {key + one.suffix: value for key, value in found.items()}
            d = None if not parts else parts[0] if len(parts) == 1 else parts[0] + parts[1]
        if d is not None:
            gradients["dx"] = d
        return gradients

    def stream(
        self, parameters: Mapping[str, Array], m: int = 1, states: Mapping[str, Array] | None = None
    ) -> "StackStream":
        """The stack fed one time step at a time, without dropout.

        Raises
        ------
        ValueError
            For a bidirectional stack, which has to see the end first.
        """
        if self.bidirectional:
            raise ValueError("a bidirectional stack cannot run step by step: its reverse layers begin at the end")
        return StackStream(self, parameters, m, self._named("states", states))

    def _named(self, what: str, arrays: Mapping[str, Array] | None) -> dict[str, Array]:
        unknown = [name for name in arrays or () if name not in self.state_names]
        if unknown:
            raise ValueError(f"`{what}` must hold some of {list(self.state_names)}; got {unknown}")
        return dict(arrays or {})

    def __repr__(self) -> str:
        widths = "-".join(str(layer[0].hidden_size) for layer in self.layers)
        kind = "bidirectional " if self.bidirectional else ""
        return f"<{kind}{self.cell.name} stack, {self.input_size}-{widths}>"


class StackStream:
    """Layers one above the other, moved on step by step. See `Recurrent.stream` and `rnnx.Stream`."""

    def __init__(self, stack: Recurrent, parameters: Mapping[str, Array], m: int, states: Mapping[str, Array]) -> None:
        self._stack = stack
        self._streams = []
        for (one,) in stack.layers:
            s0 = tuple(states.get(state + one.suffix) for state in stack.cell.states)
            own = own_parameters(stack.cell, parameters, one.suffix)
            self._streams.append(Stream(stack.cell, own, m=m, s0=s0))

    def step(self, xt: Array) -> Array:
        """Move on by one step: xt (input_size, m) to the hidden state of the last layer, as `rnnx.Stream.step`."""
        for stream in self._streams:
            xt = stream.step(xt)
        return xt

    @property
    def states(self) -> States:
        """Copies of the current states, by the names of the stack."""
        return {
            state + one.suffix: s
            for (one,), stream in zip(self._stack.layers, self._streams, strict=True)
            for state, s in stream.state.items()
        }


def own_parameters(cell: Cell, parameters: Mapping[str, Array], suffix: str) -> Parameters:
    """The parameters of one layer, under the names of its cell."""
    missing = [key + suffix for key in cell.parameter_keys if key + suffix not in parameters]
    if missing:
        raise ValueError(f"`parameters` lack {missing}")
    keys = (*cell.parameter_keys, *cell.optional_keys)
    return {key: parameters[key + suffix] for key in keys if key + suffix in parameters}


def reverse_steps(x: Array, lengths: Any = None) -> Array:
    """The steps of every example of x, (n, m, T) or (m, T), in reverse order; what lies past its end stays."""
    xp, device = ns.common_namespace({"x": x})
    if lengths is None:
        return xp.flip(x, axis=-1)
    rows = xp.permute_dims(x, (1, 0)) if x.ndim == 2 else to_time_major(xp, x)
    n_steps, m = rows.shape[:2]
    ends = xp.expand_dims(ns.integer_vector(xp, device, "lengths", lengths), axis=0)
    steps = xp.expand_dims(xp.arange(n_steps, dtype=ends.dtype, device=device), axis=1)
    from_step = xp.where(steps < ends, ends - 1 - steps, steps)
    places = from_step * m + xp.arange(m, dtype=ends.dtype, device=device)
    flat = xp.take(xp.reshape(rows, (n_steps * m, *rows.shape[2:])), xp.reshape(places, (-1,)), axis=0)
    back = xp.reshape(flat, rows.shape)
    return xp.permute_dims(back, (1, 0)) if x.ndim == 2 else to_public(xp, back)


def _concat(outs: list[Array]) -> Array:
    """Outputs of both directions, features one after the other, time-major in memory as the layers want it."""
    if len(outs) == 1:
        return outs[0]
    xp, _ = ns.common_namespace({"out": outs[0]})
    return to_public(xp, xp.concat([xp.permute_dims(a, (2, 1, 0)) for a in outs], axis=2))


def check_widths(hidden_size: int | Sequence[int], num_layers: int = 1) -> tuple[int, ...]:
    """Units of every layer."""
    if isinstance(hidden_size, int | np.integer):
        widths: tuple[Any, ...] = (hidden_size,) * integer("num_layers", num_layers)
    else:
        widths = tuple(hidden_size) if isinstance(hidden_size, Sequence) else (hidden_size,)
        if num_layers not in (1, len(widths)) or not widths:
            raise ValueError(
                f"`hidden_size` must hold one number for each of the {num_layers} layers; got {hidden_size}"
            )
    return tuple(integer("hidden_size", width) for width in widths)
