"""The course's contract: names, return orders, keys, cache tuples, shapes and memory ownership."""

import numpy as np
import pytest
from conftest import to_numpy
from problems import assert_close, make_problem

import rnnx

KEYS = {
    "rnn": ["Wax", "Waa", "ba"],
    "lstm": [w + g for g in "fico" for w in "Wb"],
    "gru": [w + g for g in "urc" for w in "Wb"],
}
NAMES = list(KEYS)
N_X, N_A, N_Y, M, T = 3, 5, 2, 10, 7


def course_problem(name, rng, **keywords):
    return make_problem(rnnx.CELLS[name], rng, N_X, N_A, M, T, n_y=N_Y, **keywords)


def public(name, kind):
    return getattr(rnnx, f"{name}_{kind}")


def forward(name, p, **keywords):
    """Return (a, y, c, caches) for any cell; c is None if it has none."""
    if name == "lstm":
        a, y, c, caches = rnnx.lstm_forward(p.x, p.s0[0], p.parameters, c0=p.s0[1], **keywords)
        return a, y, c, caches
    a, y, caches = public(name, "forward")(p.x, p.s0[0], p.parameters, **keywords)
    return a, y, None, caches


def softmax(z):
    e = np.exp(z - z.max(axis=0))
    return e / e.sum(axis=0)


def test_star_import():
    scope: dict = {}
    exec("from rnnx import *", scope)
    for name in NAMES:
        assert all(f"{name}_{kind}" in scope for kind in ("cell_forward", "cell_backward", "forward", "backward"))
    assert all(f in scope for f in ("sigmoid", "softmax", "initialize_adam", "update_parameters_with_adam"))


@pytest.mark.parametrize("name", NAMES)
def test_sequence_returns(name, engine, rng):
    p = course_problem(name, rng)
    a, y, c, caches = forward(name, p)
    assert a.shape == (N_A, M, T)
    assert y.shape == (N_Y, M, T)
    head = rnnx.CELLS[name].head
    assert_close(
        y, softmax(np.einsum("ya,amt->ymt", p.parameters[head[0]], a) + p.parameters[head[1]][:, :, None]), 1e-13
    )
    if name == "lstm":
        assert c.shape == (N_A, M, T)
    steps, x = caches
    assert x is p.x
    assert len(caches) == 2
    assert len(steps) == T
    gradients = public(name, "backward")(rng.standard_normal((N_A, M, 4)), caches)
    weights = ["d" + k for k in KEYS[name]]
    assert list(gradients) == ["dx", "da0", *weights, *(["dc0"] if name == "lstm" else [])]
    assert gradients["dx"].shape == (N_X, M, 4)
    assert gradients["da0"].shape == (N_A, M)
    for key in KEYS[name]:
        assert gradients["d" + key].shape == p.parameters[key].shape


@pytest.mark.parametrize("name", NAMES)
def test_cell_returns(name, rng):
    p = course_problem(name, rng)
    xt = p.x[:, :, 0]
    out = public(name, "cell_forward")(xt, *p.s0, p.parameters)
    *states, y, cache = out
    assert len(states) == len(p.s0)
    assert y.shape == (N_Y, M)
    n = len(states)
    for k in range(n):
        np.testing.assert_array_equal(cache[k], states[k])
        np.testing.assert_array_equal(cache[n + k], p.s0[k])
    assert cache[-2] is xt
    assert cache[-1] is p.parameters
    assert len(cache) == {"rnn": 4, "lstm": 10, "gru": 7}[name]
    gradients = public(name, "cell_backward")(*[rng.standard_normal((N_A, M)) for _ in states], cache)
    before = ["da_prev", "dc_prev"][:n]
    assert list(gradients) == ["dxt", *before, *("d" + k for k in KEYS[name])]
    assert gradients["dxt"].shape == (N_X, M)


