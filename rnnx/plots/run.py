"""All plots of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnx._core import checks
from rnnx.analysis import inspection
from rnnx.plots import style
from rnnx.plots.curves import gradient_norms, has_losses, training_curves
from rnnx.plots.gates import gate_activations
from rnnx.plots.text import text_activation
from rnnx.plots.weights import weight_histograms


def plot_run(
    metrics: Sequence[Mapping[str, Any]],
    model: Any,
    tokenizer: Any,
    folder: str | Path,
    text: str,
    format: str = "png",  # noqa: A002
    dpi: int = style.DPI,
) -> list[Path]:
    """Plot the training metrics, gates, gradients and weights of a character model, and write the files.

    Parameters
    ----------
    metrics : list of dict
        The result of `rnnx.training.read_metrics`. Training curves are plotted only if there is a finite loss.
    model : CharModel
    tokenizer : CharTokenizer
    folder : str or Path
        The folder of the run. The files go to its subfolder ``plots``, created if missing.
    text : str
        Text for the plots of activations and gradients: at least two characters of the vocabulary.
    format : {"png", "svg", "pdf"}
    dpi : int
        As for `save`.

    Returns
    -------
    list of Path
        training_curves, weight_histograms, gate_activations and text_activation (with the suffixes ``_l0``, ``_l1``,
        ... if the model has several layers), gradient_norms.

    Raises
    ------
    ValueError
        If `format` is unknown, `dpi` is not from 10 to 2400, or the text is too short or not in the vocabulary.
    OSError
        If a file cannot be written.

    See Also
    --------
    training_curves, weight_histograms, gate_activations, rnnx.training.read_metrics

    Examples
    --------
    >>> from rnnx.data import CharTokenizer
    >>> from rnnx.models import CharModel
    >>> from rnnx.plots import plot_run
    >>> tokenizer = CharTokenizer(oov_token=None).fit("abcd")
    >>> model = CharModel(tokenizer.vocab_size, hidden_size=8, rng=0)
    >>> [path.name for path in plot_run([], model, tokenizer, ".", text="abacad", format="svg")]
    ['weight_histograms.svg', 'gate_activations.svg', 'text_activation.svg', 'gradient_norms.svg']
    """
    checks.choice("format", format, [suffix[1:] for suffix in style.FORMATS])
    checks.integer("dpi", dpi, *style.DPI_RANGE)
    norms = inspection.text_gradient_norms(model, tokenizer, text)  # checks the text, before any work
    figures = {"training_curves": training_curves(metrics)} if has_losses(metrics) else {}
    figures["weight_histograms"] = weight_histograms(model.parameters, cell=model.cell)
    layers = inspection.text_values(model, tokenizer, text)
    for k, values in enumerate(layers):
        end, where = (f"_l{k}", f" of layer {k}") if len(layers) > 1 else ("", "")
        figures[f"gate_activations{end}"] = gate_activations(values, text, title=f"Gates and states{where}")
        figures[f"text_activation{end}"] = text_activation(values, text)
    figures["gradient_norms"] = gradient_norms(
        {f"layer {k}": curve for k, curve in enumerate(norms)},
        title="Gradient norms of the last character's loss over time",
    )
    plots = Path(folder) / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    paths = {plots / f"{name}.{format}": figure for name, figure in figures.items()}
    for path, figure in paths.items():
        style.save(figure, path, dpi=dpi)
    return list(paths)
