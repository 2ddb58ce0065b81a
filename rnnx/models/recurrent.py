"""Stacks of recurrent layers. Dimensions: n features, m examples, T steps.

Parameter and state names have torch's suffixes: "Wf_l0", "c_l1", "Wf_l0_reverse"; a stack named "encoder" has
"Wf_encoder_l0".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import compare_shapes, integer, real
from rnnx.cells import Cell, cell_of
from rnnx.functional import recurrent_backward, recurrent_forward
from rnnx.functional.caches import Caches
from rnnx.functional.streaming import Stream
from rnnx.models.layers import Direction, Layer, Masks, States, check_widths, concatenate
from rnnx.models.regularization import Regularization, Zoneout


@dataclass
class StackCache:
    """Cache for `Recurrent.backward`."""

    layers: list[list[Caches]]  # per layer, per direction, forward first
    masks: list[Array | None]  # dropout masks of the layers' outputs
    lengths: Any


class Recurrent(Layer):
    """A stack of recurrent layers in one or both directions, with dropout between layers. It holds no arrays.

    Parameters
    ----------
    cell : str or Cell
        The name of a cell in ``rnnx.CELLS``, or a cell record.
    input_size : int
    hidden_size : int or sequence of int
        Units per layer: one number for all layers, or one per layer.
    num_layers : int
        Number of layers if `hidden_size` is an integer.
    bidirectional : bool
        Run every layer in both directions and concatenate the outputs.
    dropout : float, 0 <= dropout < 1
        Dropout probability of a layer's outputs in training, except for the last layer.
    zoneout : float or sequence of float, 0 <= rate < 1
        Probability with which a unit keeps its previous value at a step in training, one for all states or one per
        state. In evaluation it keeps this part of it (D. Krueger et al., arXiv:1606.01305).
    recurrent_dropout : float, 0 <= rate < 1
        Dropout probability, in training, of what recurrent weights multiply: of the hidden state and, in cells with
        more than one product, of the other operands. The mask of an example is the same at all steps (Y. Gal,
        Z. Ghahramani, arXiv:1512.05287).
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
        zoneout: Zoneout = 0.0,
        recurrent_dropout: float = 0.0,
        name: str = "",
    ) -> None:
        self.cell = cell_of(cell)
        self.regularization = Regularization.of(self.cell, zoneout, recurrent_dropout)
        widths = check_widths(hidden_size, num_layers)
        self.input_size = size = integer("input_size", input_size)
        self.bidirectional, self.dropout, self.name = bool(bidirectional), real("dropout", dropout, "[0, 1)"), name
        if self.dropout and len(widths) == 1:
            raise ValueError(f"`dropout` must be 0 for a single layer, because it acts between layers; got {dropout}")
        self.layers: list[list[Direction]] = []
        prefix = f"_{name}_l" if name else "_l"
        ends = ("", "_reverse") if bidirectional else ("",)
        for k, width in enumerate(widths):
            self.layers.append([Direction(self.cell, f"{prefix}{k}{end}", size, width, end != "") for end in ends])
            size = width * len(ends)
        self.output_size = size
        self.parts = directions = [one for layer in self.layers for one in layer]
        self.state_names = tuple([name for one in directions for name in one.state_names])

    @property
    def rates(self) -> dict[str, Any]:
        """The rates of dropout and zoneout, as plain values for a config."""
        own = self.regularization
        return {"dropout": self.dropout, "zoneout": own.zoneout, "recurrent_dropout": own.recurrent_dropout}

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
            May also contain others.
        x : array, shape (input_size, m, T), or array of int, shape (m, T)
            Inputs, or indices of one-hot columns.
        states : dict of str to array, shape (n, m), optional
            Initial states, named as in `state_names`; missing ones are zero.
        lengths, keep_caches
            As for `rnnx.recurrent_forward`. Reverse layers start at the end of each example.
        masks : Masks, optional
            Without them there is no dropout, and zoneout has its expected effect, as in evaluation.

        Returns
        -------
        out : array, shape (output_size, m, T)
        states : dict of str to array, shape (n, m)
            After each example's last step, or after its first step in a reverse layer.
        cache : StackCache

        Raises
        ------
        ValueError, TypeError
            As for `rnnx.recurrent_forward`.
        """
        if getattr(x, "ndim", 0) == 3 and x.shape[0] != self.input_size:
            compare_shapes("x", tuple(x.shape), "(input_size, m, T)", (self.input_size, *x.shape[1:]))
        m = x.shape[-2] if getattr(x, "ndim", 0) in (2, 3) else None
        given = self.check_states("states", states, m)
        final: States = {}
        cache = StackCache([], [], lengths)
        for k, layer in enumerate(self.layers):
            outs, kept = [], []
            for one in layer:
                s0 = tuple([given.get(name) for name in one.state_names])
                own = one.own(parameters)
                cell, drawn = self.regularization.run(one, masks, x, next(iter(own.values())))
                (a, *_), _, caches = recurrent_forward(
                    cell, one.oriented(x, lengths), s0, own, lengths=lengths, inputs=drawn, keep_caches=keep_caches
                )
                outs.append(one.oriented(a, lengths))
                final |= zip(one.state_names, caches.final_state.values(), strict=True)
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
            None means zeros.
        cache : StackCache
        ds_final : dict of str to array, shape (n, m), optional
            Cotangents of the final states.
        consume : bool
            Free `cache` layer by layer; it cannot be used again.

        Returns
        -------
        gradients : dict
            "d" + name for every parameter and every initial state; dx (input_size, m, T) unless x holds indices.
        """
        final = self.check_states("ds_final", ds_final, None)
        gradients: dict[str, Array] = {}
        d = dout
        for layer, kept, mask in zip(self.layers[::-1], cache.layers[::-1], cache.masks[::-1], strict=True):
            if mask is not None and d is not None:
                d = d * mask
            parts = []
            for one, caches in zip(layer, kept, strict=True):
                da = None if d is None else one.oriented(d[one.rows, :, :], cache.lengths)
                dstates = tuple([final.get(name) for name in one.state_names])
                found = recurrent_backward(caches.cell, (da,), caches, ds_final=dstates, consume=consume)
                for mask_name in caches.cell.inputs:
                    del found[f"d{mask_name}"]
                parts.append(one.oriented(found.pop("dx", None), cache.lengths))
                for state in self.cell.states:
                    gradients[f"d{state}{one.suffix}"] = found.pop(f"d{state}0")
                gradients |= {key + one.suffix: value for key, value in found.items()}
            d = parts[0] if parts[0] is None or len(parts) == 1 else parts[0] + parts[1]
        return gradients if d is None else {**gradients, "dx": d}

    def stream(
        self, parameters: Mapping[str, Array], m: int = 1, states: Mapping[str, Array] | None = None
    ) -> "StackStream":
        """Run the stack one time step at a time, as in evaluation. It must not be bidirectional."""
        if self.bidirectional:
            raise ValueError("a bidirectional stack cannot run step by step: its reverse layers start at the last step")
        return StackStream(self, parameters, m, self.check_states("states", states, integer("m", m, 0)))

    def check_states(self, what: str, arrays: Mapping[str, Array] | None, m: int | None) -> dict[str, Array]:
        """Check states (n, m), or their cotangents, by name; m may be unknown. Return them as a dict."""
        if not arrays and (arrays is None or isinstance(arrays, Mapping)):
            return {}
        if not isinstance(arrays, Mapping):
            raise TypeError(f"`{what}` must be a dict of arrays by name; got {type(arrays).__name__}")
        unknown = [name for name in arrays if name not in self.state_names]
        if unknown:
            raise ValueError(f"`{what}` must only contain {list(self.state_names)}; got {unknown}")
        arrays = {name: s for name, s in arrays.items() if s is not None}
        if arrays:
            ns.common_namespace({f"{what}[{name!r}]": s for name, s in arrays.items()})
        widths = {name: units for layer in self.layers for one in layer for name, units in one.state_sizes.items()}
        for name, s in arrays.items():
            own_m = s.shape[-1] if m is None and s.ndim == 2 else m
            compare_shapes(f"{what}[{name!r}]", tuple(s.shape), "(n, m)", (widths[name], own_m or 0))
        return arrays

    def __repr__(self) -> str:
        widths = "-".join(str(layer[0].hidden_size) for layer in self.layers)
        kind = "bidirectional " if self.bidirectional else ""
        return f"<{kind}{self.cell.name} stack, {self.input_size}-{widths}>"


class StackStream:
    """A stack that runs one step at a time. See `Recurrent.stream` and `rnnx.Stream`."""

    def __init__(self, stack: Recurrent, parameters: Mapping[str, Array], m: int, states: Mapping[str, Array]) -> None:
        self._streams: dict[str, Stream] = {}
        for (one,) in stack.layers:
            s0 = tuple([states.get(name) for name in one.state_names])
            self._streams[one.suffix] = Stream(stack.regularization.evaluation, one.own(parameters), m=m, s0=s0)

    def step(self, xt: Array) -> Array:
        """Run one step, from xt (input_size, m) to the last layer's hidden state, like `rnnx.Stream.step`."""
        for stream in self._streams.values():
            xt = stream.step(xt)
        return xt

    @property
    def states(self) -> States:
        """Copies of the current states by name (see `Recurrent.state_names`)."""
        return {state + suffix: s for suffix, stream in self._streams.items() for state, s in stream.state.items()}
