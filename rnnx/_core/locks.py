"""Locks of folders, held by a process."""

import contextlib
import json
import os
import platform
import stat
import weakref
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".rnnx.lock"
_LOCKED_BYTE = 1 << 30  # on Windows: past the content, which locked bytes would hide from others


class InUse(ValueError):
    """A folder is locked."""


class FolderLock:
    """A lock of a folder, from creation to `release` or the end of the process, however it ends.

    It is an operating system lock on a file in the folder, so that a file left by a dead process means nothing. The
    file names the process that holds the lock. `release` removes it, and those folders that the lock created and that
    are empty. On a file system without locks, nothing is locked.

    Parameters
    ----------
    folder : Path
        Created if missing.

    Raises
    ------
    InUse
        If another process, or another lock of this process, holds the folder; a ValueError.
    OSError
        If the folder or the file cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        folder = folder.absolute()
        created = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            descriptor = _locked(folder)
        except BaseException:
            _remove(created)
            raise
        identity = os.fstat(descriptor)
        self.release = weakref.finalize(self, _release, descriptor, identity, folder / NAME, created, os.getpid())

    @property
    def held(self) -> bool:
        """Whether the lock is still held."""
        return self.release.alive


def is_held(folder: Path) -> bool | None:
    """Return whether a process holds the lock of a folder; False if it was released, or the process has ended.

    None if that cannot be known: of a folder that is not here, of a process of another machine or another user, and on
    a file system without locks.
    """
    try:
        file = open(folder / NAME, "r+b", buffering=0, opener=_open_existing)  # noqa: SIM115
    except FileNotFoundError:
        return False if folder.is_dir() else None
    except PermissionError:
        return None
    with file:
        try:
            return False if _lock(file) and _about(file).get("machine") == platform.node() else None
        except BlockingIOError:
            return True


def _locked(folder: Path) -> int:
    """Open and lock the file of a folder, and write this process to it; return a descriptor that holds the lock."""
    path = folder / NAME
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = open(path, "r+b", buffering=0, opener=_open)  # noqa: SIM115
        except FileNotFoundError:  # another process has just removed the empty folder
            continue
        try:
            _lock(file)
            # Another process may have removed the file between `open` and the lock.
            if _is_at(file, path):
                file.truncate(0)
                file.write(json.dumps({"process": os.getpid(), "machine": platform.node()}).encode())
                return os.dup(file.fileno())
        except BlockingIOError:
            raise InUse(f"{folder} is in use by {_owner(file)}, or choose another folder") from None
        finally:
            file.close()


def _open(path: str, flags: int) -> int:
    return _open_existing(path, flags | os.O_CREAT)


def _open_existing(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o644)


def _lock(file: BinaryIO) -> bool:
    """Lock an open file, and return whether its file system has locks; raise BlockingIOError if it is locked."""
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise ValueError(f"{file.name} must be a regular file")
    if fcntl is None:
        import msvcrt

        lock: Any = msvcrt
        file.seek(_LOCKED_BYTE)
        try:
            lock.locking(file.fileno(), lock.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(*error.args) from None
        file.seek(0)
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    except FileNotFoundError:
        return False


def _owner(file: BinaryIO) -> str:
    """Describe the lock's holder, as recorded in its file, and suggest what to do."""
    about = _about(file)
    if not about:
        return "another process: wait for it"
    process, machine = about["process"], about["machine"][:60]
    if about["machine"] != platform.node():
        return f"process {process} on {machine!r}: wait for it"
    return "another run of this process: close it" if process == os.getpid() else f"process {process}: wait for it"


def _about(file: BinaryIO) -> dict[str, Any]:
    """Return what a lock's file says about its holder; nothing if it cannot be read."""
    try:
        about = json.loads(file.read(1000))
        return {"process": int(about["process"]), "machine": str(about["machine"])}
    except (KeyError, OSError, TypeError, ValueError):
        return {}


def _release(descriptor: int, identity: os.stat_result, path: Path, created: list[Path], process: int) -> None:
    if os.getpid() == process:  # in a forked child the lock is the parent's
        if fcntl is None:
            _close(descriptor, identity)  # Windows removes no open files
        with contextlib.suppress(OSError):
            path.unlink()
        _remove(created)
    if fcntl is not None:
        _close(descriptor, identity)


def _close(descriptor: int, identity: os.stat_result) -> None:
    """Close a descriptor, unless the program has closed it and now uses its number for another file."""
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(descriptor), identity):
            os.close(descriptor)


def _remove(folders: list[Path]) -> None:
    """Remove empty folders, the innermost first."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
