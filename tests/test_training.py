"""The trainer: learning, reports, and runs that are interrupted anywhere."""

import math
import os
import signal
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import NAMES, PROSE, make_trainer

from rnnx.data import Examples
from rnnx.models import CharModel, SequenceClassifier, SequenceRegressor
from rnnx.optim import SGD, Adam, StepDecay
from rnnx.training import MetricsWriter, Trainer, evaluate, read_metrics, stepping


def run(trainer, corpus, **options):
    return list(trainer.run(corpus.train, corpus.validation, **{"batch_size": 8, **options}))


def test_training_learns_and_reports_its_losses():
    corpus, trainer = make_trainer()
    start = trainer.evaluate(corpus.validation, 8)
    items = run(trainer, corpus, epochs=20)
    ends = [p for p in items if p.validation_loss is not None]
    assert start == pytest.approx(math.log(corpus.tokenizer.vocab_size), rel=0.1)
    assert ends[-1].validation_loss < 0.6 * start
    assert len(ends) == 20
    assert trainer.step == 20 * corpus.train.n_batches(8)
    smooth = 0.0
    for p in items:
        if p.validation_loss is None:
            smooth += max(0.01, 10 / (p.step + 9)) * (p.loss - smooth)
            assert p.smooth_loss == pytest.approx(smooth)
            assert p.grad_norm > 0


def test_the_loss_of_an_epoch_is_the_exact_mean():
    corpus, trainer = make_trainer(optimizer=SGD(learning_rate=1e-30))
    items = run(trainer, corpus, epochs=1)
    assert items[-1].loss == pytest.approx(trainer.evaluate(corpus.train, 5), rel=1e-5)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_same_seed_same_bits(cell):
    def losses(seed):
        corpus, trainer = make_trainer(seed, cell)
        return [p.loss for p in run(trainer, corpus, epochs=2)], trainer.model.parameters

    (first, parameters), (again, same), (other, _) = losses(0), losses(0), losses(1)
    assert first == again != other
    assert all(np.array_equal(parameters[k], same[k]) for k in parameters)


def test_a_loss_that_is_not_finite_stops_the_run():
    corpus, trainer = make_trainer()
    trainer.model.parameters["Wy"][0, 0] = np.nan
    before = trainer.model.parameters
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1; the parameter `Wy` is not finite"):
        run(trainer, corpus, epochs=1)
    assert trainer.model.parameters is before
    assert trainer.step == 0


@settings(max_examples=12)
@given(
    st.sampled_from(["lines", "windows", "streams"]),
    st.integers(1, 20),
    st.sampled_from([None, 3]),
    st.booleans(),
    st.sampled_from([None, 4]),
)
@pytest.mark.slow
def test_a_run_can_be_interrupted_anywhere(by, cut, evaluate_every, shuffle, segment_length):
    """Restoring the state in a new trainer after any item gives bit-identical losses, parameters and counters."""
    text = NAMES if by == "lines" else PROSE
    options = {"epochs": 3, "evaluate_every": evaluate_every, "patience": 50}

    def new():
        model = {"dropout": 0.3, "num_layers": 2}
        return make_trainer(text=text, by=by, model=model, shuffle=shuffle, segment_length=segment_length)

    corpus, whole = new()
    expected = run(whole, corpus, **options)
    _, first = new()
    items = first.run(corpus.train, corpus.validation, batch_size=8, **options)
    done = [next(items) for _ in range(min(cut, len(expected)))]
    values, arrays = first.state()
    _, second = new()
    second.model.set_parameters(first.model.parameters)
    second.restore(values, arrays)
    assert done + run(second, corpus, **options) == expected
    assert second.counters == whole.counters
    for name, p in whole.model.parameters.items():
        assert np.array_equal(second.model.parameters[name], p)
    for name, a in whole.state()[1].items():
        assert np.array_equal(second.state()[1][name], a)


