"""Datasets: every target occurs once, and batches have the documented form."""

from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rnnx.data import Examples, Lines, Streams, Windows, move_padding_to_end

DTYPES = st.sampled_from([np.uint8, np.uint16, np.int32, np.int64])


@st.composite
def texts_in_pieces(draw):
    """Distinct indices, and some pieces of them."""
    n = draw(st.integers(2, 60))
    edges = sorted(draw(st.lists(st.integers(0, n), max_size=8)))
    pieces = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=False) if b - a >= 2]
    return np.arange(n).astype(draw(DTYPES)), pieces or None


def pairs(batches):
    return [
        (int(b.inputs[j, t]), int(b.targets[j, t])) for b in batches for j, n in enumerate(b.lengths) for t in range(n)
    ]


def transitions(text, pieces):
    return [(i, i + 1) for start, stop in pieces or [(0, len(text))] for i in range(start, stop - 1)]


def same(a, b):
    return a.continues == b.continues and all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in ("inputs", "targets", "lengths")
    )


def check_protocol(dataset, batch_size, start):
    """`start` skips the first batches, a seed determines the order, and all batches are valid."""
    for seed in (None, 0):

        def batches(start=0, seed=seed):
            return dataset.batches(batch_size, None if seed is None else np.random.default_rng(seed), start)

        whole = list(batches())
        assert len(whole) == dataset.n_batches(batch_size)
        skipped, again = list(batches(start)), list(batches())
        assert len(skipped) == max(0, len(whole) - start)
        assert all(map(same, skipped, islice(whole, start, None)))
        assert all(map(same, again, whole))
        for batch in whole:
            m, n_steps = batch.inputs.shape
            assert 1 <= m <= batch_size
            assert batch.inputs.dtype == batch.targets.dtype == np.int64
            assert batch.targets.shape == (m, n_steps)
            assert batch.lengths.shape == (m,)
            assert batch.lengths.min() >= 1
            assert batch.lengths.max() == n_steps
            padding = np.arange(n_steps) >= batch.lengths[:, None]
            assert not batch.inputs[padding].any()
            assert not batch.targets[padding].any()


def test_lines_pad_and_shift():
    batch = next(Lines([np.array([1, 2, 3], np.uint8), np.array([4])], newline=9).batches(2))
    assert batch.inputs.tolist() == [[9, 1, 2, 3], [9, 4, 0, 0]]
    assert batch.targets.tolist() == [[1, 2, 3, 9], [4, 9, 0, 0]]
    assert batch.lengths.tolist() == [4, 2]
    assert not batch.continues


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), DTYPES, st.integers(1, 5), st.integers(0, 5))
def test_lines(sizes, dtype, batch_size, start):
    ends = np.cumsum(sizes)
    sequences = [np.arange(end - size, end).astype(dtype) for size, end in zip(sizes, ends, strict=True)]
    lines = Lines(sequences, newline=200)
    check_protocol(lines, batch_size, start)
    expected = Counter(pair for s in sequences for pair in zip([200, *s.tolist()], [*s.tolist(), 200], strict=True))
    for rng in (None, np.random.default_rng(0)):
        assert Counter(pairs(lines.batches(batch_size, rng))) == expected
    assert len(lines) == len(sizes)


@given(texts_in_pieces(), st.integers(1, 20), st.integers(1, 7), st.integers(0, 5))
def test_windows_have_every_transition_once(text_and_pieces, length, batch_size, start):
    text, pieces = text_and_pieces
    windows = Windows(text, length, pieces)
    check_protocol(windows, batch_size, start)
    expected = transitions(text, pieces)
    for rng in (None, np.random.default_rng(0)):
        assert sorted(pairs(windows.batches(batch_size, rng))) == expected
    for batch in windows.batches(batch_size):
        assert not batch.continues
        assert batch.inputs.shape[1] <= length
        for inputs, targets, n in zip(batch.inputs, batch.targets, batch.lengths, strict=True):
            np.testing.assert_array_equal(targets[: n - 1], inputs[1:n])


@given(texts_in_pieces(), st.integers(1, 20), st.integers(1, 7), st.integers(0, 5))
def test_streams_have_every_transition_once(text_and_pieces, length, batch_size, start):
    text, pieces = text_and_pieces
    expected = transitions(text, pieces)
    assume(len(expected) >= batch_size)
    streams = Streams(text, length, pieces)
    check_protocol(streams, batch_size, start)
    assert len(streams) == len(expected)
    for rng in (None, np.random.default_rng(0)):
        batches = list(streams.batches(batch_size, rng))
        seen = pairs(batches)
        assert len(set(seen)) == len(seen) == len(expected) // batch_size * batch_size
        assert set(seen) <= set(expected)
        assert [b.continues for b in batches] == [False] + [True] * (len(batches) - 1)
        assert all(b.inputs.shape[1] == length for b in batches[:-1])
        # One after another, the streams contain the steps in order.
        numbers = {pair: number for number, pair in enumerate(expected)}
        inputs, targets = (np.concatenate([getattr(b, k) for b in batches], axis=1) for k in ("inputs", "targets"))
        order = [numbers[pair] for pair in zip(inputs.ravel().tolist(), targets.ravel().tolist(), strict=True)]
        assert all((b - a) % len(expected) == 1 for a, b in pairwise(order))
        assert rng is not None or order == list(range(len(order)))


