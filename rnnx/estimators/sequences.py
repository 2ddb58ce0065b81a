"""Estimators that predict a class, or numbers, of each sequence.

Dimensions: n sequences of T steps with n_x features; n_y numbers to predict.
"""

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, _num_samples, check_array, check_is_fitted, column_or_1d

from rnnx import models
from rnnx._core import arrays as ns
from rnnx._core.checks import flag
from rnnx._core.words import in_words_of_the_caller
from rnnx.data import Examples, Scaler, split_by_group
from rnnx.estimators.base import Estimator, not_masked
from rnnx.estimators.inputs import Sequences, frame_sequences, is_frame, labels_of, sequences_of
from rnnx.losses import as_loss

_WORDS = {"`inputs`": "`X`", "`targets`": "`y`"}


@dataclass(eq=False, repr=False)
class SequenceEstimator(Estimator):
    """The base of the estimators of whole sequences."""

    _: KW_ONLY
    axes: str = "ntf"
    id: str | None = None
    time: str | None = None
    scale: bool = True

    @abstractmethod
    def _encoded(self, y: Any) -> np.ndarray:
        """Return checked targets as the model takes them."""

    @abstractmethod
    def _model(self, data: Examples, **options: Any) -> models.SequenceModel:
        """Return a new model for this training set."""

    def _weights(self, y: np.ndarray, sample_weight: Any) -> Any:
        not_masked("sample_weight", sample_weight)
        return None if sample_weight is None else _check_sample_weight(sample_weight, y, ensure_non_negative=True)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train a new model.

        Parameters
        ----------
        X : array or list or data frame
            See the class.
        y : array, shape (n,) or, of numbers, (n, n_y); or str
            Targets; for a data frame in long format one for each sequence, in order of their first rows, or the name of
            a column.
        sample_weight : array, shape (n,), optional

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            Before any work, if a parameter or an argument is wrong.
        """
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        seed = self._seed()
        options: dict[str, Any] = {"bidirectional": self.bidirectional}
        (x, lengths), y = self._checked(X, y, reset=True)
        weights = self._weights(y, sample_weight)
        data, held = self._divided(Examples(x, self._encoded(y), lengths=lengths, weights=weights), seed)
        if flag("scale", self.scale):
            with in_words_of_the_caller({"`values`": "`X`"}):
                options["input_scaler"] = Scaler.fit(data.inputs, lengths=data.lengths)
        model = self._model(data, **options, **self._options(seed))
        with in_words_of_the_caller(_WORDS):
            self._train(model, data, held, seed)
        return self

    def _divided(self, data: Examples, seed: int) -> tuple[Examples, Examples | None]:
        """Return the training set, and what `patience` holds out; classes are spread evenly over both."""
        if not self._held_out(n := len(data)):
            return data, None
        labels = None if data.targets.dtype.kind == "f" else data.targets
        if n < 2 or (labels is not None and np.bincount(labels).max() < 2):
            of_class = "" if labels is None else " of a class"
            raise ValueError(f"`patience` needs at least 2 examples{of_class}, so that one can be held out")
        train, held = split_by_group(np.arange(n), self.validation_fraction, labels=labels, rng=seed)
        return data.take(train), data.take(held)

    def _checked(self, X: Any, y: Any, reset: bool) -> tuple[Sequences, Any]:
        """Return sequences and targets; `y` may be None."""
        not_masked("y", y)
        if self.id is None or not is_frame(X):
            sequences = sequences_of(self, X, self.axes, reset)
        else:
            found = frame_sequences(self, X, y if isinstance(y, str) else None, self.id, self.time, reset)
            sequences = found.inputs, found.lengths
            if isinstance(y, str):
                y = found.targets if found.classes is None else np.asarray(found.classes)[found.targets]
                y = y[0] if found.classes is None else y
        if isinstance(y, str):
            raise ValueError(f"`y` may be a column only of a data frame in long format, with `id`; got {y!r}")
        n = sequences[0].shape[1]
        if y is not None and (found_n := _num_samples(y)) != n:
            raise ValueError(f"`y` must have one target for each of the n = {n} sequences of `X`; got {found_n}")
        return sequences, y

    def _targets(self, X: Any, y: Any) -> Any:
        """Return targets that `y` may only name."""
        check_is_fitted(self)
        return self._checked(X, y, reset=False)[1]

    def _predicted(self, X: Any, method: str) -> np.ndarray:
        """Return what a method of the model says, with the sequences first."""
        check_is_fitted(self)
        (x, lengths), _ = self._checked(X, None, reset=False)
        with in_words_of_the_caller(_WORDS):
            found: np.ndarray = ns.to_host(getattr(self.model_, method)(x, lengths=lengths))
        return found.T

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.target_tags.required = True
        return tags


@dataclass(eq=False, repr=False)
class SequenceClassifier(ClassifierMixin, SequenceEstimator):
    """Classifies sequences, in scikit-learn's protocol.

    Parameters
    ----------
    hidden_size : int or list of int
        Units of all layers, or of each.
    num_layers : int
    cell, bidirectional, dropout, loss
        As for `rnnx.models.SequenceClassifier`.
    optimizer : str or object
        "adam", another name in ``rnnx.optim.OPTIMIZERS``, or an optimizer.
    learning_rate : float
        Of an optimizer by name.
    epochs, batch_size : int
    clip_norm : float, optional
        Maximum norm of the gradients.
    patience : int, optional
        Hold out examples, stop after this many epochs without a better loss on them, and keep the best weights.
    validation_fraction : float, in (0, 1)
        Which part of the examples `patience` holds out.
    dtype : {"float32", "float64"}
    device : {"cpu", "cuda"}
    random_state : int, RandomState or None
        Of the weights, the order of examples and dropout.
    progress_bar : bool
    axes : {"ntf", "nft"}
        The axes of a 3-D `X`: examples, time, features, or the order of sktime and aeon.
    id, time : str, optional
        With `id`, a data frame is in long format, with a row for each step. See `rnnx.data.sequences_from_frame`.
    scale : bool
        Standardize each feature.
    class_weight : "balanced" or dict, optional

    Attributes
    ----------
    model_ : rnnx.models.SequenceClassifier
        Which `rnnx.training.save_checkpoint` saves.
    classes_ : array
    n_features_in_ : int
    history_ : list of dict
        The losses after each epoch.

    See Also
    --------
    SequenceRegressor, Forecaster, rnnx.models.SequenceClassifier

    Notes
    -----
    ``X`` may be an array (n, T, n_x), or with the axes of `axes`; an array or a table (n, T) of one feature; a list of
    arrays (T, n_x) or (T,) with unequal T; or, with `id`, a data frame in long format.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.estimators import SequenceClassifier
    >>> X = np.random.default_rng(0).standard_normal((40, 6, 1))
    >>> y = np.where(X.sum(axis=(1, 2)) > 0, "up", "down")
    >>> model = SequenceClassifier(8, epochs=40, learning_rate=0.02, random_state=0).fit(X, y)
    >>> model.predict(X[:2]).shape, model.score(X, y) > 0.9
    ((2,), True)
    """

    _: KW_ONLY
    class_weight: Any = None

    def _encoded(self, y: Any) -> np.ndarray:
        y = column_or_1d(labels_of(y), warn=True)
        check_classification_targets(y)
        self.classes_, targets = np.unique(y, return_inverse=True)
        return targets

    def _model(self, data: Examples, **options: Any) -> models.SequenceModel:
        plain = self.classes_.tolist()
        if all(isinstance(c, str | int | bool) for c in plain):
            options["classes"] = plain
        return models.SequenceClassifier(len(data.inputs), self.hidden_size, len(plain), **options)

    def _weights(self, y: Any, sample_weight: Any) -> Any:
        weights = super()._weights(y, sample_weight)
        if self.class_weight is None:
            return weights
        own = compute_sample_weight(self.class_weight, y)
        return own if weights is None else own * weights

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of `classes_`, (n, classes)."""
        return self._predicted(X, "predict")

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable classes, (n,)."""
        p = self.predict_proba(X)
        return self.classes_[p.argmax(axis=1)]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy; arguments as for `fit`."""
        return float(super().score(X, self._targets(X, y), sample_weight))


