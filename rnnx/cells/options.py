"""Options of a recurrent layer, on any cell: a cell with options is another cell, which engines run like any other.

The masks and the initial states are inputs of the new cell, and its backward functions are derived:

- **resets**: before a step, states are set back to their initial values. A first stage without gates does it.
- **recurrent dropout** (Y. Gal, Z. Ghahramani, arXiv:1512.05287): whatever recurrent weights multiply is first
  multiplied by a mask, which is the same at every step. The first stage does it for the hidden state, and a stage
  before a further product for that product's operand.
- **zoneout** (D. Krueger et al., arXiv:1606.01305): in the last stage, a state keeps some of its previous values. A
  cell of several stages passes them on to it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from rnnx._core.checks import flag
from rnnx.cells.cell import Cell
from rnnx.cells.stage import Stage

RESET = "reset"  # the input that is 1 where states are reset, else 0
MASKED = None  # instead of a rate of zoneout: the values to keep are an input

Rates = tuple[float | None, ...]


def initial(state: str) -> str:
    """Return the name of the input with the values to which a state is reset."""
    return f"initial {state}"


def reset(cell: Cell, state: str) -> str:
    """Return the name of the input that tells where a state is reset: `RESET`, or one for its width."""
    width = dict(cell.widths).get(state)
    return f"{RESET} {width}" if width else RESET


def zoneout_mask(state: str) -> str:
    """Return the name of the input that is 1 where a state keeps its previous value, else 0."""
    return f"zoneout {state}"


def dropout_mask(stage: int) -> str:
    """Return the name of the input that multiplies the operand of a stage."""
    return f"dropout {stage}"


@lru_cache(maxsize=256)  # so that engines, which cache by cell, are given the same object again
def with_options(cell: Cell, *, resets: bool = False, zoneout: Rates = (), recurrent_dropout: bool = False) -> Cell:
    """Return the cell with options of a layer.

    Parameters
    ----------
    cell : Cell
    resets : bool
        Whether states can be set back: the inputs `RESET` and, per state, `initial`.
    zoneout : tuple of float or None
        Per state, the fraction of the previous value to keep: a number is applied at every step, as the mean over all
        masks; `MASKED` keeps the values for which the input `zoneout_mask` is 1.
    recurrent_dropout : bool
        Whether the operands of recurrent products are multiplied by masks: an input `dropout_mask` per stage with a
        recurrent product.

    Raises
    ------
    ValueError
        If the cell has no recurrent product for dropout.
    """
    resets, recurrent_dropout = flag("resets", resets), flag("recurrent_dropout", recurrent_dropout)
    if recurrent_dropout and not any(stage.recurrent for stage in cell.stages):
        raise ValueError(f"cell {cell.name!r} has no recurrent weights, so recurrent dropout has no effect on it")
    zones = tuple((k, rate) for k, rate in enumerate(zoneout) if rate != 0)
    layer = _Layer(cell, resets, zones, tuple(recurrent_dropout and bool(stage.recurrent) for stage in cell.stages))
    stages = layer.stages()
    if stages == cell.stages:
        return cell
    made = replace(cell, stages=stages, cache=(), definition=None, widths=layer.widths())
    return replace(made, cache=cell.cache) if {*cell.cache} <= {*made.saved} else made


@dataclass(frozen=True)
class _Layer:
    """A cell and its options."""

    cell: Cell
    resets: bool
    zones: tuple[tuple[int, float | None], ...]  # the states with zoneout, by number, and their rates
    masked: tuple[bool, ...]  # per stage, whether its operand is masked

    def stages(self) -> tuple[Stage, ...]:
        """Return the stages of the new cell."""
        stages = [self._stage(k) for k in range(len(self.cell.stages))]
        return (self._first(), *stages) if self.resets or self.masked[0] else tuple(stages)

    def _first(self) -> Stage:
        """Return the stage before the cell's own, which has no gates."""
        states, n = self.cell.states, len(self.cell.stages)  # the names of a cell with options have another n
        out = (*[f"masked 0 of {n}"] * self.masked[0], *(f"start {state} of {n}" for state in states))
        masks = tuple(dict.fromkeys(reset(self.cell, state) for state in states))  # one per width
        places = tuple(masks.index(reset(self.cell, state)) for state in states)
        inputs = (*masks, *map(initial, states)) if self.resets else ()
        inputs += (dropout_mask(0),) if self.masked[0] else ()
        return Stage((), out, (), _First(places if self.resets else (), self.masked[0]), inputs=inputs)

    def widths(self) -> tuple[tuple[str, int], ...]:
        """Return the new cell's widths, those of masks and initial states too."""
        cell, widths = self.cell, dict(self.cell.widths)
        of_states = {state: widths[state] for state in cell.states if state in widths}
        for state, width in of_states.items() if self.resets else ():
            widths |= {reset(cell, state): width, initial(state): width}
        zoned = [cell.states[number] for number, rate in self.zones if rate is MASKED]
        widths |= {zoneout_mask(state): width for state, width in of_states.items() if state in zoned}
        for k, masked in enumerate(self.masked):
            if masked and k and (width := cell.size(cell.stages[k - 1].out[0], 0)):
                widths[dropout_mask(k)] = width
        return tuple(widths.items())

    def _stage(self, k: int) -> Stage:
        """Return one of the cell's own stages with what the options add to it."""
        stage, last = self.cell.stages[k], k == len(self.cell.stages) - 1
        masks_next = not last and self.masked[k + 1]
        passes = bool(self.zones) and not last
        if not (any(self.masked) or self.zones):
            return stage
        names = [self.cell.states[number] for number, _ in self.zones]
        out = (*[f"masked {k + 1}"] * masks_next, *stage.out, *(f"previous {k} {name}" for name in names if passes))
        inputs = stage.inputs + ((dropout_mask(k + 1),) if masks_next else ())
        if last:
            inputs += tuple(
                zoneout_mask(name) for name, (_, rate) in zip(names, self.zones, strict=True) if rate is MASKED
            )
        n_reads = len(self.cell.stages[k - 1].out) if k else len(self.cell.states)
        n_given = len(stage.vectors) + len(stage.inputs)
        wrapped = _Wrapped(stage.forward, n_reads, n_given, self.masked[k], masks_next, k == 0, last, self.zones)
        return replace(stage, out=out, saved=(), forward=wrapped, backward=None, inputs=inputs)


