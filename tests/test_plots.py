"""Plots: what they draw, and their files."""

import re
import struct
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest
from conftest import to_numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

import rnnx
from rnnx import plots
from rnnx._core.install import install_command
from rnnx.analysis import inspection
from rnnx.cells import BUILT_IN
from rnnx.cli import commands
from rnnx.data import CharTokenizer
from rnnx.models import CharModel
from rnnx.plots import characters, style
from rnnx.plots.text import wrap

TEXT = "to be or\tnot $x$ é中\n"
PNG = b"\x89PNG\r\n\x1a\n"


def draw(figure):
    """Lay out and draw everything, but no pixels. Warnings are errors."""
    figure.draw_without_rendering()


def records(n=40, every=10, **keywords):
    rows = []
    for step in range(1, n + 1):
        loss = 3 / step + 0.1 * (-1) ** step
        row = {"step": step, "epoch": 1, "loss": loss, "smooth_loss": 3.5 - step / 100, "validation_loss": None}
        rows.append({**row, "learning_rate": 0.1 / step, "grad_norm": 2.0 / step, "seconds": 1.0, **keywords})
        if step % every == 0:
            rows.append({**rows[-1], "loss": 99.0, "validation_loss": 4 / step})
    return rows


def caches_of(cell, n_a=5, m=2, n_steps=20):
    rng = np.random.default_rng(3)  # few steps: no need to compile
    parameters = rnnx.initialize_parameters(cell, 4, n_a, seed=1, dtype="float64")
    parameters = {key: rng.standard_normal(p.shape) for key, p in parameters.items()}
    with rnnx.use_engine("reference"):
        return rnnx.recurrent_forward(cell, rng.standard_normal((4, m, n_steps)), (), parameters)[2]


def lines(axes):
    return [np.array(line.get_xydata()) for line in axes.lines]


def heat_maps(figure):
    """The images by name of the gate or state; color bars have none."""
    return {axes.get_label(): axes.images[0] for axes in figure.axes if axes.images}


def tick_labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


# Curves


def test_training_curves_of_one_run():
    rows = records()
    figure = plots.training_curves(rows)
    loss, norm, rate = figure.axes
    batch, smoothed, validation = lines(loss)
    steps = np.arange(1, 41)
    assert np.array_equal(
        batch, np.stack([steps, 3 / steps + 0.1 * (-1.0) ** steps], axis=1)
    )  # without the loss of the evaluations, 99
    assert np.array_equal(validation, np.stack([steps[9::10], 4 / steps[9::10]], axis=1))
    assert np.array_equal(smoothed, np.stack([steps, 3.5 - steps / 100], axis=1))  # as recorded
    averaged = lines(plots.training_curves(rows, smoothing=5).axes[0])[1]
    for t in (1, 2, 40):
        weights = np.exp(-1 / 5) ** np.abs(steps - t)
        assert averaged[t - 1, 1] == pytest.approx(weights @ batch[:, 1] / weights.sum())
    assert np.array_equal(lines(norm)[0][-1], [40, 2 / 40])
    assert norm.get_yscale() == "log"
    assert np.array_equal(lines(rate)[0][0], [1, 0.1])
    assert loss.get_ylabel() == "loss [nats per character]"
    assert (norm.get_ylabel(), rate.get_ylabel(), rate.get_xlabel()) == (
        "gradient norm",
        "learning rate",
        "optimizer step",
    )
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["batch", "smoothed", "validation"]
    draw(figure)


def test_the_recorded_smooth_loss_and_another_unit():
    rows = records()
    loss = plots.training_curves(rows, unit="squared $ error $").axes[0]
    assert lines(loss)[1][0, 1] == rows[0]["smooth_loss"]
    assert loss.get_ylabel() == "loss [squared $ error $]"
    slow, fast = (lines(plots.training_curves(rows, smoothing=s).axes[0])[1] for s in (30, 1))
    assert np.abs(np.diff(fast[-9:, 1])).max() > 5 * np.abs(np.diff(slow[-9:, 1])).max()


def test_a_constant_learning_rate_has_no_panel():
    assert len(plots.training_curves(records(learning_rate=0.1)).axes) == 2
    assert len(plots.training_curves({"a": records(learning_rate=0.1), "b": records(learning_rate=0.2)}).axes) == 3
    bare = [{"step": 1, "loss": 2.0}]
    assert len(plots.training_curves(bare).axes) == 1
    draw(plots.training_curves(bare))


