"""The layers that models are made of, and the masks of dropout. They hold no arrays.

Dimensions: n features, m examples, T steps.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_memory, generator, integer, nearest
from rnnx._core.layout import to_public, to_time_major
from rnnx._core.words import shown
from rnnx.cells import CELLS as CELL_TABLE
from rnnx.cells import WITH_INPUTS, ZOO, Cell, cell_of
from rnnx.cells.parameters import expected_shapes
from rnnx.functional.heads import dense_backward, dense_forward
from rnnx.functional.initialization import initialize_dense, initialize_parameters

Parameters = dict[str, Array]
States = dict[str, Array]
Shapes = dict[str, tuple[int, ...]]
Seed = int | np.random.Generator | None

CELLS = ("rnn", "lstm", "gru", *(name for name in ZOO if name not in WITH_INPUTS))
MOST_LAYERS = 10_000


class Layer:
    """Something with named parameters; unless a subclass says otherwise, those of its `parts`."""

    parts: "Sequence[Layer]" = ()

    def shapes(self) -> Shapes:
        """Return the shape of every parameter."""
        return {name: shape for part in self.parts for name, shape in part.shapes().items()}

    def initialize(self, seed: Seed = None, **options: Any) -> Parameters:
        """Return initial parameters; the options are those of `rnnx.initialize_parameters`."""
        check_memory("the parameters", 4 * sum(map(math.prod, self.shapes().values())))
        rng = generator("seed", seed)
        return {name: value for part in self.parts for name, value in part.initialize(rng, **options).items()}


@dataclass(frozen=True)
class Dense(Layer):
    """A dense layer, whose parameters are "W" + name and "b" + name."""

    name: str
    n_in: int
    n_out: int

    def shapes(self) -> Shapes:
        """Return the shape of every parameter."""
        return {"W" + self.name: (self.n_out, self.n_in), "b" + self.name: (self.n_out, 1)}

    def initialize(self, seed: Seed = None, **options: Any) -> Parameters:
        """Return initial parameters."""
        drawn = initialize_dense(self.n_in, self.n_out, seed=seed, **options)
        return dict(zip(self.shapes(), drawn.values(), strict=True))

    def forward(self, parameters: Mapping[str, Array], a: Array) -> Array:
        """Compute W a + b for a (n_in, m) or (n_in, m, T)."""
        return dense_forward(a, parameters["W" + self.name], parameters["b" + self.name])

    def backward(self, parameters: Mapping[str, Array], dz: Array, a: Array) -> tuple[Array, Parameters]:
        """Return da and the gradients of the parameters."""
        da, dW, db = dense_backward(dz, a, parameters["W" + self.name]).values()
        return da, {"dW" + self.name: dW, "db" + self.name: db}


@dataclass(frozen=True)
class Direction(Layer):
    """A recurrent layer in one direction."""

    cell: Cell
    suffix: str  # of the names of its parameters and states
    input_size: int
    hidden_size: int
    reverse: bool

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the states, in the order of the cell's."""
        return tuple([state + self.suffix for state in self.cell.states])

    @property
    def state_sizes(self) -> dict[str, int]:
        """Numbers of units of the states by name."""
        sizes = [self.cell.size(state, self.hidden_size) for state in self.cell.states]
        return dict(zip(self.state_names, sizes, strict=True))

    @property
    def rows(self) -> slice:
        """The features that are this direction's in the outputs of both."""
        return slice(self.hidden_size, None) if self.reverse else slice(self.hidden_size)

    def shapes(self) -> Shapes:
        """Return the shape of every parameter."""
        expected = expected_shapes(self.cell, self.input_size, self.hidden_size)
        return {key + self.suffix: shape for key, (_, shape) in expected.items()}

    def initialize(self, seed: Seed = None, **options: Any) -> Parameters:
        """Return initial parameters."""
        drawn = initialize_parameters(self.cell, self.input_size, self.hidden_size, seed=seed, **options)
        return {key + self.suffix: value for key, value in drawn.items()}

    def own(self, parameters: Mapping[str, Array]) -> Parameters:
        """Return the layer's parameters under the cell's names."""
        missing = [key + self.suffix for key in self.cell.parameter_keys if key + self.suffix not in parameters]
        if missing:
            raise ValueError(f"`parameters` lacks {missing}")
        keys = (*self.cell.parameter_keys, *self.cell.optional_keys)
        return {key: parameters[key + self.suffix] for key in keys if key + self.suffix in parameters}

    def oriented(self, x: Array, lengths: Any) -> Array:
        """Convert x, or None, to or from the order in which the layer reads the steps."""
        return reverse_steps(x, lengths) if self.reverse and x is not None else x


