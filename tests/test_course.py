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
    assert type(loss) is np.float64  # which the assignment's own test demands
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


UNUSUAL = {
    "Fortran order": np.asfortranarray,
    "every second": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "float32": lambda a: a.astype(np.float32),
}


@pytest.mark.parametrize("kind", [*UNUSUAL, "read-only"])
def test_arrays_of_any_layout(kind):
    """The compiled loops take float64 in C order; other arrays are converted, and changed in place all the same."""
    a0, parameters = problem(seed=3, n_a=6, vocab_size=5)
    parameters = {key: value.astype(np.float32).astype(np.float64) for key, value in parameters.items()}
    X, Y = [None, 2, 4], [2, 4, 0]
    loss, cache = course.rnn_forward(X, Y, a0, parameters, 5)
    gradients, _ = course.rnn_backward(X, Y, parameters, cache)
    change = UNUSUAL.get(kind, lambda a: np.broadcast_to(a, a.shape))
    others = {key: change(value) for key, value in parameters.items()}
    other_loss, cache = course.rnn_forward(X, Y, change(a0) if kind != "float32" else a0, others, 5)
    assert other_loss == loss
    for key, value in course.rnn_backward(X, Y, others, cache)[0].items():
        assert_array_equal(value, gradients[key])
    if kind != "read-only":
        given = {key: change(gradients[key]) for key in gradients}
        clipped = course.clip(given, 0.125)
        course.update_parameters(others, clipped, 0.5)
        expected = course.update_parameters(parameters, course.clip(gradients, 0.125), 0.5)
        for key in KEYS:
            assert_allclose(given["d" + key], gradients["d" + key], rtol=1e-6)
            assert_allclose(others[key], expected[key], rtol=1e-6)


def test_what_is_changed_in_place_must_be_writeable():
    a0, parameters = problem(seed=0, n_a=4, vocab_size=5)
    gradients = {"d" + key: np.full_like(value, 9) for key, value in parameters.items()} | {"da_next": a0}
    frozen, frozen_gradients = dict(parameters), dict(gradients)
    frozen["b"], frozen_gradients["dby"] = np.zeros((4, 1)), np.zeros((5, 1))
    frozen["b"].flags.writeable = frozen_gradients["dby"].flags.writeable = False
    before = {key: value.copy() for key, value in (parameters | gradients).items()}
    for name, call in {
        "b": lambda: course.update_parameters(frozen, gradients, 0.1),
        "dby": lambda: course.clip(frozen_gradients, 5),
    }.items():
        with pytest.raises(ValueError, match=f"`{name}` is changed in place, so it must be writeable; got a read-only"):
            call()
    with pytest.raises(ValueError, match="`b` is changed in place"):
        course.optimize([None], [1], a0, frozen)
    with pytest.raises(ValueError, match="`dby` is changed in place"):
        course.rnn_step_backward(np.zeros((5, 1)), frozen_gradients, parameters, np.zeros((5, 1)), a0, a0)
    for key, value in before.items():
        assert_array_equal((parameters | gradients)[key], value)


def test_clip_and_update_round_like_numpy():
    random = np.random.RandomState(5)
    parameters = {key: random.randn(7, 9) for key in KEYS}
    gradients = {"d" + key: random.randn(7, 9) for key in KEYS}
    gradients["dby"][0, :4] = np.nan, np.inf, -np.inf, -0.0
    clipped = {key: value.clip(-0.3, 0.3) for key, value in gradients.items()}
    updated = {key: value - 0.7 * clipped["d" + key] for key, value in parameters.items()}
    course.update_parameters(parameters, course.clip(gradients, 0.3), 0.7)
    for key in KEYS:
        assert gradients["d" + key].tobytes() == clipped["d" + key].tobytes()
        assert parameters[key].tobytes() == updated[key].tobytes()


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


