"""The stack of recurrent layers and the models on it."""

import collections
import functools
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import TOLERANCE, assert_close, numeric_gradient

import rnnx
from rnnx.data import Batch
from rnnx.models import (
    CharModel,
    Masks,
    Recurrent,
    SequenceClassifier,
    SequenceRegressor,
    square_root_segments,
)
from rnnx.models.layers import reverse_steps

CELLS = [("rnn", False), ("lstm", False), ("gru", False), ("gru", True)]


def with_large_weights(model, rng):
    """Weights of scale 1: small ones hide errors."""
    model.parameters = {name: rng.standard_normal(p.shape) for name, p in model.parameters.items()}
    return model


def numeric_gradients(model, loss):
    """Central differences of loss() with respect to four elements of each parameter; the others are NaN."""
    # The second layer's gradients are small beside the loss, whose rounding a larger step divides by more.
    return {name: numeric_gradient(loss, array, step=1e-5, most=4) for name, array in model.parameters.items()}


def check_gradients(gradients, numeric):
    assert {*gradients} == {f"d{name}" for name in numeric}
    for name, expected in numeric.items():
        known = ~np.isnan(expected)
        assert_close(gradients[f"d{name}"][known], expected[known], TOLERANCE["gradient"], name)


def characters(rng, vocab_size=5, m=3, n_steps=6, lengths=(6, 2, 5)):
    draw = rng.integers(0, vocab_size, (2, m, n_steps))
    return Batch(draw[0], draw[1], np.array(lengths))


@functools.cache
def character_problem(cell, reset_after):
    """A character model with dropout, a batch, the loss, and numeric gradients, from the reference engine."""
    rng = np.random.default_rng(2)
    model = CharModel(5, [4, 3], cell=cell, reset_after=reset_after, dropout=0.4, dtype="float64", seed=0)
    with_large_weights(model, rng)
    batch = characters(rng)

    def loss():
        return model.train_step(batch, masks=Masks((0, 1))).loss

    with rnnx.use_engine("reference"):
        return model, batch, loss(), numeric_gradients(model, loss)


@pytest.mark.parametrize(("cell", "reset_after"), CELLS)
def test_character_model_gradients(cell, reset_after, engine):
    model, batch, loss, numeric = character_problem(cell, reset_after)
    step = model.train_step(batch, masks=Masks((0, 1)))
    assert step.loss == pytest.approx(loss, rel=1e-12)
    check_gradients(step.gradients, numeric)
    assert step.loss != pytest.approx(model.loss(batch))  # dropout is on
    assert model.train_step(batch).loss == pytest.approx(model.loss(batch))


@pytest.mark.parametrize(("cell", "reset_after"), CELLS)
@pytest.mark.parametrize("per_step", [False, True])
def test_bidirectional_gradients(cell, reset_after, per_step, rng):
    """Two layers, both directions, different lengths, one of them zero; the head on the last or on all steps."""
    options = {"cell": cell, "reset_after": reset_after, "bidirectional": True, "dtype": "float64", "seed": 0}
    x, lengths = rng.standard_normal((3, 4, 5)), np.array([5, 2, 4, 0])
    numbers, classes = rng.standard_normal((2, 4, 5)), rng.integers(0, 3, (4, 5))
    for model, targets in (
        (SequenceRegressor(3, [4, 2], 2, per_step=per_step, **options), numbers),
        (SequenceClassifier(3, [4, 2], 3, per_step=per_step, **options), classes),
    ):
        batch = Batch(x, targets if per_step else targets[..., 0], lengths)
        with_large_weights(model, rng)
        step = model.train_step(batch)
        assert step.loss == pytest.approx(model.loss(batch), rel=1e-14)
        check_gradients(step.gradients, numeric_gradients(model, functools.partial(model.loss, batch)))


