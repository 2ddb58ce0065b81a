"""The safetensors format, written and read one tensor at a time.

`safetensors` itself builds a whole file in memory, and ends the process if that is too little; it only checks the files
that are read here, so training and writing do without it. Format: the length of the header, the header as JSON, the
tensors. https://github.com/huggingface/safetensors
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from rnnx._core.files import open_regular
from rnnx._core.install import install_command
from rnnx._core.words import line

# Tensors are in the reverse order of their types, and then in the order of their names.
_DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "I16": "i2", "U16": "u2", "I32": "i4", "U32": "u4", "F32": "f4", "F64": "f8",
    "I64": "i8", "U64": "u8",
}  # fmt: skip
_TYPES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_METADATA = "__metadata__"
_ALIGNMENT = 8
_MOST_HEADER = 100_000_000  # bytes that safetensors reads


def pieces(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """Yield a file of tensors in pieces, byte for byte as `safetensors.numpy.save` makes it.

    Parameters
    ----------
    tensors : dict of str to array
        Of booleans, integers, float32 or float64, in any memory order. One at a time is copied, and only if it must be.
    metadata : dict of str to str
        At most one entry: safetensors writes several in random order.

    Raises
    ------
    ValueError
        Before the first piece, if the header is too large.
    """
    order = [*_DTYPES]
    names = sorted(tensors, key=lambda name: (-order.index(_type(tensors[name])), name.encode()))
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    at = 0
    for name in names:
        a = tensors[name]
        header[name] = {"dtype": _type(a), "shape": a.shape, "data_offsets": (at, at + a.nbytes)}
        at += a.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > _MOST_HEADER:
        raise ValueError(f"the description of the tensors must have at most {_MOST_HEADER} bytes; got {len(text)}")
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        yield stored(tensors[name])


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[dict[str, str], Iterator[tuple[str, np.ndarray]]]]:
    """Open a file in a ``with`` statement, for its metadata and an iterator over the names and the tensors.

    Raises
    ------
    ValueError, OSError
        As for `open_regular`, and if it is not such a file, is damaged, or has a tensor of a type that `pieces` does
        not write.
    ImportError
        Without safetensors.
    """
    with open_regular(path) as file:
        _check_header(path)
        header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), _MOST_HEADER)))
        yield header.pop(_METADATA, None) or {}, _read(file, file.tell(), header)


def _check_header(path: Path) -> None:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise ImportError(f"reading a checkpoint needs safetensors: {install_command('lab')}") from None
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{path} is not a checkpoint, or is damaged ({line(error)})") from None
    except OSError as error:  # old versions map the file, and hide the error's number
        if "allocate memory" in str(error):
            raise MemoryError(str(error)) from None
        raise


def _read(
    file: BufferedReader, start: int, header: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, np.ndarray]]:
    for name, about in header.items():
        if about["dtype"] not in _DTYPES:
            raise ValueError(f"{file.name} holds {name!r} of type {about['dtype']}; expected one of {[*_DTYPES]}")
        array = np.empty(about["shape"], np.dtype(_DTYPES[about["dtype"]]).newbyteorder("<"))
        data = stored(array)
        file.seek(start + about["data_offsets"][0])
        if file.readinto(data) != len(data):
            raise ValueError(f"{file.name} is truncated")
        yield name, array


def is_name(name: str) -> bool:
    """Return whether a tensor can have this name: not that of the metadata, and no lone surrogates."""
    return name != _METADATA and name.encode(errors="replace").decode() == name


def stored(array: np.ndarray) -> memoryview:
    """Return the bytes of an array as they are in a file: in C order, little-endian."""
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C").reshape(-1).view(np.uint8).data


def _type(array: np.ndarray) -> str:
    return _TYPES[array.dtype.newbyteorder("=")]
