"""Build the notebook as a JupyterLite page, whose Python runs in the browser: ``python docs/build_lite.py [FOLDER]``.

Needs pip, jupyterlite-core[contents] and jupyterlite-pyodide-kernel; ``nox -s lite`` installs them. The page holds
JupyterLite, the notebook, and the wheels of rnnx and of its two small dependencies. When it is opened, it downloads
Pyodide, NumPy and Matplotlib from Pyodide's site, and does not work without. It has to be served, for instance by
``python -m http.server -d FOLDER``.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

DOCS = Path(__file__).resolve().parent
PACKAGES = ["array-api-compat", "platformdirs", str(DOCS.parent)]  # all but NumPy, which is not pure Python


def contents(folder: Path) -> None:
    """Write the notebook, with a first cell that installs rnnx, and its figures."""
    notebook = nbformat.read(DOCS / "step_by_step.ipynb", as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%pip install -q rnnx matplotlib", id="install"))
    folder.mkdir()
    nbformat.write(notebook, folder / "step_by_step.ipynb")
    shutil.copytree(DOCS / "figures", folder / "figures", ignore=shutil.ignore_patterns("*.py", "__pycache__"))


def build(output: Path) -> None:
    """Build the page in a folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder / "wheels", *PACKAGES], check=True
        )
        contents(folder / "contents")
        wheels = [one for wheel in (folder / "wheels").iterdir() for one in ("--piplite-wheels", wheel)]
        command = [sys.executable, "-m", "jupyterlite_core", "build", "--contents", folder / "contents", *wheels]
        subprocess.run([*command, "--output-dir", output.resolve()], cwd=folder, check=True)
    print(f"python -m http.server -d {output}, and open lab/index.html?path=step_by_step.ipynb there")


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "_build" / "lite")
