"""Trained models as C files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.checks import choice, flag, nearest
from rnnx._core.files import check_writable, write_atomically
from rnnx._core.words import shown
from rnnx.export.functions import Functions
from rnnx.export.interface import Seq2SeqSource, SequenceSource
from rnnx.export.seq2seq import Seq2SeqFunctions
from rnnx.export.source import Source
from rnnx.export.text import identifier
from rnnx.functional.quantization import weights_of
from rnnx.models.character import CharModel
from rnnx.models.heads import Readout
from rnnx.models.seq2seq import Seq2Seq
from rnnx.models.stack_model import StackModel


def to_c(
    model: StackModel | Seq2Seq,
    path: str | Path,
    *,
    name: str | None = None,
    weights: str | None = None,
    indices: bool | None = None,
    vocabulary: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    target_vocabulary: Sequence[str] | None = None,
) -> tuple[Path, Path]:
    """Write a model as a C99 file and its header, without dependencies, for one sequence at a time.

    The header says how to compile and call it.

    Parameters
    ----------
    model : CharModel, SequenceClassifier, SequenceRegressor, MultiTaskModel or Seq2Seq
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
        What the outputs stand for: the characters of a CharModel, or the names of classes; of a MultiTaskModel, a dict
        of such sequences by head. Of a Seq2Seq, what the inputs stand for.
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
    if not isinstance(model, StackModel | Seq2Seq):
        kinds = "CharModel, SequenceClassifier, SequenceRegressor, MultiTaskModel or Seq2Seq"
        raise TypeError(f"`model` must be a {kinds}; got {shown(model)}")
    target = _checked_path(path)
    indices = isinstance(model, CharModel | Seq2Seq) if indices is None else flag("indices", indices)
    _check_indices(model, indices)
    model.check_parameters()
    stored = weights_of(model.parameters)
    default = "int8" if stored == "int8" else "float32"
    weights = choice("weights", default if weights is None else weights, ("float32", "int8"))
    parameters = _checked_parameters(model)
    if weights == "int8" and stored != "int8":
        parameters = model.rounded({key: value.astype(np.float32) for key, value in parameters.items()}, "int8")
    given = {"vocabulary": vocabulary, "target_vocabulary": target_vocabulary}
    words = _checked_words(model, {name: one for name, one in given.items() if one is not None})
    own, int8 = identifier(target.stem if name is None else _checked_name(name)), weights == "int8"
    file: Source
    if isinstance(model, Seq2Seq):
        file = Seq2SeqSource(Seq2SeqFunctions(model, parameters, own, int8=int8), target.name, words)
    else:
        functions = Functions(model, parameters, own, indices=indices, int8=int8)
        of_heads = {f"vocabulary{head.end}": words[head.name] for head in functions.heads if head.name in words}
        file = SequenceSource(functions, target.name, of_heads)
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


def _checked_words(model: Any, given: dict[str, Any]) -> dict[str, list[str]]:
    """Return the given vocabularies, after checking them: those of a Seq2Seq by their names, others by head."""
    if isinstance(model, Seq2Seq):
        of = {"vocabulary": (model.encoder.input_size, "source tokens")}
        of["target_vocabulary"] = model.target_vocab_size, "target tokens"
        return {name: _checked_vocabulary(name, words, *of[name]) for name, words in given.items()}
    if "target_vocabulary" in given:
        raise ValueError("`target_vocabulary` is for a Seq2Seq")
    words, heads = given.get("vocabulary"), model.readouts
    by_head: Mapping[str, Any]
    if "" in heads:
        by_head, title = {} if words is None else {"": words}, "vocabulary"
    elif not isinstance(words, Mapping | None):
        raise TypeError(f"`vocabulary` must be a dict with names of heads, {list(heads)}; got {shown(words)}")
    else:
        by_head, title = words or {}, "vocabulary[{!r}]"
    if unknown := [name for name in by_head if name not in heads]:
        raise ValueError(f"`vocabulary` has no head {unknown[0]!r}{nearest(str(unknown[0]), heads)}")
    return {
        name: _checked_vocabulary(title.format(name), own, _n_words(heads[name]), "outputs")
        for name, own in by_head.items()
    }


def _n_words(one: Readout) -> int:
    """Return how many words the vocabulary of a head has: one for each class or output."""
    return one.objective.sizes.n_y if one.objective.loss.kind == "classes" else one.dense.n_out


def _checked_vocabulary(name: str, words: Any, n: int, counted: str) -> list[str]:
    ordered = isinstance(words, Sequence | np.ndarray) and not isinstance(words, str)
    if not ordered or not all(isinstance(word, str) for word in words):
        raise TypeError(f"`{name}` must be a sequence of str; got {shown(words)}")
    if len(words) != n:
        raise ValueError(f"`{name}` must have an entry for each of the {n} {counted}; got {len(words)}")
    return list(words)


def _check_indices(model: Any, indices: bool) -> None:
    if not indices and isinstance(model, Seq2Seq):
        raise ValueError("`indices` must be True for a Seq2Seq")
    if indices and isinstance(model, StackModel) and model.input_scaler is not None:
        raise ValueError("`indices` must be False for a model with an `input_scaler`")


def _checked_parameters(model: Any) -> dict[str, np.ndarray]:
    """Return the parameters on the host; they and the scalers must be finite in float32."""
    parameters = {key: ns.to_host(value) for key, value in model.parameters.items()}
    units = {"input_scaler": getattr(model, "input_scaler", None)}
    for name, one in model.readouts.items() if isinstance(model, StackModel) else ():
        unit = one.objective.unit
        units[f"target_scaler of {name}" if name else "target_scaler"] = unit and unit.scaler
    numbers = {name: np.array(list(one.config.values())) for name, one in units.items() if one is not None}
    for key, value in {**parameters, **numbers}.items():
        if not np.isfinite(value.astype(np.float32)).all():
            raise ValueError(f"`model` must have parameters that are finite in float32; {key!r} is not")
    return parameters
