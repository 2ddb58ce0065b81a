"""The structures of XLA's foreign function interface, as in ``xla/ffi/api/c_api.h`` below ``jax.ffi.include_dir()``.

A 32-bit field that is followed by padding and never read stands for both.
"""

import numpy as np

from rnnx.engines.cpu.codegen.leaves import record

# What a handler is called with: the addresses of its arguments and results, which are buffers, and of its attributes.
FRAME = record(
    "size extension api context stage",
    "size_of_arguments extension_of_arguments n_arguments kinds_of_arguments arguments",
    "size_of_results extension_of_results n_results kinds_of_results results",
    "size_of_attributes extension_of_attributes n_attributes kinds_of_attributes names_of_attributes attributes",
)
BUFFER = record("size extension kind data")
SCALAR = record("kind value")  # an attribute that is a number: the address of its value
EXTENSION = record("size kind next metadata")  # of a frame that asks for metadata
_VERSION = [("size_of_version", "i8"), ("extension_of_version", "i8"), ("major", "i4"), ("minor", "i4")]
API = np.dtype([("size", "i8"), ("extension", "i8"), *_VERSION], align=True)
METADATA = np.dtype([("size", "i8"), *_VERSION, ("traits", "i4"), ("state", "i8")], align=True)


def offset(structure: np.dtype, name: str) -> int:
    """Return the offset of a field in bytes."""
    assert structure.fields is not None
    return int(structure.fields[name][1])
