"""The results of all sides, and the differences between them."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rnnx.compare.records import Result, Settings

REFERENCE = "rnnx"
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


@dataclass(frozen=True)
class Comparison:
    """Results of all sides by label, rnnx first. See `Report`."""

    peer: str
    settings: Settings
    sides: dict[str, Result]

    def loss_differences(self, label: str) -> np.ndarray:
        """Relative difference of a side's loss from rnnx's at every step, shape (steps,)."""
        reference = self.sides[REFERENCE].losses
        return np.abs(self.sides[label].losses - reference) / np.abs(reference)

    def gradient_errors(self, label: str) -> dict[str, float]:
        """Relative difference, in norm, of each first-batch gradient from rnnx's."""
        theirs = self.sides[label].gradients
        return {key: _relative(theirs[key], own) for key, own in self.sides[REFERENCE].gradients.items()}

    @property
    def tolerance(self) -> float:
        """Largest relative difference of losses and gradients that agree: 1e-5 for float32, 1e-10 for float64."""
        return TOLERANCE[self.settings.dtype]

    @property
    def agrees(self) -> bool:
        """Whether the losses after one update and all gradients agree to within `tolerance`."""
        return all(
            self.loss_differences(label)[:2].max() <= self.tolerance
            and all(error <= self.tolerance for error in self.gradient_errors(label).values())
            for label in self.sides
        )

    @property
    def warm_up(self) -> int:
        """Number of initial steps that the median time excludes."""
        return max(1, min(10, self.settings.steps // 10))

    def step_seconds(self, label: str) -> float:
        """Median time of a step after the warm-up."""
        return float(np.median(self.sides[label].seconds[self.warm_up :]))

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the gradients as JSON-compatible values."""
        return {
            "peer": self.peer,
            "settings": asdict(self.settings),
            "agrees": self.agrees,
            "tolerance": self.tolerance,
            "sides": {
                label: {
                    "losses": side.losses.tolist(),
                    "relative_loss_differences": self.loss_differences(label).tolist(),
                    "relative_gradient_errors": self.gradient_errors(label),
                    "seconds": side.seconds.tolist(),
                    "median_step_seconds": self.step_seconds(label),
                    "start_seconds": side.start_seconds,
                    "memory_start_mib": side.memory_start,
                    "memory_peak_mib": side.memory_peak,
                    "versions": side.versions,
                }
                for label, side in self.sides.items()
            },
        }


def _relative(actual: np.ndarray, desired: np.ndarray) -> float:
    """Relative difference in norm; NaN, which never agrees, if an entry is NaN."""
    difference, norm = np.linalg.norm(actual - desired), np.linalg.norm(desired)
    return float(difference / norm) if norm else float(difference)
