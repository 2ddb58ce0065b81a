"""What a call of the GPU engine asks of the driver, and what a CUDA graph reads and writes then.

Driver calls are counted, and CuPy's arrays used, on a fake of CuPy; deferred work is emulated on NumPy arrays.
"""

import dataclasses
import itertools
import shutil
import weakref

import fake_cupy
import numpy as np
import pytest
from cells_by_hand import ONE_SIDED
from conftest import NO_COMPILER
from fake_cupy import FakeCupy, FakeStream, download, upload
from problems import assert_close, make_problem, run

import rnnx
from rnnx._core import arrays as ns
from rnnx.cells import BUILT_IN
from rnnx.engines.gpu import graphs, sending
from rnnx.engines.gpu.device import ALIGNMENT
from rnnx.functional import arguments, signatures

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason=NO_COMPILER)
LSTM = rnnx.CELLS["lstm"]


def names(result):
    return {name: np.array(array) for name, array in result.items()}


# --- driver calls, on a fake CuPy ---------------------------------------------------------------------------------


@pytest.fixture(params=["0", "1"], ids=["steps", "persistent"])
def device(monkeypatch, request):
    pytest.importorskip("cupy", reason="no CuPy")
    monkeypatch.setenv("RNNX_CUDA_PERSISTENT", request.param)
    fake_cupy.install(monkeypatch)
    with FakeStream(5):
        yield request.param == "1"


def on_device(problem, order="C"):
    """The arguments of a problem as CuPy arrays."""
    lists = {name: [upload(a, order) for a in getattr(problem, name)] for name in ("s0", "dstates", "dfinal")}
    dicts = {name: {key: upload(a) for key, a in getattr(problem, name).items()} for name in ("parameters", "extra")}
    return dataclasses.replace(problem, x=upload(problem.x, order), **lists, **dicts)


def counted(work):
    """What work returns, and the driver calls it made."""
    FakeCupy.calls.clear()
    result = work()
    return result, dict(FakeCupy.calls)


ONE_LAUNCH = {"streamIsCapturing": 1, "launchKernel": 1, "graphLaunch": 1}


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("cell", [*BUILT_IN.values(), *ONE_SIDED[:2]], ids=lambda cell: cell.name)
def test_a_pass_is_three_driver_calls(device, cell, lengths, rng, monkeypatch):
    """The state of the stream, the call's numbers, and one graph; and the results are right.

    Two captured passes take turns, because the caches of one are in use during the next forward pass.
    """
    problem = make_problem(cell, rng, 3, 4, 2, 3).astype("float32")
    ends = [3, 1] if lengths else None
    with rnnx.use_engine("reference"):
        states, _, caches = rnnx.recurrent_forward(
            cell, problem.x, problem.s0, problem.parameters, inputs=problem.extra, lengths=ends
        )
        expected = rnnx.recurrent_backward(cell, problem.dstates, caches, ds_final=problem.dfinal)
    given = on_device(problem)
    # CuPy would launch a kernel to convert the caller's lengths.
    monkeypatch.setattr(signatures, "check_lengths", lambda xp, device, lengths, m, n_steps: lengths)
    own = None if ends is None else upload(np.array(ends))
    for turn in range(6):
        (found, _, caches), forward = counted(
            lambda: rnnx.recurrent_forward(cell, given.x, given.s0, given.parameters, inputs=given.extra, lengths=own)
        )
        gradients, backward = counted(
            lambda caches=caches: rnnx.recurrent_backward(cell, given.dstates, caches, ds_final=given.dfinal)
        )
        assert list(gradients) == list(expected)
        for name, array in expected.items():
            assert_close(download(gradients[name]), array, 1e-4, name)
        for state, want in zip(found, states, strict=True):
            assert_close(download(state), want, 1e-4)
        if turn >= 4:
            assert (forward, backward) == (ONE_LAUNCH, ONE_LAUNCH)


def test_inference_is_three_driver_calls(device, rng):
    problem = make_problem(LSTM, rng, 3, 4, 2, 3).astype("float32")
    given = on_device(problem, "F")
    with rnnx.use_engine("reference"):
        states, _, _ = rnnx.recurrent_forward(LSTM, problem.x, problem.s0, problem.parameters)
    for turn in range(4):
        (found, _, caches), calls = counted(
            lambda: rnnx.recurrent_forward(LSTM, given.x, given.s0, given.parameters, keep_caches=False)
        )
        for state, want in zip(found, states, strict=True):
            assert_close(download(state), want, 1e-5)
        assert_close(download(caches._tape.states[1])[0].T, states[1][:, :, -1], 1e-5)
        if turn >= 2:
            assert calls == ONE_LAUNCH


