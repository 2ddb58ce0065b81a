"""Public names of the package, and what importing it loads."""

import importlib
import inspect
import re
import subprocess
import sys
import tomllib
import types
from itertools import chain
from pathlib import Path

import pytest
from public import PUBLIC

import rnnx

SOURCE = Path(rnnx.__file__).parent
API = SOURCE.parent / "docs" / "api"


def python(code):
    """What a fresh interpreter prints."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


# --- public names ------------------------------------------------------------------------------------------------


def in_order(names):
    """Constants, classes, functions, each in alphabetical order."""
    return sorted(names, key=lambda name: (0 if name.isupper() else 1 if name[0].isupper() else 2, name))


def documented():
    """The modules that docs/api documents whole, and the full names that have a directive of their own."""
    modules, names = set(), set()
    for page in API.glob("*.rst"):
        module = ""
        for directive, target in re.findall(r"^\.\. ([\w:]+):: ([\w.]+)", page.read_text(encoding="utf-8"), re.M):
            if directive in ("automodule", "currentmodule"):
                module = target
            if directive == "automodule":
                modules.add(target)
            elif directive in ("autoclass", "autofunction", "autodata", "py:data"):
                names.add(f"{module}.{target}")
    return modules - ({"rnnx.estimators"} - {*PUBLIC}), names  # it needs scikit-learn


def needs_docstring(value):
    return inspect.isclass(value) or inspect.isfunction(value)


def undocumented(module):
    """Public names of a module without a docstring or without an entry in docs/api."""
    modules, names = documented()

    def is_documented(public):
        value = getattr(module, public)
        if f"{module.__name__}.{public}" in names:
            return bool(value.__doc__) or not needs_docstring(value)
        # A module that is documented whole shows only what has a docstring.
        shown = needs_docstring(value) and value.__doc__
        return shown and any(getattr(importlib.import_module(other), public, None) is value for other in modules)

    return [public for public in module.__all__ if not is_documented(public)]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_sorted_and_documented(name):
    module = importlib.import_module(name)
    assert list(module.__all__) == in_order(module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)
    assert undocumented(module) == []


def test_undocumented_names_are_found():
    names = {"Adam": rnnx.Adam, "lstm_forward": rnnx.lstm_forward, "no_docstring": lambda: None, "no_entry": 1}
    module = types.SimpleNamespace(__name__="rnnx", __all__=list(names), **names)
    assert undocumented(module) == ["no_docstring", "no_entry"]


def test_subpackages_are_attributes():
    code = """
import sys, rnnx
assert "rnnx.models" not in sys.modules
print(rnnx.models.CharModel.__name__, rnnx.training.Trainer.__name__, rnnx.data.Corpus.__name__)
assert {"models", "plots"} <= set(dir(rnnx))
"""
    assert python(code) == "CharModel Trainer Corpus"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rnnx.nothing  # noqa: B018


def test_every_dependency_has_a_lower_bound():
    """That is true: CI installs the lowest versions and runs the fast tests."""
    root = SOURCE.parent
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    given = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    assert [d for d in given if not re.search(r">=|==", d) and not d.startswith("rnnx[")] == []
    assert "--resolution lowest-direct" in (root / ".ci" / "run").read_text(encoding="utf-8")


def test_the_trust_model_is_stated():
    text = (SOURCE.parent / "SECURITY.md").read_text(encoding="utf-8")
    cache, checkpoints = (
        text.split(f"### {title}\n")[1].split("\n###")[0] for title in ("The object cache", "Checkpoints")
    )
    assert "whoever can write to the folder can run code as you" in cache
    assert "no code: reading it never unpickles or\nexecutes anything" in checkpoints


def test_version():
    from importlib.metadata import version

    assert version("rnnx") == rnnx.__version__


def test_typed():
    assert (SOURCE / "py.typed").exists()


# --- imports at run time -----------------------------------------------------------------------------------------


def test_import_pulls_in_nothing_optional():
    optional = ("numba", "llvmlite", "cupy", "jax", "torch", "scipy", "click", "tqdm", "safetensors", "matplotlib")
    assert python(f"import sys, rnnx; print([m for m in {optional} if m in sys.modules])") == "[]"


def test_reference_engine_never_imports_numba():
    code = """
import sys, numpy as np, rnnx
p = rnnx.initialize_parameters("lstm", 2, 3, seed=0)
with rnnx.use_engine("reference"):
    _, _, _, caches = rnnx.lstm_forward(np.ones((2, 1, 4)), None, p)
    rnnx.lstm_backward(np.ones((3, 1, 4)), caches)
    rnnx.rnn_cell_forward(np.ones((2, 1)), np.ones((3, 1)), rnnx.initialize_parameters("rnn", 2, 3))
print("numba" in sys.modules)
"""
    assert python(code) == "False"
