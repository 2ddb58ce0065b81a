"""Whole training steps as graphs, on a device that records operations and replays them on the same memory."""

import copy
from pathlib import Path

import numpy as np
import pytest
from lab import PROSE

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx.cells.vocabulary import array_ops
from rnnx.data import Batch, Examples, MultiTaskExamples, PairBatch, Pairs, make_corpus
from rnnx.models import CharModel, Head, MultiTaskModel, Seq2Seq, SequenceClassifier, SequenceRegressor
from rnnx.optim import SGD, Adam, AdamW, CosineDecay, LinearWarmup, Momentum, RMSProp
from rnnx.training import Trainer, precision
from rnnx.training.precision import LossScale


class Device:
    """The emulated device, its capture of steps, and the number of fetches."""

    def __init__(self, xp, steps):
        self.xp, self.there, self.steps, self.fetched = xp, xp.Device("device1"), steps, 0

    @property
    def counts(self):
        return self.steps.recorder

    def to(self, arrays):
        return {name: self.xp.asarray(np.array(a), device=self.there) for name, a in arrays.items()}


@pytest.fixture
def device(monkeypatch, restored_engines):
    pytest.importorskip("array_api_strict")
    from recording_engine import ARRAY, Recorder, RecordingEngine, Steps, xp

    recorder = Recorder()
    recorder.install(monkeypatch)
    array_ops.cache_clear()  # it holds functions
    it = Device(xp, Steps(recorder))
    engines.register_engine("recording", RecordingEngine(it.steps), ("array_api_strict",))
    to_host = ns.to_host

    def fetch(a):
        if isinstance(a, np.ndarray):
            return to_host(a)
        assert recorder.tape is None, "a step that is captured cannot be fetched from"
        it.fetched += 1
        return np.array(a._array)

    def look(self, *_):
        raise AssertionError("this waits for the device")

    for name in ("__float__", "__bool__", "__int__", "__index__", "__array__", "__buffer__"):
        if hasattr(ARRAY, name):
            monkeypatch.setattr(ARRAY, name, look)
    monkeypatch.setattr(ns, "to_host", fetch)
    yield it
    array_ops.cache_clear()


def corpus_of(by):
    lines = "triton\ntyr\nvelo\nstegos\nsaur\n" * 12
    return make_corpus("text", lines if by == "lines" else PROSE[:200], by=by, seq_length=4)


def trainers(device, model, optimizer, **options):
    """The same run twice on the device: with captured steps, and without."""
    made = []
    for in_place in (True, False):
        copied = type(model)(**model.config, parameters=device.to(model.parameters))
        made.append(Trainer(copied, optimizer, in_place=in_place, **options))
    return made


def host(arrays):
    return {name: np.array(a._array) for name, a in arrays.items()}


def assert_same_bits(ours, theirs):
    ours, theirs = host(ours), host(theirs)
    assert ours.keys() == theirs.keys()
    for name, a in ours.items():
        assert a.dtype == theirs[name].dtype
        assert np.array_equal(a, theirs[name], equal_nan=True), name


def assert_same_runs(ours, theirs):
    assert_same_bits(ours.model.parameters, theirs.model.parameters)
    (values, arrays), (their_values, their_arrays) = ours.state(), theirs.state()
    assert values == their_values
    assert_same_bits(arrays, their_arrays)


def char_model(corpus, **options):
    return CharModel(corpus.tokenizer.vocab_size, [6, 5], **{"seed": 0, "dtype": "float64", **options})


def run_both(device, pair, dataset, **run):
    """Run both to the end; return the numbers of all items."""
    ours, theirs = ([p.as_dict() for p in trainer.run(dataset, **run)] for trainer in pair)
    assert ours == theirs
    assert_same_runs(*pair)
    return ours


