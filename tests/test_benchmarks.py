"""The benchmarks that are commands: `gpu.py` as far as it runs without a GPU, and `peers.py` with stated times."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NO_COMPILER

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "asv_benchmarks").exists(), reason="the benchmarks are not in an archive")


def gpu(*arguments):
    command = [sys.executable, str(ROOT / "asv_benchmarks" / "gpu.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})


@pytest.mark.skipif(not shutil.which("g++"), reason=NO_COMPILER)
@pytest.mark.slow
def test_the_checks_pass_in_the_emulation(tmp_path):
    out = gpu("--emulate", "--quick", "--seed", 7, "--json", tmp_path / "rows.json")
    assert out.returncode == 0, out.stdout + out.stderr
    assert out.stdout.splitlines()[-1].startswith("seed 7, ")
    checks = [row for row in json.loads((tmp_path / "rows.json").read_text())["rows"] if row["kind"] == "check"]
    assert len(checks) >= 7
    assert {row["status"] for row in checks if row["name"] != "packages"} == {"ok"}


def test_without_a_gpu_it_says_so():
    out = gpu("--quick")
    assert out.returncode == 2
    assert out.stdout.splitlines()[-1].startswith("nothing to run on: ")


@pytest.fixture
def peers(monkeypatch):
    """`peers.py`, where rnnx takes 2 ms, torch 2.4 (1.8 in the first round) and JAX 6, and the processes it starts."""
    monkeypatch.syspath_prepend(str(ROOT / "asv_benchmarks"))
    import peers

    processes, ms = [], {"rnnx": 2.0, "torch": 2.4, "jax": 6.0, "fastest product": 1.0}

    def medians_in_turn(calls, rounds, threads):
        processes.extend((*arguments, threads) for target, *arguments in calls.values() if target == "peers:timed")
        noise = {side: [0.75, 100, 50] if side == "torch" else [1, 100, 10] for side in calls}  # by round
        return {side: [ms[side] * factor for factor in noise[side][:rounds]] for side in calls}

    monkeypatch.setattr(peers, "medians_in_turn", medians_in_turn)

    def child(target, *arguments, threads=None):
        processes.extend([(*arguments, threads)] if target == "peers:memory" else ())
        return ("micro-kernel", 1e8) if target == "peers:fastest" else 100.0

    monkeypatch.setattr(peers, "child", child)
    monkeypatch.setattr(peers, "find_spec", lambda name: True)
    peers.floor.cache_clear()

    def run(*options):
        processes.clear()
        monkeypatch.setattr(sys, "argv", ["peers.py", *options])
        peers.main()
        return list(processes)

    yield run
    peers.floor.cache_clear()


def test_every_side_and_shape_has_a_process_of_its_own_and_is_compared_by_rounds(peers, capsys):
    options = ["--jobs", "step", "--cells", "gru_reset_after", "--peers", "torch", "jax", "--rounds", "3"]
    options += ["--shapes", "3,256,8,7", "2,3,1,5"]
    processes = peers(*options, "--threads", "one", "all")
    assert len(processes) == 2 * 2 * 3
    assert processes[0] == ("rnnx", "step", "gru_reset_after", "float32", (3, 256, 8, 7), True, 1)
    assert processes[-1] == ("jax", "step", "gru_reset_after", "float32", (2, 3, 1, 5), False, None)
    one, all_cores = (line.split(" | ") for line in capsys.readouterr().out.splitlines() if "| torch |" in line)
    assert one[3:9] == ["2", "1.20", "1.10", "1.20", "1.00", "33% (!)"]
    assert one[10:] == ["0.90", "0.90 |"]  # of the fastest turns
    assert all_cores[3:8] == ["2", "1.20 (!)", "3.00", "1.20 (!)", "1.40"]  # targets missed


def test_a_limit_of_seconds_ends_the_table(peers, capsys):
    assert not peers("--rounds", "3", "--limit", "0")
    assert "0 of 20 shapes within the limit" in capsys.readouterr().out


def test_memory_is_measured_with_the_threads_of_the_table(peers, capsys):
    processes = peers("--jobs", "memory", "--shapes", "3,4,2,5", "--rounds", "1", "--threads", "one", "all")
    assert [(*p[:1], *p[-2:]) for p in processes] == [
        ("rnnx", True, 1), ("torch", True, 1), ("rnnx", False, None), ("torch", False, None)
    ]  # fmt: skip
    *_, row = capsys.readouterr().out.splitlines()
    assert row.split(" | ")[3:] == ["1", "1.00", "", "1.00", "", "", "", "", " |"]  # nothing of turns


def test_sides_have_turns(peers):
    from turns import medians_in_turn

    found = medians_in_turn({"two": ("functools:partial", sum, (1, 1)), "none": ("functools:partial", sum, ())}, 2)
    assert [len(found["two"]), len(found["none"])] == [2, 2]
    assert all(0 < ms < 10 for ms in (*found["two"], *found["none"]))
    with pytest.raises(RuntimeError, match="the first argument must be callable"):
        medians_in_turn({"fails": ("functools:partial", 3)}, 1)


def test_the_cells_of_the_peers_are_those_of_rnnx(peers, request):
    import numpy as np
    import peer_plan
    import peer_sides
    from shared import GATES

    import rnnx

    assert len(peer_plan.SIZES) == len(set(peer_plan.SIZES)) == 20
    assert {table.cell for table in peer_plan.PLAN} == set(GATES)
    jax, _ = (pytest.importorskip(name) for name in ("jax", "onnxruntime"))
    request.addfinalizer(lambda before=jax.config.jax_enable_x64: jax.config.update("jax_enable_x64", before))
    for cell, gates in GATES.items():
        x = np.ones((2, 1, 3), np.float32)
        side = peer_sides.Jax(cell, "float32", (3, 4, 1, 2))
        wx, wh, b = map(np.asarray, side.weights)
        assert wx.shape == (gates * 4, 3)
        rows = dict(
            zip({"lstm": "fico", "rnn": "a"}.get(cell, "urc"), np.split(np.hstack([wh, wx]), gates), strict=True)
        )
        given = {f"W{k}": w for k, w in rows.items()} | {f"b{k}": np.zeros((4, 1), np.float32) for k in rows}
        if cell == "rnn":
            given = {"Waa": wh, "Wax": wx, "ba": given["ba"]}
        elif cell == "gru_reset_after":
            given["bhc"] = np.zeros((4, 1), np.float32)
        states, *_ = rnnx.recurrent_forward(cell, x.T, (), given)
        assert np.allclose(np.asarray(side.run(x, wx, wh, np.zeros_like(b)))[-1], states[0][:, :, -1].T, atol=1e-6)
        assert peer_sides.Onnxruntime(cell, "float32", (3, 4, 1, 2)).inference()[0].shape == (2, 1, 1, 4)
