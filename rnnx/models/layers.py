"""The sizes, names and directions of a stack's layers. Dimensions: n features, m examples, T steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import integer
from rnnx._core.layout import to_public, to_time_major
from rnnx.cells import Cell

Parameters = dict[str, Array]
States = dict[str, Array]
MOST_LAYERS = 10_000


@dataclass(frozen=True)
class Direction:
    """One recurrent layer in one direction."""

    suffix: str  # of the names of its parameters and states
    input_size: int
    hidden_size: int
    reverse: bool

    def own(self, cell: Cell, parameters: Mapping[str, Array]) -> Parameters:
        """Return the layer's parameters under the cell's names."""
        missing = [key + self.suffix for key in cell.parameter_keys if key + self.suffix not in parameters]
        if missing:
            raise ValueError(f"`parameters` lack {missing}")
        keys = (*cell.parameter_keys, *cell.optional_keys)
        return {key: parameters[key + self.suffix] for key in keys if key + self.suffix in parameters}


def check_widths(hidden_size: int | Sequence[int], num_layers: int = 1) -> tuple[int, ...]:
    """Return the number of units per layer."""
    if isinstance(hidden_size, int | np.integer):
        widths: tuple[Any, ...] = (hidden_size,) * integer("num_layers", num_layers, most=MOST_LAYERS)
    else:
        widths = tuple(hidden_size) if isinstance(hidden_size, Sequence) else (hidden_size,)
        if len(widths) > MOST_LAYERS:
            raise ValueError(f"`hidden_size` must hold at most {MOST_LAYERS} numbers; got {len(widths)}")
        if num_layers not in (1, len(widths)) or not widths:
            raise ValueError(
                f"`hidden_size` must hold one number for each of the {num_layers} layers; got {hidden_size}"
            )
    return tuple(integer("hidden_size", width) for width in widths)


def reverse_steps(x: Array, lengths: Any = None) -> Array:
    """Reverse the steps of every example of x, (n, m, T) or (m, T), leaving padding in place."""
    xp, device = ns.common_namespace({"x": x})
    if lengths is None:
        return xp.flip(x, axis=-1)
    rows = to_time_major(xp, x)  # (T, m, n) or (T, m)
    n_steps, m = rows.shape[:2]
    ends = ns.integer_vector(xp, device, "lengths", lengths)[None, :]
    steps = xp.arange(n_steps, dtype=ends.dtype, device=device)[:, None]
    from_step = xp.where(steps < ends, ends - 1 - steps, steps)
    places = from_step * m + xp.arange(m, dtype=ends.dtype, device=device)
    flat = xp.take(xp.reshape(rows, (n_steps * m, *rows.shape[2:])), xp.reshape(places, (-1,)), axis=0)
    back = xp.reshape(flat, rows.shape)
    return xp.permute_dims(back, tuple(range(x.ndim))[::-1])


def concatenate(outs: list[Array]) -> Array:
    """Concatenate the outputs (n, m, T) of both directions along n, time-major in memory as the next layer expects."""
    if len(outs) == 1:
        return outs[0]
    xp, _ = ns.common_namespace({"out": outs[0]})
    return to_public(xp, xp.concat([xp.permute_dims(a, (2, 1, 0)) for a in outs], axis=2))
