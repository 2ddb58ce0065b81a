"""Checkpoints: a model in one safetensors file, which contains no code, with a JSON description in its header.

To resume a run, it also holds the optimizer state, the states carried between batches, and the counters.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import rnnx
from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_methods, integer, is_whole
from rnnx._core.files import write_pieces
from rnnx._core.words import line, shown
from rnnx.cells import Cell
from rnnx.data import CharTokenizer
from rnnx.losses import Loss
from rnnx.models import MODELS, Model
from rnnx.optim.base import with_prefix
from rnnx.training import tensor_file
from rnnx.training.own_code import OWN, check_own, identity

FORMAT = "rnnx-checkpoint"
VERSION = 1
TOKENIZERS = ("tokenizer", "target_tokenizer")
FILE_NAME = "model.safetensors"  # in the folder of a run


@dataclass(frozen=True)
class Checkpoint:
    """A model with its tokenizers and training state.

    Attributes
    ----------
    model : Model
    tokenizer : CharTokenizer or None
        For the model's texts, or for its sources if it has sources and targets.
    training : dict
        Plain values, as JSON has them: corpus, settings, counters, ...
    arrays : dict of str to array
        The arrays of `Trainer.state`, to resume the run; and any others of finite float32 or float64 numbers, integers
        or booleans.
    target_tokenizer : CharTokenizer or None
        For targets, if the model has them.

    See Also
    --------
    save_checkpoint, load_checkpoint

    Examples
    --------
    >>> from rnnx.data import CharTokenizer
    >>> from rnnx.models import CharModel
    >>> from rnnx.training import Checkpoint
    >>> tokenizer = CharTokenizer().fit("hello")
    >>> checkpoint = Checkpoint(CharModel(tokenizer.vocab_size, hidden_size=8, rng=0), tokenizer)
    >>> text = checkpoint.model.generate(checkpoint.tokenizer, max_length=5, stop=None, rng=0)[0]
    >>> len(text)
    5
    """

    model: Any
    tokenizer: CharTokenizer | None = None
    training: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)
    target_tokenizer: CharTokenizer | None = None


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically, after checking that `load_checkpoint` will accept it.

    A cell or a loss of your own is code, which no checkpoint contains: pass it to `load_checkpoint` again.

    Raises
    ------
    ValueError, TypeError
        Before anything is written, if the checkpoint holds what a file cannot hold: numbers that are not finite, arrays
        of other dtypes, a tokenizer that does not fit the model, or values in `training` that are not plain.
    OSError
        If the file cannot be written.

    See Also
    --------
    load_checkpoint, Checkpoint, rnnx.export.to_c

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.models import SequenceClassifier
    >>> from rnnx.training import Checkpoint, load_checkpoint, save_checkpoint
    >>> model = SequenceClassifier(3, 8, num_classes=2, classes=["walk", "run"], rng=0)
    >>> save_checkpoint("model.safetensors", Checkpoint(model))
    >>> again = load_checkpoint("model.safetensors").model
    >>> x = np.ones((3, 4, 6), "float32")
    >>> bool((model.predict(x) == again.predict(x)).all()), again.config["classes"]
    (True, ['walk', 'run'])
    """
    if not isinstance(checkpoint, Checkpoint):
        raise TypeError(f"`checkpoint` must be a rnnx.training.Checkpoint; got {shown(checkpoint)}")
    check_methods("checkpoint.model", checkpoint.model, "a model of rnnx.models", "config", "kind", "parameters")
    for name in TOKENIZERS:
        if getattr(checkpoint, name) is not None:
            check_methods(f"checkpoint.{name}", getattr(checkpoint, name), "a CharTokenizer or None", "to_dict")
    config, tokenizers = checkpoint.model.config, {name: getattr(checkpoint, name) for name in TOKENIZERS}
    own = {name: config[name] for name, kind in OWN.items() if isinstance(config.get(name), kind)}
    description = _plain(
        {
            "format": FORMAT,
            "version": VERSION,
            "rnnx": rnnx.__version__,
            "model": checkpoint.model.kind,
            "config": config | {name: identity(one)["name"] for name, one in own.items()},
            **{name: None if one is None else one.to_dict() for name, one in tokenizers.items()},
            "training": checkpoint.training,
            **{name: identity(one) for name, one in own.items()},
        }
    )
    for name, a in checkpoint.arrays.items():
        if not isinstance(name, str) or name.startswith("model/") or not tensor_file.is_name(name):
            raise ValueError(
                f"a name in `arrays` must be a string that does not begin with 'model/'; got {shown(name)}"
            )
        ns.common_namespace({name: a})
    tensors = {f"model/{name}": a for name, a in checkpoint.model.parameters.items()} | checkpoint.arrays
    host = {name: ns.to_host(a) for name, a in tensors.items()}
    try:
        _checkpoint(description, host, None, None, own)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"cannot save {path}: {error}") from None
    description["digest"] = _digest(description, host)
    write_pieces(path, tensor_file.pieces(host, {"rnnx": json.dumps(description)}))


