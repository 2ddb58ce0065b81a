"""The passes of one layer in one direction, on tensors and without autograd.

Dimensions: T steps, m examples, n units of a state, n_x inputs. As in torch, sequences are (T, m, n).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from rnnx._core import arrays as ns
from rnnx.functional.caches import Caches
from rnnx.functional.recurrent import recurrent_backward, recurrent_forward
from rnnx.interop.torch.tensors import in_torchs_place, to_array, to_tensor
from rnnx.interop.torch.weights import registered

Tensors = list[torch.Tensor]
Optional = torch.Tensor | None


class Arguments(NamedTuple):
    """The tensors of a forward pass."""

    x: torch.Tensor  # (T, m, n_x), or (T, m) indices
    s0: Sequence[torch.Tensor]  # (m, n) per state
    weights: Sequence[torch.Tensor]
    inputs: Mapping[str, torch.Tensor] = {}  # (T, m, n) or (T, m)
    lengths: Optional = None  # (m,)
    resets: Optional = None  # (T, m)


class Gradients(NamedTuple):
    """The gradients of the arguments."""

    x: Optional  # None for indices
    s0: Tensors
    weights: Tensors
    inputs: Tensors


def forward(name: str, given: Arguments, *, keep: bool) -> tuple[Tensors, Tensors, Caches]:
    """Run a layer, whose weights are registered as `name`; return all states (T, m, n), final states (m, n), caches."""
    weights = registered(name)
    x = to_array(given.x)
    s0 = [to_array(s).T for s in given.s0]
    inputs = {key: to_array(value).T for key, value in given.inputs.items()}
    lengths, resets = (None if tensor is None else to_array(tensor).T for tensor in (given.lengths, given.resets))
    with in_torchs_place(given.x):
        xp = ns.namespace(x)
        parameters = weights.parameters(xp, [to_array(w) for w in given.weights])
        states, _, caches = recurrent_forward(
            weights.cell, x.T, s0, parameters, lengths=lengths, inputs=inputs, resets=resets, keep_caches=keep
        )
        final = [to_tensor(ns.contiguous(xp, s.T)) for s in caches.final_state.values()]
        return [to_tensor(s.T) for s in states], final, caches


def backward(name: str, caches: Caches, ds: Sequence[Optional], ds_final: Sequence[Optional]) -> Gradients:
    """Return the gradients of `forward`, given the cotangents of its states; None means zeros."""
    weights = registered(name)
    given = [d for d in (*ds, *ds_final) if d is not None]
    of_all, of_final = ([None if d is None else to_array(d).T for d in group] for group in (ds, ds_final))
    with in_torchs_place(given[0]):
        found = recurrent_backward(weights.cell, of_all, caches, ds_final=of_final)
        ds0 = [found[f"d{state}0"].T for state in weights.cell.states]
        xp = ns.namespace(ds0[0])
        dx = to_tensor(found["dx"].T) if "dx" in found else None
        s0 = [to_tensor(ns.contiguous(xp, d)) for d in ds0]
        of_weights = [to_tensor(d) for d in weights.gradients(xp, found)]
        return Gradients(dx, s0, of_weights, [to_tensor(found[f"d{name}"].T) for name in caches.inputs])
