"""The description in a library, which says what model it holds."""

import ctypes
import json
import os
from pathlib import Path
from typing import Any

from .models import SharedModel, SharedMultiTaskModel
from .translator import SharedTranslator

FORMAT = 1  # of the description
_loaded: dict[str, list[tuple[int, int]]] = {}  # the files that a path has named


def load(path: str | os.PathLike[str]) -> Any:
    """Load a shared library of `rnnx.export.build`.

    Return a `SharedModel`; of a MultiTaskModel a `SharedMultiTaskModel`, of a Seq2Seq a `SharedTranslator`.

    Raises
    ------
    OSError
        If the file is not a library for this machine.
    ValueError
        If it is a library of another kind.

    See Also
    --------
    build, SharedModel

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.export import build, load, to_c
    >>> from rnnx.models import SequenceRegressor
    >>> model = SequenceRegressor(3, 8, rng=0)
    >>> shared = load(build(to_c(model, "model.c")[0]))
    >>> x = np.ones((3, 5), "float32")  # (n_x, T): one sequence
    >>> bool(np.allclose(shared.run(x), model.predict(x[:, None, :])[:, 0], atol=1e-5))
    True
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"`path` must be a str or Path; got {type(path).__name__}")
    library = ctypes.CDLL(_name_of(Path(path).resolve()))
    if not hasattr(library, "rnnx_model"):
        raise ValueError(f"{path} is not a library of rnnx.export.build")
    library.rnnx_model.restype = ctypes.c_char_p
    pieces, k = [], 0
    while (piece := library.rnnx_model(k)) is not None:
        pieces.append(piece)
        k += 1
    facts = json.loads(b"".join(pieces))
    if facts["format"] != FORMAT:
        raise ValueError(f"{path} has format {facts['format']}; this copy of shared_model reads format {FORMAT}")
    if facts["kind"] == "seq2seq":
        return SharedTranslator(library, facts)
    return SharedMultiTaskModel(library, facts) if "heads" in facts else SharedModel(library, facts)


def _name_of(path: Path) -> str:
    """Return a name of the file. The system knows libraries by name, so a new file in the place of one has another."""
    found = path.stat()
    versions = _loaded.setdefault(str(path), [])
    version = found.st_ino, found.st_mtime_ns
    if version not in versions:
        versions.append(version)
    return os.path.join(path.parent, *["."] * versions.index(version), path.name)