@pytest.mark.parametrize(
    ("by", "optimizer", "options"),
    [
        ("streams", Adam(CosineDecay(0.02, steps=30)), {}),
        ("streams", Adam(0.01), {"clip_norm": 0.01, "clip_value": 0.002}),
        ("windows", AdamW(LinearWarmup(0.01, 9)), {}),
        ("lines", RMSProp(0.01, centered=True, momentum=0.5), {"clip_norm": None}),
        ("windows", Momentum(0.1, dampening=0.5), {}),
        ("streams", SGD(0.1), {"model": {"dropout": 0.3, "zoneout": 0.2, "recurrent_dropout": 0.1}}),
        ("streams", SGD(0.1, weight_decay=0.01), {"model": {"cell": "gru", "dtype": "float32"}}),
        ("streams", Adam(0.01), {"segment_length": 4, "model": {"dropout": 0.3, "zoneout": 0.2}}),
        ("windows", Adam(0.01), {"segment_length": 2, "model": {"dtype": "float32"}}),
        ("streams", Adam(0.01), {"ema": 0.9}),
        ("streams", SGD(0.1), {"frozen": ["*_l0"]}),
        ("windows", AdamW(0.01), {"frozen": ["by", "W*_l1"], "ema": 0.5, "model": {"dtype": "float32"}}),
        ("streams", Adam(0.01), {"micro_batch_size": 3, "model": {"dropout": 0.3}}),
        ("windows", Adam(0.01), {"shards": 2, "segment_length": 3, "frozen": ["by"], "ema": 0.9}),
        ("lines", Adam(0.01), {"segment_length": 3, "model": {"dropout": 0.3}}),
        ("lines", AdamW(0.01), {"micro_batch_size": 3, "model": {"dtype": "float32"}}),
        ("lines", Adam(0.01), {"shards": 2, "segment_length": 2, "frozen": ["by"], "ema": 0.9}),
        ("streams", SGD(0.1), {"micro_batch_size": 1, "model": {"dtype": "float32"}}),  # more than eight parts
    ],
)
def test_replayed_steps_have_the_same_bits(device, by, optimizer, options):
    """Schedules, step counts, batches, carried states and short last batches: nothing is baked in."""
    corpus = corpus_of(by)
    pair = trainers(device, char_model(corpus, **options.pop("model", {})), optimizer, **options)
    n = corpus.train.n_batches(9)
    items = run_both(device, pair, corpus.train, batch_size=9, iterations=n + 4, evaluate_every=1000)
    assert len({p["loss"] for p in items}) > len(items) // 2
    assert device.counts.captures >= 1
    assert device.counts.replays >= len(items) // 3


def test_a_replayed_step_is_a_few_calls(device):
    """Two copies to the device, one launch, and a copy of the results; nothing is fetched."""
    corpus = corpus_of("streams")
    ours, _ = trainers(device, char_model(corpus), Adam(0.01))
    items = ours.run(corpus.train, batch_size=4, iterations=30, evaluate_every=1000)
    for _ in range(8):
        next(items)
    counts, captures = device.counts, device.counts.captures
    before = counts.operations, counts.replays, counts.writes, device.fetched
    next(items)
    after = counts.operations, counts.replays, counts.writes, device.fetched
    assert counts.captures == captures
    operations, replays, writes, fetched = (b - a for a, b in zip(before, after, strict=True))
    assert (replays, writes, fetched) == (1, 2, 0)
    assert operations == 6  # an array for the results, four views, and a copy


def test_parameters_stay_in_place(device):
    corpus = corpus_of("streams")
    ours, _ = trainers(device, char_model(corpus), Adam(0.01))
    run = {"batch_size": 4, "evaluate_every": 1000}
    list(ours.run(corpus.train, iterations=5, **run))
    parameters = ours.model.parameters
    before = host(parameters)
    list(ours.run(corpus.train, iterations=6, **run))
    assert ours.model.parameters is parameters
    assert any(np.any(a != before[name]) for name, a in host(parameters).items())


def test_evaluations_patience_and_resuming(device):
    corpus = corpus_of("streams")
    pair = trainers(device, char_model(corpus), Adam(0.05))
    run = {"batch_size": 4, "evaluate_every": 3, "patience": 2}
    for trainer in pair:
        list(trainer.run(corpus.train, corpus.validation, iterations=7, **run))
    resumed = trainers(device, char_model(corpus), Adam(0.05))
    for trainer, old in zip(resumed, pair, strict=True):
        trainer.model.parameters = {name: ns.owned_copy(device.xp, a) for name, a in old.model.parameters.items()}
        values, arrays = old.state()
        trainer.restore(values, {name: ns.owned_copy(device.xp, a) for name, a in arrays.items()})
    for trainer in (*pair, *resumed):
        list(trainer.run(corpus.train, corpus.validation, iterations=25, **run))
    assert pair[0].step < 25  # out of patience
    for trainer in (pair[1], *resumed):
        assert_same_runs(trainer, pair[0])