def test_lstm_cache_has_the_gates_in_the_course_order(rng):
    p = course_problem("lstm", rng)
    xt, (a_prev, c_prev), w = p.x[:, :, 0], p.s0, p.parameters
    a_next, c_next, _, cache = rnnx.lstm_cell_forward(xt, a_prev, c_prev, w)
    z = np.vstack([a_prev, xt])
    ft, it, ot = (1 / (1 + np.exp(-(w["W" + g] @ z + w["b" + g]))) for g in "fio")
    cct = np.tanh(w["Wc"] @ z + w["bc"])
    for got, want in zip(cache[4:8], (ft, it, cct, ot), strict=True):
        assert_close(got, want, 1e-14)
    assert_close(c_next, ft * c_prev + it * cct, 1e-14)
    assert_close(a_next, ot * np.tanh(c_next), 1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_sequence_equals_cell_by_cell(name, engine, rng):
    """Forward and backward. The sequence backward also takes a list of caches of the cell functions."""
    p = course_problem(name, rng)
    a, _, _, caches = forward(name, p)
    s, steps = p.s0, []
    for t in range(T):
        *s, _, cache = public(name, "cell_forward")(p.x[:, :, t], *s, p.parameters)
        steps.append(cache)
        assert_close(s[0], a[:, :, t], 1e-13, f"a at step {t}")
        for ours, theirs in zip(caches[0][t][:-1], cache[:-1], strict=True):
            assert_close(ours, theirs, 1e-13, f"cache at step {t}")
    da = rng.standard_normal((N_A, M, T))
    expected = public(name, "backward")(da, caches)
    for how in ((steps, p.x), [steps, p.x], (list(caches[0]), caches[1]), (caches[0], p.x)):
        for key, gradient in public(name, "backward")(da, how).items():
            assert_close(gradient, expected[key], 1e-12, f"{key} of hand-built caches")
    # Backward through the cells, one by one.
    carried = [np.zeros((N_A, M)) for _ in s]
    total = {k: np.zeros_like(p.parameters[k]) for k in KEYS[name]}
    for t in reversed(range(T)):
        carried[0] = carried[0] + da[:, :, t]
        g = public(name, "cell_backward")(*carried, caches[0][t])
        carried = [g[k] for k in ["da_prev", "dc_prev"][: len(s)]]
        assert_close(g["dxt"], expected["dx"][:, :, t], 1e-12, f"dx at step {t}")
        for k in total:
            total[k] += g["d" + k]
    assert_close(carried[0], expected["da0"], 1e-12, "da0")
    for k, value in total.items():
        assert_close(value, expected["d" + k], 1e-12, "d" + k)


@pytest.mark.parametrize("name", NAMES)
def test_values_in_cache_tuples_are_used(name, rng):
    """Backward reads the values of a modified cache instead of recomputing them."""
    p = course_problem(name, rng)
    *_, cache = public(name, "cell_forward")(p.x[:, :, 0], *p.s0, p.parameters)
    where = 0 if name == "rnn" else len(cache) - 3  # the state itself, or the last gate in the tuple
    changed = tuple(0.5 * v if i == where else v for i, v in enumerate(cache))
    d = [np.ones((N_A, M)) for _ in p.s0]
    one, other = (public(name, "cell_backward")(*d, c)["dxt"] for c in (cache, changed))
    assert not np.allclose(one, other)


def test_steps_are_a_sequence(rng):
    steps, _ = forward("lstm", course_problem("lstm", rng))[3]
    np.testing.assert_array_equal(steps[-1][0], steps[T - 1][0])
    assert len(steps[2:5]) == 3
    assert len(list(steps)) == T
    with pytest.raises(IndexError):
        steps[T]
    np.testing.assert_array_equal(steps[0][0], steps[1][2])  # a_next of one step is a_prev of the next


@pytest.mark.parametrize("name", NAMES)
def test_without_a_head_there_is_no_y(name, engine, rng):
    p = course_problem(name, rng)
    p.parameters = {k: v for k, v in p.parameters.items() if k not in rnnx.CELLS[name].head}
    assert forward(name, p)[1] is None
    assert public(name, "cell_forward")(p.x[:, :, 0], *p.s0, p.parameters)[-2] is None


@pytest.mark.parametrize("name", NAMES)
def test_lengths_freeze_the_state_and_zero_the_outputs(name, engine, rng):
    lengths = np.array([3, 0, 7, 5, 1, 7, 2, 6, 4, 0])
    p = course_problem(name, rng)
    a, y, c, caches = forward(name, p, lengths=lengths)
    whole = forward(name, p)
    for j, length in enumerate(lengths):
        assert_close(a[:, j, :length], whole[0][:, j, :length], 1e-14)
        for out in (a, y, c):
            assert out is None or np.all(out[:, j, length:] == 0)
        last = p.s0[0][:, j] if length == 0 else whole[0][:, j, length - 1]
        assert_close(caches.final_state["a"][:, j], last, 1e-14)
    for other in (list(lengths), tuple(lengths), lengths.astype(np.uint8), lengths[::-1].copy()[::-1]):
        np.testing.assert_array_equal(forward(name, p, lengths=other)[0], a)
    n = len(p.s0)
    for t, step in enumerate(caches[0]):
        over = lengths <= t
        for gate in step[2 * n : -2]:  # past the end, gates are zero and the state does not change
            assert not gate[:, over].any()
        np.testing.assert_array_equal(step[0][:, over], step[n][:, over])
    changed = lengths.copy()
    caches = forward(name, p, lengths=changed)[3]
    changed[:] = 1  # caches hold a copy
    da = rng.standard_normal(a.shape)
    np.testing.assert_array_equal(
        public(name, "backward")(da, caches)["dx"],
        public(name, "backward")(da, forward(name, p, lengths=lengths)[3])["dx"],
    )


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
def test_lengths_of_a_narrow_dtype_and_a_long_sequence(runtime, dtype, rng):
    """The sequence has more steps than the dtype of `lengths` can represent."""
    p = make_problem(rnnx.CELLS["rnn"], rng, 2, 3, 2, 300)
    with runtime.use():
        x, parameters = runtime.asarray(p.x), {k: runtime.asarray(v) for k, v in p.parameters.items()}
        expected = rnnx.rnn_forward(x, None, parameters, lengths=[100, 50])[0]
        for lengths in (np.array([100, 50], dtype), runtime.asarray(np.array([100, 50], dtype))):
            a = rnnx.rnn_forward(x, None, parameters, lengths=lengths)[0]
            np.testing.assert_array_equal(to_numpy(a), to_numpy(expected))
    assert not to_numpy(expected)[:, 0, 100:].any()


@pytest.mark.parametrize("name", NAMES)
def test_without_caches(name, engine, rng):
    p = course_problem(name, rng)
    with_caches, without = forward(name, p), forward(name, p, keep_caches=False)
    for one, other in zip(with_caches[:3], without[:3], strict=True):
        assert (one is None and other is None) or np.array_equal(one, other)
    np.testing.assert_array_equal(with_caches[3].final_state["a"], without[3].final_state["a"])
    with pytest.raises(ValueError, match="contain no saved values: the forward pass ran with keep_caches=False"):
        public(name, "backward")(np.zeros((N_A, M, T)), without[3])


@pytest.mark.parametrize("name", NAMES)
def test_results_belong_to_the_caller(name, engine, rng):
    """Writing to results changes neither inputs nor a later backward pass; the functions do not write to inputs."""
    p = course_problem(name, rng)
    inputs = {k: v.copy() for k, v in p.inputs.items()}
    da = rng.standard_normal((N_A, M, T))
    a, y, c, caches = forward(name, p)
    expected = public(name, "backward")(da, forward(name, p)[3])
    final = caches.final_state
    for array in (a, y, c, *final.values()):
        if array is not None:
            array[...] = np.nan
    first = public(name, "backward")(da, caches)
    for array in first.values():
        array[...] = np.nan
    for key, gradient in public(name, "backward")(da, caches).items():
        np.testing.assert_array_equal(gradient, expected[key])
    a2, _, _, unsaved = forward(name, p, keep_caches=False)
    a2[...] = np.nan
    assert not np.isnan(unsaved.final_state["a"]).any()
    for key, value in inputs.items():
        np.testing.assert_array_equal(p.inputs[key], value)


@pytest.mark.parametrize("order", ["C", "F"])
def test_inputs_may_change_before_backward(engine, order, rng):
    """As when an optimizer updates parameters in place, or the buffer of x is overwritten."""
    p = course_problem("lstm", rng)
    p.x = np.array(p.x, order=order)
    da = rng.standard_normal((N_A, M, T))
    expected = rnnx.lstm_backward(da, forward("lstm", p)[3])
    caches = forward("lstm", p)[3]
    for value in (p.x, *p.s0, *p.parameters.values()):
        value *= 0
    for key, gradient in rnnx.lstm_backward(da, caches).items():
        np.testing.assert_array_equal(gradient, expected[key])


def test_layers_stack_without_copies(engine, rng):
    """Results have the memory order that the next layer reads without a copy."""
    a, *_ = forward("lstm", course_problem("lstm", rng))
    assert a.flags.f_contiguous
    gradients = rnnx.lstm_backward(np.ones_like(a), forward("lstm", course_problem("lstm", rng))[3])
    assert gradients["dx"].flags.f_contiguous


def test_c0_and_cotangents_of_c(engine, rng):
    p = course_problem("lstm", rng)
    a, _, c, caches = rnnx.lstm_forward(p.x, p.s0[0], p.parameters, c0=p.s0[1])
    default = rnnx.lstm_forward(p.x, p.s0[0], p.parameters)[0]
    np.testing.assert_array_equal(default, rnnx.lstm_forward(p.x, p.s0[0], p.parameters, c0=0 * p.s0[1])[0])
    assert not np.allclose(a, default)
    last = np.zeros_like(c)
    last[:, :, -1] = p.dfinal[1]
    by_sequence = rnnx.lstm_backward(None, caches, dc=last)
    by_final = rnnx.lstm_backward(None, caches, dc_final=p.dfinal[1])
    for key, gradient in by_sequence.items():
        assert_close(by_final[key], gradient, 1e-14, key)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("m", "n_steps"), [(0, 4), (3, 0), (0, 0)])
