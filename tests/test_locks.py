"""Runs that are started side by side: no two of them share a folder."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lab import NAMES

from rnnx._core.locks import NAME, FolderLock, InUse, is_held
from rnnx.training import Run, Settings, free_folder, load_checkpoint

HOLD = """
import sys
from pathlib import Path
from rnnx._core.locks import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text(NAMES, encoding="utf-8")
    return Settings(text=str(path), hidden_size=(4,), epochs=1)


def hold(folder):
    """Start a process that holds a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_in_use_is_an_error_that_names_the_process(tmp_path, settings):
    def start(folder):
        return Run.start(folder, settings)

    list(Run.start(tmp_path / "old", settings).train())
    before = (tmp_path / "old" / "model.safetensors").read_bytes()
    for name, starts in (("old", (Run.resume, start)), ("new", (start,))):
        with hold(tmp_path / name) as process:
            for one in starts:
                with pytest.raises(ValueError, match=f"{name} is in use by process {process.pid}: wait for it"):
                    one(tmp_path / name)
            process.stdin.close()
    assert (tmp_path / "old" / "model.safetensors").read_bytes() == before
    assert not (tmp_path / "new").exists()
    Run.resume(tmp_path / "old").close()
    assert NAME not in os.listdir(tmp_path / "old")


def test_the_lock_of_a_dead_process_does_not_block(tmp_path, settings):
    with hold(tmp_path / "run") as process:
        process.kill()
    assert NAME in os.listdir(tmp_path / "run")
    run = Run.start(tmp_path / "run", settings)
    list(run.train())
    assert NAME not in os.listdir(tmp_path / "run")


def test_a_run_holds_its_folder_from_start_to_end(tmp_path, settings):
    run = Run.start(tmp_path / "run", settings)
    for start in (lambda: Run.start(tmp_path / "run", settings), lambda: FolderLock(tmp_path / "run")):
        with pytest.raises(ValueError, match="is in use by another run of this process: close it, or choose another"):
            start()
    items = run.train()
    next(items)
    with pytest.raises(ValueError, match="is in use"):
        Run.start(tmp_path / "run", settings)
    list(items)
    again = Run.resume(tmp_path / "run", epochs=2)
    with pytest.raises(ValueError, match="is in use"):
        run.save()
    list(again.train())
    assert load_checkpoint(tmp_path / "run").training["counters"]["epoch"] == 2
    run = Run.resume(tmp_path / "run")
    run.save()
    del run  # releases the folder
    Run.resume(tmp_path / "run").close()


def test_who_holds_a_folder(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    assert is_held(folder) is None  # not there
    folder.mkdir()
    assert is_held(folder) is False
    lock = FolderLock(folder)
    assert is_held(folder)
    with pytest.raises(InUse):  # looking has released nothing
        FolderLock(folder)
    lock.release()
    assert is_held(folder) is False
    with hold(folder) as process:
        assert is_held(folder)
        process.kill()
    assert NAME in os.listdir(folder)
    assert is_held(folder) is False
    with monkeypatch.context() as patch:
        patch.setattr("platform.node", lambda: "another machine")
        assert is_held(folder) is None
    with monkeypatch.context() as patch:

        def of_another_user(*_):
            raise PermissionError(13, "Permission denied")

        patch.setattr("rnnx._core.locks._open_existing", of_another_user)
        assert is_held(folder) is None
    fcntl = pytest.importorskip("fcntl")

    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    assert is_held(folder) is None


def test_a_failed_start_leaves_nothing(tmp_path, settings):
    for name in ("cell", "optimizer"):
        with pytest.raises(ValueError, match=r"must be .*got 'other'"):
            Run.start(tmp_path / "a" / "b", Settings(text=settings.text, **{name: "other"}))
    Run.start(tmp_path / "a" / "b", settings).close()
    assert os.listdir(tmp_path) == ["names.txt"]
    with pytest.raises(OSError, match="missing"):
        Run.resume(tmp_path / "missing")
    assert os.listdir(tmp_path) == ["names.txt"]


def test_free_folders_are_distinct(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: free_folder(tmp_path / "runs", "names-lstm"), range(40)))
    assert len(set(folders)) == 40
    assert {folder.name for folder in folders} == {"names-lstm", *(f"names-lstm-{i}" for i in range(2, 41))}


@pytest.mark.skipif(sys.platform == "win32", reason="a folder of Windows cannot be a FIFO")
@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_a_lock_file_of_another_kind_is_an_error(tmp_path, kind):
    path, other = tmp_path / "run" / NAME, tmp_path / "other"
    path.parent.mkdir()
    other.write_text("precious")
    {"fifo": os.mkfifo, "link": lambda path: path.symlink_to(other), "folder": Path.mkdir}[kind](path)
    with pytest.raises((OSError, ValueError)):
        FolderLock(path.parent)
    assert other.read_text() == "precious"


def test_without_locks_of_the_file_system(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    FolderLock(tmp_path / "run").release()
    assert os.listdir(tmp_path) == []


def test_runs_started_together(run, tmp_path):
    """Default folders are distinct; of two runs with one folder, one ends with an error."""
    arguments = ("train", "--text", "names.txt", "--hidden-size", "4", "--quiet")
    command = [sys.executable, "-m", "rnnx", *arguments, "--epochs"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    short, long = (subprocess.Popen([*command, epochs], cwd=tmp_path, **pipes) for epochs in ("2", "100000"))
    short.communicate()
    while not (locks := list(tmp_path.glob(f"runs/*/{NAME}"))):
        assert long.poll() is None
    (folder,) = (lock.parent for lock in locks)
    code, _, error = run(*arguments, "--output", folder)
    assert code == 1
    assert f"{folder.name} is in use by process {long.pid}: wait for it, or choose another folder" in error
    long.send_signal(signal.SIGTERM)
    long.communicate()
    assert short.returncode == 0
    assert sorted(os.listdir(tmp_path / "runs")) == ["names-lstm", "names-lstm-2"]
    epochs = {path.name: load_checkpoint(path).training["counters"]["epoch"] for path in tmp_path.glob("runs/*")}
    assert epochs.pop(folder.name) > 0
    assert list(epochs.values()) == [2]


def test_a_failed_start_of_the_command_line_leaves_nothing(run, tmp_path):
    before = os.listdir(tmp_path)
    assert run("train", "--text", "missing.txt")[0] == 1
    assert os.listdir(tmp_path) == before
