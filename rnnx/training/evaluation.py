"""The mean loss of a model over a dataset."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.data import Dataset
from rnnx.models import Model
from rnnx.training.finite import cause, check_kind, check_model
from rnnx.training.parts import Parts


def evaluate(model: Model, dataset: Dataset, batch_size: int) -> float:
    """Return the mean loss of a model over a dataset, without dropout: nats per character for a character model.

    Raises
    ------
    ValueError, TypeError
        If the dataset is empty, or does not fit the model.
    FloatingPointError
        If the loss of a batch is not finite.

    See Also
    --------
    Trainer, rnnx.metrics

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Examples
    >>> from rnnx.models import SequenceRegressor
    >>> from rnnx.training import evaluate
    >>> model = SequenceRegressor(1, 4, rng=0)
    >>> x = np.ones((1, 6, 5), "float32")
    >>> whole = evaluate(model, Examples(x, np.full((1, 6), 2.0)), batch_size=6)
    >>> bool(np.isclose(whole, ((model.predict(x) - 2.0) ** 2).mean()))
    True
    """
    return mean_loss(model, dataset, batch_size, None)


def mean_loss(model: Any, dataset: Any, batch_size: int, parts: Parts | None) -> float:
    """Return the mean loss, of batches that are cut into parts if there are any; all ranks return the same."""
    check_model("model", model)
    check_kind("dataset", dataset)
    model.check("dataset", dataset)
    places, losses = [], []
    states: dict[int, dict[str, Array]] = {}  # of each part
    for number, batch in enumerate(dataset.batches(batch_size)):
        carried = getattr(batch, "continues", False)
        for k, part in _pieces(model, batch, parts):
            loss, states[k] = model.evaluate_step(part, states=states.get(k) if carried else None)
            losses.append(loss)
            places.append((number, k, model.count(batch)))
    found = list(zip(places, ns.numbers(losses), strict=True))
    if parts is not None:
        found = sorted(itertools.chain(*parts.group.collect(found)))
    total, weight = 0.0, 0.0
    for (number, k, count), loss in found:
        if not math.isfinite(loss):
            batch = next(itertools.islice(dataset.batches(batch_size), number, None))
            why = cause(batch, model.parameters)
            raise FloatingPointError(f"the loss of batch {number + 1} is {loss}; {why}")
        total, weight = total + loss * count, weight + (count if k == 0 else 0)
    if not weight:
        raise ValueError("`dataset` must hold at least one example of at least one step")
    return total / weight


def _pieces(model: Any, batch: Any, parts: Parts | None) -> Iterator[tuple[int, Any]]:
    """Yield the parts of a batch that this rank computes, with their numbers."""
    if parts is None:
        yield 0, batch
    else:
        yield from ((k, part) for k, part, _ in parts.cut(model, parts.check(model, batch)))
