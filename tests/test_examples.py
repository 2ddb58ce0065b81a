"""The examples, on small problems."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name):
    """The main function of an example."""
    return runpy.run_path(EXAMPLES / f"{name}.py")["main"]


def test_time_series():
    """The model beats both forecasts that need no learning, by far."""
    errors = example("time_series")(n_train=500, epochs=10, hidden_size=24)
    ours = errors.pop("rnnx")
    assert len(errors) == 2
    assert ours < 0.5 * min(errors.values())


@pytest.mark.slow
def test_normalise_dates(capsys):
    """A third of the dates, where guessing has one in 36525; and the model answers the same out of its file."""
    right = example("normalise_dates")("scaled_dot", n_train=1500, n_held_out=50, hidden_size=48, epochs=4)
    assert right > 1 / 3
    lines = capsys.readouterr().out.splitlines()
    assert f"exactly right: {right:.2%} of 150 dates on unseen days" in lines
    answers = [line.split()[-1] for line in lines[-9:]]
    assert sum(answer == "1999-03-07" for answer in answers) >= 5


@pytest.mark.slow
def test_own_cells(tmp_path):
    """Both cells and the LSTM remember both numbers."""
    path = tmp_path / "curves.svg"
    curves = example("own_cells")(n_steps=12, n_train=1000, epochs=8, hidden_size=16, path=path)
    assert path.stat().st_size > 1000
    assert len(curves) == 3
    assert all(len(errors) == 8 and min(errors) < 0.06 for errors in curves.values())  # 0.17 without a memory