def test_truncated_backpropagation_carries_the_states():
    """With streams, every batch starts from the final states of the previous one, in training and in evaluation."""
    corpus, trainer = make_trainer(text=PROSE, by="streams", optimizer=SGD(learning_rate=1e-30))
    run(trainer, corpus, epochs=1, batch_size=2)
    loss = trainer.evaluate(corpus.train, 1)
    batches = list(corpus.train.batches(1))
    inputs, targets = (np.concatenate([getattr(b, n) for b in batches], axis=1) for n in ("inputs", "targets"))
    probabilities, _ = trainer.model.predict(inputs)
    expected = -np.mean(np.log(probabilities[targets[0], 0, np.arange(inputs.shape[1])]))
    assert loss == pytest.approx(expected, rel=1e-4)
    assert {*trainer.states} == {"a_l0", "c_l0"}


def test_iterations_and_epochs_are_totals():
    corpus, trainer = make_trainer()
    assert len([p for p in run(trainer, corpus, iterations=5) if p.validation_loss is None]) == 5
    assert trainer.step == 5
    assert run(trainer, corpus, iterations=5) == []
    run(trainer, corpus, epochs=2)
    assert (trainer.epoch, trainer.step) == (2, 2 * corpus.train.n_batches(8))
    assert run(trainer, corpus, epochs=2) == []


def test_early_stopping():
    corpus, trainer = make_trainer(optimizer=SGD(learning_rate=1e-30))
    items = run(trainer, corpus, epochs=50, patience=3)
    assert trainer.epoch == 4  # the first evaluation is the best; three more are not better
    assert sum(p.validation_loss is not None for p in items) == 4
    assert trainer.counters.best_loss == items[-1].validation_loss


def test_in_place_is_bit_identical():
    def parameters(in_place):
        corpus, trainer = make_trainer(in_place=in_place)
        run(trainer, corpus, epochs=2)
        return trainer.model.parameters

    ours, pure = parameters(True), parameters(False)
    assert all(np.array_equal(ours[name], p) for name, p in pure.items())


@pytest.mark.parametrize(("in_place", "ema"), [(True, None), (True, 0.9), (False, None)])
@pytest.mark.parametrize("place", ["before", "after", "commit"])
def test_an_interrupted_update_is_undone_or_finished(monkeypatch, in_place, ema, place):
    """A run that goes on after an interrupt ends with the bits of an undisturbed one."""

    def interrupted(function, *arguments, **keywords):
        calls.append(1)
        if len(calls) == 5 and place != "after":
            raise KeyboardInterrupt
        result = function(*arguments, **keywords)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return result

    corpus, whole = make_trainer(in_place=in_place, ema=ema)
    run(whole, corpus, iterations=9)
    _, trainer = make_trainer(in_place=in_place, ema=ema)
    owner, name = (Trainer, "_finish") if place == "commit" else (stepping, "once") if in_place else (Adam, "update")
    calls, original = [], getattr(owner, name)
    if name == "once":  # which returns what does the update
        monkeypatch.setattr(owner, name, lambda *arguments: partial(interrupted, original(*arguments)))
    else:
        monkeypatch.setattr(owner, name, lambda *arguments, **keywords: interrupted(original, *arguments, **keywords))
    with pytest.raises(KeyboardInterrupt):
        run(trainer, corpus, iterations=9)
    monkeypatch.undo()
    assert trainer.state()[0]["step"] == trainer.step
    run(trainer, corpus, iterations=9)
    assert trainer.counters == whole.counters
    assert_same_state(trainer, whole)


def test_updates_in_place_keep_the_arrays_but_those_that_others_may_have():
    corpus, trainer = make_trainer()
    given = {name: (p, p.copy()) for name, p in trainer.model.parameters.items()}
    run(trainer, corpus, iterations=1)
    first = dict(trainer.model.parameters), dict(trainer.optimizer_state)
    run(trainer, corpus, iterations=4)
    for before, after in zip(first, (trainer.model.parameters, trainer.optimizer_state), strict=True):
        assert all(after[name] is a for name, a in before.items())
    for name, (p, copy) in given.items():
        assert p is not first[0][name]
        assert np.array_equal(p, copy)


