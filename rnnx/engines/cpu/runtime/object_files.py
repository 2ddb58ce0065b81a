"""The folder of the object cache.

Its files are executed, so only those are read that nobody but the user (or root) can have written. What counts is the
opened file, not its name: the folder is opened once per read or write, checked, and its files are opened relative to
it. No file stays open between calls. After an error, the caller works without the cache. On Windows, the permissions of
the folder are all the protection there is.
"""

import contextlib
import hashlib
import os
import re
import secrets
import stat
import time
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

_MOST_FILES = 2048  # of a few thousand bytes; the loops over time, which take Numba ten seconds, are among the oldest
_MOST_BYTES = 64 << 20  # larger files were not written by `write`
_STALE = 3600  # seconds; whoever wrote an older temporary file was killed
_DIGEST = hashlib.sha256().digest_size
_FILE = re.compile(r"[0-9a-f]{64}\.o(\.[0-9a-f]{16}\.part)?")  # the user's own files are left alone

_NO_LINK, _NO_WAIT, _FOLDER = (getattr(os, f"O_{name}", 0) for name in ("NOFOLLOW", "NONBLOCK", "DIRECTORY"))
_warned: set[Path] = set()


@lru_cache(maxsize=1)
def cache_directory() -> Path | None:
    """Return the absolute path of the folder; None if there is none, or if others can write to it.

    It does not depend on later changes of the working directory.
    """
    given = os.environ.get("RNNX_CACHE_DIR")
    if given == "":
        return None
    try:
        if given is None:
            import platformdirs

            given = platformdirs.user_cache_dir("rnnx", appauthor=False)
        path = Path(given).resolve()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home directory, or not writable
        return None
    with _usable(path), _Folder(path):
        return path
    return None


def read(key: str) -> bytes | None:
    """Return what was written under a key; None if it is missing, damaged, or somebody else may have written it."""
    path = cache_directory()
    if path is None:
        return None
    with _usable(path), _Folder(path) as folder, folder.open(f"{key}.o", "rb") as file:
        _check(path / f"{key}.o", os.fstat(file.fileno()), stat.S_ISREG)
        data = file.read(_MOST_BYTES)
        return data[_DIGEST:] if data[:_DIGEST] == _digest(key, data[_DIGEST:]) else None
    return None


def write(key: str, payload: bytes) -> None:
    """Write a file, replacing what has its name; then delete the oldest files beyond the limit, and stale ones."""
    path = cache_directory()
    if path is None:
        return
    temporary = f"{key}.o.{secrets.token_hex(8)}.part"
    with contextlib.suppress(OSError), _Folder(path) as folder:
        try:
            with folder.open(temporary, "xb") as file:
                file.write(_digest(key, payload) + payload)
            folder.rename(temporary, f"{key}.o")
        except BaseException:
            with contextlib.suppress(OSError):
                folder.remove(temporary)
            raise
        _clean(folder)


def _digest(key: str, payload: bytes) -> bytes:
    """Return the checksum of a file. It covers the key, so a file does not count under the name of another."""
    return hashlib.sha256(key.encode() + payload).digest()


class _Folder:
    """An open folder that nobody else can write to. Its files are found even if it is renamed, or replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def __enter__(self) -> "_Folder":
        if os.open in os.supports_dir_fd:  # not on Windows
            self._descriptor = os.open(self._path, os.O_RDONLY | _FOLDER | _NO_LINK)
            try:
                _check(self._path, os.fstat(self._descriptor), stat.S_ISDIR)
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def open(self, name: str, mode: str) -> BinaryIO:
        """Open a file, but no symbolic link, and without waiting for the other end of a pipe."""

        def opener(path: str, flags: int) -> int:
            return os.open(path, flags | _NO_LINK | _NO_WAIT, 0o600, dir_fd=self._descriptor)

        return cast(BinaryIO, open(self._name(name), mode, opener=opener))

    def rename(self, old: str, new: str) -> None:
        """Rename a file; it replaces one of the new name."""
        os.replace(self._name(old), self._name(new), src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def remove(self, name: str) -> None:
        """Delete a file."""
        os.unlink(self._name(name), dir_fd=self._descriptor)

    def ages(self) -> Iterator[tuple[float, str]]:
        """Yield the time of the last change and the name of every file that `write` made."""
        with os.scandir(self._path if self._descriptor is None else self._descriptor) as entries:
            for entry in entries:
                if _FILE.fullmatch(entry.name):
                    yield entry.stat(follow_symlinks=False).st_mtime, entry.name

    def _name(self, name: str) -> str:
        return str(self._path / name) if self._descriptor is None else name


def _check(path: Path, status: os.stat_result, is_kind: Any) -> None:
    """Raise PermissionError unless a file or folder is of a kind and only the user or root can have written it."""
    if not is_kind(status.st_mode):
        raise PermissionError(f"{path} is not a {'folder' if is_kind is stat.S_ISDIR else 'regular file'}")
    if hasattr(os, "geteuid"):
        if status.st_uid not in (os.geteuid(), 0):
            raise PermissionError(f"{path} belongs to another user")
        if status.st_mode & 0o022:
            raise PermissionError(f"other users can write to {path}")


def _clean(folder: _Folder) -> None:
    kept = []
    for age, name in sorted(folder.ages()):
        if name.endswith(".o"):
            kept.append(name)
        elif age < time.time() - _STALE:
            folder.remove(name)
    for name in kept[:-_MOST_FILES]:
        folder.remove(name)


@contextlib.contextmanager
def _usable(path: Path) -> Iterator[None]:
    """Turn an error into a warning, one per process. No warning for a missing file."""
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as error:
        if path not in _warned:
            _warned.add(path)
            warnings.warn(f"code is compiled again, not read from the object cache: {error}", RuntimeWarning, 2)
