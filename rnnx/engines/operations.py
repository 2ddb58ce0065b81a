"""The operations of a training step outside the recurrent layers: what an engine may do in one call, or one launch.

Their mathematics is written once, as a cell's is: as functions on the vocabulary, which the reference engine runs on
arrays, the CPU engine compiles and the GPU engine traces. An engine without `operations` uses the reference engine's.

Dimensions: n_y outputs, m examples, T steps.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from rnnx._core.arrays import Array

Arrays = tuple[Array, ...]

# An elementwise function, rule(ops, numbers, *arrays) -> tuple of results. `numbers` is a dict of named numbers, which
# it may only combine with arrays, not with each other; it may ask for a name (``"decay" in numbers``). Sums and
# products are rounded one by one, never contracted, so that results have the same bits on all engines.
Rule = Callable[..., tuple[Any, ...]]
Numbers = Mapping[str, Any]


class Statistic(NamedTuple):
    """A reduction over the n targets of a row."""

    reduction: str  # "sum", "maximum", or for classes "target": the value at the target, 0 if there is no such class
    function: Callable[..., Any]  # function(ops, *y, target, *statistics before) -> a value per target


class Loss(NamedTuple):
    """A mean over rows of n targets, each of which is compared with `parts` outputs, so that n_y = parts n.

    The first n outputs are the first ones of the targets, the next n the second ones. `y` are the outputs of one
    target, and `target` is a number; if targets are classes, a condition: whether this is the class.
    Every function takes `ops`, then y and target if it returns a value per target, then the statistics so far. With
    `kept`, the number of a statistic, `gradient` takes the values per target of that one in place of y, of one part.
    """

    of_classes: bool
    statistics: tuple[Statistic, ...]
    value: Callable[..., Any]  # value(ops, *statistics) -> the loss of a row
    gradient: Callable[..., tuple[Any, ...]]  # gradient(ops, *y, target, *statistics) -> its derivatives by y
    parts: int = 1
    kept: int | None = None

    def terms(self, n_y: int) -> int:
        """Return the number of terms of a row that the mean counts."""
        return 1 if self.of_classes else n_y // self.parts


class Operations(Protocol):
    """Operations on arrays of one library and device. They change no argument, except `out`.

    Some have a method ``softmax(y)``, the softmax along the first axis, or None for arrays that it does not take; or
    ``joined(arrays)``, which returns arrays (n,) of one dtype one after the other, in one launch; or
    ``once(rule, numbers, rows)``, which returns a function, or None for arrays that it does not take. The function
    writes what `elementwise` computes to all arrays of a row but the second: once, even if an interrupt comes and it is
    called again.
    """

    def elementwise(
        self, rule: Rule, numbers: Numbers, rows: Sequence[Arrays], out: Sequence[Arrays | None] | None = None
    ) -> list[Arrays]:
        """Return what a rule computes from each row of arrays of one shape and dtype.

        Parameters
        ----------
        rule : Rule
        numbers : mapping of str to float
            On a device, also arrays of shape (), so that the host need not know them.
        rows : sequence of tuple of array
        out : sequence of tuple of array, or None
            For each row, writable arrays for the results, which may be those of the row; None for new ones. Libraries
            that do not write to arrays make new ones.
        """

    def norm(self, arrays: Sequence[Array]) -> Array:
        """Return the norm of all elements of non-empty arrays, shape (), in the widest dtype; NaN if one is not finite.

        It does not overflow if the norm does not.
        """

    def loss(
        self, loss: Loss, y: Array, targets: Array, ends: Array | None, weights: Array | None = None
    ) -> tuple[Array, Array]:
        """Return the mean loss, shape (), and its gradient, like y.

        Parameters
        ----------
        loss : Loss
        y : array, shape (n_y, m, T)
        targets : array, shape (m, T), of integers; or (n, m, T), like y
            A class out of range is none of the classes.
        ends : array of int, shape (m,), or None
            Lengths; what is past them affects nothing, even if it is NaN.
        weights : array, shape (m, T), like y, or None
            Numbers of at least 0 for a weighted mean of the rows. A row of weight 0 is like one past the lengths; a
            mean of no rows is 0.
        """