def test_training_curves_of_several_runs():
    runs = {"_a $x$ 中": records(), "b": records(20), "_c": [{"step": 5, "validation_loss": 1.0}]}
    figure = plots.training_curves(runs, title="Three $runs$")
    draw(figure)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["_a $x$ \\u4e2d", "b", "_c"]
    colors = {line.get_color() for line in figure.axes[0].lines}
    assert len(colors) == 3
    assert len(figure.axes[0].lines) == 9
    assert lines(figure.axes[0])[8].tolist() == [[5.0, 1.0]]
    assert figure.get_suptitle() == "Three $runs$"


def test_training_curves_with_numbers_that_are_not_finite():
    rows = records()
    rows[3]["loss"] = rows[5]["grad_norm"] = float("nan")
    rows[4]["loss"] = float("inf")
    figure = plots.training_curves(rows)
    draw(figure)
    assert np.isfinite(lines(figure.axes[0])[1]).all()


def test_many_runs_are_told_apart():
    figure = plots.training_curves({f"run {k}": records(3) for k in range(20)})
    styles = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines[1::3]}
    assert len(styles) == 20
    draw(figure)


def test_gradient_norms(runtime):
    norms = {"RNN": 0.5 ** np.arange(20, -1, -1.0), "LSTM": np.full(21, 0.9), "gone": np.array([0.0, 0.0, 1.0])}
    at_zero = 10 ** (-1.2 * np.log10(2**20))  # a margin below the least norm
    figure = plots.gradient_norms({name: runtime.asarray(values) for name, values in norms.items()})
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    of_zero, *curves = lines(axes)
    assert np.allclose(of_zero[:, 1], at_zero)
    for line, values in zip(curves, norms.values(), strict=True):
        assert np.array_equal(line[:, 0], np.arange(len(values)))
        assert np.allclose(line[:, 1], np.where(values > 0, values, at_zero), rtol=1e-12)
    assert axes.get_ylim()[0] < at_zero
    assert axes.yaxis.get_major_formatter()(axes.get_yticks()[0], 0) == "0"
    assert "0" not in tick_labels(plots.gradient_norms({"RNN": np.ones(3)}).axes[0].yaxis)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == list(norms)
    assert [line.get_linestyle() for line in axes.lines] == [":", "-", "--", "-."]


@pytest.mark.parametrize("values", [[0.0, 0.0], [1.0], [1e-300, 1e300], [3.0, 3.0], [float("nan"), 1.0]])
def test_gradient_norms_at_the_edges(values):
    draw(plots.gradient_norms({"x": values}))


# Gates


@pytest.mark.parametrize("example", [0, 1])
def test_gate_activations_show_the_caches(cell, example):
    caches = caches_of(cell)
    figure = plots.gate_activations(caches, TEXT, example=example)
    if cell is rnnx.CELLS["lstm"] and not example:
        draw(figure)
    values = inspection.gate_values(caches)
    maps = heat_maps(figure)
    assert list(maps) == list(values)
    for (title, image), (name, array) in zip(maps.items(), values.items(), strict=True):
        assert np.array_equal(image.get_array(), array[:, example, :]), title
        sigmoid = name in ("ft", "it", "ot", "ut", "rt")
        assert image.get_cmap().name == ("viridis" if sigmoid else "RdBu_r"), title
        low, high = image.get_clim()
        assert (low, high) == (0, 1) if sigmoid else low == -high <= -1
    bottom = list(maps.values())[-1].axes
    assert tick_labels(bottom.xaxis) == [*"to␣be␣or⇥not␣$x$␣é", "\\u4e2d", "↵"]
    assert tick_labels(bottom.yaxis) == list("01234")


def test_gate_activations_choose_the_units_that_vary(rng):
    a = np.ones((20, 9)) * rng.standard_normal((20, 1))
    c = np.cumsum(np.ones((20, 9)), axis=1) * np.arange(20)[:, None]  # varies, but only drifts
    a[[3, 17, 8]] += rng.standard_normal((3, 9))
    values = {"a": a, "c": c}
    figure = plots.gate_activations(values, n_units=3)
    hidden, cell = heat_maps(figure).values()
    assert tick_labels(hidden.axes.yaxis) == ["3", "8", "17"]
    assert np.array_equal(cell.get_array(), c[[3, 8, 17]])
    assert cell.get_clim() == (-17 * 9, 17 * 9)
    chosen = plots.gate_activations(values, units=[5, 0])
    assert np.array_equal(heat_maps(chosen)["a"].get_array(), a[[5, 0]])


