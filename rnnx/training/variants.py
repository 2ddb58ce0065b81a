"""Variants of a training step: of some parameters only, and with averaged parameters."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import nearest
from rnnx._core.words import shown

Arrays = dict[str, Array]


def frozen_names(patterns: Sequence[str], parameters: Mapping[str, Array]) -> frozenset[str]:
    """Return the names of the parameters that match one of the patterns, such as "W*_l0"."""
    if isinstance(patterns, str) or not all(isinstance(one, str) for one in patterns):
        raise TypeError(f"`frozen` must be a list of names of parameters, or patterns; got {shown(patterns)}")
    found: set[str] = set()
    for pattern in patterns:
        own = {name for name in parameters if fnmatchcase(name, pattern)}
        if not own:
            raise ValueError(f"`frozen`: the model has no parameter {pattern!r}{nearest(pattern, parameters)}")
        found |= own
    if len(found) == len(parameters):
        raise ValueError("`frozen` must leave a parameter to train")
    return frozenset(found)


def _mean(_ops: Any, numbers: Any, old: Any, new: Any) -> tuple[Any]:
    return (old * numbers["old"] + new * numbers["new"],)


def average_numbers(decay: float, step: int) -> dict[str, float]:
    """Return the numbers of `averaged` after a step, from 1; the average follows more closely in the first steps."""
    own = min(decay, step / (step + 10))
    return {"old": own, "new": 1 - own}


def averaged(average: Arrays, parameters: Arrays, numbers: Mapping[str, Any]) -> Arrays:
    """Return the running average of parameters after a step."""
    if not average:
        average = parameters
    names = [*parameters]
    rows = [(average[name], parameters[name]) for name in names]
    xp = ns.namespace(rows[0][0])
    results = engines.operations(xp).elementwise(_mean, numbers, rows)
    return {name: result[0] for name, result in zip(names, results, strict=True)}
