"""Texts to learn: the built-in ones, files, and their split into a part to learn and a part held out."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import resources
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import overload

import numpy as np

from rnnx._core.checks import integer, real
from rnnx.data.batches import Dataset, Lines, Pieces, Streams, Windows
from rnnx.data.files import PIECE, EncodedText, bounds_of_lines, encode, encode_file, looks_like_list, open_text
from rnnx.data.files import read_text as read_text
from rnnx.data.tokenizer import NEWLINE, CharTokenizer

__all__ = [
    "CORPORA",
    "Corpus",
    "dinosaur_names",
    "encode_file",
    "make_corpus",
    "open_text",
    "python_prose",
    "read_text",
]

_ALL = "nothing held out"
_PATH_LENGTH = 300  # a shorter text without a newline may be a path by mistake
_ROUNDING = 1e-9  # so that a fraction of 0.29 of 100 is 29


@dataclass(frozen=True)
class Corpus:
    """A text as datasets for training and validation.

    Attributes
    ----------
    name : str
    by : str
        "lines", "windows" or "streams".
    tokenizer : CharTokenizer
    train, validation : Lines, Windows or Streams
        `validation` is None if nothing was held out.
    split : str
        In words, how the validation part was chosen: losses of different splits are not comparable.
    fingerprint : str
        SHA-256 of the text, so that a run that goes on can see that it is the same.
    """

    name: str
    by: str
    tokenizer: CharTokenizer
    train: Dataset
    validation: Dataset | None
    split: str
    fingerprint: str

    def summary(self) -> str:
        """One line: what there is to learn, what is held out, and how many characters there are to tell apart."""
        if self.by == "lines":
            size = f"{len(self.train)} lines"
        elif self.by == "windows":
            size = f"{len(self.train)} windows"
        else:
            size = f"{len(self.train)} characters in streams"
        return f"{self.name}: {size} to learn, {self.split}; {self.tokenizer.vocab_size} characters"


def dinosaur_names() -> str:
    """Genus names of dinosaurs, one per line."""
    return resources.files("rnnx").joinpath("data/texts/dinosaurs.txt").read_text(encoding="utf-8")


def python_prose() -> str:
    """Prose that comes with Python: the help texts on its language, in the order of their titles.

    About 465,000 characters. They are not the same in every version of Python: name it with a loss.

    Raises
    ------
    ValueError
        If this installation of Python has left them out.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ValueError("this installation of Python has no help texts (the module pydoc_data.topics)") from None
    return NEWLINE.join(topics[title] for title in sorted(topics))


CORPORA: dict[str, Callable[[], str]] = {
    "dinos": dinosaur_names,
    "dinosaurs": dinosaur_names,
    "pydoc": python_prose,
}