@dataclass(frozen=True)
class _First:
    """The forward function of a stage that resets states and masks the first one."""

    resets: tuple[int, ...]  # per state, which input tells where it is reset; or none
    masks: bool

    def __call__(self, ops: Any, zx: Any, zh: Any, s: Any, given: Any) -> tuple[Any, Any]:
        """Return (s_next, ())."""
        if self.resets:
            first = max(self.resets) + 1
            values, masks = given[first : first + len(s)], [given[k] for k in self.resets]
            s = tuple(_reset(ops, *triple) for triple in zip(masks, values, s, strict=True))
        return ((s[0] * given[-1], *s) if self.masks else s), ()


@dataclass(frozen=True)
class _Wrapped:
    """The forward function of a stage of a cell with options.

    It reads the masked operand, if it is masked; what the stage itself reads; and in later stages the previous values
    of the states with zoneout. It writes likewise, or in the last stage the states.
    """

    forward: Callable[..., Any]
    n_reads: int  # values that the stage itself reads
    n_given: int  # its own vectors and inputs
    is_masked: bool
    masks_next: bool
    is_first: bool
    is_last: bool
    zones: tuple[tuple[int, float | None], ...]

    def __call__(self, ops: Any, zx: Any, zh: Any, s: Any, given: Any = ()) -> tuple[Any, Any]:
        """Return (s_next, ()); saved values are determined when the backward function is derived."""
        s = s[1:] if self.is_masked else s
        own, previous = s[: self.n_reads], s[self.n_reads :]
        if self.is_first:
            previous = tuple(own[number] for number, _ in self.zones)
        new, _ = self.forward(ops, zx, zh, own, *([given[: self.n_given]] if self.n_given else []))
        masks = given[self.n_given :]
        if not self.is_last:
            return (*((new[0] * masks[0],) if self.masks_next else ()), *new, *previous), ()
        new, masks = list(new), iter(masks)
        for (number, rate), before in zip(self.zones, previous, strict=True):
            kept = next(masks) if rate is MASKED else rate
            new[number] = new[number] - kept * new[number] + kept * before  # exact for 0 and 1
        return tuple(new), ()


def _reset(ops: Any, mask: Any, value: Any, state: Any) -> Any:
    """Return the value where the mask is 1, else the state. NaN in the one that is not selected has no effect."""
    return ops.where(ops.greater(mask, 0.5), value, state)
