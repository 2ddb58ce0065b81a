"""Calls whose checks and passes are found again give the same results and the same errors as the first ones."""

import copy
import pickle
import shutil
import subprocess
import sys
import threading
import weakref
from contextlib import nullcontext
from functools import lru_cache, partial
from types import MappingProxyType

import numpy as np
import pytest
from cells_by_hand import TWO_STAGES
from conftest import NO_COMPILER
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import ENGINES_TOLERANCE, TOLERANCE, assert_close

import rnnx
from rnnx import engines
from rnnx._core import kinds
from rnnx.functional import caches, prepared, schedule, signatures, steps

N_X, N_A, M, T = 2, 3, 2, 4
CELLS = ("lstm", "gru_reset_after", "unicornn", "gru_d")  # with two states, vectors computed once, extra inputs


def forget():
    """Forget all earlier calls."""
    signatures._signatures._found.clear()
    prepared._backward._found.clear()
    caches._known._found.clear()
    steps._steps._found.clear()


def forget_steps():
    """Forget all steps and the jobs that they run."""
    from rnnx.engines.cpu.descriptor.forward import ForwardPass

    steps._steps._found.clear()
    ForwardPass.cache_clear()


def arrays_of(cell, rng):
    """Return the valid arguments of a call, float32."""
    cell = rnnx.CELLS[cell]
    parameters = rnnx.initialize_parameters(cell, N_X, N_A, n_y=2, seed=1)
    inputs = {name: np.asarray(rng.random((N_A, M, T)), "float32") for name in cell.inputs}
    return {
        "x": np.asarray(rng.random((N_X, M, T)), "float32"),
        "s0": tuple(np.asarray(rng.random((N_A, M)), "float32") for _ in cell.states),
        "parameters": parameters,
        "inputs": inputs or None,
    }


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def spread(a):
    """Return the array with gaps between its numbers."""
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def unaligned(a):
    memory = np.zeros(a.nbytes + 1, np.uint8)[1:]
    view = memory.view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


# What may be done to an array: some results are valid arguments, others are not.
CHANGES = (
    lambda a: a, np.asfortranarray, read_only, spread, unaligned, lambda a: a[::-1].copy()[::-1], lambda a: a.copy().T,
    *(lambda a, kind=kind: a.astype(kind) for kind in ("float64", "float16", ">f4", "int64", "complex64")),
    lambda a: a[:1], lambda a: a[..., :1], lambda a: a[..., None], lambda a: a.tolist(), lambda a: None,
    lambda a: a.view(np.matrix) if a.ndim == 2 else np.ma.masked_array(a), lambda a: a[..., :0],
)  # fmt: skip


class NoMapping:
    """It has the methods of a dict that a look-up needs, but is not one."""

    def __init__(self, d):
        self.values, self.items, self.keys = d.values, d.items, d.keys

    def __iter__(self):
        return iter(self.keys())


OPTIONS = (
    {}, {"lengths": [4, 2]}, {"lengths": np.array([0, 4])}, {"lengths": [4, 5]}, {"lengths": [4.0, 2.0]},
    {"lengths": [4]}, {"keep_caches": 1}, {"keep_caches": False}, {"keep_caches": np.True_}, {"s0": ()},
    {"s0": [None, None]},
    {"s0": np.zeros((1, N_A, M), "float32")}, {"x": np.array([[0, 1, 1, 0]] * M)}, {"x": np.array([[0, 1, 2, 0]] * M)},
    {"x": np.array([[0, 1, 1, 9]] * M), "lengths": [3, 2]}, {"inputs": []}, {"inputs": {"h": None}},
    {"resets": np.eye(M, T, dtype=bool)}, {"resets": np.eye(M, T)}, {"cell": "lstmm"}, {"cell": ["lstm"]},
)  # fmt: skip


