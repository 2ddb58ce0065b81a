"""Training on long sequences in segments, whose states are recomputed in the backward pass."""

import math
from dataclasses import replace
from typing import Any

from rnnx.data import Batch
from rnnx.models.extra import with_steps
from rnnx.models.layers import Parameters, States
from rnnx.models.masks import Masks


def square_root_segments(n_steps: int) -> int:
    """Return the `segment_length` that needs the least memory for sequences of n_steps steps.

    See Also
    --------
    CharModel, rnnx.training.Trainer

    Examples
    --------
    >>> from rnnx.models import square_root_segments
    >>> length = square_root_segments(10_000)
    >>> length, 10_000 // length + length  # states in memory at a time, instead of 10,000
    (100, 200)
    """
    return max(1, math.isqrt(max(n_steps - 1, 0)) + 1)


def train_in_segments(
    model: Any, batch: Any, states: States, masks: Masks | None, length: int, loss_scale: Any = None
) -> tuple[Any, Parameters, States]:
    """Return the loss, gradients and final states of a batch, in the memory of one segment and all initial states."""
    batch = replace(batch, extra=with_steps(model.stack.cell, batch.extra or {}, batch.inputs))
    parts = _segments(model, batch, masks, length)
    before = [model.checked_states(states, batch.inputs.shape[-2])]
    for part, there in parts[:-1]:
        x = model.stack_inputs(part.inputs)
        options = model.ends(part), there, False, model.extra_arrays(part.extra)
        before.append(model.stack.run(model.parameters, x, before[-1], *options)[1])
    loss, gradients, final, ds_final = 0.0, Parameters(), States(), States()
    for (part, there), initial in zip(reversed(parts), reversed(before), strict=True):
        z, after, cache = model.run(part, initial, there, True)
        final = final or after
        part_loss, dz = model.compare(z, part)
        found = model.run_backward(scaled(dz, loss_scale), cache, ds_final=ds_final)
        loss += part_loss
        ds_final = {name: found[f"d{name}"] for name in model.stack.state_names}
        own = model.own_gradients(found)
        gradients = {key: gradients[key] + d for key, d in own.items()} if gradients else own
    return loss, gradients, final


def scaled(dz: Any, loss_scale: Any) -> Any:
    """Return the gradient of outputs, or those by head, times the scale of the loss."""
    if loss_scale is None:
        return dz
    return {name: d * loss_scale for name, d in dz.items()} if isinstance(dz, dict) else dz * loss_scale


def _segments(model: Any, batch: Any, masks: Masks | None, length: int) -> list[tuple[Batch, Masks | None]]:
    """Split a batch and its dropout masks into segments."""
    m, n_steps = batch.inputs.shape[-2:]
    pieces = [slice(t, min(t + length, n_steps)) for t in range(0, n_steps, length)]
    return [
        (model.part(batch, slice(0, m), steps), None if masks is None else masks.at(masks.start + steps.start))
        for steps in pieces
    ]
