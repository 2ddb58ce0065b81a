"""`pytest --fast`: leave out tests marked slow, and most combinations of parameters of the others."""

import itertools
import zlib

PAIRS = ("engine", "runtime", "cell")


def pytest_addoption(parser):
    parser.addoption("--fast", action="store_true", help="run a selection of the tests that takes about a minute")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("fast"):
        return
    selected, seen = set(), set()
    for _, group in itertools.groupby(items, key=lambda item: (item.path, item.originalname)):
        selected.update(cover([item for item in group if not item.get_closest_marker("slow")], seen))
    config.hook.pytest_deselected(items=[item for item in items if item not in selected])
    items[:] = [item for item in items if item in selected]


def cover(items, seen):
    """Choose items of one test that have every value of its parameters, and every pair of PAIRS new to the file.

    `seen` holds what was covered before, and is added to. The next item is always the one that covers most.
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
    """What an item covers: its test, the values of its parameters, and pairs of engine or runtime and cell."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    test = (item.path, item.originalname)
    found = {test, *((*test, name, id(value)) for name, value in parameters.items())}
    pairs = itertools.combinations([name for name in PAIRS if name in parameters], 2)
    return found | {(item.path, *(parameters[name] for name in pair)) for pair in pairs}