VALID = {
    "options": {}, "change": ("nothing", 0, None), "mapping": dict, "cotangent": None, "final": False, "consume": False,
    "engine": None,
}  # fmt: skip
# Valid calls with one thing changed: all that a key must tell apart, and all that no prepared pass may accept.
CALLS = [
    *({"options": options} for options in OPTIONS),
    *({"change": ("s0", k, lambda a: None)} for k in (0, 1)),
    *({"change": (part, k, f)} for part in ("x", "s0", "inputs") for k in (0, 1) for f in CHANGES),
    *({"change": ("parameters", k, f)} for k in (0, 1, -1) for f in CHANGES),
    *({"mapping": mapping} for mapping in (MappingProxyType, lambda d: list(d.items()), NoMapping)),
    *({"mapping": lambda d, key=key: {k: d[k] for k in d if k != key}} for key in ("Wy", "bf", "bu")),
    {"mapping": lambda d: dict(reversed(d.items()))}, {"mapping": lambda d: {k.lower(): a for k, a in d.items()}},
    *({"cotangent": f, "final": final} for f in CHANGES for final in (False, True)),
    {"consume": True}, {"consume": 0}, {"engine": "reference"},
]  # fmt: skip


def call_of(cell, changes):
    return {"cell": cell, **VALID, **changes}


def made(call):
    """Return the arguments of a call, and its cotangents."""
    rng = np.random.default_rng(0)
    arguments = arrays_of(call["cell"], rng)
    part, k, change = call["change"]
    if isinstance(arguments.get(part), dict):
        names = list(arguments[part])
        arguments[part][names[k % len(names)]] = change(arguments[part][names[k % len(names)]])
    elif part == "s0":
        states = list(arguments["s0"])
        states[k % len(states)] = change(states[k % len(states)])
        arguments["s0"] = tuple(states)
    elif part == "x":
        arguments["x"] = change(arguments["x"])
    arguments["parameters"] = call["mapping"](arguments["parameters"])
    arguments = {"cell": call["cell"], **arguments, **call["options"]}
    da, da_final = np.asarray(rng.random((N_A, M, T)), "float32"), np.asarray(rng.random((N_A, M)), "float32")
    return arguments, [call["cotangent"](da) if call["cotangent"] else da], (da_final,) if call["final"] else ()


def outcome(call):
    """Return the results of a forward and a backward pass as bytes, or the error."""
    arguments, ds, ds_final = made(call)
    found = []
    try:
        with engines.use_engine(call["engine"]) if call["engine"] else nullcontext():
            states, y, caches = rnnx.recurrent_forward(**arguments)
            found += [*states, y, *caches.final_state.values(), caches.engine]
            consume = call["consume"]
            gradients = rnnx.recurrent_backward(arguments["cell"], ds, caches, ds_final=ds_final, consume=consume)
            found += [*gradients, *gradients.values()]
    except Exception as error:
        found += [type(error), str(error)]
    return [(a.dtype, a.shape, a.tobytes()) if isinstance(a, np.ndarray) else a for a in found]


@lru_cache
def alone(cell, k):
    """Return the outcome of a call that no other has come before."""
    forget()
    return outcome(call_of(cell, CALLS[k]))


@pytest.mark.parametrize("cell", CELLS)
def test_a_call_like_an_earlier_one_gives_the_same_result_or_error(cell):
    """After a valid call, every call that differs from it in one thing is treated as it is alone."""
    for k, changes in enumerate(CALLS):
        expected = alone(cell, k)
        forget()
        for earlier in ({}, {"change": ("s0", 0, lambda a: None)}, {}):
            outcome(call_of(cell, earlier))
        for _ in range(2):
            assert outcome(call_of(cell, changes)) == expected, changes


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.sampled_from(CELLS), st.lists(st.integers(0, len(CALLS) - 1), min_size=2, max_size=12))
def test_repeated_calls_in_any_order_give_the_same_results_and_errors(cell, several):
    expected = [alone(cell, k) for k in several]
    forget()
    for _ in range(2):
        assert [outcome(call_of(cell, CALLS[k])) for k in several] == expected


