"""Floating-point errors that do not matter, even if the caller has made NumPy warn or raise: results so small that they
become zero, and results that are not used.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np

F = TypeVar("F", bound=Callable[..., Any])


def ignore_underflow(function: F) -> F:
    """Decorate a pure function whose small results may become zero, even if the caller has called ``np.seterr``."""

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (FloatingPointError, RuntimeWarning):  # to set the error state in every call would take longer
            pass
        with np.errstate(under="ignore"):
            return function(*args, **kwargs)

    return cast(F, wrapper)


def unused_errors(where: bool) -> AbstractContextManager[Any]:
    """Return a context that ignores floating-point errors if `where`: some of what NumPy computes is not used."""
    return np.errstate(divide="ignore", over="ignore", invalid="ignore") if where else nullcontext()
