"""The values in messages."""

import re
from typing import Any


def shown(value: Any) -> str:
    """Return a value's representation for a message: on one line, and at most 60 characters long."""
    return re.sub(r"\s*\n\s*", " ", repr(value))[:60]


def line(error: object) -> str:
    """Return an error about the content of a file as one line of at most 300 printable characters."""
    text = str(error)
    return (text if text.isprintable() else repr(text)[1:-1])[:300]
