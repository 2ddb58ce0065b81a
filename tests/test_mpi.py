"""Data-parallel training on the processes of mpiexec."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from lab import NAMES

from rnnx.training import MpiGroup, load_checkpoint, read_metrics
from rnnx.training.distributed import mpi

pytest.importorskip("mpi4py")
MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
pytestmark = pytest.mark.skipif(MPIEXEC is None, reason="there is no mpiexec")


@cache
def launcher():
    """The command that starts processes; Open MPI has to be asked for more of them than cores."""
    about = subprocess.run([MPIEXEC, "--version"], capture_output=True, text=True, check=False).stdout
    return [MPIEXEC, *(["--allow-run-as-root", "--oversubscribe"] if "Open MPI" in about or "prte" in about else [])]


def mpiexec(n, *arguments, cwd=None):
    """(code, output, errors) of Python on n ranks."""
    command = [*launcher(), "-n", str(n), sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, check=False)
    return done.returncode, done.stdout, done.stderr


OPTIONS = ["--text", "names.txt", "--by", "streams", "--seq-length", "9", "--num-layers", "2", "--dropout", "0.2"]
OPTIONS += ["--hidden-size", "7", "--batch-size", "7", "--evaluate-every", "2", "--shards", "4"]


def test_a_run_has_the_same_bits_on_any_number_of_ranks(tmp_path, run):
    (tmp_path / "names.txt").write_text(NAMES)
    code, _, err = run("train", *OPTIONS, "--iterations", "6", "--output", "one")
    assert code == 0, err
    train = ["-m", "rnnx", "train"]
    code, out, err = mpiexec(3, *train, *OPTIONS, "--iterations", "3", "--output", "many", cwd=tmp_path)
    assert code == 0, err
    assert "3 ranks, 4 shards of a batch" in out
    assert out.count("validation") == 3, out  # two evaluations, and the best loss
    shutil.copytree(tmp_path / "many", tmp_path / "two")
    code, _, err = mpiexec(2, *train, "--resume", "two", "--iterations", "6", cwd=tmp_path)
    assert code == 0, err
    assert run("train", "--resume", "many", "--iterations", "6")[0] == 0
    expected = load_checkpoint(tmp_path / "one")
    losses = [record["loss"] for record in read_metrics(tmp_path / "one")]
    for name in ("two", "many"):
        found = load_checkpoint(tmp_path / name)
        assert found.training["counters"] == expected.training["counters"]
        for own, other in ((found.arrays, expected.arrays), (found.model.parameters, expected.model.parameters)):
            assert own.keys() == other.keys()
            assert all(np.array_equal(own[key], other[key]) for key in own), name
        assert [record["loss"] for record in read_metrics(tmp_path / name)][:2] == losses[:2]


def test_errors_of_the_command_line(tmp_path):
    """One line for an error that all ranks have."""
    code, out, err = mpiexec(2, "-m", "rnnx", "train", "--text", "missing.txt", cwd=tmp_path)
    assert (code, out) == (1, "")
    assert err.count("missing.txt: No such file or directory") == 1
    assert list(tmp_path.iterdir()) == []


RANKS = """
import os, signal, sys, time
import numpy as np
from rnnx.training import MpiGroup
group = MpiGroup(timeout=0.5 if sys.argv[1] == "late" else 60)
rank, size = group.rank, group.size
assert (group.local_rank, group.local_size) == (rank, size) == (rank, 3)
for dtype in ("float32", "float64", "int64"):
    rows = np.arange(3 * 5, dtype=dtype).reshape(3, 5) + 100 * rank
    found = group.exchange(rows)
    assert found.dtype == dtype and (found == rows[rank] % 100 + 100 * np.arange(3)[:, None]).all()
    assert (group.gather(rows[1]) == rows[1] % 100 + 100 * np.arange(3)[:, None]).all()
    waits = [group.start_sum(rows[k].copy()) for k in range(2)]
    for k in (1, 0):
        assert (waits[k]() == 3 * (rows[k] % 100) + 300).all()
assert group.gather(np.zeros(0, "float32")).shape == (3, 0)
assert group.collect("x" * rank) == ["", "x", "xx"]
if rank == 1:
    print("all well", flush=True)
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[1] == "fails":
        group.abort("no more memory")
    time.sleep(60)
group.collect(None)
raise AssertionError("rank 1 is not there")
"""


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("killed", ""),  # mpiexec says it, in its own words
        ("fails", "Error: rank 1: no more memory"),
        ("late", "no answer from the other ranks for 0.5 seconds"),
    ],
)
def test_a_lost_rank_ends_all(how, message, tmp_path):
    code, out, err = mpiexec(3, "-c", RANKS, how, cwd=tmp_path)
    assert code != 0
    assert out.strip().startswith("all well")
    assert message in err
    assert "AssertionError" not in err


def test_messages(monkeypatch):
    for name in mpi._LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    assert mpi.launched() == 1
    monkeypatch.setenv("PMI_SIZE", "3")
    assert mpi.launched() == 3
    with pytest.raises(ValueError, match="`timeout` must be"):
        MpiGroup(timeout=0)
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)
    with pytest.raises(ImportError, match="data-parallel training needs mpi4py: pip install"):
        MpiGroup()
