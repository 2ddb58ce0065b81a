"""`rnnx.interop.jax` beside `jax.lax.scan` and the NumPy functions: values, gradients, transformations, errors."""

import numpy as np
import pytest

import rnnx
from rnnx import Gate
from rnnx.cells import sigmoid, tanh
from rnnx.engines.cpu.runtime import thread_pool
from rnnx.engines.cpu.runtime.thread_policy import use_policy

jax = pytest.importorskip("jax")
pytest.importorskip("numba")

import jax.numpy as jnp  # noqa: E402
from problems import TOLERANCE, assert_close, make_problem  # noqa: E402
from workers import used_by_others  # noqa: E402

from rnnx.interop.jax import recurrent  # noqa: E402

N_X, N, M, T = 3, 4, 3, 5
LENGTHS = [5, 0, 2]
CPU = jax.devices("cpu")[0]


@rnnx.cell
def minimal(x, a, *, f=Gate, c=Gate):
    f = sigmoid(f(x, a))
    return f * tanh(c(x, f * a)) + (1 - f) * a


@rnnx.cell
def mixed(x, a, *, f=Gate, k=Gate):
    f = sigmoid(f(x, a))
    return f * a + (1 - f) * tanh(k(x))


@pytest.fixture(autouse=True)
def on_the_cpu():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    with jax.default_device(CPU):
        yield
    jax.config.update("jax_enable_x64", before)


def problem(cell, rng, dtype="float64"):
    """A cell, and x, s0, parameters and inputs besides x."""
    cell = cell if isinstance(cell, rnnx.Cell) else rnnx.CELLS[cell]
    parameters = rnnx.initialize_parameters(cell, N_X, N, seed=0, dtype=dtype)
    s0 = tuple(rng.standard_normal((M, cell.size(state, N))).astype(dtype) for state in cell.states)
    inputs = {name: rng.uniform(size=(T, M, cell.size(name, N))).astype(dtype) for name in cell.inputs}
    return cell, (rng.standard_normal((T, M, N_X)).astype(dtype), s0, parameters, inputs)


def loss(cell, **options):
    """A function of the arrays of `problem` with cotangents of all results, which it returns, too."""

    def of(x, s0, parameters, inputs):
        a, final = recurrent(cell, x, s0, parameters, inputs=inputs, **options)
        return total(a, final), (a, final)

    return of


def total(a, final):
    return jnp.vdot(a, jnp.cos(jnp.arange(a.size))) + sum(jnp.vdot(s, jnp.sin(jnp.arange(s.size))) for s in final)


def gradients(function, arrays):
    return jax.jit(jax.value_and_grad(function, argnums=(0, 1, 2, 3), has_aux=True))(*arrays)


def assert_near(actual, desired, tolerance):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


# --- jax.lax.scan of the same equations ---------------------------------------------------------------------------


def lstm_step(z, s):
    f, i, c, o = (z(g, s[0]) for g in "fico")
    c = jax.nn.sigmoid(f) * s[1] + jax.nn.sigmoid(i) * jnp.tanh(c)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru_step(z, s):
    u, r = jax.nn.sigmoid(z("u", s[0])), jax.nn.sigmoid(z("r", s[0]))
    return (u * jnp.tanh(z("c", r * s[0])) + (1 - u) * s[0],)


def minimal_step(z, s):
    f = jax.nn.sigmoid(z("f", s[0]))
    return (f * jnp.tanh(z("c", f * s[0])) + (1 - f) * s[0],)


def scanned(step, lengths, reverse):
    """The function of `loss`, with states that stay constant past the ends."""
    ends = jnp.asarray([T] * M if lengths is None else lengths)

    def of(x, s0, p, inputs):
        def body(s, at):
            xt, t = at
            new = step(lambda g, a: jnp.concatenate([a, xt], 1) @ p["W" + g].T + p["b" + g][:, 0], s)
            valid = (t < ends)[:, None]
            return tuple(jnp.where(valid, a, b) for a, b in zip(new, s, strict=True)), jnp.where(valid, new[0], 0)

        final, a = jax.lax.scan(body, s0, (x, jnp.arange(T)), reverse=reverse)
        return total(a, final), (a, final)

    return of


@pytest.mark.parametrize(
    ("cell", "lengths", "reverse"),
    [
        ("lstm", None, False),
        ("gru", LENGTHS, False),
        ("gru", None, True),
        ("lstm", LENGTHS, True),
        (minimal, None, False),
        (minimal, LENGTHS, True),
    ],
)
def test_like_lax_scan(cell, lengths, reverse, rng):
    step = {"lstm": lstm_step, "gru": gru_step}.get(cell, minimal_step)
    cell, arrays = problem(cell, rng)
    if lengths:
        arrays[0][2:, 2] = np.nan  # past the end
    found = gradients(loss(cell, lengths=lengths, reverse=reverse), arrays)
    if lengths:
        arrays[0][2:, 2] = 0
    assert_near(found, gradients(scanned(step, lengths, reverse), arrays), 1e-12)


