"""Passes in another precision than the arrays', and training with them."""

import numpy as np
import pytest
from conftest import make_runtime, to_numpy
from lab import NAMES, PROSE
from problems import assert_close

import rnnx
from rnnx._core import arrays as ns
from rnnx.data import Examples, make_corpus
from rnnx.models import CharModel, Seq2Seq, SequenceRegressor
from rnnx.optim import Adam
from rnnx.training import Run, Settings, Trainer, load_checkpoint, precision, read_metrics, save_checkpoint
from rnnx.training.checkpoint import Checkpoint

HALVES = {"float16": 11, "bfloat16": 8}  # bits of precision
UNITS = {"float16": 2e-3, "bfloat16": 2e-2}  # tolerances of whole passes


def is_rounded(a, name):
    """Whether an array holds only numbers of a 16-bit dtype."""
    mantissa, _ = np.frexp(np.asarray(a, np.float64))
    scaled = mantissa * 2.0 ** HALVES[name]
    small = (name == "float16") & (np.abs(a) < 2**-14)
    return bool(np.all(small | (scaled == np.round(scaled))))


def lstm(rng, runtime, dtype="float32"):
    p = rnnx.initialize_parameters("lstm", 4, 6, seed=1, dtype=dtype)
    x = rng.standard_normal((4, 3, 5)).astype(dtype)
    given = runtime.asarray(x), {key: runtime.asarray(value) for key, value in p.items()}
    return x, p, *given


@pytest.mark.parametrize("name", [*HALVES])
def test_bits_of_bfloat16_and_float16(name, rng):
    """Rounding is to nearest, with ties to even; NaN, infinities and zeros stay."""
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 3.4e38, -3.4e38, 65504.0, 65519.0, 65520.0, 1e-40, 6e-8]
    a = np.concatenate([special, rng.standard_normal(1000) * 10 ** rng.uniform(-9, 9, 1000)]).astype(np.float32)
    expected = a.copy()
    if name == "float16":
        with np.errstate(over="ignore"):
            expected = a.astype(np.float16).astype(np.float32)
    else:
        expected = a.astype(pytest.importorskip("ml_dtypes").bfloat16).astype(np.float32)
    actual = ns.rounded(np, a, name)
    assert actual.dtype == np.float32
    assert np.array_equal(actual, expected, equal_nan=True)
    assert np.array_equal(np.signbit(actual), np.signbit(expected))


@pytest.mark.parametrize("name", [*HALVES])
@pytest.mark.parametrize("kind", ["numpy-cpu", "numpy-reference", "numpy-emulated", "torch-reference"])
def test_a_pass_in_16_bits(kind, name, rng):
    """Results keep their dtype, hold 16-bit numbers, and are near those of the arrays' own precision."""
    if name == "bfloat16" and kind == "numpy-emulated":
        pytest.importorskip("ml_dtypes")
    runtime = make_runtime(kind)
    _, _, x, p = lstm(rng, runtime)
    a0, da = (runtime.asarray(rng.standard_normal(shape).astype(np.float32)) for shape in ((6, 3), (6, 3, 5)))
    found = []
    with runtime.use():
        for used in ("ieee", name):
            with rnnx.use_precision(used):
                a, _, _, caches = rnnx.lstm_forward(x, a0, p)
            gradients = rnnx.lstm_backward(da, caches)  # in the precision of the forward pass
            found.append({"a": a, **caches.final_state, **gradients})
    plain, half = ({key: to_numpy(value) for key, value in one.items()} for one in found)
    for key, value in half.items():
        assert value.dtype == np.float32
        assert is_rounded(value, name), key
        assert_close(value, plain[key], UNITS[name], key)
        assert np.any(value != plain[key])


@pytest.mark.parametrize("name", ["float64", "float32"])
def test_other_precisions(name, rng):
    """A pass in float64 on float32 arrays is that of their float64 copies, rounded; and the other way round."""
    outer = "float32" if name == "float64" else "float64"
    x, p, *_ = lstm(rng, make_runtime("numpy-cpu"), outer)
    da = rng.standard_normal((6, 3, 5))

    def results(x, p, da):
        a, _, _, caches = rnnx.lstm_forward(x, np.zeros((6, 3), x.dtype), p)
        return {"a": a, "y": rnnx.dense_forward(a, x[:, :, 0] @ np.ones((3, 6), x.dtype), x[:, :1, 0])} | (
            rnnx.lstm_backward(da, caches)
        )

    with rnnx.use_precision(name):
        actual = results(x, p, da.astype(outer))
    expected = results(x.astype(name), {key: v.astype(name) for key, v in p.items()}, da.astype(outer).astype(name))
    for key, value in expected.items():
        assert actual[key].dtype == outer
        assert key == "y" or np.array_equal(actual[key], value.astype(outer)), key
        assert_close(actual[key], value, 1e-5, key)


