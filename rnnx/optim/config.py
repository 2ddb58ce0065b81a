"""Conversion of optimizers and schedules to and from plain values, for checkpoints."""

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from rnnx._core.words import shown
from rnnx.optim.optimizers import OPTIMIZERS
from rnnx.optim.schedules import SCHEDULES


def optimizer_config(optimizer: Any) -> dict[str, Any]:
    """Describe an optimizer by plain values, which can be passed to ``json.dumps``.

    Parameters
    ----------
    optimizer : object
        An instance of a class in `OPTIMIZERS`.

    Returns
    -------
    dict
        "name" and the hyper-parameters: strings, numbers and booleans. A schedule is a dict of its values, with its
        name in `SCHEDULES` under "schedule".

    Raises
    ------
    TypeError
        If the optimizer or its schedule is not one of these classes; a plain function cannot be saved.

    See Also
    --------
    optimizer_from_config, OPTIMIZERS

    Examples
    --------
    >>> from rnnx.optim import CosineDecay, Momentum, optimizer_config
    >>> config = optimizer_config(Momentum(learning_rate=CosineDecay(0.1, steps=1000)))
    >>> config["name"], config["learning_rate"]["schedule"], config["learning_rate"]["steps"]
    ('momentum', 'cosine', 1000)
    """
    return _plain("optimizer", "name", optimizer, OPTIMIZERS)


def optimizer_from_config(config: Mapping[str, Any]) -> Any:
    """Create an optimizer from the result of `optimizer_config`.

    Parameters
    ----------
    config : mapping
        Missing hyper-parameters take their defaults.

    Raises
    ------
    ValueError, TypeError
        If a name or key is unknown, a key is missing, or a value is out of range or has the wrong type.

    See Also
    --------
    optimizer_config, OPTIMIZERS

    Examples
    --------
    >>> from rnnx.optim import RMSProp, optimizer_config, optimizer_from_config
    >>> optimizer_from_config({"name": "adam", "learning_rate": 0.003}).beta1  # a default
    0.9
    >>> one = RMSProp(0.002)
    >>> optimizer_from_config(optimizer_config(one)) == one
    True
    """
    return _built("config", "name", config, OPTIMIZERS)


def _plain(what: str, label: str, record: Any, table: Mapping[str, Any]) -> dict[str, Any]:
    name = next((name for name, cls in table.items() if cls is type(record)), None)
    if name is None:
        raise TypeError(f"`{what}` must be one of {[*table]} to be saved; got {shown(record)}")
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {label: name, **{k: _plain(k, "schedule", v, SCHEDULES) if callable(v) else v for k, v in values.items()}}


def _built(what: str, label: str, config: Any, table: Mapping[str, Any]) -> Any:
    if not isinstance(config, Mapping):
        raise TypeError(f"`{what}` must be a dict; got {type(config).__name__}")
    name = config.get(label)
    if not isinstance(name, str) or name not in table:
        raise ValueError(f"`{label}` in `{what}` must be one of {[*table]}; got {shown(name)}")
    known = inspect.signature(table[name]).parameters
    values = {key: value for key, value in config.items() if key != label}
    unknown = [key for key in values if key not in known]
    missing = [key for key, p in known.items() if p.default is p.empty and key not in values]
    if unknown or missing:
        problem = f"unknown {unknown}" if unknown else f"missing {missing}"
        raise ValueError(f"`{what}` for {name} takes keys {[label, *known]}; {problem}")
    return table[name](
        **{k: _built(k, "schedule", v, SCHEDULES) if isinstance(v, Mapping) else v for k, v in values.items()}
    )
