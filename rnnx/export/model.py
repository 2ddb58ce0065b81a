"""Trained models as C files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.checks import choice, flag
from rnnx._core.files import check_writable, write_atomically
from rnnx._core.words import shown
from rnnx.export.functions import Functions
from rnnx.export.interface import Seq2SeqSource, SequenceSource
from rnnx.export.seq2seq import Seq2SeqFunctions
from rnnx.export.source import Source
from rnnx.export.text import identifier
from rnnx.functional.quantization import weights_of
from rnnx.models.character import CharModel
from rnnx.models.seq2seq import Seq2Seq
from rnnx.models.sequence_model import SequenceModel


def to_c(
    model: SequenceModel | Seq2Seq,
    path: str | Path,
    *,
    name: str | None = None,
    weights: str | None = None,
    indices: bool | None = None,
    vocabulary: Sequence[str] | None = None,
    target_vocabulary: Sequence[str] | None = None,
) -> tuple[Path, Path]:
    """Write a model as a C99 file and its header, without dependencies, for one sequence at a time.

    The header says how to compile and call it.

    Parameters
    ----------
    model : CharModel, SequenceClassifier, SequenceRegressor or Seq2Seq
        With any cell; evaluation is exported, without dropout. It computes in float32.
    path : str or Path
        The C file, which ends in ``.c``. The header is beside it.
    name : str, optional
        What the names of the functions begin with; by default the name of the file. Characters that a name in C cannot
        have become underscores.
    weights : {"float32", "int8"}, optional
        How the weights of the layers are stored; "int8" rounds them as `rnnx.quantize` does. The default is "int8" for
        a model that is quantized to it.
    indices : bool, optional
        Whether the inputs are indices of one-hot columns. The default is true for a CharModel and a Seq2Seq, and false
        for others.
    vocabulary : sequence of str, optional
        What the outputs stand for: the characters of a CharModel, or the names of classes. Of a Seq2Seq, what the
        inputs stand for.
    target_vocabulary : sequence of str, optional
        What the tokens of a Seq2Seq stand for.

    Returns
    -------
    tuple of Path
        The C file and the header.

    Raises
    ------
    ValueError, TypeError
        If this is not such a model, an argument is wrong, or a parameter is not finite. Nothing is written then.

    See Also
    --------
    build, rnnx.quantize, rnnx.convert.save_onnx

    Examples
    --------
    >>> from rnnx.export import to_c
    >>> from rnnx.models import SequenceRegressor
    >>> source, header = to_c(SequenceRegressor(3, 8, rng=0), "model.c", weights="int8")
    >>> source.name, header.name
    ('model.c', 'model.h')
    """
    if not isinstance(model, SequenceModel | Seq2Seq):
        kinds = "CharModel, SequenceClassifier, SequenceRegressor or Seq2Seq"
        raise TypeError(f"`model` must be a {kinds}; got {shown(model)}")
    target = _checked_path(path)
    indices = isinstance(model, CharModel | Seq2Seq) if indices is None else flag("indices", indices)
    _check_indices(model, indices)
    stored = weights_of(model.parameters)
    default = "int8" if stored == "int8" else "float32"
    weights = choice("weights", default if weights is None else weights, ("float32", "int8"))
    if weights == "int8" and stored != "int8":
        model = model.quantized("int8")
    parameters = _checked_parameters(model)
    given, sizes = {"vocabulary": vocabulary, "target_vocabulary": target_vocabulary}, _vocabulary_sizes(model)
    words = {name: _checked_vocabulary(name, one, sizes.get(name)) for name, one in given.items() if one is not None}
    own, int8 = identifier(target.stem if name is None else _checked_name(name)), weights == "int8"
    file: Source
    if isinstance(model, Seq2Seq):
        file = Seq2SeqSource(Seq2SeqFunctions(model, parameters, own, int8=int8), target.name, words)
    else:
        file = SequenceSource(Functions(model, parameters, own, indices=indices, int8=int8), target.name, words)
    source, header = file.source(), file.header()
    beside = target.with_suffix(".h")
    for each in (target, beside):
        check_writable(each)
    write_atomically(beside, header.encode())
    write_atomically(target, source.encode())
    return target, beside


def _checked_path(path: Any) -> Path:
    if not isinstance(path, str | Path):
        raise TypeError(f"`path` must be a str or Path; got {shown(path)}")
    target = Path(path)
    if target.suffix != ".c":
        raise ValueError(f"`path` must end in .c; got {path}")
    if not target.name.isprintable() or {*target.name} & {*'"\\'}:
        raise ValueError(f"`path` must have a name without quotes and backslashes; got {target.name!r}")
    return target


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"`name` must be a str; got {shown(name)}")
    if not name:
        raise ValueError("`name` must not be empty")
    return name


def _vocabulary_sizes(model: SequenceModel | Seq2Seq) -> dict[str, tuple[int, str]]:
    """Return how many words each vocabulary of a model has, and what they stand for."""
    if isinstance(model, Seq2Seq):
        n_x, n_y = model.encoder.input_size, model.target_vocab_size
        return {"vocabulary": (n_x, "source tokens"), "target_vocabulary": (n_y, "target tokens")}
    n = model.head.n_out if model.loss_function.kind == "numbers" else model.output_size
    return {"vocabulary": (n, "outputs")}


def _checked_vocabulary(name: str, words: Any, of: tuple[int, str] | None) -> list[str]:
    if of is None:
        raise ValueError(f"`{name}` is for a Seq2Seq")
    n, counted = of
    if isinstance(words, str) or not all(isinstance(word, str) for word in words):
        raise TypeError(f"`{name}` must be a sequence of str; got {shown(words)}")
    if len(words) != n:
        raise ValueError(f"`{name}` must have an entry for each of the {n} {counted}; got {len(words)}")
    return list(words)


def _check_indices(model: Any, indices: bool) -> None:
    if not indices and isinstance(model, Seq2Seq):
        raise ValueError("`indices` must be True for a Seq2Seq")
    if indices and isinstance(model, SequenceModel) and model.input_scaler is not None:
        raise ValueError("`indices` must be False for a model with an `input_scaler`")


def _checked_parameters(model: Any) -> dict[str, np.ndarray]:
    """Return the parameters on the host; they and the scalers must be finite in float32."""
    parameters = {key: ns.to_host(value) for key, value in model.parameters.items()}
    units = {name: getattr(model, name, None) for name in ("input_scaler", "target_scaler")}
    numbers = {name: np.array(list(one.config.values())) for name, one in units.items() if one is not None}
    for key, value in {**parameters, **numbers}.items():
        if not np.isfinite(value.astype(np.float32)).all():
            raise ValueError(f"`model` must have parameters that are finite in float32; {key!r} is not")
    return parameters
