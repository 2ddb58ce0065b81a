"""The architecture, read from the source: which package imports what, and what it may know."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import rnnx
from rnnx.cells import BUILT_IN

SOURCE = Path(rnnx.__file__).parent
# From the bottom to the top: a package imports only from itself and from those before it.
LAYERS = ["_core", "cells", "engines", "functional", "losses", "metrics", "optim", "data", "models", "training"]
LAYERS += ["course", "analysis", "plots", "estimators", "convert", "export", "interop", "compare", "cli", "__main__"]
OF_NAMED_TUPLES = {"_asdict", "_fields", "_make", "_replace"}  # public in spite of their names


def dotted_name(path):
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted_name(path): path for path in sorted(SOURCE.rglob("*.py"))}
COPIED = "rnnx.export.shared_model"
RELATIVE = {name.rpartition(".")[2] for name in MODULES if name.startswith(f"{COPIED}.")}


@cache
def nodes(path):
    """The nodes of a module's syntax tree."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def module_of(name, node):
    """The module from which a module imports names. Only a folder for users to copy has relative imports."""
    copied = name == COPIED or name.startswith(f"{COPIED}.")
    assert node.level == (copied and node.module in RELATIVE), f"{name} has a wrong import of {node.module}"
    return f"{COPIED}.{node.module}" if node.level else node.module


