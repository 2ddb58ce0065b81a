"""The notebook runs, its assertions can fail, and it is committed with its outputs."""

import ast
import importlib.util
import os
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import rnnx

DOCS = Path(__file__).parent.parent / "docs"
NOTEBOOK = DOCS / "step_by_step.ipynb"

nbformat = pytest.importorskip("nbformat")
FigureCanvasAgg = pytest.importorskip("matplotlib.backends.backend_agg").FigureCanvasAgg
FIGURES = [path.stem for path in sorted((DOCS / "figures").glob("*.svg"))]


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def load(path, monkeypatch):
    """Import a script of docs/, which may import scripts beside it."""
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_of(notebook):
    """Sources of the code cells without magics."""
    cells = [cell.source for cell in notebook["cells"] if cell.cell_type == "code"]
    return [re.sub(r"^%.*$", "", source, flags=re.MULTILINE) for source in cells]


def run_checks(notebook):
    """Run all cells that draw nothing, in this process."""
    scope: dict = {}
    with np.printoptions():  # restored at the end; cells change them
        for source in code_of(notebook):
            if "Figure(" not in source and "plots." not in source:
                exec(compile(source, "cell", "exec"), scope)


@pytest.mark.slow
def test_notebook_runs(notebook, tmp_path, monkeypatch):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    script = load(DOCS / "execute_notebook.py", monkeypatch)
    executed = script.execute(nbformat.from_dict(notebook), tmp_path)  # raises the first error of a cell
    assert script.warnings_in(executed) == []
    pictures = [o for cell in executed.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) >= 5
    assert os.listdir(tmp_path) == []


# --- its assertions -----------------------------------------------------------------------------------------------

CHECKS = {"error", "numeric_gradient", "isclose", "allclose", "array_equal"}


def called(tree):
    """Names of functions called outside function bodies."""
    names, nodes = set(), list(tree.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef):
            continue
        if isinstance(node, ast.Call):
            names.add(node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""))
        nodes += ast.iter_child_nodes(node)
    return names


def asserts_by_section(notebook):
    """Number of assertions in each numbered section."""
    counts, section = {}, "0"
    for cell in notebook.cells:
        heading = re.match(r"## (\d+)\.", cell.source) if cell.cell_type == "markdown" else None
        section = heading[1] if heading else section
        counts.setdefault(section, 0)
        if cell.cell_type == "code":
            tree = ast.parse(code_of({"cells": [cell]})[0])
            counts[section] += sum(isinstance(node, ast.Assert) for node in ast.walk(tree))
    return counts


def test_every_section_has_assertions(notebook):
    counts = asserts_by_section(notebook)
    least = {"2": 3, "3": 5, "4": 5, "5": 3, "6": 5, "7": 7, "8": 5, "9": 11, "10": 4}
    assert all(counts[section] >= n for section, n in least.items()), counts


def test_every_comparison_is_asserted(notebook):
    for source in code_of(notebook):
        tree = ast.parse(source)
        if called(tree) & CHECKS:
            assert any(isinstance(node, ast.Assert) for node in ast.walk(tree)), source


@pytest.mark.parametrize(
    ("function", "key"),
    [
        ("rnn_cell_forward", 0),
        ("rnn_cell_backward", "dWaa"),
        ("rnn_cell_backward", "da_prev"),
        ("rnn_backward", "dx"),
        ("lstm_cell_forward", 1),
        ("lstm_cell_backward", "dbo"),
        ("lstm_cell_backward", "dc_prev"),
        ("lstm_backward", "dWf"),
        ("lstm_backward", "dbc"),
        ("gru_cell_forward", 0),
    ],
)
def test_wrong_functions_fail_an_assertion(notebook, function, key, monkeypatch):
    right = getattr(rnnx, function)

    def wrong(*arguments, **keywords):
        results = right(*arguments, **keywords)
        parts = dict(results) if isinstance(results, dict) else list(results)
        parts[key] = parts[key] * 1.001
        return parts if isinstance(results, dict) else tuple(parts)

    monkeypatch.setattr(rnnx, function, wrong)
    with pytest.raises(AssertionError):
        run_checks(notebook)