def test_a_long_text_is_shown_in_part(rng):
    text = "".join(chr(97 + k % 26) for k in range(500))
    values = {"a": np.tanh(rng.standard_normal((4, 500)))}
    figure = plots.gate_activations(values, text, start=490, max_steps=50)
    (image,) = heat_maps(figure).values()
    assert np.array_equal(image.get_array(), values["a"][:, 490:])
    assert tick_labels(image.axes.xaxis) == list(text[490:])
    assert figure.get_suptitle() == "Gates and states, steps 490 to 499 of 500"
    assert heat_maps(plots.gate_activations(values, text))["a"].get_array().shape == (4, 72)
    numbered = plots.gate_activations(values, start=100, max_steps=20)
    draw(numbered)
    assert heat_maps(numbered)["a"].axes.xaxis.get_major_formatter()(5, 0) == "105"


def test_arrays_of_any_library(runtime, rng):
    values = {"a": runtime.asarray(rng.standard_normal((3, 2, 4)))}
    (image,) = heat_maps(plots.gate_activations(values, "abcd", example=1)).values()
    assert np.array_equal(image.get_array(), to_numpy(values["a"])[:, 1, :])


@given(st.integers(1, 3), st.text(st.characters(), min_size=1, max_size=8))
@settings(max_examples=4)
@pytest.mark.slow
def test_any_text(n_a, text):
    """No character is lost, lacks a glyph or starts a formula."""
    values = {"ft": np.full((n_a, len(text)), 0.5)}
    draw(plots.gate_activations(values, text))
    draw(plots.text_activation(values, text))
    draw(plots.attention_map(np.ones((len(text), 1)), ["<UNK>"], text, title=text))


def test_visible_characters():
    shown = characters.visible("a \n\t$\\é↵中\x07\xa0\u0301\u200b\ud800🧀")
    assert shown[:8] == ["a", "␣", "↵", "⇥", "$", "\\", "é", "↵"]
    assert shown[8:] == ["\\u4e2d", "\\x07", "\\xa0", "\\u0301", "\\u200b", "\\ud800", "\\U0001f9c0"]
    assert characters.visible(["<a b>"]) == ["<a␣b>"]
    assert characters.printable("run 1\n中") == "run 1\\n\\u4e2d"


def written(figure):
    """The characters of a text figure by row, with the color of the field of each."""
    axes = figure.axes[0]
    fields = axes.images[0].get_array()
    found = [(text.get_position(), text.get_text()) for text in axes.texts]
    return [(label, tuple(fields[int(y), round(x)])) for (x, y), label in found]


def test_text_activation_colors_every_character(rng):
    c = rng.standard_normal((4, 2, len(TEXT)))
    figure = plots.text_activation({"a": np.tanh(c), "c": c}, TEXT, 2, example=1, width=9)
    draw(figure)
    found = written(figure)
    assert [label for label, _ in found] == [*"to be or⇥not $x$ é", "\\u4e2d", "↵"]
    mappable = figure.axes[0].images[0].get_cmap()
    assert mappable is not None
    most = np.abs(c[2, 1]).max()
    import matplotlib

    expected = matplotlib.colormaps["RdBu_r"](0.5 + c[2, 1] / (2 * max(1, most)))
    assert np.allclose([color for _, color in found], expected, atol=1 / 200)
    assert {round(text.get_position()[1]) for text in figure.axes[0].texts} == {0, 1, 2}
    assert figure.get_suptitle() == "Unit 2, cell state $c_t$"
    assert figure.axes[1].get_ylabel() == "$c_t$"


def test_text_can_be_read_on_its_field():
    figure = plots.text_activation(np.array([[-1.0, 0.0, 1.0]]), "abc", name="a")
    assert [to_rgb(text.get_color()) for text in figure.axes[0].texts] == [(1, 1, 1), (0, 0, 0), (1, 1, 1)]