# --- the NumPy functions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lstmp", "lru", "phased_lstm", "layer_norm_lstm", "mixed"])
def test_like_the_functions_of_numpy(name, rng):
    """Widths, what comes from parameters alone, further inputs, means over units, and gates with one side only."""
    cell = mixed if name == "mixed" else rnnx.CELLS[name]
    given = make_problem(cell, rng, lengths=LENGTHS)
    states, _, caches = given.forward()
    ds = [given.dstates[0], *[None] * (len(cell.states) - 1)]
    expected = rnnx.recurrent_backward(cell, ds, caches, ds_final=given.dfinal)

    def of(x, s0, parameters, inputs):
        return recurrent(cell, x, s0, parameters, inputs=inputs, lengths=LENGTHS)

    inputs = {key: e.T for key, e in given.extra.items()}
    (a, final), back = jax.vjp(jax.jit(of), given.x.T, tuple(s.T for s in given.s0), given.parameters, inputs)
    dx, ds0, of_parameters, d_inputs = back((jnp.asarray(ds[0].T), tuple(jnp.asarray(d.T) for d in given.dfinal)))
    found = {"a": a, "dx": dx, **{f"d{key}0": d for key, d in zip(cell.states, ds0, strict=True)}}
    found |= {f"final {key}": s for key, s in zip(cell.states, final, strict=True)}
    found |= {"d" + key: d for key, d in d_inputs.items()}
    expected |= {"a": states[0], **{f"final {key}": caches.final_state[key] for key in cell.states}}
    for key, value in found.items():
        assert_close(value, expected[key].T, TOLERANCE["oracle"], key)
    for key, value in of_parameters.items():
        assert_close(value, expected["d" + key], TOLERANCE["oracle"], key)


def test_what_may_be_missing(rng):
    """Initial states, the axis of units of an input, an input with a default, and all examples or steps."""
    cell, (x, s0, parameters, _) = problem("lstm", rng)
    head = {"Wy": np.ones((2, N)), "by": np.ones((2, 1))}
    a, final = recurrent("lstm", x, (None, s0[1]), {**parameters, **head}, lengths=LENGTHS)
    whole, _ = recurrent(cell, x, (np.zeros((M, N)), s0[1]), parameters, lengths=jnp.asarray(LENGTHS))
    assert np.array_equal(a, whole)
    assert np.array_equal(final[1][1], s0[1][1])  # of length 0
    for part in (x[:0], x[:, :0]):
        a, final = recurrent(cell, part, tuple(s[: part.shape[1]] for s in s0), parameters)
        assert a.shape == (*part.shape[:2], N)
        assert np.array_equal(final[1], s0[1][: part.shape[1]])
    phased, (x, s0, parameters, inputs) = problem("phased_lstm", rng)
    (name,) = inputs
    of_one = recurrent(phased, x, s0, parameters, inputs={name: inputs[name][:, :, 0]})[0]
    same = np.repeat(inputs[name][:, :, :1], N, axis=2)
    assert np.array_equal(of_one, recurrent(phased, x, s0, parameters, inputs={name: same})[0])
    times = np.broadcast_to(np.arange(T, dtype=float)[:, None], (T, M))
    expected = recurrent(phased, x, s0, parameters, inputs={name: times})[0]
    assert np.array_equal(recurrent(phased, x, s0, parameters)[0], expected)


def test_lengths_out_of_range(rng):
    cell, (x, s0, parameters, _) = problem("gru", rng)
    run = jax.jit(lambda lengths: recurrent(cell, x, s0, parameters, lengths=lengths)[0])
    assert np.array_equal(run(np.array([2**20, -7, 2])), run(np.array([T, 0, 2])))
    with pytest.raises(ValueError, match=r"`lengths` must be in \[0, T_x\] = \[0, 5\]; got values from -7 to 9"):
        recurrent(cell, x, s0, parameters, lengths=[9, -7, 2])
    long = jnp.tile(x, (60, 1, 1))  # more steps than the dtype of the lengths can hold
    run = jax.jit(lambda lengths: recurrent(cell, long, s0, parameters, lengths=lengths)[0])
    assert np.array_equal(run(np.array([100, 0, 120], np.int8)), run(np.array([100, 0, 120])))


# --- what JAX makes of it -----------------------------------------------------------------------------------------


def test_only_what_is_wanted(rng):
    """Derivatives of one compiled function with respect to parameters alone and with x, of outputs and states alone."""
    cell, (x, s0, parameters, _) = problem("lstm", rng)
    last = jax.jit(lambda x, p: recurrent(cell, x, s0, p)[0][-1].sum())
    final = jax.jit(lambda x, p: recurrent(cell, x, s0, p)[1][0].sum())
    of_parameters = jax.grad(last, 1)(x, parameters)
    dx, of_all = jax.grad(last, (0, 1))(x, parameters)
    assert np.all(dx != 0)
    assert_near(of_parameters, of_all, 1e-14)
    assert_near(jax.grad(last)(x, parameters), dx, 1e-14)
    assert_near(jax.grad(final, (0, 1))(x, parameters), (dx, of_all), 1e-14)


