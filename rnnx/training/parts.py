"""A step in parts of a batch: micro-batches on one process, shards on the ranks of a group.

A part is computed in the same way wherever that happens, and the gradients are added up in the order of the parts. The
result therefore does not depend on the number of ranks. Dimensions: m examples.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_methods, integer, is_whole
from rnnx.models import Masks, Step
from rnnx.training.distributed.group import Group
from rnnx.training.distributed.reduction import Fast, Ordered

Arrays = dict[str, Array]


@dataclass(frozen=True)
class Parts:
    """How batches are cut: in parts of at most `size` examples, or in `shards` parts of about equal size.

    Part k is computed by the rank k modulo the number of ranks.
    """

    size: int | None
    shards: int | None
    group: Group

    def all(self, m: int) -> list[slice]:
        """Return the examples of each part. Of fewer examples than shards, each is a part."""
        if self.size is not None:
            return [slice(start, min(start + self.size, m)) for start in range(0, m, self.size)]
        n = min(self.shards or 1, m)
        return [slice(k * m // n, (k + 1) * m // n) for k in range(n)]

    def own(self, m: int) -> Iterator[tuple[int, slice, slice]]:
        """Yield the number of each part of this rank, its examples, and their places among those of this rank."""
        at = 0
        for number, rows in enumerate(self.all(m)):
            if number % self.group.size == self.group.rank:
                yield number, rows, slice(at, at + rows.stop - rows.start)
                at += rows.stop - rows.start

    def cut(self, model: Any, batch: Any) -> Iterator[tuple[int, Any, slice]]:
        """Yield the parts of a checked batch that this rank computes, as `own` does with their examples."""
        for number, rows, places in self.own(batch.size):
            yield number, model.part(batch, rows), places

    def own_states(self, states: Mapping[str, Array]) -> Arrays:
        """Return the columns of this rank of states (n, m) of all examples."""
        found: Arrays = {}
        if self.group.size == 1:
            return dict(states)
        for name, s in states.items():
            chosen = [s[:, rows] for _, rows, _ in self.own(s.shape[1])]
            found[name] = ns.namespace(s).concat(chosen, axis=1) if chosen else s[:, :0]
        return found

    def whole_states(self, states: Mapping[str, Array], like: Array) -> Arrays:
        """Return the states of all examples, (n, m), on all ranks, from those of this rank; `like` is a parameter."""
        if self.group.size == 1:
            return dict(states)
        by_rank = self.group.collect({name: ns.to_host(s) for name, s in states.items()})
        names = next((list(found) for found in by_rank if found), [])
        m = sum(found[names[0]].shape[1] for found in by_rank if found)
        columns: list[list[np.ndarray]] = [[] for _ in names]
        places = [0] * self.group.size
        for number, rows in enumerate(self.all(m)):
            rank = number % self.group.size
            start, places[rank] = places[rank], places[rank] + rows.stop - rows.start
            for name, found in zip(names, columns, strict=True):
                found.append(by_rank[rank][name][:, start : places[rank]])
        xp, device = ns.namespace(like), ns.device(like)
        whole = [np.concatenate(found, axis=1) for found in columns]
        return {name: xp.asarray(s, device=device) for name, s in zip(names, whole, strict=True)}

    def check(self, model: Any, batch: Any) -> Any:
        """Return a batch after checking it; raise TypeError if it cannot be cut."""
        name = "shards" if self.size is None else "micro_batch_size"
        if not callable(getattr(model, "part", None)):
            raise TypeError(f"`{name}` needs a model with the method `part`, as those of rnnx have it")
        batch = model.checked(batch)
        if not is_whole(getattr(batch, "size", None)):
            raise TypeError(f"`{name}` needs batches with the attribute `size`, their number of examples")
        return batch


def checked_parts(size: Any, shards: Any, group: Any) -> tuple[int | None, int | None]:
    """Return the arguments of `Parts` after checking them; by default, a batch has a shard for each rank."""
    check_methods("group", group, "a rnnx.training.MpiGroup, or have its methods", "exchange", "gather", "collect")
    if size is not None:
        if shards is not None or group.size > 1:
            raise ValueError("`micro_batch_size` is for one rank without `shards`, which are micro-batches, too")
        return integer("micro_batch_size", size), None
    if shards is None and group.size == 1:
        return None, None
    shards = integer("shards", group.size if shards is None else shards)
    if shards < group.size:
        raise ValueError(f"`shards` must be at least the number of ranks, {group.size}; got {shards}")
    return None, shards


def train_in_parts(
    model: Any, batch: Any, parts: Parts, states: Any, masks: Masks, trained: Arrays, *, fast: bool, **options: Any
) -> Step:
    """Return the step of a whole batch, the sum of those of its parts, on all ranks.

    `states` and the final states are those of the examples of this rank. `trained` are the parameters whose gradients
    are wanted.
    """
    batch = parts.check(model, batch)
    group, n = parts.group, len(parts.all(batch.size))
    rounds = -(-n // group.size)
    gradients: Any = Fast(group, trained) if fast else Ordered(group, trained, n)
    overlaps = fast and n >= group.size > 1 and options["segment_length"] is None  # all ranks do the same
    overlaps = overlaps and "ready" in inspect.signature(model.train_step).parameters
    losses, finals = [], []
    for number, part, own in parts.cut(model, batch):
        given = {name: s[:, own] for name, s in (states or {}).items()}
        own_masks = replace(masks, seed=(*masks.seed, number)) if n > 1 else masks  # not the same for all parts
        if overlaps and number + group.size >= n:
            options["ready"] = gradients.ready
        step = model.train_step(part, states=given or None, masks=own_masks, **options)
        gradients.add(step.gradients)
        losses.append(step.loss)
        finals.append(step.states)
    for _ in range(rounds - len(losses)):
        gradients.add(None)
    names = finals[0] if finals else ()
    joined = {name: ns.concat(model.xp, [one[name] for one in finals], axis=1) for name in names}
    return Step(_total_loss(group, losses, n, next(iter(trained.values()))), gradients.total(), joined)


def _total_loss(group: Group, losses: Sequence[Any], n: int, like: Array) -> Any:
    """Return the sum of the losses of all n parts, in their order."""
    if group.size == 1:
        rows: Any = [losses]
    else:
        xp, rounds, on_host = ns.namespace(like), -(-n // group.size), ns.is_on_host(like)
        padded = [*losses, *[0.0] * (rounds - len(losses))]
        keywords = {} if on_host else {"dtype": like.dtype, "device": ns.device(like)}
        rows = group.gather(xp.stack([xp.asarray(loss, **keywords) for loss in padded]))
        rows = rows.tolist() if on_host else [[rows[r, k] for k in range(rounds)] for r in range(group.size)]
    loss = 0.0
    for k in range(n):
        loss = loss + rows[k % group.size][k // group.size]
    return loss
