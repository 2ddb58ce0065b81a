"""A layer in one direction as a differentiable function of tensors: eagerly, and as operators for compiled programs."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rnnx.interop.torch import operators, passes
from rnnx.interop.torch.operators import NO_SECOND
from rnnx.interop.torch.passes import Arguments, Optional, Tensors
from rnnx.interop.torch.weights import registered


def run(
    name: str,
    x: torch.Tensor,
    s0: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    inputs: Mapping[str, torch.Tensor] | None = None,
    lengths: Optional = None,
    resets: Optional = None,
) -> tuple[Tensors, Tensors]:
    """Run a layer whose weights are registered as `name`; return all states, each (T, m, n), and the final ones."""
    given = inputs or {}
    tensors = (x, *s0, *weights, *given.values())
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if torch.compiler.is_compiling():
        return operators.run(name, Arguments(x, s0, weights, given, lengths, resets), keep=keep)
    if not keep:
        return passes.forward(name, Arguments(x, s0, weights, given, lengths, resets), keep=False)[:2]
    found = Pass.apply(name, lengths, resets, tuple(given), *tensors)
    n = len(s0)
    return list(found[:n]), list(found[n:])


class Pass(torch.autograd.Function):
    """The passes under autograd."""

    @staticmethod
    def forward(ctx: Any, name: str, lengths: Optional, resets: Optional, keys: Any, *tensors: torch.Tensor) -> Any:
        n, n_inputs = len(registered(name).cell.states), len(keys)
        of_inputs = tensors[len(tensors) - n_inputs :]
        weights = tensors[n + 1 : len(tensors) - n_inputs]
        inputs = dict(zip(keys, of_inputs, strict=True))
        given = Arguments(tensors[0], tensors[1 : n + 1], weights, inputs, lengths, resets)
        outputs, final, ctx.caches = passes.forward(name, given, keep=True)
        ctx.name = name
        ctx.set_materialize_grads(False)
        return (*outputs, *final)

    @staticmethod
    def backward(ctx: Any, *cotangents: Optional) -> Any:
        n = len(cotangents) // 2
        if all(d is None for d in cotangents):
            return (None,) * len(ctx.needs_input_grad)
        found = passes.backward(ctx.name, ctx.caches, cotangents[:n], cotangents[n:])
        gradients = (found.x, *found.s0, *found.weights, *found.inputs)
        if torch.is_grad_enabled():  # create_graph=True
            gradients = First.apply(torch.zeros((), requires_grad=True), *gradients)
        return (None, None, None, None, *gradients)


class First(torch.autograd.Function):
    """First derivatives, which have none of their own."""

    @staticmethod
    def forward(ctx: Any, _: torch.Tensor, *gradients: Optional) -> tuple[Optional, ...]:
        return gradients

    @staticmethod
    def backward(ctx: Any, *_: Optional) -> Any:
        raise NotImplementedError(NO_SECOND)