@pytest.mark.parametrize(("cell", "reset_after"), CELLS)
@pytest.mark.slow
def test_initial_and_final_states(cell, reset_after, rng):
    """Their cotangents, through the stack, numerically; dx too."""
    stack = Recurrent("gru_reset_after" if reset_after else cell, 3, [4, 2], bidirectional=True, name="encoder")
    p = {name: rng.standard_normal(shape) for name, shape in stack.shapes().items()}
    x, lengths = rng.standard_normal((3, 2, 4)), [4, 3]
    widths = {f"{s}{one.suffix}": one.hidden_size for layer in stack.layers for one in layer for s in stack.cell.states}
    assert tuple(widths) == stack.state_names
    states, dfinal = ({name: rng.standard_normal((n, 2)) for name, n in widths.items()} for _ in range(2))
    dout = rng.standard_normal((4, 2, 4))

    def loss():
        out, final, _ = stack.forward(p, x, states, lengths=lengths)
        return np.sum(out * dout) + sum(np.sum(final[name] * dfinal[name]) for name in final)

    _, _, cache = stack.forward(p, x, states, lengths=lengths)
    gradients = stack.backward(dout, cache, ds_final=dfinal)
    for name, array in {"x": x, **states, **p}.items():
        assert_close(gradients[f"d{name}"], numeric_gradient(loss, array), TOLERANCE["gradient"], name)
    assert "Wf_encoder_l0" in p or cell != "lstm"


@pytest.mark.parametrize(("cell", "reset_after"), CELLS)
@pytest.mark.parametrize("length", [1, 2, 4, 9])
def test_segments_have_the_gradients_of_the_whole(cell, reset_after, length, rng):
    model = CharModel(5, [4, 3], cell=cell, reset_after=reset_after, dropout=0.4, dtype="float64", seed=0)
    with_large_weights(model, rng)
    batch = characters(rng, n_steps=9, lengths=(9, 3, 0))
    states = {name: rng.standard_normal((n, 3)) for name, n in zip(model.stack.state_names, (4, 4, 3, 3), strict=False)}
    if cell != "lstm":
        states = {"a_l0": rng.standard_normal((4, 3)), "a_l1": rng.standard_normal((3, 3))}
    masks = Masks((3, 1))
    whole = model.train_step(batch, states=states, masks=masks)
    parts = model.train_step(batch, states=states, masks=masks, segment_length=length)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-13)
    for name in whole.gradients:
        assert_close(parts.gradients[name], whole.gradients[name], 1e-12, name)
    for name in whole.states:
        assert_close(parts.states[name], whole.states[name], 1e-13, name)


@pytest.mark.parametrize("length", [1, 2, 4])
def test_segments_of_sequences_with_one_target(length, rng):
    """It counts in the segment in which its sequence ends, also if the sequence is empty."""
    model = SequenceClassifier(2, [4, 3], 3, dropout=0.3, dtype="float64", seed=0)
    lengths, weights = np.array([5, 0, 2, 4, 1]), np.array([1, 0.5, 2, 0, 3])
    batch = Batch(rng.standard_normal((2, 5, 5)), rng.integers(0, 3, 5), lengths, weights=weights)
    whole, parts = (model.train_step(batch, masks=Masks((3, 1)), segment_length=k) for k in (None, length))
    assert parts.loss == pytest.approx(whole.loss, rel=1e-13)
    for name, d in whole.gradients.items():
        assert_close(parts.gradients[name], d, TOLERANCE["oracle"], name)


@pytest.mark.slow
def test_segments_need_the_memory_of_the_square_root():
    """Four times the steps need about twice the memory with segments, four times without."""

    def step(n_steps, segments):
        batch = Batch(np.zeros((4, n_steps), int), np.zeros((4, n_steps), int), np.full(4, n_steps))
        length = square_root_segments(n_steps) if segments else None
        with rnnx.use_engine("reference"):  # the CPU engine has a buffer pool
            CharModel(3, 32, cell="rnn", dtype="float64", seed=0).train_step(batch, segment_length=length)
        return 2 * batch.inputs.nbytes

    def peak(n_steps, segments):
        step(9, segments)  # what is allocated only once
        tracemalloc.start()
        inputs = step(n_steps, segments)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used - inputs

    whole, whole_long, parts, parts_long = (peak(n, segments) for segments in (False, True) for n in (200, 800))
    assert whole_long > 3.5 * whole
    assert parts_long < 2.6 * parts
    assert parts_long < 0.2 * whole_long
    assert [square_root_segments(n) for n in (0, 1, 2, 9, 10, 10_000)] == [1, 1, 2, 3, 4, 100]


def test_carried_states_make_one_sequence_of_two(rng):
    model = with_large_weights(CharModel(5, [4, 3], dtype="float64", seed=0), rng)
    inputs = rng.integers(0, 5, (2, 8))
    whole, last, _ = model.forward(inputs)
    first, states, _ = model.forward(inputs[:, :5])
    second, end, _ = model.forward(inputs[:, 5:], states=states)
    assert_close(np.concatenate([first, second], axis=2), whole, 1e-14)
    assert all(np.allclose(end[name], last[name], rtol=1e-13) for name in last)
    stream = model.stream(2)
    for t in range(8):
        assert_close(stream.read(inputs[:, t]), whole[:, :, t], 1e-13)
    assert all(np.allclose(stream.states[name], last[name], rtol=1e-13) for name in last)
    assert_close(model.stream(2, states).read(inputs[:, 5]), whole[:, :, 5], 1e-13)


