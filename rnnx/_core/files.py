"""Atomic file writes."""

import hashlib
import os
import secrets
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_MAX_NAME = 255  # bytes in a file name, on nearly all file systems


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write a file so that `path` always holds either the old or the complete new content.

    Symbolic links are followed, and an existing file keeps its permissions. If the process is killed halfway,
    ``.<name>.rnnx.part`` remains; the next write of the same file reuses it (except on Windows).
    """
    target = Path(path).resolve()
    try:
        mode = stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        mode = None
    with _open_reusable(target) or (target.parent / f".{secrets.token_hex(8)}.rnnx.part").open("xb") as file:
        try:
            file.write(data)
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

    Return None if another writer holds the lock, or the file is a link, a pipe, or has a second hard link.
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
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and os.path.samestat(found, os.lstat(file.name)):
            file.truncate(0)
            return file
    except OSError:
        pass
    file.close()
    return None


def _create_without_following(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o666)