def prepare(monkeypatch):
    """Forget all calls, and fail at every further check of one."""
    rng = np.random.default_rng(0)
    arguments = arrays_of("lstm", rng)
    forget()
    run = lambda **more: rnnx.recurrent_forward("lstm", **{**arguments, **more})  # noqa: E731
    da = np.ones((N_A, M, T), "float32")
    for _ in range(2):
        rnnx.recurrent_backward("lstm", [da], run()[2])
    return arguments, run, da


@pytest.mark.skipif("cpu" not in engines.engines_of("numpy"), reason="no compiled engine")
class TestFound:
    """The checks are not repeated."""

    def test_a_repeated_call_is_not_checked_again(self, monkeypatch):
        arguments_, run, da = prepare(monkeypatch)

        def fail(*_, **__):
            raise AssertionError("checked again")

        monkeypatch.setattr(signatures, "Signature", fail)
        monkeypatch.setattr(prepared.schedule, "resolve", fail)
        for values in (0.5, -2.0):
            x = np.full((N_X, M, T), values, "float32")
            for consume in (False, True):
                rnnx.recurrent_backward("lstm", [da], run(x=x)[2], consume=consume)
            with pytest.raises(AssertionError, match="checked again"):
                run(x=x.astype("float64"))
        assert arguments_["x"].flags.writeable

    def test_no_array_is_kept(self, monkeypatch):
        arguments_, run, da = prepare(monkeypatch)
        arrays = [arguments_["x"], *arguments_["s0"], *arguments_["parameters"].values(), da]
        before = [sys.getrefcount(a) for a in arrays]
        rnnx.recurrent_backward("lstm", [da], run()[2])
        assert [sys.getrefcount(a) for a in arrays] == before

    def test_another_engine_is_chosen_anew(self, monkeypatch):
        _, run, _ = prepare(monkeypatch)
        assert run()[2].engine == "cpu"
        with engines.use_engine("reference"):
            assert run()[2].engine == "reference"
        monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
        assert run()[2].engine == "reference"
        monkeypatch.delenv("NUMBA_DISABLE_JIT")
        engines.register_engine("passing", "rnnx.engines.cpu.engine:ENGINE", ("numpy",))
        try:
            caches = run()[2]
            assert caches.engine == "passing"
            da = np.ones((N_A, M, T), "float32")
            for _ in range(2):
                rnnx.recurrent_backward("lstm", [da], run()[2])
        finally:
            engines.unregister_engine("passing")
        assert run()[2].engine == "cpu"
        with pytest.raises(ValueError, match="'passing' is no longer registered"):
            rnnx.recurrent_backward("lstm", [da], caches)

    def test_consumed_caches_cannot_be_used_again(self, monkeypatch):
        _, run, da = prepare(monkeypatch)
        for _ in range(2):  # checked, and repeated
            caches = run()[2]
            rnnx.recurrent_backward("lstm", [da], caches, consume=True)
            for consume in (False, True):
                with pytest.raises(ValueError, match="already consumed"):
                    rnnx.recurrent_backward("lstm", [da], caches, consume=consume)
            forget()

    def test_the_table_is_bounded(self, monkeypatch):
        forget()
        monkeypatch.setattr("rnnx._core.kinds._MOST", 5)
        p = rnnx.initialize_parameters("rnn", 1, 1, seed=0)
        for n_steps in range(2, 14):
            rnnx.recurrent_forward("rnn", np.ones((1, 1, n_steps), "float32"), (), p)
            assert len(signatures._signatures._found) <= 5

    def test_threads_share_the_tables(self, monkeypatch):
        _, run, da = prepare(monkeypatch)
        expected = run()[0][0].tobytes(), rnnx.recurrent_backward("lstm", [da], run()[2])["dWf"].tobytes()
        wrong = []

        def work(k):
            for i in range(100):
                if k == 0 and i % 10 == 0:
                    forget()
                (a, _), _, caches = run()
                found = a.tobytes(), rnnx.recurrent_backward("lstm", [da], caches)["dWf"].tobytes()
                wrong.extend([] if found == expected else [found])

        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


