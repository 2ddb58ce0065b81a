"""The passes of a layer as JAX functions. Dimensions: T steps, m examples, n units, n_x inputs.

XLA calls the compiled passes on its own buffers. Sequences are (T, m, n); nothing is transposed on the way.
"""

import secrets
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnx._core.arrays import Array
from rnnx.engines.cpu import xla
from rnnx.engines.cpu.descriptor.backward import BackwardPass
from rnnx.engines.cpu.descriptor.builder import PassKey
from rnnx.engines.cpu.descriptor.forward import ForwardPass
from rnnx.engines.cpu.descriptor.layout import Layout
from rnnx.engines.cpu.descriptor.stages import Pass

Arrays = Sequence[Array]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def run(key: PassKey, x: Array, s0: Arrays, parameters: Arrays, inputs: Arrays, lengths: Array | None) -> Any:
    """Return the first state of all steps (T, m, n), and the final states, each (m, n).

    `parameters` are in the order of the key, `lengths` pairs of 32-bit integers (m, 2), which are 64-bit integers.
    """
    return _forward(key, False, x, s0, parameters, inputs, lengths)[:2]


def _run_kept(key: PassKey, *given: Any) -> Any:
    x, _, parameters, inputs, lengths = given
    a, final, block = _without_derivative(partial(_forward, key, True))(*given)
    return (a, final), (block, x, parameters, inputs, lengths)


def _run_backward(key: PassKey, kept: Any, cotangents: Any) -> Any:
    return _without_derivative(partial(_backward, key))(*kept, *cotangents)


run.defvjp(_run_kept, _run_backward)


def _without_derivative(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose derivative is an error."""
    first = jax.custom_jvp(function)

    @first.defjvp
    def second(*_: Any) -> Any:
        raise NotImplementedError("second derivatives are not defined: rnnx computes first derivatives only")

    return first


def _forward(
    key: PassKey, keep: bool, x: Array, s0: Arrays, parameters: Arrays, inputs: Arrays, lengths: Array | None
) -> tuple[Array, tuple[Array, ...], Array]:
    """Return the first state of all steps, the final states, and what the job keeps."""
    job = ForwardPass(key, keep, (None,) * (1 + len(inputs)), only_first=True, borrows=True)
    shapes = [(key.m, job.units(name)) for name in key.cell.states]
    block, a = _call(job, [_block(job), (key.n_steps, *shapes[0])], [x, *inputs, *s0, *parameters], lengths)
    ends = zip(job.block.offsets, shapes, strict=False)
    return a, tuple([_part(block, at, shape, key.n_steps) for at, shape in ends]), block


def _backward(
    key: PassKey,
    block: Array,
    x: Array,
    parameters: Arrays,
    inputs: Arrays,
    lengths: Array | None,
    d: Array,
    d_final: Arrays,
) -> Any:
    """Return the gradients of x, the initial states, the parameters and the inputs."""
    cell, item = key.cell, key.dtype.itemsize
    forward = ForwardPass(key, True, (None,) * (1 + len(inputs)), only_first=True, borrows=True)
    time_major = Layout((item, d.shape[2] * item, key.m * d.shape[2] * item), True)
    job = BackwardPass(key, (time_major,) + (None,) * (len(cell.states) - 1), forward.kept_at, borrows=True)
    results = [_block(job), *(e.shape for e in inputs), x.shape]
    arrays = [block, x, *inputs, *parameters, *d_final, d]
    gradients, *d_inputs, dx = _call(job, results, arrays, lengths)
    views = [_view(gradients, *view) for view in job.block.views]
    named = dict(zip(job.block.names, views, strict=False))
    of_parameters = tuple([named["d" + name].reshape(p.shape) for name, p in zip(key.keys, parameters, strict=True)])
    return dx, tuple(views[len(job.block.names) :]), of_parameters, tuple(d_inputs), None


def _block(job: Any) -> tuple[int]:
    return (job.block.size // job.key.dtype.itemsize,)


def _part(block: Array, at: int, shape: tuple[int, ...], index: int = 0) -> Array:
    """Return an array of a block, from a byte on, or the `index`th of arrays of this shape there."""
    size = prod(shape)
    first = at // block.dtype.itemsize + index * size
    return block[first : first + size].reshape(shape)


def _view(block: Array, shape: tuple[int, ...], at: int, strides: tuple[int, ...] | None) -> Array:
    """Return a view, of a matrix if there are strides."""
    if strides is None:
        return _part(block, at, shape)
    (rows, columns), row = shape, strides[0] // block.dtype.itemsize
    first = at // block.dtype.itemsize
    end = first + (rows - 1) * row + columns
    return jnp.pad(block[first:end], (0, row - columns)).reshape(rows, row)[:, :columns]


def _call(job: Pass, shapes: Sequence[tuple[int, ...]], arrays: Arrays, lengths: Array | None) -> Arrays:
    """Call a pass; return its results, of these shapes."""
    called = xla.called(job)
    results = [jax.ShapeDtypeStruct(shape, job.key.dtype) for shape in shapes]
    results.append(jax.ShapeDtypeStruct((called.workspace,), jnp.uint8))
    call = jax.ffi.ffi_call(_target(), results, vmap_method="sequential")
    given = arrays if lengths is None else [*arrays, lengths]
    found: list[Array] = call(*given, record=np.int64(called.record))
    return found[:-1]


@lru_cache(maxsize=1)
def _target() -> str:
    """Return the name under which XLA knows the handler. Its calls are valid in this process only, and so is the name."""
    name = f"rnnx_{secrets.token_hex(8)}"
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(xla.handler()), platform="cpu")
    return name
