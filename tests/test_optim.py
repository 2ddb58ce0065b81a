"""Optimizers, clipping and initialisation."""

import numpy as np
import pytest
from conftest import to_numpy
from problems import assert_close

import rnnx


@pytest.fixture
def problem(rng):
    p = {"W": rng.standard_normal((3, 4)), "b": rng.standard_normal((3, 1))}
    return p, [{"d" + k: rng.standard_normal(v.shape) for k, v in p.items()} for _ in range(5)]


def test_adam_is_torchs(problem):
    torch = pytest.importorskip("torch")
    p, steps = problem
    theirs = {k: torch.tensor(v, requires_grad=True) for k, v in p.items()}
    optimizer = torch.optim.Adam(theirs.values(), lr=0.02)
    v, s = rnnx.initialize_adam(p)
    for t, grads in enumerate(steps, start=1):
        p, v, s = rnnx.update_parameters_with_adam(p, grads, v, s, t, learning_rate=0.02)
        for k, tensor in theirs.items():
            tensor.grad = torch.tensor(grads["d" + k])
        optimizer.step()
    for k in p:
        assert_close(p[k], theirs[k].detach().numpy(), 1e-12, k)


def test_adam_of_the_course(problem):
    """Signature, returns and keys; the inputs are not written to; other gradients are ignored."""
    p, (grads, *_) = problem
    before = {k: v.copy() for k, v in p.items()}
    v, s = rnnx.initialize_adam(p)
    assert set(v) == set(s) == {"dW", "db"}
    new, v1, s1 = rnnx.update_parameters_with_adam(p, {**grads, "dx": np.ones(3)}, v, s, 1)
    assert_close(v1["dW"], 0.1 * grads["dW"], 1e-14)
    assert_close(s1["dW"], 0.001 * grads["dW"] ** 2, 1e-12)
    assert_close(new["W"], p["W"] - 0.01 * np.sign(grads["dW"]), 1e-6)
    for k in p:
        np.testing.assert_array_equal(p[k], before[k])
        assert not v["d" + k].any()


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_optimizers_find_the_minimum(name, runtime):
    optimizer = __import__("rnnx.optim", fromlist=["x"]).OPTIMIZERS[name](learning_rate=0.1)
    p = {"w": runtime.asarray(np.array([3.0, -2.0], "float32"))}
    state = optimizer.init(p)
    for t in range(1, 201):
        p, state = optimizer.update(p, {"dw": 2 * p["w"]}, state, t)
    assert type(p["w"]) is type(runtime.asarray(np.zeros(2)))
    assert str(p["w"].dtype).endswith("float32")
    assert np.abs(to_numpy(p["w"])).max() < 1e-2


def test_clip_by_value():
    clipped = rnnx.clip_by_value({"dW": np.array([-9.0, 1.0, np.nan, np.inf])}, 5)
    np.testing.assert_array_equal(clipped["dW"], [-5, 1, np.nan, 5])


def test_clip_by_global_norm(runtime):
    grads = {"dW": runtime.asarray(np.array([3.0, 0.0])), "db": runtime.asarray(np.array([[4.0]]))}
    clipped, norm = rnnx.clip_by_global_norm(grads, 1.0)
    assert float(norm) == pytest.approx(5)
    np.testing.assert_allclose(to_numpy(clipped["dW"]), [0.6, 0])
    np.testing.assert_allclose(to_numpy(clipped["db"]), [[0.8]])
    same, _ = rnnx.clip_by_global_norm(grads, 10.0)
    np.testing.assert_array_equal(to_numpy(same["db"]), [[4]])


def test_the_norm_of_large_gradients_does_not_overflow():
    grads = {"dW": np.full(4, 1e30, "float32")}
    clipped, norm = rnnx.clip_by_global_norm(grads, 1.0)
    assert float(norm) == pytest.approx(2e30)
    np.testing.assert_allclose(clipped["dW"], 0.5)
    zero, norm = rnnx.clip_by_global_norm({"dW": np.zeros(3)}, 1.0)
    assert float(norm) == 0
    assert not zero["dW"].any()