@pytest.mark.parametrize("options", [{}, {"frozen": ["Wy"], "ema": 0.9}])
def test_parameters_replaced_from_outside(device, options):
    """They are copied into the memory of the graph, and so are a restored state and new settings."""
    corpus = corpus_of("windows")
    pair = trainers(device, char_model(corpus), Adam(0.05), **options)
    run = {"batch_size": 4, "evaluate_every": 1000}
    for trainer in pair:
        list(trainer.run(corpus.train, iterations=6, **run))
        trainer.model.parameters = {name: a * 2 for name, a in trainer.model.parameters.items()}
        list(trainer.run(corpus.train, iterations=10, **run))
        trainer.average = {name: a * 2 for name, a in trainer.average.items()}
        trainer.clip_norm = 0.01
        list(trainer.run(corpus.train, iterations=14, **run))
        trainer.optimizer = Adam(0.001)
        list(trainer.run(corpus.train, iterations=18, **run))
    assert_same_runs(*pair)
    assert device.counts.captures >= 3


def test_a_copy_goes_on_alone(device):
    corpus = corpus_of("windows")
    pair = trainers(device, char_model(corpus), Adam(0.05))
    try:
        copy.deepcopy(next(iter(pair[0].model.parameters.values())))
    except TypeError:
        pytest.skip("this version of array_api_strict cannot copy arrays")
    run = {"batch_size": 4, "evaluate_every": 1000}
    for trainer in pair:
        list(trainer.run(corpus.train, iterations=6, **run))
    copied = copy.deepcopy(pair[0])
    list(copied.run(corpus.train, iterations=12, **run))
    assert_same_bits(pair[0].model.parameters, pair[1].model.parameters)
    list(pair[1].run(corpus.train, iterations=12, **run))
    assert_same_runs(copied, pair[1])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_step_that_is_not_finite(device):
    """The error names it, and the state is the one before it, as without graphs."""
    x = np.random.default_rng(0).standard_normal((2, 24, 4))
    examples = Examples(x, np.zeros((2, 24, 4)))
    wrong = Examples(x, np.where(np.arange(24)[:, None] // 4 == 2, 1e200, np.zeros((2, 24, 4))))  # in step 9
    model = SequenceRegressor(2, 4, 2, per_step=True, seed=0, dtype="float64")
    pair = trainers(device, model, SGD(0.1), shuffle=False, ema=0.9)
    averages = []
    for trainer in pair:
        list(trainer.run(examples, batch_size=4, iterations=7))
        with pytest.raises(FloatingPointError, match="the loss is inf at step 9"):
            list(trainer.run(wrong, batch_size=4, iterations=20))
        assert trainer.step == 8
        averages.append(host(trainer.averaged.parameters))
    assert_same_runs(*pair)
    (right,) = trainers(device, model, SGD(0.1), shuffle=False, ema=0.9)[:1]
    list(right.run(examples, batch_size=4, iterations=7))
    list(right.run(Examples(x, wrong.targets), batch_size=4, iterations=8))
    for found in averages:
        assert all(np.array_equal(a, host(right.averaged.parameters)[name]) for name, a in found.items())
    for trainer in pair:
        list(trainer.run(examples, batch_size=4, iterations=15))
    assert_same_runs(*pair)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_loss_scale_in_a_graph(device, monkeypatch):
    """It advances and falls on the device."""
    monkeypatch.setattr(precision, "INTERVAL", 3)
    corpus = corpus_of("streams")
    model = char_model(corpus, dtype="float32")
    model.parameters = {**model.parameters, "Wy": model.parameters["Wy"] * np.float32(100)}
    pair = trainers(device, model, Adam(0.01))
    for trainer in pair:
        keywords = {"dtype": device.xp.float32, "device": device.there}
        scale = device.xp.asarray(2.0**127, **keywords)  # the gradients overflow for some steps
        trainer.loss_scale = LossScale(scale, device.xp.asarray(0.0, **keywords))
    monkeypatch.setattr(precision, "LARGEST", 2.0**127)
    items = run_both(device, pair, corpus.train, batch_size=4, iterations=24, evaluate_every=1000)
    assert device.counts.replays > 12
    skipped = [p["step"] for p in items if p["grad_norm"] == 0]
    assert skipped
    assert len(skipped) < 20


@pytest.mark.parametrize(
    "options", [{}, {"segment_length": 3}, {"micro_batch_size": 3}, {"shards": 2, "segment_length": 2}]
)
def test_models_and_datasets(device, options):
    """Sequences with lengths and other heads, and weights of examples and steps, as a whole and in parts."""
    rng = np.random.default_rng(0)
    inputs, lengths = rng.standard_normal((2, 24, 4)), np.array([4, 2, 3, 4] * 6)
    examples = Examples(inputs, rng.integers(0, 3, 24), lengths=lengths)
    weights = rng.random(24).astype("float32"), rng.random((24, 4)) * (rng.random((24, 4)) > 0.3)
    weighted = Examples(inputs, rng.integers(0, 3, 24), lengths=lengths, weights=weights[0])
    numbers = Examples(inputs, rng.standard_normal((2, 24, 4)), weights=weights[1])
    targets = {"label": rng.integers(0, 3, 24), "load": rng.standard_normal((1, 24, 4))}
    heads = {"label": Head(3, "cross_entropy", weight=0.5), "load": Head(1, "gaussian", per_step=True)}
    several = MultiTaskExamples(inputs, targets, lengths=lengths, weights={"load": weights[1]})
    own = {"seed": 0, "dtype": "float64"}
    for model, dataset in (
        (SequenceClassifier(2, 5, 3, bidirectional="segment_length" not in options, **own), examples),
        (SequenceClassifier(2, 5, 3, **own), weighted),
        (SequenceRegressor(2, 5, 2, per_step=True, **own), numbers),
        (MultiTaskModel(2, 5, heads, **own), several),
    ):
        captures = device.counts.captures
        pair = trainers(device, model, Adam(0.01), **options)
        run_both(device, pair, dataset, batch_size=8, iterations=8, evaluate_every=1000)
        assert device.counts.captures > captures


@pytest.mark.parametrize("options", [{"segment_length": 2}, {"micro_batch_size": 5}])
def test_parts_of_several_heads(device, options):
    rng, n = np.random.default_rng(0), 24
    heads = {"label": Head(3, "cross_entropy"), "load": Head(1, per_step=True)}
    targets = {"label": rng.integers(0, 3, n), "load": rng.standard_normal((1, n, 4))}
    data = MultiTaskExamples(rng.standard_normal((2, n, 4)), targets)
    pair = trainers(device, MultiTaskModel(2, 5, heads, seed=0, dtype="float64"), Adam(0.01), **options)
    run_both(device, pair, data, batch_size=8, epochs=3, evaluate_every=1000)
    assert device.counts.replays >= 3


def test_weights_on_the_device_of_examples_that_end_in_different_segments(device):
    """Their lengths say which of them end in a segment, on the host, too; those without steps are in the first."""
    rng, model = np.random.default_rng(0), SequenceRegressor(2, 3, seed=0, dtype="float64")
    given = {"inputs": rng.standard_normal((2, 4, 6)), "targets": rng.standard_normal((1, 4)), "weights": rng.random(4)}
    batch = Batch(**given, lengths=[6, 0, 3, 4])
    whole, on_host = model.train_step(batch), model.train_step(batch, segment_length=2)
    there = SequenceRegressor(**model.config, parameters=device.to(model.parameters))
    parts = there.train_step(Batch(**device.to(given), lengths=[6, 0, 3, 4]), segment_length=2)
    expected = {**whole.gradients, "loss": whole.loss}
    for found in (host({**parts.gradients, "loss": parts.loss}), {**on_host.gradients, "loss": on_host.loss}):
        for name, value in found.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-9, atol=1e-12, err_msg=name)


def pairs_of(rng, shapes=((4, 3), (2, 4), (4, 3)), n=4):
    """Pairs whose batches of n have these longest sources and targets."""
    sources, targets = [], []
    for n_source, n_target in shapes:
        sources += [rng.integers(1, 6, k) for k in (n_source, *rng.integers(1, n_source + 1, n - 1))]
        targets += [rng.integers(1, 5, k) for k in (n_target, *rng.integers(0, n_target + 1, n - 1))]
    return Pairs(sources, targets, end_token=0)


@pytest.mark.parametrize(
    ("attention", "options"),
    [
        ("additive", {"micro_batch_size": 3}),
        ("scaled_dot", {"frozen": ["Wy"], "ema": 0.9, "model": {"num_layers": 2, "dropout": 0.3}}),
        ("dot", {"shards": 2, "model": {"bidirectional_encoder": False, "cell": "gru", "dtype": "float32"}}),
        (None, {}),
    ],
)
def test_pairs(device, attention, options):
    own = {"seed": 0, "dtype": "float64", **options.pop("model", {})}
    model = Seq2Seq(6, 5, 4, attention=attention, **own)
    pair = trainers(device, model, Adam(0.01), shuffle=False, **options)
    items = run_both(device, pair, pairs_of(np.random.default_rng(0)), batch_size=4, epochs=4, evaluate_every=1000)
    assert device.counts.captures == 2
    assert device.counts.replays >= len(items) // 2


def test_pairs_of_own_datasets_are_checked_in_every_step(device):
    """On the device, nobody would notice a target that is no class."""

    class Own:
        def __len__(self):
            return 4

        def n_batches(self, batch_size):
            return 4

        def batches(self, batch_size, rng=None, start=0):
            for k in range(start, 4):
                source = np.full((2, 3), 1 if k < 3 else 9)
                yield PairBatch(source, None, source, source, None)

    (ours, _) = trainers(device, Seq2Seq(6, 5, 4, seed=0), Adam(0.01))
    with pytest.raises(ValueError, match=r"`source` must be in \[0, source_vocab_size\) = \[0, 6\)"):
        list(ours.run(Own(), batch_size=2, epochs=1))
    assert (ours.step, device.counts.captures) == (3, 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lengths": np.array([9, 2, 3])}, r"`lengths` must be in \[0, T_x\] = \[0, 4\]; got values from 2 to 9"),
        ({"targets": np.array([0, 1, 7])}, r"`targets` must be in \[0, num_classes\) = \[0, 3\)"),
        ({"weights": np.array([1.0, -3.0, 1.0])}, "`weights` must be finite numbers of at least 0; got -3.0"),
    ],
)
@pytest.mark.parametrize("before", [1, 3])  # steps before it: from the second one on, they are captured
def test_own_batches_are_checked_in_every_step(device, before, wrong, message):
    x = device.to({"x": np.random.default_rng(0).standard_normal((2, 3, 4))})["x"]
    good = {"inputs": x, "targets": np.arange(3), "lengths": np.array([4, 2, 3]), "weights": np.ones(3)}

    class Own:
        def __len__(self):
            return 3

        def n_batches(self, batch_size):
            return before + 1

        def batches(self, batch_size, rng=None, start=0):
            return (Batch(**{**good, **(wrong if k == before else {})}) for k in range(start, before + 1))

    pair = trainers(device, SequenceClassifier(2, 5, 3, seed=0, dtype="float64"), Adam(0.01))
    for trainer in pair:
        with pytest.raises(ValueError, match=message):
            list(trainer.run(Own(), batch_size=3, epochs=1))
    assert_same_runs(*pair)
    assert pair[0].step == before