def assert_same_state(one, other):
    for ours, theirs in ((one.model.parameters, other.model.parameters), (one.state()[1], other.state()[1])):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], a) for name, a in theirs.items())


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timers on Windows")
@pytest.mark.parametrize("in_place", [True, False])
def test_interrupts_at_random_moments(in_place):
    """As by the stop button of a notebook, again and again: the run goes on, with the bits of an undisturbed one."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, 64, 6)).astype("float32")
    examples = Examples(x, (x[0].sum(axis=1) > 0).astype(int))

    def new():
        return Trainer(SequenceClassifier(1, 6, 2, seed=0), Adam(0.01), in_place=in_place)

    def stop(*_):
        raise KeyboardInterrupt

    trainer, interrupts = new(), 0
    new().fit(examples, iterations=5)  # compile
    before = signal.signal(signal.SIGALRM, stop)
    try:
        for _ in range(30):
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.001, 0.02))
                trainer.fit(examples, epochs=10**6)
            except KeyboardInterrupt:
                interrupts += 1
                assert trainer.state()[0]["step"] == trainer.step
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupts == 30
    whole = new()
    whole.fit(examples, iterations=trainer.step + 3)
    trainer.fit(examples, iterations=trainer.step + 3)
    assert_same_state(trainer, whole)


def numbers(n=40, bad=()):
    """Return random walks and their ends; NaN at `bad`."""
    x = np.random.default_rng(0).standard_normal((1, n, 10))
    y = x[0].sum(axis=1)[None]
    for array, place in bad:
        {"inputs": x, "targets": y}[array][place] = np.nan
    return x, y


def regression(train, validation=None, **options):
    trainer = Trainer(SequenceRegressor(1, 4, 1, seed=0), Adam(0.01))
    return trainer, lambda: trainer.fit(train, validation, **{"epochs": 5, "patience": 3, **options})


def test_numbers_that_are_not_finite_are_an_error_before_the_first_step():
    x, y = numbers(bad=[("inputs", (0, 3, 4))])
    bad, good = Examples(x, y), Examples(*numbers())
    late = Examples(*numbers(bad=[("targets", (0, 39))]))
    for train, validation, message in (
        (bad, good, r"`train` is not usable: `inputs` hold nan at index \(0, 3, 4\)"),
        (good, bad, r"`validation` is not usable: `inputs` hold nan at index \(0, 3, 4\)"),
        (good, late, r"`validation` is not usable: `targets` hold nan at index \(0, 39\)"),
    ):
        trainer, fit = regression(train, validation)
        with pytest.raises(FloatingPointError, match=message):
            fit()
        assert trainer.counters.best_loss is None
        assert trainer.step == 0
    trainer, _ = regression(good)
    for function in (trainer.evaluate, lambda *rest: evaluate(trainer.model, *rest)):
        with pytest.raises(FloatingPointError, match="the loss of batch 4 is nan; `targets` hold nan"):
            function(late, 10)
        with pytest.raises(FloatingPointError, match="the loss of batch 1 is nan; `inputs` hold nan"):
            function(bad, 40)


class Wrapped:
    """A dataset whose numbers the trainer cannot see before they are in a batch."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def n_batches(self, batch_size):
        return self.examples.n_batches(batch_size)

    def batches(self, *arguments, **keywords):
        return self.examples.batches(*arguments, **keywords)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_message_names_the_cause_of_a_loss_that_is_not_finite():
    bad, good = Examples(*numbers(bad=[("inputs", (0, 3, 4))])), Examples(*numbers())
    _, fit = regression(Wrapped(bad), good)
    with pytest.raises(FloatingPointError, match=r"at step \d; `inputs` hold nan at index"):
        fit()
    trainer, fit = regression(good, Wrapped(bad))
    with pytest.raises(
        FloatingPointError, match=r"in the evaluation after step 2, the loss of batch 1 is nan; `inputs`"
    ):
        fit()
    assert trainer.counters.best_loss is None
    x, y = numbers()
    _, fit = regression(Examples(x, y * 1e30), patience=None)
    with pytest.raises(FloatingPointError, match="at step 1; inputs or parameters are too large"):
        fit()


