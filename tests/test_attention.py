"""Attention: values, gradients, masks, array libraries, dtypes and error messages."""

import numpy as np
import pytest
from conftest import to_numpy
from hypothesis import given
from hypothesis import strategies as st
from problems import TOLERANCE, assert_close, numeric_gradient

from rnnx.functional.attention import (
    AttentionStream,
    additive_attention_backward,
    additive_attention_forward,
    dot_product_attention_backward,
    dot_product_attention_forward,
)

KINDS = ["additive", "additive_without_bias", "dot", "scaled_dot"]


def problem(rng, kind, n_q=4, n_k=3, n_v=5, n_h=6, m=3, n_target=2, n_source=4):
    """Random inputs by name, and cotangents of context and weights."""
    if "dot" in kind:
        n_k = n_q
    shapes = {"queries": (n_q, m, n_target), "keys": (n_k, m, n_source), "values": (n_v, m, n_source)}
    if "dot" not in kind:
        shapes |= {"Wq": (n_h, n_q), "Wk": (n_h, n_k), "va": (n_h, 1)}
    if kind == "additive":
        shapes["ba"] = (n_h, 1)
    inputs = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    return inputs, rng.standard_normal((n_v, m, n_target)), rng.standard_normal((m, n_target, n_source))


def forward(kind, inputs, lengths=None):
    inputs = dict(inputs)
    sequences = [inputs.pop(name) for name in ("queries", "keys", "values")]
    if "dot" in kind:
        return dot_product_attention_forward(*sequences, scaled=kind == "scaled_dot", lengths=lengths)
    return additive_attention_forward(*sequences, inputs, lengths=lengths)


def backward(kind, *args):
    return (dot_product_attention_backward if "dot" in kind else additive_attention_backward)(*args)


def reference(kind, inputs, lengths):
    """The equations as loops over examples and steps."""
    q, k, v = (inputs[name] for name in ("queries", "keys", "values"))
    context, weights = np.zeros((v.shape[0], *q.shape[1:])), np.zeros((q.shape[1], q.shape[2], k.shape[2]))
    for j, t in np.ndindex(q.shape[1:]):
        n = k.shape[2] if lengths is None else lengths[j]
        if n == 0:
            continue
        if "dot" in kind:
            scores = q[:, j, t] @ k[:, j, :n] / (np.sqrt(len(q)) if kind == "scaled_dot" else 1)
        else:
            z = (inputs["Wq"] @ q[:, j, t])[:, None] + inputs["Wk"] @ k[:, j, :n] + inputs.get("ba", 0)
            scores = inputs["va"][:, 0] @ np.tanh(z)
        e = np.exp(scores - scores.max())
        weights[j, t, :n] = e / e.sum()
        context[:, j, t] = v[:, j, :n] @ weights[j, t, :n]
    return context, weights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [None, [4, 1, 0]])
def test_values_and_gradients(kind, lengths, rng):
    inputs, dcontext, dweights = problem(rng, kind)
    context, weights, cache = forward(kind, inputs, lengths)
    for actual, desired in zip((context, weights), reference(kind, inputs, lengths), strict=True):
        assert_close(actual, desired, 1e-13)

    def loss():
        context, weights, _ = forward(kind, inputs, lengths)
        return float(np.sum(context * dcontext) + np.sum(weights * dweights))

    gradients = backward(kind, dcontext, cache, dweights)
    assert gradients.keys() == {"d" + name for name in inputs}
    for name, array in inputs.items():
        assert_close(gradients["d" + name], numeric_gradient(loss, array), TOLERANCE["gradient"], name)
    alone = backward(kind, dcontext, cache)
    both = backward(kind, np.zeros_like(dcontext), cache, dweights)
    for name in gradients:
        assert_close(alone[name] + both[name], gradients[name], 1e-13, name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [None, [7, 2, 5]])
