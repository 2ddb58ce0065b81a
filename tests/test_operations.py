"""The operations of a training step outside the recurrent layers, on every engine; see `rnnx.engines.operations`."""

import itertools
import shutil

import numpy as np
import pytest
from conftest import NO_COMPILER, to_numpy
from problems import ENGINES_TOLERANCE, TENSOR, assert_close

import rnnx
from rnnx import engines, optim
from rnnx._core import kinds
from rnnx.engines.cpu import array_tables
from rnnx.engines.cpu.operations import OPERATIONS as CPU
from rnnx.engines.cpu.runtime import thread_pool
from rnnx.engines.cpu.runtime.thread_policy import use_policy
from rnnx.engines.reference.operations import OPERATIONS as REFERENCE
from rnnx.losses import SquaredError
from rnnx.models import Masks
from rnnx.models.masks import dropped


@pytest.fixture(params=["cpu", "emulated"])
def compiled(request):
    """The operations of an engine with kernels."""
    if request.param == "emulated" and not shutil.which("g++"):
        pytest.skip(NO_COMPILER)
    with rnnx.use_engine(request.param):
        yield engines.operations(np)


def everything(ops, n, a, b):
    """A rule with every kind of operation that the optimizers use."""
    step = a * n["x"] + n["rest"] * (b * b)
    return ops.maximum(step - b, ops.zeros_like(a)), a / (ops.sqrt(abs(step)) + n["y"]), ops.minimum(-a, n["y"])


NUMBERS = {"x": 0.9, "rest": 1 - 0.9, "y": 1e-8}


def assert_same(actual, expected):
    for row, other in zip(actual, expected, strict=True):
        for a, b in zip(row, other, strict=True):
            assert isinstance(a, np.ndarray)
            np.testing.assert_array_equal(a, b, strict=True)


@pytest.mark.parametrize("readable", [True, False])
def test_a_table_of_arrays(readable, monkeypatch):
    """Addresses are read from the objects or, where these are not as expected, asked for."""
    monkeypatch.setattr(array_tables, "_templates", kinds.Table())
    if not readable:
        monkeypatch.setattr(array_tables, "address_writer", lambda: None)
    for _ in range(2):
        a, b, c = np.ones((2, 3)), np.ones(6), np.ones((4, 0))
        table = array_tables.array_table([a, b, c, c], 2, 1)
        assert table.numbers.tolist() == [6, a.ctypes.data, b.ctypes.data, 0, c.ctypes.data, c.ctypes.data]
        assert table.size == 6
    fixed, wide = np.ones(6), np.ones((3, 4))
    fixed.flags.writeable = False
    assert array_tables.array_table([fixed, a], 2, 1) is not None
    for others in ([a, fixed], [wide[:, ::2], b], [wide.T, wide], [a.astype("f4"), b], [a.astype(int), a.astype(int)]):
        assert array_tables.array_table(others, 2, 1) is None


def rows_of_all_kinds(rng, dtype):
    def pair(*shape, **order):
        return tuple(np.array(rng.standard_normal(shape), dtype, **order) for _ in range(2))

    yield [pair(3, 4), pair(1), pair(), pair(0, 3), pair(5, 7, 3), pair(64), pair(1000)]
    yield [pair(3, 5, order="F"), pair(3, 4)]
    a, b = pair(5, 6)
    yield [(a.T, b.T), (a[::2], b[::2]), (a, np.asfortranarray(b)), (a[:, ::-1], b)]
    b.flags.writeable = False
    yield [(a, b)]
    with_gap = np.zeros(1 + 40 * a.itemsize, np.uint8)[1:].view(dtype)
    with_gap[...] = 1
    yield [(with_gap, with_gap)]
    yield [(a.astype(a.dtype.newbyteorder()), b.astype(a.dtype.newbyteorder()))]
    a = a.ravel()
    a[:4] = np.nan, np.inf, -np.inf, -0.0
    yield [(a, b.ravel()), tuple(x.astype("float64") for x in pair(9)), tuple(x.astype("float32") for x in pair(9))]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_compiled_rules_have_the_bits_of_numpys_functions(compiled, dtype, rng):
    with np.errstate(invalid="ignore"):
        for rows in rows_of_all_kinds(rng, dtype):
            expected = REFERENCE.elementwise(everything, NUMBERS, rows)
            assert_same(compiled.elementwise(everything, NUMBERS, rows), expected)
            out = [tuple(np.full_like(a, 7, subok=False) for a in row) for row in expected]
            assert compiled.elementwise(everything, NUMBERS, rows, out)[0][0] is out[0][0]
            assert_same(out, expected)
    assert compiled.elementwise(everything, NUMBERS, []) == []