def test_padding_need_not_be_finite():
    x, y = numbers()
    x[0, :, 7:] = np.nan
    _, fit = regression(Examples(x, y, lengths=[7] * 40), Examples(x, y, lengths=[7] * 40))
    assert fit().validation_loss > 0


def test_empty_datasets_are_an_error_before_the_first_step():
    good, empty = Examples(*numbers()), Examples(np.zeros((1, 0, 10)), np.zeros((1, 0)))
    for train, validation, name in ((empty, good, "train"), (good, empty, "validation")):
        trainer, fit = regression(train, validation)
        with pytest.raises(ValueError, match=f"`{name}` must hold at least one example"):
            fit()
        assert trainer.step == 0
        with pytest.raises(ValueError, match="`dataset` must hold at least one example"):
            trainer.evaluate(empty, 8)
    model = SequenceRegressor(1, 4, 1, per_step=True, seed=0)
    nothing = Examples(np.zeros((1, 3, 4)), np.zeros((1, 3, 4)), lengths=[0, 0, 0])
    steps = Examples(np.zeros((1, 3, 4)), np.zeros((1, 3, 4)))
    with pytest.raises(ValueError, match="`validation` must hold at least one example of at least one step"):
        Trainer(model, Adam()).fit(steps, nothing, epochs=1)
    with pytest.raises(ValueError, match="at least one step"):
        evaluate(model, nothing, 2)


def test_a_fit_that_does_nothing_says_so():
    good = Examples(*numbers())
    trainer, fit = regression(good, good, epochs=1)
    fit()
    with pytest.warns(UserWarning, match="nothing to do: the run has ended after epoch 1, step 2; `epochs` and"):
        assert fit() is None
    trainer = Trainer(SequenceRegressor(1, 4, 1, seed=0), SGD(1e-30))
    options = {"epochs": 50, "patience": 2}
    trainer.fit(good, good, **options)
    with pytest.warns(UserWarning, match="the last 2 evaluations were not better, and `patience` is 2"):
        assert trainer.fit(good, good, **options) is None


def test_restore_best_leaves_the_best_parameters():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((1, 40, 10)), rng.integers(0, 2, 40)
    train, validation = Examples(x[:, :20], y[:20]), Examples(x[:, 20:], y[20:])

    def fitted(**options):
        trainer = Trainer(SequenceClassifier(1, 16, 2, seed=0), Adam(0.05))
        trainer.fit(train, validation, epochs=60, patience=5, **options)
        return trainer, trainer.evaluate(validation, 32)

    last, loss = fitted()
    best, restored = fitted(restore_best=True)
    assert restored == best.counters.best_loss < loss
    assert best.counters == last.counters
    best.fit(train, validation, epochs=70)
    assert best.step == 70
    with pytest.raises(ValueError, match="`restore_best` requires a `validation` set"):
        best.fit(train, epochs=99, restore_best=True)


def test_gradients_that_are_not_finite_stop_the_run(monkeypatch):
    corpus, trainer = make_trainer()
    before = {name: p.copy() for name, p in trainer.model.parameters.items()}
    train_step = CharModel.train_step

    def overflowing(self, batch, **options):
        step = train_step(self, batch, **options)
        step.gradients["dWy"][0, 0] = np.inf
        return step

    monkeypatch.setattr(CharModel, "train_step", overflowing)
    with pytest.raises(FloatingPointError, match=r"the gradients are (inf|nan) at step 1"):
        run(trainer, corpus, epochs=1)
    assert all(np.array_equal(trainer.model.parameters[name], p) for name, p in before.items())


