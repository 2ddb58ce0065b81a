"""The layers that models are made of, and the masks of dropout. They hold no arrays.

Dimensions: n features, m examples, T steps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_memory, check_shape, flag, integer, integer_vector, nearest
from rnnx._core.layout import to_public, to_time_major
from rnnx._core.randomness import RNG, generator, takes_rng
from rnnx._core.words import shown
from rnnx.cells import CELLS as CELL_TABLE
from rnnx.cells import ZOO, Cell, cell_of
from rnnx.cells.parameters import expected_shapes
from rnnx.functional.heads import dense, dense_gradients
from rnnx.functional.initialization import initialize_dense, initialize_parameters
from rnnx.functional.quantization import marked, quantize

Parameters = dict[str, Array]
States = dict[str, Array]
Shapes = dict[str, tuple[int, ...]]

CELLS = ("rnn", "lstm", "gru", *ZOO)
MOST_LAYERS = 10_000


class Layer:
    """An object with named parameters, by default those of its `parts`."""

    parts: "Sequence[Layer]" = ()

    def shapes(self) -> Shapes:
        """Return the shape of every parameter."""
        return {name: shape for part in self.parts for name, shape in part.shapes().items()}

    def rounded(self, parameters: Parameters, weights: str) -> Parameters:
        """Return the parameters, with the weights of recurrent layers rounded; see `rnnx.quantize`."""
        for part in self.parts:
            parameters = part.rounded(parameters, weights)
        return parameters

    @takes_rng
    def initialize(self, rng: RNG = None, **options: Any) -> Parameters:
        """Return initial parameters; the options are those of `rnnx.initialize_parameters`."""
        check_memory("the parameters", 4 * sum(map(math.prod, self.shapes().values())))
        random = generator("rng", rng)
        return {name: value for part in self.parts for name, value in part.initialize(random, **options).items()}


@dataclass(frozen=True)
class Dense(Layer):
    """A dense layer, whose parameters are "W" + name and "b" + name."""

    name: str
    n_in: int
    n_out: int

    def shapes(self) -> Shapes:
        """Return the shape of every parameter."""
        return {"W" + self.name: (self.n_out, self.n_in), "b" + self.name: (self.n_out, 1)}

    @takes_rng
    def initialize(self, rng: RNG = None, **options: Any) -> Parameters:
        """Return initial parameters."""
        drawn = initialize_dense(self.n_in, self.n_out, rng=rng, **options)
        return dict(zip(self.shapes(), drawn.values(), strict=True))

    def forward(self, parameters: Mapping[str, Array], a: Array) -> Array:
        """Compute W a + b for a (n_in, m) or (n_in, m, T)."""
        xp = ns.namespace(a)
        return dense(xp, *ns.to_one_dtype(xp, a, parameters["W" + self.name], parameters["b" + self.name]))

    def backward(self, parameters: Mapping[str, Array], dz: Array, a: Array) -> tuple[Array, Parameters]:
        """Return da and the gradients of the parameters."""
        xp = ns.namespace(a)
        da, dW, db = dense_gradients(xp, *ns.to_one_dtype(xp, dz, a, parameters["W" + self.name]))
        return da, {"dW" + self.name: dW, "db" + self.name: db}


@dataclass(frozen=True)
class Direction(Layer):
    """A recurrent layer in one direction."""

    cell: Cell
    suffix: str  # of the names of its parameters and states
    input_size: int
    hidden_size: int
    reverse: bool

    @cached_property
    def state_names(self) -> tuple[str, ...]:
        """Names of the states, in the order of the cell's."""
        return tuple([state + self.suffix for state in self.cell.states])

    @cached_property
    def _names(self) -> dict[str, str]:
        """The names of the parameters by the cell's names, the optional ones last."""
        return {key: key + self.suffix for key in (*self.cell.parameter_keys, *self.cell.optional_keys)}

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
        hoisted = self.cell.hoisted.results if self.cell.hoisted else ()
        return {key + self.suffix: shape for key, (_, shape) in expected.items() if key not in hoisted}

    @takes_rng
    def initialize(self, rng: RNG = None, **options: Any) -> Parameters:
        """Return initial parameters."""
        drawn = initialize_parameters(self.cell, self.input_size, self.hidden_size, rng=rng, **options)
        return {key + self.suffix: value for key, value in drawn.items()}

    def own(self, parameters: Mapping[str, Array]) -> Parameters:
        """Return the layer's parameters under the cell's names."""
        return marked({key: parameters[name] for key, name in self._names.items() if name in parameters}, parameters)

    def rounded(self, parameters: Parameters, weights: str) -> Parameters:
        """Return the parameters, with this layer's weights rounded; see `rnnx.quantize`."""
        own = quantize(self.cell, self.own(parameters), weights)
        return {**parameters, **{self._names[key]: value for key, value in own.items()}}

    def check(self, parameters: Mapping[str, Array]) -> None:
        """Raise unless the layer's parameters are there and have the right shapes."""
        missing = [self._names[key] for key in self.cell.parameter_keys if self._names[key] not in parameters]
        if missing:
            raise ValueError(f"`parameters` lacks {missing}")
        expected = expected_shapes(self.cell, self.input_size, self.hidden_size)
        for key, name in self._names.items():
            if name in parameters:
                check_shape(name, parameters[name], *expected[key])

    def oriented(self, x: Array, lengths: Any) -> Array:
        """Convert x, or None, to or from the order in which the layer reads the steps."""
        return reverse_steps(x, lengths) if self.reverse and x is not None else x