def test_empty(name, engine, m, n_steps, rng):
    p = make_problem(rnnx.CELLS[name], rng, N_X, N_A, m, n_steps, n_y=N_Y)
    a, y, _, caches = forward(name, p)
    assert a.shape == (N_A, m, n_steps)
    assert y.shape == (N_Y, m, n_steps)
    gradients = public(name, "backward")(np.zeros((N_A, m, n_steps)), caches, da_final=p.dfinal[0])
    assert gradients["dx"].shape == (N_X, m, n_steps)
    assert_close(gradients["da0"], p.dfinal[0], 1e-15)
    assert not np.shares_memory(gradients["da0"], p.dfinal[0])
    for key in KEYS[name]:
        assert not gradients["d" + key].any()


def test_dtypes(engine, rng):
    p = course_problem("gru", rng)
    single = p.astype("float32")

    def dtypes(x, a0, parameters, da):
        a, y, caches = rnnx.gru_forward(x, a0, parameters)
        gradients = rnnx.gru_backward(da, caches)
        return {str(v.dtype) for v in (a, y, *gradients.values())}

    assert dtypes(single.x, single.s0[0], single.parameters, single.dstates[0]) == {"float32"}
    assert dtypes(p.x, single.s0[0], single.parameters, single.dstates[0]) == {"float64"}
    mixed = {**single.parameters, "bu": p.parameters["bu"]}
    assert dtypes(single.x, single.s0[0], mixed, single.dstates[0]) == {"float64"}
    for x in (np.ones((N_X, M, T), np.int64), np.ones((N_X, M, T), bool)):
        assert dtypes(x, single.s0[0].astype(int), single.parameters, single.dstates[0]) == {"float32"}
    _, _, caches = rnnx.gru_forward(single.x, None, single.parameters)
    assert rnnx.gru_backward(p.dstates[0], caches)["dWu"].dtype == "float64"  # the cotangent is float64
    np.testing.assert_array_equal(
        rnnx.gru_forward(np.ones((N_X, M, T), bool), None, p.parameters)[0],
        rnnx.gru_forward(np.ones((N_X, M, T)), None, p.parameters)[0],
    )


