"""Recurrent layers for JAX arrays on the CPU, on the compiled engine of rnnx. Requires jax."""

from rnnx.interop.jax.recurrent import recurrent

__all__ = ["recurrent"]