def chosen_cell(cell: Cell | str, reset_after: bool) -> tuple[Cell, dict[str, Any]]:
    """Return the cell that the arguments of a model choose, and their values for its config."""
    if isinstance(cell, Cell) and CELL_TABLE.get(cell.name) != cell:
        if cell.inputs:
            raise ValueError(
                f"`cell` {cell.name!r} has inputs besides x, which models do not have; use `rnnx.recurrent_forward`"
            )
        if reset_after:
            raise ValueError(f"`reset_after` is only for `cell` = 'gru'; got the cell {cell.name!r}")
        return cell, {"cell": cell, "reset_after": False}
    name = cell.name if isinstance(cell, Cell) else cell
    if isinstance(cell, Cell) and name == "gru_reset_after":
        name, reset_after = "gru", True
    if isinstance(name, str) and name in WITH_INPUTS:
        raise ValueError(
            f"`cell` {name!r} has inputs besides x, which models do not have; use `rnnx.recurrent_forward`"
        )
    if not isinstance(name, str) or name not in CELLS:
        kind = ValueError if isinstance(name, str) else TypeError
        hint = nearest(name, CELLS) if isinstance(name, str) else ""
        raise kind(f"`cell` must be a rnnx.Cell, or the name of one in rnnx.CELLS; got {shown(name)}{hint}")
    if reset_after and name != "gru":
        raise ValueError(f"`reset_after` is only for `cell` = 'gru'; got {shown(name)}")
    return cell_of(f"{name}_reset_after" if reset_after else name), {"cell": name, "reset_after": bool(reset_after)}


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
                f"`hidden_size` must be one integer or a sequence of num_layers = {num_layers}; got {hidden_size}"
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


@dataclass(frozen=True)
class Masks:
    """The masks of dropout and zoneout of one optimizer step.

    A mask depends only on the seed, the layer and the time step. A sequence therefore gets the same masks whether it
    runs as a whole or in segments, and a resumed run needs no saved generator state.

    Parameters
    ----------
    seed : tuple of int
        For instance (seed of the run, number of the optimizer step).
    start : int
        First time step of the sequence.
    """

    seed: tuple[int, ...]
    start: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.seed, tuple):
            raise TypeError(f"`seed` must be a tuple of integers; got {shown(self.seed)}")
        for number in self.seed:
            integer("seed", number, 0)
        integer("start", self.start, 0)

    def at(self, start: int) -> "Masks":
        """Return the masks of a segment that starts at this time step."""
        return replace(self, start=start)

    def draw(self, place: str, rate: float, like: Array) -> Array:
        """Return an inverted-dropout mask: zero with probability `rate`, else 1 / (1 - rate).

        Source: N. Srivastava et al., JMLR 15 (2014).

        Parameters
        ----------
        place : str
            Name of the layer whose output is masked.
        rate : float, 0 <= rate < 1
        like : array, shape (n, m, T)
            An array of the shape, library, device and dtype of the mask.
        """
        return self.kept(place, rate, tuple(like.shape), like) * (1 / (1 - rate))

    def kept(self, place: str, rate: float, shape: tuple[int, ...], like: Array) -> Array:
        """Return a mask (n, m, T) that is 0 with probability `rate`, else 1, in the library and dtype of `like`."""
        n, m, n_steps = shape
        key = np.random.SeedSequence([*self.seed, zlib.crc32(place.encode())]).generate_state(2, np.uint64)
        kept = np.empty((n_steps, m, n), bool)
        for t in range(n_steps):
            rng = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, self.start + t]))
            kept[t] = rng.random((m, n), np.float32) >= rate
        xp, device = ns.common_namespace({"like": like})
        return xp.permute_dims(xp.astype(xp.asarray(kept, device=device), like.dtype), (2, 1, 0))
