"""Environment variables that are read in every call."""

import os
from collections.abc import Callable, Mapping
from typing import Any

# `os.environ` encodes a name at every look-up, which takes a microsecond; its own dict has the names encoded.
_variables: Mapping[Any, Any] = getattr(os.environ, "_data", os.environ)


def variable(name: str) -> Callable[[], str]:
    """Return a function that returns the value of a variable at that time; empty if it is not set."""
    key: Any = getattr(os.environ, "encodekey", str)(name)
    decode: Any = getattr(os.environ, "decodevalue", str)

    def value() -> str:
        found = _variables.get(key)
        return decode(found) if found else ""

    return value
