"""Every public function and class has neighbours and an example in its docstring, and the examples run and are true."""

import ast
import doctest
import importlib
import importlib.util
import inspect
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from public import PUBLIC

import rnnx
from rnnx.cells import words

FRAMEWORKS = ["rnnx.interop.torch", "rnnx.interop.jax"]  # which take long to import
PACKAGES = [*PUBLIC, "rnnx.cells", *FRAMEWORKS]
# The words of a cell are one line each; their module has an example.
BRIEF = {word for word in vars(words).values() if inspect.isfunction(word) and word.__code__.co_name == "function"}
PARSER = doctest.DocTestParser()


def public_names(package):
    """The `__all__` of a package, which is not imported."""
    tree = ast.parse(Path(importlib.util.find_spec(package).origin).read_text(encoding="utf-8"))
    (names,) = (n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "__all__")
    return ast.literal_eval(names)


NAMES = {package: public_names(package) for package in (*PACKAGES, "rnnx.estimators")}  # also without scikit-learn


def documented():
    """The name of each public function and class, once, and of the modules with words of a cell."""
    found = {}
    for package in PACKAGES:
        for name in NAMES[package]:
            value = None if package in FRAMEWORKS else getattr(importlib.import_module(package), name)
            if value is None or inspect.isclass(value) or (inspect.isfunction(value) and value not in BRIEF):
                found.setdefault(name if value is None else id(value), (package, name))
    return [*found.values(), ("rnnx.cells", "words")]


def docstring(package, name):
    return inspect.getdoc(getattr(importlib.import_module(package), name))


def imports(example):
    """The names of the modules that an example imports."""
    executed = [part.source for part in example.examples if doctest.SKIP not in part.options]
    for node in ast.walk(ast.parse("".join(executed))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize(("package", "name"), documented())
def test_the_example(package, name, tmp_path, monkeypatch):
    if package in FRAMEWORKS:
        pytest.importorskip(package.rpartition(".")[2])
        pytest.importorskip("numba")
    if package == "rnnx.export" and not shutil.which("cc"):
        pytest.skip("no C compiler")
    example = PARSER.get_doctest(docstring(package, name), {}, name, None, 0)
    assert example.examples, "no example"
    for module in {*imports(example)}:
        if module.split(".")[0] not in {"rnnx", "__future__", *sys.stdlib_module_names}:
            pytest.importorskip(module, exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    runner, output = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE), []
    with rnnx.use_engine("reference"), np.printoptions():  # nothing to compile
        failed, _ = runner.run(example, out=output.append)
    assert not failed, "".join(output)


def exists(name, package):
    """Whether this is a public name of the package, a full name, or a package."""
    home, _, own = name.rpartition(".")
    return own in NAMES.get(home or package, ()) or name in NAMES


@pytest.mark.parametrize("package", PACKAGES)
def test_neighbours(package):
    """Names under "See Also" are those of the same package, or full names."""
    if package in FRAMEWORKS:
        pytest.importorskip(package.rpartition(".")[2])
    for home, name in documented():
        if home == package and name != "words":
            _, found, rest = docstring(home, name).partition("\nSee Also\n--------\n")
            neighbours = rest.partition("\n")[0].split(", ")
            assert found, name
            assert [one for one in neighbours if not exists(one, package)] == [], name
            assert name not in neighbours
