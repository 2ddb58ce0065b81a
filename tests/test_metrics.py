"""Metrics of a run that could not be written, and what a resumed run does about them."""

import errno
import json
import os

import pytest

from rnnx.training import Run, Settings, load_checkpoint, metrics, read_metrics, save_checkpoint


def run_in(folder, **settings):
    names = folder.parent / "names.txt"
    names.write_text("".join(f"name{i}{'abc'[i % 3]}\n" for i in range(60)))
    plain = {"epochs": 2, "batch_size": 8, "hidden_size": (4,), "evaluate_every": 3, "seed": 1}
    return Run.start(folder, Settings(text=str(names), **{**plain, **settings}))


def without_seconds(folder):
    return [{**record, "seconds": 0} for record in read_metrics(folder)]


@pytest.mark.parametrize("same_process", [True, False])
def test_metrics_that_could_not_be_written_are_in_the_checkpoint(tmp_path, monkeypatch, same_process):
    """The disk is full when the metrics are written, and has space again for the checkpoint."""
    list(run_in(tmp_path / "whole").train())
    run, write, full = run_in(tmp_path / "run"), metrics._write_at, [True]

    def on_full_disk(path, *arguments):
        if full and path.suffix == ".csv":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, *arguments)

    monkeypatch.setattr(metrics, "_write_at", on_full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        list(run.train(save_every=0))
    assert run.trainer.step == 1
    full.clear()
    if not same_process:
        run.close()
        run = Run.resume(tmp_path / "run")
    list(run.train())
    assert without_seconds(tmp_path / "run") == without_seconds(tmp_path / "whole")
    table = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert len(table) == 1 + len(read_metrics(tmp_path / "run"))
    assert load_checkpoint(tmp_path / "run").training["unwritten"] == []


def test_metrics_that_are_missing_are_named(tmp_path):
    list(run_in(tmp_path / "run").train())
    path = tmp_path / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    last = read_metrics(path)[-1]["step"]
    path.write_text("".join(line for line in lines if json.loads(line)["step"] <= last - 2))
    run = Run.resume(tmp_path / "run", epochs=3)
    with pytest.warns(UserWarning, match=f"metrics.jsonl: the lines of steps {last - 1} to {last} are missing"):
        list(run.train())


@pytest.mark.parametrize("unwritten", [{}, [1], [{"step": 1}], [dict.fromkeys(metrics.COLUMNS, "x")]])
def test_records_in_a_checkpoint_are_checked(tmp_path, unwritten):
    run = run_in(tmp_path / "run")
    list(run.train())
    loaded = load_checkpoint(tmp_path / "run")
    loaded.training["unwritten"] = unwritten
    save_checkpoint(tmp_path / "run" / "model.safetensors", loaded)
    with pytest.raises(ValueError, match="`unwritten` must be a list of metrics records"):
        Run.resume(tmp_path / "run")
