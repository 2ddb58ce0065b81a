"""Rules for the signatures of all public functions, classes and methods."""

import importlib.util
import tempfile
from pathlib import Path

import numpy as np
import pytest
from lab import NAMES, make_trainer
from public import parameters

import rnnx
from rnnx import analysis, compare, convert, course, data, export, models, optim, training
from rnnx.cells.options import with_options
from rnnx.cells.rnn import forward


def test_all_signatures_are_seen():
    seen = {f"{name} {parameter.name}" for name, parameter in parameters()}
    assert {"rnn_forward lengths", "SGD learning_rate", "CharModel.forward lengths", "Trainer.fit callbacks"} <= seen


def test_optional_extras_are_passed_by_name():
    """`lengths` and the gradients of final states would be hard to tell apart by position."""
    positional = {
        f"{name} {p.name}"
        for name, p in parameters()
        if ("lengths" in p.name or "_final" in p.name) and p.default is not p.empty and p.kind is not p.KEYWORD_ONLY
    }
    assert positional == set()


# --- flags -------------------------------------------------------------------------------------------------------

X, P, STATE = np.ones((2, 3, 4)), rnnx.initialize_parameters("gru", 2, 3, seed=0), np.ones((3, 3))
with rnnx.use_engine("reference"):
    A, _, CACHES = rnnx.gru_forward(X, None, P)
INDICES = np.ones((2, 3), int)
CHARACTERS = dict(enumerate("\nab"))
TORCH = {"weight_ih_l0": np.ones((9, 2)), "weight_hh_l0": np.ones((9, 3))}
KERAS = [np.ones((2, 3)), np.ones((3, 3)), np.ones(3)]


def classifier(**options):
    return models.SequenceClassifier(2, 3, 2, seed=0, dtype="float64", **options)


def multi_task():
    return models.MultiTaskModel(2, 3, {"a": models.Head(1)}, seed=0, dtype="float64")


def seq2seq(**options):
    return models.Seq2Seq(4, 4, 3, seed=0, dtype="float64", **options)


def run(model, *inputs, keep_caches=True, consume=None):
    """Run a model forward and, with a value of `consume`, backward."""
    z, _, cache = model.forward(*inputs, keep_caches=keep_caches)
    return z if consume is None else model.backward(z, cache, consume=consume)


def run_stack(keep_caches=True, consume=None):
    stack = models.Recurrent("rnn", 2, 3)
    out, _, cache = stack.forward(stack.initialize(0, dtype="float64"), X, keep_caches=keep_caches)
    return out if consume is None else stack.backward(out, cache, consume=consume)


def too_short(call):
    """Expect an error on a text, which comes after the checks of types."""
    with pytest.raises(ValueError, match="less than the length of the text"):
        call()


def fit(**options):
    corpus, trainer = make_trainer()
    return trainer.fit(corpus.train, corpus.validation, iterations=1, **options)


def of_each(name, forward_flag, backward_flag):
    """The flags of the course's functions."""
    forward, backward = getattr(rnnx, f"{name}_forward"), getattr(rnnx, f"{name}_backward")
    p = rnnx.initialize_parameters(name, 2, 3, seed=0)
    return {
        f"{name}_forward {forward_flag}": lambda value: forward(X, None, p, **{forward_flag: value}),
        f"{name}_backward {backward_flag}": lambda value: backward(
            A, forward(X, None, p)[-1], **{backward_flag: value}
        ),
    }


def exported(**options):
    with tempfile.TemporaryDirectory() as folder:
        return export.to_c(classifier(), Path(folder) / "model.c", **options)


