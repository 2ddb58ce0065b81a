"""Training on a device: numbers are fetched only when they are read, and match NumPy.

The device is emulated by arrays of array-api-strict that are not on its CPU device. Reading their values fails
except through the one function that fetches them, which is counted.
"""

import math

import numpy as np
import pytest
from lab import NAMES, PROSE
from problems import assert_close

from rnnx._core import arrays as ns
from rnnx.data import Examples, Pairs, make_corpus, to_device_of
from rnnx.models import CharModel, Seq2Seq, SequenceClassifier, SequenceRegressor
from rnnx.models.generation import sample
from rnnx.optim import SGD, Adam, AdamW, Momentum, RMSProp
from rnnx.training import Run, Settings, Trainer, evaluate, precision, read_metrics
from rnnx.training.precision import LossScale

LINES = "\n".join(name[:5] for name in NAMES.splitlines())
LOOKS = ("__float__", "__bool__", "__int__", "__index__", "__complex__", "__iter__", "__array__", "__buffer__")


class Device:
    """The emulated device, with the number of fetches and the sizes of the copies to it."""

    def __init__(self, xp):
        self.xp, self.there = xp, xp.Device("device1")
        self.fetched = 0
        self.brought = []  # sizes
        self.hidden = False

    def to(self, arrays):
        return {name: self.xp.asarray(a, device=self.there) for name, a in arrays.items()}


@pytest.fixture
def device(monkeypatch):
    xp = pytest.importorskip("array_api_strict")
    array, it = type(xp.asarray(0)), Device(xp)

    def forbidden(name):
        own = getattr(array, name, None)

        def look(self, *arguments, **keywords):
            if self.device != xp.Device("CPU_DEVICE"):
                raise AssertionError(f"{name} waits for the device")
            return own(self, *arguments, **keywords)

        return look

    for name in (*LOOKS, "__dlpack__"):
        if hasattr(array, name):
            monkeypatch.setattr(array, name, forbidden(name))
    to_host, asarray, item = ns.to_host, xp.asarray, array.__getitem__

    def part(self, key):  # CuPy waits for the number of selected elements
        keys = key if isinstance(key, tuple) else (key,)
        assert not any(isinstance(k, array) and k.dtype == xp.bool for k in keys), "a mask waits for the device"
        return item(self, key)

    monkeypatch.setattr(array, "__getitem__", part)

    def fetch(a):
        if isinstance(a, np.ndarray):
            return to_host(a)
        it.fetched += 1
        return np.array(a._array)

    def bring(values, *arguments, **keywords):
        if isinstance(values, np.ndarray):
            it.brought.append(values.nbytes)
        return asarray(values, *arguments, **keywords)

    monkeypatch.setattr(ns, "to_host", fetch)
    monkeypatch.setattr(xp, "asarray", bring)
    return it


def corpus_of(by):
    """Short sequences: every operation of array-api-strict takes time."""
    return make_corpus("text", LINES if by == "lines" else PROSE[:400], by=by, seq_length=6)


def trainers(device, corpus, *, optimizer=None, model=None, **options):
    """The same run twice: on NumPy arrays, and on the device."""
    keywords = {"seed": 0, "dtype": "float64", **(model or {})}
    ours = CharModel(corpus.tokenizer.vocab_size, [6, 5], **keywords)
    theirs = CharModel(**ours.config, parameters=device.to(ours.parameters))
    return [Trainer(m, optimizer or Adam(0.01), **options) for m in (ours, theirs)]


def host(arrays):
    return {name: a if isinstance(a, np.ndarray) else np.array(a._array) for name, a in arrays.items()}


def assert_same(ours, theirs):
    for (name, a), b in zip(ours.items(), host(theirs).values(), strict=True):
        assert_close(b, a, 1e-10, name)


def assert_numbers(actual, expected):
    assert {k: v for k, v in actual.items() if v is None} == {k: v for k, v in expected.items() if v is None}
    for name, value in expected.items():
        assert value is None or actual[name] == pytest.approx(value, rel=1e-10), name