def test_vmap(rng):
    cell, (x, s0, parameters, _) = problem("gru", rng)
    gradient = jax.grad(lambda x, p: loss(cell, lengths=jnp.asarray(LENGTHS))(x, s0, p, {})[0], argnums=(0, 1))
    xs = jnp.stack([x, -x])
    found = jax.jit(jax.vmap(gradient, in_axes=(0, None)))(xs, parameters)
    for j, one in enumerate(xs):
        assert_near(jax.tree.map(lambda d, j=j: d[j], found), gradient(one, parameters), 1e-14)


def test_threads(rng):
    """Results do not depend on the number of threads, nor on who else holds them."""
    cell, arrays = problem("lstm", rng)
    expected = gradients(loss(cell), arrays)
    for way in ((2, False), (2, True)):
        jax.clear_caches()
        with use_policy(lambda work, way=way: way):
            run = jax.jit(jax.value_and_grad(loss(cell), argnums=(0, 1, 2, 3), has_aux=True))
            assert_near(run(*arrays), expected, 0)
        thread_pool.pool().rest()
        assert_near(run(*arrays), expected, 0)
        assert not thread_pool.pool().mail["rests"]  # workers are awake for the next job
        with used_by_others():
            assert_near(run(*arrays), expected, 0)
    jax.clear_caches()


# --- errors -------------------------------------------------------------------------------------------------------


def test_no_other_derivatives(rng):
    cell, arrays = problem("gru", rng)
    x, s0, parameters, _ = arrays
    gradient = jax.grad(lambda x: loss(cell)(x, s0, parameters, {})[0])
    with pytest.raises(NotImplementedError, match="rnnx computes first derivatives only"):
        jax.grad(lambda x: gradient(x).sum())(x)
    with pytest.raises(NotImplementedError, match="rnnx computes first derivatives only"):
        jax.jit(jax.jacfwd(gradient))(x)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: recurrent(cell, x, s0, parameters)[0], (x,), (x,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell": "lstn"}, "`cell` must be a Cell, or the name of one in rnnx.CELLS; got 'lstn'; did you mean 'lstm'"),
        ({"x": np.ones((T, M))}, r"`x` must have shape \(T, m, n_x\) with n_x = 3; got \(5, 3\)"),
        ({"x": np.ones((T, M, 2))}, r"`x` must have shape \(T, m, n_x\) with n_x = 3; got \(5, 3, 2\)"),
        ({"x": np.ones((T, M, N_X), "float16")}, "`x` must be float32 or float64; got float16"),
        ({"x": np.ones((T, M, N_X), int)}, "`x` must be float32 or float64; got int64"),
        ({"x": "text"}, "`x` must be an array; got 'text'"),
        ({"s0": np.ones((M, N))}, "`s0` must be a tuple with one array per state"),
        ({"s0": (np.ones((N, 2)), None)}, r"`a0` must have shape \(m, n\) = \(3, 4\); got \(4, 2\)"),
        ({"parameters": [1]}, "`parameters` must be a dict of arrays; got list"),
        ({"parameters": {"Wf": np.ones((N, N))}}, "`parameters` of lstm must have keys"),
        ({"lengths": [1, 2]}, r"`lengths` must have shape \(m,\) = \(3,\); got \(2,\)"),
        ({"lengths": [1.0, 2, 3]}, "`lengths` must hold integers; got dtype float64"),
        ({"inputs": {"t": np.ones((T, M))}}, r"`inputs` must be empty for cell 'lstm'; got \['t'\]"),
        ({"reverse": 1}, "`reverse` must be True or False; got 1"),
    ],
)
def test_errors(change, message, rng):
    _, (x, s0, parameters, _) = problem("lstm", rng)
    arguments = {"cell": "lstm", "x": x, "s0": s0, "parameters": parameters}
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        recurrent(**{**arguments, **change})


def test_errors_under_jit(rng):
    cell, (x, s0, parameters, _) = problem("phased_lstm", rng)
    with pytest.raises(ValueError, match=r"^`Wf` must have shape \(n_a, n_a \+ n_x\) = \(4, 7\); got \(4, 6\)"):
        jax.jit(lambda w: recurrent(cell, x, s0, {**parameters, "Wf": w}))(parameters["Wf"][:, 1:])
    (name,) = cell.inputs
    with pytest.raises(
        ValueError, match=rf"^`{name}` must have shape \(T, m\) = \(5, 3\) or \(T, m, n\) = \(5, 3, 4\)"
    ):
        jax.jit(lambda e: recurrent(cell, x, s0, parameters, inputs={name: e}))(np.ones((T, N)))
    with pytest.raises(TypeError, match="`lengths` must hold integers; got dtype float64"):
        jax.jit(lambda n: recurrent(cell, x, s0, parameters, lengths=n))(np.ones(M))
    with pytest.raises(ValueError, match=r"^`lengths` must have shape \(m,\) = \(3,\); got \(2,\)"):
        jax.jit(lambda n: recurrent(cell, x, s0, parameters, lengths=n))(np.ones(2, int))