@pytest.mark.skipif("cpu" not in engines.engines_of("numpy"), reason="no compiled engine")
@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_d"])
@pytest.mark.parametrize("options", [{}, {"lengths": [4, 1]}, {"keep_caches": False}])
def test_addresses_are_the_same_where_objects_cannot_be_read(cell, options, monkeypatch):
    """NumPy's objects are read by compiled code if their layout is known, else by Python."""
    builder = pytest.importorskip("rnnx.engines.cpu.descriptor.builder")
    assert builder.READABLE or sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", bool)()

    def results():
        rng = np.random.default_rng(0)
        given, da = arrays_of(cell, rng), np.asarray(rng.random((N_A, M, T)), "float32")
        given["s0"] = (spread(given["s0"][0]), *given["s0"][1:])
        states, y, caches = rnnx.recurrent_forward(cell, **given, **options)
        found = [*states, y, *caches.final_state.values()]
        if "keep_caches" not in options:
            found += rnnx.recurrent_backward(cell, [da], caches).values()
            caches[0][0]  # makes the arrays of the tape
            found += rnnx.recurrent_backward(cell, [da], caches).values()
            found += rnnx.recurrent_backward(cell, [da[:, :, :2]], caches).values()
        return [(a.shape, a.tobytes()) for a in found]

    expected = results()
    monkeypatch.setattr(builder, "READABLE", not builder.READABLE)
    monkeypatch.setattr(kinds, "_reader", [])
    if builder.READABLE:
        pytest.skip("objects cannot be read")
    assert results() == expected


@pytest.mark.skipif("cpu" not in engines.engines_of("numpy"), reason="no compiled engine")
def test_jobs_that_hold_the_lock_keep_memory_that_is_large_enough(monkeypatch):
    """Another thread may replace the shared memory by less after the template of a job has asked for it."""
    builder = pytest.importorskip("rnnx.engines.cpu.descriptor.builder")
    if not builder.READABLE:
        pytest.skip("objects cannot be read")
    given, sizes, finish = arrays_of("lstm", np.random.default_rng(0)), [], builder.Template.finish

    def finish_and_spy(self, *args, **sizes_of):
        enter = finish(self, *args, **sizes_of)._enter
        self._enter = lambda objects: sizes.append((objects[1].size, self.whole_size)) or enter(objects)
        return self

    monkeypatch.setattr(builder.Template, "finish", finish_and_spy)
    for m in (1, 2):
        forget_steps()
        monkeypatch.setattr(builder, "_held", [np.empty(0, np.uint8)])
        columns = given["x"][:, :m, 0], *[s[:, :m] for s in given["s0"]]
        rnnx.lstm_cell_forward(*columns, given["parameters"])
        builder._held[0] = np.empty(0, np.uint8)
        rnnx.lstm_cell_forward(*columns, given["parameters"])
    assert len(sizes) == 4
    assert all(size >= needed + builder.LINE for size, needed in sizes)


@pytest.mark.skipif("cpu" not in engines.engines_of("numpy"), reason="no compiled engine")
def test_what_python_reads_of_a_method_lives_even_if_two_threads_make_it(monkeypatch):
    objects = pytest.importorskip("rnnx.engines.cpu.runtime.objects")
    if not objects.READABLE:
        pytest.skip("objects cannot be read")
    functions, references, made = objects._functions(), [], []

    class Description(objects._Method):
        def __init__(self, *fields):
            super().__init__(*fields)
            references.append(weakref.ref(self))

    def meanwhile():
        """Make the method as another thread would, after the first one has found that there is none."""
        monkeypatch.setattr(objects, "_functions", lambda: functions)
        made.append(objects._method("kinds"))
        return functions

    for name, value in {"_methods": {}, "_Method": Description, "_functions": meanwhile}.items():
        monkeypatch.setattr(objects, name, value)
    made.append(objects._method("kinds"))
    assert len(references) == 2
    assert all(reference() is not None for reference in references)
    assert len({method((np.ones(2),)) for method in made}) == 1


