"""The passes of one layer in one direction, on tensors and without autograd.

Dimensions: T steps, m examples, n units of a state, n_x inputs. As in torch, sequences are (T, m, n).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.kinds import Table, kinds
from rnnx.functional import prepared, signatures
from rnnx.functional.caches import Caches
from rnnx.functional.recurrent import recurrent_backward
from rnnx.functional.signatures import Signature
from rnnx.interop.torch.tensors import in_torchs_place, to_array, to_tensor
from rnnx.interop.torch.weights import Weights, registered

Tensors = list[torch.Tensor]
Optional = torch.Tensor | None


class Arguments(NamedTuple):
    """The tensors of a forward pass."""

    x: torch.Tensor  # (T, m, n_x), or (T, m) indices
    s0: Sequence[Optional]  # (m, n) per state; None for zeros
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


def forward(name: str, given: Arguments, *, keep: bool) -> tuple[torch.Tensor, Tensors, Caches]:
    """Run a layer, whose weights are registered as `name`.

    Returns
    -------
    out : (T, m, n)
        The first state after each step.
    final : (m, n) per state
    caches : for `backward`, if `keep`
    """
    with in_torchs_place(given.x):
        (out, *_), caches = _forward(registered(name), name, given, keep)
        tape = caches._live()
        if tape.conversion is None:
            final = [ns.owned_copy(tape.xp, s) for s in tape.final]
        else:
            final = [ns.contiguous(tape.xp, s.T) for s in caches.final_state.values()]
        return to_tensor(out.T), [to_tensor(s) for s in final], caches


_signatures: Table[Signature] = Table()


def _forward(weights: Weights, name: str, given: Arguments, keep: bool) -> tuple[tuple[Array, ...], Caches]:
    """Do what `recurrent_forward` does, with one look at the weights as torch has them instead of one at each view."""
    x, s0 = to_array(given.x).T, [None if s is None else to_array(s).T for s in given.s0]
    stacked = [to_array(w) for w in given.weights]
    inputs = {key: to_array(value).T for key, value in given.inputs.items()}
    lengths, resets = (None if tensor is None else to_array(tensor).T for tensor in (given.lengths, given.resets))
    xp = ns.namespace(x)
    arrays, parameters = [x, *[s for s in s0 if s is not None], *inputs.values()], weights.parameters(xp, stacked)
    key: Any = kinds((*arrays, *stacked))
    key = key and (name, tuple([s is None for s in s0]), tuple(inputs), key)
    found = _signatures.find(key)
    if found is None:
        found, _ = signatures.signature(weights.cell, x, s0, parameters, inputs)
        _signatures.add(key, found)
    every = (*arrays, *parameters.values()) if key else ()
    return prepared.run(found, every, x, s0, parameters, inputs, lengths, resets, keep, only_first=True)[:2]


def backward(name: str, caches: Caches, d_out: Optional, d_final: Sequence[Optional]) -> Gradients:
    """Return the gradients of `forward`, given the cotangents of its states; None means zeros."""
    weights = registered(name)
    given = next(d for d in (d_out, *d_final) if d is not None)
    of_out, *of_final = [None if d is None else to_array(d).T for d in (d_out, *d_final)]
    with in_torchs_place(given):
        found = recurrent_backward(weights.cell, (of_out,), caches, ds_final=of_final)
        ds0 = [found[f"d{state}0"].T for state in weights.cell.states]
        xp = ns.namespace(ds0[0])
        dx = to_tensor(found["dx"].T) if "dx" in found else None
        s0 = [to_tensor(ns.contiguous(xp, d)) for d in ds0]
        of_weights = [to_tensor(d) for d in weights.gradients(xp, found)]
        return Gradients(dx, s0, of_weights, [to_tensor(found[f"d{name}"].T) for name in caches.inputs])