def test_arrays_of_others_are_not_modified():
    corpus, trainer = make_trainer()
    run(trainer, corpus, iterations=2)
    mine = {name: p.copy() for name, p in trainer.model.parameters.items()}
    kept = {name: p.copy() for name, p in mine.items()}
    trainer.model.set_parameters(mine)
    run(trainer, corpus, iterations=4)
    assert all(np.array_equal(mine[name], p) for name, p in kept.items())


def test_the_batch_size_stays_within_an_epoch():
    corpus, trainer = make_trainer()
    run(trainer, corpus, iterations=2)
    with pytest.raises(ValueError, match="`batch_size` must stay 8 until the end of the epoch; got 4"):
        run(trainer, corpus, epochs=2, batch_size=4)
    run(trainer, corpus, epochs=1)
    run(trainer, corpus, epochs=2, batch_size=4)
    assert trainer.step == corpus.train.n_batches(8) + corpus.train.n_batches(4)


def test_a_passed_limit_ends_the_run():
    corpus, trainer = make_trainer()
    n = corpus.train.n_batches(8)
    run(trainer, corpus, iterations=2 * n + 1)
    assert run(trainer, corpus, epochs=2, iterations=100) == []


def test_evaluations_without_validation():
    corpus, trainer = make_trainer()
    items = list(trainer.run(corpus.train, iterations=3, batch_size=8))
    assert [(p.step, p.evaluation, p.validation_loss) for p in items] == [
        *((1, False, None), (2, False, None), (3, False, None), (3, True, None)),
    ]


def test_a_custom_optimizer():
    class Halving:
        learning_rate = 0.5

        def init(self, parameters):
            return {}

        def update(self, parameters, grads, state, t):
            return {name: p / 2 for name, p in parameters.items()}, state

    corpus, trainer = make_trainer(optimizer=Halving())
    before = trainer.model.parameters["Wy"]
    run(trainer, corpus, iterations=2)
    assert np.array_equal(trainer.model.parameters["Wy"], before / 4)


def test_callbacks_can_stop():
    corpus, trainer = make_trainer()
    seen = []

    def third(trainer, progress):
        seen.append(progress.step)
        return progress.step == 3

    last = trainer.fit(corpus.train, corpus.validation, epochs=5, batch_size=8, callbacks=[third])
    assert seen == [1, 2, 3]
    assert last.step == trainer.step == 3


def test_progress_bar(capsys):
    corpus, trainer = make_trainer()
    trainer.fit(corpus.train, epochs=1, batch_size=8, progress_bar=True)
    n = corpus.train.n_batches(8)
    assert f"{n}/{n}" in capsys.readouterr().err


def test_schedules_and_clipping():
    corpus, trainer = make_trainer(
        optimizer=SGD(learning_rate=StepDecay(0.1, every=2)), clip_norm=None, clip_value=1e-3
    )
    before = trainer.model.parameters
    items = [p for p in run(trainer, corpus, iterations=5) if p.validation_loss is None]
    assert [p.learning_rate for p in items] == [0.1, 0.1, 0.05, 0.05, 0.025]
    moved = max(np.abs(p - before[name]).max() for name, p in trainer.model.parameters.items())
    assert 0 < moved <= (0.1 + 0.1 + 0.05 + 0.05 + 0.025) * 1e-3 * 1.001
    assert items[0].grad_norm > 1e-2  # before clipping


