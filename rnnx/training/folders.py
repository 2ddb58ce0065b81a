"""Folders of runs: one that is free, one that can be written to, and one that is locked."""

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rnnx._core.files import check_writable
from rnnx._core.locks import FolderLock
from rnnx.training import checkpoint as checkpoints
from rnnx.training.distributed.group import Group, agreed

T = TypeVar("T")


def free_folder(parent: str | Path, name: str) -> Path:
    """Create and return the first of parent/name, parent/name-2, ... that does not exist.

    Processes that call it at the same time get different folders.

    See Also
    --------
    Run

    Examples
    --------
    >>> from rnnx.training import free_folder
    >>> [free_folder("runs", "lstm").name for _ in range(3)]
    ['lstm', 'lstm-2', 'lstm-3']
    """
    Path(parent).mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = Path(parent) / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError


def check_folder(folder: Path) -> None:
    """Raise unless a checkpoint can be written to the folder, without creating anything."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if not existing.is_dir():
        raise ValueError(f"cannot write to {folder}: {existing} is not a folder")
    check_writable(existing / checkpoints.FILE_NAME)


def with_lock(folder: Path, group: Group, make: Callable[[FolderLock | None], T]) -> T:
    """Return what all ranks make, with the lock of a folder on rank 0 and None on the others."""
    locks: list[FolderLock] = []

    def work() -> T:
        if group.rank == 0:
            locks.append(FolderLock(folder))
        return make(locks[0] if locks else None)

    try:
        return agreed(group, work)
    except BaseException:
        for lock in locks:
            lock.release()
        raise