def test_dense_layers_in_16_bits(rng):
    a, W, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 3, 4), (2, 5), (2, 1)))
    with rnnx.use_precision("bfloat16"):
        z = rnnx.dense_forward(a, W, b)
    assert is_rounded(z, "bfloat16")
    A, V, c = (ns.rounded(np, each, "bfloat16") for each in (a, W, b))
    assert_close(z, rnnx.dense_forward(A, V, c), 4e-3, "z")


def test_hoisted_values_and_index_inputs_in_16_bits(rng):
    """A cell that computes vectors from its parameters, on indices."""
    cell = next(c for c in rnnx.CELLS.values() if c.hoisted)
    model = CharModel(5, 8, cell=cell, seed=0)
    x, y = rng.integers(0, 5, (2, 3, 6))
    batch = next(Examples(x, y).batches(3))
    loss, gradients = model.loss_and_gradients(batch)
    with rnnx.use_precision("float16"):
        half, found = model.loss_and_gradients(batch)
    assert half == pytest.approx(loss, abs=5e-3)
    assert half != loss
    for key, value in found.items():
        assert_close(value, gradients[key], 2e-2, key)


def corpus_of(by="lines"):
    return make_corpus("text", NAMES if by == "lines" else PROSE, by=by, seq_length=12)


def trained(name, steps=60, by="lines", model=None, **options):
    corpus = corpus_of(by)
    model = CharModel(corpus.tokenizer.vocab_size, 24, seed=0, **(model or {}))
    trainer = Trainer(model, Adam(0.01), precision=name, **options)
    losses = [p.loss for p in trainer.run(corpus.train, iterations=steps, batch_size=8) if not p.evaluation]
    return trainer, losses, trainer.evaluate(corpus.validation, 8)


@pytest.mark.parametrize("by", ["lines", "streams"])
@pytest.mark.parametrize("name", [*HALVES])
def test_training_in_16_bits(name, by):
    """The validation loss is that of float32 within 0.01 nats; parameters and state are float32."""
    _, plain, expected = trained(None, by=by)
    trainer, losses, loss = trained(name, by=by)
    assert losses != plain
    assert abs(loss - expected) < 0.01
    arrays = {**trainer.model.parameters, **trainer.state()[1]}
    assert {a.dtype for a in arrays.values()} == {np.dtype(np.float32)}
    assert not all(is_rounded(a, name) for a in trainer.model.parameters.values())


@pytest.mark.parametrize("name", [*HALVES])
def test_training_on_an_engine_that_stores_16_bits(name):
    """The GPU engine itself, in the emulation, against the rounding of the CPU engine."""
    make_runtime("numpy-emulated")
    if name == "bfloat16":
        pytest.importorskip("ml_dtypes")
    _, expected, _ = trained(name, 6, "streams")
    with rnnx.use_engine("emulated"):
        _, losses, _ = trained(name, 6, "streams")
        assert rnnx.engines.check_precision("precision", "tf32", np.zeros((1, 1), np.float32)) == "tf32"
    assert losses == pytest.approx(expected, rel=3e-3)
    assert losses != expected


def test_training_in_float32_is_unchanged():
    """A precision that is that of the parameters computes the same bits; float64 passes differ a little."""
    plain, same, wide = (trained(name, 5) for name in (None, "float32", "float64"))
    assert plain[1] == same[1]
    assert wide[1] == pytest.approx(plain[1], rel=1e-5)
    ours, other = (one[0].model.parameters for one in (plain, wide))
    assert any(np.any(ours[key] != other[key]) for key in ours)