def _plain(description: dict[str, Any]) -> dict[str, Any]:
    """Return the description as it will be read: NumPy's numbers are Python's, and tuples are lists."""

    def number(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        raise TypeError(f"got {kind}")

    try:
        plain: dict[str, Any] = json.loads(json.dumps(description, default=number))
    except (RecursionError, TypeError, ValueError) as error:
        wanted = "plain values (numbers, strings, lists, dicts); arrays belong in `arrays`"
        raise TypeError(f"`training` and the config of a model must hold {wanted}: {error}") from None
    return plain


def load_checkpoint(
    path: str | Path, *, xp: Any = None, device: Any = None, cell: Cell | None = None, loss: Loss | None = None
) -> Checkpoint:
    """Read a checkpoint.

    Parameters
    ----------
    path : path
        A checkpoint file or a run folder.
    xp : module, optional
        Array namespace to load into, for instance ``cupy``; default NumPy.
    device : object, optional
        Device, as the library names it.
    cell : Cell, optional
        The cell of the model, if it has a cell of your own.
    loss : Loss, optional
        The loss of the model, if it has a loss of your own.

    Raises
    ------
    ValueError, TypeError
        If the file is not a checkpoint, is damaged, is not a regular file, or comes from a newer version; if the model
        has a cell or a loss of your own that is missing or does not match, or one is given that it does not need.
    OSError
        If the file cannot be read.
    ImportError
        Without safetensors, of the extra `lab`.

    See Also
    --------
    save_checkpoint, Checkpoint

    Examples
    --------
    >>> import rnnx
    >>> from rnnx.models import SequenceRegressor
    >>> from rnnx.training import Checkpoint, load_checkpoint, save_checkpoint
    >>> @rnnx.cell
    ... def leaky(x, a, *, c=rnnx.Gate):
    ...     return 0.9 * a + 0.1 * rnnx.tanh(c(x, a))
    >>> save_checkpoint("own.safetensors", Checkpoint(SequenceRegressor(3, 8, cell=leaky, rng=0)))
    >>> load_checkpoint("own.safetensors", cell=leaky).model.cell.name  # the file has no code
    'leaky'
    """
    if not isinstance(cell, Cell | None):
        raise TypeError(f"`cell` must be a rnnx.Cell or None; got {shown(cell)}")
    if not isinstance(loss, Loss | None):
        raise TypeError(f"`loss` must be a rnnx.losses.Loss or None; got {shown(loss)}")
    path = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
    with tensor_file.opened(path) as (metadata, content):
        description = _description(path, metadata)
        tensors = dict(content)
    own = {name: one for name, one in {"cell": cell, "loss": loss}.items() if one is not None}
    for name in OWN:
        check_own(path, description, name, own.get(name))
    try:
        checkpoint = _checkpoint(description, tensors, xp, device, own)
        if description.pop("digest") != _digest(description, tensors):
            raise ValueError("the checksum does not match")
        return checkpoint
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} {_fault(description)}: {line(error)}") from None


