"""A trained model in one file: a safetensors file (no code in it) with the description as JSON in its header."""

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from rnnx.models import CharModel, CharModelConfig, Parameters
from rnnx.text import CharTokenizer

FORMAT = "rnnx-char-model"
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """A model, its parameters and its tokenizer, with what is known of its training.

    Attributes
    ----------
    model : CharModel
    parameters : dict of str to array
    tokenizer : CharTokenizer
    by : str
        "lines" or "windows": what a text of this model is.
    training : dict
        Plain values: corpus, epoch, step, losses, ...
    """

    model: CharModel
    parameters: Parameters
    tokenizer: CharTokenizer
    by: str
    training: dict[str, Any] = field(default_factory=dict)


def save(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint. The file at `path` is either the old one or, whole, the new one.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    description = {
        "format": FORMAT,
        "version": VERSION,
        "config": checkpoint.model.config.as_dict(),
        "vocabulary": checkpoint.tokenizer.get_vocab(),
        "oov_token": checkpoint.tokenizer.oov_token,
        "by": checkpoint.by,
        "training": checkpoint.training,
    }
    metadata = {"rnnx": json.dumps(description)}  # one key: safetensors writes several in random order
    tensors = {
        key: np.ascontiguousarray(a.get() if hasattr(a, "get") else a) for key, a in checkpoint.parameters.items()
    }
    _write_atomically(Path(path), to_bytes(tensors, metadata))


def _write_atomically(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent or ".", prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files private
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    ValueError
        If the file is no checkpoint, damaged, or of a newer version.
    OSError
        If it cannot be read.
    """
    with open(path, "rb"):  # the reader below does not tell a missing file from a bad one
        pass
    try:
        with safe_open(path, framework="numpy") as file:
            description = _description(path, file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a checkpoint, or is damaged ({error})") from None
    try:
        model = CharModel(CharModelConfig(**description["config"]))
        tokenizer = CharTokenizer.from_vocab(description["vocabulary"], description["oov_token"])
        model.check(tensors)
        if tokenizer.vocab_size != model.config.vocab_size:
            raise ValueError(f"{tokenizer.vocab_size} characters for {model.config.vocab_size} outputs")
        return Checkpoint(model, tensors, tokenizer, description["by"], description["training"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is a damaged checkpoint: {error}") from None


def _description(path: str | Path, metadata: dict[str, str]) -> dict[str, Any]:
    """What the header says, if it is ours and not newer than this code."""
    try:
        description = json.loads(metadata["rnnx"])
        ours = description["format"] == FORMAT
        version = int(description["version"])
    except (KeyError, TypeError, ValueError):
        ours, version = False, 0
    if not ours:
        raise ValueError(f"{path} is not a checkpoint of rnnx")
    if version > VERSION:
        raise ValueError(
            f"{path} has format version {version}; this rnnx reads up to {VERSION}: a newer rnnx may read it"
        )
    return description