def test_streams_and_orders_of_memory_share_no_numbers(device, rng):
    """Calls on two streams, with arrays of both orders, in turn."""
    problems = [make_problem(LSTM, rng, 3, 4, 2, 3).astype("float32") for _ in range(2)]
    given = [on_device(problem, order) for problem, order in zip(problems, "CF", strict=True)]
    with rnnx.use_engine("reference"):
        expected = [run(problem)[0] for problem in problems]
    for _ in range(4):
        for ptr, turn in itertools.product((5, 9), range(2)):
            with FakeStream(ptr):
                one = given[turn]
                _, _, caches = rnnx.recurrent_forward(LSTM, one.x, one.s0, one.parameters)
                found = rnnx.recurrent_backward(LSTM, one.dstates, caches, ds_final=one.dfinal)
            for name, array in found.items():
                assert_close(download(array), expected[turn][name], 1e-4, name)
    assert {ptr for _, ptr in FakeCupy.log} == {5, 9}


def test_a_pass_in_the_callers_capture(device, rng):
    """An error, unless the caller has asked for it: then it computes nothing, and the caller's graph all of it."""
    problem = make_problem(LSTM, rng, 3, 4, 2, 3).astype("float32")
    given = on_device(problem)
    with rnnx.use_engine("reference"):
        expected = run(problem)[0]

    def step():
        _, _, caches = rnnx.recurrent_forward(LSTM, given.x, given.s0, given.parameters)
        return caches, rnnx.recurrent_backward(LSTM, given.dstates, caches, ds_final=given.dfinal)

    for _ in range(3):
        step()
    stream, made, alloc = FakeStream(5), [], FakeCupy.cuda.alloc
    with stream, pytest.MonkeyPatch.context() as patch:
        stream.begin_capture()
        with pytest.raises(RuntimeError, match="called during stream capture; rnnx captures its own passes"):
            step()
        patch.setattr(FakeCupy.cuda, "alloc", lambda size: made.append(alloc(size)) or made[-1])  # kept alive
        FakeCupy.calls.clear()
        with graphs.part_of_capture():
            _, found = step()
        graph = stream.end_capture()
    assert not {*FakeCupy.calls} - {"streamIsCapturing"}
    for scale in (1, 2):
        download(given.x)[...] = scale * problem.x
        for d in given.dstates + given.dfinal:
            download(d)[...] *= 2 if scale == 2 else 1
        graph.launch()
        if scale == 1:
            for name, array in found.items():
                assert_close(download(array), expected[name], 1e-4, name)
    problem.x, problem.dstates = 2 * problem.x, [2 * d for d in problem.dstates]
    problem.dfinal = [2 * d for d in problem.dfinal]
    with rnnx.use_engine("reference"):
        expected = run(problem)[0]
    for name, array in found.items():
        assert_close(download(array), expected[name], 1e-4, name)
    step()  # outside of the capture, as before


def test_any_count_of_numbers(device, rng):
    from rnnx.engines.gpu import cupy_device

    count = 2 * sending.SIZES[-1] + 7
    for n in (1, *sending.SIZES, sending.SIZES[0] + 1, count):
        numbers, target = rng.integers(-(2**62), 2**62, n), upload(np.zeros(count, np.int64))
        with cupy_device.stream_of(target) as stream:
            stream.send([int(number) for number in numbers], target.data.ptr)
        np.testing.assert_array_equal(download(target)[:n], numbers)
        assert not download(target)[n:].any()


def test_arrays_of_saved_values_are_made_when_they_are_needed(device, rng):
    """Not for the backward pass of a captured one. Copies of caches hold arrays, not the memory of the pass."""
    given = on_device(make_problem(LSTM, rng, 3, 4, 2, 3).astype("float32"))
    for _ in range(4):
        _, _, caches = rnnx.recurrent_forward(LSTM, given.x, given.s0, given.parameters)
    saved = caches._tape.saved
    found = rnnx.recurrent_backward(LSTM, given.dstates, caches, ds_final=given.dfinal)
    assert "_arrays" not in vars(saved)
    assert len(saved) == len([*saved]) == len(LSTM.saved)
    assert download(saved[0]).shape == (3, 2, 4)
    kind, (arrays,) = saved.__reduce__()
    assert all(a is b for a, b in zip(kind(arrays), saved, strict=True))
    assert set(found) > {"dx", "dWf"}