@given(st.integers(1, 4), st.integers(0, 6), st.data())
def test_reversing_twice_is_nothing(m, n_steps, data):
    lengths = data.draw(st.lists(st.integers(0, n_steps), min_size=m, max_size=m))
    x = np.arange(2.0 * m * n_steps).reshape(2, m, n_steps)
    back = reverse_steps(x, lengths)
    for j, length in enumerate(lengths):
        assert np.array_equal(back[:, j, :length], x[:, j, :length][:, ::-1])
        assert np.array_equal(back[:, j, length:], x[:, j, length:])
    assert np.array_equal(reverse_steps(back, lengths), x)
    assert np.array_equal(reverse_steps(x[0], lengths), back[0])


@given(st.floats(0.05, 0.9), st.integers(0, 5), st.integers(1, 9))
def test_masks_depend_on_their_place_only(rate, start, n_steps):
    like = np.zeros((3, 2, 12), "float32")
    whole = Masks((1, 2)).draw("_l0", rate, like)
    part = Masks((1, 2)).at(start).draw("_l0", rate, like[:, :, :n_steps])
    end = min(12, start + n_steps)
    assert np.array_equal(part[:, :, : end - start], whole[:, :, start:end])
    assert part.dtype == np.float32
    assert {*np.unique(whole)} <= {0.0, np.float32(1 / (1 - rate))}


def test_masks_differ_and_keep_the_mean():
    like = np.zeros((50, 20, 10))
    masks = [Masks(seed).draw(place, 0.3, like) for seed, place in (((0, 1), "a"), ((0, 1), "b"), ((0, 2), "a"))]
    assert not np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])
    assert abs(masks[0].mean() - 1) < 0.02
    assert not np.array_equal(masks[0][:, :, 0], masks[0][:, :, 1])


