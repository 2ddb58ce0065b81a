"""Sweeps: `rnnx tune` and `Sweep`, on one process and on several, interrupted, resumed, pruned and failing."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from lab import NAMES, ok

import rnnx
from rnnx.cli import tune_command
from rnnx.models import CharModel
from rnnx.training import Settings, Sweep, load_checkpoint, read_metrics
from rnnx.training.search_space import distributions
from rnnx.training.trials import SweepTrial, run_folder

optuna = pytest.importorskip("optuna")
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402

from rnnx.training import studies, trial_queue  # noqa: E402
from rnnx.training.studies import first_values  # noqa: E402

SPACE = {"learning_rate": FloatDistribution(1e-3, 1e-1, log=True), "hidden_size": IntDistribution(3, 6)}
WHOLE = {"text": "names.txt", "hidden_size": (4,), "epochs": 2, "batch_size": 32}
OPTIONS = ("--text", "names.txt", "--epochs", 2, "--batch-size", 32, "--hidden-size", 4)
RATES = ("--search", "learning-rate=1e-3..1e-1:log")
# The command without compiling anything.
COMMAND = "import sys, rnnx\nfrom rnnx.cli import cli\nwith rnnx.use_engine('reference'):\n    cli(sys.argv[1:])"


@pytest.fixture(autouse=True)
def _reference():
    with rnnx.use_engine("reference"):
        yield


@pytest.fixture(autouse=True)
def _quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text(NAMES)
    return Settings(**WHOLE)


def numbers(results):
    return [(one.number, one.state, one.loss, one.values) for one in results]


def same_model(one, other):
    own, others = load_checkpoint(one).model.parameters, load_checkpoint(other).model.parameters
    return own.keys() == others.keys() and all(np.array_equal(own[key], others[key]) for key in own)


# --- the command -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", [(), ("--storage", "sqlite:///study.db"), ("--storage", "journal.log")])
def test_a_study_and_its_best_command(run, tmp_path, storage):
    options = (*OPTIONS[:-2], *RATES, "--search", "hidden_size=4,6", "--search", "deterministic=yes,no", *storage)
    out = ok(run("tune", *options, "--trials", 3))
    assert "study names-tune, 3 trials in runs/names-tune" in out
    assert "3 trials: 3 complete" in out
    folders = sorted(path.name for path in (tmp_path / "runs/names-tune").iterdir() if path.is_dir())
    assert folders == ["trial-0", "trial-1", "trial-2"]
    losses = [float(line.split()[3]) for line in out.partition("complete\n")[2].splitlines()[:3]]
    assert losses == sorted(losses)
    command, samples = (shlex.split(line.partition("rnnx ")[2]) for line in out.splitlines() if "rnnx " in line)
    ok(run(*command, "--output", "again", "--quiet"))
    best = out.partition("complete\n")[2].split()[1]
    assert same_model("again", f"runs/names-tune/trial-{best}")
    assert samples[1] == f"runs/names-tune/trial-{best}"
    assert ok(run(*samples))
    again = ok(run("tune", *options, "--trials", 3))  # nothing is left to do
    assert again.count("trial ") == out.count("trial ") - 3
    assert again.partition("complete\n")[2] == out.partition("complete\n")[2]
    assert "4 trials: 4 complete" in ok(run("tune", *options, "--trials", 4))


def test_options_that_are_searched(run):
    space = ("--search", "cell=lstm,gru", "--search", "segment-length=0,5")
    out = ok(run("tune", *OPTIONS, *space, "--iterations", 1, "--sampler", "grid", "--study", "s", "--output", "o"))
    rows = [line.partition("  epoch ")[0] for line in out.splitlines() if line.startswith("trial ")]
    assert sorted(rows[:4]) == sorted(rows[4:])
    assert "4 trials in o" in out
    for cell in ("lstm", "gru"):
        for length in (0, 5):
            assert out.count(f"cell {cell}  segment-length {length}") == 2
    assert "rnnx sample o/trial-" in out
    assert "iterations 2" in ok(run("tune", *OPTIONS[:2], "--search", "iterations=1,2", "--sampler", "grid"))


@pytest.mark.parametrize(("options", "message"), [
    ((), "--search is missing"),
    (("--search", "learning-rate"), "needs NAME=VALUES"),
    (("--search", "learning-rat=1,2"), "no setting of rnnx train has this name; did you mean 'learning-rate'?"),
    (("--search", "temperature=1,2"), "no setting of rnnx train"),
    (("--search", "split=tail,blocks"), "could not be compared"),
    (("--search", "learning-rate=0..1"), "--search learning-rate=0..1: 0.0 is not in the range x>0"),
    (("--search", "learning-rate=1..0.1"), "LOW < HIGH"),
    (("--search", "dropout=0..0.5:log"), "above 0"),
    (("--search", "dropout=0.1..0.5:lin"), "LOW..HIGH:log"),
    (("--search", "dropout=0.1,1.5"), "1.5 is not in the range"),
    (("--search", "dropout=nan"), "is not a finite number"),
    (("--search", "dropout=a..b"), "is not a valid float"),
    (("--search", "hidden-size=4,0"), "is not a positive integer"),
    (("--search", "hidden-size=4.5..8"), "is not a positive integer"),
    (("--search", "cell=lstm,gur"), "'gur' is not one of"),
    (("--search", "cell=gru..lstm"), "is no number"),
    (("--search", "reset-after=maybe"), "is not a valid boolean"),
    (("--search", "cell=lstm,lstm"), "must differ"),
    (("--search", "dropout=0,0.1", "--search", "dropout=0,0.2"), "must be given only once"),
    (("--search", "dropout=0,0.1", "--dropout", 0.3), "the option is given, too"),
    ((*RATES, "--sampler", "grid"), "a grid needs values and not a range; got a range for `learning_rate`"),
    ((*RATES, "--study", "a/b"), "--output is needed"),
    ((*RATES, "--storage", ""), "--storage must not be empty"),
    ((*RATES, "--storage", "nowhere://x"), "must be a file or the URL of a database; got nowhere://"),
    ((*RATES, "--storage", "missing/study.log"), "missing/study.log: No such file"),
    ((*RATES, "--storage", "sqlite:///missing/study.db"), "the storage of the study cannot be used"),
    ((*RATES, "--storage", "names.txt"), "names.txt is not a journal of Optuna"),
    ((*RATES, "--text", "missing.txt"), "missing.txt: No such file"),
    ((*RATES, "--text", "short.txt"), "short"),
    ((*RATES, "--init-from", "missing"), "missing"),
    ((*RATES, "--trials", 0), "0 is not in the range"),
])  # fmt: skip
def test_errors_before_any_work(run, tmp_path, options, message):
    (tmp_path / "short.txt").write_text("ab")
    options = options if "--text" in options else ("--text", "names.txt", *options)
    code, _, err = run("tune", *options)
    assert code != 0
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("trial-*"))


def test_without_optuna(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "rnnx.training.studies", raising=False)
    code, _, err = run("tune", *OPTIONS, *RATES)
    assert code == 1
    assert err.startswith('Error: a sweep needs optuna: pip install "')


def test_a_study_keeps_its_settings(run, tmp_path):
    ok(run("tune", *OPTIONS, *RATES, "--trials", 1, "--storage", "sqlite:///s.db"))
    for options, name in (
        ((*OPTIONS, "--clip-norm", 1, *RATES), "clip_norm"),
        ((*OPTIONS, "--search", "learning-rate=0.1,0.2"), "space"),
        (("--text", "prose.txt", *OPTIONS[2:], *RATES, "--study", "names-tune"), "text"),
    ):
        code, _, err = run("tune", *options, "--storage", "sqlite:///s.db")
        assert (code, f"the study 'names-tune' has `{name}` = " in err) == (1, True), err
    assert "names sqlite:///s.db" in run("tune", *OPTIONS, *RATES, "--storage", "s.db")[2].replace("as ", "")
    optuna.create_study(storage="sqlite:///s.db", study_name="other").ask()
    assert "is not one of rnnx" in run("tune", *OPTIONS, *RATES, "--storage", "sqlite:///s.db", "--study", "other")[2]


def test_further_training(run):
    ok(run("train", *OPTIONS, "--output", "first"))
    options = ("--text", "prose.txt", "--init-from", "first", "--iterations", 2, "--trials", 2)
    out = ok(run("tune", *options, *RATES))
    assert "2 complete" in out
    assert " --init-from first" in out
    assert "`cell` cannot be searched" in run("tune", *options, "--search", "cell=lstm,gru", "--study", "x")[2]
    assert "--init-from cannot be combined" in run("tune", *options, *RATES, "--cell", "gru", "--study", "x")[2]


# --- trials ------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_trials(settings):
    settings = replace(settings, epochs=None, iterations=2)
    one = Sweep(settings, SPACE, "one", trials=12).run()
    assert len({loss for _, _, loss, _ in numbers(one)}) == 12
    assert numbers(Sweep(settings, SPACE, "two", trials=12, storage="sqlite:///two.db").run()) == numbers(one)
    for trials in (1, 5, 12):  # three calls
        results = Sweep(settings, SPACE, "three", trials=trials).run()
    assert numbers(results) == numbers(one)
    other = Sweep(replace(settings, seed=1), SPACE, "four", trials=2).run()
    assert {loss for _, _, loss, _ in numbers(other)}.isdisjoint(loss for _, _, loss, _ in numbers(one))


def test_an_interrupted_trial_goes_on(settings):
    expected = Sweep(settings, SPACE, "whole", trials=3).run()
    for step in (0, 1, 2, 3):  # two steps, an evaluation, ...
        sweep = Sweep(settings, SPACE, f"cut-{step}", trials=3)
        trial = next(iter(sweep))
        items = trial.train()
        for _ in range(step):
            next(items)
        items.close()
        trial.run.close()
        (left,) = sweep.results()
        assert (left.state, left.values, left.loss) == ("running", trial.values, None)
        assert numbers(Sweep(settings, SPACE, f"cut-{step}", trials=3).run()) == numbers(expected)
        for number in range(3):
            assert same_model(f"cut-{step}/trial-{number}", f"whole/trial-{number}")
        assert reported(f"cut-{step}") == reported("whole")


def reported(folder):
    """The losses that a study knows."""
    return [one.intermediate_values for one in Sweep(Settings(**WHOLE), SPACE, folder).study.trials]


def test_a_trial_whose_last_steps_were_lost(settings, monkeypatch):
    """A killed process leaves an older checkpoint; the evaluation after it comes again, with the same loss."""
    expected = Sweep(settings, SPACE, "whole", trials=1).run()
    trial = next(iter(Sweep(settings, SPACE, "killed", trials=1)))
    items = trial.train(save_every=0)
    next(items)
    shutil.copytree("killed/trial-0", "before")
    next(items)
    assert next(items).evaluation
    items.close()
    trial.run.close()
    shutil.rmtree("killed/trial-0")
    shutil.copytree("before", "killed/trial-0")
    with monkeypatch.context() as patch:  # on another machine, where it cannot be known whether the process lives
        patch.setattr("platform.node", lambda: "another machine")
        assert list(Sweep(settings, SPACE, "killed", trials=1)) == []
    assert numbers(Sweep(settings, SPACE, "killed", trials=1).run()) == numbers(expected)
    assert reported("killed") == reported("whole")


def test_a_trial_of_another_process_is_left_alone(settings):
    sweep, other = (Sweep(settings, SPACE, "sweep", trials=2) for _ in range(2))
    first, second = next(iter(sweep)), next(iter(other))
    assert (first.number, second.number) == (0, 1)
    assert list(Sweep(settings, SPACE, "sweep", trials=2)) == []  # both are running
    list(first.train())
    list(second.train())
    assert [one.state for one in sweep.results()] == ["complete"] * 2


@pytest.mark.parametrize("folder", ["../../precious", "..", "precious", "trial-1", "trial-0-x/.."])
def test_a_study_does_not_choose_folders(settings, tmp_path, folder):
    """Whoever writes to a database cannot make others write to their folders."""
    sweep = Sweep(settings, SPACE, "precious/sweep", trials=1)
    for other in ("precious/sweep/precious", "precious/sweep/trial-1", "precious/sweep/trial-0-x"):
        (tmp_path / other).mkdir()
    sweep.study.ask(sweep.space).set_user_attr("folder", str(tmp_path / "precious/sweep" / folder))
    assert sweep.run()[0].state == "running"
    assert not list(tmp_path.rglob("model.safetensors"))


def test_a_grid_of_very_many(settings):
    space = {"cell": ["rnn", "gru"], "seq_length": IntDistribution(1, 10**15), "hidden_size": [3, 4, 5]}
    sweep = Sweep(settings, space, "s", sampler="grid")
    assert sweep.trials == 6 * 10**15
    rows = [tuple(sweep.study.ask(sweep.space).params.values()) for _ in range(4)]
    assert rows == [("rnn", 1, 3), ("rnn", 1, 4), ("rnn", 1, 5), ("rnn", 2, 3)]


@pytest.mark.parametrize("text", ["one line", '{"one": "line"}', "two\nlines\n", "[1]\n"])
def test_a_file_that_is_no_journal(settings, tmp_path, text):
    (tmp_path / "mine").write_text(text)
    with pytest.raises(ValueError, match="mine is not a journal of Optuna"):
        Sweep(settings, SPACE, "s", storage="mine")
    assert (tmp_path / "mine").read_text() == text


def test_no_more_trials_than_asked_for(settings, monkeypatch):
    """Two processes find one left, and both ask for it."""
    sweep, other = (Sweep(settings, SPACE, "sweep", trials=1) for _ in range(2))
    assert sweep._queue.new().number == 0
    assert other._queue.new() is None
    assert [one.number for one in other.results()] == [0]
    more = Sweep(settings, SPACE, "sweep", trials=2).run()
    assert sorted(one.number for one in more) == [0, 2]


@pytest.mark.parametrize("sampler", ["random", "grid"])
def test_a_process_that_ended_before_its_trial_had_a_folder(settings, monkeypatch, sampler):
    space = {"cell": ["rnn", "gru", "lstm"], "seq_length": [3, 4]}
    settings = replace(settings, epochs=None, iterations=1)
    expected = Sweep(settings, space, "whole", trials=4, sampler=sampler, pruner="none").run()
    sweep, other = (Sweep(settings, space, "cut", trials=4, sampler=sampler, pruner="none") for _ in range(2))
    next(iter(sweep)).run.close()
    sweep.study.ask(sweep.space)  # and the process is killed
    monkeypatch.setattr("rnnx.training.trial_queue._TO_BEGIN", 0.0)
    assert {one.state for one in sweep.run()} == {"complete"}
    assert sorted(one.number for one in sweep.results()) == [0, 2, 3, 4]
    assert {(one.loss, *one.values.values()) for one in other.run()} == {
        (one.loss, *one.values.values()) for one in expected
    }


def test_a_process_that_is_slow_to_begin_a_trial(settings, monkeypatch):
    sweep, other = (Sweep(settings, SPACE, "sweep", trials=1) for _ in range(2))
    free_folder = trial_queue.free_folder

    def slow(*arguments):
        monkeypatch.setattr(trial_queue, "free_folder", free_folder)
        monkeypatch.setattr(trial_queue, "_TO_BEGIN", 0.0)
        assert [one.state for one in other.run()] == ["complete"]
        return free_folder(*arguments)

    monkeypatch.setattr(trial_queue, "free_folder", slow)
    assert sweep._queue.new() is None
    assert list(sweep) == []
    assert [(one.number, one.state) for one in sweep.results()] == [(1, "complete")]


def test_a_trial_that_fails_in_two_processes(settings):
    """The second one goes on where the first one has not locked the folder yet."""
    space = {"warmup": [1000, 0]}
    sweep, other = (Sweep(settings, space, "sweep", sampler="grid") for _ in range(2))
    start = sweep._queue._start

    def slow(*arguments):
        assert [one.state for one in other.run()] == ["complete", "failed"]
        return start(*arguments)

    sweep._queue._start = slow
    assert list(sweep) == []
    assert [(one.number, one.state) for one in sweep.results()] == [(1, "complete"), (0, "failed")]


def test_a_trial_that_is_complete_in_two_processes(settings, monkeypatch):
    """The second one goes on when the run is unlocked, and tells the study when the first one is about to."""
    sweep, other = (Sweep(settings, SPACE, "sweep", trials=1) for _ in range(2))
    trial = next(iter(sweep))
    tell = sweep.study._storage.set_trial_state_values

    def late(*arguments):
        assert [one.state for one in other.run()] == ["complete"]
        return tell(*arguments)

    monkeypatch.setattr(sweep.study._storage, "set_trial_state_values", late)
    assert len(list(trial.train())) > 0
    assert not trial.ended
    assert [(one.number, one.state) for one in sweep.results()] == [(0, "complete")]


def test_a_trial_that_another_process_withdraws_while_it_trains(settings):
    """That process saw no folder of it, and this one stored it before the trial was withdrawn."""
    sweep, other = (Sweep(settings, SPACE, "sweep", trials=1) for _ in range(2))
    trial = next(iter(sweep))
    items = trial.train()
    next(items)
    assert studies.withdraw(other.study, studies.trial_of(other.study, other.study.trials[0]))
    list(items)
    assert (trial.result.state, trial.ended) == ("failed", False)
    assert [(one.number, one.state) for one in other.run()] == [(1, "complete")]


def test_a_trial_is_printed_by_the_process_that_ends_it(run, monkeypatch):
    tell = SweepTrial._tell

    def late(self, *arguments):
        self._study.tell(self.number, 1.0)  # another process
        tell(self, *arguments)

    options = ("tune", *OPTIONS, *RATES)
    rows = [line for line in ok(run(*options, "--trials", 1)).splitlines() if line.startswith("trial ")]
    monkeypatch.setattr(SweepTrial, "_tell", late)
    others = [line for line in ok(run(*options, "--trials", 2)).splitlines() if line.startswith("trial ")]
    assert (len(rows), len(others)) == (2, 2)  # one and its place among the best; the places of both


def test_pruning(settings):
    rates = [0.02, 0.021, 0.022, 0.023, 0.024, 1e-7, 0.025]
    options = {"sampler": "grid", "study": "s", "storage": "sqlite:///s.db"}
    results = Sweep(settings, {"learning_rate": rates}, "pruned", **options).run()
    assert results[-1].state == "pruned"
    assert results[-1].values == {"learning_rate": 1e-7}
    assert [one.state for one in results[:-1]] == ["complete"] * 6
    evaluations = [one for one in read_metrics("pruned/trial-5") if one["validation_loss"] is not None]
    assert len(evaluations) == 1
    assert results[-1].loss == evaluations[0]["validation_loss"]
    assert load_checkpoint("pruned/trial-5").training["counters"]["epoch"] == 1
    for options in (
        {"pruner": "none"},
        {"settings": replace(settings, epochs=1)},
    ):  # the last evaluation prunes nothing
        options = {"settings": settings, "sampler": "grid", **options}
        kept = Sweep(space={"learning_rate": rates}, folder=f"kept-{len(os.listdir())}", **options).run()
        assert {one.state for one in kept} == {"complete"}
    reported = optuna.load_study(study_name="s", storage="sqlite:///s.db").trials[0].intermediate_values
    assert list(reported) == [1, 2]
    assert min(reported.values()) == next(one.loss for one in results if one.number == 0)


@pytest.mark.parametrize("pruner", ["halving", "hyperband"])
def test_pruners(settings, pruner):
    assert len(Sweep(settings, SPACE, "s", trials=3, pruner=pruner).run()) == 3


def test_failures_do_not_end_the_study(run, monkeypatch):
    train_step = CharModel.train_step

    def wrong(self, batch, *, masks, **options):
        step = train_step(self, batch, masks=masks, **options)
        return replace(step, loss=np.nan) if self.config["hidden_size"] == [5] and masks.seed[1] == 3 else step

    monkeypatch.setattr(CharModel, "train_step", wrong)
    space = ("--search", "hidden-size=5,4", "--search", "warmup=0,1000", "--sampler", "grid")
    out = ok(run("tune", *OPTIONS[:-2], *space))
    assert "4 trials: 1 complete, 1 diverged, 2 failed" in out
    assert out.count("hidden-size 5  warmup 0  (the loss is nan at step 3; a smaller learning rate may help)") == 2
    assert "`warmup` must be at least 0 and below the 4 steps of the run; got 1000" in out
    bad = ("--search", "warmup=0,1", "--study", "bad", "--trials", 2)
    code, out, err = run("tune", *OPTIONS[:-1], 5, *bad)
    assert code == 1
    assert "2 trials: 2 diverged" in out
    assert "no trial is complete; trial 0: the loss is nan at step 3" in err
    sweep = Sweep(Settings(**{**WHOLE, "hidden_size": (5,)}), {"warmup": [0, 1]}, "worse", trials=2)
    with pytest.raises(ValueError, match="no trial is complete; trial 0: the loss is nan"):
        sweep.run()
    assert [one.state for one in sweep.results()] == ["diverged"] * 2


def test_settings_that_no_trial_can_have(settings, run):
    for wrong, message in (
        ({"cell": "lstn"}, "'lstn'"),
        ({"warmup": 1000}, "below the 4 steps"),
        ({"by": "words"}, "`by`"),
    ):
        with pytest.raises(ValueError, match=message):
            Sweep(replace(settings, **wrong), SPACE, "s")
    with pytest.raises(ValueError, match="below the 4 steps of the run; got 500"):
        Sweep(settings, {"warmup": [500, 1000]}, "s", sampler="grid")
    code, _, err = run("tune", *OPTIONS, "--search", "warmup=500,1000")
    assert (code, "`warmup` must be at least 0" in err) == (1, True)
    assert sorted(os.listdir()) == ["names.txt", "prose.txt"]
    results = Sweep(settings, {"warmup": [1000, 0]}, "s", sampler="grid").run()
    assert [one.state for one in results] == ["complete", "failed"]


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_the_values_that_are_tried_first(settings, sampler):
    space = {"cell": ["rnn", "gru", "lstm"], "seq_length": IntDistribution(1, 4)}
    study = Sweep(settings, space, "s", sampler=sampler, trials=12).study
    expected = []
    for _ in range(12):
        trial = study.ask(distributions(space, of_model=False))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        expected.append(trial.params)
    assert list(first_values(distributions(space, of_model=False), sampler, settings.seed, 12)) == expected


def test_trials_that_others_train_are_no_error(run, settings):
    """It is no error to find nothing to do, after which mpiexec would end the processes that still train."""
    trial = next(iter(Sweep(settings, SPACE_OF_RATES, "runs/names-tune", trials=1)))
    assert "no trial is complete yet" in ok(run("tune", *OPTIONS, *RATES, "--trials", 1))
    trial.run.close()


@pytest.mark.parametrize(("space", "error", "message"), [
    ({}, TypeError, "`space` must be a dict"),
    (["cell"], TypeError, "`space` must be a dict"),
    ({"rate": [1]}, ValueError, "unknown setting 'rate'"),
    ({"text": ["a"]}, ValueError, "cannot be searched"),
    ({"seed": [0, 1]}, ValueError, "cannot be searched"),  # it chooses the lines that are held out
    ({"cell": []}, TypeError, "must be a list of values or a distribution"),
    ({"cell": "lstm"}, TypeError, "must be a list of values or a distribution"),
    ({"cell": [1]}, TypeError, "`cell` must be str; got 1"),
    ({"hidden_size": [(3, 4)]}, TypeError, "must have strings and numbers"),
    ({"hidden_size": [3.5]}, TypeError, "`hidden_size` must be int; got 3.5"),
    ({"epochs": FloatDistribution(1, 3)}, TypeError, "`epochs` must be"),
    ({"dropout": CategoricalDistribution(["a"])}, TypeError, "`dropout` must be float"),
])  # fmt: skip
def test_errors_of_the_space(settings, space, error, message):
    with pytest.raises(error, match=message):
        Sweep(settings, space, "s")
    assert os.listdir() == ["names.txt"]


def test_errors_of_a_sweep(settings):
    for options, message in (
        ({"trials": 0}, "`trials` must be"),
        ({"sampler": "gp"}, "`sampler` must be one of"),
        ({"pruner": "mean"}, "`pruner` must be one of"),
        ({"device": "tpu"}, "device"),
    ):
        with pytest.raises(ValueError, match=message):
            Sweep(settings, SPACE, "s", **options)
    with pytest.raises(TypeError, match="`settings` must be"):
        Sweep({"cell": "lstm"}, SPACE, "s")
    assert os.listdir() == ["names.txt"]


# --- several processes -------------------------------------------------------------------------------------------


def start(*arguments, **environment):
    command = [sys.executable, "-c", COMMAND, "tune", *map(str, arguments)]
    environment = {**os.environ, **environment}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("storage", [(), ("--storage", "sqlite:///s.db")], ids=["journal", "sqlite"])
def test_processes_share_the_trials(settings, storage):
    options = (*OPTIONS, *RATES, *storage, "--trials", 6, "--pruner", "none")
    processes = [start(*options, PMI_SIZE="2", PMI_RANK=str(rank)) for rank in range(2)]  # as under mpiexec
    outputs = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert [errors for _, errors in outputs] == ["", ""]
    assert ["6 trials: 6 complete" in out for out, _ in outputs] == [True, False]
    assert ["study names-tune" in out for out, _ in outputs] == [True, False]
    results = Sweep(settings, SPACE_OF_RATES, "runs/names-tune", trials=6, storage=(storage or (0, None))[1]).results()
    assert [one.state for one in results] == ["complete"] * 6
    folders = {one.folder.name for one in results}
    assert len(folders) == 6
    alone = Sweep(settings, SPACE_OF_RATES, "alone", trials=6, pruner="none", sampler="tpe").run()
    startup = {(one.number, one.loss) for one in alone if one.number < 6}
    assert {one.loss for one in results} <= {loss for _, loss in startup}  # sampled by number, without a model so far


def test_rank_0_ends_a_trial_that_was_unlocked_since_it_looked(monkeypatch):
    class Unlocked:
        """A trial of another process is locked, when first looked at, and unlocked from then on."""

        looks = 0

        def __iter__(self):
            self.looks += 1
            return iter(["trial"] if self.looks == 2 else [])

        def others_train(self):
            return False

    monkeypatch.setattr(tune_command, "launched", lambda: 2)
    for rank, expected in enumerate((["trial"], [])):
        monkeypatch.setattr(tune_command, "launched_rank", lambda rank=rank: rank)
        assert list(tune_command._left(Unlocked(), SimpleNamespace(requested=False))) == expected


SPACE_OF_RATES = {"learning_rate": SPACE["learning_rate"]}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_ended_leaves_its_trial(settings, number):
    options = (*OPTIONS, *RATES, "--epochs", 3000, "--trials", 1, "--save-every", 0.2)
    options = tuple(one for k, one in enumerate(options) if k not in (2, 3))
    process = start(*options)
    deadline = time.monotonic() + 60
    while not os.path.exists("runs/names-tune/trial-0/model.safetensors") and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -9), err
    if number == signal.SIGINT:
        assert "stopped; the same command goes on with the study" in out
    sweep = Sweep(replace(settings, epochs=3000), SPACE_OF_RATES, "runs/names-tune", trials=1)
    (trial,) = sweep.study.trials
    assert trial.state.name == "RUNNING"
    assert run_folder(trial).name == "trial-0"
    again = next(iter(sweep))
    assert (again.number, again.values) == (0, trial.params)
    assert again.run.trainer.step > 0
    next(again.train())