@pytest.mark.parametrize("lengths", [None, "int64", "int32"])
@pytest.mark.parametrize("kind", ["int64", None])
def test_indices_and_lengths_on_the_device_are_read_there(device, kind, lengths, rng, monkeypatch):
    """Three driver calls, without any of CuPy; the caller may change its arrays after the forward pass.

    Other dtypes than int64 are converted first.
    """
    problem = make_problem(LSTM, rng, 3, 4, 3, 5).astype("float32")
    problem.x = rng.integers(0, 3, (3, 5)) if kind else problem.x
    ends, converted = ([5, 0, 2] if lengths else None), []
    with rnnx.use_engine("reference"):
        problem.lengths = ends
        expected = run(problem)[0]
    given, own = on_device(problem), None if ends is None else upload(np.array(ends, lengths))
    if kind and ends:  # past an example's end, indices do not count
        download(given.x)[1] = 99
        download(given.x)[2, 2:] = -5

    def converts(_xp, array):
        converted.append(1)
        return upload(download(array).astype(np.int64))

    monkeypatch.setattr(ns, "as_index", converts)
    for module in (signatures, arguments):
        monkeypatch.setattr(module, "copied_indices", lambda xp, x, ends: converts(xp, x))
    for turn in range(6):
        converted.clear()
        x, ends = (upload(download(a)) if a is not None and a.dtype == np.int64 else a for a in (given.x, own))
        (states, _, caches), forward = counted(
            lambda x=x, ends=ends: rnnx.recurrent_forward(LSTM, x, given.s0, given.parameters, lengths=ends)
        )
        for array in (x, ends):
            if array is not None and array.dtype == np.int64:
                download(array)[...] = 1
        found, backward = counted(
            lambda caches=caches: rnnx.recurrent_backward(LSTM, given.dstates, caches, ds_final=given.dfinal)
        )
        for name, array in {**found, **dict(zip(LSTM.states, states, strict=True))}.items():
            assert_close(download(array), expected[name], 1e-4, name)
        assert turn < 4 or (forward, backward) == (ONE_LAUNCH, ONE_LAUNCH)
        assert turn < 1 or len(converted) == (lengths == "int32")


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_a_repeated_call_makes_no_arrays_but_its_results(device, keep, zero, rng, monkeypatch):
    """It is found again, whatever the order of its arrays in memory; the tape makes its arrays when one is used."""
    from rnnx.engines.gpu.cupy_device import CupyStream

    problem = make_problem(LSTM, rng, 3, 4, 2, 3).astype("float32")
    if zero:  # the first call makes an array of them
        problem.s0 = [problem.s0[0], np.zeros_like(problem.s0[1])]
        cupy = pytest.importorskip("cupy")
        monkeypatch.setattr(cupy, "zeros", lambda shape, dtype, **_: upload(np.zeros(shape, dtype)))
    orders, made, array = [on_device(problem, order) for order in "CF"], [], CupyStream.array
    with rnnx.use_engine("reference"):
        expected = run(problem)[0]
    monkeypatch.setattr(CupyStream, "array", lambda *arguments: made.append(1) or array(*arguments))
    for turn in range(6):
        one = orders[turn % 2]
        s0 = [one.s0[0], None] if zero else one.s0
        made.clear()
        states, _, caches = rnnx.recurrent_forward(LSTM, one.x, s0, one.parameters, keep_caches=keep)
        assert turn < 2 or len(made) == 2
        made.clear()
        if keep:
            found = rnnx.recurrent_backward(LSTM, one.dstates, caches, ds_final=one.dfinal, consume=turn > 3)
            assert turn < 2 or len(made) == len(found)
            for name, gradient in found.items():
                assert_close(download(gradient), expected[name], 1e-4, name)
        if turn < 4:
            for name, state in zip(LSTM.states, caches._tape.final, strict=True):
                assert_close(download(state).T, expected[f"final {name}"], 1e-5)
        for name, state in zip(LSTM.states, states, strict=True):
            assert_close(download(state), expected[name], 1e-5)


# --- what a graph reads, in the emulator --------------------------------------------------------------------------


@pytest.fixture
def stream(monkeypatch):
    import emulated_engine

    stream = emulated_engine.EmulatedStream()
    monkeypatch.setattr(emulated_engine, "stream", stream)
    with rnnx.use_engine("emulated"):
        yield stream


def sent_by(stream, problem, monkeypatch):
    """The numbers that a call sends, forward and backward, when it replays graphs."""
    for _ in range(3):
        run(problem)
    sent, send = [], stream.send
    with monkeypatch.context() as patch:
        patch.setattr(stream, "send", lambda numbers, address: sent.append([*numbers]) or send(numbers, address))
        expected = names(run(problem)[0])
    assert stream.log[-2:] == ["send", "graph"]
    return sent, expected