def test_streams_of_one_text():
    streams = Streams(np.arange(12, dtype=np.uint8), 2)
    first, second, third = streams.batches(2)
    assert first.inputs.tolist() == [[0, 1], [5, 6]]
    assert first.targets.tolist() == [[1, 2], [6, 7]]
    assert second.inputs.tolist() == [[2, 3], [7, 8]]
    assert third.inputs.tolist() == [[4], [9]]
    assert third.lengths.tolist() == [1, 1]
    assert [b.continues for b in (first, second, third)] == [False, True, True]
    assert next(streams.batches(2, start=1)).continues
    single = np.concatenate([b.inputs[0] for b in streams.batches(1)])
    assert single.tolist() == list(range(11))


def test_orders_depend_on_the_seed():
    for dataset in (
        Lines([np.full(2, i) for i in range(50)], 99),
        Windows(np.arange(200), 4),
        Streams(np.arange(200), 4),
    ):
        orders = {tuple(pairs(dataset.batches(3, np.random.default_rng(seed)))) for seed in (0, 0, 1)}
        assert len(orders) == 2


def test_skipped_batches_are_not_built():
    class Counted(list):
        looked_up = 0

        def __getitem__(self, i):
            self.looked_up += 1
            return super().__getitem__(i)

    lines = Lines(Counted([np.zeros(2, int)] * 20), 1)
    batches = lines.batches(2, start=9)
    assert lines.sequences.looked_up == 0
    assert len(list(batches)) == 1
    assert lines.sequences.looked_up == 2


def test_memory_maps(tmp_path):
    path = tmp_path / "indices"
    np.arange(250, dtype=np.uint8).tofile(path)
    mapped = np.memmap(path, np.uint8, "r")
    for kind in (Windows, Streams):
        dataset = kind(mapped, 7)
        assert np.shares_memory(dataset.indices, mapped)
        batch = next(dataset.batches(3))
        assert type(batch.inputs) is np.ndarray
        assert batch.inputs.dtype == np.int64
        batch.inputs[:] = -1
        assert next(dataset.batches(3)).inputs.min() >= 0


def test_errors_come_before_the_first_batch():
    text = np.arange(5)
    with pytest.raises(ValueError, match="too short for `batch_size` = 5 streams: it has 4 steps"):
        Streams(text, 3).batches(5)
    with pytest.raises(ValueError, match="too short for `batch_size` = 5 streams"):
        Streams(text, 3).n_batches(5)
    for dataset in (Lines([text], 9), Windows(text, 2), Streams(text, 2), Examples(text[None, :, None], text)):
        for wrong in (0, -1, 1.5, True, "2"):
            with pytest.raises((ValueError, TypeError), match="`batch_size` must be an integer of at least 1"):
                dataset.batches(wrong)
            with pytest.raises((ValueError, TypeError), match="`batch_size` must be an integer of at least 1"):
                dataset.n_batches(wrong)
        with pytest.raises(ValueError, match="`start` must be an integer of at least 0; got -1"):
            dataset.batches(1, start=-1)
    for kind in (Windows, Streams):
        with pytest.raises(ValueError, match="`seq_length` must be an integer of at least 1; got 0"):
            kind(text, 0)
        for wrong in (text[:1], text * 1.0, text[None]):
            with pytest.raises(ValueError, match=r"`indices` must be integers of shape \(n,\) with n >= 2"):
                kind(wrong, 2)
        for piece in ((0, 6), (-1, 3), (2, 3), (3, 2)):
            with pytest.raises(
                ValueError, match=r"`pieces` must have at least 2 characters each, in \[0, 5\]; got \(start, stop\) = "
            ):
                kind(text, 2, [piece])
        with pytest.raises(ValueError, match="`pieces` must not be empty"):
            kind(text, 2, [])


def test_windows_of_a_huge_text_need_little_memory():
    text = np.broadcast_to(np.uint8(7), 10**12)
    windows = Windows(text, 10, [(0, 5 * 10**11), (5 * 10**11 + 3, 10**12)])
    assert len(windows) == 10**11
    last = windows.gather(np.array([0, len(windows) - 1]))
    assert last.lengths.tolist() == [10, 6]


