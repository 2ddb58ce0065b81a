"""Resets, zoneout and recurrent dropout on any cell."""

import functools
import pickle

import numpy as np
import pytest
from head_cells import BIASED_HEADS
from wide_cells import PROJECTION

import rnnx
from rnnx.analysis import gradient_norms, state_gradients
from rnnx.cells import CELLS
from rnnx.cells.options import MASKED, RESET, dropout_mask, initial, with_options, zoneout_mask

OF = {**CELLS, BIASED_HEADS.name: BIASED_HEADS, "projection": PROJECTION}
NAMES = [
    "rnn",
    "lstm",
    "gru",
    "gru_reset_after",
    "lem",
    BIASED_HEADS.name,
    "projection",
]  # lem: two states, two stages, derived
N_X, N_A, M, T = 3, 4, 5, 7


@pytest.fixture(autouse=True, params=["reference", "cpu"])
def engine(request):
    with rnnx.use_engine(request.param):
        yield request.param


@pytest.fixture
def problem(rng):
    def make(name):
        cell = OF[name]
        initial = rnnx.initialize_parameters(cell, N_X, N_A, seed=0, dtype="float64")
        parameters = {key: rng.standard_normal(p.shape) for key, p in initial.items()}
        x = rng.standard_normal((N_X, M, T))
        return cell, x, [rng.standard_normal((cell.size(state, N_A), M)) for state in cell.states], parameters

    return make


def options_of(cell):
    """Every option alone, and all together."""
    masked = (MASKED,) * len(cell.states)
    return {
        "resets": {"resets": True},
        "zoneout": {"zoneout": masked},
        "one state": {"zoneout": (*(0,) * (len(cell.states) - 1), MASKED)},
        "expected zoneout": {"zoneout": tuple(0.1 + 0.2 * k for k in range(len(cell.states)))},
        "dropout": {"recurrent_dropout": True},
        "all": {"resets": True, "zoneout": masked, "recurrent_dropout": True},
    }


OPTIONS = [*options_of(CELLS["rnn"])]


