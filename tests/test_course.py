"""`rnnx.course`: the functions of the course's two assignments."""

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rnnx
from rnnx import course
from rnnx.data import dinosaur_names

BENCHMARKS = Path(__file__).parent.parent / "asv_benchmarks"
KEYS = ("Wax", "Waa", "Wya", "b", "by")


@pytest.fixture(scope="module")
def plain():
    """The assignment in plain NumPy, step by step."""
    if not BENCHMARKS.exists():
        pytest.skip("the benchmarks are not in an archive")
    sys.path.insert(0, str(BENCHMARKS))
    import character_course

    return character_course


@pytest.fixture
def names():
    data = dinosaur_names().lower()
    characters = sorted(set(data))
    return data, dict(enumerate(characters)), {character: i for i, character in enumerate(characters)}


def problem(seed=1, n_a=100, vocab_size=27, a_prev=True):
    """The inputs of the assignment's tests of `optimize` and `sample`; the latter draws no `a_prev`."""
    random = np.random.RandomState(seed)
    a_prev = random.randn(n_a, 1) if a_prev else None
    shapes = (n_a, vocab_size), (n_a, n_a), (vocab_size, n_a), (n_a, 1), (vocab_size, 1)
    return a_prev, {key: random.randn(*shape) for key, shape in zip(KEYS, shapes, strict=True)}


def test_clip_prints_what_the_assignment_prints():
    random = np.random.RandomState(3)
    shapes = {"dWax": (5, 3), "dWaa": (5, 5), "dWya": (2, 5), "db": (5, 1), "dby": (2, 1)}
    gradients = {key: random.randn(*shape) * 10 for key, shape in shapes.items()}
    clipped = course.clip(gradients, 10)
    assert clipped["dWaa"][1][2] == 10
    assert clipped["dWax"][3][1] == -10
    assert f"{clipped['dWya'][1][2]:.11f}" == "0.29713815361"
    assert clipped["db"][4] == [10]
    assert f"{clipped['dby'][1].item():.8f}" == "8.45833407"
    assert all(clipped[key] is gradients[key] for key in shapes)  # in place


# With weights this large the network is chaotic: later characters of a long sample depend on the rounding.
@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (24, [23, 16, 26, 26, 24, 3, 21, 1, 7, 24, 15, 3, 25, 20, 6, 13, 10, 8, 20, 12, 2, 0]),
        (2, [12, 17, 24, 14, 13, 9, 10, 22, 24, 6, 13, 11, 12, 6, 21, 15, 21, 14, 3, 2, 1, 21, 18, 24, 7, 25, 6, 25]),
    ],
)
def test_sample_prints_what_the_assignment_prints(names, seed, expected):
    _, parameters = problem(seed, a_prev=False)
    indices = course.sample(parameters, names[2], 0)
    assert indices[: len(expected)] == expected
    assert indices[-1] == 0


def test_the_global_random_state_stays(names):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    course.sample(problem()[1], names[2], 0)
    course.initialize_parameters(3, 2, 2)
    assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_optimize_prints_what_the_assignment_prints():
    a_prev, parameters = problem()
    before = {key: value.copy() for key, value in parameters.items()}
    loss, gradients, a_last = course.optimize([12, 3, 5, 11, 22, 3], [4, 14, 11, 22, 25, 26], a_prev, parameters)
    assert f"{loss:.9f}" == "126.503975722"
    assert f"{gradients['dWaa'][1][2]:.12f}" == "0.194709315347"
    assert np.argmax(gradients["dWax"]) == 93
    assert f"{gradients['dWya'][1][2]:.12f}" == "-0.007773876032"
    assert f"{gradients['db'][4].item():.8f} {gradients['dby'][1].item():.8f}" == "-0.06809825 0.01538192"
    assert a_last.shape == (100, 1)
    assert f"{a_last[4].item():.0f}" == "-1"
    for key in KEYS:
        assert_allclose(parameters[key], before[key] - 0.01 * gradients["d" + key], rtol=1e-14)


