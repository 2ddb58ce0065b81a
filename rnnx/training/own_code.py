"""How checkpoints identify cells and losses of the user's own, whose code they do not contain."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnnx._core.words import shown
from rnnx.cells import Cell
from rnnx.losses import Loss

OWN = {"cell": Cell, "loss": Loss}  # by their names in the config of a model


def identity(own: Cell | Loss) -> dict[str, Any]:
    """Return what a checkpoint says of a cell or a loss of the user's own, as plain values."""
    if isinstance(own, Loss):
        return {**own.config, "outputs": list(own.outputs)}
    numbers = {} if own.definition is None else own.definition.all_numbers
    return {
        "name": own.name,
        "states": list(own.states),
        "parameters": [*own.parameter_keys, *own.optional_keys],
        "numbers": numbers,
    }


def check_own(path: Path, description: Mapping[str, Any], kind: str, own: Cell | Loss | None) -> None:
    """Raise unless `own`, a cell or a loss, is what the model in the file needs."""
    needed = description.get(kind)
    if not isinstance(needed, dict):
        if own is not None:
            needs = f"because the model in {path} has no {kind} of your own"
            raise ValueError(f"`{kind}` must be None, {needs}; got {identity(own)['name']!r}")
        return
    if own is None:
        takers = "`load_checkpoint` or `Run.resume`" if kind == "cell" else "`load_checkpoint`"
        what = f"a {kind} of your own, {shown(needed.get('name'))}"
        raise ValueError(f"the model in {path} has {what}: pass it to {takers} as `{kind}`")
    for what, value in identity(own).items():
        if value != needed.get(what):
            expected = f"must have the {what} {needed.get(what)!r:.200} of the {kind} of the model in {path}"
            raise ValueError(f"`{kind}` {expected}; got {value!r:.200}")
