"""Activations, dense layer and losses: values, gradients and messages in every library."""

import numpy as np
import pytest
from conftest import to_numpy
from hypothesis import given
from hypothesis import strategies as st
from problems import TOLERANCE, assert_close, numeric_gradient

import rnnx


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "relu", "softmax"])
def test_activation_gradients(name, rng):
    f, backward = getattr(rnnx, name), getattr(rnnx, f"{name}_backward")
    x, dy = rng.standard_normal((4, 3, 2)), rng.standard_normal((4, 3, 2))
    numeric = numeric_gradient(lambda: float(np.sum(f(x) * dy)), x)
    assert_close(backward(dy, f(x)), numeric, TOLERANCE["gradient"], name)
    with pytest.raises(ValueError, match=r"`dy` must have the same shape as `y`, \(4, 3, 2\); got \(4, 3\)"):
        backward(dy[:, :, 0], f(x))


def test_activations_at_the_extremes():
    x = np.array([-np.inf, -1000.0, -40.0, 0.0, 1000.0, np.inf, np.nan])
    with np.errstate(over="raise", divide="raise"):
        np.testing.assert_allclose(rnnx.sigmoid(x), [0, 0, 4.248354255291589e-18, 0.5, 1, 1, np.nan], rtol=1e-15)
        np.testing.assert_array_equal(rnnx.relu(x), [0, 0, 0, 0, 1000, np.inf, np.nan])
    y = rnnx.softmax(np.array([[1000.0, -1000.0], [0.0, 0.0]]))
    np.testing.assert_array_equal(y, [[1, 0], [0, 1]])  # per column: a global maximum would underflow


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_softmax_of_infinities(engine, order):
    """Silent in every memory order, and in its own column."""
    x = np.array([[np.inf, -np.inf, -np.inf, np.nan, 0], [0, 0, -np.inf, 0, 0]], order=order)
    with rnnx.use_engine(engine), np.errstate(all="raise"):
        y = rnnx.softmax(x)
    np.testing.assert_array_equal(y, [[np.nan, 0, np.nan, np.nan, 0.5], [np.nan, 1, np.nan, np.nan, 0.5]])


def test_activations_of_integers_and_invalid_inputs():
    assert rnnx.sigmoid(np.arange(3)).dtype == np.float64
    assert rnnx.tanh(np.zeros(2, "float32")).dtype == np.float32
    with pytest.raises(TypeError, match="`x` must be an array"):
        rnnx.tanh([1.0])
    with pytest.raises(TypeError, match="`x` must have dtype float32, float64, integer or bool; got complex128"):
        rnnx.tanh(np.zeros(2, complex))
    with pytest.raises(ValueError, match=r"`x` must have shape \(n, ...\) with n >= 1; got \(0, 3\)"):
        rnnx.softmax(np.zeros((0, 3)))


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 3), (4, 0, 5), (4, 3, 0)])
def test_dense(shape, rng):
    a, W, b = rng.standard_normal(shape), rng.standard_normal((2, 4)), rng.standard_normal((2, 1))
    z = rnnx.dense_forward(a, W, b)
    assert_close(z, np.tensordot(W, a, 1) + b.reshape((2,) + (1,) * (a.ndim - 1)), 1e-14)
    dz = rng.standard_normal(z.shape)
    gradients = rnnx.dense_backward(dz, a, W)
    assert list(gradients) == ["da", "dW", "db"]
    for name, array in {"a": a, "W": W, "b": b}.items():
        numeric = numeric_gradient(lambda: float(np.sum(rnnx.dense_forward(a, W, b) * dz)), array)
        assert_close(gradients["d" + name], numeric, TOLERANCE["gradient"], name)


@given(seed=st.integers(0, 99), with_lengths=st.booleans())
def test_cross_entropy(seed, with_lengths):
    rng = np.random.default_rng(seed)
    n_y, m, n_steps = rng.integers(1, 6, 3)
    z, targets = 3 * rng.standard_normal((n_y, m, n_steps)), rng.integers(0, n_y, (m, n_steps))
    lengths = rng.integers(0, n_steps + 1, m) if with_lengths else np.full(m, n_steps)
    valid = np.arange(n_steps) < lengths[:, None]
    loss, dz = rnnx.softmax_cross_entropy(z, np.where(valid, targets, -7), lengths=lengths if with_lengths else None)
    p = rnnx.softmax(z)
    nll = [-np.log(p[targets[j, t], j, t]) for j in range(m) for t in range(lengths[j])]
    assert float(loss) == pytest.approx(np.mean(nll) if nll else 0)
    numeric = numeric_gradient(lambda: float(rnnx.softmax_cross_entropy(z, targets, lengths=lengths)[0]), z)
    assert np.abs(dz - numeric).max() < 1e-8
    assert not dz[:, ~valid].any()


def test_cross_entropy_of_huge_logits_is_finite():
    z = np.array([[[1e4]], [[-1e4]]])
    loss, dz = rnnx.softmax_cross_entropy(z, np.array([[1]]))
    assert float(loss) == pytest.approx(2e4)
    np.testing.assert_array_equal(dz[:, 0, 0], [1, -1])


