"""Estimators in scikit-learn's protocol: for pipelines, cross-validation and grid searches.

They need scikit-learn. What they fit is a model of `rnnx.models`, the attribute ``model_``.
"""

try:
    import sklearn as _sklearn  # noqa: F401
except ImportError as error:
    from rnnx._core.install import install_command

    raise ImportError(f"rnnx.estimators needs scikit-learn: {install_command('sklearn')}") from error

from rnnx.estimators.forecaster import Forecaster
from rnnx.estimators.sequences import SequenceClassifier, SequenceRegressor

__all__ = ["Forecaster", "SequenceClassifier", "SequenceRegressor"]
