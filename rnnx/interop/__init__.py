"""The recurrent passes inside other frameworks: `rnnx.interop.torch` and `rnnx.interop.jax`."""

NO_SECOND = "rnnx computes first derivatives only: the backward pass of a recurrent layer has none of its own"
