"""Comparison with torch's autograd and layers, JAX's autodiff, and the course's expected values."""

import numpy as np
import pytest
from conftest import to_numpy
from problems import TOLERANCE, assert_close, make_problem

import rnnx

N_X, N_A, M, T = 5, 7, 4, 9


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def torch_states(torch, problem, step):
    """Run a cell's textbook equations on torch tensors; return the leaves and the states of all steps."""
    leaves = {k: torch.tensor(v, requires_grad=True) for k, v in problem.inputs.items()}
    s = [leaves[f"{name}0"] for name in problem.cell.states]
    columns = []
    for t in range(problem.x.shape[2]):
        s = step(torch, leaves, leaves["x"][:, :, t], *s)
        columns.append(s)
    return leaves, [torch.stack(column, dim=2) for column in zip(*columns, strict=True)]


def rnn_step(torch, p, xt, a):
    return (torch.tanh(p["Waa"] @ a + p["Wax"] @ xt + p["ba"]),)


def lstm_step(torch, p, xt, a, c):
    z = torch.cat([a, xt])
    f, i, o = (torch.sigmoid(p[f"W{g}"] @ z + p[f"b{g}"]) for g in "fio")
    c = f * c + i * torch.tanh(p["Wc"] @ z + p["bc"])
    return o * torch.tanh(c), c


def gru_step(torch, p, xt, a):
    z = torch.cat([a, xt])
    u, r = (torch.sigmoid(p[f"W{g}"] @ z + p[f"b{g}"]) for g in "ur")
    candidate = torch.tanh(p["Wc"] @ torch.cat([r * a, xt]) + p["bc"])
    return (u * candidate + (1 - u) * a,)


def gru_reset_after_step(torch, p, xt, a):
    z = torch.cat([a, xt])
    u, r = (torch.sigmoid(p[f"W{g}"] @ z + p[f"b{g}"]) for g in "ur")
    hidden, inputs = p["Wc"][:, : a.shape[0]], p["Wc"][:, a.shape[0] :]
    candidate = torch.tanh(inputs @ xt + p["bc"] + r * (hidden @ a + p["bhc"]))
    return (u * candidate + (1 - u) * a,)


STEPS = {"rnn": rnn_step, "lstm": lstm_step, "gru": gru_step, "gru_reset_after": gru_reset_after_step}


def test_torch_autograd(torch, engine, cell, rng):
    problem = make_problem(cell, rng, N_X, N_A, M, T, final=False)
    leaves, expected = torch_states(torch, problem, STEPS[cell.name])
    torch.autograd.backward(expected, [torch.tensor(d) for d in problem.dstates])
    states, _, _ = rnnx.recurrent_forward(cell, problem.x, problem.s0, problem.parameters)
    for name, actual, desired in zip(cell.states, states, expected, strict=True):
        assert_close(actual, desired.detach().numpy(), TOLERANCE["oracle"], name)
    for name, gradient in problem.gradients().items():
        assert_close(gradient, leaves[name[1:]].grad.numpy(), TOLERANCE["oracle"], f"{cell.name} {name}")


def from_torch(name, layer):
    """Parameters of a unidirectional torch layer in the course's layout."""
    w_ih, w_hh, b_ih, b_hh = (p.detach().numpy() for p in layer.parameters())

    def part(k):
        rows = slice(k * N_A, (k + 1) * N_A)
        return np.hstack([w_hh[rows], w_ih[rows]]), (b_ih + b_hh)[rows, None], b_ih[rows, None], b_hh[rows, None]

    if name == "rnn":
        return {"Wax": w_ih, "Waa": w_hh, "ba": (b_ih + b_hh)[:, None]}
    if name == "lstm":
        return {k + g: v for g, q in zip("ifco", range(4), strict=True) for k, v in zip("Wb", part(q)[:2], strict=True)}
    (w_r, b_r, _, _), (w_z, b_z, _, _), (w_n, _, bi_n, bh_n) = part(0), part(1), part(2)
    # torch's z weighs the old state, our u the new one: u = 1 - z = sigmoid(-(W z + b))
    return {"Wu": -w_z, "bu": -b_z, "Wr": w_r, "br": b_r, "Wc": w_n, "bc": bi_n, "bhc": bh_n}


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru_reset_after"])
def test_torch_layers(torch, engine, name, rng):
    layer = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru_reset_after": torch.nn.GRU}[name](N_X, N_A).double()
    cell = rnnx.CELLS[name]
    parameters = from_torch(name, layer)
    x, da = rng.standard_normal((N_X, M, T)), rng.standard_normal((N_A, M, T))
    s0 = [rng.standard_normal((N_A, M)) for _ in cell.states]
    x_torch = torch.tensor(x.transpose(2, 1, 0).copy(), requires_grad=True)
    h0 = [torch.tensor(s.T[None].copy(), requires_grad=True) for s in s0]
    output, _ = layer(x_torch, tuple(h0) if len(h0) == 2 else h0[0])
    output.backward(torch.tensor(da.transpose(2, 1, 0).copy()))

    states, _, caches = rnnx.recurrent_forward(cell, x, s0, parameters)
    gradients = rnnx.recurrent_backward(cell, (da,), caches)
    assert_close(states[0], output.detach().numpy().transpose(2, 1, 0), TOLERANCE["oracle"], "a")
    assert_close(gradients["dx"], x_torch.grad.numpy().transpose(2, 1, 0), TOLERANCE["oracle"], "dx")
    for state, h in zip(cell.states, h0, strict=True):
        assert_close(gradients[f"d{state}0"], h.grad.numpy()[0].T, TOLERANCE["oracle"], f"d{state}0")
    w_ih, w_hh, b_ih, b_hh = (p.grad.numpy() for p in layer.parameters())
    if name == "lstm":
        rows = np.hstack([w_hh, w_ih])
        for q, g in enumerate("ifco"):
            at = slice(q * N_A, (q + 1) * N_A)
            assert_close(gradients["dW" + g], rows[at], TOLERANCE["oracle"], "dW" + g)
            assert_close(gradients["db" + g][:, 0], b_ih[at], TOLERANCE["oracle"], "db" + g)
    elif name == "rnn":
        assert_close(gradients["dWaa"], w_hh, TOLERANCE["oracle"], "dWaa")
    else:
        at = slice(2 * N_A, 3 * N_A)
        assert_close(gradients["dWu"], -np.hstack([w_hh, w_ih])[N_A : 2 * N_A], TOLERANCE["oracle"], "dWu")
        assert_close(gradients["dbhc"][:, 0], b_hh[at], TOLERANCE["oracle"], "dbhc")


