"""Atomic file writes."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rnnx import compare
from rnnx._core import files
from rnnx._core.files import check_writable, read_regular, write_atomically
from rnnx.data import CharTokenizer, read_text
from rnnx.training import load_checkpoint, read_metrics

posix = pytest.mark.skipif(sys.platform == "win32", reason="links and permissions of POSIX")


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"one")
    write_atomically(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["file"]


@posix
def test_permissions_and_links_are_kept(tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    umask = os.umask(0o027)
    try:
        write_atomically(target, b"")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    target.chmod(0o604)
    link.symlink_to(target)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o604


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, function):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


KILLED = """
import os, signal, sys
from rnnx._core import files
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
files.write_atomically(sys.argv[1], b"new" * 1000)
"""


@posix
@pytest.mark.parametrize("name", ["file", "x" * 255])
def test_a_killed_process_leaves_one_file_which_the_next_write_reuses(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"old")
    for _ in range(2):
        killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert len(os.listdir(tmp_path)) == 2
    assert path.read_bytes() == b"old"
    check_writable(path)
    assert len(os.listdir(tmp_path)) == 2
    write_atomically(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert os.listdir(tmp_path) == [name]


@posix
def test_two_writers_do_not_collide(tmp_path, monkeypatch):
    """Between one writer's fsync and replace, another one checks and replaces the file."""
    path = tmp_path / "file"
    fsync, depth = os.fsync, 0

    def meanwhile(descriptor):
        nonlocal depth
        fsync(descriptor)
        depth += 1
        if depth == 1:
            check_writable(path)
            write_atomically(path, b"second, and longer")
            assert path.read_bytes() == b"second, and longer"

    monkeypatch.setattr(os, "fsync", meanwhile)
    write_atomically(path, b"first")
    assert depth == 3
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


@posix
def test_a_temporary_file_of_another_user_is_not_used(tmp_path, monkeypatch):
    path, part = tmp_path / "file", tmp_path / ".file.rnnx.part"
    part.write_bytes(b"open elsewhere")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert part.read_bytes() == b"open elsewhere"


READERS = {
    "bytes": lambda path: read_regular(path, 100),
    "checkpoint": load_checkpoint,
    "metrics": read_metrics,
    "tokenizer": CharTokenizer.load,
    "text": read_text,
    "comparison": lambda path: compare.run("torch", text=path),
}


@posix
@pytest.mark.parametrize("name", READERS)
def test_only_regular_files_are_read(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(
            ValueError, match=f"`text` must be a regular file; {path} is not|cannot read {path}: it is not"
        ):
            READERS[name](path)


def test_files_are_bounded(tmp_path):
    with pytest.raises(OSError, match=r"folder|directory|denied"):
        read_regular(tmp_path / "folder", 100)
    (tmp_path / "file").write_bytes(b"x" * 100)
    assert read_regular(tmp_path / "file", 100) == b"x" * 100
    with pytest.raises(ValueError, match="it is larger than 0 MiB"):
        read_regular(tmp_path / "file", 99)


@posix
@pytest.mark.parametrize("kind", ["link", "second name", "pipe", "folder", "locked away"])
def test_other_files_are_not_touched(tmp_path, kind):
    path, part = tmp_path / "file", tmp_path / ".file.rnnx.part"
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    if kind == "link":
        part.symlink_to(other)
    elif kind == "second name":
        os.link(other, part)
    elif kind == "pipe":
        os.mkfifo(part)
    elif kind == "folder":
        part.mkdir()
    else:
        part.write_bytes(b"")
        part.chmod(0o400)
    write_atomically(path, b"new")
    check_writable(path)
    assert path.read_bytes() == b"new"
    assert other.read_bytes() == b"precious"
    assert not {".file.rnnx.part", "file", "other"} ^ set(os.listdir(tmp_path)) or kind == "locked away"


def test_without_locks_every_write_uses_a_new_name(tmp_path, monkeypatch):
    """The Windows code path."""
    monkeypatch.setattr(files, "fcntl", None)
    path, part = tmp_path / "file", tmp_path / ".file.rnnx.part"
    part.write_bytes(b"in use")
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert part.read_bytes() == b"in use"
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path, b"")
    assert len(os.listdir(tmp_path)) == 2


def test_check_writable(tmp_path):
    path = tmp_path / "file"
    check_writable(path)
    assert not path.exists()
    path.write_bytes(b"old")
    check_writable(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(ValueError, match=r"the folder .* does not exist"):
        check_writable(tmp_path / "missing" / "file")
    with pytest.raises(ValueError, match="it exists but is not a file"):
        check_writable(tmp_path)
    with pytest.raises(OSError, match="too long"):
        check_writable(tmp_path / ("x" * 300))
    with pytest.raises(OSError, match="too long"):
        write_atomically(tmp_path / ("x" * 300), b"")
    assert os.listdir(tmp_path) == ["file"]