def test_small_gradients_survive_in_float16(monkeypatch):
    """Without the scaling, gradients of 1e-8 would vanish; with it, they are those of float32."""
    x = np.ones((1, 2, 3), np.float32)
    batch = next(Examples(x, np.full((1, 2), 3e-5, np.float32)).batches(2))
    model = SequenceRegressor(1, 3, seed=0)
    model.parameters = {**model.parameters, "Wy": model.parameters["Wy"] * np.float32(1e-4)}
    gradients = model.train_step(batch).gradients
    with rnnx.use_precision("float16"):
        vanished = model.train_step(batch).gradients
        scaled = model.train_step(batch, loss_scale=2.0**16).gradients
    assert not vanished["dWf_l0"].any()
    for key, value in scaled.items():
        assert_close(value / 2**16, gradients[key], 2e-2, key)


@pytest.mark.parametrize("segments", [None, 3])
@pytest.mark.parametrize("kind", ["characters", "seq2seq"])
def test_the_loss_scale_multiplies_all_gradients(kind, segments, rng):
    if kind == "seq2seq":
        from rnnx.data import Pairs

        model, segments = Seq2Seq(6, 5, 5, seed=0), None
        dataset = Pairs([rng.integers(1, 6, 3) for _ in range(4)], [rng.integers(1, 5, 4) for _ in range(4)], 0)
    else:
        model, dataset = CharModel(5, 6, seed=0), Examples(*rng.integers(0, 5, (2, 3, 8)))
    batch = next(dataset.batches(3))
    plain, scaled = (model.train_step(batch, segment_length=segments, loss_scale=scale) for scale in (None, 1024.0))
    assert plain.loss == scaled.loss
    for key, value in plain.gradients.items():
        assert np.array_equal(value * 1024, scaled.gradients[key])


def overflowing(monkeypatch, steps):
    """Make the scaled gradients of some steps infinite."""
    train_step = CharModel.train_step

    def wrong(self, batch, *, masks, **options):
        step = train_step(self, batch, masks=masks, **options)
        if masks.seed[1] not in steps:
            return step
        return type(step)(step.loss, {key: g * np.inf for key, g in step.gradients.items()}, step.states)

    monkeypatch.setattr(CharModel, "train_step", wrong)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_loss_scale(monkeypatch):
    """An overflow halves the scale and skips the step; some good steps double it."""
    monkeypatch.setattr(precision, "INTERVAL", 4)
    overflowing(monkeypatch, {3, 4})
    corpus = corpus_of()
    trainer = Trainer(CharModel(corpus.tokenizer.vocab_size, 8, seed=0), Adam(0.01), precision="float16")
    scales, norms, before = [], [], None
    for progress in trainer.run(corpus.train, iterations=12, batch_size=8, evaluate_every=100):
        if progress.evaluation:
            continue
        if progress.step in (3, 4):
            assert all(np.array_equal(a, before[key]) for key, a in trainer.model.parameters.items())
            assert np.isfinite(progress.loss)
        before = {key: a.copy() for key, a in trainer.model.parameters.items()}
        scales.append(float(trainer.loss_scale.scale) / 2**16)
        norms.append(progress.grad_norm)
    assert scales == [1, 1, 0.5, 0.25, 0.25, 0.25, 0.25, 0.5, 0.5, 0.5, 0.5, 1]
    assert [step for step, norm in enumerate(norms, 1) if norm == 0] == [3, 4]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_run_that_overflows_at_a_scale_of_1(monkeypatch):
    overflowing(monkeypatch, range(100))
    with pytest.raises(FloatingPointError, match="the gradients are nan at step 17"):
        trained("float16")