def test_results_may_replace_the_arguments(compiled, rng):
    a, b, c = rng.standard_normal((3, 6, 5))
    expected = REFERENCE.elementwise(everything, NUMBERS, [(a.T, b.T)])
    compiled.elementwise(everything, NUMBERS, [(a.T, b.T)], [(b.T, a.T, c.T)])
    assert_same([(b.T, a.T, c.T)], expected)


def test_a_result_cannot_replace_a_read_only_array(rng):
    a, b = rng.standard_normal((2, 5))
    out = np.zeros((3, 5))
    out.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        CPU.elementwise(everything, NUMBERS, [(a, b)], [tuple(out)])
    assert not out.any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (16, 2, 3), (27, 8, 9), (65, 4, 2), (300, 2, 2)])
@pytest.mark.parametrize("with_lengths", [False, True])
def test_compiled_losses(compiled, dtype, shape, with_lengths, rng):
    n_y, m, n_steps = shape
    lengths = rng.integers(0, n_steps + 1, m) if with_lengths else None
    valid = np.arange(n_steps) < (np.full(m, n_steps) if lengths is None else lengths)[:, None]
    y, numbers = (np.asarray(4 * rng.standard_normal(shape), dtype) for _ in range(2))
    y[:, ~valid] = numbers[:, ~valid] = np.nan
    classes = np.where(valid, rng.integers(0, n_y, (m, n_steps)), -3)
    for function, targets in ((rnnx.softmax_cross_entropy, classes), (rnnx.squared_error, numbers)):
        with rnnx.use_engine("reference"):
            loss, dy = function(y.astype("float64"), targets, lengths=lengths)
        for order in ("C", "F"):
            given = np.array(y, order=order), np.array(targets, order=order)
            own, own_dy = function(*given, lengths=lengths)  # on the engine of `compiled`
            assert_close(np.asarray(own), loss, ENGINES_TOLERANCE[dtype], "loss")
            assert_close(own_dy, dy, ENGINES_TOLERANCE[dtype], "gradient")
            assert own.dtype == own_dy.dtype == dtype
            assert not own_dy[:, ~valid].any()


@pytest.mark.parametrize("engine", ["cpu", "reference", "emulated"])
def test_numbers_that_are_not_finite_stay_in_their_row(engine, rng):
    y, targets = rng.standard_normal((20, 3, 4)), rng.integers(0, 20, (3, 4))
    y[17, 1, 2], y[0, 2, 3] = np.nan, np.inf
    y[:, 0, 0] = -np.inf
    with rnnx.use_engine(engine), np.errstate(invalid="ignore"):
        loss, dy = rnnx.softmax_cross_entropy(y, targets)
    assert np.isnan(loss)
    bad = np.zeros((3, 4), bool)
    bad[1, 2] = bad[2, 3] = bad[0, 0] = True
    assert np.isnan(dy[:, bad]).any(axis=0).all()
    assert np.isfinite(dy[:, ~bad]).all()