@dataclass(eq=False, repr=False)
class SequenceRegressor(RegressorMixin, SequenceEstimator):
    """Predicts numbers of sequences, in scikit-learn's protocol.

    Parameters
    ----------
    hidden_size, num_layers, cell, bidirectional, dropout, optimizer, learning_rate, epochs, batch_size, clip_norm
        As for `SequenceClassifier`.
    patience, validation_fraction, dtype, device, random_state, progress_bar, axes, id, time
        Likewise.
    loss
        As for `rnnx.models.SequenceRegressor`.
    scale : bool
        Standardize each feature, and targets.

    Attributes
    ----------
    model_ : rnnx.models.SequenceRegressor
        It has more methods, such as `predict_distribution`.
    n_features_in_, history_
        As for `SequenceClassifier`.

    See Also
    --------
    SequenceClassifier, Forecaster, rnnx.models.SequenceRegressor

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import cross_val_score
    >>> from rnnx.estimators import SequenceRegressor
    >>> X = np.random.default_rng(0).standard_normal((60, 5, 1))  # (n, T, n_x)
    >>> y = X.sum(axis=(1, 2))
    >>> scores = cross_val_score(SequenceRegressor(8, epochs=40, learning_rate=0.02, random_state=0), X, y, cv=3)
    >>> bool(scores.mean() > 0.8)  # R^2 of examples that were held out
    True
    """

    def _encoded(self, y: Any) -> np.ndarray:
        y = check_array(y, ensure_2d=False, input_name="y", dtype="numeric", estimator=self).astype(float)
        if y.ndim > 2:
            raise ValueError(f"`y` must have shape (n,) or (n, n_y); got {y.shape}")
        self._flat = y.ndim == 1
        return np.atleast_2d(y.T)

    def _model(self, data: Examples, **options: Any) -> models.SequenceModel:
        if self.scale:
            loss = as_loss(options.get("loss", "squared_error"), ("numbers",))
            with in_words_of_the_caller({"`values`": "`y`"}):
                options["target_scaler"] = Scaler.fit(data.targets, shift=loss.shifts)
        return models.SequenceRegressor(len(data.inputs), self.hidden_size, len(data.targets), **options)

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted numbers, (n,) or (n, n_y)."""
        found = self._predicted(X, "predict")
        return found[:, 0] if self._flat else found

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the coefficient of determination, R^2; arguments as for `fit`."""
        return float(super().score(X, self._targets(X, y), sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