def make_corpus(
    name: str,
    text: str | Path,
    *,
    by: str = "auto",
    length: int = 64,
    seed: int = 0,
    validation: float | None = 0.1,
    split: str = "tail",
    n_blocks: int = 10,
    oov_token: str | None = None,
    min_count: int = 1,
    tokenizer: CharTokenizer | None = None,
) -> Corpus:
    """Datasets of a text.

    Parameters
    ----------
    name : str
        For messages and file names.
    text : str or Path
        A text, or, as a Path, a UTF-8 file of any size, which is read piece by piece.
    by : {"auto", "lines", "windows", "streams"}
        "lines": every non-empty line is a sequence, random ones of them are held out, equal ones together.
        "windows": the text is one sequence, cut into windows. "streams": it is one sequence, read in order,
        with states carried from batch to batch. "auto": lines if there are at least 20 of them, none longer
        than 64 characters and nine of ten not followed by a blank one; else windows.
    length : int
        Steps of a window, or of a batch of streams.
    seed : int
        For the choice of lines.
    validation : float or None
        Fraction that is held out (of lines: of those that differ), above 0 and below 1. None: nothing, as for a
        text to evaluate a model on.
    split : {"tail", "blocks"}
        What is held out of windows and streams. "tail": the end of the text. "blocks": the text is cut into
        `n_blocks` parts of equal size, and of each its end is held out. No target of one side has its input in
        the other: the first character after each cut is predicted by neither.
    n_blocks : int
    oov_token : str or None
        See `CharTokenizer`. No character of this text needs it, unless `min_count` makes some rare, and what
        never occurs in training is not learned: so there is none by default.
    min_count : int
        Characters that come less often become `oov_token`; newlines never.
    tokenizer : CharTokenizer, optional
        The one of a trained model, used as it is; without it, one is fitted to the text.

    Raises
    ------
    ValueError
        For arguments out of their range, a text that is too short to hold something out, a str that names a
        file, or a character that `tokenizer` does not know; for a file, as `open_text`.
    OSError
        If the file cannot be read.
    """
    _check_choices(by, split, validation, oov_token, min_count, tokenizer)
    with open_text(text) if isinstance(text, Path) else nullcontext(_Slices(text)) as pieces:
        if by == "auto":
            by = "lines" if looks_like_list(pieces) else "windows"
        if by == "lines" and split == "blocks":
            raise ValueError("`split` must be 'tail' for lines, of which random ones are held out; got 'blocks'")
        bounds = bounds_of_lines(pieces) if by == "lines" else None
        _check_size(name, pieces, bounds, validation)
        new = CharTokenizer(oov_token) if tokenizer is None else tokenizer
        encoded = encode(pieces, new, fit=tokenizer is None, lines=by == "lines", min_count=min_count)
    if bounds is not None:
        return _of_lines(name, encoded, *bounds, seed, validation)
    train, held_out, words = _cut(name, len(encoded.indices), 1 if split == "tail" else n_blocks, validation)
    kind = Windows if by == "windows" else Streams
    held = kind(encoded.indices, length, held_out) if held_out else None
    return Corpus(name, by, encoded.tokenizer, kind(encoded.indices, length, train), held, words, encoded.fingerprint)


def _check_choices(
    by: str,
    split: str,
    validation: float | None,
    oov_token: str | None,
    min_count: int,
    tokenizer: CharTokenizer | None,
) -> None:
    if by not in ("auto", "lines", "windows", "streams"):
        raise ValueError(f"`by` must be 'auto', 'lines', 'windows' or 'streams'; got {by!r}")
    if split not in ("tail", "blocks"):
        raise ValueError(f"`split` must be 'tail' or 'blocks'; got {split!r}")
    if validation is not None:
        real("validation", validation, "(0, 1)")
    if tokenizer is not None and (oov_token is not None or min_count != 1):
        raise ValueError("`oov_token` and `min_count` are for a new tokenizer; one was given")


def _check_size(
    name: str, pieces: Iterable[str], bounds: tuple[np.ndarray, np.ndarray] | None, validation: float | None
) -> None:
    if bounds is not None:
        n, least, unit, purpose = len(bounds[0]), 2, "line", " to train on one and hold one out"
    else:
        n, least, unit, purpose = len(list(islice(chain.from_iterable(pieces), 20))), 20, "character", ""
    if validation is None:
        least, purpose = (1, "") if bounds is not None else (2, "")
    if n < least:
        raise ValueError(f"{name} must have at least {least} {unit}{'s' * (least > 1)}{purpose}; got {n}")


class _Slices:
    """A text in memory, piece by piece; its line ends are newlines, as those of a file."""

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"`text` must be a str or a Path; got {type(text).__name__}")
        if len(text) < _PATH_LENGTH and NEWLINE not in text and os.path.isfile(text):
            raise ValueError(f"`text` must be a text, or the Path of a file; to read this file, pass Path({text!r})")
        self.text = text.replace("\r\n", NEWLINE).replace("\r", NEWLINE)

    def __iter__(self) -> Iterator[str]:
        return (self.text[at : at + PIECE] for at in range(0, len(self.text), PIECE))