def test_consume_frees_the_caches(engine, rng):
    p = course_problem("lstm", rng)
    _, _, _, caches = forward("lstm", p)
    rnnx.lstm_backward(p.dstates[0], caches, consume=True)
    assert "consumed" in repr(caches)
    for use in (
        lambda: rnnx.lstm_backward(p.dstates[0], caches),
        lambda: caches.final_state,
        lambda: caches[0][0],
        lambda: len(caches[0]),
    ):
        with pytest.raises(ValueError, match="`caches` were already consumed by a backward pass with consume=True"):
            use()


def test_gru_forms_differ_and_share_parameters(rng):
    p = course_problem("gru", rng)
    before, _, _ = rnnx.gru_forward(p.x, None, p.parameters)
    after, _, caches_after = rnnx.gru_forward(p.x, None, p.parameters, reset_after=True)
    assert not np.allclose(before, after)
    assert "dbhc" not in rnnx.gru_backward(p.dstates[0], caches_after, reset_after=True)
    biased = {**p.parameters, "bhc": np.ones((N_A, 1))}
    assert "dbhc" in rnnx.gru_backward(
        p.dstates[0], rnnx.gru_forward(p.x, None, biased, reset_after=True)[2], reset_after=True
    )
    _, _, cache = rnnx.gru_cell_forward(p.x[:, :, 0], p.s0[0], p.parameters, reset_after=True)
    gradients = rnnx.gru_cell_backward(p.dfinal[0], cache, reset_after=True)
    assert gradients["da_prev"].shape == (N_A, M)