@pytest.mark.parametrize("given", [{"n_terms": 100}, {"lengths": [3, 2]}])
def test_own_batches_that_are_not_captured(device, given):
    """A share of a larger batch, and lengths in a list."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 2, 3)), rng.standard_normal((1, 2, 3))
    there = device.to({"inputs": x, "targets": y})

    class Own:
        def __len__(self):
            return 2

        def n_batches(self, batch_size):
            return 5

        def batches(self, batch_size, rng=None, start=0):
            return (Batch(**{"lengths": None, **there, **given}) for _ in range(start, 5))

    pair = trainers(device, SequenceRegressor(2, 4, per_step=True, seed=0, dtype="float64"), SGD(0.1))
    run_both(device, pair, Own(), batch_size=2, epochs=2, evaluate_every=1000)
    assert device.counts.replays == 0


class OwnLoss(CharModel):
    """It computes in Python."""

    def compare(self, z, batch):
        loss, dz = super().compare(z, batch)
        return loss, dz * 2


@pytest.mark.parametrize("why", ["dropout", "own", "host", "off"])
def test_steps_that_are_not_captured(device, why, monkeypatch):
    corpus = corpus_of("windows")
    model = char_model(corpus, dropout=0.2 if why == "dropout" else 0.0)
    if why == "dropout":
        from recording_engine import RecordingEngine

        monkeypatch.delattr(RecordingEngine, "kept")  # the host draws them
    options = {}
    if why == "own":
        model.__class__ = OwnLoss
    if why == "off":
        monkeypatch.setattr(device.steps, "capture", None)
        options = {"in_place": False}
    dataset = corpus.train
    if why == "host":
        dataset = type("Own", (type(dataset),), {})(dataset._text, 6)
    pair = trainers(device, model, Adam(0.01), **options) if why != "off" else []
    if why == "off":
        copied = CharModel(**model.config, parameters=device.to(model.parameters))
        pair = [Trainer(copied, Adam(0.01), **options) for _ in range(1)]
        list(pair[0].run(dataset, batch_size=8, iterations=6))
    else:
        run_both(device, pair, dataset, batch_size=8, iterations=6)
    assert device.counts.replays == 0


def test_a_replay_with_other_results_is_not_used(device):
    """It is compared with the step before it is used."""
    corpus = corpus_of("windows")
    pair = trainers(device, char_model(corpus), Adam(0.01))

    def broken(replay):
        replay()
        memory = pair[0]._captured._memory
        memory.moments[0]._array[0] += 1e-6

    device.steps.around = broken
    with pytest.warns(
        RuntimeWarning, match="without a graph of the whole step: the replay of a step has other results"
    ):
        run_both(device, pair, corpus.train, batch_size=8, iterations=6)
    assert device.counts.replays == device.counts.captures


def test_a_capture_that_fails(device, monkeypatch):
    corpus = corpus_of("windows")
    pair = trainers(device, char_model(corpus), Adam(0.01))
    capture = device.steps.capture

    def fails(like, work):
        capture(like, work)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(device.steps, "capture", fails)
    with pytest.warns(RuntimeWarning, match="without a graph of the whole step: operation not permitted"):
        run_both(device, pair, corpus.train, batch_size=8, iterations=6)


def test_the_check_with_a_gpu(device, monkeypatch):
    """What `gpu.py` checks there holds here, and it can fail."""
    folder = Path(__file__).parent.parent / "asv_benchmarks"
    if not folder.exists():
        pytest.skip("the benchmarks are not in an archive")
    monkeypatch.syspath_prepend(folder)
    gpu_steps = pytest.importorskip("gpu_steps")
    monkeypatch.setattr(gpu_steps, "STEPS", 7)

    def failures(name):
        return gpu_steps.compare(device.xp, lambda a: np.array(a._array), gpu_steps.RUNS[name])

    for name in ("characters", "weighted examples in shards and segments", "pairs in micro-batches"):
        assert failures(name) == [], name
    monkeypatch.setattr(device.steps, "around", lambda replay: None)
    assert any("the replay of a step has other results" in one for one in failures("pairs"))


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_of_a_replay(device, when):
    """The step is done once."""
    corpus = corpus_of("streams")
    pair = trainers(device, char_model(corpus), Adam(0.01))
    run = {"batch_size": 4, "evaluate_every": 1000}
    for trainer in pair:
        list(trainer.run(corpus.train, iterations=6, **run))
    calls = []

    def interrupted(replay):
        calls.append(1)
        if len(calls) != 4 or when == "after":
            replay()
        if len(calls) == 4:
            raise KeyboardInterrupt

    device.steps.around = interrupted
    with pytest.raises(KeyboardInterrupt):
        list(pair[0].run(corpus.train, iterations=20, **run))
    assert 6 < pair[0].step < 20
    for trainer in pair:
        list(trainer.run(corpus.train, iterations=14, **run))
    assert_same_runs(*pair)
