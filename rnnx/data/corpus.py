"""Training and validation sets made from a text."""

import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from rnnx._core.checks import choice, flag, integer, real
from rnnx.data.batches import Dataset
from rnnx.data.files import CHUNK, encode, open_text
from rnnx.data.lines import LineViews, line_bounds, looks_like_list
from rnnx.data.lowercase import Lowercase
from rnnx.data.split import split_lines, split_text
from rnnx.data.tokenizer import NEWLINE, CharTokenizer
from rnnx.data.windows import Lines, Streams, Windows

_PATH_LENGTH = 300  # a shorter text without a newline may be a path passed by mistake
BY, SPLITS = ("auto", "lines", "windows", "streams"), ("tail", "blocks")


@dataclass(frozen=True)
class Corpus:
    r"""Training and validation datasets of a text.

    Attributes
    ----------
    name : str
    by : str
        "lines", "windows" or "streams".
    tokenizer : CharTokenizer
    train, validation : Lines, Windows or Streams
        `validation` is None if nothing is held out.
    split : str
        Description of the split. Losses of different splits are not comparable.
    fingerprint : str
        SHA-256 of the text; a resumed run uses it to check that the text is unchanged.

    See Also
    --------
    make_corpus, rnnx.training.Trainer

    Examples
    --------
    >>> from rnnx.data import dinosaur_names, make_corpus
    >>> corpus = make_corpus("dinosaurs", dinosaur_names(), validation=0.2)
    >>> corpus.by, corpus.tokenizer.vocab_size
    ('lines', 53)
    >>> batch = next(corpus.train.batches(batch_size=32))
    >>> inputs, targets = next(batch.rows())
    >>> corpus.tokenizer.decode(inputs), corpus.tokenizer.decode(targets)
    ('\nBravoceratops', 'Bravoceratops\n')
    """

    name: str
    by: str
    tokenizer: CharTokenizer
    train: Dataset
    validation: Dataset | None
    split: str
    fingerprint: str

    def summary(self) -> str:
        """Describe the training set, the split and the vocabulary in one line."""
        unit = {"lines": "lines", "windows": "windows", "streams": "characters in streams"}[self.by]
        size = f"{len(self.train)} {unit} to train on"
        return f"{self.name}: {size}, {self.split}; {self.tokenizer.vocab_size} characters"


