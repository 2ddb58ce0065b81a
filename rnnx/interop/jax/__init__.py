"""Recurrent passes on JAX arrays, on the compiled CPU engine of rnnx. Requires jax."""

from rnnx.engines import registry

registry.require("cpu")

from rnnx.interop.jax.recurrent import recurrent  # noqa: E402

__all__ = ["recurrent"]