def test_cross_entropy_of_masked_logits_and_padding():
    """A logit of minus infinity excludes a class; NaN past an example's length is ignored."""
    z = np.zeros((4, 2, 3))
    z[3] = -np.inf
    z[:, 1, 1:] = np.nan
    loss, dz = rnnx.softmax_cross_entropy(z, np.zeros((2, 3), int), lengths=[3, 1])
    assert float(loss) == pytest.approx(np.log(3))
    assert np.isfinite(dz).all()
    assert not dz[3].any()


def test_targets_of_a_narrow_dtype():
    z = np.random.default_rng(0).standard_normal((300, 2, 3))
    targets = np.array([[1, 2, 3], [4, 255, 6]])
    expected = rnnx.softmax_cross_entropy(z, targets)
    actual = rnnx.softmax_cross_entropy(z, targets.astype(np.uint8))
    assert float(actual[0]) == float(expected[0])
    np.testing.assert_array_equal(actual[1], expected[1])


def test_head_messages(rng):
    z = np.zeros((3, 2, 4))
    for call, error, message in (
        (
            lambda: rnnx.softmax_cross_entropy(z, np.zeros((2, 5), int)),
            ValueError,
            r"`targets` must have shape \(m, T_x\) = \(2, 4\); got",
        ),
        (
            lambda: rnnx.softmax_cross_entropy(z, np.zeros((2, 4))),
            TypeError,
            "`targets` must hold integers; got dtype float64",
        ),
        (
            lambda: rnnx.softmax_cross_entropy(z, np.full((2, 4), 3)),
            ValueError,
            r"`targets` must be in \[0, n_y\) = \[0, 3\); got values from",
        ),
        (
            lambda: rnnx.softmax_cross_entropy(z[0], np.zeros((2, 4), int)),
            ValueError,
            r"`z` must have shape \(n_y, m, T_x\)",
        ),
        (
            lambda: rnnx.dense_forward(z, np.zeros((2, 4)), np.zeros((2, 1))),
            ValueError,
            r"`W` must have shape \(n_y, n_a\) = \(n_y, 3\); got \(2, 4\)",
        ),
        (
            lambda: rnnx.dense_forward(z, np.zeros((2, 3)), np.zeros(2)),
            ValueError,
            r"`b` must have shape \(n_y, 1\) = \(2, 1\); got \(2,\)",
        ),
        (
            lambda: rnnx.dense_backward(z[:2], z[:, :, 0], np.zeros((2, 3))),
            ValueError,
            r"`dz` must have shape \(n_y, m\) = \(2, 2\); got",
        ),
    ):
        with pytest.raises(error, match=message):
            call()


def test_heads_keep_the_library(runtime, rng):
    a, W, b = rng.standard_normal((4, 3, 5)), rng.standard_normal((2, 4)), rng.standard_normal((2, 1))
    targets = rng.integers(0, 2, (3, 5))
    z = rnnx.dense_forward(*(runtime.asarray(v) for v in (a, W, b)))
    loss, dz = rnnx.softmax_cross_entropy(z, runtime.asarray(targets), lengths=[5, 2, 0])
    da = rnnx.dense_backward(dz, runtime.asarray(a), runtime.asarray(W))["da"]
    expected_loss, expected_dz = rnnx.softmax_cross_entropy(rnnx.dense_forward(a, W, b), targets, lengths=[5, 2, 0])
    assert float(loss) == pytest.approx(float(expected_loss))
    assert_close(to_numpy(dz), expected_dz, 1e-12)
    assert type(da) is type(z) is type(runtime.asarray(a))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
@pytest.mark.parametrize("shape", [(2, 3), (4,), (0, 3), (2, 0)])
def test_one_hot(dtype, shape):
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 250, shape).astype(dtype)
    x = rnnx.one_hot(indices, 300, "float64")
    assert x.shape == (300, *shape)
    assert x.dtype == np.float64
    np.testing.assert_array_equal(x, np.moveaxis(np.eye(300)[indices], -1, 0))
    assert x.flags.f_contiguous


def test_one_hot_of_other_libraries():
    strict = pytest.importorskip("array_api_strict")
    expected = rnnx.one_hot(np.array([[1, 0], [2, 2]]), 3)
    assert expected.dtype == np.float32
    for x in (
        rnnx.one_hot(strict.asarray([[1, 0], [2, 2]], dtype=strict.uint8), 3),
        rnnx.one_hot(np.array([[1, 0], [2, 2]]), 3, xp=strict),
    ):
        assert isinstance(x, type(strict.asarray(0)))
        np.testing.assert_array_equal(to_numpy(x), expected)


def test_one_hot_errors():
    with pytest.raises(ValueError, match=r"`indices` must be in \[0, vocab_size\) = \[0, 3\); got values from 0 to 3"):
        rnnx.one_hot(np.array([0, 3]), 3)
    with pytest.raises(ValueError, match="got values from -1 to 0"):
        rnnx.one_hot(np.array([0, -1]), 3)
    with pytest.raises(TypeError, match="`indices` must hold integers; got dtype float64"):
        rnnx.one_hot(np.zeros((2, 2)), 3)
    with pytest.raises(TypeError, match="`indices` must be an array"):
        rnnx.one_hot([0, 1], 3)
    with pytest.raises(ValueError, match="`vocab_size` must be an integer of at least 1; got 0"):
        rnnx.one_hot(np.zeros(0, int), 0)
