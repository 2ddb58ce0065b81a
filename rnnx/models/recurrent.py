"""Stacks of recurrent layers. Dimensions: n features, m examples, T steps.

Parameter and state names have torch's suffixes: "Wf_l0", "c_l1", "Wf_l0_reverse"; a stack named "encoder" has
"Wf_encoder_l0".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import compare_shapes, flag, integer, real
from rnnx.cells import Cell, cell_of
from rnnx.functional import prepared
from rnnx.functional.caches import Caches
from rnnx.functional.signatures import checked_call, signature
from rnnx.models.extra import check_extra, with_steps
from rnnx.models.layers import Direction, Layer, States, check_widths, concatenate
from rnnx.models.masks import Masks, dropped
from rnnx.models.regularization import Regularization, Zoneout
from rnnx.models.states import check_cotangents, check_states
from rnnx.models.streams import StackStream


@dataclass
class StackCache:
    """Cache for `Recurrent.backward`.

    See Also
    --------
    Recurrent, rnnx.Caches

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.models import CharModel
    >>> from rnnx.analysis import gate_values
    >>> _, _, cache = CharModel(5, hidden_size=8, num_layers=2, rng=0).forward(np.array([[0, 3, 1]]))
    >>> ((below,), (above,)) = cache.stack.layers  # the caches of each layer, in its one direction
    >>> gate_values(above)["ft"].shape
    (8, 1, 3)
    """

    layers: list[list[Caches]]  # per layer, per direction, forward first
    dropout: list[Callable[[Array], Array] | None]  # what applies that of each layer's outputs to their cotangents
    ends: Any  # the lengths as an array (m,) of the library, or None


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
        state. In evaluation, the previous and new values are mixed in this proportion (D. Krueger et al.,
        arXiv:1606.01305).
    recurrent_dropout : float, 0 <= rate < 1
        Dropout probability, in training, of what recurrent weights multiply: of the hidden state and, in cells with
        more than one product, of the other operands. The mask of an example is the same at all steps (Y. Gal,
        Z. Ghahramani, arXiv:1512.05287).
    name : str
        Part of the parameter names, to distinguish several stacks.

    Attributes
    ----------
    widths : tuple of int
        Units per layer.
    output_size : int
    state_names : tuple of str
    layers : list of list of Direction

    See Also
    --------
    StackStream, SequenceModel, rnnx.recurrent_forward

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.models import SequenceClassifier
    >>> stack = SequenceClassifier(3, [8, 4], num_classes=2, bidirectional=True, rng=0).stack
    >>> stack.widths, stack.output_size, len(stack.state_names)  # a and c of two layers and directions
    ((8, 4), 8, 8)
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
        self.widths = widths = check_widths(hidden_size, num_layers)
        self.input_size = size = integer("input_size", input_size)
        self.bidirectional = flag("bidirectional", bidirectional)
        self.dropout, self.name = real("dropout", dropout, "[0, 1)"), name
        if self.dropout and len(widths) == 1:
            raise ValueError(f"`dropout` must be 0 for a single layer, because it acts between layers; got {dropout}")
        self.layers: list[list[Direction]] = []
        prefix = f"_{name}_l" if name else "_l"
        ends = ("", "_reverse") if self.bidirectional else ("",)
        for k, width in enumerate(widths):
            self.layers.append([Direction(self.cell, f"{prefix}{k}{end}", size, width, end != "") for end in ends])
            size = width * len(ends)
        self.output_size = size
        self.parts = self.directions = [one for layer in self.layers for one in layer]
        self.state_names = tuple([name for one in self.directions for name in one.state_names])

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
        extra: Mapping[str, Array] | None = None,
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
        extra : dict of str to array, shape (m, T) or (n, m, T), optional
            The inputs besides x that the cell has, for all layers; see `rnnx.recurrent_forward`.

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
        own = {name: parameters[name] for name in self.shapes() if name in parameters}
        ns.common_namespace({"x": x, **own})
        given = check_states(self, "states", states, m, x)
        if m is not None:
            extra = check_extra(self.cell, self.widths, extra, *x.shape[-2:])
            ns.common_namespace({"x": x, **extra})
        for one in self.directions:
            one.check(own)
        first = self.directions[0]
        call = checked_call(
            first.cell, x, {name: given.get(name) for name in first.state_names}, first.own(own), lengths, extra
        )
        return self.run(parameters, call.x, given, call.lengths, masks, flag("keep_caches", keep_caches), extra)

    def run(
        self,
        parameters: Mapping[str, Array],
        x: Array,
        states: States,
        ends: Any,
        masks: Masks | None,
        keep: bool,
        extra: Mapping[str, Array] | None = None,
    ) -> tuple[Array, States, StackCache]:
        """Run `forward` without checks, for `ends` as in `StackCache`."""
        extra = with_steps(self.cell, extra or {}, x) if self.bidirectional else extra or {}
        final: States = {}
        cache = StackCache([], [], ends)
        for k, layer in enumerate(self.layers):
            outs, kept = [], []
            for one in layer:
                own = one.own(parameters)
                cell, inputs = self.regularization.run(one, masks, x, next(iter(own.values())))
                inputs |= {name: one.oriented(array, ends) for name, array in extra.items()}
                given = one.oriented(x, ends), [*map(states.get, one.state_names)], own, inputs or None
                found, arrays = signature(cell, *given)
                (a, *_), caches, *_ = prepared.run(found, arrays, *given, ends, None, keep, only_first=True)
                outs.append(one.oriented(a, ends))
                final |= zip(one.state_names, caches.final_state.values(), strict=True)
                kept.append(caches)
            x, again = concatenate(outs), None
            if masks is not None and self.dropout and k < len(self.layers) - 1:
                x, again = dropped(x, masks, layer[0].suffix, self.dropout)
            cache.layers.append(kept)
            cache.dropout.append(again)
        return x, final, cache

    def backward(
        self, dout: Array | None, cache: StackCache, *, ds_final: States | None = None, consume: bool = False
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
        final = check_cotangents(self, dout, cache, ds_final)
        return self.run_backward(dout, cache, final, flag("consume", consume))

    def run_backward(
        self,
        dout: Array | None,
        cache: StackCache,
        ds_final: States,
        consume: bool,
        ready: Callable[[dict[str, Array]], Any] | None = None,
    ) -> dict[str, Array]:
        """Run `backward` without checks; `ready` is called with the gradients of each layer."""
        gradients: dict[str, Array] = {}
        d, ends = dout, cache.ends
        for layer, kept, again in zip(self.layers[::-1], cache.layers[::-1], cache.dropout[::-1], strict=True):
            if again is not None and d is not None:
                d = again(d)  # that of the layer above
            parts, found = [], dict[str, Array]()
            for one, caches in zip(layer, kept, strict=True):
                ds = [None] * len(one.state_names)
                ds[0] = None if d is None else one.oriented(d[one.rows, :, :], ends)
                last = [*map(ds_final.get, one.state_names)]
                dx, ds0, own, _ = prepared.backward(caches, ds, last)
                if consume:
                    caches.consume()
                parts.append(one.oriented(dx, ends))
                found |= {f"d{name}": d0 for name, d0 in zip(one.state_names, ds0, strict=True)}
                found |= {key + one.suffix: value for key, value in own.items()}
            gradients |= found
            if ready is not None:
                ready(found)
            d = parts[0] if parts[0] is None or len(parts) == 1 else parts[0] + parts[1]
        return gradients if d is None else {**gradients, "dx": d}

    def stream(
        self, parameters: Mapping[str, Array], m: int = 1, states: Mapping[str, Array] | None = None
    ) -> StackStream:
        """Run the stack one time step at a time, as in evaluation. It must not be bidirectional."""
        if self.bidirectional:
            raise ValueError("a bidirectional stack cannot run step by step: its reverse layers start at the last step")
        return StackStream(self, parameters, m, check_states(self, "states", states, integer("m", m, 0)))

    def __repr__(self) -> str:
        widths = "-".join(map(str, self.widths))
        kind = "bidirectional " if self.bidirectional else ""
        return f"<{kind}{self.cell.name} stack, {self.input_size}-{widths}>"
