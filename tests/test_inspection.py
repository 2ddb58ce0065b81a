"""Gates and gradients inside a sequence, as arrays."""

import numpy as np
import pytest
from conftest import to_numpy
from hypothesis import given
from hypothesis import strategies as st
from problems import TOLERANCE, assert_close, make_problem, numeric_gradient

import rnnx
from rnnx.analysis import inspection
from rnnx.cells import BUILT_IN
from rnnx.data import CharTokenizer
from rnnx.models import CharModel

TEXT = "a dinosaur"


def run(problem, keep_caches=True):
    return rnnx.recurrent_forward(
        problem.cell, problem.x, problem.s0, problem.parameters, lengths=problem.lengths, keep_caches=keep_caches
    )


def tail_loss(problem, t, states, ds, lengths):
    """The loss of a sequence that starts with these states after t steps."""
    rest, _, caches = rnnx.recurrent_forward(
        problem.cell, problem.x[:, :, t:], states, problem.parameters, lengths=np.maximum(lengths - t, 0)
    )
    final = [caches.final_state[name] for name in problem.cell.states]
    total = sum(np.sum(s * d) for s, d in zip(final, problem.dfinal, strict=True))
    total += sum(np.sum(s * d[:, :, t:]) for s, d in zip(rest, ds, strict=True))
    return total + sum(np.sum(s * d[:, :, t - 1] * (lengths >= t)) for s, d in zip(states, ds, strict=True) if t)


@pytest.fixture
def plain():
    """Use the reference engine, which needs no compilation. Other tests compare the engines."""
    with rnnx.use_engine("reference"):
        yield


def test_state_gradients_against_differences(cell, plain, rng):
    """Perturb the state at every step t and run the remaining steps."""
    problem = make_problem(cell, rng, n_a=3, m=3, n_steps=3, lengths=[3, 2, 0])
    lengths = np.array(problem.lengths)
    ds = problem.dstates
    _, _, caches = run(problem)
    gradients = inspection.state_gradients(caches, ds_final=problem.dfinal, ds=ds)
    tape = caches.tape_for(cell)
    for t in range(4):
        states = [np.array(s[t].T) for s in tape.states]
        for name, state in zip(cell.states, states, strict=True):
            numeric = numeric_gradient(lambda t=t, s=states: tail_loss(problem, t, s, ds, lengths), state)
            assert_close(gradients[f"d{name}"][:, :, t], numeric, TOLERANCE["gradient"], f"d{name} at {t}")


def test_the_first_entry_is_that_of_the_whole_backward_pass(cell, runtime, rng):
    problem = make_problem(cell, rng, m=2, n_steps=3, lengths=[3, 1])
    asarray = runtime.asarray
    parameters = {key: asarray(value) for key, value in problem.parameters.items()}
    final, ds = tuple(map(asarray, problem.dfinal)), tuple(map(asarray, problem.dstates))
    with runtime.use():
        _, _, caches = rnnx.recurrent_forward(
            cell, asarray(problem.x), tuple(map(asarray, problem.s0)), parameters, lengths=problem.lengths
        )
        gradients = inspection.state_gradients(caches, ds_final=final, ds=ds)
        norms = inspection.gradient_norms(caches, ds_final=final, ds=ds, per_example=True)
        whole = rnnx.recurrent_backward(cell, ds, caches, ds_final=final)
    total = 0
    for name in cell.states:
        assert_close(to_numpy(gradients[f"d{name}"])[:, :, 0], to_numpy(whole[f"d{name}0"]), 1e-13, name)
        total = total + np.sum(to_numpy(gradients[f"d{name}"]) ** 2, axis=0)
    assert type(norms) is type(final[0])
    assert_close(to_numpy(norms), np.sqrt(total), 1e-13)


def test_norms(cell, plain, rng):
    problem = make_problem(cell, rng, m=3, n_steps=5)
    _, _, caches = run(problem)
    one, all_ = (inspection.gradient_norms(caches, ds_final=problem.dfinal, per_example=p) for p in (True, False))
    assert one.shape == (3, 6)
    assert all_.shape == (6,)
    assert_close(all_, np.sqrt(np.sum(one**2, axis=0)), 1e-14)
    assert_close(all_[-1], np.sqrt(sum(np.sum(d**2) for d in problem.dfinal)), 1e-14)
    alone = inspection.gradient_norms(caches, ds_final=problem.dfinal[0])  # the hidden state alone
    assert np.array_equal(alone, inspection.gradient_norms(caches, ds_final=(problem.dfinal[0],)))
    assert alone[-1] == pytest.approx(np.linalg.norm(problem.dfinal[0]))


