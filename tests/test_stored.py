"""Files of earlier versions, in `stored`, can be read: `stored/make.py` has made them."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

import rnnx
from rnnx.training import Run, Settings, load_checkpoint, read_metrics
from rnnx.training.counters import Counters
from rnnx.training.stored import check_names, later

STORED = Path(__file__).parent / "stored"
VERSIONS = sorted(path.name for path in STORED.iterdir() if path.name[0].isdigit())
FINAL_LOSS = 2.739283179726415  # of the last step of the run


def test_this_version_is_stored():
    assert rnnx.__version__ in VERSIONS, "before a release, run `python tests/stored/make.py`"


@pytest.mark.parametrize("kind", ["characters", "classifier", "regressor", "seq2seq"])
@pytest.mark.parametrize("version", VERSIONS)
def test_models_give_the_same_results(version, kind):
    loaded = load_checkpoint(STORED / version / f"{kind}.safetensors")
    assert loaded.model.kind == kind
    names = [name for name in sorted(loaded.arrays) if name.startswith("input")]
    z = loaded.model.forward(*(loaded.arrays[name] for name in names))[0]
    np.testing.assert_allclose(z, loaded.arrays["z"], rtol=1e-11)
    assert all(tokenizer is not None for tokenizer in (getattr(loaded, name) for name in loaded.model.vocab_sizes()))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_goes_on(version, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(STORED / version / "run", folder)
    before = read_metrics(folder)
    run = Run.resume(folder, text=str(STORED / "names.txt"))
    assert (run.settings.num_layers, run.settings.hidden_size, run.settings.zoneout) == (2, (4, 3), 0.1)
    done = run.trainer.step
    assert 0 < done < 4 * run.corpus.train.n_batches(4)
    losses = [progress.loss for progress in run.train()]
    assert run.trainer.step == 4 * run.corpus.train.n_batches(4)
    assert losses[-1] == pytest.approx(FINAL_LOSS, rel=1e-9)  # as if it had not been interrupted
    assert read_metrics(folder)[: len(before)] == before


def test_what_is_added_later_may_be_missing(tmp_path):
    """A new setting, a new counter: their defaults are what runs did before."""
    checkpoint = load_checkpoint(STORED / VERSIONS[0] / "run")
    added = [("new", int, later(3))]
    for record, values in ((Settings, checkpoint.training["settings"]), (Counters, checkpoint.training["counters"])):
        assert "new" not in values
        more = dataclasses.make_dataclass("More", added, bases=(record,), frozen=record is Settings)
        of = more.of(checkpoint if record is Settings else values)
        assert of.new == 3
        wrong = dataclasses.make_dataclass("Wrong", [("new", int, 3)], bases=(record,), frozen=record is Settings)
        with pytest.raises(ValueError, match=r"missing \['new'\], unknown \[\]"):
            check_names("the values", wrong, values)


def test_what_a_newer_version_added_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(rnnx, "__version__", "9.1")
    path = tmp_path / "m.safetensors"
    checkpoint = load_checkpoint(STORED / VERSIONS[0] / "classifier.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr("rnnx.training.checkpoint._checkpoint", lambda *_: None)
        checkpoint.model.kind = "transformer"
        rnnx.training.save_checkpoint(path, checkpoint)
    monkeypatch.undo()
    message = (
        rf"was saved by rnnx 9\.1 and cannot be read by rnnx {rnnx.__version__}, or is damaged: unknown model kind"
    )
    with pytest.raises(ValueError, match=message):
        load_checkpoint(path)