def test_text_activation_of_caches_and_of_a_long_text():
    caches = caches_of(rnnx.CELLS["gru"])
    figure = plots.text_activation(caches, TEXT, name="ut", unit=1)
    assert figure.get_suptitle() == "Unit 1, update gate $u_t$"
    assert "hidden state $a_t$" in plots.text_activation(caches, TEXT).get_suptitle()
    long = plots.text_activation(np.zeros((1, 1000)), "word " * 200, width=20, max_lines=3)
    assert len(long.axes[0].texts) == 60
    assert long.get_suptitle().endswith(", the first 60 of 1000 characters")


@given(st.text("ab \n", max_size=60), st.integers(1, 10))
def test_lines_are_wrapped_without_loss(text, width):
    wrapped = wrap(text, width)
    assert "".join(wrapped) == text
    assert all(0 < len(line) <= 2 * width + 1 and "\n" not in line.strip("\n") for line in wrapped)
    if width > 2 and text != "\n":
        assert "\n" not in wrapped  # no symbol alone on a line


def test_lines_are_broken_after_blanks():
    assert wrap("one two three\n\nx", 9) == ["one two ", "three\n\n", "x"]
    assert wrap("\nTriceratops\n", 11) == ["\nTricerato", "ps\n"]
    assert wrap("\n\nTri\n", 9) == ["\n\nTri\n"]
    assert wrap("abcdefghi", 8) == ["abcdefg", "hi"]
    assert wrap("abcdefgh", 3) == ["abc", "def", "gh"]


# Attention and weights