CLEARED = """
import ctypes, gc
import numpy as np
from rnnx.engines.cpu.runtime import object_cache, objects, thread_pool

method, record = objects._method("kinds"), thread_pool.pool().address
kinds = method((np.ones(2),))
description = ctypes.c_void_p.from_address(id(method) + object.__basicsize__).value
expected = bytes(objects._Method.from_address(description))
records = ctypes.string_at(record, 99)
for module in objects, object_cache, thread_pool:
    vars(module).clear()
gc.collect()
others = [float(i) for i in range(10_000)]  # of the size of a description
assert ctypes.string_at(description, len(expected)) == expected
assert ctypes.string_at(record, 99) == records and method((np.ones(2),)) == kinds
"""


@pytest.mark.skipif("cpu" not in engines.engines_of("numpy"), reason="no compiled engine")
def test_what_methods_and_threads_use_outlives_the_modules():
    """When Python ends, it clears modules one by one; its garbage collector reads what describes methods."""
    objects = pytest.importorskip("rnnx.engines.cpu.runtime.objects")
    if not objects.READABLE:
        pytest.skip("objects cannot be read")
    result = subprocess.run([sys.executable, "-c", CLEARED], capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif("cpu" not in engines.engines_of("numpy"), reason="no compiled engine")
class TestDescriptions:
    """Compiled code describes arrays as Python does."""

    def test_they_tell_the_same_arrays_apart(self):
        read = self.reader()
        wide, tall = np.ones((2, 4), "float32"), np.ones((3, 2, 1), "float64")
        changed = [
            change(a) for a in (wide, tall, np.ones(4, "float32"), np.array(1.0)) for change in CHANGES if a.ndim
        ]
        arrays = [a for a in changed if type(a) is np.ndarray]
        arrays += [np.empty((0, 3)), np.array(1.0), np.ones((2, 4), bool), np.ones((2, 4), "longdouble")]
        described, expected = [read((a,)) for a in arrays], [kinds._in_memory(a) for a in arrays]
        assert all(described)
        for i, one in enumerate(expected):
            assert [other == described[i] for other in described] == [other == one for other in expected]
        assert read(tuple(arrays)) == b"".join(described)
        assert read(arrays) == read(()) == b""  # not a tuple

    @pytest.mark.parametrize(
        "other",
        [[1.0], None, 1, "a", np.float32(1), np.ma.masked_array([1.0]), np.ones, np.ndarray],
    )
    def test_nothing_else_is_described(self, other):
        assert self.reader()((np.ones(2), other)) == b""

    @pytest.mark.parametrize("dtype", [object, "U3", "S2", "M8[s]", "m8[s]", [("a", "f4")]])
    def test_dtypes_with_parameters_are_left_to_python(self, dtype):
        assert self.reader()((np.ones(2), np.zeros(2, dtype))) == b""
        assert kinds.kinds((np.zeros(2, dtype),)) == (kinds._in_memory(np.zeros(2, dtype)),)

    def test_arrays_are_not_kept(self):
        arrays = np.ones(2), np.ones((2, 3), "float32")
        before = [*map(sys.getrefcount, arrays)]
        for _ in range(10):
            self.reader()(arrays)
        assert [*map(sys.getrefcount, arrays)] == before

    @staticmethod
    def reader():
        read = pytest.importorskip("rnnx.engines.cpu.runtime.objects").kinds_reader()
        return read or pytest.skip("objects cannot be read")


@pytest.mark.skipif("cpu" not in engines.engines_of("numpy"), reason="no compiled engine")
@pytest.mark.parametrize("cell", ["lstm", "mgu"])
@pytest.mark.parametrize("final", [False, True])
def test_views_that_are_no_fields_of_a_record_are_the_same(cell, final, monkeypatch):
    """Records are smaller than 2 GB, and have no gaps between the rows of a field."""
    layout = pytest.importorskip("rnnx.engines.cpu.descriptor.layout")
    plans = pytest.importorskip("rnnx.engines.cpu.plans")

    def results():
        forget()
        for cached in (plans.ForwardPlan, plans.BackwardPlan, plans.ForwardPass, plans.BackwardPass):
            cached.cache_clear()
        rng = np.random.default_rng(0)
        given, da = arrays_of(cell, rng), np.asarray(rng.random((N_A, M, T)), "float32")
        ds_final = [np.asarray(rng.random((M, N_A)), "float32").T] if final else []
        states, _, caches = rnnx.recurrent_forward(cell, **given)
        found = [*states, *rnnx.recurrent_backward(cell, [da], caches, ds_final=ds_final).values()]
        states, _, caches = rnnx.recurrent_forward(cell, **given, keep_caches=False)
        found += [*states, *caches.final_state.values()]
        assert all(a.flags.writeable and a.flags.aligned for a in found)
        return [(a.shape, a.strides, a.dtype, a.tobytes()) for a in found]

    expected = results()
    monkeypatch.setattr(layout, "_LARGEST_RECORD", 0)
    assert results() == expected


@pytest.mark.parametrize("keep", [True, False])
def test_what_is_returned_belongs_to_the_caller(keep):
    """Writing to results and arguments changes neither the caches nor later calls."""
    rng = np.random.default_rng(0)
    arguments_, da = arrays_of("lstm", rng), np.ones((N_A, M, T), "float32")

    def run(spoil):
        given = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in arguments_.items()}
        given["parameters"] = {k: a.copy() for k, a in arguments_["parameters"].items()}
        states, _, caches = rnnx.recurrent_forward("lstm", **given, keep_caches=keep)
        found = [s.copy() for s in states]
        if spoil:
            for a in (*states, given["x"], *given["parameters"].values()):
                a[...] = np.nan
        found += caches.final_state.values()
        if spoil:
            for a in caches.final_state.values():
                a[...] = np.nan
        found += caches.final_state.values()
        if keep:
            found += rnnx.recurrent_backward("lstm", [da], caches).values()
        return found

    for spoil in (True, False, True):
        for a, b in zip(run(spoil), run(False), strict=True):
            np.testing.assert_array_equal(a, b)