def test_the_scheme_course_draws_other_numbers_of_the_same_distribution():
    ours = rnnx.initialize_parameters("rnn", 27, 50, 27, scheme="course", seed=1, dtype="float64")
    assignment = course.initialize_parameters(50, 27, 27)
    for key in ("Wax", "Waa", "Wya"):
        for weights in (ours[key], assignment[key]):
            assert weights.std() == pytest.approx(0.01, rel=0.1)
        assert not np.isclose(ours[key], assignment[key]).any()
    assert ours["Waa"].ravel()[0] / 0.01 in np.random.default_rng(1).standard_normal(10_000)


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Waa": np.zeros((4, 3))}, r"`Waa` must have shape \(n_a, n_a\) = \(4, 4\); got \(4, 3\)"),
        ({"Waa": np.zeros(4)}, r"`Waa` must have shape \(n_a, n_a\) = \(4, 4\); got \(4,\)"),
        ({"Wax": np.zeros(4)}, r"`Wax` must have 2 dimensions; got shape \(4,\)"),
        ({"Wya": np.zeros((5, 3))}, r"`Wya` must have shape \(n_y, n_a\) = \(5, 4\); got \(5, 3\)"),
        ({"b": np.zeros((1, 1))}, r"`b` must have shape \(n_a, 1\) = \(4, 1\); got \(1, 1\)"),
        ({"by": np.zeros(5)}, r"`by` must have shape \(n_y, 1\) = \(5, 1\); got \(5,\)"),
        ({"b": [[0.0]] * 4}, "`b` must be an array"),
        ({"b": np.zeros((4, 1), complex)}, "`b` must have dtype float32 or float64; got complex128"),
        ({"b": np.zeros((4, 1), np.float16)}, "`b` must have dtype float32 or float64; got float16"),
    ],
)
def test_wrong_parameters(change, message):
    """The compiled loops would read past the end of such arrays."""
    a0, parameters = problem(seed=0, n_a=4, vocab_size=5)
    X, Y, wrong, x = [None, 1], [1, 0], parameters | change, np.zeros((5, 1))
    _, cache = course.rnn_forward(X, Y, a0, parameters, 5)
    gradients, _ = course.rnn_backward(X, Y, parameters, cache)
    before = {key: value.copy() for key, value in gradients.items()}
    for call in (
        lambda: course.rnn_forward(X, Y, a0, wrong, 5),
        lambda: course.rnn_backward(X, Y, wrong, cache),
        lambda: course.optimize(X, Y, a0, wrong),
        lambda: course.rnn_step_forward(wrong, a0, x),
        lambda: course.rnn_step_backward(x, gradients, wrong, x, a0, a0),
        lambda: course.sample(wrong, {"\n": 0}, 0),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            call()
    assert_array_equal(gradients["dWaa"], before["dWaa"])


def test_wrong_arrays_of_a_step():
    a0, parameters = problem(seed=0, n_a=4, vocab_size=5)
    x = np.zeros((5, 1))
    gradients = {"d" + key: np.zeros_like(value) for key, value in parameters.items()} | {"da_next": np.zeros((4, 1))}
    with pytest.raises(ValueError, match=r"`a_prev` must have shape \(n_a, 1\) = \(4, 1\); got \(4,\)"):
        course.rnn_step_forward(parameters, np.zeros(4), x)
    with pytest.raises(ValueError, match=r"`x` must have shape \(n_x, 1\) = \(5, 1\); got \(5, 2\)"):
        course.rnn_step_forward(parameters, a0, np.zeros((5, 2)))
    with pytest.raises(ValueError, match=r"`da_next` must have shape \(n_a, 1\) = \(4, 1\); got \(4,\)"):
        course.rnn_step_backward(x, gradients | {"da_next": np.zeros(4)}, parameters, x, a0, a0)
    with pytest.raises(ValueError, match="`gradients` must have the keys dWax, dWaa, dWya, db, dby; 'db' is missing"):
        course.rnn_step_backward(x, {k: g for k, g in gradients.items() if k != "db"}, parameters, x, a0, a0)
    with pytest.raises(ValueError, match=r"`a_prev` must have shape \(n_a, 1\) = \(4, 1\); got \(3, 1\)"):
        course.optimize([None], [1], np.zeros((3, 1)), parameters)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dby": None}, "`gradients` must have the keys dWax, dWaa, dWya, db, dby; 'dby' is missing"),
        ({"dby": np.ones((1, 1))}, r"`dby` must have shape by.shape = \(5, 1\); got \(1, 1\)"),
        ({"dby": np.ones((5, 1), complex)}, "`dby` must have dtype"),
    ],
)
def test_a_failed_update_changes_nothing(change, message):
    _, parameters = problem(seed=0, n_a=4, vocab_size=5)
    gradients = {"d" + key: np.full_like(value, 9) for key, value in parameters.items()} | change
    gradients = {key: value for key, value in gradients.items() if value is not None}
    before = {key: value.copy() for key, value in parameters.items()}
    with pytest.raises((ValueError, TypeError), match=message):
        course.update_parameters(parameters, gradients, 0.1)
    for key in KEYS:
        assert_array_equal(parameters[key], before[key])
    if "shape" not in message:
        with pytest.raises((ValueError, TypeError), match=message):
            course.clip(gradients, 5)
        assert gradients["dWax"].max() == 9


