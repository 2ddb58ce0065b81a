"""The passes as torch operators, ``rnnx::forward`` and ``rnnx::backward``, for torch.compile and torch.export.

An operator takes and returns tensors only, so the tape that a backward pass needs is among the results, in the order of
`_tape_shapes`. Eager code uses `autograd.Pass` instead, which keeps the caches and costs less per call.
"""

from collections.abc import Sequence
from typing import Any

import torch

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx.cells.options import with_options
from rnnx.cells.parameters import recurrent_parameters
from rnnx.engines.protocol import Call, Tape
from rnnx.functional import schedule
from rnnx.functional.caches import Caches
from rnnx.interop import NO_SECOND
from rnnx.interop.torch import passes
from rnnx.interop.torch.passes import Arguments, Optional, Tensors
from rnnx.interop.torch.tensors import to_array, to_tensor
from rnnx.interop.torch.weights import registered

_LIBRARY = torch.library.Library("rnnx", "DEF")
_ARGUMENTS = (
    "str name, Tensor x, Tensor[] s0, Tensor[] weights, Tensor[] inputs, str[] keys, Tensor? lengths, Tensor? resets"
)
_LIBRARY.define(f"forward({_ARGUMENTS}, bool keep) -> Tensor[]")
_LIBRARY.define(f"backward({_ARGUMENTS}, Tensor[] tape, Tensor?[] ds) -> Tensor[]")


def run(name: str, given: Arguments, *, keep: bool) -> tuple[torch.Tensor, Tensors]:
    """Do what `autograd.run` does."""
    x, s0, weights, inputs, lengths, resets = given
    arguments = list(s0), list(weights), list(inputs.values()), list(inputs), lengths, resets
    results = torch.ops.rnnx.forward(name, x, *arguments, keep)
    return results[0], results[1 : 1 + len(s0)]


def _arguments(
    x: torch.Tensor,
    s0: Tensors,
    weights: Tensors,
    inputs: Tensors,
    keys: Sequence[str],
    lengths: Optional,
    resets: Optional,
) -> Arguments:
    return Arguments(x, s0, weights, dict(zip(keys, inputs, strict=True)), lengths, resets)


def _forward(name: str, x: torch.Tensor, *rest: Any) -> Tensors:
    *given, keep = rest
    out, final, caches = passes.forward(name, _arguments(x, *given), keep=keep)
    if not keep:
        return [out, *final]
    tape = caches.tape_for(registered(name).cell)
    return [out, *final, *(to_tensor(a) for a in (*tape.states, *(tape.saved or ()), tape.x, *tape.inputs))]


def _backward(name: str, x: torch.Tensor, *rest: Any) -> Tensors:
    *given, tape, ds = rest
    arguments = _arguments(x, *given)
    found = passes.backward(name, _caches(name, arguments, tape), ds[0], ds[1:])
    return [*([] if found.x is None else [found.x]), *found.s0, *found.weights, *found.inputs]


def _caches(name: str, given: Arguments, tensors: Tensors) -> Caches:
    """Return the caches of a forward pass, given the tensors of its tape."""
    weights = registered(name)
    cell = weights.cell if given.resets is None else with_options(weights.cell, resets=True)
    n, n_saved = len(cell.states), len(cell.saved)
    arrays = [to_array(tensor) for tensor in tensors]
    states, saved, x, inputs = arrays[:n], arrays[n : n + n_saved], arrays[n + n_saved], arrays[n + n_saved + 1 :]
    xp, indices = ns.namespace(x), x.ndim == 2
    parameters = weights.parameters(xp, [to_array(w) for w in given.weights])
    lengths = None if given.lengths is None else to_array(given.lengths)
    split = (gate.split(parameters, states[0].shape[2])[0] for gate in cell.gates)
    n_x = next((w_x.shape[1] for w_x in split if w_x is not None), 0) if indices else x.shape[2]
    call = Call(cell, xp, x.dtype, x, indices, n_x, tuple(states), parameters, lengths)
    own = recurrent_parameters(cell, schedule.with_hoisted(call).parameters)
    tape = Tape(
        cell, xp, states[0].dtype, x, indices, n_x, tuple(states), tuple(saved), lengths, own, None, tuple(inputs)
    )
    tape.sources = {key: parameters[key] for key in cell.hoisted.sources} if cell.hoisted else {}
    engine = engines.select(xp, n_steps=x.shape[0], m=x.shape[1])
    caches = Caches(engine, tape, x, parameters, weights.cell)
    caches.inputs = {key: value.dim() for key, value in given.inputs.items()}
    return caches


