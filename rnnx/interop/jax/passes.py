"""The passes of a layer as JAX functions. Dimensions: T steps, m examples, n units, n_x inputs.

XLA calls the compiled passes on its own buffers. Arrays never change in JAX, so the backward pass reads those that the
forward pass has read. Sequences are (T, m, n): nothing is transposed or copied on the way.
"""

import secrets
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values

from rnnx._core.arrays import Array
from rnnx.engines.cpu import xla
from rnnx.engines.cpu.descriptor.backward import BackwardPass
from rnnx.engines.cpu.descriptor.builder import PassKey
from rnnx.engines.cpu.descriptor.forward import ForwardPass
from rnnx.engines.cpu.descriptor.layout import Layout
from rnnx.engines.cpu.descriptor.stages import Pass
from rnnx.engines.cpu.runtime.thread_policy import use_limit
from rnnx.interop import NO_SECOND

Shape = tuple[int, ...]


class Layer(NamedTuple):
    """What calls of the same kind share."""

    key: PassKey
    threads: int  # at most


class Given(NamedTuple):
    """The arrays of a call."""

    x: Array  # (T, m, n_x)
    s0: tuple[Array, ...]  # (m, n)
    parameters: tuple[Array, ...]  # in the order of the key
    inputs: tuple[Array, ...]  # (T, m, n)
    lengths: Array | None  # (m, 2), the halves of 64-bit integers


class Kept(NamedTuple):
    """What a forward pass leaves for the backward pass."""

    block: Array
    given: Given
    wants_dx: Array  # of shape (1,) if so, else (0,): JAX may trace this pass once for several derivatives


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(layer: Layer, given: Given) -> tuple[Array, tuple[Array, ...]]:
    """Return the first state of all steps (T, m, n), and the final states, each (m, n)."""
    return _forward(layer, False, given)[:2]


def _run_kept(layer: Layer, given: Any) -> Any:
    values = custom_vjp_primal_tree_values(given)
    *results, block = _once_differentiable(partial(_forward, layer, True))(values)
    return tuple(results), Kept(block, values, jnp.zeros(int(given.x.perturbed)))


def _run_backward(layer: Layer, kept: Kept, cotangents: Any) -> Any:
    d, d_final = cotangents
    return _once_differentiable(partial(_backward, layer))(
        kept,
        None if isinstance(d, SymbolicZero) else d,
        tuple([jnp.zeros(d.shape, d.dtype) if isinstance(d, SymbolicZero) else d for d in d_final]),
    )


_run.defvjp(_run_kept, _run_backward, symbolic_zeros=True)
run = jax.jit(_run, static_argnums=(0,), inline=True)


def _once_differentiable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a part of a derivative, whose own derivative is an error."""
    first = jax.custom_jvp(function)

    @first.defjvp
    def second(*_: Any) -> Any:
        raise NotImplementedError(NO_SECOND)

    return first


def _forward(layer: Layer, keep: bool, given: Given) -> tuple[Array, tuple[Array, ...], Array]:
    """Return the first state of all steps, the final states, and the block of the job."""
    key, job = layer.key, _forward_pass(layer.key, keep)
    shapes = [(key.m, job.units(name)) for name in key.cell.states]
    arrays = (given.x, *given.inputs, *given.s0, *given.parameters)
    block, a = _call(layer, job, [_shape(job), (key.n_steps, *shapes[0])], arrays, given.lengths)
    steps = [0 if k in job.latest else key.n_steps for k in range(len(shapes))]
    ends = zip(job.block.offsets, shapes, steps, strict=False)
    return a, tuple([_part(block, *end) for end in ends]), block


def _forward_pass(key: PassKey, keep: bool) -> Any:
    return ForwardPass(key, keep, (None,) * (1 + len(key.cell.inputs)), only_first=True, borrows=True)


def _backward(layer: Layer, kept: Kept, d: Array | None, d_final: tuple[Array, ...]) -> tuple[Given]:
    """Return the gradients of what was given."""
    key, (block, given, wants_dx) = layer.key, kept
    n_states, n, item = len(key.cell.states), d_final[0].shape[1], key.dtype.itemsize
    layout = None if d is None else Layout((item, n * item, key.m * n * item), True)
    kept_at = _forward_pass(key, True).kept_at
    has_dx = wants_dx.size > 0
    job = BackwardPass(key, (layout,) + (None,) * (n_states - 1), kept_at, borrows=True, has_dx=has_dx)
    shapes = [_shape(job), *(e.shape for e in given.inputs), *([given.x.shape] if has_dx else [])]
    arrays = (block, given.x, *given.inputs, *given.parameters, *d_final, *([] if d is None else [d]))
    gradients, *sequences = _call(layer, job, shapes, arrays, given.lengths)
    dx = sequences.pop() if has_dx else None
    views = [_view(gradients, *view) for view in job.block.views]
    named = dict(zip(job.block.names, views, strict=False))
    pairs = zip(key.keys, given.parameters, strict=True)
    of_parameters = tuple([named["d" + name].reshape(value.shape) for name, value in pairs])
    return (Given(dx, tuple(views[len(job.block.names) :]), of_parameters, tuple(sequences), None),)


def _shape(job: Any) -> Shape:
    """Return the shape of the memory of a job's block."""
    return (job.block.size // job.key.dtype.itemsize,)


def _part(block: Array, at: int, shape: Shape, index: int = 0) -> Array:
    """Return the array of this shape at byte `at` of a block, or the one `index` places after it."""
    size = prod(shape)
    first = at // block.dtype.itemsize + index * size
    return block[first : first + size].reshape(shape)


def _view(block: Array, shape: Shape, at: int, strides: Shape | None) -> Array:
    """Return an array of a block, with strides columns of a matrix."""
    if strides is None:
        return _part(block, at, shape)
    row = strides[0] // block.dtype.itemsize
    whole = jnp.pad(block, (0, row))  # the last row may end after the block
    return _part(whole, at, (shape[0], row))[:, : shape[1]]


def _call(layer: Layer, job: Pass, shapes: Sequence[Shape], arrays: Sequence[Array], lengths: Array | None) -> Any:
    """Call a pass; return its results, of these shapes."""
    with use_limit(layer.threads):
        called = xla.called(job)
    results = [jax.ShapeDtypeStruct(shape, layer.key.dtype) for shape in shapes]
    results.append(jax.ShapeDtypeStruct((called.workspace,), jnp.uint8))
    call = jax.ffi.ffi_call(_target(), results, vmap_method="sequential")
    given = arrays if lengths is None else (*arrays, lengths)
    return call(*given, record=np.int64(called.record))[:-1]


@lru_cache(maxsize=1)
def _target() -> str:
    """Return XLA's name of the handler, which is a new one in every process, as are the addresses in its calls."""
    name = f"rnnx_{secrets.token_hex(8)}"
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(xla.handler()), platform="cpu")
    return name
