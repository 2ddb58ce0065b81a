"""Which combinations of parameters run.

JAX compiles every operation for every shape, which takes seconds: each test runs with JAX and each value of its other
parameters, but not with all combinations of them.

`pytest --fast` leaves out tests marked slow, and most combinations of parameters of the other tests. The emulated GPU
engine, whose kernels a C++ compiler has to compile, runs in the tests of that engine only.
"""

import itertools
import zlib

from hypothesis import settings

PAIR = ("engine", "cell")
MANY = 4  # cells of a test; one that has more than the built-in ones does not run them with every engine
JAX = "jax-reference"  # the runtime
EMULATED = ("test_gpu_engine.py", "test_cells.py")


def pytest_addoption(parser):
    parser.addoption(
        "--fast",
        action="store_true",
        help="run a selection of the tests: under 90 seconds once their kernels are compiled",
    )


def pytest_configure(config):
    if config.getoption("fast"):
        settings.register_profile("fast", max_examples=5)
        settings.load_profile("fast")


def pytest_collection_modifyitems(config, items):
    selected = set(fewer_with_jax(items))
    if config.getoption("fast"):
        short = [item for item in items if item in selected and not is_long(item)]
        selected = set()
        for _, of_file in itertools.groupby(short, key=lambda item: item.path):
            selected.update(select(list(of_file)))
    config.hook.pytest_deselected(items=[item for item in items if item not in selected])
    items[:] = [item for item in items if item in selected]


def fewer_with_jax(items):
    """Leave out items with JAX whose other parameters have values that run with JAX in other items of the test."""
    for _, of_test in itertools.groupby(items, key=lambda item: (item.path, item.originalname)):
        of_test = list(of_test)
        with_jax = [item for item in of_test if "jax-reference" in item.nodeid]
        needs = {item: {(name, id(value)) for name, value in parameters(item).items()} for item in with_jax}
        yield from (item for item in of_test if item not in needs)
        yield from cover(needs, needs)


def is_long(item):
    """Whether a test is left out whatever it covers."""
    emulated = "emulated" in map(str, parameters(item).values()) and item.path.name not in EMULATED
    return emulated or item.get_closest_marker("slow") is not None


def parameters(item):
    return item.callspec.params if hasattr(item, "callspec") else {}


def select(items):
    """Choose items of a file that cover its tests, the values of their parameters, and each engine with each cell.

    Each test runs. Tests with a parameter of the same name share its values: one of them runs with each.
    """
    own, shared = {}, {}
    for _, of_test in itertools.groupby(items, key=lambda item: item.originalname):
        of_test = list(of_test)
        pairs = len({id(parameters(item).get("cell")) for item in of_test}) <= MANY
        for item in of_test:
            given = {name: id(value) for name, value in parameters(item).items()}
            own[item], shared[item] = {item.originalname}, {*given.items()}
            if pairs and all(name in given for name in PAIR):
                shared[item].add(tuple(given[name] for name in PAIR))
    chosen = cover(own, shared)
    seen = set().union(*(shared[item] for item in chosen))
    return chosen + cover({item: needs - seen for item, needs in shared.items()}, shared)


def cover(needs, others):
    """Choose items that cover all that any of them needs; among equals, those that cover most others.

    The next item is always the one that adds most to what is covered.
    """
    left = {item: needs[item] for item in sorted(needs, key=lambda item: zlib.crc32(item.nodeid.encode()))}
    chosen, seen = [], set()
    while left:
        best = max(left, key=lambda item: (len(left[item]), len(others[item] - seen)))
        new = left.pop(best)
        if not new:
            break
        chosen.append(best)
        seen |= others[best]
        left = {item: remaining - new for item, remaining in left.items()}
    return chosen
