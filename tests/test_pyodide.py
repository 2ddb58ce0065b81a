"""The reference engine in Pyodide, the Python of browsers: nothing there can be compiled, and there are no threads.

Needs Node.js, and the npm package pyodide where Node finds it (``npm install pyodide`` here, or NODE_PATH). Pyodide
downloads NumPy, unless its wheel, as named in pyodide-lock.json, is in the folder of the npm package.
"""

import importlib
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NODE = shutil.which("node")
NO_NUMPY = 75
PROGRAM = """
import sys
sys.path[:0] = ["/packages"]
import numpy as np
import rnnx
from rnnx import course
from rnnx.data import make_corpus
from rnnx.models import CharModel, SequenceClassifier
from rnnx.optim import Adam
from rnnx.training import Checkpoint, Trainer, save_checkpoint

assert rnnx.engine_for(np.zeros(3)) == "reference"
parameters = rnnx.initialize_parameters("lstm", n_x=3, n_a=5, rng=0, dtype="float64")
a, _, _, caches = rnnx.lstm_forward(np.ones((3, 2, 4)), None, parameters)
assert rnnx.lstm_backward(np.ones_like(a), caches)["dx"].shape == (3, 2, 4)
assert rnnx.check_cell("gru")["reference"] < 1e-6
corpus = make_corpus("names", "tri\\ntyr\\nvel\\nste\\nabc\\nbca\\ncab\\n", by="lines")
model = CharModel(corpus.tokenizer.vocab_size, 4, rng=0)
Trainer(model, Adam(0.01), clip_norm=5.0).fit(corpus.train, iterations=2)
assert len(model.generate(corpus.tokenizer, n=2, rng=0)) == 2
text = make_corpus("text", "to be or not to be, that is the question. " * 20, by="streams", seq_length=8)
Trainer(model := CharModel(text.tokenizer.vocab_size, 4, rng=0), Adam(0.01)).fit(text.train, iterations=2, batch_size=4)
save_checkpoint("model.safetensors", Checkpoint(model, text.tokenizer))  # without safetensors
classifier = SequenceClassifier(3, 4, 2, bidirectional=True, rng=0)
assert classifier.predict(np.ones((3, 2, 4), np.float32), lengths=[4, 2]).shape == (2, 2)
letters = {0: "\\n", 1: "a", 2: "b"}
course.model(["ab", "ba"], letters, {c: i for i, c in letters.items()}, 3, vocab_size=3, verbose=False)
"""
SCRIPT = """
const { loadPyodide } = require("pyodide");
(async () => {
  const python = await loadPyodide({ stdout: () => {}, stderr: console.error });
  await python.loadPackage("numpy").catch(() => {});
  try { python.runPython("import numpy"); } catch (error) { process.exit(%d); }
  python.FS.mkdirTree("/packages");
  python.FS.mount(python.FS.filesystems.NODEFS, { root: %s }, "/packages");
  python.runPython(%s);
})().catch((error) => { console.error(error); process.exit(1); });
"""


@pytest.mark.slow
@pytest.mark.skipif(not NODE, reason="no Node.js")
def test_the_reference_engine(tmp_path):
    if subprocess.run([NODE, "-e", "require.resolve('pyodide')"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("no npm package pyodide")
    packages = tmp_path / "packages"
    for name in ("rnnx", "array_api_compat", "platformdirs"):
        source = Path(importlib.import_module(name).__file__).parent
        shutil.copytree(source, packages / name, ignore=shutil.ignore_patterns("__pycache__"))
    script = SCRIPT % (NO_NUMPY, json.dumps(str(packages)), json.dumps(PROGRAM))
    result = subprocess.run([NODE, "-e", script], cwd=ROOT, capture_output=True, text=True, timeout=300)
    if result.returncode == NO_NUMPY:
        pytest.skip("Pyodide cannot download NumPy")
    assert result.returncode == 0, result.stderr


def test_what_cannot_be_compiled_there_is_not_asked_for():
    """`pip install rnnx[jit]` installs no Numba in Pyodide, where there is none."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for requirement in extras["jit"]:
        assert re.search(r"; sys_platform != 'emscripten'$", requirement)