def test_torch_packed_sequences(torch, engine, rng):
    """`lengths` gives the same results as torch's PackedSequence."""
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    layer = torch.nn.LSTM(N_X, N_A).double()
    lengths = [3, 9, 1, 6]
    x = rng.standard_normal((N_X, M, T))
    x_torch = torch.tensor(x.transpose(2, 1, 0).copy(), requires_grad=True)
    output, (h, c) = layer(pack_padded_sequence(x_torch, lengths, enforce_sorted=False))
    padded, _ = pad_packed_sequence(output, total_length=T)
    (padded.sum() + (2 * h).sum() + (3 * c).sum()).backward()

    a, _, _, caches = rnnx.lstm_forward(x, None, from_torch("lstm", layer), lengths=lengths)
    ones = np.ones((N_A, M))
    gradients = rnnx.lstm_backward(np.ones_like(a), caches, da_final=2 * ones, dc_final=3 * ones)
    assert_close(a, padded.detach().numpy().transpose(2, 1, 0), TOLERANCE["oracle"], "a")
    assert_close(caches.final_state["a"], h.detach().numpy()[0].T, TOLERANCE["oracle"], "final a")
    assert_close(caches.final_state["c"], c.detach().numpy()[0].T, TOLERANCE["oracle"], "final c")
    assert_close(gradients["dx"], x_torch.grad.numpy().transpose(2, 1, 0), TOLERANCE["oracle"], "dx")


@pytest.mark.parametrize("lengths", [None, "traced"])
@pytest.mark.slow
def test_jax_grad_of_forward(cell, lengths, rng):
    """JAX's gradient of the forward function equals the backward function, both under jit."""
    jax = pytest.importorskip("jax")
    traced, lengths = lengths == "traced", [1, 2, 0, 1] if lengths or cell.name == "rnn" else None
    problem = make_problem(cell, rng, N_X, N_A, M, 2, lengths=lengths)  # compiled step by step
    inputs = jax.tree.map(jax.numpy.asarray, problem.inputs)
    cotangents = [jax.numpy.asarray(d) for d in problem.dstates]
    final = [jax.numpy.asarray(d) for d in problem.dfinal]

    def forward(inputs):
        steps = jax.numpy.asarray(lengths) + inputs["zero"] if traced else lengths
        s0 = [inputs[f"{s}0"] for s in cell.states]
        parameters = {k: v for k, v in inputs.items() if k in problem.parameters}
        return rnnx.recurrent_forward(cell, inputs["x"], s0, parameters, lengths=steps)

    def loss(inputs, zero):
        inputs = {**inputs, "zero": zero}
        states, _, caches = forward(inputs)
        total = sum((s * d).sum() for s, d in zip(states, cotangents, strict=True))
        return total + sum((caches.final_state[s] * d).sum() for s, d in zip(cell.states, final, strict=True))

    @jax.jit
    def by_hand(inputs, zero):
        return rnnx.recurrent_backward(cell, cotangents, forward({**inputs, "zero": zero})[2], ds_final=final)

    zero = jax.numpy.asarray(0)
    automatic = jax.jit(jax.grad(loss))(inputs, zero)
    for name, gradient in by_hand(inputs, zero).items():
        assert isinstance(gradient, jax.Array)
        assert_close(to_numpy(gradient), to_numpy(automatic[name[1:]]), TOLERANCE["oracle"], f"{cell.name} {name}")


