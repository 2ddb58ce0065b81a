"""Weights rounded to small formats: the rounding, and the same function on all engines."""

import copy
import ctypes
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest
from conftest import PATHS
from head_cells import HEADS, MANY_HEADS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mean_cells import MEANS
from problems import ENGINES_TOLERANCE, assert_close, make_problem
from wide_cells import WIDE

import rnnx
from rnnx.data import CharTokenizer, Examples
from rnnx.engines.cpu import packed, plans
from rnnx.engines.cpu.descriptor import forward, kept_weights
from rnnx.engines.cpu.runtime import thread_policy
from rnnx.functional import signatures
from rnnx.models import CharModel, Seq2Seq, SequenceClassifier, SequenceRegressor
from rnnx.optim import Adam
from rnnx.training import Trainer, evaluate

FORMATS = ["bfloat16", "int8", "float32"]
EXACT = ("bfloat16", "float32")  # the bits of float32 arithmetic with the same weights
CLOSE = ENGINES_TOLERANCE["float32"]
ALL = [*rnnx.CELLS.values(), *WIDE, *HEADS, MANY_HEADS, *MEANS]

formats = pytest.mark.parametrize("weights", FORMATS)


@pytest.fixture
def always(monkeypatch):
    """The compiled engine stores weights in a small format also where it is not faster."""
    caches = forward.ForwardPass, plans.ForwardPlan
    monkeypatch.setattr(kept_weights, "_SMALLEST", -1)
    monkeypatch.setattr(kept_weights, "_LEAST_KEPT", -1)
    monkeypatch.setattr(kept_weights, "_MOST_ROWS", 1 << 30)

    def clear():
        signatures._signatures._found.clear()  # with the passes prepared for them
        for cached in caches:
            cached.cache_clear()

    clear()
    yield
    clear()


def random_problem(cell, rng, *sizes, **options):
    """A problem in float32 that does not amplify rounding errors: slstm divides by a state."""
    problem = make_problem(cell, rng, *sizes, scale=0.3, final=False, **options).astype("float32")
    problem.s0 = [1 + np.abs(s) for s in problem.s0]
    return problem


def states_of(problem, parameters, engine="cpu", x=None):
    with rnnx.use_engine(engine):
        states, _, caches = rnnx.recurrent_forward(
            problem.cell, problem.x if x is None else x, problem.s0, parameters, lengths=problem.lengths,
            inputs=problem.extra, keep_caches=False,
        )  # fmt: skip
    return [*states, *caches.final_state.values()]


def steps_of(problem, parameters, engine="cpu"):
    with rnnx.use_engine(engine):
        stream = rnnx.Stream(problem.cell, parameters, m=problem.x.shape[1], s0=problem.s0)
    steps = range(problem.x.shape[2])
    return [
        stream.step(problem.x[:, :, t], inputs={k: e[:, :, t] for k, e in problem.extra.items()}).copy() for t in steps
    ]


# --- the rounding -------------------------------------------------------------------------------------------------


def gates_of(cell, parameters, n_a):
    return [w for gate in cell.gates for w in gate.split(parameters, n_a) if w is not None]


@given(seed=st.integers(0, 99), size=st.sampled_from([1e-30, 1e-3, 1.0, 1e30]))
def test_int8_has_one_scale_per_row(seed, size):
    parameters = rnnx.initialize_parameters("lstm", 3, 5, 2, seed=seed)
    parameters = {key: (size * p).astype(np.float32) for key, p in parameters.items()}
    rounded = rnnx.quantize("lstm", parameters, "int8")
    for w, r in zip(*(gates_of(rnnx.CELLS["lstm"], p, 5) for p in (parameters, rounded)), strict=True):
        largest = np.abs(w).max(axis=1, keepdims=True).astype(np.float64)
        scale = np.abs(r).max(axis=1, keepdims=True) / np.float64(127)
        np.testing.assert_array_equal(np.rint(r / scale) * scale, r)  # exact multiples
        assert np.all((largest <= 127 * scale) & (127 * scale <= largest * (1 + 2**-15)))
        assert np.all(np.abs(r - w.astype(np.float64)) <= scale / 2 * (1 + 1e-5))


