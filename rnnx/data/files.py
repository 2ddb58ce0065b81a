"""Text files of any size, read in chunks and encoded as compact index arrays."""

import codecs
import ctypes
import hashlib
import io
import mmap
import os
import sys
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rnnx._core.checks import check_methods
from rnnx._core.files import open_regular
from rnnx.data.formats import SIZE, foreign_format
from rnnx.data.tokenizer import NEWLINE, CharTokenizer
from rnnx.data.vocabulary import count_characters

CHUNK = 1 << 18  # bytes of a file, or characters of a text, read at a time
MEMORY_LIMIT = 256 << 20  # bytes; larger index arrays are mapped from a file


class TextFile(AbstractContextManager["TextFile"]):
    """A UTF-8 text file that can be iterated in chunks any number of times. See `open_text`.

    See Also
    --------
    open_text, read_text

    Examples
    --------
    >>> from pathlib import Path
    >>> from rnnx.data import TextFile
    >>> _ = Path("book.txt").write_text("once upon a time")
    >>> with TextFile("book.txt", chunk=5) as chunks:
    ...     list(chunks), sum(map(len, chunks))  # read twice, five bytes at a time
    (['once ', 'upon ', 'a tim', 'e'], 16)
    """

    def __init__(self, path: str | Path, chunk: int = CHUNK) -> None:
        self.path, self._chunk = path, chunk
        self._file: BinaryIO = open_regular(path)  # closed by `close`
        try:
            if found := foreign_format(self._file.read(SIZE)):
                raise ValueError(f"{path} is {found}")
            self._file.seek(0)
            if not any(chunk.strip() for chunk in self):
                raise ValueError(f"{path} is empty")
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[str]:
        return self._decoded(sys.maxsize)

    def _decoded(self, stop: int) -> Iterator[str]:
        """Yield the text of the first `stop` bytes."""
        decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=True)
        at = 0
        while True:
            self._file.seek(at)  # every time, because two iterations may alternate
            data = self._file.read(min(self._chunk, stop - at))
            at += len(data)
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                place = at - len(error.object) + error.start  # error.object ends where the data ends
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

    def __exit__(self, *_: object) -> None:
        self.close()


def open_text(path: str | Path) -> TextFile:
    r"""Open a UTF-8 text file as an iterable of chunks, in a ``with`` statement.

    Line ends become newlines, and a byte order mark is dropped.

    Raises
    ------
    ValueError, OSError
        If the file is blank, not a regular file, or cannot be read or, during reading, if it is not UTF-8.

    See Also
    --------
    read_text, encode_file

    Examples
    --------
    >>> from pathlib import Path
    >>> from rnnx.data import CharTokenizer, open_text
    >>> _ = Path("book.txt").write_bytes(b"over\r\nand over")
    >>> with open_text("book.txt") as chunks:
    ...     CharTokenizer(oov_token=None).fit(chunks).get_vocab()
    ['\n', ' ', 'a', 'd', 'e', 'n', 'o', 'r', 'v']
    """
    return TextFile(path)


def read_text(path: str | Path) -> str:
    r"""Read a whole UTF-8 text file, as `open_text` does.

    See Also
    --------
    open_text, make_corpus

    Examples
    --------
    >>> from pathlib import Path
    >>> from rnnx.data import read_text
    >>> _ = Path("old.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")  # as an old editor of Windows writes it
    >>> read_text("old.txt")
    'one\ntwo\n'
    """
    with open_text(path) as chunks:
        return "".join(chunks)


@dataclass(frozen=True)
class EncodedText:
    """A text as indices.

    Attributes
    ----------
    indices : array of unsigned int, shape (n,)
        In the smallest sufficient dtype. A large text is mapped from a temporary file, deleted along with the array.
    tokenizer : CharTokenizer
    fingerprint : str
        SHA-256 of the UTF-8 text with normalized line ends.

    See Also
    --------
    encode_file, Windows, Streams

    Examples
    --------
    >>> from pathlib import Path
    >>> from rnnx.data import encode_file
    >>> _ = Path("song.txt").write_text("la la la")
    >>> text = encode_file("song.txt")
    >>> text.tokenizer.get_vocab(), text.indices.tolist(), text.indices.dtype
    ([' ', 'a', 'l'], [2, 1, 0, 2, 1, 0, 2, 1], dtype('uint8'))
    """

    indices: np.ndarray
    tokenizer: CharTokenizer
    fingerprint: str