def test_against_torch(kind, lengths, rng):
    torch = pytest.importorskip("torch")
    inputs, dcontext, dweights = problem(rng, kind, m=3, n_target=5, n_source=7)
    context, weights, cache = forward(kind, inputs, lengths)
    gradients = backward(kind, dcontext, cache, dweights)

    t = {name: torch.tensor(a, requires_grad=True) for name, a in inputs.items()}
    if "dot" in kind:
        scores = torch.einsum("njt,njs->jts", t["queries"], t["keys"])
        scores = scores / np.sqrt(len(inputs["queries"])) if kind == "scaled_dot" else scores
    else:
        from_queries = torch.einsum("hn,njt->jth", t["Wq"], t["queries"])
        from_keys = torch.einsum("hn,njs->jsh", t["Wk"], t["keys"])
        z = from_queries[:, :, None] + from_keys[:, None] + (t["ba"][:, 0] if "ba" in t else 0)
        scores = torch.tanh(z) @ t["va"][:, 0]
    if lengths is not None:
        scores = scores.masked_fill(torch.arange(7) >= torch.tensor(lengths)[:, None, None], -torch.inf)
    their_weights = torch.softmax(scores, dim=-1)
    their_context = torch.einsum("jts,njs->njt", their_weights, t["values"])
    assert_close(context, their_context.detach().numpy(), TOLERANCE["oracle"])
    assert_close(weights, their_weights.detach().numpy(), TOLERANCE["oracle"])
    (their_context * torch.tensor(dcontext)).sum().add((their_weights * torch.tensor(dweights)).sum()).backward()
    for name, tensor in t.items():
        assert_close(gradients["d" + name], tensor.grad.numpy(), TOLERANCE["oracle"], name)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 999))