def test_a_loss_that_is_not_finite_in_float16():
    """It does not depend on the scale, so it is an error at once."""
    model = SequenceRegressor(1, 3, seed=0)
    model.parameters = {**model.parameters, "by": np.full((1, 1), 1e5, np.float32)}  # infinite in float16
    trainer = Trainer(model, Adam(0.01), precision="float16")
    examples = Examples(np.ones((1, 2, 3), np.float32), np.zeros((1, 2), np.float32))
    with pytest.raises(FloatingPointError, match="the loss is inf at step 1"):
        list(trainer.run(examples, epochs=1))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_resuming_keeps_the_loss_scale(monkeypatch, tmp_path):
    monkeypatch.setattr(precision, "INTERVAL", 4)
    overflowing(monkeypatch, {2})
    corpus = corpus_of("streams")

    def trainer(**options):
        model = CharModel(corpus.tokenizer.vocab_size, 8, seed=0)
        return Trainer(model, Adam(0.01), **{"precision": "float16", **options})

    whole, first = trainer(), trainer()
    run = {"batch_size": 4, "evaluate_every": 100}
    expected = [p.as_dict() for p in whole.run(corpus.train, iterations=9, **run)]
    list(first.run(corpus.train, iterations=4, **run))
    values, arrays = first.state()
    checkpoint = Checkpoint(first.model, corpus.tokenizer, {"values": values}, arrays)
    save_checkpoint(tmp_path / "a.safetensors", checkpoint)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    second = trainer()
    second.model.parameters = loaded.model.parameters
    second.restore(loaded.training["values"], loaded.arrays)
    assert second.loss_scale == (2**15, 2)
    rest = [p.as_dict() for p in second.run(corpus.train, iterations=9, **run)]
    assert rest[:5] == expected[4:9]
    assert second.loss_scale == whole.loss_scale != (2**15, 2)
    with pytest.raises(ValueError, match="the run was trained with `precision` = 'float16'; got 'bfloat16'"):
        trainer(precision="bfloat16").restore(values, arrays)
    with pytest.raises(ValueError, match="the run was trained with `precision` = None; got 'float16'"):
        second.restore(*trainer(precision=None).state())
    missing = {name: a for name, a in arrays.items() if not name.startswith("loss/")}
    with pytest.raises(ValueError, match="`arrays` must hold the loss scale"):
        second.restore(values, missing)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("tf32", ValueError, "`precision` = 'tf32' is for float32 parameters on a GPU; these are float32 on cpu"),
        ("half", ValueError, r"`precision` must be one of \['bfloat16', 'float16', 'float32', 'float64', 'tf32'\]"),
        (16, TypeError, r"`precision` must be one of .*; got 16"),
        ("ieee", ValueError, "`precision` must be one of"),
        ("int8", ValueError, "`precision` must be one of"),
    ],
)
def test_wrong_precisions(name, error, message):
    with pytest.raises(error, match=message):
        Trainer(CharModel(5, 4, seed=0), Adam(0.01), precision=name)


def test_a_library_without_16_bits():
    xp = pytest.importorskip("array_api_strict")
    model = CharModel(5, 4, seed=0, xp=xp)
    with pytest.raises(ValueError, match="`precision` = 'float16' is not possible: array_api_strict has no float16"):
        Trainer(model, Adam(0.01), precision="float16")


def test_a_model_without_a_loss_scale():
    class Own(CharModel):
        def train_step(self, batch, *, states=None, masks=None, segment_length=None):
            return super().train_step(batch, states=states, masks=masks, segment_length=segment_length)

    with pytest.raises(TypeError, match="`precision` = 'float16' needs a model whose `train_step` takes `loss_scale`"):
        Trainer(Own(5, 4, seed=0), Adam(0.01), precision="float16")
    Trainer(Own(5, 4, seed=0), Adam(0.01), precision="bfloat16")


def test_a_run_in_a_folder(tmp_path):
    """The precision is a setting of the run, which a resumed run keeps."""
    (tmp_path / "text.txt").write_text(PROSE)
    settings = {"text": str(tmp_path / "text.txt"), "by": "streams", "seq_length": 10, "hidden_size": (6,)}
    settings = Settings(**settings, precision="float16", epochs=2)
    list(Run.start(tmp_path / "whole", settings).train())
    items = Run.start(tmp_path / "part", settings).train(save_every=1e9)
    for _ in range(5):
        next(items)
    items.close()
    run = Run.resume(tmp_path / "part")
    assert run.trainer.precision == "float16"
    list(run.train())
    ours, expected = ([{**r, "seconds": 0} for r in read_metrics(tmp_path / f)] for f in ("part", "whole"))
    assert ours == expected
    with pytest.raises(ValueError, match="'tf32' is for float32 parameters on a GPU"):
        Run.start(tmp_path / "other", Settings(**{**vars(settings), "precision": "tf32"}))


def test_the_command(run):
    options = ("--hidden-size", 4, "--iterations", 2, "--sample-every", 0, "--quiet", "--output", "out")
    code, _, error = run("train", "--text", "names.txt", "--precision", "bfloat16", *options)
    assert code == 0, error
    code, _, error = run("train", "--resume", "out", "--precision", "float16")
    assert code != 0
    assert "a resumed run keeps its settings; --resume cannot be combined with --precision" in error
    code, _, error = run("train", "--text", "names.txt", "--precision", "tf32", "--output", "b")
    assert code != 0
    assert "'tf32' is for float32 parameters on a GPU" in error
