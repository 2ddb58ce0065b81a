"""Error messages of the functions, word for word."""

import numpy as np
import pytest

import rnnx
from rnnx._core.install import install_command
from rnnx._core.words import shown

N_X, N_A, N_Y, M, T = 3, 5, 2, 4, 6


@pytest.fixture
def p():
    return rnnx.initialize_parameters("lstm", N_X, N_A, N_Y, seed=0, dtype="float64")


@pytest.fixture
def x(rng):
    return rng.standard_normal((N_X, M, T))


A0 = np.zeros((N_A, M))


def without(p, *keys):
    return {k: v for k, v in p.items() if k not in keys}


def check(error, message, call):
    """Check that `call` raises `error` with exactly this message."""
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"Wf": np.zeros((5, 7))}, ValueError, "`Wf` must have shape (n_a, n_a + n_x) = (5, 8); got (5, 7)"),
        ({"bi": np.zeros(5)}, ValueError, "`bi` must have shape (n_a, 1) = (5, 1); got (5,)"),
        ({"bo": np.zeros((6, 1))}, ValueError, "`bo` must have shape (n_a, 1) = (5, 1); got (6, 1)"),
        ({"Wy": np.zeros((2, 6))}, ValueError, "`Wy` must have shape (n_y, n_a) = (2, 5); got (2, 6)"),
        ({"by": np.zeros((3, 1))}, ValueError, "`by` must have shape (n_y, 1) = (2, 1); got (3, 1)"),
        ({"Wy": np.zeros((0, 5))}, ValueError, "`Wy` must have shape (n_y, n_a) with n_y >= 1; got (0, 5)"),
        ({"Wu": np.zeros((5, 8))}, ValueError, "unknown key 'Wu' in `parameters` of lstm; did you mean 'Wf'?"),
        ({"Wfo": np.zeros((5, 8))}, ValueError, "unknown key 'Wfo' in `parameters` of lstm; did you mean 'Wf'?"),
        ({"Wf": [[0.0]]}, TypeError, "`Wf` must be an array (NumPy, CuPy, ...); got list"),
        ({"Wf": None}, TypeError, "`Wf` must be an array (NumPy, CuPy, ...); got NoneType"),
        (
            {"Wf": np.zeros((5, 8), int)},
            TypeError,
            "`Wf` must have dtype float32 or float64; got int64",
        ),
        ({"Wf": np.zeros((5, 8), "float16")}, TypeError, "`Wf` must have dtype float32 or float64; got float16"),
    ],
)
def test_parameters(x, p, change, error, message, engine):
    check(error, message, lambda: rnnx.lstm_forward(x, A0, {**p, **change}))


def test_parameter_keys(x, p):
    keys = [*(w + g for g in "fico" for w in "Wb")]
    check(
        ValueError,
        f"`parameters` of lstm must have keys {keys}; missing ['Wc']",
        lambda: rnnx.lstm_forward(x, A0, without(p, "Wc", "Wy", "by")),
    )
    check(
        ValueError,
        f"`parameters` of lstm must have keys {[*keys, 'Wy', 'by']}; missing ['by']",
        lambda: rnnx.lstm_forward(x, A0, without(p, "by")),
    )
    check(TypeError, "`parameters` must be a dict of arrays; got list", lambda: rnnx.lstm_forward(x, A0, list(p)))
    rnn = rnnx.initialize_parameters("rnn", N_X, N_A, seed=0)
    rnn["b"] = rnn.pop("ba")
    check(
        ValueError,
        "unknown key 'b' in `parameters` of rnn; did you mean 'ba'?",
        lambda: rnnx.rnn_forward(x, A0, rnn),
    )


@pytest.mark.parametrize(
    ("x_shape", "message"),
    [
        (
            (N_X, M),
            "`x` must have shape (n_x, m, T_x), or (m, T_x) for integer indices; got (3, 4)",
        ),
        ((0, M, T), "`x` must have shape (n_x, m, T_x) with n_x >= 1; got (0, 4, 6)"),
        ((4, M, T), "`Wf` must have shape (n_a, n_a + n_x) = (5, 9); got (5, 8)"),
        ((N_X, 3, T), "`a0` must have shape (n_a, m) = (5, 3); got (5, 4)"),
    ],
)
def test_x(p, x_shape, message, engine):
    check(ValueError, message, lambda: rnnx.lstm_forward(np.zeros(x_shape), A0, p))


