"""Histograms of parameters."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from rnnx._core import checks
from rnnx.cells import BUILT_IN, Cell
from rnnx.plots import style

# Parameters of a stack, but not of the bridge between encoder and decoder.
_OF_A_CELL = re.compile(r"[^_]+(_(?!bridge_).+)?_l\d+(_reverse)?")
_KINDS = {"recurrent weights": style.BLUE, "input weights": style.ORANGE, "other": "#777777"}
_RECURRENT, _INPUT, _OTHER = _KINDS
_COLUMNS = 4
_PARAMETER = re.compile(r"([Wb])([a-z]{1,3})(?:_(encoder|decoder))?(?:_l(\d+))?(_reverse)?")  # Wf, bf_l0


@style.style()
def weight_histograms(
    parameters: Mapping[str, Any], *, cell: Cell | None = None, bins: int = 60, title: str | None = None
) -> Figure:
    """Plot a histogram of every parameter, with the gates of a layer side by side.

    Matrices that act on [a_prev; x_t] show their two parts separately. All matrices share one horizontal axis, and so
    do all biases.

    Parameters
    ----------
    parameters : dict of str to array
        Parameters of a model or of a cell.
    cell : Cell, optional
        The cell that they belong to, if it is not a built-in one: which of its weights are recurrent.
    bins : int
        Number of bins over the range of all matrices, or of all biases.
    title : str, optional

    Returns
    -------
    matplotlib.figure.Figure
        A panel's title gives the name, the shape and the number of non-finite values, which are not drawn.

    Raises
    ------
    ValueError
        If there are no parameters.

    See Also
    --------
    plot_run, save

    Examples
    --------
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("rnn", n_x=3, n_a=5, rng=0)
    >>> figure = rnnx.plots.weight_histograms(parameters)
    >>> [axes.get_title(loc="left") for axes in figure.axes][:3]
    ['$W_{ax}$  (5, 3)', '$W_{aa}$  (5, 5)', '$b_{a}$  (5, 1)']
    """
    checks.integer("bins", bins)
    arrays = style.all_to_numpy("parameters", parameters)
    keys = _Keys(BUILT_IN.values() if cell is None else [cell], arrays)
    rows = _rows(arrays, keys)
    edges = {kind: _edges([a for n, a in arrays.items() if keys.is_bias(n, a) == kind], bins) for kind in (False, True)}
    width = max(map(len, rows))
    figure = style.new_figure(2.1 * width + 0.6, 1.35 * len(rows) + 0.8, title or _title(arrays, keys, edges))
    panels = figure.subplots(len(rows), width, squeeze=False)
    used: set[str] = set()
    for row, names in zip(panels, rows, strict=True):
        row[0].set_ylabel("parameters per bin", fontsize=8)
        for axes, name in zip(row, names, strict=False):
            used |= _draw(axes, name, arrays[name], edges[keys.is_bias(name, arrays[name])], keys)
        for axes in row[len(names) :]:
            axes.set_axis_off()
    figure.align_ylabels(list(panels[:, 0]))
    for axes in panels[-1, : len(rows[-1])]:
        axes.set_xlabel("value", fontsize=8)
    kinds = [kind for kind in _KINDS if kind in used and kind != _OTHER]
    if kinds:
        style.add_legend(figure, [Patch(color=_KINDS[kind], alpha=0.7) for kind in kinds], kinds)
    return figure


def _title(arrays: Mapping[str, np.ndarray], keys: "_Keys", edges: Mapping[bool, np.ndarray]) -> str:
    """Return a title with the widths of the bins, the unit of the vertical axes."""
    kinds = dict.fromkeys(keys.is_bias(name, array) for name, array in arrays.items())
    widths = [f"{edges[kind][1] - edges[kind][0]:.2g} ({'biases' if kind else 'matrices'})" for kind in kinds]
    return f"Parameters, in bins of {' and '.join(widths)}"


class _Keys:
    """What the keys of cells' parameters stand for."""

    def __init__(self, cells: Iterable[Cell], arrays: Mapping[str, np.ndarray]) -> None:
        cells = list(cells)
        as_wide = {gate.weights[0] for one in cells for gate in one.gates if not gate.width}
        of_layers = [(*name.partition("_")[::2], array) for name, array in arrays.items()]
        self.n_a = {layer: len(array) for key, layer, array in of_layers if key in as_wide and array.ndim == 2}
        gates = [gate for one in cells for gate in one.gates]
        self.joint = {gate.weights[0]: gate for gate in gates if gate.is_joint}
        self.split = {
            key: _INPUT if side == "x" else _RECURRENT
            for gate in gates
            if not gate.is_joint
            for side, key in zip(gate.sides, gate.weights, strict=True)
        }
        self.heads = {key for one in cells for key in one.head}
        weights = {key for gate in gates for key in gate.weights}
        self.vectors = {key for one in cells for key in one.parameter_keys} - weights

    def is_bias(self, name: str, array: np.ndarray) -> bool:
        """Return whether a parameter is a bias, or another vector of a cell."""
        is_vector = name.startswith("b") or name.partition("_")[0] in self.vectors
        return is_vector and array.size == max(array.shape, default=1)