def test_bfloat16_rounds_to_nearest_even():
    numbers = np.array(
        [1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -0.1, np.inf, -np.inf, 3.4e38, 1e-40], np.float32
    )
    expected = np.array([1, 1, 1 + 2**-6, 1 + 2**-7, -0.10009765625, np.inf, -np.inf, np.inf, 2**-133], np.float32)
    nan = np.array([0x7F800001], np.uint32).view(np.float32)  # its high bits are those of infinity
    parameters = rnnx.initialize_parameters("rnn", 10, 1, seed=0)
    parameters["Wax"] = np.concatenate([numbers, nan])[None]
    rounded = rnnx.quantize("rnn", parameters, "bfloat16")["Wax"][0]
    np.testing.assert_array_equal(rounded[:-1], expected)
    assert np.isnan(rounded[-1])


@formats
@pytest.mark.parametrize("cell", ALL, ids=lambda cell: cell.name)
def test_rounding_again_changes_nothing_and_only_weights_change(weights, cell, rng):
    parameters = random_problem(cell, rng, 3, 36, n_y=2).parameters
    before = {key: p.copy() for key, p in parameters.items()}
    once = rnnx.quantize(cell, parameters, weights)
    twice = rnnx.quantize(cell, once, weights)
    matrices = {key for gate in cell.gates for key in gate.weights}
    assert (once.weights, list(once)) == (weights, list(parameters))
    for key, p in parameters.items():
        np.testing.assert_array_equal(p, before[key])
        np.testing.assert_array_equal(once[key], twice[key])
        assert once[key].dtype == np.float32
        assert not np.shares_memory(once[key], p)
        assert np.array_equal(once[key], p) == (key not in matrices or weights == "float32")


@formats
def test_rows_of_zeros_and_tiny_weights(weights, always, rng):
    problem = random_problem(rnnx.CELLS["rnn"], rng, 3, 20, 2, 4)
    problem.parameters["Waa"][3] = 0
    problem.parameters["Waa"][4] = 1e-44
    problem.parameters["Wax"][:] = 0
    rounded = rnnx.quantize("rnn", problem.parameters, weights)
    np.testing.assert_array_equal(rounded["Waa"][3], 0)
    for actual, expected in zip(states_of(problem, rounded), states_of(problem, dict(rounded)), strict=True):
        assert_close(actual, expected, CLOSE)


# --- the same function on all engines --------------------------------------------------------------------------------


@formats
@pytest.mark.parametrize("cell", ALL, ids=lambda cell: cell.name)
def test_engines_agree_on_every_cell(weights, cell, always, rng):
    """Also with lengths, for sequences and for streams. Small or not, what is not scaled gives the bits of float32."""
    for m, lengths in ((1, None), (7, [4, 0, 2, 4, 1, 3, 4])):
        problem = random_problem(cell, rng, 5, 36, m, 4, lengths=lengths)
        rounded = rnnx.quantize(cell, problem.parameters, weights)
        actual, same = states_of(problem, rounded), states_of(problem, dict(rounded))
        for a, b, expected in zip(actual, same, states_of(problem, rounded, "reference"), strict=True):
            assert_close(a, expected, CLOSE)
            assert weights not in EXACT or np.array_equal(a, b)
    problem.lengths = None
    for a, expected in zip(steps_of(problem, rounded), steps_of(problem, rounded, "reference"), strict=True):
        assert_close(a, expected, CLOSE)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cell=st.sampled_from(["lstm", "gru"]), weights=st.sampled_from(FORMATS), n_x=st.integers(1, 900),
    n_a=st.integers(1, 450), m=st.integers(1, 9),
)  # fmt: skip
def test_any_shape(always, cell, weights, n_x, n_a, m):
    """Several blocks of terms, odd ones too."""
    problem = make_problem(rnnx.CELLS[cell], np.random.default_rng(n_a), n_x, n_a, m, 2, scale=0.05).astype("float32")
    rounded = rnnx.quantize(cell, problem.parameters, weights)
    # Together, because a state of one unit may be near zero, where long sums cancel.
    a, b = (np.concatenate([s.ravel() for s in states_of(problem, p)]) for p in (rounded, dict(rounded)))
    assert_close(a, b, CLOSE)
    assert weights not in EXACT or np.array_equal(a, b)


