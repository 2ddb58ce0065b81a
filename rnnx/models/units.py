"""The units of a model's inputs and targets: raw ones outside, standardized ones inside. Dimensions: m examples."""

from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.inputs import Sizes
from rnnx.data import Scaler
from rnnx.losses import Loss


class Unit:
    """A scaler of arrays (n, m) or (n, m, T) of any library."""

    def __init__(self, name: str, scaler: Any, n: int, symbol: str) -> None:
        self.scaler = Scaler.of(scaler, name)
        if len(self.scaler.mean) != n:
            raise ValueError(f"`{name}` must scale `{symbol}` = {n} features; got {len(self.scaler.mean)}")
        self._numbers: dict[Any, tuple[Array, Array]] = {}  # of a library, device and dtype

    def numbers(self, like: Array) -> tuple[Array, Array]:
        """Return mean and scale as arrays (n, 1) or (n, 1, 1) beside an array."""
        key = ns.namespace(like).__name__, str(ns.device(like)), str(like.dtype), like.ndim
        if key not in self._numbers:
            xp, shape = ns.namespace(like), (-1,) + (1,) * (like.ndim - 1)
            made = [
                xp.asarray(v, dtype=like.dtype, device=ns.device(like)) for v in (self.scaler.mean, self.scaler.scale)
            ]
            self._numbers[key] = xp.reshape(made[0], shape), xp.reshape(made[1], shape)
        return self._numbers[key]

    def standardized(self, raw: Array) -> Array:
        """Return standardized numbers."""
        mean, scale = self.numbers(raw)
        return (raw - mean) / scale

    def raw(self, name: str, values: Array) -> Array:
        """Return an output of a model, by its name in the loss, in raw units."""
        return in_raw_units(name, values, *self.numbers(values))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_numbers": {}}


def in_raw_units(name: str, values: Any, mean: Any, scale: Any) -> Any:
    """Return an output of a model, by its name in the loss, in raw units: of arrays, or of traced values."""
    if name == "df":  # has no unit
        return values
    return values * scale if name == "scale" else values * scale + mean


def unit_of_inputs(scaler: Any, sizes: Sizes) -> Unit | None:
    """Return the unit that the `input_scaler` of a model gives."""
    return None if scaler is None else Unit("input_scaler", scaler, sizes.size, sizes.size_name)


def unit_of_targets(scaler: Any, sizes: Sizes, loss: Loss) -> Unit | None:
    """Return the unit that the `target_scaler` of a model or a head gives."""
    if scaler is None:
        return None
    if loss.kind != "numbers":
        raise ValueError(f"`target_scaler` must be None for the loss {loss!r}")
    unit = Unit("target_scaler", scaler, sizes.n_y, sizes.n_y_name)
    if min(unit.scaler.scale) < 0:
        raise ValueError("`target_scaler` must have positive scales")  # quantiles would change places
    if not loss.shifts and any(unit.scaler.mean):
        own = "Scaler.fit(targets, shift=False)"
        raise ValueError(f"`target_scaler` of the loss {loss!r} must not shift, but have the mean 0: pass {own}")
    return unit