def test_steps_of_one_linear_unit_by_hand(plain):
    """A tanh unit at zero multiplies the gradient by its weight."""
    parameters = {"Wax": np.zeros((1, 1)), "Waa": np.array([[0.5]]), "ba": np.zeros((1, 1))}
    _, _, caches = rnnx.rnn_forward(np.ones((1, 1, 4)), None, parameters)
    norms = inspection.gradient_norms(caches, ds_final=np.array([[-3.0]]))
    assert norms.tolist() == [3 / 16, 3 / 8, 3 / 4, 3 / 2, 3.0]


def test_norms_of_tiny_float32_gradients_do_not_underflow(plain):
    parameters = {"Wax": np.zeros((1, 1)), "Waa": np.full((1, 1), 0.125), "ba": np.zeros((1, 1))}
    parameters = {key: value.astype(np.float32) for key, value in parameters.items()}
    _, _, caches = rnnx.rnn_forward(np.ones((1, 1, 40), np.float32), None, parameters)
    norms = inspection.gradient_norms(caches, ds_final=np.ones((1, 1), np.float32))
    assert norms.dtype == np.float32
    assert np.array_equal(norms, (0.125 ** np.arange(40, -1, -1.0)).astype(np.float32))
    assert norms[0] > 0


def test_gate_values_are_those_of_the_steps(cell, runtime, rng):
    problem = make_problem(cell, rng, m=2, n_steps=4)
    asarray = runtime.asarray
    parameters = {key: asarray(value) for key, value in problem.parameters.items()}
    with runtime.use():
        _, _, caches = rnnx.recurrent_forward(cell, asarray(problem.x), tuple(map(asarray, problem.s0)), parameters)
    values = inspection.gate_values(caches)
    assert list(values) == [*cell.cache, *cell.states]
    for t, step in enumerate(caches[0]):
        n = len(cell.states)
        expected = dict(zip((*cell.states, *cell.cache), (*step[:n], *step[2 * n : -2]), strict=True))
        for name, value in values.items():
            assert type(value) is type(step[0])
            assert np.array_equal(to_numpy(value)[:, :, t], to_numpy(expected[name])), name


def test_gate_values_belong_to_the_caller_and_are_zero_past_the_end(cell, plain, rng):
    problem = make_problem(cell, rng, m=2, n_steps=4, lengths=[4, 2])
    states, _, caches = run(problem)
    before = rnnx.recurrent_backward(cell, problem.dstates, caches)
    values = inspection.gate_values(caches)
    for name, state in zip(cell.states, states, strict=True):
        assert np.array_equal(values[name], state)
    for value in values.values():
        assert not value[:, 1, 2:].any()
        assert np.abs(value[:, 0, :]).min() > 0
        value[...] = 7
    after = rnnx.recurrent_backward(cell, problem.dstates, caches)
    assert all(np.array_equal(before[key], after[key]) for key in before)
    assert inspection.gate_values(tuple(caches)).keys() == values.keys()  # its two halves, unpacked


