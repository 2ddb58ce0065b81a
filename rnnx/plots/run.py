"""All pictures of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnx.analysis import inspection
from rnnx.plots import style
from rnnx.plots.gates import gate_activations
from rnnx.plots.gradients import gradient_norms
from rnnx.plots.text import text_activation
from rnnx.plots.training import has_losses, training_curves
from rnnx.plots.weights import weight_histograms


def plot_run(
    metrics: Sequence[Mapping[str, Any]],
    model: Any,
    tokenizer: Any,
    folder: str | Path,
    text: str,
    format: str = "png",  # noqa: A002
) -> list[Path]:
    """Write the pictures of a run of a character model.

    Parameters
    ----------
    metrics : list of dict
        As `rnnx.training.read_metrics` returns them; if no loss in them is finite, there is no picture of the training.
    model : CharModel
    tokenizer : CharTokenizer
    folder : str or Path
        Of the run; the pictures go into its folder ``plots``, which is made.
    text : str
        What the model reads for the pictures of its inside; at least two characters of its vocabulary.
    format : {"png", "svg"}

    Returns
    -------
    list of Path
        training_curves, weight_histograms, gate_activations and text_activation (of a model of several layers one
        each, with ``_l0``, ``_l1``, ... at the end), gradient_norms.

    Raises
    ------
    ValueError
        For another format, or a text that is too short or not of the vocabulary.
    OSError
        If a file cannot be written.
    """
    if f".{format}" not in style.FORMATS:
        raise ValueError(f"`format` must be 'png' or 'svg'; got {format!r}")
    norms = inspection.text_gradient_norms(model, tokenizer, text)  # these check the text, before any work
    figures = {"training_curves": training_curves(metrics)} if has_losses(metrics) else {}
    figures["weight_histograms"] = weight_histograms(model.parameters)
    layers = inspection.text_values(model, tokenizer, text)
    for k, values in enumerate(layers):
        end, where = (f"_l{k}", f" of layer {k}") if len(layers) > 1 else ("", "")
        figures[f"gate_activations{end}"] = gate_activations(values, text, title=f"Gates and states{where}")
        figures[f"text_activation{end}"] = text_activation(values, text)
    figures["gradient_norms"] = gradient_norms(
        {f"layer {k}": curve for k, curve in enumerate(norms)},
        title="How far back the gradient of the last character's loss reaches",
    )
    plots = Path(folder) / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    paths = [plots / f"{name}.{format}" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        style.save(figure, path)
    return paths
