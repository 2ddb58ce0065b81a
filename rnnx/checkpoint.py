"""A trained model in one file: a safetensors file (no code in it) with the description as JSON in its header."""

import json
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from rnnx import _namespace as ns
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
    tensors = {key: np.ascontiguousarray(ns.to_host(a)) for key, a in checkpoint.parameters.items()}
    _write_atomically(Path(path), to_bytes(tensors, metadata))


def check_writable(path: str | Path) -> None:
    """Raise unless `save` can write there: tries out a temporary file in the folder.

    Raises
    ------
    ValueError
        If there is no such folder, or `path` is something else than a file.
    OSError
        If the folder cannot be written to.
    """
    target = Path(path).resolve()
    if not target.parent.is_dir():
        raise ValueError(f"cannot write {path}: there is no folder {Path(path).parent}")
    if target.exists() and not target.is_file():
        raise ValueError(f"cannot write {path}: it exists and is not a file")
    _write_atomically(target, None)


def _write_atomically(path: Path, data: bytes | None) -> None:
    """Write to a file beside `path` and put it in its place; without data, only see that this would work."""
    path = path.resolve()  # a link stays, its target is replaced
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~_umask()
    temporary = path.parent / f".rnnx-{secrets.token_hex(8)}.part"
    try:
        with temporary.open("xb") as file:
            file.write(data or b"")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        if data is not None:
            os.replace(temporary, path)
        else:
            path.exists()  # raises if the name is too long
    finally:
        temporary.unlink(missing_ok=True)


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
        _check_contents(model, tensors, tokenizer, description)
        return Checkpoint(model, tensors, tokenizer, description["by"], description["training"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is a damaged checkpoint: {error}") from None


def _check_contents(
    model: CharModel, tensors: Parameters, tokenizer: CharTokenizer, description: dict[str, Any]
) -> None:
    model.check(tensors)
    for key, a in tensors.items():
        if a.dtype not in (np.float32, np.float64) or not np.isfinite(a).all():
            raise ValueError(f"{key} must hold finite float32 or float64 numbers")
    vocabulary = tokenizer.get_vocab()
    if not all(isinstance(token, str) for token in vocabulary) or len(set(vocabulary)) != len(vocabulary):
        raise ValueError("the vocabulary must hold different characters")
    if tokenizer.vocab_size != model.config.vocab_size:
        raise ValueError(f"{tokenizer.vocab_size} characters for {model.config.vocab_size} outputs")
    if description["by"] not in ("lines", "windows"):
        raise ValueError(f"unknown kind of text {description['by']!r}")


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