def test_states(x, p):
    check(
        ValueError,
        "`a0` must have shape (n_a, m) = (5, 4); got (6, 4)",
        lambda: rnnx.lstm_forward(x, np.zeros((6, M)), p),
    )
    check(
        ValueError,
        "`c0` must have shape (n_a, m) = (5, 4); got (5, 3)",
        lambda: rnnx.lstm_forward(x, A0, p, c0=np.zeros((5, 3))),
    )
    check(TypeError, "`a0` must be an array (NumPy, CuPy, ...); got float", lambda: rnnx.lstm_forward(x, 0.0, p))
    check(
        TypeError,
        "`x` must have dtype float32, float64, integer or bool; got complex128",
        lambda: rnnx.lstm_forward(x + 0j, A0, p),
    )
    check(
        TypeError,
        "`x` must be an array (NumPy, CuPy, ...); got numpy.ma.MaskedArray, whose mask would be lost: "
        "fill the missing values first",
        lambda: rnnx.lstm_forward(np.ma.masked_array(x), A0, p),
    )
    check(
        ValueError,
        "`s0` must have at most one array per state ('a',); got 2",
        lambda: rnnx.recurrent_forward("rnn", x, (A0, A0), rnnx.initialize_parameters("rnn", N_X, N_A)),
    )


def test_cell_function_arguments(x, p):
    check(
        ValueError,
        "`xt` must have shape (n_x, m); got (3, 4, 6)",
        lambda: rnnx.lstm_cell_forward(x, A0, A0, p),
    )
    check(
        ValueError,
        "`c_prev` must have shape (n_a, m) = (5, 4); got (4, 5)",
        lambda: rnnx.lstm_cell_forward(x[:, :, 0], A0, A0.T, p),
    )
    cache = rnnx.lstm_cell_forward(x[:, :, 0], A0, A0, p)[-1]
    check(
        ValueError,
        "`dc_next` must have shape (n_a, m) = (5, 4); got (5, 3)",
        lambda: rnnx.lstm_cell_backward(A0, A0[:, :3], cache),
    )
    check(
        ValueError,
        "`cache` of rnn must be a tuple of 4 entries ending in (xt, parameters), as returned by rnn_cell_forward; "
        "this one may belong to another cell",
        lambda: rnnx.rnn_cell_backward(A0, cache),
    )
    check(
        TypeError,
        "`cache` must come from lstm_cell_forward; got list",
        lambda: rnnx.lstm_cell_backward(A0, A0, list(cache)),
    )


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([1, 2, 3], ValueError, "`lengths` must have shape (m,) = (4,); got (3,)"),
        ([1, 2, 3, 7], ValueError, "`lengths` must be in [0, T_x] = [0, 6]; got values from 1 to 7"),
        ([1, 2, 3, -1], ValueError, "`lengths` must be in [0, T_x] = [0, 6]; got values from -1 to 3"),
        ([1.0, 2, 3, 4], TypeError, "`lengths` must hold integers; got dtype float64"),
        (np.ones(4), TypeError, "`lengths` must hold integers; got dtype float64"),
        (3, TypeError, "`lengths` must be an array (NumPy, CuPy, ...); got int"),
    ],
)
def test_lengths(x, p, lengths, error, message, engine):
    check(error, message, lambda: rnnx.lstm_forward(x, A0, p, lengths=lengths))


def test_mixed_libraries(x, p):
    torch = pytest.importorskip("torch")
    check(
        TypeError,
        "`x` and `a0` must come from the same array library; got numpy and torch",
        lambda: rnnx.lstm_forward(x, torch.zeros(5, 4), p),
    )
    check(
        TypeError,
        "`x` and `bo` must come from the same array library; got numpy and torch",
        lambda: rnnx.lstm_forward(x, A0, {**p, "bo": torch.zeros(5, 1)}),
    )
    _, _, _, caches = rnnx.lstm_forward(x, A0, p)
    check(
        TypeError,
        "`caches` and `da` must come from the same array library; got numpy and torch",
        lambda: rnnx.lstm_backward(torch.zeros(5, 4, 6), caches),
    )


