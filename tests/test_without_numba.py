"""All that runs models, and trains them, does so where Numba and llvmlite are not installed."""

import subprocess
import sys
import tomllib
from pathlib import Path

from rnnx._core.install import install_command

ROOT = Path(__file__).parent.parent
BLOCK = "import sys\nsys.modules['numba'] = sys.modules['llvmlite'] = None\n"

PROGRAM = """
import numpy as np
import rnnx
from rnnx import course
from rnnx.data import make_corpus
from rnnx.models import CharModel, SequenceClassifier
from rnnx.optim import Adam
from rnnx.training import Trainer

assert rnnx.engine_for(np.zeros(3)) == "reference"
x = np.ones((3, 2, 4), np.float32)
for cell in ("lstm", "layer_norm_gru"):
    model = SequenceClassifier(3, 4, 2, cell=cell, seed=0)
    assert np.allclose(model.predict(x).sum(axis=0), 1)
    assert model.quantized().predict(x).shape == (2, 2)
a, _, _, caches = rnnx.lstm_forward(x, None, rnnx.initialize_parameters("lstm", 3, 5, seed=0))
assert rnnx.lstm_backward(np.ones_like(a), caches)["dx"].shape == x.shape
assert rnnx.Stream("gru", rnnx.initialize_parameters("gru", 3, 5, seed=0)).step(x[:, :1, 0]).shape == (5, 1)
corpus = make_corpus("names", "tri\\ntyr\\nvel\\nste\\nabc\\nbca\\ncab\\n", by="lines")
model = CharModel(corpus.tokenizer.vocab_size, 4, seed=0)
Trainer(model, Adam(learning_rate=0.01), clip_norm=5.0).fit(corpus.train, iterations=2)
assert len(model.generate(corpus.tokenizer, n=2, seed=0)) == 2
letters = {0: "\\n", 1: "a", 2: "b"}
course.model(["ab", "ba"], letters, {c: i for i, c in letters.items()}, 3, vocab_size=3, verbose=False)
try:
    rnnx.use_engine("cpu").__enter__()
except ValueError as error:
    assert "requires numba" in str(error) and "pip install" in str(error)
"""

COMMANDS = """
import contextlib, io
from rnnx.__main__ import main
for command in ("train --hidden-size 4 --iterations 2 --output run", "sample run -n 1", "evaluate run", "info",
                "export run model.c"):
    sys.argv = ["rnnx", *command.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, command
"""


def run(code, folder):
    return subprocess.run([sys.executable, "-c", BLOCK + code], cwd=folder, capture_output=True, text=True)


def test_the_library(tmp_path):
    result = run(PROGRAM, tmp_path)
    assert result.returncode == 0, result.stderr


def test_the_command_line(tmp_path):
    """`rnnx train` says once what is missing."""
    result = run(COMMANDS, tmp_path)
    assert result.returncode == 0, result.stderr
    note = f"slow: engine 'cpu' requires numba, which is disabled or not installed ({install_command('jit')})"
    assert result.stdout.count(note) == 1
    assert (tmp_path / "model.c").exists()


def test_the_extra():
    """What installs for tests, and the first command of the README, bring it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert not [name for name in project["dependencies"] if name.startswith(("numba", "llvmlite"))]
    extras = project["optional-dependencies"]
    assert [name.partition(">")[0] for name in extras["jit"]] == ["numba", "llvmlite"]
    assert "rnnx[jit,lab]" in extras["test"]
    assert 'pip install -q ".[jit,lab]"' in (ROOT / "README.md").read_text(encoding="utf-8")