def test_every_number_is_read(stream, rng, monkeypatch):
    """Numbers of another array of the same shape give other results, whichever it is."""
    problem = make_problem(LSTM, rng, 4, 4, 3, 5, lengths=[5, 0, 2])
    # The numbers of the four weight matrices, the four biases, and the two states, or cotangents, follow one another.
    sent, expected = sent_by(stream, problem, monkeypatch)
    send = stream.send
    places = {number: i for numbers in sent for i, number in enumerate(numbers)}
    arrays = [*problem.parameters.values(), *problem.s0, *problem.dstates, *problem.dfinal]
    by_shape = {}
    for array in arrays:
        if array.ctypes.data in places:
            by_shape.setdefault((array.shape, array.ctypes.data in sent[0]), []).append(array.ctypes.data)
    pairs = [pair for same in by_shape.values() for pair in itertools.pairwise(same)]
    assert len(pairs) >= 9
    for pair in pairs:
        swapped = dict(zip(pair, pair[::-1], strict=True))

        def wrong(numbers, address, swapped=swapped):
            send([swapped.get(number, number) for number in numbers], address)

        with monkeypatch.context() as patch:
            patch.setattr(stream, "send", wrong)
            actual = names(run(problem)[0])
        assert any(not np.array_equal(actual[name], expected[name], equal_nan=True) for name in expected), pair


def test_numbers_of_an_earlier_call_give_its_results(stream, rng, monkeypatch):
    """A call that sends nothing, or what another one has sent, is noticed."""
    problem, other = (make_problem(LSTM, rng, 3, 4, 2, 3) for _ in range(2))
    sent, _ = sent_by(stream, problem, monkeypatch)
    with rnnx.use_engine("reference"):
        expected = run(other)[0]

    def forward():
        states, _, _ = rnnx.recurrent_forward(LSTM, other.x, other.s0, other.parameters)
        return states[0]

    send = stream.send
    wrong = [lambda numbers, address: send(sent[0][:-1] + numbers[-1:], address), lambda numbers, address: None]
    for one in wrong:
        with monkeypatch.context() as patch:
            patch.setattr(stream, "send", one)
            assert not np.allclose(forward(), expected["a"])
    assert_close(forward(), expected["a"], 1e-13)


def deferred(base):
    """An emulated stream that computes when it is told to, and whose freed memory becomes NaN in stream order."""

    class Deferred(base):
        def __init__(self):
            super().__init__()
            self.queue = []

        def _do(self, name, work):
            self.log.append(name)
            (self.queue if self.captured is None else self.captured).append(work)

        def capture(self, work):
            replay = super().capture(work)
            return lambda: self.queue.append(replay)

        def allocate(self, size):
            whole = bytearray(b"\xff" * (size + ALIGNMENT))
            memory = np.frombuffer(whole, np.uint8)
            weakref.finalize(memory, lambda: self.queue.append(lambda: np.frombuffer(whole, np.uint8).fill(0xFF)))
            return memory

        def flush(self):
            while self.queue:
                self.queue.pop(0)()

        def upload(self, array):
            return self._filled(self.array(self.allocate(max(array.nbytes, 1)), 0, array.shape, array.dtype), array)

        def _filled(self, target, array):
            target[...] = array
            return target

    return Deferred()


@pytest.mark.parametrize("lengths", [None, [5, 0, 2]])
@pytest.mark.parametrize("cell", [LSTM, rnnx.CELLS["gru"], ONE_SIDED[0]], ids=lambda cell: cell.name)
def test_many_calls_in_flight(monkeypatch, cell, lengths, rng):
    """Calls return before anything has been computed; then their arguments and caches are freed at once."""
    import emulated_engine

    problems = [make_problem(cell, rng, 4, 4, 3, 5, lengths=lengths) for _ in range(6)]
    with rnnx.use_engine("reference"):
        expected = [run(problem)[0] for problem in problems]
    stream = deferred(emulated_engine.EmulatedStream)
    monkeypatch.setattr(emulated_engine, "stream", stream)
    with rnnx.use_engine("emulated"):
        kept, found = [], []
        for turn, problem in enumerate(problems):
            x, s0 = stream.upload(problem.x), [*map(stream.upload, problem.s0)]
            weights = {key: stream.upload(p) for key, p in problem.parameters.items()}
            extra = {key: stream.upload(e) for key, e in problem.extra.items()}
            _, _, caches = rnnx.recurrent_forward(cell, x, s0, weights, lengths=lengths, inputs=extra)
            kept.append(caches)
            del x, s0, weights, extra
            if turn % 2:  # two forward passes, then two backward passes: several captured passes at once
                for caches, one in zip(kept, problems[turn - 1 : turn + 1], strict=True):
                    ds, final = [*map(stream.upload, one.dstates)], [*map(stream.upload, one.dfinal)]
                    found.append(rnnx.recurrent_backward(cell, ds, caches, ds_final=final))
                    del ds, final
                kept.clear()
            del caches
        assert "graph" not in stream.log
        stream.flush()
    assert stream.log.count("graph") >= 4
    assert len(list(stream.graphs)) >= 2
    for gradients, want in zip(found, expected, strict=True):
        for name, array in gradients.items():
            assert_close(array, want[name], 1e-12, name)