def encode_file(
    path: str | Path, tokenizer: CharTokenizer | None = None, *, memory_limit: int = MEMORY_LIMIT
) -> EncodedText:
    """Encode a UTF-8 text file of any size, reading it twice in chunks so that only the indices stay in memory.

    Parameters
    ----------
    path : str or Path
    tokenizer : CharTokenizer, optional
        By default a new one without `oov_token` is fitted to the text.
    memory_limit : int
        In bytes. Larger index arrays are mapped from a temporary file in `tempfile.gettempdir()`.

    Raises
    ------
    ValueError, OSError
        As for `open_text`, and if `tokenizer` lacks a character or the temporary file cannot be written.

    See Also
    --------
    EncodedText, make_corpus, open_text

    Examples
    --------
    >>> from pathlib import Path
    >>> from rnnx.data import CharTokenizer, encode_file
    >>> _ = Path("rain.txt").write_text("rain, rain")
    >>> encode_file("rain.txt", CharTokenizer.from_vocab(["<UNK>", "a", "r"], oov_token="<UNK>")).indices.tolist()
    [2, 1, 0, 0, 0, 0, 2, 1, 0, 0]
    """
    if tokenizer is not None:
        check_methods("tokenizer", tokenizer, "a CharTokenizer or None", "check_known", "get_vocab")
    new = CharTokenizer(None) if tokenizer is None else tokenizer
    with open_text(path) as chunks:
        return encode(chunks, new, fit=tokenizer is None, memory_limit=memory_limit)


def encode(
    chunks: Iterable[str],
    tokenizer: CharTokenizer,
    *,
    fit: bool,
    lines: bool = False,
    min_count: int = 1,
    memory_limit: int = MEMORY_LIMIT,
) -> EncodedText:
    """Encode a text given in chunks that can be iterated twice, after fitting the tokenizer if `fit` is True.

    Newlines are kept even if rare; with `lines` the vocabulary always has one, because lines end with it.
    """
    counts = count_characters(chunks)
    n = counts.total()
    if fit:
        if lines or NEWLINE in counts:
            counts[NEWLINE] = max(counts[NEWLINE], min_count)
        tokenizer.fit_counts(counts, min_count=min_count)
    tokenizer.check_known(counts)
    if lines and NEWLINE not in tokenizer.get_vocab():
        raise ValueError("the vocabulary of `tokenizer` must contain the newline, which ends every line")
    digest = hashlib.sha256()
    dtype = tokenizer.index_dtype

    def encoded() -> Iterator[np.ndarray]:
        for text in chunks:
            digest.update(text.encode("utf-8", "surrogatepass"))
            yield tokenizer.encode(text, dtype)

    indices = _collect(encoded(), n, dtype, in_file=n * dtype.itemsize > memory_limit)
    return EncodedText(indices, tokenizer, digest.hexdigest())


def _collect(parts: Iterable[np.ndarray], n: int, dtype: np.dtype, in_file: bool) -> np.ndarray:
    """Join chunks into an array of n indices, in memory or mapped from a file that is deleted along with it."""
    at = 0
    if not in_file:
        indices = np.empty(n, dtype)
        for part in parts:
            indices[at : at + len(part)] = part[: n - at]
            at += len(part)
    else:
        with tempfile.TemporaryFile() as file:  # not mapped, so that a full disk raises an error, not a signal
            for part in parts:
                file.write(part.data)
                at += len(part)
            file.flush()
            indices = _mapped(file, dtype) if at == n else np.empty(0, dtype)
    if at != n:
        raise ValueError("the text changed while it was being read")
    return indices


def _mapped(file: BinaryIO, dtype: np.dtype) -> np.ndarray:
    """Map a file as a read-only array that needs no file descriptor.

    Python's `mmap` keeps a copy of the descriptor and closes it at the end. By then, the number may be that of another
    file, if the program has closed all descriptors, as daemons do.
    """
    if sys.platform == "win32":
        return np.memmap(file, dtype, "r")
    library, size = ctypes.CDLL(None, use_errno=True), os.fstat(file.fileno()).st_size
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    address = library.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), f"cannot map a file of {size} bytes: {os.strerror(ctypes.get_errno())}")
    memory = (ctypes.c_char * size).from_address(address)
    unmap: Any = weakref.finalize(memory, library.munmap, address, size)
    unmap.atexit = False  # threads may still read
    return np.frombuffer(memoryview(memory).toreadonly(), dtype)
