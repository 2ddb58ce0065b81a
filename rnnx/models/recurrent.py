"""A stack of recurrent layers of any widths, in one or two directions, with dropout between layers. It holds no arrays.

Parameter and state names have torch's suffixes: "Wf_l0", "c_l1", "Wf_l0_reverse"; a stack named "encoder" has
"Wf_encoder_l0". Dimensions: n features, m examples, T steps.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnx._core.arrays import Array
from rnnx._core.checks import check_memory, integer, real
from rnnx.cells import Cell, cell_of
from rnnx.cells.parameters import expected_shapes
from rnnx.functional import recurrent_backward, recurrent_forward
from rnnx.functional.caches import Caches
from rnnx.functional.initialization import initialize_parameters
from rnnx.functional.streaming import Stream
from rnnx.models.dropout import Masks
from rnnx.models.layers import Direction, Parameters, States, check_widths, concatenate, reverse_steps


@dataclass
class StackCache:
    """Cache for `Recurrent.backward`."""

    layers: list[list[Caches]]  # per layer, per direction, forward first
    masks: list[Array | None]  # dropout masks of the layers' outputs
    lengths: Any


class Recurrent:
    """A stack of recurrent layers.

    Parameters
    ----------
    cell : str or Cell
        "rnn", "lstm", "gru", "gru_reset_after", or a cell record.
    input_size : int
    hidden_size : int or sequence of int
        Units per layer: one number for all layers, or one per layer.
    num_layers : int
        Number of layers if `hidden_size` is an integer.
    bidirectional : bool
        Run every layer in both directions and concatenate the outputs.
    dropout : float, 0 <= dropout < 1
        Dropout probability of a layer's outputs in training, except for the last layer.
    name : str
        Part of the parameter names, to distinguish several stacks.

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
        self.input_size = size = integer("input_size", input_size)
        self.bidirectional, self.dropout, self.name = bool(bidirectional), real("dropout", dropout, "[0, 1)"), name
        if self.dropout and len(widths) == 1:
            raise ValueError("`dropout` is applied between layers; this stack has one layer")
        self.layers: list[list[Direction]] = []
        prefix = f"_{name}_l" if name else "_l"
        for k, width in enumerate(widths):
            ends = ("", "_reverse") if bidirectional else ("",)
            self.layers.append([Direction(f"{prefix}{k}{end}", size, width, end != "") for end in ends])
            size = width * len(ends)
        self.output_size = size
        self.state_names = tuple(f"{state}{one.suffix}" for one in self._directions() for state in self.cell.states)

    def _directions(self) -> Iterator[Direction]:
        return (one for layer in self.layers for one in layer)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter."""
        shapes: dict[str, tuple[int, ...]] = {}
        for one in self._directions():
            expected = expected_shapes(self.cell, one.input_size, one.hidden_size)
            shapes |= {key + one.suffix: shape for key, (_, shape) in expected.items()}
        return shapes

    def initialize(self, seed: int | np.random.Generator | None = None, **options: Any) -> Parameters:
        """Return initial parameters; the options are those of `rnnx.initialize_parameters`."""
        check_memory("the parameters", 4 * sum(map(math.prod, self.shapes().values())))
        rng = np.random.default_rng(seed)
        result: Parameters = {}
        for one in self._directions():
            values = initialize_parameters(self.cell, one.input_size, one.hidden_size, seed=rng, **options)
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
            May also hold other parameters.
        x : array, shape (input_size, m, T), or array of int, shape (m, T)
            Inputs, or indices of one-hot columns.
        states : dict of str to array, shape (n, m), optional
            Initial states by name (see `state_names`); missing ones are zero.
        lengths : sequence or array of int, shape (m,), optional
            Sequence lengths. The reverse direction starts at the end of each example.
        keep_caches : bool
            False saves nothing for a backward pass.
        masks : Masks, optional
            Dropout masks; without them there is no dropout, as in evaluation.

        Returns
        -------
        out : array, shape (output_size, m, T)
        states : dict of str to array, shape (n, m)
            The states after each example's last step, or after its first step in a reverse layer.
        cache : StackCache

        Raises
        ------
        ValueError, TypeError
            As for `rnnx.recurrent_forward`.
        """
        given = self._named("states", states)
        final: States = {}
        cache = StackCache([], [], lengths)
        for k, layer in enumerate(self.layers):
            outs, kept = [], []
            for one in layer:
                s0 = tuple([given.get(state + one.suffix) for state in self.cell.states])
                inputs = reverse_steps(x, lengths) if one.reverse else x
                (a, *_), _, caches = recurrent_forward(
                    self.cell, inputs, s0, one.own(self.cell, parameters), lengths=lengths, keep_caches=keep_caches
                )
                outs.append(reverse_steps(a, lengths) if one.reverse else a)
                final |= {state + one.suffix: s for state, s in caches.final_state.items()}
                kept.append(caches)
            x, mask = concatenate(outs), None
            if masks is not None and self.dropout and k < len(self.layers) - 1:
                mask = masks.draw(layer[0].suffix, self.dropout, x)
                x = x * mask
            cache.layers.append(kept)
            cache.masks.append(mask)
        return x, final, cache

    def backward(
        self, dout: Array | None, cache: StackCache, ds_final: States | None = None, *, consume: bool = False
    ) -> dict[str, Array]:
        """Compute the gradients of `forward`.

        Parameters
        ----------
        dout : array, shape (output_size, m, T), or None
            Cotangent of the outputs; None means zeros.
        cache : StackCache
        ds_final : dict of str to array, shape (n, m), optional
            Cotangents of the final states by name (see `state_names`).
        consume : bool
            Free `cache` layer by layer, after which it cannot be used again.

        Returns
        -------
        gradients : dict
            "d" + name for every parameter and every initial state; dx (input_size, m, T) unless x holds indices.
        """
        final = self._named("ds_final", ds_final)
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
                dstates = tuple([final.get(state + one.suffix) for state in self.cell.states])
                found = recurrent_backward(self.cell, (da,), caches, ds_final=dstates, consume=consume)
                dx = found.pop("dx", None)
                if dx is not None:
                    parts.append(reverse_steps(dx, cache.lengths) if one.reverse else dx)
                for state in self.cell.states:
                    gradients[f"d{state}{one.suffix}"] = found.pop(f"d{state}0")
                gradients |= {key + one.suffix: value for key, value in found.items()}
            d = None if not parts else parts[0] if len(parts) == 1 else parts[0] + parts[1]
        return gradients if d is None else {**gradients, "dx": d}

    def stream(
        self, parameters: Mapping[str, Array], m: int = 1, states: Mapping[str, Array] | None = None
    ) -> "StackStream":
        """Run the stack one time step at a time, without dropout. It must not be bidirectional."""
        if self.bidirectional:
            raise ValueError("a bidirectional stack cannot run step by step: its reverse layers begin at the end")
        return StackStream(self, parameters, m, self._named("states", states))

    def _named(self, what: str, arrays: Mapping[str, Array] | None) -> dict[str, Array]:
        unknown = [name for name in arrays or () if name not in self.state_names]
        if unknown:
            raise ValueError(f"`{what}` may only hold {list(self.state_names)}; got {unknown}")
        return dict(arrays or {})

    def __repr__(self) -> str:
        widths = "-".join(str(layer[0].hidden_size) for layer in self.layers)
        kind = "bidirectional " if self.bidirectional else ""
        return f"<{kind}{self.cell.name} stack, {self.input_size}-{widths}>"


class StackStream:
    """A stack that runs one step at a time. See `Recurrent.stream` and `rnnx.Stream`."""

    def __init__(self, stack: Recurrent, parameters: Mapping[str, Array], m: int, states: Mapping[str, Array]) -> None:
        self._streams: dict[str, Stream] = {}
        for (one,) in stack.layers:
            s0 = tuple(states.get(state + one.suffix) for state in stack.cell.states)
            self._streams[one.suffix] = Stream(stack.cell, one.own(stack.cell, parameters), m=m, s0=s0)

    def step(self, xt: Array) -> Array:
        """Run one step, from xt (input_size, m) to the last layer's hidden state, like `rnnx.Stream.step`."""
        for stream in self._streams.values():
            xt = stream.step(xt)
        return xt

    @property
    def states(self) -> States:
        """Copies of the current states by name (see `Recurrent.state_names`)."""
        return {state + suffix: s for suffix, stream in self._streams.items() for state, s in stream.state.items()}
