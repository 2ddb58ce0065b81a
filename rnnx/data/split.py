"""Splits of a text into training and validation parts."""

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from rnnx._core.checks import integer
from rnnx.data.steps import Pieces

_NOTHING = "nothing held out"
_ROUNDING = 1e-9  # so that 0.29 of 100 is 29, although 0.29 * 100 is 28.999...


def split_lines(
    name: str, lines: Sequence[np.ndarray], seed: int, validation: float | None
) -> tuple[list[np.ndarray], str]:
    """Hold out random lines, keeping identical lines together.

    Return the numbers of the lines of the training set and, if `validation` is given, of the validation set, and a
    description.
    """
    if validation is None:
        return [np.arange(len(lines))], _NOTHING
    numbers = _numbers_of_equal(lines)
    distinct = int(numbers.max()) + 1
    if distinct < 2:
        raise ValueError(f"{name} must have at least 2 different lines, so that one can be held out; got 1")
    order = np.random.default_rng(seed).permutation(distinct)
    wanted = min(max(1, int(distinct * validation + _ROUNDING)), distinct - 1)
    ranks = np.argsort(order)[numbers]
    chosen, count = np.argsort(ranks, kind="stable"), int((ranks < wanted).sum())
    words = f"{count} of {len(lines)} lines held out at random"
    if distinct < len(lines):
        words += f", {wanted} of {distinct} different ones"
    return [chosen[count:], chosen[:count]], words


def _numbers_of_equal(lines: Sequence[np.ndarray]) -> np.ndarray:
    """Number the distinct lines in order of first appearance; return the number of every line.

    Lines are compared by 64-bit digests to save memory; a collision only puts two lines on the same side of the split.
    """
    digests = (hashlib.blake2b(line.tobytes(), digest_size=8).digest() for line in lines)
    keys = np.fromiter((int.from_bytes(digest, "big") for digest in digests), np.uint64, len(lines))
    _, firsts, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(firsts))[inverse]


def split_text(name: str, n: int, n_blocks: int, validation: float | None) -> tuple[list[Pieces], str]:
    """Hold out the end of every block of a text; return (start, stop) pieces as `split_lines` returns numbers."""
    n_blocks = integer("n_blocks", n_blocks)
    if validation is None:
        return [[(0, n)]], _NOTHING
    edges = [i * n // n_blocks for i in range(n_blocks + 1)]
    cuts = [stop - max(2, int((stop - start) * validation + _ROUNDING)) for start, stop in pairwise(edges)]
    train, held = list(zip(edges, cuts, strict=False)), list(zip(cuts, edges[1:], strict=True))
    if any(cut - start < 2 for start, cut in train):
        parts = "" if n_blocks == 1 else f" of each of {n_blocks} blocks"
        raise ValueError(f"{name} is too short to hold out {validation:g}{parts}: it has {n} characters")
    count = sum(stop - cut for cut, stop in held)
    if n_blocks == 1:
        return [train, held], f"last {count} of {n} characters held out"
    return [train, held], f"{count} of {n} characters held out, in {n_blocks} blocks spread evenly over the text"
