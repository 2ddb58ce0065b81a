"""Files that are written whole or not at all."""

import hashlib
import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_LONGEST = 255  # bytes of a name, on nearly all file systems


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write a file. What stands at `path` is at every moment either the old file or, whole, the new one.

    A link stays, and its target is replaced; the permissions of the old file stay. A process that is killed in the
    middle leaves ``.<name>.rnnx.part`` behind, which the next one to write the file uses up. (On Windows its name is
    another every time.)

    Raises
    ------
    OSError
        If it cannot be written. Nothing is left behind then.
    """
    target = Path(path).resolve()
    exists = target.exists()  # raises if the name is too long
    file, temporary = _open_own(target) or _open_new(target)
    try:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        if exists:
            os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
        if fcntl is None:  # Windows moves no open file; elsewhere it is locked for as long as it is open
            file.close()
        os.replace(temporary, target)
    except BaseException:
        if fcntl is None:
            file.close()
        temporary.unlink(missing_ok=True)
        raise
    finally:
        file.close()


def check_writable(path: str | Path) -> None:
    """Raise unless `write_atomically` can write there: tries out a new, empty file in the folder.

    Raises
    ------
    ValueError
        If there is no such folder, or `path` is something else than a file.
    OSError
        If the folder cannot be written to.
    """
    target = Path(path).resolve()
    if not target.parent.is_dir():
        raise ValueError(f"cannot write {path}: there is no folder {Path(path).parent}")
    if target.exists() and not target.is_file():
        raise ValueError(f"cannot write {path}: it exists and is not a file")
    file, temporary = _open_new(target)
    try:
        os.fsync(file.fileno())
    finally:
        file.close()
        temporary.unlink(missing_ok=True)


def _open_own(target: Path) -> tuple[BinaryIO, Path] | None:
    """The temporary file of this target, empty and locked: always the same, so that at most one is left behind.

    None if another writer has it, or if it may be more than that: a link, a pipe, a file with a second name.
    """
    if fcntl is None:
        return None
    temporary = target.parent / _own_name(target.name)
    try:
        file = os.fdopen(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b", buffering=-1)
    except OSError:  # whatever it is, `_open_new` meets it as well, or gets on without
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(file.fileno())
        # Its last writer may have moved or removed it between the opening and the lock.
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and os.path.samestat(found, temporary.lstat()):
            file.truncate(0)
            return file, temporary
    except OSError:
        pass
    file.close()
    return None


def _own_name(name: str) -> str:
    own = f".{name}.rnnx.part"
    if len(os.fsencode(own)) <= _LONGEST:
        return own
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}.rnnx.part"


def _open_new(target: Path) -> tuple[BinaryIO, Path]:
    temporary = target.parent / f".{secrets.token_hex(8)}.rnnx.part"
    return temporary.open("xb"), temporary
