"""Scalers between raw units and those of a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnx._core.checks import check_lengths, flag, real
from rnnx._core.inputs import host_array
from rnnx._core.words import shown

_MOST = 1e150  # the squares of larger numbers overflow


@dataclass(frozen=True)
class Scaler:
    """Standardizes features: (x - mean) / scale. A model with it takes and returns raw units, also after a checkpoint.

    Parameters
    ----------
    mean, scale : sequence of float
        For each feature; the scales are not zero.

    See Also
    --------
    SeriesWindows, rnnx.models.SequenceRegressor

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.data import Scaler
    >>> scaler = Scaler.fit(np.array([[[1.0, 2.0, 3.0]], [[5.0, 5.0, 5.0]]]))  # 2 features, 1 example, 3 steps
    >>> scaler.mean, scaler.scale[1]
    ((2.0, 5.0), 1.0)
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("mean", "scale"):
            values = getattr(self, name)
            if isinstance(values, str) or not hasattr(values, "__iter__"):
                raise TypeError(f"`{name}` must be a sequence of numbers; got {shown(values)}")
            object.__setattr__(self, name, tuple(real(name, value) for value in values))
        if len(self.mean) != len(self.scale) or not self.mean:
            raise ValueError(
                f"`mean` and `scale` must be as long as each other; got {len(self.mean)}, {len(self.scale)}"
            )
        if 0 in self.scale:
            raise ValueError("`scale` must not be 0")

    @classmethod
    def fit(cls, values: Any, *, lengths: Any = None, shift: bool = True) -> "Scaler":
        """Return the scaler of the mean and the standard deviation of each feature.

        Parameters
        ----------
        values : array, shape (n_x, n, T) or (n_y, n)
            Missing numbers (NaN) are left out. The scale of a feature that does not vary is 1.
        lengths : sequence of int, shape (n,), optional
            Steps past the lengths are left out, too.
        shift : bool
            False: subtract nothing, and divide by the mean of the absolute values, as counts need it
            (`rnnx.losses.Poisson`).

        Raises
        ------
        ValueError, TypeError
            If a feature has no numbers or an infinite one, or the arguments are no such arrays.
        """
        array = host_array("values", values).astype(float)
        if array.ndim not in (2, 3) or not array.shape[0]:
            raise ValueError(f"`values` must have shape (n_x, n, T) or (n_y, n); got {array.shape}")
        known = ~np.isnan(array)
        if lengths is not None:
            ends = check_lengths(np, "cpu", lengths, array.shape[1], array.shape[-1])
            known &= np.arange(array.shape[-1]) < ends[:, None]
        rows = [row[k] for row, k in zip(array, known, strict=True)]
        for k, row in enumerate(rows):
            if not row.size:
                raise ValueError(f"`values` must hold numbers of every feature; feature {k} has none")
            if (most := float(abs(row).max())) > _MOST:
                raise ValueError(f"`values` must be finite and below {_MOST:g}; feature {k} has {most:g}")
        if not flag("shift", shift):
            sizes = [float(abs(row).mean()) for row in rows]
            return cls((0.0,) * len(rows), tuple(size or 1.0 for size in sizes))
        pairs = [(float(row.mean()), float(row.std())) for row in rows]
        scales = [scale if scale > 1e-12 * abs(mean) else 1.0 for mean, scale in pairs]
        return cls(tuple(mean for mean, _ in pairs), tuple(scales))

    @classmethod
    def of(cls, scaler: Any, name: str = "scaler") -> "Scaler":
        """Return a scaler as it is, from its `config`, or from a fitted one of scikit-learn that scales each feature.

        Parameters
        ----------
        scaler : Scaler, dict or transformer
            Such as StandardScaler, MinMaxScaler or RobustScaler.
        name : str
            What messages call it.
        """
        if isinstance(scaler, cls):
            return scaler
        if isinstance(scaler, Mapping) and set(scaler) == {"mean", "scale"}:
            return cls(scaler["mean"], scaler["scale"])
        n = getattr(scaler, "n_features_in_", None)
        if n is None or not hasattr(scaler, "inverse_transform"):
            raise TypeError(
                f"`{name}` must be a rnnx.data.Scaler, or a fitted scaler of scikit-learn; got {shown(scaler)}"
            )
        mean, one, two = (scaler.inverse_transform(np.full((1, n), float(k)))[0] for k in range(3))
        linear = np.allclose(two - one, one - mean) and (one != mean).all()
        if not linear or getattr(scaler, "clip", False):
            got = type(scaler).__name__ + (", which clips" if linear else "")
            raise TypeError(f"`{name}` must scale and shift each feature; got {got}")
        return cls(tuple(mean.tolist()), tuple((one - mean).tolist()))

    @property
    def config(self) -> dict[str, list[float]]:
        """The numbers as plain values."""
        return {"mean": list(self.mean), "scale": list(self.scale)}

    def transform(self, values: Any) -> np.ndarray:
        """Return standardized numbers of raw ones, (n_x, ...)."""
        array, mean, scale = self._beside(values)
        return (array - mean) / scale

    def inverse(self, values: Any) -> np.ndarray:
        """Return raw numbers of standardized ones, (n_x, ...)."""
        array, mean, scale = self._beside(values)
        return array * scale + mean

    def _beside(self, values: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        array = host_array("values", values)
        if array.ndim == 0 or array.shape[0] != len(self.mean):
            raise ValueError(f"`values` must have shape (n_x, ...) = ({len(self.mean)}, ...); got {array.shape}")
        array = array if array.dtype.kind == "f" else array.astype(float)
        shape = (-1, *[1] * (array.ndim - 1))
        mean, scale = (np.asarray(v, array.dtype).reshape(shape) for v in (self.mean, self.scale))
        return array, mean, scale
