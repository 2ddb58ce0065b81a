"""What each of several heads of a model predicts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rnnx._core.checks import flag, integer, real
from rnnx._core.words import shown
from rnnx.losses import Loss, as_loss
from rnnx.models.layers import Dense
from rnnx.models.objective import Objective, check_loss


@dataclass(frozen=True)
class Head:
    """What one of several heads of a model predicts; see `MultiTaskModel`.

    Parameters
    ----------
    size : int
        How many numbers to predict, or labels or classes.
    loss : str or Loss
        As for `SequenceRegressor` and `SequenceClassifier`. It says what the targets are: numbers, labels or classes.
    per_step : bool
        Predict at every step instead of at the end.
    weight : float > 0
        Factor of this loss in the sum.
    target_scaler : Scaler, optional
        As for `SequenceRegressor`.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range.

    See Also
    --------
    MultiTaskModel, SequenceRegressor, SequenceClassifier

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.models import Head, MultiTaskModel
    >>> heads = {"next": Head(1, "quantile", per_step=True), "kind": Head(4, "cross_entropy", weight=0.1)}
    >>> model = MultiTaskModel(3, 8, heads, rng=0)
    >>> {name: model.parameters[name].shape for name in ("Wy_next", "Wy_kind")}  # three quantiles, four classes
    {'Wy_next': (3, 8), 'Wy_kind': (4, 8)}
    """

    size: int
    loss: str | Loss | Mapping[str, Any] = "squared_error"
    per_step: bool = False
    weight: float = 1.0
    target_scaler: Any = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        own = {"size": integer("size", self.size), "loss": as_loss(self.loss)}
        own |= {"per_step": flag("per_step", self.per_step), "weight": real("weight", self.weight, "(0, inf)")}
        for name, value in own.items():
            object.__setattr__(self, name, value)


class Readout(NamedTuple):
    """The dense layer of a head, and what its outputs are for."""

    dense: Dense
    objective: Objective

    @property
    def per_step(self) -> bool:
        """Whether it has outputs at every step, rather than at the end."""
        return self.objective.sizes.per_step


def checked_heads(heads: Any) -> dict[str, Head]:
    """Return heads by name; a checkpoint has plain values instead of them."""
    if not isinstance(heads, Mapping) or not heads:
        raise TypeError(f"`heads` must be a dict of names to heads, at least one; got {shown(heads)}")
    made = {name: Head(**head) if isinstance(head, dict) else head for name, head in heads.items()}
    for name, head in made.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"the name of a head must be an identifier; got {shown(name)}")
        if not isinstance(head, Head):
            raise TypeError(f"`heads[{name!r}]` must be a rnnx.models.Head; got {shown(head)}")
        check_loss(as_loss(head.loss), head.per_step, head.size, "size", f" of the head {name!r}")
    return made


def check_names(what: str, values: Any, heads: Mapping[str, Head]) -> None:
    """Raise unless values are a dict with the names of all heads."""
    if not isinstance(values, Mapping):
        raise TypeError(f"`{what}` must be a dict with the names of the heads, {list(heads)}; got {shown(values)}")
    if set(values) != set(heads):
        raise ValueError(f"`{what}` must have the names of the heads, {list(heads)}; got {list(values)}")
