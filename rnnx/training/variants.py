"""Variants of a training step: in parts of a batch, of some parameters only, and with averaged parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import nearest
from rnnx._core.words import shown
from rnnx.data import Batch
from rnnx.models import Masks, Step

Arrays = dict[str, Array]


def train_in_parts(model: Any, batch: Any, size: int, states: Any, masks: Masks, **options: Any) -> Step:
    """Return the step of a whole batch, with the memory of `size` examples: the weighted mean of those of its parts."""
    batch = model.checked(batch)
    if type(batch) is not Batch:
        raise TypeError(f"`micro_batch_size` is for batches of single sequences; got {type(batch).__name__}")
    if not hasattr(model, "loss_function"):
        raise ValueError("`micro_batch_size` needs a model with one head, whose terms can be counted")
    m, total = batch.inputs.shape[-2], model.count(batch) or 1
    loss, gradients, finals = 0.0, Arrays(), []
    for number, start in enumerate(range(0, m, size)):
        rows = slice(start, min(start + size, m))
        part = _part(model, batch, rows)
        own = {name: s[:, rows] for name, s in (states or {}).items()}
        own_masks = replace(masks, seed=(*masks.seed, number)) if m > size else masks  # not the same for all parts
        step = model.train_step(part, states=own or None, masks=own_masks, **options)
        weight = model.count(part) / total
        loss = loss + step.loss * weight
        weighted = {name: d * weight for name, d in step.gradients.items()}
        gradients = {name: gradients[name] + d for name, d in weighted.items()} if gradients else weighted
        finals.append(step.states)
    joined = {name: model.xp.concat([one[name] for one in finals], axis=1) for name in finals[0]}
    return Step(loss, gradients, joined)


def _part(model: Any, batch: Batch, rows: slice) -> Batch:
    """Return some examples of a checked batch, cut to the longest of them."""
    lengths = None if batch.lengths is None else np.asarray(batch.lengths)[rows]
    stop = batch.inputs.shape[-1] if lengths is None else max(int(lengths.max(initial=1)), 1)
    targets = batch.targets[rows] if model.loss_function.kind == "classes" else batch.targets[:, rows]
    if model.per_step:
        targets = targets[..., :stop]
    weights = None if batch.weights is None else batch.weights[rows]
    if weights is not None and weights.ndim == 2:
        weights = weights[:, :stop]
    extra = None if batch.extra is None else {k: a[..., rows, :stop] for k, a in batch.extra.items()}
    return Batch(batch.inputs[..., rows, :stop], targets, lengths, batch.continues, extra, weights)


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


def averaged(average: Arrays, parameters: Arrays, decay: float, step: int) -> Arrays:
    """Return the running average of parameters after a step, from 1; it follows more closely in the first steps."""
    if not average:
        average = parameters
    own = min(decay, step / (step + 10))
    names = [*parameters]
    rows = [(average[name], parameters[name]) for name in names]
    xp = ns.namespace(rows[0][0])
    results = engines.operations(xp).elementwise(_mean, {"old": own, "new": 1 - own}, rows)
    return {name: result[0] for name, result in zip(names, results, strict=True)}
