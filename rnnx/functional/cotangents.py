"""Checks of cotangents, the arguments of backward functions.

Symbols: n_a hidden units, m examples, T_x time steps, of which the first T have a cotangent.
"""

from collections.abc import Mapping
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_shape
from rnnx._core.kinds import Table, kinds
from rnnx.engines.protocol import Tape
from rnnx.functional.shapes import units_in_symbols


def check_cotangents(
    tape: Tape,
    caches_name: str,
    ds: Mapping[str, Array | None],
    ds_final: Mapping[str, Array | None],
    n_a: int | None = None,
) -> None:
    """Check the cotangents of a tape, keyed by their public names; `n_a` is the number of features of `ds`."""
    given = {name: d for name, d in ds.items() if d is not None}
    final = {name: d for name, d in ds_final.items() if d is not None}
    features, sizes = n_a or tape.n_a, (tape.n_a, tape.m, tape.n_steps)
    of_arrays = kinds((tape.final[0], *given.values(), *final.values()))
    key = of_arrays and (tape.cell, features, sizes, tuple(given), tuple(final), of_arrays)
    if _checked.find(key):
        return
    xp, _ = ns.common_namespace({caches_name: tape.final[0], **given, **final})
    units: dict[str, tuple[str, int]] = {}
    if tape.cell.has_widths:
        pairs = (ds_final,) if n_a else (ds, ds_final)
        names = [pair for by_name in pairs for pair in zip(by_name, tape.cell.states, strict=True)]
        units = {name: (units_in_symbols(tape.cell, of), tape.cell.size(of, tape.n_a)) for name, of in names}
    steps = _check_sequence_gradients(given, units, ("n_a", features), *sizes[1:])
    for name, d in final.items():
        symbols, n = units.get(name, ("n_a", tape.n_a))
        check_shape(name, d, f"({symbols}, m)", (n, tape.m))
        if steps is not None and steps < tape.n_steps:
            raise ValueError(f"`{name}` requires `{next(iter(given))}` for all T_x = {tape.n_steps} steps; got {steps}")
    ns.floating_dtype(xp, {}, {**given, **final})
    _checked.add(key, True)


_checked: Table[bool] = Table()  # cotangents that are right


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