def chosen_cell(cell: Cell | str, reset_after: bool) -> tuple[Cell, dict[str, Any]]:
    """Return the cell that the arguments of a model choose, and their values for its config."""
    reset_after = flag("reset_after", reset_after)
    if isinstance(cell, Cell) and CELL_TABLE.get(cell.name) != cell:
        if reset_after:
            raise ValueError(f"`reset_after` is only for `cell` = 'gru'; got the cell {cell.name!r}")
        return cell, {"cell": cell, "reset_after": False}
    name = cell.name if isinstance(cell, Cell) else cell
    if isinstance(cell, Cell) and name == "gru_reset_after":
        name, reset_after = "gru", True
    if not isinstance(name, str) or name not in CELLS:
        kind = ValueError if isinstance(name, str) else TypeError
        hint = nearest(name, CELLS) if isinstance(name, str) else ""
        raise kind(f"`cell` must be a rnnx.Cell, or the name of one in rnnx.CELLS; got {shown(name)}{hint}")
    if reset_after and name != "gru":
        raise ValueError(f"`reset_after` is only for `cell` = 'gru'; got {shown(name)}")
    return cell_of(f"{name}_reset_after" if reset_after else name), {"cell": name, "reset_after": reset_after}


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
    xp, device = ns.namespace(x), ns.device(x)
    if lengths is None:
        return xp.flip(x, axis=-1)
    rows = to_time_major(xp, x)  # (T, m, n) or (T, m)
    n_steps, m = rows.shape[:2]
    ends = integer_vector(xp, device, "lengths", lengths)[None, :]
    steps = xp.arange(n_steps, dtype=ends.dtype, device=device)[:, None]
    from_step = xp.where(steps < ends, ends - 1 - steps, steps)
    places = from_step * m + xp.arange(m, dtype=ends.dtype, device=device)
    flat = ns.take(xp, xp.reshape(rows, (n_steps * m, *rows.shape[2:])), xp.reshape(places, (-1,)), axis=0)
    back = xp.reshape(flat, rows.shape)
    return xp.permute_dims(back, tuple(range(x.ndim))[::-1])


def concatenate(outs: list[Array]) -> Array:
    """Concatenate the outputs (n, m, T) of both directions along n, time-major in memory as the next layer expects."""
    if len(outs) == 1:
        return outs[0]
    xp = ns.namespace(outs[0])
    return to_public(xp, xp.concat([xp.permute_dims(a, (2, 1, 0)) for a in outs], axis=2))