@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 5), st.sampled_from(list(BUILT_IN)), st.booleans())
def test_any_size(n_a, m, n_steps, name, ragged):
    rng = np.random.default_rng([n_a, m, n_steps])
    lengths = rng.integers(0, n_steps + 1, m) if ragged else None
    problem = make_problem(rnnx.CELLS[name], rng, n_a=n_a, m=m, n_steps=n_steps, lengths=lengths).astype(np.float32)
    with rnnx.use_engine("reference"):
        _, _, caches = run(problem)
        values = inspection.gate_values(caches)
        gradients = inspection.state_gradients(caches, ds_final=problem.dfinal)
        norms = inspection.gradient_norms(caches, ds_final=problem.dfinal)
    assert {v.shape for v in values.values()} == {(n_a, m, n_steps)}
    assert {v.shape for v in gradients.values()} == {(n_a, m, n_steps + 1)}
    assert norms.shape == (n_steps + 1,)
    assert {v.dtype for v in (*values.values(), *gradients.values(), norms)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.ones((4, 2)),), ValueError, r"`da_final` must have shape \(n_a, m\) = \(4, 3\); got \(4, 2\)"),
        (((None, np.ones(4)),), ValueError, r"`dc_final` must have shape"),
        ((np.ones((4, 3)), (np.ones((4, 3, 2)),)), ValueError, r"`da` must have shape \(n_a, m, T_x\) = \(4, 3, 5\)"),
        (((None, None),), ValueError, "`ds_final` and `ds` must hold at least one gradient"),
        (([np.ones((4, 3))] * 3,), ValueError, "`ds_final` must have at most one array per state"),
        (("grad",), TypeError, "`da_final` must be an array"),
    ],
)
def test_wrong_cotangents(plain, rng, arguments, error, message):
    _, _, caches = run(make_problem(rnnx.CELLS["lstm"], rng))
    with pytest.raises(error, match=message):
        inspection.state_gradients(caches, **dict(zip(("ds_final", "ds"), arguments, strict=False)))


def test_wrong_caches(plain, rng):
    problem = make_problem(rnnx.CELLS["lstm"], rng)
    for wrong in (None, [1, 2], ([], problem.x), rnnx.lstm_cell_forward):
        with pytest.raises(TypeError, match="`caches` must be the caches of a sequence, from a forward function; got"):
            inspection.gate_values(wrong)
    _, _, caches = run(problem, keep_caches=False)
    with pytest.raises(ValueError, match="keep_caches=False"):
        inspection.gate_values(caches)
    _, _, caches = run(problem)
    caches.consume()
    with pytest.raises(ValueError, match="already consumed"):
        inspection.gradient_norms(caches, ds_final=problem.dfinal)


@pytest.fixture(params=["rnn", "lstm", "gru"])
def model(request, plain, rng):
    model = CharModel(TOKENIZER.vocab_size, (5, 4, 3), cell=request.param, dtype="float64")
    model.parameters = {key: rng.standard_normal(p.shape) for key, p in model.parameters.items()}
    return model


TOKENIZER = CharTokenizer(None).fit(TEXT)


def test_text_values(model):
    layers = inspection.text_values(model, TOKENIZER, TEXT)
    out, _, cache = model.stack.forward(model.parameters, TOKENIZER.encode(TEXT)[None, :])
    assert [layer["a"].shape for layer in layers] == [(5, 10), (4, 10), (3, 10)]
    assert np.array_equal(layers[-1]["a"], out[:, 0, :])
    for layer, (caches,) in zip(layers, cache.layers, strict=True):
        for name, values in inspection.gate_values(caches).items():
            assert np.array_equal(layer[name], values[:, 0, :])


def test_text_gradient_norms(model):
    """The first entries are the norms of the gradients of the initial states, layer by layer."""
    norms = inspection.text_gradient_norms(model, TOKENIZER, TEXT)
    indices = TOKENIZER.encode(TEXT)[None, :]
    logits, _, cache = model.forward(indices[:, :-1])
    dz = np.zeros_like(logits)
    _, dz[:, :, -1:] = rnnx.softmax_cross_entropy(logits[:, :, -1:], indices[:, -1:])
    gradients = model.backward(dz, cache)
    assert [n.shape for n in norms] == [(len(TEXT),)] * 3
    for k, found in enumerate(norms):
        initial = [gradients[f"d{state}_l{k}"] for state in model.cell.states]
        assert found[0] == pytest.approx(np.sqrt(sum(np.sum(d**2) for d in initial)), rel=1e-12)
    da = model.parameters["Wy"].T @ dz[:, 0, -1]
    assert norms[-1][-1] == pytest.approx(np.linalg.norm(da), rel=1e-12)


def test_wrong_texts(model):
    for function, least in ((inspection.text_values, 1), (inspection.text_gradient_norms, 2)):
        with pytest.raises(ValueError, match=f"`text` must have at least {least} character"):
            function(model, TOKENIZER, "a"[: least - 1])
        with pytest.raises(TypeError, match="`text` must be a str; got list"):
            function(model, TOKENIZER, ["a", "d"])
        with pytest.raises(ValueError, match="the vocabulary does not contain 'z'"):
            function(model, TOKENIZER, "azd")