def _fake_forward(name: str, x: torch.Tensor, *rest: Any) -> Tensors:
    """Return tensors of the shapes and dtypes that `_forward` returns."""
    *given, keep = rest
    arguments = _arguments(x, *given)
    s0: Any = arguments.s0
    resets = arguments.resets
    n_steps, m = x.shape[:2]

    def made(*shape: Any, of: torch.Tensor = s0[0]) -> torch.Tensor:
        return of.new_empty(shape)

    results = [made(n_steps, m, s0[0].shape[1])] + [made(m, s.shape[1]) for s in s0]
    if not keep:
        return results
    cell, n_a = registered(name).cell, s0[0].shape[1]
    cell = cell if resets is None else with_options(cell, resets=True)
    results += [made(n_steps + 1, m, s.shape[1]) for s in s0]
    results += [made(n_steps, m, cell.size(key, n_a)) for key in cell.saved]
    results.append(made(*x.shape, of=arguments.x))
    return results + [made(n_steps, m, cell.size(key, n_a)) for key in cell.inputs]


def _fake_backward(name: str, x: torch.Tensor, *rest: Any) -> Tensors:
    _, s0, weights, inputs, *_ = _arguments(x, *rest[:-2])
    of_x = [torch.empty_like(x, memory_format=torch.contiguous_format)] if x.is_floating_point() else []
    rest_of: Any = (*s0, *weights, *inputs.values())
    return [*of_x, *(torch.empty_like(a, memory_format=torch.contiguous_format) for a in rest_of)]


def _keep_tape(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
    """Save what the backward pass of autograd needs."""
    name, x, s0, weights, extra, keys, lengths, resets, _ = inputs
    n = len(s0)
    tape = output[1 + n :]
    ctx.mark_non_differentiable(*tape)
    ctx.set_materialize_grads(False)
    ctx.sizes, ctx.constants = (n, len(weights), len(extra), lengths is not None, resets is not None), (name, keys)
    optional = [tensor for tensor in (lengths, resets) if tensor is not None]
    ctx.save_for_backward(x, *s0, *weights, *extra, *optional, *tape)


def _autograd(ctx: Any, d_results: Sequence[Optional]) -> tuple[Any, ...]:
    (n, n_weights, n_inputs, has_lengths, has_resets), (name, keys) = ctx.sizes, ctx.constants
    tensors = iter(ctx.saved_tensors)
    x = next(tensors)
    s0, weights, inputs = ([next(tensors) for _ in range(count)] for count in (n, n_weights, n_inputs))
    lengths, resets = (next(tensors) if given else None for given in (has_lengths, has_resets))
    ds = list(d_results[: 1 + n])
    found = torch.ops.rnnx.backward(name, x, s0, weights, inputs, keys, lengths, resets, list(tensors), ds)
    dx = found.pop(0) if x.is_floating_point() else None
    of_keys: Any = None if keys else []  # torch takes an empty list for one of tensors
    return None, dx, found[:n], found[n : n + n_weights], found[n + n_weights :], of_keys, None, None, None


def _no_second(ctx: Any, *_: Any) -> None:
    raise NotImplementedError(NO_SECOND)


for _key in ("CPU", "CUDA"):
    _LIBRARY.impl("forward", _forward, _key)
    _LIBRARY.impl("backward", _backward, _key)
torch.library.register_fake("rnnx::forward", _fake_forward, lib=_LIBRARY)
torch.library.register_fake("rnnx::backward", _fake_backward, lib=_LIBRARY)
torch.library.register_autograd("rnnx::forward", _autograd, setup_context=_keep_tape, lib=_LIBRARY)
torch.library.register_autograd("rnnx::backward", _no_second, lib=_LIBRARY)