def step(cell, given):
    """Return all that the functions of one step return for these arguments."""
    name = cell.removesuffix("_reset_after")
    forward, backward = (getattr(rnnx, f"{name}_cell_{way}") for way in ("forward", "backward"))
    options = {"reset_after": True} if name != cell else {}
    s0 = given["s0"]
    *states, y, cache = forward(given["x"][:, :, 0], *s0, given["parameters"], **options)
    again = partial(backward, *[np.ones_like(s) for s in s0], cache, **options)
    return [*states, y, *cache[:-1]], again(), cache, again


@pytest.mark.parametrize("engine", ["reference", "cpu"])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "gru_reset_after"])
def test_single_steps(cell, engine, rng, monkeypatch):
    """A second step neither checks again nor makes a tape; its bits are those of a sequence of one step."""
    given = arrays_of(cell, rng)
    with rnnx.use_engine(engine):
        (found, gradients, *_), x = step(cell, given), given["x"][:, :, :1]
        monkeypatch.setattr(schedule, "forward", None)
        monkeypatch.setattr(caches, "_checked", None)
        monkeypatch.setattr(steps, "checked_backward", None if engine == "cpu" else steps.checked_backward)
        again = step(cell, given)
        monkeypatch.undo()
        states, y, kept = rnnx.recurrent_forward(cell, x, given["s0"], given["parameters"])
        final = [np.ones_like(s) for s in given["s0"]]
        expected = rnnx.recurrent_backward(cell, (), kept, ds_final=final)
    of_sequence = [*[s[:, :, 0] for s in states], y[:, :, 0], *kept[0][0][:-1]]
    for a, b, c in zip(found, again[0], of_sequence, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
        assert a.strides == b.strides
    for (name, d), other in zip(gradients.items(), expected.values(), strict=True):
        np.testing.assert_array_equal(d, again[1][name])
        np.testing.assert_array_equal(d.reshape(other.shape), other)


@pytest.mark.parametrize("m", [1, 2])
def test_gradients_of_a_step_whose_joint_and_other_weights_are_one_block(m, rng):
    x, before = rng.random((N_X, m)), {f"{s}_prev": rng.random((N_A, m)) for s in TWO_STAGES.states}
    parameters = rnnx.initialize_parameters(TWO_STAGES, N_X, N_A, seed=1, dtype="float64")
    ds = {f"d{s}_next": rng.random((N_A, m)) for s in TWO_STAGES.states}
    found = {}
    for engine in ("cpu", "reference"):
        with rnnx.use_engine(engine):
            *_, cache = steps.step_forward(TWO_STAGES, x, before, parameters)
            found[engine] = steps.step_backward(TWO_STAGES, ds, cache)
    for name, expected in found["reference"].items():
        assert_close(found["cpu"][name], expected, TOLERANCE["oracle"])


def test_the_cache_of_a_step_is_a_tuple_that_can_be_copied(rng):
    *_, cache, backward = step("lstm", arrays_of("lstm", rng))
    plain = rnnx.lstm_cell_backward(np.ones_like(cache[0]), np.ones_like(cache[0]), tuple(cache))
    for other in (cache, copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert isinstance(other, tuple)
        found = rnnx.lstm_cell_backward(np.ones_like(cache[0]), np.ones_like(cache[0]), other)
        for name, d in plain.items():
            np.testing.assert_allclose(d, found[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert backward().keys() == plain.keys()


def in_place(parameters, xt):
    for value in (*parameters.values(), xt):
        value *= 1.5


def others(parameters, _):
    parameters |= {name: 1.5 * value for name, value in parameters.items()}


def of_another_dtype(parameters, _):
    parameters |= {name: 1.5 * value.astype("float64") for name, value in parameters.items()}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
@pytest.mark.parametrize("change", [in_place, others, of_another_dtype])
def test_caches_of_steps_refer_to_the_parameters(cell, order, change, rng):
    """A program may keep the caches of many steps."""
    given = arrays_of(cell, rng)
    given["x"], parameters = np.array(given["x"], order=order), given["parameters"]
    parameters |= {name: np.array(value, order=order) for name, value in parameters.items()}
    with rnnx.use_engine("cpu"):
        *_, cache, backward = step(cell, given)
        size = sum(a.nbytes for a in cache[:-1]) + sum(s.nbytes for s in given["s0"])
        assert cache.own[1].nbytes <= size + 64 * 2 * len(cache)  # of cache lines
        backward()
        change(parameters, cache[-2])
        found, expected = backward(), step_of_tuple(cell, cache)
        for name, d in expected.items():
            assert found[name].dtype == d.dtype
            assert_close(found[name], d, TOLERANCE["float32"], name)
        del parameters["Wax" if cell == "rnn" else "Wf"]
        with pytest.raises(ValueError, match="missing"):
            backward()


def step_of_tuple(cell, cache):
    """Return the gradients for a cache tuple that a learner has built."""
    ones = [np.ones_like(cache[0])] * (2 if cell == "lstm" else 1)
    return getattr(rnnx, f"{cell}_cell_backward")(*ones, tuple(cache))


def gru_step_back(da, cache):
    """Return the gradients of a step of the GRU from the values of its cache tuple alone."""
    _, a, u, r, cc, x, p = cache
    n = a.shape[0]
    dc, du = da * u * (1 - cc * cc), da * (cc - a) * u * (1 - u)
    dra = p["Wc"][:, :n].T @ dc
    dr = dra * a * r * (1 - r)
    pairs = {"u": (du, a), "r": (dr, a), "c": (dc, r * a)}
    gradients = {f"dW{gate}": dz @ np.concatenate([h, x]).T for gate, (dz, h) in pairs.items()}
    gradients |= {f"db{gate}": dz.sum(axis=1, keepdims=True) for gate, (dz, _) in pairs.items()}
    gradients["dxt"] = sum(p[f"W{gate}"][:, n:].T @ dz for gate, (dz, _) in pairs.items())
    gradients["da_prev"] = da * (1 - u) + dra * r + sum(p[f"W{gate}"][:, :n].T @ pairs[gate][0] for gate in "ur")
    return gradients


@pytest.mark.parametrize("engine", ["reference", "cpu", "emulated"])
@pytest.mark.parametrize("copied", [False, True])
def test_a_step_of_the_gru_back_reads_its_tuple(engine, copied, rng):
    """Its tuple holds no r a_prev, which is that of the forward step, whatever has become of xt and the parameters."""
    if engine == "emulated" and not shutil.which("g++"):
        pytest.skip(NO_COMPILER)
    given = arrays_of("gru", rng)
    with rnnx.use_engine(engine):
        *_, cache = rnnx.gru_cell_forward(given["x"][:, :, 0], *given["s0"], given["parameters"])
        in_place(given["parameters"], cache[-2])
        da = rng.standard_normal((N_A, M)).astype("float32")
        found = rnnx.gru_cell_backward(da, tuple(cache) if copied else cache)
    expected = gru_step_back(da, cache)
    assert found.keys() == expected.keys()
    for name, d in expected.items():
        assert_close(found[name], d, ENGINES_TOLERANCE["float32"], name)


def test_wrong_cotangents_of_a_step(rng):
    """After right ones of a step like it, too."""
    *_, cache, backward = step("lstm", given := arrays_of("lstm", rng))
    for _ in range(2):
        for wrong in (np.ones((N_A, M + 1), "float32"), np.ones(N_A, "float32")):
            with pytest.raises(ValueError, match="`dc_next` must have shape"):
                rnnx.lstm_cell_backward(np.ones_like(given["s0"][0]), wrong, cache)
        backward()
    wide = rnnx.lstm_cell_backward(np.ones((N_A, M)), np.ones((N_A, M)), cache)
    assert {d.dtype for d in wide.values()} == {np.dtype("float64")}


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_what_a_step_returns_belongs_to_the_caller(cell, rng):
    given = arrays_of(cell, rng)
    (*_, gradients, cache, backward), n = step(cell, given), len(given["s0"])
    expected = {name: d.copy() for name, d in gradients.items()}
    states = step(cell, given)[0][:n]
    for a in (*states, *given["s0"], *gradients.values()):
        a[...] = np.nan
    for name, d in backward().items():
        np.testing.assert_array_equal(d, expected[name])
    assert np.isfinite(cache[0]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n_x", "n_a", "m"), [(27, 50, 1), (27, 50, 3), (100, 401, 33)])
def test_outputs_of_a_step(n_x, n_a, m, dtype, rng):
    """Those of small layers are part of the step; a large one runs as in a sequence."""
    p = rnnx.initialize_parameters("rnn", n_x, n_a, n_x, rng=0, dtype=dtype)
    x, a0 = rng.standard_normal((n_x, m, 1)).astype(dtype), rng.standard_normal((n_a, m)).astype(dtype)
    with rnnx.use_engine("cpu"):
        for _ in range(2):
            a, y, _ = rnnx.rnn_cell_forward(x[:, :, 0], a0, p)
        _, expected, _ = rnnx.rnn_forward(x, a0, p)
    assert_close(y, expected[:, :, 0], ENGINES_TOLERANCE[dtype])
    y[...] = np.nan  # it belongs to the caller
    assert np.isfinite(a).all()


@pytest.mark.parametrize("arranged", [np.ascontiguousarray, np.asfortranarray, spread, unaligned])
def test_cotangents_of_a_step_in_any_memory_order(arranged, rng):
    *_, cache, _ = step("lstm", arrays_of("lstm", rng))
    da, dc = (rng.standard_normal((N_A, M)).astype("float32") for _ in range(2))
    expected = rnnx.lstm_cell_backward(da, dc, tuple(cache))
    for _ in range(2):
        found = rnnx.lstm_cell_backward(arranged(da), arranged(dc), cache)
        for name, d in expected.items():
            assert_close(found[name], d, ENGINES_TOLERANCE["float32"], name)
