"""Environment variables that are read in every call."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

# `os.environ` encodes a name at every look-up, which takes a microsecond; its own dict has the names encoded.
_variables: Mapping[Any, Any] = getattr(os.environ, "_data", os.environ)


def variable(name: str) -> Callable[[], Any]:
    """Return a function that returns the encoded value of a variable at that time, or None; see `decoded`."""
    return partial(_variables.get, getattr(os.environ, "encodekey", str)(name))


def decoded(value: Any) -> str:
    """Return an encoded value as text, empty for None."""
    return str(getattr(os.environ, "decodevalue", str)(value)) if value else ""
