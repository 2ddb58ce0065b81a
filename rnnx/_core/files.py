"""Atomic file writes, and reads of regular files only."""

import contextlib
import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_MAX_NAME = 255  # bytes in a file name, on nearly all file systems


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write a file as `write_pieces` does."""
    write_pieces(path, [data])


def write_pieces(path: str | Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a file so that `path` always holds either the old or the complete new content.

    Symbolic links are followed, and an existing file keeps its permissions. If the process is killed halfway,
    ``.<name>.rnnx.part`` remains; the next write of the same file reuses it (except on Windows, and unless another user
    owns it).
    """
    target = Path(path).resolve()
    try:
        mode = stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        mode = None
    with _open_reusable(target) or (target.parent / f".{secrets.token_hex(8)}.rnnx.part").open("xb") as file:
        try:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            if mode is not None:
                os.chmod(file.name, mode)
            if fcntl is None:  # Windows cannot rename an open file; elsewhere closing it would release the lock
                file.close()
            os.replace(file.name, target)
        except BaseException:
            if fcntl is None:
                file.close()
            Path(file.name).unlink(missing_ok=True)
            raise


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file for reading.

    Raises
    ------
    ValueError
        If it is a pipe or a device: they may have no end, and a path may come from a file written by someone else.
    OSError
        If it cannot be read, or is a folder.
    """
    file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise ValueError(f"cannot read {path}: it is not a regular file")


def read_regular(path: str | Path, most: int) -> bytes:
    """Read a regular file of at most `most` bytes. Raises like `open_regular`, and ValueError if it is larger."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"cannot read {path}: it is larger than {most >> 20} MiB")
        return file.read(size)


@contextlib.contextmanager
def errors_of(path: str | Path) -> Iterator[None]:
    """Name the file in the errors of what it holds."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def check_writable(path: str | Path) -> None:
    """Raise unless `write_atomically` can write to `path`. Creates a temporary file in the folder."""
    target = Path(path).resolve()
    if not target.parent.is_dir():
        raise ValueError(f"cannot write {path}: the folder {Path(path).parent} does not exist")
    if target.exists() and not target.is_file():
        raise ValueError(f"cannot write {path}: it exists but is not a file")
    with tempfile.TemporaryFile(dir=target.parent) as file:
        os.fsync(file.fileno())


def _open_reusable(target: Path) -> BinaryIO | None:
    """Open the target's fixed temporary file, empty and locked.

    Return None if another writer holds the lock, or the file is a link, a pipe, has a second hard link, or belongs to
    another user, who could go on writing to it.
    """
    if fcntl is None:
        return None
    name = f".{target.name}.rnnx.part"
    if len(os.fsencode(name)) > _MAX_NAME:
        name = f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:32]}.rnnx.part"
    try:
        file = open(target.parent / name, "r+b", opener=_create_without_following)  # noqa: SIM115
    except OSError:  # opening a new file either succeeds or raises the same error
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(file.fileno())
        # Another writer may have renamed or removed the file between `open` and `flock`.
        mine = stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == os.geteuid()
        if mine and os.path.samestat(found, os.lstat(file.name)):
            file.truncate(0)
            return file
    except OSError:
        pass
    file.close()
    return None


def _create_without_following(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o666)


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for a writer
