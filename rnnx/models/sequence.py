"""Models that classify sequences or predict numbers from them."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.models.objective import checked_classes
from rnnx.models.sequence_model import Options, SequenceModel


class Inference(TypedDict, total=False):
    """Keyword arguments of predictions."""

    lengths: Any
    batch_size: int | None
    extra: Mapping[str, Array] | None


class Predictor(SequenceModel):
    """The base of models of sequences that predict classes or numbers."""

    def predict(
        self,
        inputs: Any,
        *,
        lengths: Any = None,
        batch_size: int | None = None,
        extra: Mapping[str, Array] | None = None,
    ) -> Array:
        """Return the predictions of the sequences, (n_y, m), or (n_y, m, T) per step.

        Of a classifier, these are the probabilities of its classes. Of a regressor, they are numbers: where it puts out
        a distribution, its mean or, of quantiles, the one nearest to 0.5.

        Parameters
        ----------
        inputs, lengths, extra
            As for `forward`, also in their errors. Those that are not finite are a FloatingPointError, as in training.
        batch_size : int, optional
            Most examples in one pass; default: as many as keep its memory at a few hundred megabytes. The last digits
            of the result may depend on it, because an engine divides the work by the size of the batch.
        """
        return self.predicted(self.outputs(inputs, lengths=lengths, batch_size=batch_size, extra=extra)[0])


class SequenceClassifier(Predictor):
    """Classifies sequences, or each of their steps.

    Parameters
    ----------
    input_size : int
        Features per step, or number of distinct indices.
    hidden_size, num_layers
        As for `Recurrent`.
    num_classes : int
    cell : str or Cell
        "lstm", "gru", "rnn", the name of another cell in ``rnnx.CELLS``, or a cell of your own. A checkpoint contains
        no code, so a cell of your own is passed to `rnnx.training.load_checkpoint` again.
    reset_after : bool
        Use the GRU of PyTorch and Keras (the default there) instead of the course's.
    bidirectional, dropout, zoneout, recurrent_dropout
        As for `Recurrent`.
    per_step : bool
        Predict a class for every step (targets (m, T)) instead of one for the sequence (targets (m,)).
    loss : str or Loss
        "cross_entropy", the default; "binary", with one output for two classes; "multi_label", for labels that do not
        exclude each other (targets (num_classes, m) or (num_classes, m, T), from 0 to 1); or a loss of `rnnx.losses`
        with options, such as ``CrossEntropy(label_smoothing=0.1)``.
    input_scaler : Scaler, optional
        The model takes inputs in raw units and standardizes them; see `rnnx.data.Scaler`, or pass a fitted scaler of
        scikit-learn. It is part of a checkpoint.
    classes : sequence of str, int or bool, optional
        The names of the classes, for `predict_classes`; part of a checkpoint, too.
    rng, scheme, dtype, xp, device
        As for `rnnx.initialize_parameters`.
    parameters : dict of str to array, optional
        Parameters to use instead of new ones.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of range, or parameters do not match.

    See Also
    --------
    SequenceRegressor, MultiTaskModel, rnnx.data.Examples, rnnx.estimators.SequenceClassifier

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.models import SequenceClassifier
    >>> model = SequenceClassifier(3, 16, num_classes=2, bidirectional=True, rng=0)
    >>> model.predict(np.zeros((3, 5, 7))).shape
    (2, 5)
    """

    kind = "classifier"
    _losses = ("classes", "labels")
    _output_name = "num_classes"

    def __init__(
        self,
        input_size: int,
        hidden_size: int | Sequence[int],
        num_classes: int,
        num_layers: int = 1,
        *,
        classes: Sequence[Any] | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(input_size, hidden_size, num_classes, num_layers, **options)
        self.classes = None if classes is None else checked_classes(classes, self.output_size)
        if self.classes is not None:
            self.config["classes"] = self.classes

    def predict_classes(self, inputs: Any, **options: Unpack[Inference]) -> np.ndarray:
        """Return the most probable classes as a NumPy array, (m,) or (m, T): their names, or indices without `classes`.

        The arguments are those of `predict`. Of a model with the loss "multi_label", the result is a boolean for each
        label, (num_classes, m) or (num_classes, m, T): whether it is more probable than not.
        """
        p = ns.to_host(self.predict(inputs, **options))
        if self.loss_function.kind == "labels":
            return p > 0.5
        indices = p.argmax(axis=0)
        return indices if self.classes is None else np.array(self.classes)[indices]


class SequenceRegressor(Predictor):
    """Predicts numbers for a sequence, or for each of its steps, by default by least squares.

    Parameters
    ----------
    output_size : int
        How many numbers to predict.
    per_step : bool
        Predict at every step (targets (output_size, m, T)) instead of at the end (targets (output_size, m)).
    loss : str or Loss
        "squared_error", the default, "absolute_error", "huber", "quantile", "gaussian", "student_t", "poisson", "nse",
        "esr", or a loss of `rnnx.losses` with options, such as ``Quantile([0.1, 0.5, 0.9])``, or of your own.
    target_scaler : Scaler, optional
        The model predicts in the raw units of the targets, while it learns standardized ones, of which the loss is. For
        "poisson" it must not shift: ``Scaler.fit(targets, shift=False)``.
    input_size, hidden_size, num_layers, **options
        As for `SequenceClassifier`, with its errors.

    See Also
    --------
    SequenceClassifier, MultiTaskModel, rnnx.data.SeriesWindows, rnnx.losses

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.models import SequenceRegressor
    >>> model = SequenceRegressor(3, 16, loss="gaussian", rng=0)
    >>> x = np.zeros((3, 5, 7))  # (n_x, m, T)
    >>> model.predict(x).shape
    (1, 5)
    >>> {name: values.shape for name, values in model.predict_distribution(x).items()}
    {'mean': (1, 5), 'scale': (1, 5)}
    """

    kind = "regressor"
    _losses = ("numbers",)
    _default_loss = "squared_error"
    _output_name = "output_size"

    def predict_distribution(self, inputs: Any, **options: Unpack[Inference]) -> dict[str, Array]:
        """Return all that the outputs say, by name: "mean" and "scale", or the quantiles "0.1", "0.5", ...

        Each has the shape of the predictions. The arguments are those of `predict`.
        """
        return self.described(self.outputs(inputs, **options)[0])

    def predict_quantiles(
        self, inputs: Any, quantiles: Sequence[float] = (0.1, 0.5, 0.9), **options: Unpack[Inference]
    ) -> dict[str, Array]:
        """Return quantiles of the predicted distribution, such as the ends of an interval, by their level as text.

        Parameters
        ----------
        inputs, **options
            As for `predict`.
        quantiles : sequence of float
            Increasing levels, between 0 and 1: any of the losses "gaussian", "student_t" and "poisson"; of "quantile",
            those that the model was trained for. ``low, high = model.predict_quantiles(x, [0.05, 0.95]).values()`` is
            an interval of 90 %.

        Returns
        -------
        quantiles : dict of str to array
            Each has the shape of the predictions.

        Raises
        ------
        ValueError
            Also if the loss has no such quantiles.
        """
        loss = self.loss_function
        levels = loss.check_levels(quantiles)
        described = self.predict_distribution(inputs, **options)
        return {str(level): loss.quantile(described, level) for level in levels}
