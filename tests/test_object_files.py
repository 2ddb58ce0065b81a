"""The folder of the object cache: code is taken only from files that nobody else can have written."""

import os
import threading
import time
import warnings

import pytest

from rnnx.engines.cpu.runtime import object_files

KEY, OTHER = "a" * 64, "b" * 64
posix = pytest.mark.skipif(os.name != "posix", reason="permissions and links of POSIX")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of an empty cache, given by a relative path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RNNX_CACHE_DIR", "cache")
    monkeypatch.setattr(object_files, "_warned", set())
    object_files.cache_directory.cache_clear()
    yield tmp_path / "cache"
    object_files.cache_directory.cache_clear()


def test_the_folder_does_not_move_with_the_process(folder, monkeypatch):
    object_files.write(KEY, b"code")
    (folder.parent / "elsewhere" / "cache").mkdir(parents=True, mode=0o700)
    monkeypatch.chdir(folder.parent / "elsewhere")
    assert object_files.read(KEY) == b"code"
    object_files.write(OTHER, b"more")
    assert (folder / f"{OTHER}.o").exists()
    assert object_files.cache_directory() == folder


@posix
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write(folder, mode):
    object_files.write(KEY, b"code")
    (folder / f"{KEY}.o").chmod(mode)
    with pytest.warns(RuntimeWarning, match=f"other users can write to .*{KEY}.o"):
        assert object_files.read(KEY) is None
    with warnings.catch_warnings(action="error"):
        assert object_files.read(KEY) is None  # one warning is enough
    object_files.write(KEY, b"code")
    assert object_files.read(KEY) == b"code"


@posix
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "device"])
def test_only_regular_files(folder, kind):
    object_files.write(OTHER, b"code")
    path = folder / f"{KEY}.o"
    if kind == "link":
        (folder / f"{OTHER}.o").rename(folder.parent / "target")
        path.symlink_to(folder.parent / "target")
    elif kind == "pipe":
        os.mkfifo(path, 0o600)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.warns(RuntimeWarning, match=f"{KEY}.o"):
        assert object_files.read(KEY) is None
    object_files.write(KEY, b"code")
    assert object_files.read(KEY) == (None if kind == "folder" else b"code")


@posix
def test_the_folder_is_checked_every_time(folder):
    object_files.write(KEY, b"code")
    folder.chmod(0o720)
    with pytest.warns(RuntimeWarning, match="other users can write to .*cache"):
        assert object_files.read(KEY) is None
    object_files.write(OTHER, b"code")
    folder.chmod(0o700)
    assert os.listdir(folder) == [f"{KEY}.o"]
    folder.rename(folder.parent / "moved")
    folder.symlink_to(folder.parent / "moved")
    assert object_files.read(KEY) is None


@posix
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_belongs_to_another_user(folder, what, monkeypatch):
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    object_files.write(KEY, b"code")
    os.chown(folder if what == "folder" else folder / f"{KEY}.o", 65534, -1)
    with pytest.warns(RuntimeWarning, match="belongs to another user"):
        assert object_files.read(KEY) is None
    monkeypatch.setattr(object_files.os, "geteuid", lambda: 65534)
    assert object_files.read(KEY) == b"code"  # the user's, next to root's


@posix
def test_a_folder_that_is_exchanged_while_it_is_used(folder, monkeypatch):
    object_files.write(KEY, b"code")
    listed = os.fstat

    def exchange(descriptor):
        if folder.exists():
            folder.rename(folder.parent / "moved")
        return listed(descriptor)

    monkeypatch.setattr(object_files.os, "fstat", exchange)
    assert object_files.read(KEY) == b"code"


def test_a_file_counts_under_its_own_name_only(folder):
    object_files.write(KEY, b"code")
    (folder / f"{KEY}.o").rename(folder / f"{OTHER}.o")
    assert object_files.read(OTHER) is None
    assert object_files.read(KEY) is None


def test_files_of_killed_processes_go_and_files_of_the_user_stay(folder):
    object_files.cache_directory()
    stale, fresh = (folder / f"{KEY}.o.{i}{'0' * 15}.part" for i in range(2))
    mine = [folder / name for name in ("notes.o", "notes.part", "tmp12345678")]
    for path in (stale, fresh, *mine):
        path.touch()
        if path != fresh:
            os.utime(path, (time.time() - 7200,) * 2)
    object_files.write(KEY, b"code")
    assert sorted(folder.iterdir()) == sorted([fresh, *mine, folder / f"{KEY}.o"])


def test_a_large_file_is_not_read(folder, monkeypatch):
    object_files.write(KEY, b"code" * 10)
    monkeypatch.setattr(object_files, "_MOST_BYTES", 40)
    assert object_files.read(KEY) is None


def test_threads_write_and_read_at_once(folder):
    found = []

    def work():
        for _ in range(50):
            object_files.write(KEY, b"code" * 1000)
            found.append(object_files.read(KEY))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"code" * 1000] * 200
    assert os.listdir(folder) == [f"{KEY}.o"]
