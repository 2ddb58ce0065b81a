"""Text files of any size, read piece by piece, and texts as arrays of indices: a byte a character, if that will do."""

import codecs
import hashlib
import io
import os
import shutil
import stat
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rnnx.data.tokenizer import NEWLINE, CharTokenizer, count_characters

PIECE = 1 << 18  # bytes of a file, or characters of a text, at a time
MEMORY_LIMIT = 256 << 20  # bytes; more indices than that are put into a file
_MOST_IN_32_BITS = (1 << 32) - 1
_LISTED_LINES, _LISTED_LENGTH = 20, 64  # a list has so many lines at least, and so many characters in each at most


class TextFile:
    """A UTF-8 text file: iterating gives its text piece by piece, as often as one likes. See `open_text`."""

    def __init__(self, path: str | Path, piece: int = PIECE) -> None:
        self.path, self._piece = path, piece
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115  # closed by `close`
        try:
            if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):  # a pipe can be read only once
                self._file = _copy(self._file)
            if not any(piece.strip() for piece in self):
                raise ValueError(f"{path} is empty")
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[str]:
        return self._decoded(None)

    def _decoded(self, stop: int | None) -> Iterator[str]:
        """The text of the first `stop` bytes."""
        decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=True)
        at = 0
        while True:
            self._file.seek(at)  # every time: two iterations may take turns
            data = self._file.read(self._piece if stop is None else min(self._piece, stop - at))
            at += len(data)
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                place = at - len(error.object) + error.start  # its object ends where the data does
                line = 1 + sum(text.count(NEWLINE) for text in self._decoded(place))
                raise ValueError(
                    f"{self.path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {place}, line {line}"
                ) from None
            if text:
                yield text
            if not data:
                return

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "TextFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _copy(stream: BinaryIO) -> BinaryIO:
    """What a stream holds, as a file that vanishes when it is closed."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115
    with stream:
        shutil.copyfileobj(stream, copy)
    return copy


def open_text(path: str | Path) -> TextFile:
    """A UTF-8 text file as pieces of text, for ``with``. Line ends are newlines; a byte order mark is dropped.

    Raises
    ------
    ValueError
        If it is empty (nothing but white space); while it is read, if it is not UTF-8: says where.
    OSError
        If it cannot be read, or is a folder.

    Examples
    --------
    >>> with open_text("book.txt") as pieces:  # doctest: +SKIP
    ...     tokenizer = CharTokenizer().fit(pieces)
    """
    return TextFile(path)


def read_text(path: str | Path) -> str:
    """All of a UTF-8 text file. Line ends are newlines; a byte order mark is dropped.

    Raises
    ------
    ValueError, OSError
        As for `open_text`.
    """
    with open_text(path) as pieces:
        return "".join(pieces)


@dataclass(frozen=True)
class EncodedText:
    """A text as indices.

    Attributes
    ----------
    indices : array of unsigned int, shape (n,)
        In the smallest dtype that holds them; of a large text, mapped from a file that vanishes with it.
    tokenizer : CharTokenizer
    fingerprint : str
        SHA-256 of the text in UTF-8, line ends as newlines: the same for the same text.
    """

    indices: np.ndarray
    tokenizer: CharTokenizer
    fingerprint: str


def encode_file(
    path: str | Path, tokenizer: CharTokenizer | None = None, *, memory_limit: int = MEMORY_LIMIT
) -> EncodedText:
    """The indices of a UTF-8 text file of any size.

    The file is read twice, piece by piece, so that no more than the indices is ever in memory.

    Parameters
    ----------
    path : str or Path
    tokenizer : CharTokenizer, optional
        Default: one without `oov_token`, fitted to the text.
    memory_limit : int
        Bytes. Indices that need more are written to a temporary file, in `tempfile.gettempdir()`, and mapped.

    Raises
    ------
    ValueError
        As for `open_text`, and for a character that `tokenizer` does not know.
    OSError
        If the file cannot be read, or the temporary one not be written.
    """
    with open_text(path) as pieces:
        return encode(
            pieces,
            CharTokenizer(None) if tokenizer is None else tokenizer,
            fit=tokenizer is None,
            memory_limit=memory_limit,
        )


def encode(
    pieces: Iterable[str],
    tokenizer: CharTokenizer,
    *,
    fit: bool,
    lines: bool = False,
    min_count: int = 1,
    memory_limit: int = MEMORY_LIMIT,
) -> EncodedText:
    """The indices of a text that is given in pieces and can be read twice. See `encode_file`.

    With `fit` the tokenizer learns the vocabulary first; newlines are in it however rare they are, and for `lines`,
    which end with one, even if the text has none.
    """
    counts = count_characters(pieces)
    n = counts.total()
    if fit:
        if lines or NEWLINE in counts:
            counts[NEWLINE] = max(counts[NEWLINE], min_count)
        tokenizer.fit_counts(counts, min_count=min_count)
    tokenizer.check_known(counts)
    if lines and NEWLINE not in tokenizer.get_vocab():
        raise ValueError("`tokenizer` must hold the newline, which ends a line")
    digest = hashlib.sha256()
    dtype = tokenizer.index_dtype

    def encoded() -> Iterator[np.ndarray]:
        for text in pieces:
            digest.update(text.encode("utf-8", "surrogatepass"))
            yield tokenizer.encode(text, dtype)

    indices = _collect(encoded(), n, dtype, in_file=n * dtype.itemsize > memory_limit)
    return EncodedText(indices, tokenizer, digest.hexdigest())


def _collect(parts: Iterable[np.ndarray], n: int, dtype: np.dtype, in_file: bool) -> np.ndarray:
    """One array of n indices, in memory or mapped from a file that vanishes when nothing uses it."""
    at = 0
    if not in_file:
        indices = np.empty(n, dtype)
        for part in parts:
            indices[at : at + len(part)] = part[: n - at]
            at += len(part)
    else:
        with tempfile.TemporaryFile() as file:  # written, not mapped, so that a full disk is an error and no signal
            for part in parts:
                file.write(part.data)
                at += len(part)
            file.flush()
            indices = np.memmap(file, dtype, "r", shape=(at,))
    if at != n:
        raise ValueError("the text changed while it was read")
    return indices


def lines_of(pieces: Iterable[str]) -> Iterator[tuple[int, int, bool]]:
    """Start and stop of every line of a text that is given in pieces, and whether it is blank."""
    start = at = 0
    blank = True
    for piece in pieces:
        first, *others = piece.split(NEWLINE)
        at += len(first)
        blank = blank and not first.strip()
        for line in others:
            yield start, at, blank
            start = at + 1
            at, blank = start + len(line), not line.strip()
    if at > start:
        yield start, at, blank


def bounds_of_lines(pieces: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Starts and stops of all lines that are not blank, in 32 bits if they fit."""
    bounds = array("I")
    for start, stop, blank in lines_of(pieces):
        if stop > _MOST_IN_32_BITS and bounds.typecode == "I":
            bounds = array("Q", bounds)
        if not blank:
            bounds.extend((start, stop))
    starts, stops = np.asarray(bounds).reshape(-1, 2).T
    return starts, stops


def looks_like_list(pieces: Iterable[str]) -> bool:
    """Whether a text is a list: at least 20 lines, none longer than 64 characters, hardly any blank between them."""
    n = blank_between = blank_since = 0
    for start, stop, blank in lines_of(pieces):
        if blank:
            blank_since += n > 0
        elif stop - start > _LISTED_LENGTH:
            return False
        else:
            n, blank_between, blank_since = n + 1, blank_between + blank_since, 0
    return n >= _LISTED_LINES and blank_between * 10 <= n