def test_examples():
    inputs, rng = np.arange(24.0).reshape(2, 3, 4), np.random.default_rng(0)
    for targets, expected in (
        (np.array([5, 6, 7]), [5, 6, 7]),
        (np.arange(12).reshape(3, 4), np.arange(12).reshape(3, 4)),
        (np.array([[0.5, 1.5, 2.5]]), [[0.5, 1.5, 2.5]]),
        (inputs, inputs),
    ):
        examples = Examples(inputs, targets, lengths=[4, 1, 2])
        (batch,) = examples.batches(3)
        np.testing.assert_array_equal(batch.inputs, inputs)
        np.testing.assert_array_equal(batch.targets, expected)
        assert batch.lengths.tolist() == [4, 1, 2]
        assert len(examples) == 3
        assert examples.n_batches(2) == len(list(examples.batches(2))) == 2
        whole = list(examples.batches(2, np.random.default_rng(1)))
        (second,) = examples.batches(2, np.random.default_rng(1), start=1)
        np.testing.assert_array_equal(second.inputs, whole[1].inputs)
    first = next(Examples(np.array([[1, 2], [3, 4]]), np.array([0, 1])).batches(1, rng))
    assert first.inputs.tolist() in ([[1, 2]], [[3, 4]])
    assert first.lengths is None


@pytest.mark.parametrize(
    ("inputs", "targets", "lengths", "error", "message"),
    [
        (np.zeros(3), np.zeros(3, int), None, ValueError, r"`inputs` must have shape .*; got \(3,\)"),
        (
            np.zeros((3, 4)),
            np.zeros(3, int),
            None,
            TypeError,
            r"`inputs` of shape \(n, T\) must hold indices; got dtype float64",
        ),
        (
            np.full((2, 3, 4), "a"),
            np.zeros(3, int),
            None,
            TypeError,
            "`inputs` must hold real numbers; got dtype <U1",
        ),
        (
            np.zeros((2, 3, 4)),
            np.zeros((1, 3), int),
            None,
            ValueError,
            r"shape \(n,\) or \(n, T\) for class indices, with n = 3 and T = 4 .*; got \(1, 3\), dtype int64",
        ),
        (
            np.zeros((2, 3, 4)),
            np.zeros(3),
            None,
            ValueError,
            r"shape \(n_y, n\) or \(n_y, n, T\) for floats, .*; got \(3,\), dtype float64",
        ),
        (np.zeros((2, 3, 4)), np.zeros((3, 5), int), None, ValueError, r"got \(3, 5\)"),
        (np.zeros((2, 3, 4)), np.float64(1), None, TypeError, "`targets` must be an array"),
        (
            np.zeros((2, 3, 4)),
            np.array(["a", "b", "c"]),
            None,
            TypeError,
            "`targets` must hold real numbers; got dtype <U1",
        ),
        (np.zeros((2, 3, 4)), np.zeros(3, int), [4, 4], ValueError, r"`lengths` must have shape \(m,\) = \(3,\)"),
        (
            np.zeros((2, 3, 4)),
            np.zeros(3, int),
            [4, 4, 1.0],
            TypeError,
            "`lengths` must hold integers; got dtype float",
        ),
        (
            np.zeros((2, 3, 4)),
            np.zeros(3, int),
            [4, 5, 1],
            ValueError,
            r"`lengths` must be in \[0, T_x\] = \[0, 4\]; got values from 1 to 5",
        ),
        (np.zeros((2, 3, 4)), np.zeros(3, int), [4, -1, 1], ValueError, "got values from -1 to 4"),
    ],
)
def test_invalid_examples(inputs, targets, lengths, error, message):
    with pytest.raises(error, match=message):
        Examples(inputs, targets, lengths=lengths)


def test_padding_moves_to_the_end(rng):
    inputs = rng.standard_normal((2, 3, 5))
    inputs[:, 0, :2], inputs[0, 1, 3], inputs[:, 2] = -1, -1, -1
    moved, lengths = move_padding_to_end(inputs, value=-1)
    assert lengths.tolist() == [3, 5, 0]
    np.testing.assert_array_equal(moved[:, 0], np.hstack([inputs[:, 0, 2:], np.zeros((2, 2))]))
    np.testing.assert_array_equal(moved[:, 1], inputs[:, 1])
    assert not moved[:, 2].any()
    moved, lengths = move_padding_to_end([[0, 3, 0], [1, 0, 2]])
    assert (moved.tolist(), lengths.tolist()) == ([[3, 0, 0], [1, 2, 0]], [1, 2])
    for bad in (None, np.zeros(3), [["a"]], np.ma.masked_equal(np.zeros((2, 2)), 1)):
        with pytest.raises((ValueError, TypeError), match="`inputs` must"):
            move_padding_to_end(bad)
    with pytest.raises(TypeError, match="`value` must be a number"):
        move_padding_to_end(inputs, value="0")


@pytest.mark.parametrize("pieces", [[(0, True)], [(0.0, 3)], [(0, 3, 3.5)], [3], [("a", 3)]])
def test_pieces_are_integers(pieces):
    with pytest.raises(TypeError, match=r"`pieces` must be a sequence of \(start, stop\), two integers each"):
        Windows(np.arange(9), 2, pieces)