def _fault(description: Mapping[str, Any]) -> str:
    """Return what is wrong with a checkpoint that this version cannot read."""
    saved = description.get("rnnx", rnnx.__version__)  # earlier versions did not write it
    if saved == rnnx.__version__:
        return "is a damaged checkpoint"
    return f"was saved by rnnx {line(saved)} and cannot be read by rnnx {rnnx.__version__}, or is damaged"


def load_run(path: str | Path, xp: Any, cell: Cell | None = None) -> Checkpoint:
    """Load a checkpoint file, or the checkpoint of a run folder; a folder without one is a ValueError."""
    if Path(path).is_dir() and not (Path(path) / FILE_NAME).exists():
        raise ValueError(f"{path} is not a run folder: it contains no {FILE_NAME}")
    return load_checkpoint(path, xp=xp, cell=cell)


def _checkpoint(
    description: Mapping[str, Any], tensors: Mapping[str, np.ndarray], xp: Any, device: Any, own: Mapping[str, Any]
) -> Checkpoint:
    for name, a in tensors.items():
        is_training = name.startswith(("model/", "optimizer/", "state/"))
        if a.dtype.kind in "biu" and not is_training:
            continue
        if a.dtype not in (np.float32, np.float64) or not np.isfinite(a).all():
            others = "" if is_training else ", integers or booleans"
            raise ValueError(f"{name} must hold finite float32 or float64 numbers{others}")
    keywords = {} if device is None else {"device": device}
    arrays = {name: (xp or np).asarray(a, **keywords) for name, a in tensors.items()}
    parameters = with_prefix(arrays, "model/")
    rest = {name: a for name, a in arrays.items() if not name.startswith("model/")}
    kind, config, training = description["model"], description["config"], description["training"]
    if kind not in MODELS:
        raise ValueError(f"unknown model kind {kind!r}; known kinds are {sorted(MODELS)}")
    if not isinstance(config, dict) or not isinstance(training, dict):
        raise ValueError("config and training must be JSON objects")
    if not parameters:
        raise ValueError("it contains no parameters")
    layers: Any = config.get("num_layers")
    if is_whole(layers) and layers > len(parameters):
        raise ValueError(f"`num_layers` must be at most the number of parameters, {len(parameters)}; got {layers}")
    model = MODELS[kind](**{**config, **own, "parameters": parameters})
    return Checkpoint(model, training=training, arrays=rest, **_tokenizers(description, model))


def _digest(description: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of all content, by which `load_checkpoint` detects corruption."""
    result = hashlib.sha256(json.dumps(description).encode())
    for name in sorted(tensors):
        a = tensors[name]
        result.update(f"{name} {a.dtype.newbyteorder('=')} {a.shape}".encode())
        result.update(tensor_file.stored(a))
    return result.hexdigest()


def _tokenizers(description: Mapping[str, Any], model: Model) -> dict[str, CharTokenizer]:
    """Return the tokenizers in the file after checking their sizes."""
    found, sizes = {}, model.vocab_sizes()
    for name in TOKENIZERS:
        values = description.get(name)  # earlier versions had no second tokenizer
        if values is not None:
            found[name] = tokenizer = CharTokenizer.from_dict(values)
            if tokenizer.vocab_size != sizes.get(name, tokenizer.vocab_size):
                raise ValueError(f"{name} has {tokenizer.vocab_size} characters; the model has {sizes[name]}")
    return found


def _description(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Return the description in the header, if it is ours and not from a newer version."""
    try:
        description = json.loads(metadata["rnnx"])
        ours = description["format"] == FORMAT
        version = integer("version", description["version"])
    except (KeyError, RecursionError, TypeError, ValueError):
        ours, version = False, 0
    if not ours:
        raise ValueError(f"{path} is not an rnnx checkpoint")
    if version > VERSION:
        raise ValueError(f"{path} has format version {version}; this rnnx reads versions up to {VERSION}: update rnnx")
    return description
