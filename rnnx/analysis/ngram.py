"""A character n-gram model, the baseline for recurrent models.

Interpolated Witten-Bell smoothing (I. Witten, T. Bell, IEEE Trans. Inf. Theory 37 (1991)). Let c(h) be the number of
characters that follow the context h in training, d(h) the number of distinct ones, and h' the context without its
first character:

    p(x | h) = (c(h x) + d(h) p(x | h')) / (c(h) + d(h)).

The recursion ends with a uniform distribution over all characters.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator

from rnnx._core import checks
from rnnx.data import Dataset


class NGram:
    """Character n-gram model.

    Parameters
    ----------
    order : int
        A prediction uses at most `order` - 1 preceding characters of the same sequence.
    vocab_size : int

    See Also
    --------
    rnnx.models.CharModel, rnnx.training.evaluate

    Examples
    --------
    >>> from rnnx.analysis import NGram
    >>> from rnnx.data import dinosaur_names, make_corpus
    >>> corpus = make_corpus("dinosaurs", dinosaur_names())
    >>> model = NGram(4, corpus.tokenizer.vocab_size).fit(corpus.train)
    >>> [round(loss, 1) for loss in model.losses(corpus.validation)]  # what a network has to beat
    [3.1, 2.3, 2.0, 1.9]
    """

    def __init__(self, order: int, vocab_size: int) -> None:
        self.order, self.vocab_size = checks.integer("order", order), checks.integer("vocab_size", vocab_size)
        self._counts: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        self._totals: dict[tuple[int, ...], tuple[int, int]] = {}

    def fit(self, dataset: Dataset) -> "NGram":
        """Count the n-grams of a dataset."""
        for inputs, target in _positions(dataset, self.order):
            for length in range(len(inputs) + 1):
                self._counts[inputs[len(inputs) - length :]][target] += 1
        self._totals = {context: (sum(c.values()), len(c)) for context, c in self._counts.items()}
        return self

    def losses(self, dataset: Dataset) -> list[float]:
        """Return the losses on a dataset, in nats per character, for orders 1 to `order`."""
        sums, n = [0.0] * self.order, 0
        for inputs, target in _positions(dataset, self.order):
            p = 1 / self.vocab_size
            for length in range(self.order):
                if length <= len(inputs):
                    context = inputs[len(inputs) - length :]
                    total, kinds = self._totals.get(context, (0, 0))
                    if total:
                        p = (self._counts[context][target] + kinds * p) / (total + kinds)
                sums[length] -= math.log(p)
            n += 1
        return [s / max(n, 1) for s in sums]


def _positions(dataset: Dataset, order: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """Yield every target of the dataset with its at most order - 1 preceding characters."""
    checks.check_methods("dataset", dataset, "a dataset of characters from rnnx.data", "batches")
    row: tuple[int, ...] = ()
    for batch in dataset.batches(1):  # with batch size 1, streams are the whole text in order
        for inputs, targets in batch.rows():
            before = row[len(row) - order + 1 :] if batch.continues and order > 1 else ()
            row = before + tuple(inputs.tolist())
            for t, target in enumerate(targets.tolist(), start=len(before)):
                yield row[max(0, t + 2 - order) : t + 1] if order > 1 else (), target
