"""A layer in one direction as a differentiable function of tensors: eagerly, and as operators for compiled programs."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rnnx.interop import NO_SECOND
from rnnx.interop.torch import operators, passes
from rnnx.interop.torch.passes import Arguments, Optional, Tensors
from rnnx.interop.torch.weights import registered


def run(
    name: str,
    x: torch.Tensor,
    s0: Sequence[Optional],
    weights: Sequence[torch.Tensor],
    inputs: Mapping[str, torch.Tensor] | None = None,
    lengths: Optional = None,
    resets: Optional = None,
) -> tuple[torch.Tensor, Tensors]:
    """Run a layer whose weights are registered as `name`; return the first state (T, m, n), and the final ones."""
    given = inputs or {}
    tensors = (x, *s0, *weights, *given.values())
    keep = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
    if torch.compiler.is_compiling():
        return operators.run(name, Arguments(x, s0, weights, given, lengths, resets), keep=keep)
    if not keep:
        return passes.forward(name, Arguments(x, s0, weights, given, lengths, resets), keep=False)[:2]
    out, *final = Pass.apply(name, lengths, resets, tuple(given), *tensors)
    return out, final


class Pass(torch.autograd.Function):
    """The passes under autograd."""

    @staticmethod
    def forward(ctx: Any, name: str, lengths: Optional, resets: Optional, keys: Any, *tensors: Any) -> Any:
        n, n_inputs = len(registered(name).cell.states), len(keys)
        of_inputs = tensors[len(tensors) - n_inputs :]
        weights = tensors[n + 1 : len(tensors) - n_inputs]
        inputs = dict(zip(keys, of_inputs, strict=True))
        given = Arguments(tensors[0], tensors[1 : n + 1], weights, inputs, lengths, resets)
        out, final, ctx.caches = passes.forward(name, given, keep=True)
        ctx.name = name
        ctx.save_for_backward(*[tensor for tensor in tensors if tensor is not None and tensor.requires_grad])
        ctx.set_materialize_grads(False)
        return (out, *final)

    @staticmethod
    def backward(ctx: Any, d_out: Optional, *d_final: Optional) -> Any:
        if d_out is None and all(d is None for d in d_final):
            return (None,) * len(ctx.needs_input_grad)
        found = passes.backward(ctx.name, ctx.caches, d_out, d_final)
        all_of_them = (found.x, *found.s0, *found.weights, *found.inputs)
        needed = zip(all_of_them, ctx.needs_input_grad[4:], strict=True)
        gradients = tuple([d if is_needed else None for d, is_needed in needed])
        if torch.is_grad_enabled():  # create_graph=True
            sources = [d for d in (d_out, *d_final) if d is not None and d.requires_grad]
            gradients = First.apply(len(gradients), *gradients, *ctx.saved_tensors, *sources)
        return (None, None, None, None, *gradients)


class First(torch.autograd.Function):
    """First derivatives, which have none of their own. After them come the tensors that they depend on."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Optional) -> tuple[Optional, ...]:
        return tensors[:count]

    @staticmethod
    def backward(ctx: Any, *_: Optional) -> Any:
        raise NotImplementedError(NO_SECOND)
