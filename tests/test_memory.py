"""The buffer pool: memory that is still in use is never handed out again."""

import threading

import numpy as np
import pytest

import rnnx
from rnnx.engines.cpu.runtime import buffer_pool

pytestmark = pytest.mark.skipif(not buffer_pool._COUNTS, reason="this interpreter does not count references")


@pytest.fixture(autouse=True)
def empty_pool(monkeypatch):
    monkeypatch.setattr(buffer_pool, "_buffers", [])


def address(a):
    return a.__array_interface__["data"][0]


def test_a_buffer_is_reused_only_when_nobody_refers_to_it():
    first = buffer_pool.empty((400, 100), np.float32)
    place = address(first)
    assert address(buffer_pool.empty((400, 100), np.float32)) != place
    view = first.T[3:]  # a view of a view refers to it, too
    del first
    assert address(buffer_pool.empty((400, 100), np.float32)) != place
    memory = memoryview(view)
    del view
    assert address(buffer_pool.empty((400, 100), np.float32)) != place
    del memory
    again = [buffer_pool.empty((200, 100), np.float64) for _ in range(4)]
    assert place in map(address, again)
    assert all(a.flags.c_contiguous and a.flags.writeable and a.flags.aligned for a in again)
    assert len({address(a) for a in again}) == 4


def test_the_pool_is_bounded(monkeypatch):
    monkeypatch.setattr(buffer_pool, "_KEPT", 1 << 20)
    held = [buffer_pool.empty((1 << 18,), np.uint8) for _ in range(9)]
    assert sum(b.nbytes for b in buffer_pool._buffers) <= 1 << 20
    assert len({address(a) for a in held}) == 9
    last = address(buffer_pool._buffers[-1])
    del held
    buffer_pool.empty((1 << 19,), np.uint8)
    assert sum(b.nbytes for b in buffer_pool._buffers) <= 1 << 20
    assert last in map(address, buffer_pool._buffers)  # those used least recently are freed first


def test_buffers_of_large_passes_are_reused():
    """The block and the workspace of a float64 LSTM with 64 examples and 256 units, 100 steps, and a larger block."""
    sizes = 88 << 20, 69 << 20, 136 << 20
    places = [address(buffer_pool.empty((size,), np.uint8)) for size in sizes]
    assert [address(buffer_pool.empty((size,), np.uint8)) for size in sizes] == places


def test_small_and_huge_arrays_are_not_kept():
    for shape in ((10,), (0, 5), (buffer_pool._LARGEST + 1,)):
        assert buffer_pool.empty(shape, np.uint8).shape == shape
    assert buffer_pool._buffers == []


def test_nothing_grows_over_many_steps(rng):
    p = rnnx.initialize_parameters("lstm", 20, 40, seed=0)
    x = rng.standard_normal((20, 16, 30)).astype("float32")
    counts = []
    for _ in range(30):
        a, _, _, caches = rnnx.lstm_forward(x, None, p)
        rnnx.lstm_backward(a, caches)
        counts.append(len(buffer_pool._buffers))
    assert counts[3] == counts[-1] > 0


def test_two_forwards_before_a_backward(rng):
    """Live caches are never overwritten by later calls."""
    p = rnnx.initialize_parameters("gru", 20, 40, seed=0)
    xs = [rng.standard_normal((20, 16, 30)).astype("float32") for _ in range(4)]
    with rnnx.use_engine("cpu"):
        alone = []
        for x in xs:
            a, _, caches = rnnx.gru_forward(x, None, p)
            alone.append(rnnx.gru_backward(np.ones_like(a), caches))
        together = [rnnx.gru_forward(x, None, p) for x in xs]
        inference = [rnnx.gru_forward(x, None, p, keep_caches=False)[0] for x in xs]
        for (a, _, caches), expected, states in zip(together, alone, inference, strict=True):
            np.testing.assert_array_equal(a, states)
            for key, gradient in rnnx.gru_backward(np.ones_like(a), caches).items():
                np.testing.assert_array_equal(gradient, expected[key])


def test_a_finalizer_may_allocate_while_its_thread_changes_the_pool(monkeypatch):
    take, results = buffer_pool._take, []

    def interrupted(size):
        results.append(buffer_pool.empty((1 << 17,), np.uint8))
        return take(size)

    monkeypatch.setattr(buffer_pool, "_take", interrupted)
    thread = threading.Thread(target=lambda: results.append(buffer_pool.empty((1 << 17,), np.uint8)), daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    inner, outer = results
    assert not np.may_share_memory(inner, outer)