def test_numpy_hyper_parameters_do_not_change_the_dtype(problem):
    p, (grads, *_) = problem
    p, grads = ({k: a.astype("float32") for k, a in tree.items()} for tree in (p, grads))
    rate = np.float64(0.01)
    v, s = rnnx.initialize_adam(p)
    for results in (
        *rnnx.update_parameters_with_adam(p, grads, v, s, np.int64(1), rate, np.float64(0.9)),
        rnnx.update_parameters_with_sgd(p, grads, rate),
        rnnx.clip_by_global_norm(grads, rate)[0],
        rnnx.clip_by_value(grads, rate),
    ):
        assert {str(a.dtype) for a in results.values()} == {"float32"}


def test_messages(problem):
    p, (grads, *_) = problem
    v, s = rnnx.initialize_adam(p)
    for call, message in (
        (
            lambda: rnnx.update_parameters_with_adam(p, {"dW": p["W"]}, v, s, 1),
            r"`grads` must hold a gradient for every parameter; missing \['db'\]",
        ),
        (
            lambda: rnnx.update_parameters_with_adam(p, {**grads, "db": p["W"]}, v, s, 1),
            r"`db` must have shape \(the shape of b\) = \(3, 1\); got \(3, 4\)",
        ),
        (lambda: rnnx.update_parameters_with_adam(p, grads, v, s, 0), "`t` must be at least 1; got 0"),
        (lambda: rnnx.update_parameters_with_adam(p, grads, v, s, 1, beta1=1), r"`beta1` must be in \[0, 1\); got 1"),
        (lambda: rnnx.update_parameters_with_sgd(p, grads, -1), "`learning_rate` must be a positive number; got -1"),
        (
            lambda: rnnx.update_parameters_with_adam(p, grads, {}, s, 1),
            r"`v` must be what initialize_adam or the last step returned; missing \['dW', 'db'\]",
        ),
        (lambda: rnnx.clip_by_global_norm({}, 1), "`grads` must hold at least one array that is not empty"),
        (lambda: rnnx.clip_by_value(grads, 0), "`max_value` must be a positive number; got 0"),
        (lambda: rnnx.clip_by_global_norm(grads, float("nan")), "`max_norm` must be a positive number; got nan"),
        (lambda: rnnx.initialize_parameters("lstm", 0, 3), "`n_x` must be an integer of at least 1; got 0"),
        (
            lambda: rnnx.initialize_parameters("lstm", 2, 3, scheme="keres"),
            r"`scheme` must be one of \['course', 'keras', 'torch'\]",
        ),
        (
            lambda: rnnx.initialize_parameters("lstm", 2, 3, dtype="int8"),
            "`dtype` must be 'float32' or 'float64'; got 'int8'",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("scheme", ["course", "keras", "torch"])
def test_initialisation(cell, scheme):
    p = rnnx.initialize_parameters(cell, 7, 50, 4, scheme=scheme, seed=3, dtype="float64")
    again = rnnx.initialize_parameters(cell, 7, 50, 4, scheme=scheme, seed=np.random.default_rng(3), dtype="float64")
    assert all(np.array_equal(p[k], again[k]) for k in p)
    single = rnnx.initialize_parameters(cell, 7, 50, 4, scheme=scheme, seed=3)
    assert {str(v.dtype) for v in single.values()} == {"float32"}
    head = p[cell.head[0]]
    recurrent = p["Waa"] if "Waa" in p else p[cell.gates[0].weights[0]][:, :50]
    if scheme == "keras":
        assert_close(recurrent @ recurrent.T, np.eye(50), 1e-12)
        assert np.abs(head).max() <= np.sqrt(6 / 54)
    elif scheme == "torch":
        assert 0.9 / np.sqrt(50) < max(np.abs(v).max() for v in p.values()) <= 1 / np.sqrt(50)
    else:
        assert np.std(recurrent) == pytest.approx(0.01, rel=0.05)
    if cell.name == "lstm":
        assert (p["bf"] == 1).all() == (scheme == "keras")
        assert (rnnx.initialize_parameters(cell, 7, 5, scheme=scheme, forget_bias=2)["bf"] == 2).all()
        assert not (p["bi"] == 1).any()


def test_initialisation_in_another_library():
    strict = pytest.importorskip("array_api_strict")
    p = rnnx.initialize_parameters("gru", 2, 3, seed=0, xp=strict)
    q = rnnx.initialize_parameters("gru", 2, 3, seed=0)
    np.testing.assert_array_equal(to_numpy(p["Wu"]), q["Wu"])
