"""Floating-point errors that do not matter, even if the caller has made NumPy warn or raise: results so small that they
become zero, results that are not used, and invalid lanes of a product past the last column.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np

F = TypeVar("F", bound=Callable[..., Any])


def ignore_harmless_errors(function: F) -> F:
    """Decorate a pure function whose small results may become zero, even if the caller has called ``np.seterr``.

    "Invalid value encountered in matmul" is ignored, too: with AVX-512 and 5 terms, OpenBLAS 0.3.31 also multiplies
    what happens to be in unused lanes of its registers. If a result is not a number, it is returned as such.
    """

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (FloatingPointError, RuntimeWarning) as error:  # to set the error state in every call would take longer
            ignored = _harmless(error)
        while True:
            try:
                with np.errstate(**ignored):
                    return function(*args, **kwargs)
            except (FloatingPointError, RuntimeWarning) as error:
                if _harmless(error).items() <= ignored.items():
                    raise
                ignored |= _harmless(error)

    return cast(F, wrapper)


def _harmless(error: Exception) -> dict[str, Any]:
    """Return the error state that ignores what may be harmless in an error."""
    invalid = {"invalid": "ignore"} if str(error) == "invalid value encountered in matmul" else {}
    return {"under": "ignore", **invalid}


def unused_errors(where: bool) -> AbstractContextManager[Any]:
    """Return a context that ignores floating-point errors if `where`: some of what NumPy computes is not used."""
    return np.errstate(divide="ignore", over="ignore", invalid="ignore") if where else nullcontext()
