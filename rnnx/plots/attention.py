"""Heat maps of attention weights."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from rnnx.plots import characters, style

_LABELS = 100  # maximum tick labels per axis; longer texts label every k-th character


@style.style()
def attention_map(weights: Any, source: Sequence[str], target: Sequence[str], *, title: str | None = None) -> Figure:
    """Plot attention weights, with one row per target token and one column per source token.

    Parameters
    ----------
    weights : array, shape (T_target, T_source)
        Values from 0 to 1.
    source, target : str or sequence of str
        The characters or tokens of the columns and the rows.
    title : str, optional

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If the texts do not match the shape of the weights, or the weights are empty.

    See Also
    --------
    rnnx.models.Seq2Seq, rnnx.models.Prediction, save

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.plots import attention_map
    >>> figure = attention_map(np.eye(3), source=["le", "chat", "noir"], target=["the", "black", "cat"])
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]  # rows are of the target
    ['the', 'black', 'cat']
    """
    array = style.to_numpy("weights", weights)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"`weights` must be a non-empty array of shape (T_target, T_source); got shape {array.shape}")
    rows, columns = array.shape
    characters.check_length("target", target, rows)
    characters.check_length("source", source, columns)
    cell = min(0.26, 9 / max(rows, columns))
    size = max(2.6, 1.6 + cell * columns), max(1.8, 1.2 + cell * rows)
    figure = style.new_figure(*size, title or "Attention")
    axes = figure.subplots()
    image = axes.imshow(array, cmap=style.SEQUENTIAL, vmin=0, vmax=max(1.0, array.max()))
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    for axis, text in ((axes.xaxis, source), (axes.yaxis, target)):
        characters.label_ticks(axis, text, every=-(-len(text) // _LABELS))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="read", ylabel="written")
    figure.colorbar(image, ax=axes, label="attention weight", shrink=0.8)
    return figure