def test_attention_map(runtime, rng):
    weights = rnnx.softmax(rng.standard_normal((4, 3))).T  # (3, 4)
    figure = plots.attention_map(runtime.asarray(weights), "a b\n", ["x", "中", "<UNK>"])
    draw(figure)
    axes = figure.axes[0]
    assert np.array_equal(axes.images[0].get_array(), weights)
    assert axes.images[0].get_clim() == (0, 1)
    assert tick_labels(axes.xaxis) == ["a", "␣", "b", "↵"]
    assert tick_labels(axes.yaxis) == ["x", "\\u4e2d", "<UNK>"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("read", "written")


def test_attention_over_long_texts_labels_some():
    figure = plots.attention_map(np.zeros((2, 250)), "ab" * 125, "cd")
    assert len(tick_labels(figure.axes[0].xaxis)) == 84
    assert max(figure.get_size_inches()) < 12
    draw(figure)


@pytest.mark.parametrize("name", list(BUILT_IN))
def test_weight_histograms(name):
    parameters = rnnx.initialize_parameters(name, 3, 5, 4, seed=0)
    figure = plots.weight_histograms(parameters, bins=7)
    panels = {axes.get_label(): axes for axes in figure.axes if axes.get_label()}
    assert set(panels) == set(parameters)
    for key, axes in panels.items():
        array = parameters[key]
        outlines = [patch.get_data() for patch in axes.patches if not patch.get_fill()]
        parts = [array[:, :5], array[:, 5:]] if array.shape == (5, 8) else [array]  # on the state, on the input
        assert len(outlines) == len(parts), key
        for (heights, edges, _), part in zip(outlines, parts, strict=True):
            assert np.array_equal(heights, np.histogram(part, edges)[0]), key
            assert heights.sum() == part.size, key
            assert len(heights) == 7
        assert axes.get_title(loc="left").endswith(str(array.shape))
    if name == "lstm":
        draw(figure)


def test_weight_histograms_stand_by_layer_and_gate():
    model = CharModel(6, (4, 3), seed=0)
    figure = plots.weight_histograms(model.parameters)
    grid = [[""] * 4 for _ in range(5)]
    for axes in figure.axes:
        place = axes.get_subplotspec()
        grid[place.rowspan.start][place.colspan.start] = axes.get_label()
    assert grid == [
        ["Wf_l0", "Wi_l0", "Wc_l0", "Wo_l0"],
        ["bf_l0", "bi_l0", "bc_l0", "bo_l0"],
        ["Wf_l1", "Wi_l1", "Wc_l1", "Wo_l1"],
        ["bf_l1", "bi_l1", "bc_l1", "bo_l1"],
        ["Wy", "by", "", ""],
    ]


def test_only_the_matrices_of_cells_have_two_parts():
    names = {"Wf": 2, "Wf_l0": 2, "Wf_l12_reverse": 2, "Wc_encoder_l0": 2, "Wo_my_own_l1_reverse": 2}
    names |= {
        "Wc_attention": 1,
        "Wa_attention": 1,
        "Wa_bridge_l0": 1,
        "Wc_bridge_l0": 1,
        "Wc_l0_other": 1,
        "Wf_other": 1,
    }
    figure = plots.weight_histograms({name: np.ones((3, 5)) for name in names})
    panels = {axes.get_label(): axes for axes in figure.axes if axes.get_label()}
    assert {name: sum(patch.get_fill() for patch in axes.patches) for name, axes in panels.items()} == names


def test_weights_that_are_not_finite_are_counted_and_constant_ones_drawn():
    figure = plots.weight_histograms({"W": np.array([[1.0, np.nan, np.inf]]), "b": np.zeros((3, 1))})
    draw(figure)
    assert figure.axes[0].get_title(loc="left") == "W  (1, 3), 2 not finite"
    draw(plots.weight_histograms({"W": np.full((2, 2), np.nan)}))


# Files


@pytest.fixture
def figure():
    return plots.gradient_norms({"RNN": [0.1, 1.0]})


def test_png(figure, tmp_path):
    plots.save(figure, tmp_path / "a.png")
    plots.save(figure, str(tmp_path / "b.PNG"))
    data = (tmp_path / "a.png").read_bytes()
    assert data.startswith(PNG)
    assert data == (tmp_path / "b.PNG").read_bytes()
    assert b"matplotlib" not in data.lower()
    sizes = [struct.unpack(">II", png[16:24]) for png in (data, figure._repr_png_(), _saved(figure, tmp_path, 50))]
    assert sizes == [(1500, 800), (825, 440), (375, 200)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.PNG"]  # no temporary file


def _saved(figure, tmp_path, dpi):
    plots.save(figure, tmp_path / "b.PNG", dpi=dpi)
    return (tmp_path / "b.PNG").read_bytes()


def test_the_command_offers_what_files_of_plots_can_be():
    """It repeats the constants, because Matplotlib takes long to import."""
    options = {parameter.name: parameter for parameter in commands.plot.params}
    dpi = options["dpi"]
    assert (dpi.default, (dpi.type.min, dpi.type.max)) == (style.DPI, style.DPI_RANGE)
    assert [f".{name}" for name in options["format"].type.choices] == [*style.FORMATS]


def test_pdf(figure, tmp_path):
    for name in ("a.pdf", "b.pdf"):
        plots.save(figure, tmp_path / name)
    data = (tmp_path / "a.pdf").read_bytes()
    assert data.startswith(b"%PDF")
    assert data == (tmp_path / "b.pdf").read_bytes()
    assert not re.search(rb"CreationDate|Matplotlib", data)
    with pytest.raises(ValueError, match="`dpi` must be an integer from 10 to 2400; got 9"):
        plots.save(figure, tmp_path / "c.pdf", dpi=9)
    assert not (tmp_path / "c.pdf").exists()


@pytest.mark.slow
def test_svg_is_the_same_every_time(tmp_path):
    code = """
import sys
from rnnx import plots
plots.save(plots.gradient_norms({"RNN": [0.1, 1.0], "a": [1.0, 2.0]}), sys.argv[1])
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.svg")], check=True)
    plots.save(plots.gradient_norms({"RNN": [0.1, 1.0], "a": [1.0, 2.0]}), tmp_path / "b.svg")
    first, second = ((tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert first == second
    assert xml.etree.ElementTree.fromstring(first).tag.endswith("svg")
    assert not re.search(rb"<dc:date>|Matplotlib v", first)


def test_other_files_are_refused_and_nothing_is_written(figure, tmp_path):
    for name in ("a.eps", "a", "a.png.jpg"):
        with pytest.raises(ValueError, match=r"`path` must end in .png, .svg or .pdf; got '.*'"):
            plots.save(figure, tmp_path / name)
    with pytest.raises(TypeError, match="`figure` must be a matplotlib Figure; got str"):
        plots.save("figure", tmp_path / "a.png")
    with pytest.raises(OSError, match="nowhere"):
        plots.save(figure, tmp_path / "nowhere" / "a.png")
    assert not list(tmp_path.iterdir())


def test_neither_pyplot_nor_the_style_of_others():
    code = """
import sys, matplotlib
before = matplotlib.rcParams.copy()
import rnnx
from rnnx._core.install import install_command
assert "matplotlib.pyplot" not in sys.modules
from rnnx import plots
plots.gate_activations({"a": [[0.1, 0.2]]}, "ab").draw_without_rendering()
print("matplotlib.pyplot" in sys.modules, before == matplotlib.rcParams.copy())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True"]


def test_without_matplotlib():
    code = """
import sys
sys.modules["matplotlib"] = None
import rnnx.analysis.inspection
try:
    import rnnx.plots
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == f"rnnx.plots needs matplotlib: {install_command('lab')}"


# A run


@pytest.mark.parametrize(("cell", "layers", "kind"), [("lstm", 1, "png"), ("gru", 2, "pdf")])
def test_plot_run(tmp_path, monkeypatch, cell, layers, kind):
    text = "a dinosaur\n"
    tokenizer = CharTokenizer().fit(text)
    model = CharModel(tokenizer.vocab_size, 6, layers, cell=cell, seed=0)
    start = {".png": PNG, ".pdf": b"%PDF"}

    def to_bytes(figure, suffix, dpi):
        assert dpi == 300
        if kind == "png":  # drawing everything once is enough
            draw(figure)
        return start[suffix]

    monkeypatch.setattr(style, "to_bytes", to_bytes)
    with rnnx.use_engine("reference"):
        paths = plots.plot_run(records(), model, tokenizer, tmp_path / "run", text, format=kind, dpi=300)
    ends = [""] if layers == 1 else ["_l0", "_l1"]
    names = ["training_curves", "weight_histograms"]
    names += [f"{picture}{end}" for end in ends for picture in ("gate_activations", "text_activation")]
    assert paths == [tmp_path / "run" / "plots" / f"{name}.{kind}" for name in [*names, "gradient_norms"]]
    assert all(path.read_bytes() == start[f".{kind}"] for path in paths)


def test_a_run_without_metrics(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "to_bytes", lambda *arguments: b"")
    tokenizer = CharTokenizer(None).fit("ab")
    with rnnx.use_engine("reference"):
        paths = plots.plot_run([], CharModel(2, 1, seed=0), tokenizer, tmp_path, "ab")
    assert "training_curves.png" not in [path.name for path in paths]
    assert len(paths) == 4


@pytest.mark.parametrize("value", [float("inf"), float("nan"), None])
@pytest.mark.slow
def test_plot_run_of_a_run_that_diverged(tmp_path, monkeypatch, value):
    monkeypatch.setattr(style, "to_bytes", lambda *arguments: b"")
    model, tokenizer = CharModel(2, 1, cell="rnn", seed=0), CharTokenizer(None).fit("ab")
    late, at_once = records(4), records(4, loss=value, smooth_loss=value, grad_norm=value)
    late[3] |= {"loss": value, "smooth_loss": value, "grad_norm": value}
    at_once[-1]["validation_loss"] = value
    draw(plots.training_curves(late))
    with rnnx.use_engine("reference"):
        for rows, curves in ((late, True), (at_once, False)):
            names = {path.stem for path in plots.plot_run(rows, model, tokenizer, tmp_path, "ab")}
            assert ("training_curves" in names) == curves
            assert {"weight_histograms", "gradient_norms"} <= names


@pytest.mark.parametrize(("text", "kind"), [("a", "png"), ("", "png"), ("az", "png"), ("ab", "eps")])
def test_plot_run_refuses_before_it_writes(tmp_path, text, kind):
    tokenizer = CharTokenizer(None).fit("ab")
    model = CharModel(2, 3, seed=0)
    with pytest.raises(ValueError, match=r"`text` must|the vocabulary does not contain|`format` must be"):
        plots.plot_run(records(), model, tokenizer, tmp_path / "run", text, format=kind)
    assert not list(tmp_path.iterdir())


# Errors


ONE = np.zeros((2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plots.training_curves([]), ValueError, "`metrics` must contain a finite loss"),
        (lambda: plots.training_curves({}), ValueError, "at least one run"),
        (
            lambda: plots.training_curves({"a": [{"step": 1}]}),
            ValueError,
            r"`metrics\['a'\]` must contain a finite loss",
        ),
        (lambda: plots.training_curves([{"loss": 1.0}]), TypeError, "a list of dicts with the key 'step'"),
        (
            lambda: plots.training_curves(records(), smoothing=0),
            ValueError,
            "`smoothing` must be an integer of at least 1; got 0",
        ),
        (lambda: plots.gradient_norms({}), ValueError, "`curves` must be a non-empty dict of arrays"),
        (
            lambda: plots.gradient_norms({"a": ONE}),
            ValueError,
            r"`curves\['a'\]` .* of shape \(T \+ 1,\); got",
        ),
        (lambda: plots.gradient_norms({"a": [1.0, -1.0]}), ValueError, "must not be negative; got -1.0"),
        (lambda: plots.gradient_norms({"a": "abc"}), TypeError, r"`curves\['a'\]` must be an array"),
        (lambda: plots.gradient_norms({"a": ["b"]}), TypeError, "must contain real numbers; got dtype"),
        (
            lambda: plots.gate_activations({"a": ONE}, "ab"),
            ValueError,
            "`text` must have length 3, one char",
        ),
        (lambda: plots.gate_activations({}, "ab"), TypeError, "`values` must be caches or a non-empty dict of arrays"),
        (lambda: plots.gate_activations(ONE, "abc"), TypeError, "`values` must be caches or a non-empty dict"),
        (lambda: plots.gate_activations({"a": ONE[:, :0]}), ValueError, "`a` must be a non-empty array of shape"),
        (lambda: plots.gate_activations({"a": ONE, "c": ONE.T}), ValueError, "the same n_a and T; got"),
        (
            lambda: plots.gate_activations({"a": ONE}, units=[2]),
            ValueError,
            "`units` must be an integer from 0 to 1; got 2",
        ),
        (lambda: plots.gate_activations({"a": ONE}, units=[]), ValueError, "at least one unit"),
        (lambda: plots.gate_activations({"a": ONE}, n_units=0), ValueError, "`n_units` must be an integer of at least"),
        (
            lambda: plots.gate_activations({"a": ONE}, start=3),
            ValueError,
            "`start` must be an integer from 0 to 2; got 3",
        ),
        (lambda: plots.gate_activations({"a": ONE}, max_steps=0), ValueError, "`max_steps` must be an integer"),
        (
            lambda: plots.gate_activations({"a": ONE[:, None, :]}, example=1),
            ValueError,
            "`example` must be an integer from 0",
        ),
        (
            lambda: plots.text_activation({"a": ONE}, "abc", 2),
            ValueError,
            "`unit` must be an integer from 0 to 1; got 2",
        ),
        (lambda: plots.text_activation({"a": ONE}, "abc", name="ft"), ValueError, r"`name` must be one of \['a'\]"),
        (lambda: plots.text_activation({"a": ONE}, "abc", width=0), ValueError, "`width` must be an integer"),
        (lambda: plots.text_activation({"a": ONE}, "ab"), ValueError, "`text` must have length 3"),
        (lambda: plots.attention_map(ONE, "ab", "ab"), ValueError, "`source` must have length 3"),
        (lambda: plots.attention_map(ONE, "abc", "a"), ValueError, "`target` must have length 2"),
        (
            lambda: plots.attention_map(ONE[0], "abc", "a"),
            ValueError,
            r"of shape \(T_target, T_source\); got",
        ),
        (lambda: plots.weight_histograms({}), ValueError, "`parameters` must be a non-empty dict of arrays"),
        (lambda: plots.weight_histograms({"W": ONE}, bins=0), ValueError, "`bins` must be an integer of at least 1"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_everything_returns_a_figure_without_a_window(figure):
    assert isinstance(figure, Figure)
    assert figure.canvas.manager is None
    assert not [a for a in figure.axes if isinstance(a, AxesImage)]


def test_the_page_of_pictures():
    """The example on the page runs, and all its pictures exist and are small."""
    docs = Path(__file__).parent.parent / "docs"
    page = (docs / "pictures.md").read_text(encoding="utf-8")
    scope: dict = {}
    with rnnx.use_engine("reference"):
        for code in re.findall("^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
            exec(code, scope)
    assert isinstance(scope["figure"], Figure)
    pictures = re.findall(r"\]\((pictures/\w+\.png)\)", page)
    assert len(pictures) == len(set(pictures)) == 7
    assert all((docs / picture).stat().st_size < 150 * 1024 for picture in pictures)
