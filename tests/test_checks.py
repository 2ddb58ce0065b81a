"""The checks of numbers that all packages share."""

import math

import numpy as np
import pytest

import rnnx
from rnnx import compare, data, models, training
from rnnx._core.checks import integer, real


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_integers_of_python_and_numpy(value):
    assert type(integer("n", value)) is int
    assert integer("n", value, 3, 3) == 3


@pytest.mark.parametrize(
    ("value", "options", "error", "message"),
    [
        (0, {}, ValueError, "`n` must be an integer of at least 1; got 0"),
        (-1, {"least": 0}, ValueError, "`n` must be an integer of at least 0; got -1"),
        (4, {"least": 0, "most": 3}, ValueError, "`n` must be an integer from 0 to 3; got 4"),
        (True, {}, TypeError, "`n` must be an integer of at least 1; got True"),
        (np.bool_(True), {}, TypeError, "`n` must be an integer"),
        (2.0, {}, TypeError, "`n` must be an integer of at least 1; got 2.0"),
        ("2", {"most": 5}, TypeError, "`n` must be an integer from 1 to 5; got '2'"),
        (None, {}, TypeError, "`n` must be an integer of at least 1; got None"),
    ],
)
def test_what_is_no_such_integer(value, options, error, message):
    with pytest.raises(error, match=message):
        integer("n", value, **options)


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.float64(0.5), np.int8(1), np.array(0.5)])
def test_numbers_become_python_floats(value):
    assert type(real("r", value, "(0, 1]")) is float


@pytest.mark.parametrize(
    ("value", "interval", "error", "message"),
    [
        (0, "(0, 1)", ValueError, r"`r` must be a number in \(0, 1\); got 0"),
        (1.0, "[0, 1)", ValueError, r"`r` must be a number in \[0, 1\); got 1.0"),
        (math.nan, "[0, 1]", ValueError, r"`r` must be a number in \[0, 1\]; got nan"),
        (0, "(0, inf)", ValueError, "`r` must be a positive number; got 0"),
        (math.inf, "(0, inf)", ValueError, "`r` must be a positive number; got inf"),
        (-0.1, "[0, inf)", ValueError, "`r` must be a number of at least 0; got -0.1"),
        (-math.inf, "(-inf, inf)", ValueError, "`r` must be a finite number; got -inf"),
        (True, "(0, inf)", TypeError, "`r` must be a number; got bool"),
        ("1", "(0, inf)", TypeError, "`r` must be a number; got str"),
        (np.ones(1), "(0, inf)", TypeError, r"`r` must be a number; got an array of shape \(1,\)"),
    ],
)
def test_what_is_no_such_number(value, interval, error, message):
    with pytest.raises(error, match=message):
        real("r", value, interval)


def test_the_ends_of_intervals():
    assert real("r", 0, "[0, 1)") == 0
    assert real("r", np.nextafter(1, 0), "[0, 1)") < 1
    assert real("r", 5e-324, "(0, inf)") > 0
    assert real("r", 1, "(0, 1]") == 1


class Long:
    def __repr__(self):
        return "first line\n" * 50


@pytest.mark.parametrize(
    "value",
    [Long(), np.zeros((50, 50)), "x" * 1000, np.random.SeedSequence(0)],
    ids=["object", "array", "text", "other"],
)
@pytest.mark.parametrize(
    "call",
    [
        lambda value: integer("n", value),
        lambda value: rnnx.use_engine(value).__enter__(),
        lambda value: rnnx.use_precision(value).__enter__(),
        lambda value: rnnx.register_engine("new", "module:name", value),
        lambda value: rnnx.initialize_parameters(value, 3, 4),
        lambda value: rnnx.initialize_parameters("lstm", 3, 4, scheme=value),
        lambda value: rnnx.initialize_parameters("lstm", 3, 4, dtype=value),
        lambda value: models.CharModel(4, 3, cell=value),
        lambda value: models.Seq2Seq(4, 5, 3, attention=value),
        lambda value: data.CharTokenizer(["a", value]),
        lambda value: data.make_corpus("text", "abc\n" * 30, by=value),
        lambda value: data.make_corpus("text", "abc\n" * 30, split=value),
        lambda value: training.Settings(cell=value, epochs=value),
        lambda value: compare.run(value),
    ],
)
def test_a_message_is_one_short_line(call, value):
    with pytest.raises((TypeError, ValueError)) as error:
        call(value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
    assert "`" in str(error.value)