def test_int8_is_stored_as_int8(rng):
    """A stream whose weights are large takes a quarter of the memory. (Otherwise, all other tests might compare
    float32 with itself.)
    """
    problem = random_problem(rnnx.CELLS["lstm"], rng, 300, 400, 1, 1)
    sizes = []
    for weights in (None, *FORMATS):
        parameters = rnnx.quantize("lstm", problem.parameters, weights) if weights else problem.parameters
        sizes.append(rnnx.Stream("lstm", parameters)._stepper._workspace.nbytes)
    assert sizes[1] < 0.55 * sizes[0]
    assert sizes[2] < 0.32 * sizes[0]
    assert sizes[3] == sizes[0]


@formats
def test_index_inputs(weights, always, rng):
    problem = random_problem(rnnx.CELLS["gru"], rng, 40, 50, 3, 6)
    x = rng.integers(0, 40, (3, 6))
    rounded = rnnx.quantize("gru", problem.parameters, weights)
    for a, expected in zip(states_of(problem, rounded, x=x), states_of(problem, rounded, "reference", x), strict=True):
        assert_close(a, expected, CLOSE)


@formats
@pytest.mark.parametrize("policy", PATHS)
def test_same_bits_on_any_number_of_threads(weights, policy, always, rng):
    for cell in (rnnx.CELLS["lstm"], rnnx.CELLS["gru_reset_after"]):
        problem = random_problem(cell, rng, 30, 160, 5, 6)
        rounded = rnnx.quantize(cell, problem.parameters, weights)
        results = []
        for choice in (PATHS["alone"], PATHS[policy]):
            with thread_policy.use_policy(choice):
                results.append([*states_of(problem, rounded), *steps_of(problem, rounded)])
        for a, b in zip(*results, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("m", [1, 4, 24])
def test_the_choice_of_a_format_does_not_depend_on_threads(m, rng):
    """int8 adds in another order than float32, so that a choice by the rows of a thread would change the bits."""
    problem = random_problem(rnnx.CELLS["lstm"], rng, 150, 160, m, 4)
    rounded, results = rnnx.quantize("lstm", problem.parameters), []
    for policy in PATHS.values():
        with thread_policy.use_policy(policy):
            results.append([*states_of(problem, rounded), *steps_of(problem, rounded)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@formats
def test_calls_from_several_threads(weights, always, rng):
    problem = random_problem(rnnx.CELLS["lstm"], rng, 20, 70, 2, 5)
    rounded = rnnx.quantize("lstm", problem.parameters, weights)
    expected, found = states_of(problem, rounded)[0], []
    threads = [threading.Thread(target=lambda: found.append(states_of(problem, rounded)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a in found:
        np.testing.assert_array_equal(a, expected)
    assert len(found) == 4


def test_in_float64_the_weights_are_rounded_too(rng):
    problem = random_problem(rnnx.CELLS["lstm"], rng, 20, 70, 2, 5)
    rounded, problem.x = rnnx.quantize("lstm", problem.parameters, "int8"), problem.x.astype("float64")
    for a, b in zip(states_of(problem, rounded), states_of(problem, dict(rounded)), strict=True):
        assert a.dtype == np.float64
        np.testing.assert_array_equal(a, b)


def overwrite(parameters):
    """Replace the rounded weights by NaN, in spite of NumPy. Only a call that packs them again notices."""
    for w in parameters.values():
        if not w.flags.writeable:
            ctypes.memset(w.ctypes.data, 0xFF, w.nbytes)


@formats
def test_sequences_pack_the_weights_once(weights, rng):
    """Once for calls of all sizes. Copies pack their own."""
    cell = rnnx.CELLS["lstm"]
    problems = [random_problem(cell, rng, 160, 170, m, 3) for m in (30, 6, 1, 4)]
    rounded = rnnx.quantize(cell, problems[0].parameters, weights)
    copies = copy.deepcopy(rounded), pickle.loads(pickle.dumps(rounded))
    with pytest.raises(ValueError, match="cannot set WRITEABLE flag to True"):
        rounded["Wf"].flags.writeable = True
    assert rounded["bf"].flags.writeable
    expected = [states_of(problem, rounded) for problem in problems]
    for problem, states in zip(problems, expected, strict=True):
        assert weights not in EXACT or np.array_equal(states[0], states_of(problem, dict(rounded))[0])
    overwrite(rounded)
    for problem, states in zip(problems[2:], expected[2:], strict=True):  # those with few rows
        for other in (rounded, *copies):
            for a, b in zip(states_of(problem, other), states, strict=True):
                np.testing.assert_array_equal(a, b)
    for other in copies:
        overwrite(other)
        np.testing.assert_array_equal(states_of(problems[2], other)[0], expected[2][0])
    kept = len(packed._kept)
    del rounded, copies, other
    gc.collect()
    assert len(packed._kept) <= kept - 3


def test_packed_matrices_do_not_outlive_the_weights(always, rng):
    problem, before = random_problem(rnnx.CELLS["lstm"], rng, 20, 70, 2, 5), {*packed._kept}
    fixed = rnnx.quantize("lstm", problem.parameters, "float32")
    states_of(problem, fixed)
    new = [kept for key, kept in packed._kept.items() if key not in before]
    matrices = [weakref.ref(of_pass) for kept in new for of_pass in kept.of_passes.values()]
    assert matrices
    del fixed, new
    gc.collect()
    assert all(matrix() is None for matrix in matrices)


def test_many_examples_and_few_keep_matrices_of_their_own(always, rng):
    """Micro-kernels for many rows have other micro-panels."""
    problems = [random_problem(rnnx.CELLS["lstm"], rng, 20, 70, m, 3) for m in (40, 2, 16)]
    fixed = rnnx.quantize("lstm", problems[0].parameters, "float32")
    for problem in (*problems, *problems):
        for policy in PATHS.values():
            with thread_policy.use_policy(policy):
                np.testing.assert_array_equal(states_of(problem, fixed)[0], states_of(problem, dict(fixed))[0])


def test_weights_that_may_change_are_packed_in_every_call(always, rng):
    problem = random_problem(rnnx.CELLS["lstm"], rng, 20, 70, 2, 5)
    rounded = rnnx.quantize("lstm", problem.parameters)
    own = rnnx.QuantizedParameters({key: p.copy() for key, p in rounded.items()}, "int8")
    before = states_of(problem, own)[0]
    own["Wf"][:] = 0
    rounded["Wf"] = own["Wf"]
    for parameters in (own, rounded):
        after = states_of(problem, parameters)[0]
        assert not np.array_equal(before, after)
        assert_close(after, states_of(problem, dict(own))[0], CLOSE)
    for w in own.values():
        w.flags.writeable = False
    before = states_of(problem, own)[0]
    own["Wi"].flags.writeable = True
    own["Wi"][:] = 0
    own["Wi"].flags.writeable = False
    after = states_of(problem, own)[0]
    assert not np.array_equal(before, after)
    assert_close(after, states_of(problem, dict(own))[0], CLOSE)


@formats
def test_copies_and_pickles(weights, always, rng):
    problem = random_problem(rnnx.CELLS["lstm"], rng, 5, 30, 2, 3)
    rounded = rnnx.quantize("lstm", problem.parameters, weights)
    stream = rnnx.Stream("lstm", rounded, m=2)
    stream.step(problem.x[:, :, 0])
    copies = [copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))]
    expected = stream.step(problem.x[:, :, 1]).copy()
    for other in copies:
        assert other._stepper._workspace.nbytes == stream._stepper._workspace.nbytes
        np.testing.assert_array_equal(other.step(problem.x[:, :, 1]), expected)
    for other in (copy.copy(rounded), copy.deepcopy(rounded), pickle.loads(pickle.dumps(rounded))):
        assert (type(other), other.weights) == (rnnx.QuantizedParameters, weights)
        np.testing.assert_array_equal(other["Wf"], rounded["Wf"])


# --- errors ----------------------------------------------------------------------------------------------------------


def test_errors(rng):
    parameters = rnnx.initialize_parameters("lstm", 3, 4, seed=0)

    def quantize(**changed):
        return rnnx.quantize("lstm", parameters | changed)

    with pytest.raises(ValueError, match=r"^`weights` must be one of \['bfloat16', 'float32', 'int8'\]; got 'int4'$"):
        rnnx.quantize("lstm", parameters, "int4")
    with pytest.raises(TypeError, match=r"^`weights` must be one of"):
        rnnx.quantize("lstm", parameters, 8)
    with pytest.raises(ValueError, match=r"`Wi` must have shape"):
        quantize(Wi=np.ones((4, 6), np.float32))
    with pytest.raises(TypeError, match=r"^`parameters` must be float32, to be stored as int8; 'Wf' is float64$"):
        rnnx.quantize("lstm", {key: p.astype("float64") for key, p in parameters.items()})
    with pytest.raises(ValueError, match=r"^`parameters` must be finite, to be rounded to int8; 'Wc' is not$"):
        quantize(Wc=parameters["Wc"] * np.float32(np.nan))
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"^`parameters` must be NumPy arrays, as only their engine packs once"):
        rnnx.quantize("lstm", {key: torch.tensor(p) for key, p in parameters.items()})


@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_no_training(engine):
    rounded = rnnx.quantize("lstm", rnnx.initialize_parameters("lstm", 3, 4, seed=0))
    x = np.ones((3, 2, 5), np.float32)
    message = "^`parameters` of rnnx.quantize are for inference only: pass keep_caches=False$"
    with rnnx.use_engine(engine):
        with pytest.raises(ValueError, match=message):
            rnnx.lstm_forward(x, None, rounded)
        a, *_ = rnnx.lstm_forward(x, None, rounded, keep_caches=False)
    assert a.shape == (4, 2, 5)


# --- models ----------------------------------------------------------------------------------------------------------


def models():
    yield CharModel(12, [40, 30], seed=0), (np.arange(24).reshape(2, 12) % 12,)
    yield SequenceClassifier(5, 40, 3, bidirectional=True, seed=0), (np.ones((5, 2, 6), np.float32),)
    yield SequenceRegressor(5, 40, cell="gru", zoneout=0.1, seed=0), (np.ones((5, 2, 6), np.float32),)
    yield SequenceClassifier(5, 12, 3, cell="slstm", seed=0), (np.ones((5, 2, 6), np.float32),)


@formats
@pytest.mark.parametrize(("model", "arguments"), [*models()], ids=["char", "both_ways", "zoneout", "heads"])
def test_predictions_of_models(weights, model, arguments, always):
    before = {name: p.copy() for name, p in model.parameters.items()}
    quantized = model.quantized(weights)
    assert type(quantized) is type(model)
    assert quantized.config == model.config
    plain = type(model)(**model.config, parameters=dict(quantized.parameters))
    for name, p in before.items():
        np.testing.assert_array_equal(model.parameters[name], p)
    np.testing.assert_array_equal(quantized.parameters["Wy"], before["Wy"])
    actual, expected, exact = (m.predict(*arguments) for m in (quantized, plain, model))
    actual, expected, exact = (p[0] if isinstance(p, tuple) else p for p in (actual, expected, exact))
    assert_close(actual, expected, CLOSE)
    assert np.array_equal(actual, exact) == (weights == "float32")
    for other in (copy.deepcopy(quantized), pickle.loads(pickle.dumps(quantized))):
        predicted = other.predict(*arguments)
        np.testing.assert_array_equal(predicted[0] if isinstance(predicted, tuple) else predicted, actual)


@formats
def test_text_of_models(weights, always):
    tokenizer = CharTokenizer("<UNK>").fit("abcdefgh\n")
    model = CharModel(tokenizer.vocab_size, [40, 30], seed=0)
    quantized = model.quantized(weights)
    plain = CharModel(**model.config, parameters=dict(quantized.parameters))
    texts = [m.generate(tokenizer, n=3, seed=1, max_length=20) for m in (quantized, plain)]
    assert texts[0] == texts[1]


def test_sequence_to_sequence():
    model = Seq2Seq(7, 6, 24, attention="additive", seed=0)
    source = np.arange(10).reshape(2, 5) % 7
    quantized = model.quantized("bfloat16")
    plain = Seq2Seq(**model.config, parameters=dict(quantized.parameters))
    np.testing.assert_array_equal(*(m.predict(source, max_length=4).indices for m in (quantized, plain)))


def test_evaluation_but_no_training_of_models():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((3, 8, 5)).astype("float32"), rng.integers(0, 2, 8)
    data = Examples(x, y)
    quantized = SequenceClassifier(3, 20, 2, seed=0).quantized()
    assert np.isfinite(evaluate(quantized, data, 4))
    message = "^a model quantized to int8 is for inference only; train the model it came from$"
    with pytest.raises(ValueError, match=message):
        Trainer(quantized, Adam())
    with pytest.raises(ValueError, match=message):
        quantized.train_step(next(iter(data.batches(4))))
    with pytest.raises(ValueError, match="pass keep_caches=False"):
        quantized.forward(x)
    with pytest.raises(TypeError, match="must be float32"):
        SequenceClassifier(3, 20, 2, seed=0, dtype="float64").quantized()
