"""`pytest --fast`: leave out tests marked slow, and most combinations of parameters of the other tests.

The emulated GPU engine, whose kernels a C++ compiler has to compile, runs in the tests of that engine only.
"""

import itertools
import zlib

from hypothesis import settings

PAIR = ("engine", "cell")
EMULATED = ("test_gpu_engine.py", "test_cells.py")


def pytest_addoption(parser):
    parser.addoption("--fast", action="store_true", help="run a selection of the tests that takes two minutes")


def pytest_configure(config):
    if config.getoption("fast"):
        settings.register_profile("fast", max_examples=5)
        settings.load_profile("fast")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("fast"):
        return
    selected, seen = set(), set()
    for _, group in itertools.groupby(items, key=lambda item: (item.path, item.originalname)):
        selected.update(cover([item for item in group if not is_long(item)], seen))
    config.hook.pytest_deselected(items=[item for item in items if item not in selected])
    items[:] = [item for item in items if item in selected]


def is_long(item):
    """Whether a test is left out whatever it covers."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    emulated = "emulated" in map(str, parameters.values()) and item.path.name not in EMULATED
    return emulated or item.get_closest_marker("slow") is not None


def cover(items, seen):
    """Choose items of one test that cover every value of its parameters, and every engine with every cell in a file.

    The next item is always the one that adds most to what is covered. `seen` holds what is, and is updated.
    """
    left = {item: needs(item) - seen for item in sorted(items, key=lambda item: zlib.crc32(item.nodeid.encode()))}
    chosen = []
    while left:
        best = max(left, key=lambda item: len(left[item]))
        new = left.pop(best)
        if not new:
            break
        chosen.append(best)
        seen |= new
        left = {item: remaining - new for item, remaining in left.items()}
    return chosen


def needs(item):
    """What an item covers: its test, the values of its parameters, and its engine with its cell."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    test = (item.path, item.originalname)
    found = {test, *((*test, name, id(value)) for name, value in parameters.items())}
    if all(name in parameters for name in PAIR):
        found.add((item.path, *(parameters[name] for name in PAIR)))
    return found