# --- the committed files -------------------------------------------------------------------------------------


def test_outputs_are_committed(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    for cell in notebook.cells:
        assert "execution" not in cell.metadata  # times would differ between runs
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
    assert NOTEBOOK.stat().st_size < 600_000


@pytest.mark.parametrize(
    "name", ["rnn_cell_backward", "lstm_cell_backward", "lstm_over_time", "gru_reset_after", "attention"]
)
def test_a_figure_is_on_a_page_and_in_the_notebook(notebook, name):
    pages = "\n".join(path.read_text(encoding="utf-8") for path in DOCS.glob("*.md"))
    for text in (pages, "\n".join(cell.source for cell in notebook.cells)):
        assert re.search(rf"!\[[^\]]+\]\(figures/{name}\.svg\)", text)  # with alternative text


def test_figures_are_the_committed_ones(notebook, tmp_path, monkeypatch):
    pages = [path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")] + [cell.source for cell in notebook.cells]
    shown = set(re.findall(r"!\[[^\]]+\]\(figures/(\w+)\.svg\)", "\n".join(pages)))  # with alternative text
    schematics = load(DOCS / "figures" / "schematics.py", monkeypatch)
    assert shown == set(schematics.FIGURES)
    schematics.main(tmp_path)
    for name in shown:
        drawn, committed = ((folder / f"{name}.svg").read_bytes() for folder in (tmp_path, DOCS / "figures"))
        assert drawn.count(b"<path d") == committed.count(b"<path d")  # definitions of glyphs depend on Matplotlib


@pytest.mark.slow
def test_figures_are_the_same_every_time(tmp_path, monkeypatch):
    schematics = load(DOCS / "figures" / "schematics.py", monkeypatch)
    folders = [tmp_path / "once", tmp_path / "again"]
    for folder in folders:
        folder.mkdir()
        schematics.main(folder)
    for name in schematics.FIGURES:
        once, again = ((folder / f"{name}.svg").read_bytes() for folder in folders)
        assert once == again


def faults(drawing):
    """Labels of a figure that are cut off, or that another label or a line runs through."""
    FigureCanvasAgg(drawing.figure).draw()
    labels = {text: text.get_window_extent() for text in drawing.axes.texts if text.get_text()}
    bad = [text for text, box in labels.items() if not drawing.axes.bbox.contains(box.x0, box.y0)]
    bad += [text for text, box in labels.items() if not drawing.axes.bbox.contains(box.x1, box.y1)]
    bad += [text for (text, box), (_, other) in combinations(labels.items(), 2) if box.overlaps(other)]
    lines = [line.get_transform().transform_path(line.get_path()) for line in drawing.axes.lines if line.zorder == 2]
    bad += [text for text, box in labels.items() if any(line.intersects_bbox(box, filled=False) for line in lines)]
    return [text.get_text() for text in bad]


@pytest.mark.parametrize("name", FIGURES)
def test_labels_of_figures_are_free(name, monkeypatch):
    assert faults(load(DOCS / "figures" / "schematics.py", monkeypatch).FIGURES[name]()) == []


def test_labels_that_are_not_free_are_found(monkeypatch):
    drawing = load(DOCS / "figures" / "drawing.py", monkeypatch).Drawing(6, 4)
    drawing.text((1, 3), "free")
    drawing.text((3, 1), "under a line")
    drawing.arrow((3, 0.5), (3, 2))
    drawing.text((0.1, 1), "cut off")
    drawing.text((4.5, 3), "one")
    drawing.text((4.6, 3.1), "another")
    assert sorted(faults(drawing)) == ["cut off", "one", "under a line"]