def test_mixed_devices():
    strict = pytest.importorskip("array_api_strict")
    p = rnnx.initialize_parameters("rnn", N_X, N_A, xp=strict, device=strict.Device("CPU_DEVICE"))
    x = strict.zeros((N_X, M, T), dtype=strict.float32, device=strict.Device("device1"))
    with pytest.raises(ValueError, match=r"`x` and `Wax` must be on the same device; got .*device1.* and .*CPU_DEVICE"):
        rnnx.rnn_forward(x, None, p)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"da": np.zeros((5, 4, 7))}, "`da` must have shape (n_a, m, T) = (5, 4, T) with T <= T_x = 6; got (5, 4, 7)"),
        ({"da": np.zeros((5, 3, 6))}, "`da` must have shape (n_a, m, T) = (5, 4, T) with T <= T_x = 6; got (5, 3, 6)"),
        ({"da": np.zeros((5, 4))}, "`da` must have shape (n_a, m, T) = (5, 4, T) with T <= T_x = 6; got (5, 4)"),
        (
            {"da": np.zeros((5, 4, 6)), "dc": np.zeros((5, 4, 5))},
            "sequence gradients must have the same number of steps; got {'da': 6, 'dc': 5}",
        ),
        (
            {"da": np.zeros((5, 4, 5)), "da_final": A0},
            "`da_final` requires `da` for all T_x = 6 steps; got 5",
        ),
        ({"da": None, "dc_final": A0.T}, "`dc_final` must have shape (n_a, m) = (5, 4); got (4, 5)"),
    ],
)
def test_cotangents(x, p, keywords, message, engine):
    caches = rnnx.lstm_forward(x, A0, p)[3]
    check(ValueError, message, lambda: rnnx.lstm_backward(caches=caches, **keywords))


def test_caches(x, p):
    caches = rnnx.lstm_forward(x, A0, p)[3]
    da = np.zeros((N_A, M, T))
    check(
        ValueError,
        "`caches` must come from a forward pass of rnn; got caches of lstm",
        lambda: rnnx.rnn_backward(da, caches),
    )
    wrong = "`caches` must come from lstm_forward or be ([cache, ...], x); got "
    for nonsense, got in ((None, "NoneType"), (5, "int"), ([], "list")):
        check(TypeError, wrong + got, lambda nonsense=nonsense: rnnx.lstm_backward(da, nonsense))
    for nonsense in ([], x, None):
        message = f"`caches` must contain a list of caches, one per step; got {shown(nonsense)}"
        check(TypeError, message, lambda nonsense=nonsense: rnnx.lstm_backward(da, (nonsense, x)))
    steps = list(caches[0])
    check(
        ValueError,
        "`caches` must have one cache per step of `x`, which has shape (3, 4, 6); got 5",
        lambda: rnnx.lstm_backward(da[:, :, :5], (steps[:5], x)),
    )
    steps[2] = (*steps[2][:-1], {k: v.copy() for k, v in p.items()})
    check(ValueError, "all caches must have the same `parameters`", lambda: rnnx.lstm_backward(da, (steps, x)))


def test_cell_names(x, p):
    check(
        ValueError,
        "`cell` must be a Cell, or the name of one in rnnx.CELLS; got 'lsmt'; did you mean 'lstm'?",
        lambda: rnnx.recurrent_forward("lsmt", x, (), p),
    )


def test_a_failed_backward_leaves_the_caches_usable(x, p):
    caches = rnnx.lstm_forward(x, A0, p)[3]
    with pytest.raises(ValueError, match="must have shape"):
        rnnx.lstm_backward(np.zeros((5, 4, 9)), caches, consume=True)
    assert rnnx.lstm_backward(np.zeros((5, 4, 6)), caches)["dx"].shape == (N_X, M, T)


