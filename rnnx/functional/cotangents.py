"""Checks of cotangents, the arguments of backward functions.

Symbols: n_a hidden units, m examples, T_x time steps, of which the first T have a cotangent.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_shape
from rnnx.engines.protocol import Tape
from rnnx.functional.shapes import SHAPE_AND_DTYPE, Kind, cached, units_in_symbols


def check_cotangents(
    tape: Tape,
    caches_name: str,
    ds: Mapping[str, Array | None],
    ds_final: Mapping[str, Array | None],
    n_a: int | None = None,
) -> None:
    """Check the cotangents of a tape, keyed by their public names; `n_a` is the number of features of `ds`."""
    given = {name: d for name, d in ds.items() if d is not None}
    given_final = {name: d for name, d in ds_final.items() if d is not None}
    ns.common_namespace({caches_name: tape.states[0], **given, **given_final})
    kinds = tuple(map(SHAPE_AND_DTYPE, (*given.values(), *given_final.values())))
    units: dict[str, tuple[str, int]] = {}
    if tape.cell.has_widths:
        pairs = (ds_final,) if n_a else (ds, ds_final)
        names = [pair for by_name in pairs for pair in zip(by_name, tape.cell.states, strict=True)]
        units = {name: (units_in_symbols(tape.cell, of), tape.cell.size(of, tape.n_a)) for name, of in names}
    sizes = n_a or tape.n_a, tape.n_a, tape.m, tape.n_steps
    check = cached(_check_cotangents, tape.states[0])
    check(tape.xp, sizes, tuple(units.items()), (tuple(given), tuple(given_final)), kinds)


@lru_cache(maxsize=256)
def _check_cotangents(
    xp: Any,
    sizes: tuple[int, ...],
    units: tuple[tuple[str, tuple[str, int]], ...],
    names: tuple[Any, ...],
    kinds: tuple[Any, ...],
) -> None:
    """Check shapes and dtypes. `names`: of the sequence and of the final cotangents; `kinds`: in that order.

    `units` are the numbers of units by name, in symbols and as integers, where they are not n_a.
    """
    each = iter([Kind(tuple(shape), dtype) for shape, dtype in kinds])
    given, final = ({name: next(each) for name in group} for group in names)
    features, n_a, m, n_steps = sizes
    own = dict(units)
    steps = _check_sequence_gradients(given, own, ("n_a", features), m, n_steps)
    for name, d in final.items():
        symbols, n = own.get(name, ("n_a", n_a))
        check_shape(name, d, f"({symbols}, m)", (n, m))
        if steps is not None and steps < n_steps:
            raise ValueError(f"`{name}` requires `{next(iter(given))}` for all T_x = {n_steps} steps; got {steps}")
    ns.floating_dtype(xp, {}, {**given, **final})


def _check_sequence_gradients(
    given: Mapping[str, Any],
    units: Mapping[str, tuple[str, int]],
    of_others: tuple[str, int],
    m: int,
    n_steps: int,
) -> int | None:
    """Check da, dc, ... of shape (n, m, T), T <= T_x; return T, or None if there are none.

    `units` are the numbers n by name, in symbols and as integers, `of_others` is that of the others.
    """
    steps = {}
    for name, array in given.items():
        shape, (symbols, n) = tuple(array.shape), units.get(name, of_others)
        if len(shape) != 3 or shape[:2] != (n, m) or shape[2] > n_steps:
            expected = f"({symbols}, m, T) = ({n}, {m}, T) with T <= T_x = {n_steps}"
            raise ValueError(f"`{name}` must have shape {expected}; got {shape}")
        steps[name] = shape[2]
    if len({*steps.values()}) > 1:
        raise ValueError(f"sequence gradients must have the same number of steps; got {steps}")
    return next(iter(steps.values()), None)