FLAGS = {
    **of_each("rnn", "keep_caches", "consume"),
    **of_each("lstm", "keep_caches", "consume"),
    **of_each("gru", "keep_caches", "consume"),
    **of_each("gru", "reset_after", "reset_after"),
    "gru_cell_forward reset_after": lambda value: rnnx.gru_cell_forward(X[:, :, 0], STATE, P, reset_after=value),
    "gru_cell_backward reset_after": lambda value: rnnx.gru_cell_backward(
        STATE, rnnx.gru_cell_forward(X[:, :, 0], STATE, P)[-1], reset_after=value
    ),
    "recurrent_forward keep_caches": lambda value: rnnx.recurrent_forward("gru", X, (), P, keep_caches=value),
    "recurrent_backward consume": lambda value: rnnx.recurrent_backward("gru", (A,), CACHES, consume=value),
    "dot_product_attention_forward scaled": lambda value: rnnx.dot_product_attention_forward(X, X, X, scaled=value),
    "register_engine default": lambda value: rnnx.register_engine("new", "module:name", default=value),
    "Gate forgets": lambda value: rnnx.Gate(("W",), "b", forgets=value),
    "to_onnx lengths": lambda value: convert.to_onnx(classifier(), lengths=value),
    "to_c indices": lambda value: exported(indices=value),
    "Gate biased": lambda value: rnnx.Gate(biased=value),
    "Stage additive": lambda value: rnnx.Stage((rnnx.Gate(("W",), "b"),), ("a",), (), forward, additive=value),
    "with_options resets": lambda value: with_options(rnnx.CELLS["rnn"], resets=value),
    "with_options recurrent_dropout": lambda value: with_options(rnnx.CELLS["rnn"], recurrent_dropout=value),
    "Momentum nesterov": lambda value: optim.Momentum(0.1, nesterov=value),
    "RMSProp centered": lambda value: optim.RMSProp(0.1, centered=value),
    "update_parameters_with_momentum nesterov": lambda value: rnnx.update_parameters_with_momentum(
        {"W": X}, {"dW": X}, {"dW": X}, nesterov=value
    ),
    "gradient_norms per_example": lambda value: analysis.gradient_norms(CACHES, ds_final=(STATE,), per_example=value),
    "run reset_after": lambda value: too_short(lambda: compare.run("torch", [0, 1], reset_after=value)),
    "to_onnx indices": lambda value: convert.to_onnx(classifier(), indices=value),
    "from_onnx classes": lambda value: convert.from_onnx(convert.to_onnx(classifier()), classes=value),
    "from_torch stack": lambda value: convert.from_torch("gru_reset_after", TORCH, stack=value),
    "from_torch gradients": lambda value: convert.from_torch("gru_reset_after", TORCH, gradients=value),
    "from_keras stack": lambda value: convert.from_keras("rnn", KERAS, stack=value),
    "from_keras gradients": lambda value: convert.from_keras("rnn", KERAS, gradients=value),
    "dense_from_torch gradients": lambda value: convert.dense_from_torch({"weight": STATE}, gradients=value),
    "dense_from_keras gradients": lambda value: convert.dense_from_keras([STATE], gradients=value),
    "model verbose": lambda value: course.model(
        ["ab"], CHARACTERS, {c: i for i, c in CHARACTERS.items()}, 0, vocab_size=3, verbose=value
    ),
    "Items per_step": lambda value: data.Items([(X[0], 0)], per_step=value),
    "sequences_from_frame per_step": lambda value: data.sequences_from_frame(
        {"id": [0], "x": [1.0]}, id="id", inputs=["x"], per_step=value
    ),
    "series_from_frame allow_gaps": lambda value: data.series_from_frame(
        {"t": [0, 1], "y": [1.0, 2.0]}, time="t", target="y", allow_gaps=value
    ),
    "series_from_wide_frame allow_gaps": lambda value: data.series_from_wide_frame(
        {"t": [0, 1], "y": [1.0, 2.0]}, time="t", allow_gaps=value
    ),
    "SeriesWindows allow_none": lambda value: data.SeriesWindows([1.0, 2.0, 3.0], 1, 1, allow_none=value),
    "SeriesWindows.scalers shift": lambda value: data.SeriesWindows([1.0, 2.0, 3.0], 1, 1).scalers(shift=value),
    "Scaler.fit shift": lambda value: data.Scaler.fit([[1.0, 2.0]], shift=value),
    "make_corpus extend": lambda value: data.make_corpus(
        "t", NAMES, tokenizer=data.CharTokenizer(None).fit(NAMES), extend=value
    ),
    "make_corpus lower": lambda value: data.make_corpus("t", NAMES, lower=value),
    "Recurrent bidirectional": lambda value: models.Recurrent("rnn", 2, 3, bidirectional=value),
    "Recurrent.forward keep_caches": lambda value: run_stack(keep_caches=value),
    "Recurrent.backward consume": lambda value: run_stack(consume=value),
    "SequenceModel reset_after": lambda value: classifier(cell="gru", reset_after=value),
    "SequenceModel bidirectional": lambda value: classifier(bidirectional=value),
    "SequenceModel per_step": lambda value: classifier(per_step=value),
    "SequenceModel.forward keep_caches": lambda value: run(classifier(), X, keep_caches=value),
    "SequenceModel.backward consume": lambda value: run(classifier(), X, consume=value),
    "Head per_step": lambda value: models.Head(1, per_step=value),
    "MultiTaskModel.forward keep_caches": lambda value: run(multi_task(), X, keep_caches=value),
    "MultiTaskModel.backward consume": lambda value: run(multi_task(), X, consume=value),
    "Seq2Seq reset_after": lambda value: seq2seq(cell="gru", reset_after=value),
    "Seq2Seq bidirectional_encoder": lambda value: seq2seq(bidirectional_encoder=value),
    "Seq2Seq.forward keep_caches": lambda value: run(seq2seq(), INDICES, INDICES, keep_caches=value),
    "Seq2Seq.backward consume": lambda value: run(seq2seq(), INDICES, INDICES, consume=value),
    "Settings.corpus extend": lambda value: training.Settings().corpus(
        data.CharTokenizer(None).fit(data.dinosaur_names()), extend=value
    ),
    "Settings lower": lambda value: training.Settings(lower=value),
    "Settings reset_after": lambda value: training.Settings(reset_after=value),
    "Settings shuffle": lambda value: training.Settings(shuffle=value),
    "Trainer shuffle": lambda value: make_trainer(shuffle=value),
    "Trainer in_place": lambda value: make_trainer(in_place=value),
    "Trainer.fit progress_bar": lambda value: fit(progress_bar=value),
    "Trainer.fit restore_best": lambda value: fit(restore_best=value),
}
if importlib.util.find_spec("sklearn"):
    from rnnx import estimators

    def fitted(name, **options):
        return getattr(estimators, name)(2, epochs=1, **options).fit([[1.0, 2.0], [3.0, 4.0]], [0, 1])

    def forecaster(**options):
        return estimators.Forecaster(2, epochs=1, **options).fit(np.arange(9.0), fh=1)

    FLAGS |= {
        "SequenceClassifier scale": lambda value: fitted("SequenceClassifier", scale=value),
        "SequenceRegressor scale": lambda value: fitted("SequenceRegressor", scale=value),
        "SequenceRegressor progress_bar": lambda value: fitted("SequenceRegressor", progress_bar=value),
        "SequenceClassifier progress_bar": lambda value: fitted("SequenceClassifier", progress_bar=value),
        "Forecaster bidirectional": lambda value: forecaster(bidirectional=value),
        "Forecaster progress_bar": lambda value: forecaster(progress_bar=value),
    }
# The same function under several names: a class and its base class, or all optimizers.
SAME = {"SequenceModel": ("CharModel", "SequenceClassifier", "SequenceRegressor"), "Seq2Seq": ("Model",)}


def test_all_flags_are_in_the_table():
    flags = {f"{name} {p.name}" for name, p in parameters() if isinstance(p.default, bool)}
    known = FLAGS.keys() | {key.replace(name, other) for key in FLAGS for name in SAME for other in SAME[name]}
    assert {flag for flag in flags - known if not flag.endswith("update in_place")} == set()


@pytest.mark.usefixtures("restored_engines")
@pytest.mark.parametrize("key", FLAGS)
def test_a_flag_is_true_or_false(key):
    """On the reference engine, for which nothing is compiled."""
    name = key.partition(" ")[2]
    if "_onnx " in key:
        pytest.importorskip("onnx")
    with rnnx.use_engine("reference"):
        FLAGS[key](np.bool_(False))
    with rnnx.use_engine("reference"), pytest.raises(TypeError, match=f"^`{name}` must be True or False; got 'no'"):
        FLAGS[key]("no")
