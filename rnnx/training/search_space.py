"""What a sweep searches: settings, with their values as distributions of Optuna."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from rnnx._core.checks import nearest
from rnnx._core.words import shown
from rnnx.training.settings import Settings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# Validation losses of runs with different values of these cannot be compared, or not evaluation by evaluation.
FIXED = ("dataset", "text", "lower", "by", "split", "validation", "min_count", "evaluate_every")
OF_MODEL = ("cell", "reset_after", "hidden_size", "num_layers", "scheme", "dtype")  # a model to train further has them


def distributions(space: Mapping[str, Any], *, of_model: bool) -> "dict[str, BaseDistribution]":
    """Return what to search as distributions, after checking the names of the settings and the types of their values.

    With `of_model`, a model is trained further, which keeps its cell and sizes.
    """
    if not isinstance(space, Mapping) or not space:
        raise TypeError(f"`space` must be a dict from settings to values or distributions; got {shown(space)}")
    names = [f.name for f in fields(Settings)]
    for name in space:
        if name not in names:
            raise ValueError(f"`space` has an unknown setting {name!r}{nearest(str(name), names)}")
        if name in FIXED:
            raise ValueError(f"`{name}` cannot be searched: the validation losses could not be compared")
        if name in OF_MODEL and of_model:
            raise ValueError(f"`{name}` cannot be searched with `init_from`: a model keeps its cell and sizes")
    return {name: _distribution(name, values) for name, values in space.items()}


def _distribution(name: str, values: Any) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found = values
    if isinstance(values, list | tuple) and values:
        if not all(one is None or isinstance(one, str | int | float) for one in values):
            raise TypeError(f"`space[{name!r}]` must have strings and numbers; got {shown(values)}")
        found = CategoricalDistribution(values)
    if isinstance(found, CategoricalDistribution):
        values = found.choices
    elif isinstance(found, FloatDistribution | IntDistribution):
        values = found.low, found.high
    else:
        raise TypeError(f"`space[{name!r}]` must be a list of values or a distribution; got {shown(values)}")
    for one in values:
        with_values(Settings(), {name: one})
    return found


def with_values(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """Return settings with other values; a width is an integer."""
    widths = {"hidden_size": (values["hidden_size"],)} if "hidden_size" in values else {}
    return replace(settings, **{**values, **widths})