def test_a_run_prints_the_assignments_loss_and_names(names, capsys):
    data, ix_to_char, char_to_ix = names
    parameters = course.model(data, ix_to_char, char_to_ix, 3)
    out = capsys.readouterr().out
    assert out.startswith("Iteration: 0, Loss: 23.09")
    sampled = out.split("\n\n")[1].splitlines()
    # The assignment prints Nkzxwtdmfqoeyhsqwasjkjvu first: its list of names is another, so the first update differs.
    assert len(sampled) == 7
    assert sampled[0].startswith("Nkzxwtdm")
    assert list(parameters) == list(KEYS)


def test_the_newer_assignment_passes_a_list_and_takes_the_last_name(names, capsys):
    data, ix_to_char, char_to_ix = names
    older = course.model(data, ix_to_char, char_to_ix, 2)
    printed = capsys.readouterr().out
    newer, last_name = course.model(data.splitlines(), ix_to_char, char_to_ix, 2, verbose=True)
    verbose = capsys.readouterr().out
    assert verbose.startswith("j =  0 idx =  0\nsingle_example_chars ")
    assert verbose.endswith(printed)
    assert last_name.strip() == printed.split("\n\n")[1].splitlines()[-1]
    for key in KEYS:
        assert_array_equal(newer[key], older[key])


def test_training_equals_plain_numpy(plain, names, capsys):
    data, ix_to_char, char_to_ix = names
    course.model(data, ix_to_char, char_to_ix, 201)
    capsys.readouterr()
    assert_allclose(plain.train(course, 201), plain.train(plain.Plain, 201), rtol=1e-12)


@pytest.mark.parametrize("n_steps", [0, 1, 9])
def test_forward_and_backward_equal_plain_numpy(plain, n_steps):
    a_prev, parameters = problem(seed=n_steps, n_a=7, vocab_size=5)
    X = [None, *(t % 5 for t in range(n_steps - 1))][:n_steps]
    Y = [(3 * t + 1) % 5 for t in range(n_steps)]
    loss, cache = course.rnn_forward(X, Y, a_prev, parameters, 5)
    expected_loss, expected = plain.Plain.rnn_forward(X, Y, a_prev, parameters, 5)
    assert_allclose(loss, expected_loss, rtol=1e-13)
    for columns, dictionary in zip(cache, expected, strict=True):
        assert set(columns) == set(dictionary)
        for t in dictionary:
            assert_allclose(columns[t], dictionary[t], rtol=1e-12, atol=1e-14)
    if n_steps:
        steps = range(n_steps)
        for given in (cache, expected):  # a learner may pass dicts of their own
            gradients, a = course.rnn_backward(X, Y, parameters, given)
            wanted, _ = plain.Plain.rnn_backward(X, Y, parameters, expected)
            assert set(gradients) == set(wanted)
            for key in wanted:
                assert gradients[key].shape == wanted[key].shape
                assert_allclose(gradients[key], wanted[key], rtol=1e-10, atol=1e-13)
            assert_allclose(a[steps[-1]], expected[1][steps[-1]])


def test_steps_add_up_to_the_sequence():
    a_prev, parameters = problem(seed=4, n_a=6, vocab_size=5)
    X, Y = [None, 2, 4], [2, 4, 0]
    _, (y, a, x) = course.rnn_forward(X, Y, a_prev, parameters, 5)
    gradients = {"d" + key: np.zeros_like(value) for key, value in parameters.items()}
    gradients["da_next"] = np.zeros_like(a_prev)
    for t in reversed(range(3)):
        a_next, p = course.rnn_step_forward(parameters, a[t - 1], x[t])
        assert_allclose(a_next, a[t])
        assert_allclose(p, y[t])
        dy = p.copy()
        dy[Y[t]] -= 1
        gradients = course.rnn_step_backward(dy, gradients, parameters, x[t], a[t], a[t - 1])
    expected, _ = course.rnn_backward(X, Y, parameters, (y, a, x))
    for key in expected:
        assert_allclose(gradients[key], expected[key], rtol=1e-12, atol=1e-14)


