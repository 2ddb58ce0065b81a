"""What `--fast` selects."""

import itertools
from types import SimpleNamespace

from selection import JAX, fewer_with_jax, select


class Item(SimpleNamespace):
    __hash__ = object.__hash__


def items_of(name, **values):
    """The items of a test with all combinations of values of its parameters."""
    for chosen in itertools.product(*values.values()):
        given = dict(zip(values, chosen, strict=True))
        yield Item(path="file", originalname=name, nodeid=f"{name}[{given}]", callspec=SimpleNamespace(params=given))


def selected(*tests):
    """The values in the items selected of tests in one file, by test."""
    found = {}
    for item in select([*itertools.chain(*tests)]):
        found.setdefault(item.originalname, []).append(item.callspec.params)
    return found


ENGINES, CELLS = ["reference", "cpu", "emulated"], ["rnn", "lstm", "gru", "gru_reset_after"]


def test_every_engine_runs_with_every_built_in_cell():
    one, two = (items_of(name, engine=ENGINES, cell=CELLS, case=["a", "b"]) for name in ("one", "two"))
    found = selected(one, two)
    pairs = {(given["engine"], given["cell"]) for test in found.values() for given in test}
    assert pairs == {*itertools.product(ENGINES, CELLS)}
    assert {given["case"] for test in found.values() for given in test} == {"a", "b"}
    assert sum(map(len, found.values())) <= 13


def test_many_cells_are_shared_by_the_tests_of_a_file():
    cells = [f"cell {k}" for k in range(20)]
    one, two = (items_of(name, engine=ENGINES, cell=cells) for name in ("one", "two"))
    found = selected(one, two)
    assert {given["cell"] for test in found.values() for given in test} == {*cells}
    assert {given["engine"] for test in found.values() for given in test} == {*ENGINES}
    assert sum(map(len, found.values())) == 20


def test_jax_runs_with_every_value_but_not_with_all_combinations():
    values = {"cell": CELLS, "lengths": [None, (1, 2)], "dtype": ["float32", "float64"]}
    items = [*items_of("one", runtime=[JAX, "numpy-cpu"], **values), *items_of("two", n=[1, 2])]
    found = [item.callspec.params for item in fewer_with_jax(items)]
    assert len(found) == 16 + 4 + 2
    with_jax = [given for given in found if given.get("runtime") == JAX]
    assert {value for given in with_jax for value in given.values()} == {JAX, *itertools.chain(*values.values())}