def imported_names(name):
    """(module, name) of every name that a module imports, at any depth; the second is empty where none is named."""
    for node in nodes(MODULES[name]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((module_of(name, node), alias.name) for alias in node.names)


def imports(name):
    """The modules that a module imports, or imports names from."""
    for module, imported in imported_names(name):
        full = f"{module}.{imported}"
        yield full if full in MODULES else module


def importers(*packages):
    """The modules that import one of these packages."""
    return {name for name in MODULES if any(imported.split(".")[0] in packages for imported in imports(name))}


def files_matching(pattern):
    return {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    }


@pytest.fixture
def probe(tmp_path):
    """Adds a module `rnnx.probe` with this source to those that are checked."""

    def add(source):
        MODULES["rnnx.probe"] = tmp_path / "probe.py"
        MODULES["rnnx.probe"].write_text(source)
        return "rnnx.probe"

    yield add
    MODULES.pop("rnnx.probe", None)


def test_all_names_of_an_import_are_seen(probe):
    name = probe("from rnnx import cells, engines\nimport os, rnnx.models\ndef f():\n    from rnnx.optim import SGD")
    assert set(imports(name)) == {"rnnx.cells", "rnnx.engines", "os", "rnnx.models", "rnnx.optim"}


def test_only_the_right_places_import_a_library():
    cpu = "rnnx.engines.cpu"
    loops = {name for name in importers("numba", "llvmlite") if not name.startswith(cpu)}
    assert loops == {"rnnx.course.recurrence"}
    assert importers("array_api_compat") == {"rnnx._core.arrays"}
    # The devices that there are, and the GPU engine's interface to CuPy.
    # And torch's tensors as CuPy arrays.
    assert importers("cupy") == {
        "rnnx._core.devices",
        "rnnx.engines.gpu.cupy_device",
        "rnnx.interop.torch.tensors",
    }
    peers = importers("torch", "jax", "tensorflow", "keras")
    peers = {name for name in peers if not name.startswith("rnnx.interop.")}
    assert peers == {"rnnx.compare.keras_side", "rnnx.compare.torch_side"}
    assert files_matching(r"\bis_(numpy|cupy|torch|jax)_|hasattr\([a-z]+, .get.\)") == {"_core/arrays.py"}
    # Only the table of engines depends on a library's name.
    assert files_matching(r"\blibrary_name\b") == {"_core/arrays.py", "engines/__init__.py"}


def test_no_test_imports_from_a_test():
    """Helpers that tests share have files of their own."""

    def imported(node):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        return [node.module or ""] if isinstance(node, ast.ImportFrom) else names

    tests = Path(__file__).parent.rglob("*.py")
    found = {path.name for path in tests for node in nodes(path) for name in imported(node) if name[:5] == "test_"}
    assert found == set()


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


def imports_at_load(name):
    """The modules of rnnx that importing a module imports, itself excluded: not those imported inside functions."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (module := module_of(name, node)).startswith("rnnx"):
            full = (f"{module}.{alias.name}" for alias in node.names)
            yield from (one if one in MODULES else module for one in full)


def circle(graph):
    """A module that, through others, imports itself; None if there is none."""
    left = {name: set(found) for name, found in graph.items()}
    while free := [name for name in left if not left[name] & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left) or None


def test_no_circles_of_modules():
    assert circle({name: imports_at_load(name) for name in MODULES if MODULES[name].stem != "__init__"}) is None


def test_circles_are_seen():
    assert circle({"a": ["b"], "b": ["c", "d"], "c": ["a"], "d": []}) == ["a", "b", "c"]


def private_imports(name):
    """Private modules and names of other packages that a module uses; `rnnx._core` is there for all of them."""
    aliases, found = {}, []
    package = ".".join(name.split(".")[:2])
    for module, imported in imported_names(name):
        full = f"{module}.{imported}".rstrip(".")
        if not full.startswith("rnnx.") or full.startswith(package + "."):
            continue
        aliases[imported] = full
        if any(part.startswith("_") for part in full.removeprefix("rnnx._core").split(".")):
            found.append(full)
    for node in nodes(MODULES[name]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            private = node.attr.startswith("_") and not node.attr.endswith("__") and node.attr not in OF_NAMED_TUPLES
            found += [f"{aliases[node.value.id]}.{node.attr}"] if private else []
    return found


def test_private_names_stay_in_their_package():
    assert {name: found for name in MODULES if (found := private_imports(name))} == {}


def test_private_imports_are_seen(probe):
    name = probe(
        "from rnnx._core import arrays\nfrom rnnx._core.files import _lock\nfrom rnnx.cells import _x, cell\n"
        "from rnnx.engines import _MODULES as table\nfrom rnnx.probe import _mine\ncell._hash\narrays.__name__\n"
    )
    expected = ["rnnx._core.files._lock", "rnnx.cells._x", "rnnx.engines._MODULES", "rnnx.cells.cell._hash"]
    assert private_imports(name) == expected


def test_compiled_code_depends_on_nothing_outside_of_the_hashed_files():
    """The key of the object cache covers what Numba compiles, what emits code for no cell, and all that they import."""
    modules = ("loops.passes", "runtime.workers", "codegen.gemm", "codegen.copy")
    todo, seen = [f"rnnx.engines.cpu.{name}" for name in modules], set()
    while todo:
        name = todo.pop()
        seen.add(name)
        found = {imported for imported in imports(name) if imported.split(".")[0] == "rnnx"}
        todo += found - seen
    assert all(name.startswith("rnnx.engines.cpu.") for name in seen), seen


# --- the architecture --------------------------------------------------------------------------------------------


def code_of(path):
    """The source without comments and docstrings."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


def cells_named_in(code):
    """Names of cells in a source, also as a part of a longer name."""
    names = "|".join({name.split("_")[0] for name in BUILT_IN})
    return re.findall(rf"(?<![a-z])(?:{names})(?![a-z])", code, re.IGNORECASE)


def test_engines_know_no_cell():
    sources = [path for path in (SOURCE / "engines").rglob("*") if path.suffix in (".py", ".cu", ".cuh")]
    assert {path.suffix for path in sources} == {".py", ".cu", ".cuh"}
    sources.append(SOURCE / "functional" / "schedule.py")
    assert {str(path): found for path in sources if (found := cells_named_in(code_of(path)))} == {}


def test_names_of_cells_are_seen(tmp_path):
    path = tmp_path / "a.py"
    path.write_text('"""An lstm."""\nfrom rnnx import CELLS  # gru\nX = """lstm_forward"""\nif gru_reset_after: RNN_1')
    assert cells_named_in(code_of(path)) == ["lstm", "gru", "RNN"]
    path = tmp_path / "a.cu"
    path.write_text("// lstm\n/* gru\n rnn */\n#define RNNX_ROWS\n#if LSTM\nint grunt;")
    assert cells_named_in(code_of(path)) == ["LSTM"]


def test_large_packages_have_a_readme():
    """More than five modules need a page that says in which order to read them, there or in the package around it."""
    sizes = {path.parent: len(list(path.parent.glob("*.py"))) - 1 for path in SOURCE.rglob("__init__.py")}
    missing = {
        folder.relative_to(SOURCE).as_posix()
        for folder, size in sizes.items()
        if size > 5 and not any((place / "README.md").exists() for place in (folder, folder.parent))
    }
    assert missing == set()


def readme_faults(readme):
    """The files that a README names and that do not exist, and the modules that it should name and does not."""
    text = readme.read_text(encoding="utf-8")
    named = {name.split("/")[-1] for name in re.findall(r"`([\w./]+\.(?:py|cuh?))`", text)}
    files = {path.name for path in SOURCE.rglob("*.*")}
    others = {path.parent for path in readme.parent.rglob("README.md")} - {readme.parent}
    own = [path for path in readme.parent.rglob("*.py") if not others.intersection(path.parents)]
    lists = {"zoo"}  # folders of many files of one kind
    return named - files, {path.name for path in own if path.parent.name not in lists} - named - {"__init__.py"}


@pytest.mark.parametrize("readme", sorted(SOURCE.rglob("README.md")), ids=lambda path: path.parent.name)
def test_a_readme_names_the_files_of_its_folder(readme):
    assert readme_faults(readme) == (set(), set())


def test_the_table_of_packages_is_complete():
    table = (SOURCE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("| package | contents |")[2]
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", table.partition("\n\n")[0], re.MULTILINE)))
    assert set(named) == set(LAYERS) - {"__main__"}
