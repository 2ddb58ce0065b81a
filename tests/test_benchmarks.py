"""The command for GPU machines, as far as it runs without a GPU."""

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