def test_number_of_states_of_generic_functions(x):
    p = rnnx.initialize_parameters("rnn", N_X, N_A, seed=0, dtype="float64")
    caches = rnnx.recurrent_forward("rnn", x, (), p)[2]
    da = np.zeros((N_A, M, T))
    check(
        ValueError,
        "`ds` must have at most one array per state ('a',); got 2",
        lambda: rnnx.recurrent_backward("rnn", (da, da), caches),
    )
    check(
        TypeError,
        "`ds` must be a tuple with one array per state ('a',); got ndarray",
        lambda: rnnx.recurrent_backward("rnn", da, caches),
    )
    check(
        TypeError,
        "`s0` must be a tuple with one array per state ('a',); got NoneType",
        lambda: rnnx.recurrent_forward("rnn", x, None, p),
    )


def test_entries_of_hand_built_caches(x, p):
    """Each entry of a cache tuple is checked and named like an argument."""
    *_, cache = rnnx.lstm_cell_forward(x[:, :, 0], A0, A0, p)

    def changed(i, value):
        return (*cache[:i], value, *cache[i + 1 :])

    back = rnnx.lstm_cell_backward
    check(
        TypeError,
        "`ft` must be an array (NumPy, CuPy, ...); got list",
        lambda: back(A0, A0, changed(4, [1.0])),
    )
    check(
        ValueError,
        "`it` must have shape (n_a, m) = (5, 4); got (4, 5)",
        lambda: back(A0, A0, changed(5, A0.T)),
    )
    check(
        ValueError,
        "`c_next` must have shape (n_a, m) = (5, 4); got (5, 3)",
        lambda: back(A0, A0, changed(1, A0[:, :3])),
    )
    check(
        ValueError,
        "`a_next` must have shape (n_a, m) = (5, 4); got (5,)",
        lambda: back(A0, A0, changed(0, np.zeros(5))),
    )
    torch = pytest.importorskip("torch")
    check(
        TypeError,
        "`xt` and `c_next` must come from the same array library; got numpy and torch",
        lambda: back(A0, A0, changed(1, torch.zeros(5, 4))),
    )


def test_hand_built_caches_must_be_consecutive(x, p):
    """Backward cannot pass through a state that was changed between two steps."""
    steps, a, c = [], A0, A0
    for t in range(3):
        a, c, _, cache = rnnx.lstm_cell_forward(x[:, :, t], a, c, p)
        steps.append(cache)
        if t == 1:
            c = 0 * c
    check(
        ValueError,
        "`caches` must cover consecutive steps: `c_next` of step 1 differs from `c_prev` of step 2; "
        "for other steps, call the cell's backward function once per step",
        lambda: rnnx.lstm_backward(np.zeros((N_A, M, 3)), (steps, x[:, :, :3])),
    )


def test_no_arrays():
    check(TypeError, "expected at least one array; got none", rnnx.engine_for)
    check(
        ValueError,
        "n_a must be at least 1; got `Wax` (0, 3), `Waa` (0, 0), `ba` (0, 1)",
        lambda: rnnx.rnn_forward(
            np.zeros((3, 1, 1)), None, {"Wax": np.zeros((0, 3)), "Waa": np.zeros((0, 0)), "ba": np.zeros((0, 1))}
        ),
    )


def test_ragged_lengths(x, p):
    check(
        TypeError,
        "`lengths` must be a sequence of int; got a nested sequence",
        lambda: rnnx.lstm_forward(x, A0, p, lengths=[[1], [2, 3], 4, 5]),
    )
    check(
        TypeError,
        "`lengths` must be a sequence of int or an array of NumPy or the same library; got torch",
        lambda: rnnx.lstm_forward(x, A0, p, lengths=pytest.importorskip("torch").tensor([1, 2, 3, 4])),
    )


def test_an_engine_that_cannot_run_here(monkeypatch):
    message = f"engine 'cpu' requires numba, which is disabled or not installed ({install_command('jit')})"
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert rnnx.engine_for(np.zeros(3)) == "reference"
    check(ValueError, message, lambda: rnnx.use_engine("cpu").__enter__())
    check(ValueError, message, lambda: rnnx.warm_up("rnn"))


def test_gates_are_checked():
    check(
        ValueError,
        "`weights` of a gate must be a tuple of one or two keys; got 'Wf'",
        lambda: rnnx.Gate("Wf", "bf"),
    )