def test_a_model_is_its_config_and_its_parameters(rng):
    models = (
        CharModel(5, [4, 3], cell="gru", reset_after=True, dropout=0.1, seed=1),
        SequenceClassifier(3, 4, 2, 2, bidirectional=True, per_step=True, seed=1),
        SequenceRegressor(3, 4, 2, cell="rnn", seed=1),
    )
    for model in models:
        again = type(model)(**model.config, parameters=model.parameters)
        assert repr(again) == repr(model)
        assert again.parameters.keys() == model.parameters.keys() == model.shapes().keys()
        assert all(again.parameters[name] is p for name, p in model.parameters.items())
        assert all(p.dtype == np.float32 for p in model.parameters.values())
        assert str(model.n_parameters) in model.summary().replace(",", "")
        assert type(model)(**model.config, seed=1).parameters["Wy"].tobytes() == model.parameters["Wy"].tobytes()
    assert np.all(models[1].parameters["bf_l1_reverse"] == 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_models_take_any_numbers_and_keep_their_dtype(dtype, rng):
    model = SequenceRegressor(3, 4, dtype=dtype, seed=0)
    batch = Batch(rng.standard_normal((3, 2, 5)), np.ones((1, 2)), None)
    loss, gradients = model.loss_and_gradients(batch)
    assert all(g.dtype == dtype for g in gradients.values())
    assert model.predict(batch.inputs).dtype == dtype
    assert np.isfinite(loss)


def test_models_on_other_libraries(runtime):
    """The loss and its gradients in any library are NumPy's."""
    rng = np.random.default_rng(0)
    reference = CharModel(5, [4, 3], cell="gru", dropout=0.2, dtype="float64", seed=0)
    parameters = {name: runtime.asarray(p) for name, p in reference.parameters.items()}
    model = CharModel(**reference.config, parameters=parameters)
    batch = characters(rng, n_steps=3, lengths=(3, 1, 2))
    loss, gradients = reference.loss_and_gradients(batch, masks=Masks((0,)))
    with runtime.use():
        own_loss, own = model.loss_and_gradients(batch, masks=Masks((0,)))
    assert float(own_loss) == pytest.approx(loss, rel=1e-12)
    for name, g in gradients.items():
        assert type(own[name]) is type(runtime.asarray(0.0)) or runtime.readonly
        assert_close(
            np.asarray(runtime.xp.asarray(own[name]).get() if hasattr(own[name], "get") else own[name]), g, 1e-12
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CharModel(0), "`vocab_size` must be an integer of at least 1; got 0"),
        (lambda: CharModel(5, 8.0), "`hidden_size` must be an integer of at least 1; got 8.0"),
        (
            lambda: CharModel(5, dropout=0.5),
            "`dropout` must be 0 for a single layer, because it acts between layers; got 0.5",
        ),
        (lambda: CharModel(5, 4, seed=0).stream(1, {"a0": 1}), "`states` must only contain"),
        (lambda: CharModel(5, 0), "`hidden_size` must be an integer of at least 1; got 0"),
        (lambda: CharModel(5, [4, 3], 3), "`hidden_size` must be one integer or a sequence of num_layers = 3; got"),
        (lambda: CharModel(5, num_layers=0), "`num_layers` must be an integer from 1 to 10000; got 0"),
        (
            lambda: CharModel(5, cell="lsmt"),
            "`cell` must be a rnnx.Cell, or the name of one in rnnx.CELLS; got 'lsmt'; did you mean 'lstm'",
        ),
        (lambda: CharModel(5, reset_after=True), "`reset_after` is only for `cell` = 'gru'; got 'lstm'"),
        (lambda: CharModel(5, dropout=1.0), r"`dropout` must be a number in \[0, 1\); got 1.0"),
        (lambda: CharModel(5, parameters={}), "`parameters` must contain .* missing"),
        (lambda: CharModel(5, 4).forward(np.zeros((2, 3), int), states={"b": 1}), "`states` must only contain"),
        (lambda: SequenceClassifier(3, 4, 2, bidirectional=True).stack.stream({}), "cannot run step by step"),
        (
            lambda: SequenceClassifier(3, 4, 2, bidirectional=True).train_step(
                Batch(np.zeros((3, 1, 2)), np.zeros(1, int), None), segment_length=1
            ),
            "`segment_length` needs a unidirectional model",
        ),
        (
            lambda: CharModel(5, 4, parameters={**CharModel(5, 4).parameters, "Wy": np.zeros((5, 3), "float32")}),
            r"`Wy` must have shape .* = \(5, 4\); got \(5, 3\)",
        ),
    ],
)
def test_messages(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_names_that_are_not_there(rng):
    model = CharModel(5, 4, seed=0)
    _, _, cache = model.forward(np.zeros((1, 2), int))
    with pytest.raises(ValueError, match=r"`ds_final` must only contain \['a_l0', 'c_l0'\]; got \['c0_l0'\]"):
        model.stack.backward(None, cache.stack, ds_final={"c0_l0": np.zeros((4, 1))})
    with pytest.raises(TypeError, match=r"CharModel has the options .*; got \['bidirectional'\]"):
        CharModel(5, bidirectional=True)


def test_squared_error_gradient(rng):
    y, targets = rng.standard_normal((2, 2, 3, 4))
    lengths = [4, 0, 2]
    _, dy = rnnx.functional.heads.squared_error(y, targets, lengths=lengths)
    numeric = numeric_gradient(lambda: float(rnnx.functional.heads.squared_error(y, targets, lengths=lengths)[0]), y)
    assert_close(dy, numeric, TOLERANCE["gradient"])
    assert rnnx.functional.heads.squared_error(y, targets)[0] == pytest.approx(np.mean((y - targets) ** 2))
    with pytest.raises(ValueError, match="`targets` must have shape"):
        rnnx.functional.heads.squared_error(y, targets[:, :2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CharModel(5, 4, num_layers=10**30), "`num_layers` must be an integer from 1 to 10000; got 10000"),
        (lambda: CharModel(5, 4, num_layers=100_000_000), "`num_layers` must be an integer from 1 to 10000"),
        (lambda: CharModel(5, [4] * 10_001), "`hidden_size` must hold at most 10000 numbers; got 10001"),
        (lambda: CharModel(5, 10**9), "the parameters need .* GiB of memory; this machine has"),
        (lambda: CharModel(5, 10**30), r"`hidden_size` must be an integer below 2\*\*63; got 10000"),
        (lambda: CharModel(10**30, 4), r"`vocab_size` must be an integer below 2\*\*63; got 10000"),
        (lambda: CharModel(10**12, 4), "the parameters need .* GiB of memory; this machine has"),
        (lambda: SequenceClassifier(3, 4, 10**30), r"`num_classes` must be an integer below 2\*\*63; got 10000"),
        (lambda: rnnx.initialize_parameters("lstm", 3, 10**9), "`n_a` = 1000000000 is too large: an array of shape"),
        (lambda: rnnx.initialize_parameters("lstm", 3, 4, 10**30), r"`n_y` must be an integer below 2\*\*63"),
    ],
)
def test_sizes_that_no_machine_has_are_an_error_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def calls_of(function):
    """How often functions of rnnx are called, by name."""
    calls = collections.Counter()

    def count(frame, event, _):
        if event == "call" and "/rnnx/" in frame.f_code.co_filename.replace("\\", "/"):
            calls[frame.f_code.co_name] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
    return calls


