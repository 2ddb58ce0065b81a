"""The values in messages."""

import re
from typing import Any


def shown(value: Any) -> str:
    """Return a value's representation for a message: on one line, and at most 60 characters long."""
    return re.sub(r"\s*\n\s*", " ", repr(value))[:60]
