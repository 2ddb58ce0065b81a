# ruff: noqa: D102 - methods are documented in `rnnx.engines.operations`
"""The operations of a training step on arrays of any namespace."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.harmless_errors import ignore_harmless_errors, unused_errors
from rnnx._core.layout import valid_examples
from rnnx.cells.vocabulary import Condition, array_ops
from rnnx.engines.operations import Arrays, Loss, Numbers, Rule


class ReferenceOperations:
    """See `rnnx.engines.operations.Operations`."""

    @np.errstate(under="ignore")
    def elementwise(
        self, rule: Rule, numbers: Numbers, rows: Sequence[Arrays], out: Sequence[Arrays | None] | None = None
    ) -> list[Arrays]:
        results = []
        for row, targets in zip(rows, out or [None] * len(rows), strict=True):
            xp, shape = ns.namespace(row[0]), row[0].shape
            given = row if shape else tuple([xp.reshape(a, (1,)) for a in row])  # NumPy would return scalars
            found = rule(array_ops(xp), _of_dtype(xp, numbers, row[0].dtype), *given)
            found = found if shape else tuple([xp.reshape(a, ()) for a in found])
            results.append(found if targets is None else tuple(map(ns.written, targets, found)))
        return results

    @ignore_harmless_errors
    def norm(self, arrays: Sequence[Array]) -> Array:
        xp = ns.namespace(arrays[0])
        # Divide by the largest element so that squares of large gradients do not overflow.
        largest = xp.max(xp.stack(ns.to_one_dtype(xp, *[xp.max(xp.abs(a)) for a in arrays])))
        unit = xp.where(largest > 0, largest, xp.ones_like(largest))
        parts = []
        for a in arrays:
            scaled = a / unit
            scaled *= scaled
            parts.append(xp.sum(scaled))
        return unit * xp.sqrt(xp.sum(xp.stack(parts)))

    @ignore_harmless_errors
    def loss(
        self, loss: Loss, y: Array, targets: Array, ends: Array | None, weights: Array | None = None
    ) -> tuple[Array, Array]:
        xp, device, ops = ns.namespace(y), ns.device(y), array_ops(ns.namespace(y))
        n_y, m, n_steps = y.shape
        valid, rows = None, m * n_steps
        count: Any = max(rows, 1) * loss.terms(n_y)
        if ends is not None:
            valid = xp.expand_dims(valid_examples(xp, ends, n_steps), axis=0)
            total = xp.sum(ends)
            count = loss.terms(n_y) * xp.astype(xp.maximum(total, xp.ones_like(total)), y.dtype)
        if weights is not None:
            weights, total = within(xp, weights, ends)
            weights = xp.expand_dims(weights, axis=0)
            shares = ns.astype(xp, ns.astype(xp, weights, xp.float64) / (loss.terms(n_y) * total), y.dtype)
            valid, count = weights != 0, 1
        target: Any = targets
        n = n_y // loss.parts
        parts = [y] if loss.parts == 1 else [y[k * n : (k + 1) * n, ...] for k in range(loss.parts)]
        if loss.of_classes:
            targets = ns.as_index(xp, targets)
            classes = xp.reshape(xp.arange(n_y, dtype=targets.dtype, device=device), (n_y, 1, 1))
            target = Condition(classes == xp.expand_dims(targets, axis=0))
        with unused_errors(valid is not None):
            statistics: list[Array] = []
            values: list[Array] = []  # per target
            for reduction, function in loss.statistics:
                value = function(ops, *parts, target, *statistics)
                if reduction == "target":  # a selection instead of a product, because logits may be infinite
                    value = ops.where(target, value, ops.zeros_like(value))
                values.append(value)
                reduce = xp.max if reduction == "maximum" else xp.sum
                statistics.append(reduce(value, axis=0, keepdims=True))
            operands = parts if loss.kept is None else [values[loss.kept]]
            value, found = loss.value(ops, *statistics), loss.gradient(ops, *operands, target, *statistics)
            dy = found[0] if loss.parts == 1 else xp.concat(list(found), axis=0)
            value, dy = (value, dy / count) if weights is None else (value * shares, dy * shares)
        # `where` instead of a product with the mask, because logits may be infinite and padding may be NaN.
        if valid is not None:
            value, dy = xp.where(valid, value, xp.zeros_like(value)), xp.where(valid, dy, xp.zeros_like(dy))
        return xp.sum(value) / count, dy


def within(xp: Any, weights: Array, ends: Array | None) -> tuple[Array, Array]:
    """Return weights (m, T), zero past the lengths, and their sum in float64, shape (), or 1 if it is zero."""
    if ends is not None:
        weights = xp.where(valid_examples(xp, ends, weights.shape[1]), weights, xp.zeros_like(weights))
    total = xp.sum(ns.astype(xp, weights, xp.float64))
    return weights, xp.where(total > 0, total, xp.ones_like(total))


def _of_dtype(xp: Any, numbers: Numbers, dtype: Any) -> dict[str, Any]:
    """Convert the numbers that are arrays to a dtype."""
    return {name: ns.astype(xp, n, dtype) if hasattr(n, "dtype") else n for name, n in numbers.items()}


OPERATIONS = ReferenceOperations()