def test_a_training_step_checks_each_array_once():
    """The model checks a batch and carried states; what it calls does not check them again, but in the first step."""
    model = CharModel(27, 16, num_layers=3, seed=0)
    indices = np.arange(40).reshape(4, 10) % 27
    batch = Batch(indices, indices, np.full(4, 10))
    states = model.train_step(batch).states
    model.train_step(batch, states=states)
    calls = calls_of(lambda: model.train_step(batch, states=states))
    assert calls["common_namespace"] + calls["checked_namespace"] + calls["as_floats"] <= 4, calls
    assert calls["compare_shapes"] == 1 + len(states), calls  # lengths and states


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.zeros((4, 8), "float32"), ValueError, r"`Wf_l0` must have shape .* = \(4, 9\); got \(4, 8\)"),
        ([[0.0]], TypeError, "`Wf_l0` must be an array .*; got list"),
        (np.zeros((4, 9), int), TypeError, "`Wf_l0` must have dtype float32 or float64; got int"),
    ],
)
def test_a_replaced_parameter_is_checked(array, error, message):
    model = CharModel(5, 4, seed=0)
    indices = np.zeros((2, 3), int)
    model.forward(indices)
    model.parameters["Wf_l0"] = array
    for call in (model.forward, model.predict, lambda x: model.train_step(Batch(x, x, None))):
        with pytest.raises(error, match=message):
            call(indices)


def test_arguments_of_a_stack_are_named_as_the_caller_named_them(rng):
    stack = Recurrent("lstm", 3, [4, 2])
    p = stack.initialize(0)
    x = rng.standard_normal((3, 2, 5)).astype("float32")
    _, _, cache = stack.forward(p, x)
    wider = Recurrent("lstm", 3, [5, 2]).initialize(0)
    with pytest.raises(ValueError, match=r"`Wf_l0` must have shape \(n_a, n_a \+ n_x\) = \(4, 7\); got \(5, 8\)"):
        stack.forward(wider, x)
    with pytest.raises(TypeError, match=r"`states\['a_l1'\]` must have dtype"):
        stack.forward(p, x, {"a_l1": np.zeros((2, 2), complex)})
    for shape in ((4, 2, 5), (2, 2, 6), (2, 5)):
        with pytest.raises(ValueError, match=r"`dout` must have shape .* got"):
            stack.backward(np.zeros(shape), cache)
    with pytest.raises(ValueError, match=r"`ds_final\['c_l0'\]` requires `dout` for all T_x = 5 steps; got 4"):
        stack.backward(np.zeros((2, 2, 4)), cache, ds_final={"c_l0": np.zeros((4, 2))})
    with pytest.raises(ValueError, match=r"`ds_final\['c_l0'\]` must have shape"):
        stack.backward(None, cache, ds_final={"c_l0": np.zeros((4, 3))})
    model = CharModel(5, 4, seed=0)
    z, _, cache = model.forward(np.zeros((2, 3), int))
    with pytest.raises(ValueError, match=r"`dz` must have shape"):
        model.backward(z[:, :1], cache)


def test_segments_have_the_bits_of_the_whole_sequence_without_lengths(rng):
    """Full lengths are the same as none, in a whole sequence and in segments."""
    model = CharModel(5, 4, 2, seed=0)
    x = rng.integers(0, 5, (3, 12))
    steps = [model.train_step(Batch(x, x, lengths), segment_length=5) for lengths in (None, np.full(3, 12), [12] * 3)]
    for step in steps[1:]:
        assert step.loss == steps[0].loss
        assert all(np.array_equal(step.gradients[name], g) for name, g in steps[0].gradients.items())
