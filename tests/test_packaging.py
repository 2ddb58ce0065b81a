"""What is published: the built files, what they say about rnnx, and the commands that messages and pages name."""

import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import rnnx
from rnnx._core.install import install_command

ROOT = Path(__file__).parent.parent
in_clone = pytest.mark.skipif(not (ROOT / ".github").exists(), reason="only in a clone of the repository")
REQUIRED = [
    "numpy>=2.0",
    'click>=8.1; extra == "lab"',
    "tqdm>=4.66; extra == 'lab'",
    'numba>=0.61; sys_platform != "emscripten" and extra == "jit"',
    'nothing; extra == "lab2"',
]


def test_the_command_that_installs_an_extra_names_its_packages(monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: REQUIRED)
    assert install_command("lab") == 'pip install "click>=8.1" "tqdm>=4.66"'
    assert install_command("jit") == 'pip install "numba>=0.61"'
    assert install_command("unknown") == 'pip install "rnnx[unknown]"'  # installed before there was such an extra

    def missing(name):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "requires", missing)
    assert install_command("lab") == 'pip install "rnnx[lab]"'


@in_clone
def test_only_the_page_on_installation_names_an_index():
    """Until rnnx is on one, all other commands work in a clone, or name the packages that are missing."""
    paths = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.ipynb")]
    paths += [path for folder in ("rnnx", "examples", "asv_benchmarks") for path in (ROOT / folder).rglob("*.py")]
    text = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    found = {name for name in text if re.search(r"""pip install [^\n`#]*[ "']rnnx["'\[]""", text[name])}
    assert found - {"rnnx/_core/install.py"} == {"README.md", "docs/installation.md"}
    assert "not on an index yet" in text["README.md"]
    assert "**once rnnx is published there**" in text["docs/installation.md"]


@in_clone
def test_the_version_is_the_same_everywhere():
    for name, pattern in (
        ("CITATION.cff", r"^version: (.*)$"),
        ("packaging/conda/recipe.yaml", r"^  version: (\d.*)$"),
        ("docs/installation.md", r"rnnx-([\d.]+)-py3"),
    ):
        assert re.findall(pattern, (ROOT / name).read_text(encoding="utf-8"), re.M) == [rnnx.__version__], name


@in_clone
def test_the_recipe_has_the_same_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + [
        one for extra in ("jit", "lab") for one in project["optional-dependencies"][extra]
    ]
    recipe = (ROOT / "packaging/conda/recipe.yaml").read_text(encoding="utf-8").split("  run:\n")[1]
    given = set(re.findall(r"^    - ([\w-]+) >=([\d.]+)$", recipe, re.M))
    expected = {tuple(name.partition(";")[0].split(">=")) for name in wanted}
    assert given == {("matplotlib-base" if name == "matplotlib" else name, version) for name, version in expected}


@in_clone
def test_the_recipe_renders():
    rattler_build = pytest.importorskip("rattler_build")
    (variant,) = rattler_build.Stage0Recipe.from_file(ROOT / "packaging/conda/recipe.yaml").render()
    recipe = variant.recipe.to_dict()
    assert recipe["build"]["noarch"] == "python"
    assert f"python >={recipe['context']['python_min']}" in recipe["requirements"]["run"]
    assert recipe["build"]["python"]["entry_points"] == ["rnnx = rnnx.__main__:main"]


@in_clone
def test_python_versions_are_those_of_the_workflow_and_the_sessions():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = [line.split()[-1] for line in project["classifiers"] if re.search(r"Python :: 3\.\d", line)]
    listed = "[" + ", ".join(f'"{version}"' for version in versions) + "]"
    assert f"python: {listed}" in (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert f"python={listed}" in (ROOT / "noxfile.py").read_text(encoding="utf-8")
    assert project["requires-python"] == f">={versions[0]}"


@in_clone
def test_workflows_are_yaml():
    yaml = pytest.importorskip("yaml")
    files = [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"]
    assert len(files) >= 8
    for path in files:
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), path


@in_clone
@pytest.mark.slow
def test_the_built_files_install_and_run(tmp_path):
    """An sdist from the clone, a wheel from it, and the wheel in an environment with nothing else of the clone."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (sdist,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    assert (sdist.name, wheel.name) == (f"rnnx-{rnnx.__version__}.tar.gz", f"rnnx-{rnnx.__version__}-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rnnx").rglob("*") if path.is_file()}
    assert {name for name in here if "__pycache__" not in name} == {name for name in names if name[:5] == "rnnx/"}
    assert {name.split("/")[0] for name in names} == {"rnnx", f"rnnx-{rnnx.__version__}.dist-info"}

    # The dependencies come from here, so that nothing is downloaded.
    environment = tmp_path / "bare"
    venv.create(environment, with_pip=False)
    (bare,) = (
        environment.glob("lib/python*/site-packages")
        if sys.platform != "win32"
        else [environment / "Lib/site-packages"]
    )
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(bare),
        str(wheel),
    ]
    subprocess.run(install, check=True)
    (bare / "dependencies.pth").write_text(str(Path(metadata.distribution("numpy").locate_file(""))))
    code = "import rnnx, numpy as np; print(rnnx.__file__, rnnx.__version__, rnnx.sigmoid(np.zeros(1))[0])"
    result = subprocess.run([python, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.split() == [str(bare / "rnnx" / "__init__.py"), rnnx.__version__, "0.5"]
    arguments = ["train", "--hidden-size", "4", "--iterations", "1", "--quiet"]
    result = subprocess.run([python, "-I", "-m", "rnnx", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs" / "dinos-lstm" / "model.safetensors").exists()