def test_padding_is_ignored(kind, seed):
    """A padded example in a batch gives the same results as the unpadded example alone, whatever the padding holds."""
    rng = np.random.default_rng(seed)
    m, n_target, n_source = (int(n) for n in rng.integers(1, 5, 3))
    inputs, dcontext, dweights = problem(rng, kind, m=m, n_target=n_target, n_source=n_source)
    lengths = rng.integers(0, n_source + 1, m)
    padded = np.arange(n_source) >= lengths[:, None]
    inputs["keys"][:, padded], inputs["values"][:, padded] = np.nan, np.inf
    context, weights, cache = forward(kind, inputs, lengths)
    gradients = backward(kind, dcontext, cache, dweights)
    assert not np.moveaxis(weights, 1, 2)[padded].any()
    np.testing.assert_allclose(weights.sum(axis=2), np.where(lengths, 1, 0)[:, None] * np.ones(n_target), rtol=1e-12)
    assert not context[:, lengths == 0].any()
    for name in ("dkeys", "dvalues"):
        assert not gradients[name][:, padded].any(), name
    assert all(np.isfinite(d).all() for d in gradients.values())
    for j, n in enumerate(lengths):
        one = {name: a[:, j : j + 1] if a.ndim == 3 else a for name, a in inputs.items()}
        one["keys"], one["values"] = one["keys"][:, :, :n], one["values"][:, :, :n]
        context_alone, weights_alone, cache_alone = forward(kind, one)
        assert_close(context_alone, context[:, j : j + 1], 1e-12)
        assert_close(weights_alone, weights[j : j + 1, :, :n], 1e-12)
        alone = backward(kind, dcontext[:, j : j + 1], cache_alone, dweights[j : j + 1, :, :n])
        assert_close(alone["dkeys"], gradients["dkeys"][:, j : j + 1, :n], 1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("empty", [{"m": 0}, {"n_target": 0}, {"n_source": 0}])
def test_empty(kind, empty, rng):
    inputs, dcontext, dweights = problem(rng, kind, **empty)
    for lengths in (None, np.zeros(dcontext.shape[1], int)):
        context, weights, cache = forward(kind, inputs, lengths)
        assert context.shape == dcontext.shape
        assert weights.shape == dweights.shape
        assert not context.any()
        gradients = backward(kind, dcontext, cache, dweights)
        for name, array in inputs.items():
            np.testing.assert_array_equal(gradients["d" + name], np.zeros_like(array))


@pytest.mark.parametrize("kind", KINDS)
def test_large_scores_do_not_overflow(kind, rng):
    inputs, dcontext, dweights = problem(rng, kind)
    inputs["va" if "va" in inputs else "keys"] *= 1e4
    for lengths in (None, [4, 2, 0]):
        context, weights, cache = forward(kind, inputs, lengths)
        assert np.isfinite(context).all()
        assert all(np.isfinite(d).all() for d in backward(kind, dcontext, cache, dweights).values())
        assert_close(weights[0].sum(axis=1), np.ones(2), 1e-12)


@pytest.mark.parametrize("kind", ["additive", "scaled_dot"])
@pytest.mark.parametrize("lengths", [None, [4, 2, 0]])
def test_every_library(kind, lengths, runtime, rng):
    inputs, dcontext, dweights = problem(rng, kind)
    expected = forward(kind, inputs, lengths)
    theirs = {name: runtime.asarray(a) for name, a in inputs.items()}
    context, weights, cache = forward(kind, theirs, lengths)
    assert type(context) is type(weights) is type(theirs["keys"])
    assert_close(to_numpy(context), expected[0], 1e-13)
    assert_close(to_numpy(weights), expected[1], 1e-13)
    gradients = backward(kind, runtime.asarray(dcontext), cache, runtime.asarray(dweights))
    for name, desired in backward(kind, dcontext, expected[2], dweights).items():
        assert_close(to_numpy(gradients[name]), desired, 1e-13, name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [None, [4, 1, 0]])
def test_step_by_step(kind, lengths, runtime, rng):
    """Single queries give the same results as all queries at once, even if the source changes in between."""
    inputs, _, _ = problem(rng, kind, n_target=3)
    expected_context, expected_weights, _ = forward(kind, inputs, lengths)
    theirs = {name: runtime.asarray(a) for name, a in inputs.items()}
    queries, keys, values = (theirs.pop(name) for name in ("queries", "keys", "values"))
    stream = AttentionStream(keys, values, theirs or None, scaled=kind == "scaled_dot", lengths=lengths)
    for a in (keys, values, *theirs.values()):
        if isinstance(a, np.ndarray) and a.flags.writeable:
            a[...] = np.nan
    for t in range(3):
        context, weights = stream.step(queries[:, :, t])
        assert type(context) is type(weights) is type(queries)
        assert_close(to_numpy(context), expected_context[:, :, t], 1e-13)
        assert_close(to_numpy(weights), expected_weights[:, t, :], 1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_dtypes(kind, rng):
    inputs, dcontext, dweights = problem(rng, kind, m=4, n_target=6, n_source=9)
    lengths = [9, 4, 0, 1]
    context, weights, cache = forward(kind, inputs, lengths)
    exact = {"context": context, "weights": weights, **backward(kind, dcontext, cache, dweights)}
    small = {name: a.astype(np.float32) for name, a in inputs.items()}
    context, weights, cache = forward(kind, small, lengths)
    gradients = backward(kind, dcontext.astype(np.float32), cache, dweights.astype(np.float32))
    for name, a in {"context": context, "weights": weights, **gradients}.items():
        assert a.dtype == np.float32
        assert_close(a, exact[name], TOLERANCE["float32"], name)
    assert {d.dtype for d in backward(kind, dcontext, cache).values()} == {np.dtype("float64")}
    assert {d.dtype for d in backward(kind, dcontext > 0, cache).values()} == {np.dtype("float32")}
    small["keys"] = inputs["keys"]
    context, weights, cache = forward(kind, small)
    assert context.dtype == weights.dtype == np.float64
    assert {d.dtype for d in backward(kind, dcontext, cache).values()} == {np.dtype("float64")}


@pytest.mark.parametrize("kind", KINDS)
def test_results_share_no_memory(kind, rng):
    """Inputs stay unchanged, and overwriting inputs or results changes no later backward pass."""
    inputs, dcontext, dweights = problem(rng, kind, m=1, n_target=1, n_source=1)  # views are contiguous here
    originals = {name: a.copy() for name, a in inputs.items()}
    context, weights, cache = forward(kind, inputs)
    gradients = backward(kind, dcontext, cache, dweights)
    expected = {name: d.copy() for name, d in gradients.items()}
    for name, a in inputs.items():
        np.testing.assert_array_equal(a, originals[name])
    for a in (context, weights, *inputs.values(), *gradients.values()):
        a[...] = np.nan
    for name, d in backward(kind, dcontext, cache, dweights).items():
        np.testing.assert_array_equal(d, expected[name])


def test_messages(rng):
    inputs, dcontext, dweights = problem(rng, "additive")
    q, k, v = (inputs.pop(name) for name in ("queries", "keys", "values"))
    *_, additive = additive_attention_forward(q, k, v, inputs)
    *_, dot = dot_product_attention_forward(q, q, q)
    for call, error, message in (
        (lambda: dot_product_attention_forward(q, k, v), ValueError, "must have equal sizes n; got 4 and 3"),
        (lambda: dot_product_attention_forward(q[0], k, v), ValueError, r"`queries` must have shape \(n_q, m, T_y\)"),
        (lambda: dot_product_attention_forward(q, k[:0], v), ValueError, r"`keys` .* with n_k >= 1; got \(0, 3, 4\)"),
        (lambda: dot_product_attention_forward(q, q, v), ValueError, r"`values` .* = \(5, 3, 2\); got \(5, 3, 4\)"),
        (
            lambda: additive_attention_forward(q[:, :2], k, v, inputs),
            ValueError,
            r"`keys` must have shape \(n_k, m, T_x\) = \(3, 2, 4\); got \(3, 3, 4\)",
        ),
        (lambda: additive_attention_forward(q, k, [1.0], inputs), TypeError, "`values` must be an array"),
        (lambda: additive_attention_forward(None, k, v, inputs), TypeError, "`queries` must be an array"),
        (lambda: dot_product_attention_forward(None, k, v), TypeError, "`queries` must be an array"),
        (
            lambda: additive_attention_forward(q, k * 1j, v, inputs),
            TypeError,
            "`keys` must have dtype float32, float64",
        ),
        (lambda: additive_attention_forward(q, k, v, [inputs]), TypeError, "`parameters` must be a dict of arrays"),
        (lambda: additive_attention_forward(q, k, v, None), TypeError, "`parameters` must be .*; got NoneType"),
        (lambda: additive_attention_forward(q, k, v, {}), ValueError, r"missing \['Wq', 'Wk', 'va'\]"),
        (lambda: AttentionStream(k, v, {}), ValueError, r"missing \['Wq', 'Wk', 'va'\]"),
        (lambda: AttentionStream(k[0], v), ValueError, r"`keys` must have shape \(n_k, m, T_x\)"),
        (lambda: AttentionStream(k, v[:, :, :2]), ValueError, r"`values` .* = \(5, 3, 4\); got \(5, 3, 2\)"),
        (lambda: AttentionStream(k, v, lengths=[5, 1, 1]), ValueError, "got values from 1 to 5"),
        (
            lambda: AttentionStream(k, v, {**inputs, "Wq": inputs["va"][0]}),
            ValueError,
            "`Wq` must have shape",
        ),
        (
            lambda: AttentionStream(k, v, inputs).step(q),
            ValueError,
            r"`queries` must have shape \(n_q, m\) = \(4, 3\); got \(4, 3, 2\)",
        ),
        (lambda: AttentionStream(k, v).step([1.0]), TypeError, "`queries` must be an array"),
        (lambda: additive_attention_forward(q, k, v, {"Wq": inputs["Wq"]}), ValueError, r"missing \['Wk', 'va'\]"),
        (lambda: additive_attention_forward(q, k, v, {**inputs, "b": q}), ValueError, "unknown key 'b'"),
        (
            lambda: additive_attention_forward(q, k, v, {**inputs, "Wk": inputs["Wq"]}),
            ValueError,
            r"`Wk` must have shape \(n_h, n_k\) = \(6, 3\); got \(6, 4\)",
        ),
        (
            lambda: additive_attention_forward(q, k, v, {**inputs, "va": inputs["va"].T}),
            ValueError,
            r"`va` must have shape \(n_h, 1\) = \(6, 1\); got \(1, 6\)",
        ),
        (lambda: additive_attention_forward(q, k, v, inputs, lengths=[5, 1, 1]), ValueError, "got values from 1 to 5"),
        (lambda: additive_attention_backward(dcontext, dot), TypeError, "from additive_attention_forward; got dot"),
        (lambda: dot_product_attention_backward(dcontext, additive), TypeError, "from dot_product_attention_forward"),
        (lambda: dot_product_attention_backward(dcontext, None), TypeError, "got NoneType"),
        (
            lambda: additive_attention_backward(dcontext[:, :, 0], additive),
            ValueError,
            r"`dcontext` must have shape \(n_v, m, T_y\) = \(5, 3, 2\); got \(5, 3\)",
        ),
        (
            lambda: additive_attention_backward(dcontext, additive, dweights[:2]),
            ValueError,
            r"`dweights` must have shape \(m, T_y, T_x\) = \(3, 2, 4\); got \(2, 2, 4\)",
        ),
    ):
        with pytest.raises(error, match=message):
            call()
