"""Models with cells of the user's own in checkpoints and runs."""

import json
import re

import numpy as np
import pytest
from safetensors import safe_open

import rnnx
from rnnx.cells import CELLS
from rnnx.cells.words import sigmoid, tanh
from rnnx.models import CharModel
from rnnx.training import Checkpoint, Run, Settings, load_checkpoint, save_checkpoint


@rnnx.cell
def slow(x, a, *, f=rnnx.Gate, c=rnnx.Gate, rate=0.5):
    return a + rate * sigmoid(f(x, a)) * (tanh(c(x, a)) - a)


@rnnx.cell(name="slow")
def other_states(x, h, *, f=rnnx.Gate, c=rnnx.Gate, rate=0.5):
    return h + rate * sigmoid(f(x, h)) * (tanh(c(x, h)) - h)


@rnnx.cell(name="slow")
def other_keys(x, a, *, g=rnnx.Gate, c=rnnx.Gate, rate=0.5):
    return a + rate * sigmoid(g(x, a)) * (tanh(c(x, a)) - a)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, Checkpoint(CharModel(5, 4, cell=slow.replace(rate=0.25), seed=0)))
    return path


def test_a_cell_of_ones_own_is_supplied_again(path):
    cell = slow.replace(rate=0.25)
    model = load_checkpoint(path, cell=cell).model
    assert model.cell is cell
    expected = CharModel(5, 4, cell=cell, seed=0)
    indices = np.array([[0, 3, 1]])
    np.testing.assert_array_equal(model.forward(indices)[0], expected.forward(indices)[0])
    with safe_open(path, framework="numpy") as file:
        text = file.metadata()["rnnx"]
    assert json.loads(text)["cell"]["name"] == "slow"
    assert __name__ not in text  # no place from which code could be imported


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (None, "has a cell of your own, 'slow': pass it to `load_checkpoint` or `Run.resume` as `cell`"),
        (CELLS["lstm"], "`cell` must have the name 'slow' of the cell of the model in"),
        (other_states, "`cell` must have the states ['a'] of the cell of the model in"),
        (other_keys, "`cell` must have the parameters ['Wf', 'bf', 'Wc', 'bc'] of the cell of the model in"),
        (slow, "`cell` must have the numbers {'rate': 0.25} of the cell of the model in"),
        ("slow", "`cell` must be a rnnx.Cell or None; got 'slow'"),
    ],
)
def test_wrong_cells(path, cell, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        load_checkpoint(path, cell=cell)


def test_a_model_with_a_known_cell_needs_none(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, Checkpoint(CharModel(5, 4, cell="cifg")))
    assert load_checkpoint(path).model.cell is CELLS["cifg"]
    with pytest.raises(ValueError, match=r"`cell` must be None, because the model in .* got 'slow'"):
        load_checkpoint(path, cell=slow)


def test_a_run_with_a_cell_of_ones_own_resumes(tmp_path):
    text = tmp_path / "names.txt"
    text.write_text("".join(f"abc{'de' * (k % 5)}\n" for k in range(60)))
    options = {"text": str(text), "hidden_size": (8,), "batch_size": 4, "epochs": None}
    for folder, n in (("whole", 6), ("parts", 3)):
        run = Run.start(tmp_path / folder, Settings(iterations=n, **options), cell=slow)
        assert run.settings.cell == "slow"
        assert len(list(run.train())) >= n
    with pytest.raises(ValueError, match="has a cell of your own, 'slow'"):
        Run.resume(tmp_path / "parts")
    run = Run.resume(tmp_path / "parts", cell=slow, iterations=6)
    assert list(run.train())
    expected = load_checkpoint(tmp_path / "whole", cell=slow).model.parameters
    for name, value in run.model.parameters.items():
        np.testing.assert_array_equal(value, expected[name])


@pytest.mark.parametrize("name", CELLS)
def test_a_model_with_a_known_cell_is_saved(name, tmp_path):
    """Without what the cell computes from its parameters."""
    options = {"cell": "gru", "reset_after": True} if name == "gru_reset_after" else {"cell": name}
    model = CharModel(5, 4, seed=0, **options)
    assert {*model.shapes()} == {*model.parameters}
    save_checkpoint(tmp_path / "model.safetensors", Checkpoint(model))
    loaded = load_checkpoint(tmp_path / "model.safetensors").model
    with rnnx.use_engine("reference"):  # which compiles nothing
        np.testing.assert_array_equal(loaded.predict(np.array([[0, 3]]))[0], model.predict(np.array([[0, 3]]))[0])
