"""Files that are written whole or not at all."""

import os
import secrets
import stat
from pathlib import Path


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write a file. What stands at `path` is at every moment either the old file or, whole, the new one.

    A link stays, and its target is replaced; the permissions of the old file stay.

    Raises
    ------
    OSError
        If it cannot be written. Nothing is left behind then.
    """
    _write(Path(path).resolve(), data)


def check_writable(path: str | Path) -> None:
    """Raise unless `write_atomically` can write there: tries out a temporary file in the folder.

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
    _write(target, None)


def _write(path: Path, data: bytes | None) -> None:
    """Write to a file beside `path` and put it in its place; without data, only see that this would work."""
    temporary = path.parent / f".rnnx-{secrets.token_hex(8)}.part"
    try:
        with temporary.open("xb") as file:
            file.write(data or b"")
            file.flush()
            os.fsync(file.fileno())
        if path.exists():  # raises if the name is too long
            os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
        if data is not None:
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