@pytest.mark.parametrize(
    ("by", "options"),
    [
        ("lines", {}),
        ("lines", {"segment_length": 3}),
        ("lines", {"micro_batch_size": 5, "segment_length": 4, "model": {"dropout": 0.3}}),
        ("lines", {"optimizer": SGD(0.1), "clip_value": 0.05, "clip_norm": None}),
        ("windows", {"model": {"dropout": 0.3, "cell": "gru"}}),
        ("windows", {"segment_length": 4, "shuffle": False}),
        ("streams", {"clip_norm": 0.01, "model": {"cell": "rnn"}}),
        ("streams", {"segment_length": 4, "model": {"dropout": 0.3}}),
    ],
)
def test_a_step_fetches_nothing(device, by, options):
    """Several epochs of steps without a fetch give NumPy's numbers, parameters and state."""
    corpus = corpus_of(by)
    ours, theirs = trainers(device, corpus, **options)
    run = {"batch_size": 12, "iterations": 8, "evaluate_every": 100}
    items = theirs.run(corpus.train, corpus.validation, **run)
    steps = []
    for expected in range(1, 8):
        steps.append(next(items))
        assert steps[-1].step == theirs.step == expected
        assert device.fetched == steps[-1].epoch - 1  # once at the beginning of an epoch
    assert device.fetched > 0
    fetched = device.fetched
    losses = [p.loss for p in steps]
    assert device.fetched == fetched + 1
    steps += items
    expected = list(ours.run(corpus.train, corpus.validation, **run))
    assert losses == pytest.approx([p.loss for p in expected[:7]], rel=1e-10)
    for p, q in zip(steps, expected, strict=True):
        assert_numbers(p.as_dict(), q.as_dict())
    assert_same(ours.model.parameters, theirs.model.parameters)
    (values, arrays), (our_values, our_arrays) = theirs.state(), ours.state()
    assert_numbers(values, our_values)
    assert_same(our_arrays, arrays)


class ByArray(Adam):
    """A rule that is not elementwise: every array is scaled by its own largest entry."""

    def update(self, parameters, grads, state, t):
        xp = ns.namespace(next(iter(grads.values())))
        return super().update(parameters, {key: g / xp.max(xp.abs(g)) for key, g in grads.items()}, state, t)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "joined"),
    [*((kind(0.01), True) for kind in (SGD, Momentum, RMSProp, Adam, AdamW)), (ByArray(0.01), False)],
    ids=lambda x: "" if isinstance(x, bool) else type(x).__name__,
)
def test_the_update_is_of_one_joined_array(device, optimizer, joined, monkeypatch):
    """Every call is a kernel launch, so arrays are joined; a custom rule sees single arrays."""
    corpus = corpus_of("lines")
    ours, theirs = trainers(device, corpus, optimizer=optimizer, clip_value=0.1)
    seen, update = [], type(optimizer).update

    def watched(self, p, *rest, **keywords):
        seen.append((trainer is theirs, len(p)))
        return update(self, p, *rest, **keywords)

    monkeypatch.setattr(type(optimizer), "update", watched)
    for trainer in (ours, theirs):
        trainer.fit(corpus.train, corpus.validation, iterations=5, batch_size=12)
    n = len(ours.model.parameters)
    assert set(seen) == {(False, n), (True, 1 if joined else n)}
    assert_same(ours.model.parameters, theirs.model.parameters)
    assert_same(ours.optimizer_state, theirs.optimizer_state)
    # Parameters that were replaced from outside are the ones that are trained.
    theirs.model.parameters = {name: a + 1 for name, a in theirs.model.parameters.items()}
    ours.model.parameters = {name: a + 1 for name, a in ours.model.parameters.items()}
    for trainer in (ours, theirs):
        trainer.fit(corpus.train, corpus.validation, iterations=8, batch_size=12)
    assert_same(ours.model.parameters, theirs.model.parameters)


@pytest.mark.parametrize("by", ["lines", "windows", "streams"])
def test_the_text_is_on_the_device(device, by):
    """A step only copies the positions of its rows to the device, and their lengths if they differ."""
    corpus = corpus_of(by)
    _, theirs = trainers(device, corpus)
    items = theirs.run(corpus.train, epochs=2, batch_size=4)
    next(items)
    device.brought.clear()
    next(items)
    assert max(device.brought) <= 2 * 4 * 8


