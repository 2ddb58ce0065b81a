"""Files that are written whole or not at all."""

import os
import stat
import sys

import pytest

from rnnx._files import check_writable, write_atomically

posix = pytest.mark.skipif(sys.platform == "win32", reason="links and permissions of POSIX")


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"one")
    write_atomically(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["file"]


@posix
def test_permissions_and_links_stay(tmp_path):
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


def test_check_writable(tmp_path):
    path = tmp_path / "file"
    check_writable(path)
    assert not path.exists()
    path.write_bytes(b"old")
    check_writable(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(ValueError, match="there is no folder"):
        check_writable(tmp_path / "missing" / "file")
    with pytest.raises(ValueError, match="it exists and is not a file"):
        check_writable(tmp_path)
    with pytest.raises(OSError, match="too long"):
        check_writable(tmp_path / ("x" * 300))
