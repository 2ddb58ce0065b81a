"""The package as a whole: what it exports, what it imports, where it may ask about libraries."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rnnx

SOURCE = Path(rnnx.__file__).parent


def python(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def in_order(names):
    """Constants, classes, functions, each in the order of the alphabet."""
    return sorted(names, key=lambda name: (0 if name.isupper() else 1 if name[0].isupper() else 2, name))


PUBLIC = [
    "rnnx",
    *(f"rnnx.{name}" for name in ["analysis", "compare", "convert", "data", "models", "optim", "plots", "training"]),
]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_sorted_and_documented(name):
    module = importlib.import_module(name)
    assert list(module.__all__) == in_order(module.__all__)
    for public in module.__all__:
        value = getattr(module, public)
        assert not (isinstance(value, type) or inspect.isfunction(value)) or value.__doc__, public


def test_import_pulls_in_nothing_optional():
    optional = ("numba", "llvmlite", "cupy", "jax", "torch", "scipy", "click", "tqdm", "safetensors", "matplotlib")
    assert python(f"import sys, rnnx; print([m for m in {optional} if m in sys.modules])") == "[]"


def test_plain_never_imports_numba():
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


def modules():
    """Every module of the package: its dotted name and its syntax tree."""
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, ast.parse(path.read_text(encoding="utf-8"))


MODULES = dict(modules())


def imports(name):
    """Dotted names that a module imports anywhere in it: modules, or the modules that imported names come from."""
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def importers(*packages):
    """The modules that import one of these packages."""
    return {name for name in MODULES if any(imported.split(".")[0] in packages for imported in imports(name))}


def files_matching(pattern):
    return {
        str(path.relative_to(SOURCE)).replace("\\\\", "/")
        for path in SOURCE.rglob("*.py")
        if re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    }


def test_only_the_right_places_import_a_library():
    cpu = "rnnx.engines.cpu"
    assert all(name.startswith(cpu) for name in importers("numba", "llvmlite"))
    assert importers("array_api_compat") == {"rnnx._core.arrays"}
    # What a GPU is asked about, and what answers the GPU engine.
    assert importers("cupy") == {"rnnx._core.devices", "rnnx.engines.gpu.cupy_device"}
    assert importers("torch", "jax", "tensorflow", "keras") == {"rnnx.compare.keras_side", "rnnx.compare.torch_side"}
    assert files_matching(r"\bis_(numpy|cupy|torch|jax)_|hasattr\([a-z]+, .get.\)") == {"_core/arrays.py"}
    # The table of engines goes by the library's name; nothing else does.
    assert files_matching(r"\blibrary_name\b") == {"_core/arrays.py", "engines/__init__.py"}


# From the bottom to the top: a package imports only from those before it.
LAYERS = ["_core", "cells", "engines", "functional", "optim", "data", "models", "training"]
LAYERS += ["analysis", "plots", "convert", "compare", "cli", "__main__"]


def layer(name):
    return name.split(".")[1]


def test_dependencies_point_one_way():
    assert {layer(name) for name in MODULES if name != "rnnx"} == set(LAYERS)
    wrong = [
        f"{name} imports {imported}"
        for name in MODULES
        if name != "rnnx"
        for imported in imports(name)
        if imported.startswith("rnnx.") and LAYERS.index(layer(imported)) > LAYERS.index(layer(name))
    ]
    assert wrong == []


def test_all_names_of_an_import_are_seen():
    tree = ast.parse(
        "from rnnx import cells, engines\nimport os, rnnx.models\ndef f():\n    from rnnx.optim import SGD"
    )
    MODULES["probe"] = tree
    try:
        assert set(imports("probe")) == {"rnnx.cells", "rnnx.engines", "os", "rnnx.models", "rnnx.optim"}
    finally:
        del MODULES["probe"]


def test_compiled_code_depends_on_nothing_outside_of_the_hashed_files():
    """What Numba compiles, and all that it imports, is part of the key under which compiled code is kept."""
    todo, seen = ["rnnx.engines.cpu.loops.passes", "rnnx.engines.cpu.runtime.workers"], set()
    while todo:
        name = todo.pop()
        seen.add(name)
        found = {imported for imported in imports(name) if imported.split(".")[0] == "rnnx"}
        todo += found - seen
    assert all(name.startswith("rnnx.engines.cpu.") for name in seen), seen


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


def test_engines_know_no_cell():
    sources = [path for path in (SOURCE / "engines").rglob("*") if path.suffix in (".py", ".cu", ".cuh")]
    assert {path.suffix for path in sources} == {".py", ".cu", ".cuh"}
    for path in sources:
        text = path.read_text(encoding="utf-8")
        code = re.sub(r'""".*?"""|#[^\n]*|//[^\n]*', "", text, flags=re.DOTALL)
        assert not re.search(r"\b(lstm|gru|rnn)\b", code, re.IGNORECASE), path


def test_version():
    from importlib.metadata import version

    assert version("rnnx") == rnnx.__version__


@pytest.mark.parametrize("name", ["py.typed"])
def test_typed(name):
    assert (SOURCE / name).exists()