# --- expected values of the course --------------------------------------------------------------------------


def course_lstm(rng_seed=1):
    """Inputs of the course's test of lstm_backward, drawn in the same order."""
    old = np.random.RandomState(rng_seed)
    x, a0 = old.randn(3, 10, 7), old.randn(5, 10)
    keys = ("Wf", "bf", "Wi", "bi", "Wo", "bo", "Wc", "bc")
    parameters = {k: old.randn(5, 8) if k[0] == "W" else old.randn(5, 1) for k in keys}
    return old, x, a0, parameters


def test_course_lstm_forward(engine):
    """Expected output of the notebook 'Building a Recurrent Neural Network - Step by Step', v3."""
    old, x, a0, parameters = course_lstm()
    parameters |= {"Wy": old.randn(2, 5), "by": old.randn(2, 1)}
    a, y, c, caches = rnnx.lstm_forward(x, a0, parameters)
    assert a.shape == (5, 10, 7)
    assert y.shape == (2, 10, 7)
    assert a[4][3][6] == pytest.approx(0.172117767533, abs=1e-11)
    assert y[1][4][3] == pytest.approx(0.95087346185, abs=1e-10)
    assert c[1][2][1] == pytest.approx(-0.855544916718, abs=1e-11)
    assert caches[1][1][1] == pytest.approx(
        [0.82797464, 0.23009474, 0.76201118, -0.22232814, -0.20075807, 0.18656139, 0.41005165], abs=1e-8
    )
    assert len(caches[0]) == 7


def test_course_lstm_backward(engine):
    """Expected output of the newer notebook.

    The older one's (dx[1][2] = [-0.00173313, 0.08287442, -0.30545663, -0.43281115], da0[2][3] = -0.095911501954) is
    wrong: its loop forgets to carry da_prev and dc_prev back, so that only the last step agrees.
    """
    old, x, a0, parameters = course_lstm()
    # The notebook's test has no output layer in its parameters.
    _, _, _, caches = rnnx.lstm_forward(x, a0, parameters)
    da = old.randn(5, 10, 4)
    gradients = rnnx.lstm_backward(da, caches)
    assert gradients["dx"].shape == (3, 10, 4)
    assert gradients["dx"][1][2] == pytest.approx([0.00218254, 0.28205375, -0.48292508, -0.43281115], abs=1e-8)
    assert gradients["da0"][2][3] == pytest.approx(0.312770310257, abs=1e-11)
    assert gradients["dx"][1][2][:3] != pytest.approx([-0.00173313, 0.08287442, -0.30545663], abs=1e-3)


def test_course_rnn(engine):
    """Expected output of the RNN part of the same notebook."""
    old = np.random.RandomState(1)
    xt, a_prev = old.randn(3, 10), old.randn(5, 10)
    keys = ("Waa", "Wax", "Wya", "ba", "by")
    shapes = ((5, 5), (5, 3), (2, 5), (5, 1), (2, 1))
    parameters = {k: old.randn(*shape) for k, shape in zip(keys, shapes, strict=True)}
    a_next, yt_pred, _ = rnnx.rnn_cell_forward(xt, a_prev, parameters)
    assert a_next[4][:3] == pytest.approx([0.59584544, 0.18141802, 0.61311866], abs=1e-8)
    assert yt_pred[1][:3] == pytest.approx([0.9888161, 0.01682021, 0.21140899], abs=1e-8)

    old = np.random.RandomState(1)
    x, a0 = old.randn(3, 10, 4), old.randn(5, 10)
    parameters = {k: old.randn(*shape) for k, shape in zip(keys, shapes, strict=True)}
    a, y_pred, caches = rnnx.rnn_forward(x, a0, parameters)
    assert a[4][1] == pytest.approx([-0.99999375, 0.77911235, -0.99861469, -0.99833267], abs=1e-8)
    assert y_pred[1][3] == pytest.approx([0.79560373, 0.86224861, 0.11118257, 0.81515947], abs=1e-8)
    assert caches[1][1][3] == pytest.approx([-1.1425182, -0.34934272, -0.20889423, 0.58662319], abs=1e-8)


def test_course_lstm_cell_forward():
    old = np.random.RandomState(1)
    xt, a_prev, c_prev = old.randn(3, 10), old.randn(5, 10), old.randn(5, 10)
    parameters = {k: v for g in "fioc" for k, v in (("W" + g, old.randn(5, 8)), ("b" + g, old.randn(5, 1)))}
    parameters |= {"Wy": old.randn(2, 5), "by": old.randn(2, 1)}
    a_next, c_next, yt, _ = rnnx.lstm_cell_forward(xt, a_prev, c_prev, parameters)
    assert a_next[4][:3] == pytest.approx([-0.66408471, 0.0036921, 0.02088357], abs=1e-8)
    assert c_next[2][:3] == pytest.approx([0.63267805, 1.00570849, 0.35504474], abs=1e-8)
    assert yt[1][:3] == pytest.approx([0.79913913, 0.15986619, 0.22412122], abs=1e-8)
