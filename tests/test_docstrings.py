"""The examples in docstrings run and are true, and every function of `rnnx` itself has one."""

import doctest
import inspect

import numpy as np
import pytest
from public import PUBLIC, callables

import rnnx

OBJECTS = {}
for name, value in callables():
    OBJECTS.setdefault(id(value), (name, value))
WITH_EXAMPLES = {name: value for name, value in OBJECTS.values() if ">>> " in (value.__doc__ or "")}
PARSER = doctest.DocTestParser()


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test = PARSER.get_doctest(inspect.getdoc(WITH_EXAMPLES[name]), {}, name, None, 0)
    runner, output = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE), []
    with rnnx.use_engine("reference"), np.printoptions():  # nothing to compile
        failed, _ = runner.run(test, out=output.append)
    assert not failed, "".join(output)


@pytest.mark.parametrize("package", ["rnnx", "rnnx.metrics"])
def test_every_name_has_an_example_and_neighbours(package):
    module = pytest.importorskip(package)
    values = [getattr(module, name) for name in module.__all__]
    documented = [value for value in values if inspect.isfunction(value) or inspect.isclass(value)]
    assert len(documented) > 5
    for value in documented:
        name, text = value.__name__, value.__doc__
        assert ">>> " in text, name
        assert "\n    See Also\n    --------\n" in text, name


def test_neighbours_exist():
    """Names under "See Also" are public names of `rnnx` or of one of its subpackages."""
    modules = [pytest.importorskip(package) for package in PUBLIC]
    known = {name for module in modules for name in module.__all__}
    for name, value in OBJECTS.values():
        _, found, rest = inspect.cleandoc(value.__doc__ or "").partition("See Also\n--------\n")
        neighbours = rest.partition("\n")[0].split(", ") if found else []
        assert set(neighbours) <= known, name