@pytest.mark.parametrize("engine", ["cpu", "reference", "emulated"])
def test_a_class_out_of_range_is_none_of_the_classes(engine):
    """The models' own checks come before; an index from elsewhere must not reach memory."""
    y, targets = np.zeros((4, 1, 3)), np.array([[1 << 40, -1, (1 << 32) + 1]])
    y[1] = 2
    with rnnx.use_engine(engine):
        loss, dy = engines.operations(np).loss(rnnx.functional.losses.CROSS_ENTROPY, y, targets, None)
    e = np.exp(y - 2)
    np.testing.assert_allclose(dy, e / e.sum(axis=0) / 3)
    np.testing.assert_allclose(loss, np.log(e[:, 0, 0].sum()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_y", [1, 8, 13, 33, 64, 65])
def test_a_row_of_a_loss_has_the_same_bits_alone_and_among_others(dtype, n_y, rng):
    """Losses of rows are computed in groups. With 64 rows, shares of the mean are exact."""
    y, targets = (4 * rng.standard_normal((n_y, 4, 16))).astype(dtype), rng.integers(0, n_y, (4, 16))
    for loss, of in ((rnnx.functional.losses.CROSS_ENTROPY, targets), (SquaredError().rule, y[:, ::-1])):
        value, dy = CPU.loss(loss, y, of, None)
        rows = []
        for t, j in itertools.product(range(16), range(4)):
            one, own = CPU.loss(loss, *(a[..., j : j + 1, t : t + 1] for a in (y, of)), None)
            rows.append(float(one))
            np.testing.assert_array_equal(dy[:, j, t] * 64, own[:, 0, 0])
        shown = rng.integers(0, 2, (4, 16)).astype(dtype)
        for weights in (None, shown):
            value, dy = CPU.loss(loss, y, of, None, weights)
            counted = np.ones(64) if weights is None else weights.T.ravel()
            mean = np.add.accumulate(rows * counted)[-1] / counted.sum()
            assert_close(value, mean, ENGINES_TOLERANCE[dtype])
            assert value == mean.astype(dtype) or not loss.of_classes  # others also divide by the number of targets
        assert not dy[:, shown == 0].any()


@pytest.mark.parametrize("dtypes", [("float32",), ("float64",), ("float32", "float64")])
def test_the_norm(compiled, dtypes, rng):
    arrays = [rng.standard_normal(shape).astype(dtype) for dtype in dtypes for shape in ((3, 4), (100, 30), ())]
    arrays.append(arrays[0].T[::2])
    expected = np.sqrt(sum((a.astype("float64") ** 2).sum() for a in arrays))
    for factor in (1, 1e30, 1e-30):
        scaled = [np.asarray(a * a.dtype.type(factor)) for a in arrays]
        norm = compiled.norm(scaled)
        assert np.asarray(norm).dtype == np.result_type(*dtypes)
        assert_close(np.asarray(norm), expected * factor, ENGINES_TOLERANCE["float32"], factor)
    if "float64" in dtypes:
        for factor in (2.0**1000, 2.0**-1000):  # their squares overflow or vanish
            norm = compiled.norm([a.astype("float64") * factor for a in arrays])
            assert_close(norm / factor, expected, ENGINES_TOLERANCE["float64"], factor)
    assert compiled.norm([np.zeros((2, 3), dtypes[0])]) == 0
    for value in (np.nan, np.inf):
        with np.errstate(invalid="ignore"):
            assert np.isnan(compiled.norm([*arrays, np.array([1, value], dtypes[0])]))


def test_clipping_by_value_keeps_nan(runtime):
    grads = {"dW": runtime.asarray(np.array([-3.0, -0.5, 0.5, 3.0, np.nan, np.inf]))}
    with runtime.use():
        clipped = optim.clip_by_value(grads, 1.0)["dW"]
    np.testing.assert_array_equal(to_numpy(clipped), [-1, -0.5, 0.5, 1, np.nan, 1])


def test_an_engine_without_operations_uses_those_of_the_reference_engine():
    assert engines.operations(np) is CPU
    with rnnx.use_engine("reference"):
        assert engines.operations(np) is REFERENCE


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_numbers_in_device_memory(dtype, rng):
    """The host need not know the numbers of a rule."""
    with rnnx.use_engine("emulated"):
        operations = engines.operations(np)
    rows = [tuple(rng.standard_normal((2, 3, 5)).astype(dtype))]
    kinds = {"x": "float32", "rest": "float64", "y": dtype}
    numbers = {name: np.array(NUMBERS[name], kind) for name, kind in kinds.items()}
    expected = operations.elementwise(everything, {name: float(a) for name, a in numbers.items()}, rows)
    assert_same(operations.elementwise(everything, numbers, rows), expected)
    wide = [tuple(a.astype("float64") for a in rows[0])]
    for a, b in zip(expected[0], REFERENCE.elementwise(everything, NUMBERS, wide)[0], strict=True):
        assert_close(a, b, TENSOR["float16"])


def test_sixteen_bits(rng):
    with rnnx.use_engine("emulated"):
        operations = engines.operations(np)
    y, classes = rng.standard_normal((30, 4, 5)).astype("float16"), rng.integers(0, 30, (4, 5))
    losses = rnnx.functional.losses
    for loss, targets in ((losses.CROSS_ENTROPY, classes), (losses.SQUARED_ERROR, y[::-1])):
        value, dy = operations.loss(loss, y, targets, np.array([5, 3, 1, 0]))
        wide = targets if loss.of_classes else targets.astype("float64")
        expected, expected_dy = REFERENCE.loss(loss, y.astype("float64"), wide, np.array([5, 3, 1, 0]))
        assert value.dtype == dy.dtype == "float16"
        assert_close(value, expected, TENSOR["float16"])
        assert_close(dy, expected_dy, TENSOR["float16"])
    assert_close(operations.norm([y]), np.linalg.norm(y.astype("float64")), TENSOR["float16"])


@pytest.mark.parametrize("engine", ["emulated", "reference"])
def test_arrays_one_after_the_other(engine, rng):
    """More than eight of them, which a graph may not concatenate at once; some are not contiguous, or empty."""
    if engine == "emulated":
        pytest.importorskip("emulated_engine")
    arrays = [rng.standard_normal(n) for n in (3, 1, 0, 200, 7, 1, 1, 2, 64, 5, 9)] + [
        rng.standard_normal((4, 5))[:, 2]
    ]
    with rnnx.use_engine(engine):
        found = engines.joined(np, arrays)
    assert np.array_equal(found, np.concatenate(arrays))


def test_launches_of_operations(rng):
    """One kernel for a rule on all arrays, after one that brings their addresses; a reduction needs a second one.

    The addresses are arguments of a kernel, by value, so that the operations can be captured.
    """
    emulated_engine = pytest.importorskip("emulated_engine")
    arrays = [rng.standard_normal(shape) for shape in ((3, 4), (5,), (70, 80))]
    log = emulated_engine.stream.log
    with rnnx.use_engine("emulated"):
        operations = engines.operations(np)
        for call, launches in (
            (lambda: operations.elementwise(everything, NUMBERS, [(a, a) for a in arrays]), ["send", "elementwise"]),
            (lambda: operations.norm(arrays), ["send", "squares", "finish_norm"]),
            (lambda: operations.joined([a.reshape(-1) for a in arrays]), ["send", "elementwise"]),
            (lambda: rnnx.squared_error(arrays[0][None], arrays[0][None] + 1), ["loss", "finish_mean"]),
            (lambda: rnnx.softmax_cross_entropy(arrays[0][None], np.zeros((3, 4), int)), ["loss", "finish_mean"]),
        ):
            log.clear()
            call()
            assert log == launches


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(5,), (1, 6), (27, 4, 3), (70, 9), (33, 1), (4, 0)])
def test_softmax(dtype, shape, rng):
    x = 30 * rng.standard_normal(shape).astype(dtype)
    x.flat[:1] = 1e4
    others = [x.copy(), x.copy(), x.copy()]
    for other, value in zip(others, (np.nan, -np.inf, np.inf), strict=True):
        other.flat[-1:] = value
    for given, order in itertools.product((x, *others), "CF"):
        with np.errstate(invalid="ignore"):
            found = rnnx.softmax(np.array(given, order=order))
            with rnnx.use_engine("reference"):
                expected = rnnx.softmax(given)
        assert found.dtype == dtype
        assert found.flags[f"{order}_CONTIGUOUS"]
        np.testing.assert_allclose(found, expected, ENGINES_TOLERANCE[dtype], 1e-30)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_share_large_operations(dtype, rng):
    """With the same bits; also a product of a dense layer."""
    y, classes = rng.standard_normal((27, 40, 30)).astype(dtype), rng.integers(0, 27, (40, 30))
    lengths, like = rng.integers(0, 31, 40), np.empty(0, dtype)
    parameters = {key: rng.standard_normal(shape).astype(dtype) for key, shape in (("W", (210, 200)), ("b", (9, 1)))}
    gradients, adam = {"d" + key: np.cos(p) for key, p in parameters.items()}, rnnx.Adam()
    state, a = adam.init(parameters), rng.standard_normal((70, 40, 30)).astype(dtype)
    calls = (
        lambda: rnnx.softmax_cross_entropy(y, classes, lengths=lengths),
        lambda: SquaredError()(y, y[::-1], lengths=lengths, weights=np.arange(40.0)),
        lambda: [rnnx.softmax(np.asfortranarray(y))],
        lambda: [Masks((1, 2), 3).kept("_l0", 0.3, (70, 40, 30), like)],
        lambda: [(found := dropped(a.copy(order="K"), Masks((1, 2), 3), "_l0", 0.3))[0], found[1](a)],
        lambda: [d for tree in adam.update(parameters, gradients, state, 3) for d in tree.values()],
        lambda: [rnnx.dense_forward(a, parameters["W"][:, :70], np.ones((210, 1), dtype))],
    )  # fmt: skip
    for call in calls:
        results, jobs = [], thread_pool.pool().mail
        for threads in (1, 3):
            before = int(jobs["next"])
            with use_policy(lambda _, threads=threads: (threads, False)):
                results.append([np.asarray(found).tobytes() for found in call()])
            assert (jobs["next"] > before) == (threads > 1)
        assert results[0] == results[1]