def poison(monkeypatch, at, what):
    """Make the loss or the gradients of one step of every run not finite."""
    train_step = CharModel.train_step

    def wrong(self, batch, *, masks, **options):
        step = train_step(self, batch, masks=masks, **options)
        if masks.seed[1] != at:
            return step
        if what == "loss":
            return type(step)(step.loss * math.nan, step.gradients, step.states)
        return type(step)(step.loss, {key: g * math.inf for key, g in step.gradients.items()}, step.states)

    monkeypatch.setattr(CharModel, "train_step", wrong)


@pytest.mark.parametrize("what", ["loss", "gradients"])
@pytest.mark.parametrize("found_by", ["number", "look", "evaluation", "state", "epoch"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.slow
def test_a_run_that_diverges(device, monkeypatch, what, found_by):
    """The error comes later, but it names the step, and the state is the one before it."""
    corpus, bad = corpus_of("streams"), 4
    ours, theirs = trainers(device, corpus)
    run = {"batch_size": 2, "epochs": 2, "evaluate_every": 7 if found_by == "evaluation" else 1000}
    poison(monkeypatch, bad, what)
    with pytest.raises(FloatingPointError) as expected:
        list(ours.run(corpus.train, **run))
    if found_by == "number":
        monkeypatch.setattr(type(theirs._pending), "max_steps", 6)
    items, steps = theirs.run(corpus.train, **run), []
    if found_by in ("look", "state"):
        steps = [next(items) for _ in range(6)]
        assert theirs.step == 6
        if found_by == "state":
            theirs.state()
        else:
            with pytest.raises(FloatingPointError, match=f"at step {bad}"):
                _ = steps[-1].loss
        assert theirs.step == bad - 1
    with pytest.raises(FloatingPointError) as found:
        steps.extend(items)
    assert found_by not in ("look", "state") or len(steps) == 6  # the run does not continue
    assert str(found.value).partition(" is ")[0] == str(expected.value).partition(" is ")[0]
    assert str(found.value).endswith(f"at step {bad}; a smaller learning rate may help")
    assert theirs.step == ours.step == bad - 1
    assert_same(ours.model.parameters, theirs.model.parameters)
    (values, arrays), (our_values, our_arrays) = theirs.state(), ours.state()
    assert_numbers(values, our_values)
    assert_same(our_arrays, arrays)
    monkeypatch.undo()


def set_scale(trainer, scale):
    """Scale losses by a number, where the parameters are."""
    like = next(iter(trainer.model.parameters.values()))
    xp, keywords = ns.namespace(like), {"dtype": like.dtype, "device": ns.device(like)}
    trainer.loss_scale = LossScale(xp.asarray(scale, **keywords), xp.asarray(0.0, **keywords))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_loss_scale_is_on_the_device(device, monkeypatch):
    """Overflows halve the scale and skip the step there, without a fetch, as on NumPy arrays."""
    corpus = corpus_of("streams")
    pair = trainers(device, corpus)
    for trainer in pair:
        set_scale(trainer, 8.0)
    monkeypatch.setattr(precision, "INTERVAL", 3)
    with monkeypatch.context() as patch:
        poison(patch, 2, "gradients")
        poison(patch, 3, "gradients")
        items = pair[1].run(corpus.train, batch_size=4, iterations=8, evaluate_every=100)
        steps = [next(items) for _ in range(8)]
        assert device.fetched == steps[-1].epoch - 1
        expected = list(pair[0].run(corpus.train, batch_size=4, iterations=8, evaluate_every=100))
    for p, q in zip(steps, expected, strict=False):
        assert_numbers(p.as_dict(), q.as_dict())
    assert [p.grad_norm == 0 for p in steps] == [False, True, True, *[False] * 5]
    assert [float(number) for number in pair[0].loss_scale] == [4, 2]
    assert_same(pair[0].model.parameters, pair[1].model.parameters)
    assert_same(pair[0].state()[1], pair[1].state()[1])
    assert {"loss/scale", "loss/steps"} <= set(pair[1].state()[1])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_run_on_the_device_that_overflows_at_a_scale_of_1(device, monkeypatch):
    """The scale stays, like all else, what it was before the failed step."""
    corpus = corpus_of("streams")
    pair = trainers(device, corpus)
    for trainer in pair:
        set_scale(trainer, 1.0)
    poison(monkeypatch, 3, "gradients")
    for trainer in pair:
        with pytest.raises(FloatingPointError, match=r"the gradients are .* at step 3"):
            list(trainer.run(corpus.train, batch_size=2, epochs=1))
    assert [float(number) for number in pair[0].loss_scale] == [1, 2]
    assert_same(pair[0].state()[1], pair[1].state()[1])


def test_numbers_after_a_failed_step(device, monkeypatch):
    """Earlier steps have their numbers; reading later ones raises the error of the run."""
    corpus = corpus_of("windows")
    _, theirs = trainers(device, corpus)
    poison(monkeypatch, 3, "loss")
    items = theirs.run(corpus.train, epochs=1, batch_size=2)
    steps = [next(items) for _ in range(5)]
    theirs.settle()
    assert [p.known for p in steps] == [True, True, False, False, False]
    assert all(math.isfinite(p.loss) for p in steps[:2])
    for p in steps[2:]:
        with pytest.raises(FloatingPointError, match="the loss is nan at step 3"):
            p.as_dict()
    with pytest.raises(AttributeError, match="no attribute 'losses'"):
        _ = steps[0].losses
    with pytest.raises(AttributeError, match="no attribute 'losses'"):
        _ = steps[3].losses


def test_a_run_continues_after_an_error(device, monkeypatch):
    """The steps that were not done are done in the next call."""
    corpus = corpus_of("lines")
    ours, theirs = trainers(device, corpus)
    with monkeypatch.context() as patch:
        poison(patch, 3, "loss")
        with pytest.raises(FloatingPointError):
            list(theirs.run(corpus.train, epochs=1, batch_size=12))
    list(theirs.run(corpus.train, epochs=1, batch_size=12))
    list(ours.run(corpus.train, epochs=1, batch_size=12))
    assert_same(ours.model.parameters, theirs.model.parameters)


def run_folder(device, monkeypatch, folder, **settings):
    """Start a run on the emulated device, like the command line."""
    (folder.parent / "prose.txt").write_text(PROSE)
    monkeypatch.setattr("rnnx.training.runs.by_device", lambda name: device.xp)
    options = {"text": str(folder.parent / "prose.txt"), "by": "windows", "seq_length": 10, "hidden_size": (6,)}
    run = Run.start(folder, Settings(**{**options, "epochs": 2, "dtype": "float64", **settings}), "cuda")
    run.model.parameters = device.to({k: np.array(p._array) for k, p in run.model.parameters.items()})
    run.trainer.optimizer_state = device.to({k: np.array(p._array) for k, p in run.trainer.optimizer_state.items()})
    return run


def test_a_run_in_a_folder(device, monkeypatch, tmp_path):
    """All steps are in the metrics, fetched together, and match NumPy; the run can be resumed."""
    run = run_folder(device, monkeypatch, tmp_path / "there")
    steps, items = 0, run.train(save_every=1e9)
    for progress in items:
        steps += not progress.evaluation
        assert device.fetched == 0 or progress.evaluation or steps > 5
    here = Run.start(tmp_path / "here", run.settings)
    list(here.train())
    records, expected = read_metrics(tmp_path / "there"), read_metrics(tmp_path / "here")
    assert len(records) == steps + 2
    for record, other in zip(records, expected, strict=True):
        assert_numbers({**record, "seconds": None}, {**other, "seconds": None})
    assert_same(here.model.parameters, run.model.parameters)
    again = Run.resume(tmp_path / "there", epochs=3)
    list(again.train())
    assert again.trainer.epoch == 3


def test_a_run_that_diverges_keeps_its_checkpoint(device, monkeypatch, tmp_path):
    run = run_folder(device, monkeypatch, tmp_path / "out", evaluate_every=1000)
    poison(monkeypatch, 8, "loss")
    with pytest.raises(FloatingPointError, match="the loss is nan at step 8"):
        list(run.train(save_every=1e9))
    monkeypatch.undo()
    kept = Run.resume(tmp_path / "out")
    assert kept.trainer.step == 7
    assert [r["step"] for r in read_metrics(tmp_path / "out")] == [*range(1, 8)]
    list(kept.train())
    whole = Run.start(tmp_path / "whole", kept.settings)
    list(whole.train())
    assert_same(whole.model.parameters, kept.model.parameters)


def test_an_abandoned_run(device, monkeypatch, tmp_path):
    """Its steps are in the metrics and in the checkpoint."""
    run = run_folder(device, monkeypatch, tmp_path / "out")
    items = run.train(save_every=1e9)
    for _ in range(3):
        next(items)
    items.close()
    assert [r["step"] for r in read_metrics(tmp_path / "out")] == [1, 2, 3]
    assert Run.resume(tmp_path / "out").trainer.counters.smooth_loss == run.trainer.counters.smooth_loss


def test_a_callback_that_reads_some_losses(device):
    """Only the losses that are read are fetched."""
    corpus = corpus_of("windows")
    _, theirs = trainers(device, corpus)
    seen = []

    def every_fourth(trainer, progress):
        if progress.step % 4 == 0 and not progress.evaluation:
            seen.append(progress.loss)

    theirs.fit(corpus.train, iterations=16, batch_size=2, evaluate_every=1000, callbacks=[every_fourth])
    assert len(seen) == 4
    assert device.fetched <= 4 + 2


@pytest.mark.parametrize("parts", [{}, {"micro_batch_size": 2}])
def test_other_models(device, parts):
    """Steps on examples and pairs do not fetch anything either, nor in parts."""
    rng = np.random.default_rng(0)
    inputs, lengths = rng.standard_normal((2, 12, 4)), rng.integers(1, 5, 12)
    examples = Examples(inputs, rng.integers(0, 3, 12), lengths=lengths, weights=rng.random(12))
    numbers = Examples(inputs, rng.standard_normal((2, 12, 4)), lengths=lengths)
    pairs = Pairs(
        [rng.integers(1, 6, 1 + i % 4) for i in range(12)], [rng.integers(1, 5, 2 + i % 3) for i in range(12)], 0
    )
    options = {"seed": 0, "dtype": "float64"}
    for model, dataset in (
        (SequenceClassifier(2, 5, 3, bidirectional=True, **options), examples),
        (SequenceRegressor(2, 5, 2, per_step=True, **options), numbers),
        (Seq2Seq(6, 5, 5, **options), pairs),
    ):
        there = type(model)(**model.config, parameters=device.to(model.parameters))
        ours, theirs = (Trainer(one, Adam(0.01), **parts) for one in (model, there))
        device.fetched = 0
        items = theirs.run(dataset, epochs=2, batch_size=5)
        steps = [next(items) for _ in range(3)]
        assert device.fetched == 0
        expected = list(ours.run(dataset, epochs=2, batch_size=5))
        steps += items
        assert [p.loss for p in steps] == pytest.approx([p.loss for p in expected], rel=1e-10)
        assert_same(ours.model.parameters, theirs.model.parameters)
        batch = next(dataset.batches(12))
        assert theirs.model.loss(batch) == pytest.approx(ours.model.loss(batch), rel=1e-10)


@pytest.mark.parametrize("by", ["lines", "windows", "streams"])
def test_batches_on_the_device_match_the_dataset(device, by):
    corpus = make_corpus(
        "text", NAMES if by == "lines" else PROSE, by=by, seq_length=10, split="tail" if by == "lines" else "blocks"
    )
    there = to_device_of(corpus.train, device.to({"p": np.zeros(1)}))
    assert len(there) == len(corpus.train)
    assert there.n_batches(4) == corpus.train.n_batches(4)
    for rng in (lambda: None, lambda: np.random.default_rng(3)):
        pairs = zip(there.batches(4, rng(), 1), corpus.train.batches(4, rng(), 1), strict=True)
        for ours, expected in pairs:
            assert ours.continues == expected.continues
            assert np.array_equal(ours.inputs._array, expected.inputs)
            assert np.array_equal(ours.targets._array, expected.targets)
            assert ours.lengths is None or np.array_equal(ours.lengths, expected.lengths)
            assert ours.lengths is not None or np.all(expected.lengths == expected.inputs.shape[1])


def test_sampling_from_a_model_on_the_device(device):
    corpus = corpus_of("lines")
    ours, theirs = trainers(device, corpus)
    options = {"n": 3, "seed": 0, "start": ["tri", "v", ""]}
    assert sample(theirs.model, corpus.tokenizer, **options) == sample(ours.model, corpus.tokenizer, **options)
    assert evaluate(theirs.model, corpus.train, 8) == pytest.approx(evaluate(ours.model, corpus.train, 8), rel=1e-10)
