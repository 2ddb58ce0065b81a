"""Run the notebook and save its outputs: `python docs/execute_notebook.py [NOTEBOOK]`.

Times and versions are removed, so that running it again changes nothing.
"""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent / "step_by_step.ipynb"


def execute(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Run all cells in a folder; raise `nbclient.exceptions.CellExecutionError` at the first error.

    One thread is enough: the sizes are small, and threads wait for each other on a busy machine.
    """
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, kernel_name="python3", timeout=600, coalesce_streams=True, resources=resources)
    return client.execute(env={**os.environ, "OMP_NUM_THREADS": "1"})


def warnings_in(notebook: nbformat.NotebookNode) -> list[str]:
    """Return what the cells wrote to stderr."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output.text for output in outputs if output.get("name") == "stderr"]


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove times and versions."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {name: value for name, value in cell.metadata.items() if name == "tags"}
    return notebook


def main(path: Path) -> None:
    """Execute a notebook in its folder and write it back."""
    notebook = clean(execute(nbformat.read(path, as_version=4), path.parent))
    written = warnings_in(notebook)
    if written:
        sys.exit(f"{path} writes to stderr:\n{''.join(written)}")
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else NOTEBOOK)