class _LinesOf(Sequence[np.ndarray]):
    """Lines as views of the text's indices: a list of arrays would be larger than the text."""

    def __init__(self, indices: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> None:
        self.indices, self.starts, self.stops = indices, starts, stops

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, i: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, i: slice) -> "_LinesOf": ...
    def __getitem__(self, i: int | slice) -> "np.ndarray | _LinesOf":
        if isinstance(i, slice):
            return _LinesOf(self.indices, self.starts[i], self.stops[i])
        return self.indices[self.starts[i] : self.stops[i]]


def _of_lines(
    name: str, encoded: EncodedText, starts: np.ndarray, stops: np.ndarray, seed: int, validation: float | None
) -> Corpus:
    n = len(starts)
    newline = int(encoded.tokenizer.encode(NEWLINE)[0])

    def lines(chosen: np.ndarray) -> Lines:
        return Lines(_LinesOf(encoded.indices, starts[chosen], stops[chosen]), newline)

    if validation is None:
        return Corpus(name, "lines", encoded.tokenizer, lines(np.arange(n)), None, _ALL, encoded.fingerprint)
    numbers = _numbers_of_equal(_LinesOf(encoded.indices, starts, stops))
    different = int(numbers.max()) + 1
    if different < 2:
        raise ValueError(f"{name} must have at least 2 different lines to train on one and hold one out; got 1")
    order = np.random.default_rng(seed).permutation(different)
    wanted = min(max(1, int(different * validation + _ROUNDING)), different - 1)
    places = np.empty_like(order)
    places[order] = np.arange(different)
    places = places[numbers]  # of every line, that of its number in the random order
    chosen, count = np.argsort(places, kind="stable"), int((places < wanted).sum())
    words = f"{count} of {n} lines held out at random"
    if different < n:
        words += f", {wanted} of {different} different ones"
    train, held = lines(chosen[count:]), lines(chosen[:count])
    return Corpus(name, "lines", encoded.tokenizer, train, held, words, encoded.fingerprint)


def _numbers_of_equal(lines: Sequence[np.ndarray]) -> np.ndarray:
    """A number for every line, the same for equal ones, in the order of their first appearance.

    Lines are compared by 64 bits of a digest, which a text of millions of lines has room for. Should two that differ
    ever agree in it, they stay on one side of the split, which does no harm.
    """
    digests = (hashlib.blake2b(line.tobytes(), digest_size=8).digest() for line in lines)
    keys = np.fromiter((int.from_bytes(digest, "big") for digest in digests), np.uint64, len(lines))
    _, firsts, inverse = np.unique(keys, return_index=True, return_inverse=True)
    numbers = np.empty_like(firsts)
    numbers[np.argsort(firsts)] = np.arange(len(firsts))
    return numbers[inverse]


def _cut(name: str, n: int, n_blocks: int, validation: float | None) -> tuple[Pieces, Pieces, str]:
    """Pieces of n characters to train on and to hold out, the end of every block, and that in words."""
    n_blocks = integer("n_blocks", n_blocks)
    if validation is None:
        return [(0, n)], [], _ALL
    edges = [i * n // n_blocks for i in range(n_blocks + 1)]
    cuts = [stop - max(2, int((stop - start) * validation + _ROUNDING)) for start, stop in pairwise(edges)]
    train, held = list(zip(edges, cuts, strict=False)), list(zip(cuts, edges[1:], strict=True))
    if any(cut - start < 2 for start, cut in train):
        parts = "" if n_blocks == 1 else f" of {n_blocks} blocks"
        raise ValueError(f"{name} is too short, with {n} characters, to hold out {validation:g}{parts}")
    count = sum(stop - cut for cut, stop in held)
    if n_blocks == 1:
        return train, held, f"last {count} of {n} characters held out"
    return train, held, f"{count} of {n} characters held out, in {n_blocks} blocks spread evenly over the text"