def make_corpus(
    name: str,
    text: str | Path,
    *,
    by: str = "auto",
    seq_length: int = 64,
    seed: int = 0,
    validation: float | None = 0.1,
    split: str = "tail",
    n_blocks: int = 10,
    oov_token: str | None = None,
    min_count: int = 1,
    tokenizer: CharTokenizer | None = None,
    extend: bool = False,
    lower: bool = False,
) -> Corpus:
    """Make training and validation datasets from a text.

    Parameters
    ----------
    name : str
        Used in messages and file names.
    text : str or Path
        A text, or the Path of a UTF-8 file of any size, which is read in chunks.
    by : {"auto", "lines", "windows", "streams"}
        "lines": every non-blank line is an independent sequence; random lines are held out, and identical lines stay
        together. "windows": the text is cut into independent windows. "streams": the text is read in order, with states
        carried from batch to batch. "auto": lines if the text has at least 20, none longer than 64 characters, and at
        most one blank line per ten; otherwise windows.
    seq_length : int
        Steps per window, or per batch of streams.
    seed : int
        Seed for choosing the held-out lines.
    validation : float or None
        Fraction to hold out (of the distinct lines), between 0 and 1. None holds out nothing.
    split : {"tail", "blocks"}
        Hold out the end of a continuous text, or the end of each of `n_blocks` equal blocks. The first character after
        a cut is a target in neither set, because its input is in the other set.
    n_blocks : int
    oov_token : str or None
        See `CharTokenizer`. By default there is none, because a token that never occurs in training is not learned.
    min_count : int
        Rarer characters become `oov_token`; newlines never do.
    tokenizer : CharTokenizer, optional
        Used unchanged. By default a new one is fitted to the text.
    extend : bool
        Add the characters that `tokenizer` lacks to a copy of it, instead of raising ValueError.
    lower : bool
        Convert the text to lower case first.

    Raises
    ------
    ValueError, OSError
        As for `open_text`, and if an argument is out of range, the text is too short, a str is the name of a file, or
        the vocabulary of `tokenizer` lacks a character.

    See Also
    --------
    Corpus, CharTokenizer, find_text, rnnx.models.CharModel

    Examples
    --------
    >>> from rnnx.data import make_corpus
    >>> print(make_corpus("song", "la la la, la la li, li li la! " * 20, by="windows", seq_length=32).summary())
    song: 17 windows to train on, last 60 of 600 characters held out; 6 characters
    """
    _check_choices(by, split, validation)
    seed, lower, extend = integer("seed", seed, 0), flag("lower", lower), flag("extend", extend)
    if extend and tokenizer is None:
        raise ValueError("`extend` needs a `tokenizer`")
    if tokenizer is not None and (oov_token is not None or min_count != 1):
        raise ValueError("`oov_token` and `min_count` must not be given with `tokenizer`, whose vocabulary is fixed")
    with open_text(text) if isinstance(text, Path) else nullcontext(_Slices(text)) as read:
        chunks = Lowercase(read) if lower else read
        if by == "auto":
            by = "lines" if looks_like_list(chunks) else "windows"
        if by == "lines" and split == "blocks":
            raise ValueError("`split` must be 'tail' for lines, which are held out at random; got 'blocks'")
        bounds = line_bounds(chunks) if by == "lines" else None
        if bounds is not None:
            _check_size(name, "line", len(bounds[0]), 1)
        else:
            start = "".join(islice(chain.from_iterable(chunks), 20))
            _check_size(name, "character", len(start), 2 if validation is None else 20)
        tokenizer = tokenizer.extended(chain.from_iterable([chunks])) if extend and tokenizer else tokenizer
        new = CharTokenizer(oov_token) if tokenizer is None else tokenizer
        encoded = encode(chunks, new, fit=tokenizer is None, lines=by == "lines", min_count=min_count)
    if bounds is not None:
        lines, newline = LineViews(encoded.indices, *bounds), int(encoded.tokenizer.encode(NEWLINE)[0])
        parts, words = split_lines(name, lines, seed, validation)
        sets: list[Dataset] = [Lines(lines[part], newline) for part in parts]
    else:
        kind = Windows if by == "windows" else Streams
        pieces, words = split_text(name, len(encoded.indices), 1 if split == "tail" else n_blocks, validation)
        sets = [kind(encoded.indices, seq_length, part) for part in pieces]
    held_out = None if validation is None else sets[1]
    return Corpus(name, by, encoded.tokenizer, sets[0], held_out, words, encoded.fingerprint)


def _check_choices(by: str, split: str, validation: float | None) -> None:
    choice("by", by, BY)
    choice("split", split, SPLITS)
    if validation is not None:
        real("validation", validation, "(0, 1)")


def _check_size(name: str, unit: str, n: int, least: int) -> None:
    if n < least:
        raise ValueError(f"{name} must have at least {least} {unit}{'s' * (least > 1)}; got {n}")


class _Slices:
    """A text in memory, iterated in chunks, with line ends normalized as in a file."""

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"`text` must be a str or a Path; got {type(text).__name__}")
        if len(text) < _PATH_LENGTH and NEWLINE not in text and os.path.isfile(text):
            raise ValueError(f"`text` must be a text or a Path; to read this file, pass Path({text!r})")
        self.text = text.replace("\r\n", NEWLINE).replace("\r", NEWLINE)

    def __iter__(self) -> Iterator[str]:
        return (self.text[at : at + CHUNK] for at in range(0, len(self.text), CHUNK))
