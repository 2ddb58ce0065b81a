"""The recurrent passes inside other frameworks: `rnnx.interop.torch`."""
