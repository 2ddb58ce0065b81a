"""The examples in README.md run, and CI runs its two commands."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_is_an_example_per_audience():
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize("code", EXAMPLES, ids=["learner", "models", "practitioner", "stream", "researcher"])
def test_examples_run(code, tmp_path):
    path = tmp_path / "example.py"
    path.write_text(code, encoding="utf-8")
    scope: dict = {"__name__": "example"}
    exec(compile(code, str(path), "exec"), scope)
    if "stream" in scope:
        assert scope["a"].shape == scope["c"].shape == (128, 1)
    elif "texts" in scope:
        assert len(scope["texts"]) == 3
    else:
        assert any(key.startswith("d") and value.size for key, value in scope["gradients"].items())


def test_two_commands():
    commands = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)
    assert len(commands) == 2
    assert all(command.startswith("python3 -m venv .venv && .venv/bin/pip install") for command in commands)
    assert commands[0].endswith("rnnx train")
    assert commands[1].endswith("-m pytest -n 2")
    assert "-m1 -- '-m pytest' README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