def test_single_examples_and_order():
    corpus, trainer = make_trainer(shuffle=False)
    items = [p for p in run(trainer, corpus, epochs=1, batch_size=1) if p.validation_loss is None]
    assert len(items) == len(corpus.train)
    _, again = make_trainer(shuffle=False, seed=0)
    again.seed = 99  # no effect without shuffling and dropout
    assert [p for p in run(again, corpus, epochs=1, batch_size=1) if p.validation_loss is None] == items


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "`epochs` or `iterations` is required"),
        ({"epochs": 0}, "`epochs` must be an integer of at least 1; got 0"),
        ({"epochs": 1.5}, "`epochs` must be an integer of at least 1; got 1.5"),
        ({"epochs": 1, "batch_size": 0}, "`batch_size` must be an integer of at least 1; got 0"),
        ({"epochs": 1, "patience": 0}, "`patience` must be an integer of at least 1; got 0"),
    ],
)
def test_messages(options, message):
    corpus, trainer = make_trainer()
    with pytest.raises((ValueError, TypeError), match=message):
        trainer.run(corpus.train, corpus.validation, **options)


def test_a_state_that_does_not_match_is_refused():
    _, trainer = make_trainer()
    values, arrays = trainer.state()
    other = Trainer(CharModel(5, 3, seed=0), Adam())
    with pytest.raises(ValueError, match="the optimizer state in `arrays` must match"):
        other.restore(values, arrays)
    with pytest.raises(ValueError, match=r"the counters in `values` are wrong: missing \["):
        trainer.restore({"step": 1}, arrays)
    with pytest.raises(ValueError, match="`clip_norm` must be a positive number; got 0"):
        make_trainer(clip_norm=0)


def test_metrics(tmp_path):
    corpus, trainer = make_trainer()
    writer = MetricsWriter(tmp_path)
    items = run(trainer, corpus, epochs=2)
    for i, p in enumerate(items):
        writer.write(p, float(i))
    writer.close()
    records = read_metrics(tmp_path)
    for record, p in zip(records, items, strict=True):
        assert {**p.as_dict(), "seconds": record["seconds"]} == {**record, "evaluation": p.evaluation}
    table = (tmp_path / "metrics.csv").read_text().splitlines()
    assert len(table) == len(items) + 1
    assert table[0] == "step,epoch,loss,smooth_loss,validation_loss,learning_rate,grad_norm,seconds"
    # Resuming from step 3 drops later lines, an incomplete line, and evaluations after the checkpoint.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, ')
    assert read_metrics(tmp_path) == records
    writer = MetricsWriter(tmp_path, after_step=3, evaluated=0)
    writer.write(items[3], 1.0)
    writer.close()
    kept = read_metrics(tmp_path)
    assert [r["step"] for r in kept] == [1, 2, 3, 4]
    assert kept[-1]["seconds"] == kept[-2]["seconds"] + 1.0
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nfoo\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 1: not a metrics record"):
        read_metrics(tmp_path)
    with pytest.warns(UserWarning, match=r"dropped damaged lines: \[1, 2\]"):
        MetricsWriter(tmp_path, after_step=9).close()
    assert read_metrics(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="limits the size of its files")
def test_a_write_of_metrics_that_fails_halfway_is_repeated(tmp_path):
    """A full disk neither loses a line nor leaves half of one, nor writes one twice."""
    import resource

    corpus, trainer = make_trainer()
    items = run(trainer, corpus, epochs=4)
    writer, lines = MetricsWriter(tmp_path), tmp_path / "metrics.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for i, p in enumerate(items):
        writer.write(p, float(i))
        if i in (3, 5, 8):
            resource.setrlimit(resource.RLIMIT_FSIZE, (lines.stat().st_size + 30, limits[1]))
            try:
                with pytest.raises(OSError, match="File too large") as failed:
                    writer.flush()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert failed.value.filename == str(lines)
            writer.write(p, float(i))  # a run that ends does it again
        if i == 5:
            writer.flush()
    writer.close()
    assert [(r["step"], r["validation_loss"]) for r in read_metrics(tmp_path)] == [
        (p.step, p.validation_loss) for p in items
    ]
    table = (tmp_path / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table] == ["step", *(str(p.step) for p in items)]