@pytest.mark.parametrize(
    "characters", [[None, 1.0], "ab", b"ab", [None, "a"], [0, 0.5], [[1], [2]], {0, 1}, np.array(1)]
)
def test_characters_are_integers(characters):
    a0, parameters = problem(seed=0, n_a=4, vocab_size=5)
    with pytest.raises(
        (ValueError, TypeError), match=r"`X` must (hold indices from 0 to .* = 4|be a list of indices); got "
    ):
        course.rnn_forward(characters, [0, 0], a0, parameters, 5)


def test_lines_end_as_in_a_file(capsys):
    """The assignment reads its file again; form feeds and separators of other kinds are characters of a name."""
    data = "ab\x0cc\nd\u2028e\n\nf\x85\n"
    characters = sorted(set(data))
    arguments = dict(enumerate(characters)), {character: i for i, character in enumerate(characters)}, 5, 4, 1
    older = course.model(data, *arguments, len(characters))
    newer, _ = course.model(["ab\x0cc", "d\u2028e", "", "f"], *arguments, len(characters))
    capsys.readouterr()
    for key in KEYS:
        assert_array_equal(older[key], newer[key])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": ["ab", "é"]}, "`char_to_ix` must hold every character of the names and the newline; 'é' is missing"),
        ({"data": ["ab", 1]}, "`data` must be a str or a sequence of str; got an element of type int"),
        ({"data": b"ab"}, "`data` must be a str or a sequence of str; got an element of type int"),
        ({"char_to_ix": {"a": 0, "b": 1, "c": 2}}, r"`char_to_ix` must hold .*; '\\n' is missing"),
        ({"ix_to_char": {0: "\n", 2: "b"}}, "`ix_to_char` must hold every index of the sample; 1 is missing"),
        ({"dino_names": "1"}, "`dino_names` must be an integer of at least 0; got '1'"),
    ],
)
def test_models_are_checked_before_they_print(change, message, capsys):
    arguments = {"data": ["ab"], "ix_to_char": {0: "\n", 1: "a", 2: "b"}, "char_to_ix": {"\n": 0, "a": 1, "b": 2}}
    with pytest.raises((ValueError, TypeError), match=message):
        course.model(**(arguments | {"vocab_size": 3, "num_iterations": 1} | change))
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match=r"`char_to_ix` must hold .*; '\\n' is missing"):
        course.sample(problem(n_a=4, vocab_size=5)[1], {"a": 0}, 0)
    with pytest.raises(ValueError, match="`ix_to_char` must hold every index of the sample; 7 is missing"):
        course.get_sample([7], {})


def test_a_cache_of_another_example():
    a0, parameters = problem(seed=0, n_a=4, vocab_size=5)
    _, cache = course.rnn_forward([None, 1], [1, 0], a0, parameters, 5)
    with pytest.raises(ValueError, match="`cache` must hold the 3 steps of `X`; got 2"):
        course.rnn_backward([None, 1, 2], [1, 2, 0], parameters, cache)
    _, others = problem(seed=0, n_a=3, vocab_size=5)
    with pytest.raises(ValueError, match=r"the hidden states in `cache` must have the sizes .* \(3, 3\); got \(3, 4\)"):
        course.rnn_backward([None, 1], [1, 0], others, cache)
    _, others = problem(seed=0, n_a=4, vocab_size=6)
    with pytest.raises(ValueError, match=r"the inputs in `cache` must have the sizes .* \(2, 6\); got \(2, 5\)"):
        course.rnn_backward([None, 1], [1, 0], others, tuple(map(dict, cache)))
    with pytest.raises(ValueError, match="`X` and `Y` must have the same length; got 2 and 1"):
        course.rnn_backward([None, 1], [1], parameters, cache)
    *rest, inputs = map(dict, cache)
    with pytest.raises(ValueError, match="`cache` must hold the steps 0 to 1; 1 is missing"):
        course.rnn_backward([None, 1], [1, 0], parameters, (*rest, {0: inputs[0], 2: inputs[1]}))
    with pytest.raises(TypeError, match="`cache` must hold real numbers; got dtype complex128"):
        course.rnn_backward([None, 1], [1, 0], parameters, (*rest, {0: inputs[0], 1: inputs[1] + 1j}))


def test_a_model_that_no_machine_has():
    with pytest.raises(ValueError, match=r"`n_y` = 2147483648 is too large: an array of shape \(4, 2147483648\)"):
        course.initialize_parameters(4, 3, 1 << 31)