@pytest.mark.parametrize("name", NAMES)
def test_cell_functions_and_hand_built_caches_in_every_library(name, runtime, rng):
    """The cell functions, step by step, on arrays of every library."""
    p = make_problem(rnnx.CELLS[name], rng, N_X, N_A, 4, 3, n_y=N_Y)
    whole = public(name, "backward")(p.dstates[0], forward(name, p)[3])
    parameters = {k: runtime.asarray(v) for k, v in p.parameters.items()}
    s = [runtime.asarray(a if k == 0 else 0 * a) for k, a in enumerate(p.s0)]
    p.s0 = [to_numpy(a) for a in s]
    whole = public(name, "backward")(p.dstates[0], forward(name, p)[3])
    steps, x = [], runtime.asarray(p.x)
    with runtime.use():
        for t in range(3):
            *s, y, cache = public(name, "cell_forward")(x[:, :, t], *s, parameters)
            steps.append(cache)
        gradients = public(name, "backward")(runtime.asarray(p.dstates[0]), (steps, x))
    assert type(y) is type(x)
    for key, gradient in gradients.items():
        assert type(gradient) is type(x)
        assert_close(to_numpy(gradient), whole[key], 1e-12, key)


@pytest.mark.parametrize(("m", "n_steps"), [(0, 4), (3, 0)])
def test_empty_in_every_library(runtime, m, n_steps, rng):
    p = make_problem(rnnx.CELLS["gru"], rng, N_X, N_A, m, n_steps, n_y=N_Y)
    parameters = {k: runtime.asarray(v) for k, v in p.parameters.items()}
    with runtime.use():
        a, y, caches = rnnx.gru_forward(runtime.asarray(p.x), None, parameters)
        gradients = rnnx.gru_backward(a, caches)
    assert tuple(a.shape) == (N_A, m, n_steps)
    assert tuple(y.shape) == (N_Y, m, n_steps)
    assert not to_numpy(gradients["dWu"]).any()


def test_values_of_every_gate_in_gru_caches_are_used(rng):
    """Including the gates of the first stage."""
    p = course_problem("gru", rng)
    *_, cache = rnnx.gru_cell_forward(p.x[:, :, 0], *p.s0, p.parameters)
    reference = rnnx.gru_cell_backward(np.ones((N_A, M)), cache)["dxt"]
    for i in (3, 4):  # rt, cct
        changed = tuple(0.5 * v if k == i else v for k, v in enumerate(cache))
        assert not np.allclose(rnnx.gru_cell_backward(np.ones((N_A, M)), changed)["dxt"], reference)


def test_mixed_dtypes_in_hand_built_caches(rng):
    p = course_problem("rnn", rng)
    *_, double = rnnx.rnn_cell_forward(p.x[:, :, 0], *p.s0, p.parameters)
    single = tuple(v.astype("float32") for v in double[:3])
    gradients = rnnx.rnn_cell_backward(np.ones((N_A, M), "float32"), (*single, p.parameters))
    assert {str(g.dtype) for g in gradients.values()} == {"float64"}


def test_checks_after_a_valid_call(rng):
    x, a0, da = (rng.standard_normal(shape) for shape in ((3, 2, 4), (5, 2), (5, 2, 4)))
    parameters = rnnx.initialize_parameters("rnn", 3, 5, seed=0, dtype="float64")
    for _ in range(2):
        _, _, caches = rnnx.rnn_forward(x, a0, parameters)
        rnnx.rnn_backward(da, caches)
    with pytest.raises(TypeError, match="`x` must have dtype"):
        rnnx.rnn_forward(x.astype(complex), a0, parameters)
    with pytest.raises(ValueError, match="`Waa` must have shape"):
        rnnx.rnn_forward(x, a0, parameters | {"Waa": np.zeros((5, 4))})
    with pytest.raises(TypeError, match="`da` must have dtype"):
        rnnx.rnn_backward(da.astype(complex), caches)
    with pytest.raises(ValueError, match="`da` must have shape"):
        rnnx.rnn_backward(da[:, :1], caches)
    assert rnnx.rnn_forward(x.astype("float32"), a0, parameters)[0].dtype == np.float64
