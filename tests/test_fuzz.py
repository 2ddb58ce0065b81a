"""A bounded run of the fuzzers; by hand they try more: `python tests/fuzz.py 50000`."""

import fuzz
import fuzz_files
import numpy as np
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_wrong_arguments_give_right_answers_or_clear_errors(seed):
    assert fuzz.faults(1500, seed) == {}


@pytest.mark.slow
def test_changed_files_are_read_right_or_give_clear_errors():
    assert fuzz_files.faults(300, 0) == {}


def test_the_fuzzer_finds_faults():
    def function(x, n):
        if not isinstance(x, np.ndarray):
            raise TypeError("unsupported operand")
        return x / n if n != 0 else {}["missing"]

    call = fuzz.Call("function", function, {"x": np.ones(3), "n": 2})
    assert fuzz.fault(call, "x", "list", [1.0], np.ones(1)).startswith("unclear TypeError")
    assert fuzz.fault(call, "x", "complex", np.ones(3) * 1j, None) == "accepted"
    assert fuzz.fault(call, "x", "int8", np.full(3, 100, np.int8), np.ones(3)) == "wrong answer"
    assert fuzz.fault(call, "x", "float32", np.ones(3, np.float32), np.ones(3)) is None
    assert fuzz.fault(call, "n", "0", 0, None).startswith("KeyError")