def _rows(arrays: Mapping[str, np.ndarray], keys: _Keys) -> list[list[str]]:
    """Return the panel names by row: layer by layer, matrices before biases."""
    groups: dict[tuple[str, bool], list[str]] = {}
    for name, array in arrays.items():
        head = name in keys.heads
        layer = "head" if head else name.partition("_")[2]
        groups.setdefault((layer, keys.is_bias(name, array) and not head), []).append(name)
    layers = list(dict.fromkeys(layer for layer, _ in groups))
    ordered = [groups.get((layer, bias), []) for layer in layers for bias in (False, True)]
    return [names[at : at + _COLUMNS] for names in ordered for at in range(0, len(names), _COLUMNS)]


def _edges(arrays: list[np.ndarray], bins: int) -> np.ndarray:
    """Return bin edges over all finite values."""
    values = np.concatenate([a[np.isfinite(a)] for a in arrays] or [np.zeros(0)])
    return np.histogram_bin_edges(values if values.size else np.zeros(1), bins)


def _draw(axes: Axes, name: str, array: np.ndarray, edges: np.ndarray, keys: _Keys) -> set[str]:
    """Draw one panel; return the kinds of weights in it."""
    parts = _parts(name, array, keys)
    for kind, part in parts.items():
        counts, _ = np.histogram(part[np.isfinite(part)], edges)
        axes.stairs(counts, edges, fill=True, color=_KINDS[kind], alpha=0.35)
        axes.stairs(counts, edges, color=_KINDS[kind], linewidth=1)
    lost = np.count_nonzero(~np.isfinite(array))
    axes.set_label(name)
    axes.set_title(f"{_symbol(name)}  {array.shape}" + (f", {lost} not finite" if lost else ""), fontsize=8)
    axes.margins(x=0.03)
    axes.set_ylim(bottom=0)
    axes.locator_params(nbins=4)
    return set(parts)


def _symbol(name: str) -> str:
    """Return the symbol of a parameter in the equations: Wf_l0_reverse is W_f, layer 0, reverse."""
    found = _PARAMETER.fullmatch(name)
    if found is None:
        return style.verbatim(name)
    kind, key, part, layer, reverse = found.groups()
    places = [part, layer and f"layer {layer}", reverse and "reverse"]
    return ", ".join([f"${kind}_{{{key}}}$", *filter(None, places)])


def _parts(name: str, array: np.ndarray, keys: _Keys) -> dict[str, np.ndarray]:
    """Split a parameter into its parts for the state and the input. Parameters outside cells are not split."""
    if "_" in name and not _OF_A_CELL.fullmatch(name):
        return {_OTHER: array}
    key, _, layer = name.partition("_")
    if key in keys.joint and array.ndim == 2:
        of_x, of_h = keys.joint[key].split({key: array}, keys.n_a.get(layer, 0))
        if of_x.size:
            return {_RECURRENT: of_h, _INPUT: of_x}
    return {keys.split.get(key, _OTHER): array}