def test_parameters_are_the_assignments():
    parameters = course.initialize_parameters(50, 27, 27)
    random = np.random.RandomState(1)
    for key, shape in {"Wax": (50, 27), "Waa": (50, 50), "Wya": (27, 50)}.items():
        assert_array_equal(parameters[key], random.randn(*shape) * 0.01)
    assert parameters["b"].shape == (50, 1)
    assert parameters["by"].shape == (27, 1)


def test_the_first_assignment_has_its_functions_too():
    random = np.random.RandomState(1)
    x, a0 = random.randn(3, 10, 4), random.randn(5, 10)
    shapes = {"Waa": (5, 5), "Wax": (5, 3), "Wya": (2, 5), "ba": (5, 1), "by": (2, 1)}
    parameters = {key: random.randn(*shape) for key, shape in shapes.items()}
    a, y, caches = course.rnn_forward(x, a0, parameters)
    assert_array_equal(a, rnnx.rnn_forward(x, a0, parameters)[0])
    assert y.shape == (2, 10, 4)
    assert_array_equal(course.rnn_backward(a, caches)["dx"], rnnx.rnn_backward(a, caches)["dx"])
    names = "rnn_cell_forward lstm_cell_forward lstm_forward rnn_cell_backward lstm_cell_backward lstm_backward"
    assert all(getattr(course, name) is getattr(rnnx, name) for name in [*names.split(), "sigmoid", "softmax"])


def test_what_is_printed_of_a_sample(capsys):
    course.print_sample([1, 2, 0], {0: "\n", 1: "a", 2: "b"})
    assert capsys.readouterr().out == "Ab\n"
    assert course.get_sample([], {}) == ""
    assert course.smooth(10, 20) == pytest.approx(10.01)
    assert course.get_initial_loss(27, 7) == pytest.approx(7 * np.log(27))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": [None, 5]}, r"`X` must hold indices from 0 to vocab_size - 1 = 4; got \[None, 5\]"),
        ({"Y": [0, -1]}, r"`Y` must hold indices from 0 to vocab_size - 1 = 4; got \[0, -1\]"),
        ({"Y": [0, None]}, "`Y` must hold indices"),
        ({"Y": [0]}, "`X` and `Y` must have the same length; got 2 and 1"),
        ({"a0": np.zeros((3, 1))}, r"`a0` must have shape \(n_a, 1\) = \(4, 1\); got \(3, 1\)"),
        ({"vocab_size": 6}, r"`Wax` must have shape \(n_a, vocab_size\) = \(4, 6\); got \(4, 5\)"),
        ({"parameters": {"ba": 0}}, "`parameters` must have the keys .*; 'Wax' is missing; the bias `ba`"),
    ],
)
def test_wrong_arguments(change, message):
    a0, parameters = problem(seed=0, n_a=4, vocab_size=5)
    arguments = {"X": [None, 1], "Y": [1, 0], "a0": a0, "parameters": parameters, "vocab_size": 5}
    with pytest.raises((ValueError, TypeError), match=message):
        course.rnn_forward(*(arguments | change).values())


def test_names_outside_the_vocabulary(names):
    data, ix_to_char, char_to_ix = names
    with pytest.raises(ValueError, match="`vocab_size` must be the size of `char_to_ix`, 27; got 26"):
        course.model(data, ix_to_char, char_to_ix, 1, vocab_size=26)
    with pytest.raises(ValueError, match="`data` must contain at least one name"):
        course.model([], ix_to_char, char_to_ix, 1)


def test_a_cache_of_another_example():
    a0, parameters = problem(seed=0, n_a=4, vocab_size=5)
    _, cache = course.rnn_forward([None, 1], [1, 0], a0, parameters, 5)
    with pytest.raises(ValueError, match="`cache` must hold the 3 steps of `X`; got 2"):
        course.rnn_backward([None, 1, 2], [1, 2, 0], parameters, cache)
