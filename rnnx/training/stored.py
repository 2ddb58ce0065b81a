"""Records in checkpoints, which an older rnnx may have saved."""

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any

from rnnx._core.checks import listed


def later(default: Any) -> Any:
    """Declare a field that older files lack. Its default is what runs did before there was the field."""
    return field(default=default, metadata={"later": True})


def check_names(what: str, record: type, values: Any) -> None:
    """Raise ValueError unless `values` has the fields of a dataclass and no others; ones added later may be missing."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{what} must be a dict; got {type(values).__name__}")
    missing = [f.name for f in fields(record) if f.name not in values and "later" not in f.metadata]
    unknown = sorted(map(str, values.keys() - {f.name for f in fields(record)}))
    if missing or unknown:
        raise ValueError(f"{what} are wrong: missing {listed(missing)}, unknown {listed(unknown)}")
