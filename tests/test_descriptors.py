"""Programs that close all file descriptors, as daemons do: their next files get the numbers, and stay theirs."""

import subprocess
import sys

import pytest

CODE = """
import gc, os, sys, time
from pathlib import Path
import numpy as np, rnnx
from rnnx.data import encode_file, files
from rnnx.engines.cpu.runtime import thread_pool
from rnnx.engines.cpu.runtime.thread_policy import Policy, policy
from rnnx.training import Run, Settings, read_metrics

def passes(dtype):
    p = rnnx.initialize_parameters("lstm", 3, 96, seed=0, dtype=dtype)
    a, _, _, caches = rnnx.lstm_forward(np.ones((3, 6, 4), dtype), None, p)
    rnnx.lstm_backward(np.ones_like(a), caches)
    return a

policy.set(Policy(lambda work: (3, True), measures=False))
text = Path("text.txt")
text.write_text("to be or not to be, that is the question. " * 99)
expected = passes("float32")
encoded = encode_file(text, memory_limit=0)
files.encode.__kwdefaults__["memory_limit"] = 0  # the corpus of the run is mapped, too
settings = Settings(text=str(text), by="streams", hidden_size=(8,), iterations=12, epochs=None, batch_size=2)
run = Run.start("run", settings)
steps = run.train(save_every=0)
next(steps)

os.closerange(3, 1024)
mine = [open(f"mine-{i}", "w+b", buffering=0) for i in range(60)]
while not thread_pool.pool().workers["asleep"][1:3].all():
    time.sleep(0.001)
assert np.array_equal(passes("float32"), expected)
passes("float64")  # compiles, and writes to the object cache
list(steps)
assert encoded.tokenizer.decode(encoded.indices) == text.read_text()
del encoded, run, steps
gc.collect()

for i, file in enumerate(mine):
    assert os.path.samestat(os.fstat(file.fileno()), os.stat(f"mine-{i}")), f"{i} is closed"
    assert file.tell() == os.stat(f"mine-{i}").st_size == 0, f"{i} is written to"
assert {record["step"] for record in read_metrics("run")} == set(range(1, 13))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot close a range of descriptors")
@pytest.mark.slow
def test_files_of_a_program_that_closes_all_descriptors(tmp_path, new_cache, monkeypatch):
    before = {*new_cache.iterdir()}
    monkeypatch.setenv("RNNX_CACHE_DIR", str(new_cache))
    result = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert len({*new_cache.glob("*.o")} - before) > 5