@functools.cache
def errors_of(name, option):
    """The errors of the gradients by engine."""
    cell = with_options(OF[name], **options_of(OF[name])[option])
    assert cell != OF[name]
    n_a = -(-2 // cell.multiple) * cell.multiple
    return rnnx.check_cell(cell, n_x=1, n_a=n_a, m=2, n_steps=3, engine_names=["reference", "cpu"])


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_every_option(name, option, engine):
    assert errors_of(name, option)[engine] < 1e-6


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_a_cell_with_options_is_made_once_and_can_be_pickled(name, option):
    options = options_of(OF[name])[option]
    cell = with_options(OF[name], **options)
    assert with_options(OF[name], **options) is cell
    assert pickle.loads(pickle.dumps(cell)) == cell
    assert len({*cell.saved}) == len(cell.saved)
    assert cell.parameter_keys == OF[name].parameter_keys


@pytest.mark.parametrize("name", NAMES)
def test_without_options_a_cell_stays_the_same(name):
    cell = OF[name]
    assert with_options(cell, zoneout=(0,) * len(cell.states)) is cell


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm_step(p, x, s, masked):
    a, c = s
    z = np.concatenate([masked(a), x])
    f, i, o = (sigmoid(p[f"W{g}"] @ z + p[f"b{g}"]) for g in "fio")
    c = f * c + i * np.tanh(p["Wc"] @ z + p["bc"])
    return o * np.tanh(c), c


def gru_step(p, x, s, masked):
    (a,) = s
    z = np.concatenate([masked(a), x])
    u, r = (sigmoid(p[f"W{g}"] @ z + p[f"b{g}"]) for g in "ur")
    return (u * np.tanh(p["Wc"] @ np.concatenate([masked(r * a), x]) + p["bc"]) + (1 - u) * a,)


def lem_step(p, x, s, masked):
    y, z = s
    d1, d2 = (sigmoid(p[f"W{g}"] @ np.concatenate([masked(y), x]) + p[f"b{g}"]) for g in ("d1", "d2"))
    z = z + d1 * (np.tanh(p["Wzc"] @ np.concatenate([masked(y), x]) + p["bzc"]) - z)
    return y + d2 * (np.tanh(p["Wc"] @ np.concatenate([masked(z), x]) + p["bc"]) - y), z


@pytest.mark.parametrize(("name", "step"), [("lstm", lstm_step), ("gru", gru_step), ("lem", lem_step)])
def test_options_against_a_plain_transcription(name, step, problem, rng):
    cell, x, s0, parameters = problem(name)
    resets = rng.random((M, T)) < 0.3
    keep = {state: (rng.random((N_A, M, T)) < 0.4).astype(float) for state in cell.states}
    mask = (rng.random((N_A, M)) < 0.7) / 0.7
    over_time = np.broadcast_to(mask[:, :, None], (N_A, M, T))
    with_all = with_options(cell, **options_of(cell)["all"])
    inputs = {RESET: np.broadcast_to(resets * 1.0, (N_A, M, T))}
    inputs |= {initial(state): np.repeat(s[:, :, None], T, 2) for state, s in zip(cell.states, s0, strict=True)}
    inputs |= {zoneout_mask(state): keep[state] for state in cell.states}
    inputs |= {dropout_mask(k): over_time for k in range(len(cell.stages))}
    states, _, _ = rnnx.recurrent_forward(with_all, x, s0, parameters, inputs=inputs)
    s = s0
    for t in range(T):
        s = [np.where(resets[:, t], start, value) for start, value in zip(s0, s, strict=True)]
        new = step(parameters, x[:, :, t], s, lambda a: a * mask)
        s = [v + keep[state][:, :, t] * (u - v) for state, u, v in zip(cell.states, s, new, strict=True)]
        for value, expected in zip(states, s, strict=True):
            np.testing.assert_allclose(value[:, :, t], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_zoneout_mask_keeps_values_exactly(name, problem):
    cell, x, s0, parameters = problem(name)
    kept = with_options(cell, zoneout=(MASKED,) * len(cell.states))
    inputs = {zoneout_mask(state): np.ones((cell.size(state, N_A), M, T)) for state in cell.states}
    states, _, _ = rnnx.recurrent_forward(kept, x, s0, parameters, inputs=inputs)
    for value, start in zip(states, s0, strict=True):
        np.testing.assert_array_equal(value, np.repeat(start[:, :, None], T, 2))


def test_a_cell_without_recurrent_weights_has_no_recurrent_dropout():
    with pytest.raises(ValueError, match="'mingru' has no recurrent weights"):
        with_options(CELLS["mingru"], recurrent_dropout=True)


@pytest.mark.parametrize("lengths", [None, [7, 5, 1, 0, 6]])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_with_resets(name, lengths, problem, rng):
    cell, x, s0, parameters = problem(name)
    resets = rng.random((M, T)) < 0.4
    ds = [rng.standard_normal((cell.size(state, N_A), M, T)) for state in cell.states]
    final = [rng.standard_normal((cell.size(state, N_A), M)) for state in cell.states]

    def run():
        return rnnx.recurrent_forward(cell, x, s0, parameters, lengths=lengths, resets=resets)

    def loss():
        states, _, caches = run()
        ends = caches.final_state.values()
        return sum(np.sum(s * d) for s, d in zip((*states, *ends), (*ds, *final), strict=True))

    gradients = rnnx.recurrent_backward(cell, ds, run()[2], ds_final=final)
    arrays = {"x": x, **parameters} | {f"{state}0": s for state, s in zip(cell.states, s0, strict=True)}
    assert {*gradients} == {f"d{name}" for name in arrays}
    for name, array in arrays.items():
        for at in [*np.ndindex(array.shape)][:: max(1, array.size // 12)]:
            kept = array[at]
            array[at] = kept + 1e-6
            above = loss()
            array[at] = kept - 1e-6
            numeric = (above - loss()) / 2e-6
            array[at] = kept
            assert abs(gradients[f"d{name}"][at] - numeric) < 1e-6 * max(1, np.abs(gradients[f"d{name}"]).max()), name


@pytest.mark.parametrize("indices", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_resets_equal_separate_sequences(name, indices, problem, rng):
    cell, x, s0, parameters = problem(name)
    if indices:
        x = rng.integers(0, N_X, (M, T))
    ds = [rng.standard_normal((cell.size(state, N_A), M, T)) for state in cell.states]
    at = 3
    resets = np.zeros((M, T), bool)
    resets[:, at] = True
    states, _, caches = rnnx.recurrent_forward(cell, x, s0, parameters, resets=resets)
    gradients = rnnx.recurrent_backward(cell, ds, caches)
    parts, found = [], []
    for steps in (slice(0, at), slice(at, T)):
        part, _, own = rnnx.recurrent_forward(cell, x[..., steps], s0, parameters)
        parts.append(part)
        found.append(rnnx.recurrent_backward(cell, [d[..., steps] for d in ds], own))
    for value, first, second in zip(states, *parts, strict=True):
        np.testing.assert_allclose(value, np.concatenate([first, second], axis=2), rtol=1e-12, atol=1e-12)
    for key, value in gradients.items():
        first, second = found[0][key], found[1][key]
        whole = np.concatenate([first, second], axis=2) if key == "dx" else first + second
        np.testing.assert_allclose(value, whole, rtol=1e-10, atol=1e-10, err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_resets_without_initial_states(name, problem):
    cell, x, s0, parameters = problem(name)
    resets = np.ones((M, T), bool)
    states, _, caches = rnnx.recurrent_forward(cell, x, (), parameters, resets=resets)
    zeros = [np.zeros_like(s) for s in s0]
    for t in range(T):
        alone, _, _ = rnnx.recurrent_forward(cell, x[:, :, t : t + 1], zeros, parameters)
        np.testing.assert_allclose(states[0][:, :, t], alone[0][:, :, 0], rtol=1e-12, atol=1e-12)
    gradients = rnnx.recurrent_backward(cell, (states[0],), caches)
    assert np.abs(gradients[f"d{cell.states[0]}0"]).max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_no_reset_gives_the_same_states(name, problem):
    cell, x, s0, parameters = problem(name)
    states, _, caches = rnnx.recurrent_forward(cell, x, s0, parameters)
    same, _, with_resets = rnnx.recurrent_forward(cell, x, s0, parameters, resets=np.zeros((M, T), bool))
    for value, expected in zip(same, states, strict=True):
        np.testing.assert_array_equal(value, expected)
    expected = rnnx.recurrent_backward(cell, states, caches)
    for key, value in rnnx.recurrent_backward(cell, states, with_resets).items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-12, atol=1e-12)


def test_resets_with_inputs_vectors_and_shorter_cotangents(rng):
    cell = CELLS["sru"]
    parameters = rnnx.initialize_parameters(cell, N_X, N_A, seed=0, dtype="float64")
    x, resets = rng.standard_normal((N_X, M, T)), rng.random((M, T)) < 0.5
    states, _, caches = rnnx.recurrent_forward(cell, x, (), parameters, resets=resets)
    short, _, own = rnnx.recurrent_forward(cell, x[:, :, :4], (), parameters, resets=resets[:, :4])
    expected = rnnx.recurrent_backward(cell, short, own)
    for key, value in rnnx.recurrent_backward(cell, [s[:, :, :4] for s in states], caches).items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-12, atol=1e-12, err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_a_reset_stops_nan_in_states_and_gradients(name, problem, rng):
    cell, x, s0, parameters = problem(name)
    resets = np.zeros((M, T), bool)
    resets[:, 3] = True
    ds = [np.where(np.arange(T) < 3, 0.0, rng.standard_normal((cell.size(state, N_A), M, T))) for state in cell.states]
    expected = rnnx.recurrent_forward(cell, x[:, :, 3:], s0, parameters)[0]
    ds[0][:, 0, 5] = np.nan
    gradients = rnnx.recurrent_backward(cell, ds, rnnx.recurrent_forward(cell, x, s0, parameters, resets=resets)[2])
    np.testing.assert_array_equal(gradients["dx"][:, :, :3], 0)
    x[:, 0, 1] = np.nan
    states, _, _ = rnnx.recurrent_forward(cell, x, s0, parameters, resets=resets)
    for value, same in zip(states, expected, strict=True):
        np.testing.assert_allclose(value[:, :, 3:], same, rtol=1e-12, atol=1e-12)


def test_course_tuples_gates_and_norms_of_caches_with_resets(problem, rng):
    cell, x, s0, parameters = problem("lstm")
    resets = rng.random((M, T)) < 0.4
    states, _, caches = rnnx.recurrent_forward(cell, x, s0, parameters, resets=resets)
    assert caches.cell is cell
    assert len(caches[0][2]) == 4 + len(cell.cache) + 2
    np.testing.assert_array_equal(caches[0][2][0], states[0][:, :, 2])
    d = rng.standard_normal((N_A, M))
    dstates = state_gradients(caches, ds_final=d)
    gradients = rnnx.recurrent_backward(cell, (), caches, ds_final=(d,))
    np.testing.assert_allclose(dstates["da"][:, :, 0], gradients["da0"], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dstates["dc"][:, :, 0], gradients["dc0"], rtol=1e-12, atol=1e-12)
    assert gradient_norms(caches, ds_final=d).shape == (T + 1,)
    again = pickle.loads(pickle.dumps(caches))
    np.testing.assert_array_equal(rnnx.recurrent_backward(cell, (), again, ds_final=(d,))["da0"], gradients["da0"])


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_with_resets(name, problem, rng):
    cell, x, s0, parameters = problem(name)
    resets = rng.random((M, T)) < 0.4
    states, _, _ = rnnx.recurrent_forward(cell, x, s0, parameters, resets=resets)
    stream = rnnx.Stream(cell, parameters, m=M, s0=s0)
    for t in range(T):
        a = stream.step(x[:, :, t], resets=resets[:, t] if resets[:, t].any() else None)
        np.testing.assert_allclose(a, states[0][:, :, t], rtol=1e-12, atol=1e-12)


def test_wrong_resets_are_errors(problem):
    cell, x, s0, parameters = problem("lstm")
    stream = rnnx.Stream(cell, parameters, m=M, s0=s0)
    wrong = {
        r"`resets` must have shape \(m, T_x\) = \(5, 7\); got \(7, 5\)": np.zeros((T, M), bool),
        "`resets` must hold booleans; got dtype int64": np.zeros((M, T), np.int64),
        "`resets` must be an array of bool; got rows of different lengths": [[True], [True, False]],
        "`resets` must be an array": "yes",
    }
    for message, resets in wrong.items():
        with pytest.raises((TypeError, ValueError), match=message):
            rnnx.recurrent_forward(cell, x, s0, parameters, resets=resets)
    for resets in (np.zeros(T, bool), np.zeros((M, T), bool), np.zeros(M), True):
        with pytest.raises((TypeError, ValueError), match="`resets` must"):
            stream.step(x[:, :, 0], resets=resets)
    np.testing.assert_array_equal(stream.states["a"], s0[0])
    nested = [[t == 2 for t in range(T)]] * M
    rnnx.recurrent_forward(cell, x, s0, parameters, resets=nested)
