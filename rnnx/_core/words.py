"""The values in messages."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def shown(value: Any) -> str:
    """Return a value's representation for a message: on one line, and at most 60 characters long."""
    return re.sub(r"\s*\n\s*", " ", repr(value))[:60]


def line(error: object) -> str:
    """Return an error about the content of a file as one line of at most 300 printable characters."""
    text = str(error)
    return (text if text.isprintable() else repr(text)[1:-1])[:300]


@contextmanager
def in_words_of_the_caller(names: Mapping[str, str]) -> Iterator[None]:
    """Replace the names of arguments in errors by those that the caller knows."""
    try:
        yield
    except (TypeError, ValueError, FloatingPointError) as error:
        words = str(error)
        for ours, theirs in names.items():
            words = words.replace(ours, theirs)
        if words == str(error):
            raise
        kind = next(one for one in (TypeError, FloatingPointError, ValueError) if isinstance(error, one))
        raise kind(words) from None
