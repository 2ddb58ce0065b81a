"""TensorFlow's sides: `model.fit`, and a loop with GradientTape. The only file that imports tensorflow and keras."""

import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from rnnx import convert
from rnnx.compare.exchange import Arrays, Request, Settings
from rnnx.compare.side import main, timed

BETAS, EPSILON = (0.9, 0.999), 1e-8


def hold_second_biases(bias: Any) -> Any:
    """A constraint: the recurrent biases, the second row, at zero where they only add to those of the first.

    With both, the sum would learn twice as fast as the one bias that rnnx has. The last third, the candidate's, is a
    parameter of its own.
    """
    k = bias.shape[1] // 3
    mask = np.ones((2, 3 * k))
    mask[1, : 2 * k] = 0
    return bias * tf.constant(mask, bias.dtype)


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "rnn": (keras.layers.SimpleRNN, {}),
    "lstm": (keras.layers.LSTM, {}),
    "gru": (keras.layers.GRU, {"reset_after": False}),
    "gru_reset_after": (keras.layers.GRU, {"reset_after": True, "bias_constraint": hold_second_biases}),
}


class PaperAdam(keras.optimizers.Adam):
    """Adam as in algorithm 1 of its paper, as rnnx and torch have it.

    Keras divides by sqrt(s) + epsilon, not by sqrt(s / (1 - beta_2^t)) + epsilon ("epsilon hat", the paper's end of
    section 2); with epsilon sqrt(1 - beta_2^t) at step t the two are the same. And it rounds the betas to float32,
    whatever the variables are.
    """

    def __init__(self, learning_rate: float) -> None:
        super().__init__(learning_rate)
        self.beta_1, self.beta_2 = (tf.constant(beta, keras.config.floatx()) for beta in BETAS)

    @property
    def epsilon(self) -> Any:
        """Keras's epsilon of the step that is being made."""
        t = tf.cast(self.iterations + 1, keras.config.floatx())
        return EPSILON * tf.sqrt(1 - tf.pow(self.beta_2, t))

    @epsilon.setter
    def epsilon(self, value: float) -> None:
        """Keras's constructor sets it."""


class Recorder(keras.callbacks.Callback):
    """The loss of every batch by itself (Keras reports the mean since the epoch began), and when it ended."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.ends: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Forget the batches before."""
        del batch, logs
        self.model.reset_metrics()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Note loss and time."""
        del batch
        self.losses.append(float(logs["loss"]))
        self.ends.append(time.perf_counter())


class KerasSide:
    """`model.fit` (way "fit"), or a tf.function with GradientTape (way "loop")."""

    def __init__(self, request: Request, way: str) -> None:
        s = request.settings
        self.request, self.way = request, way
        self.versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
        keras.config.set_floatx(s.dtype)
        self.model, self.layers, self.head = build(s)
        for layer, weights in zip(self.layers, convert.to_keras(s.cell, request.parameters), strict=True):
            layer.set_weights(weights)
        self.head.set_weights(convert.dense_to_keras(request.parameters))
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        rule = {"sgd": keras.optimizers.SGD, "adam": PaperAdam}[s.optimizer]
        self.optimizer = rule(learning_rate=s.learning_rate)

    def train(self) -> tuple[list[float], list[float]]:
        """Losses and seconds of all steps."""
        if self.way == "loop":
            step = tf.function(self._step)
            return timed(self.request, lambda x, y: step(tf.constant(x), tf.constant(y)))
        self.model.compile(self.optimizer, self.loss)
        recorder = Recorder()
        before = time.perf_counter()
        self.model.fit(
            self._batches(),
            steps_per_epoch=self.request.settings.steps,
            epochs=1,
            shuffle=False,
            verbose=0,
            callbacks=[recorder],
        )
        return recorder.losses, list(np.diff([before, *recorder.ends]))

    def _batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield from zip(self.request.inputs, self.request.targets, strict=True)

    def first_gradients(self) -> Arrays:
        """Gradients of the first batch."""
        _, gradients = self._loss_and_gradients(
            tf.constant(self.request.inputs[0]), tf.constant(self.request.targets[0])
        )
        *recurrent, kernel, bias = gradients
        layers = [recurrent[at : at + 3] for at in range(0, len(recurrent), 3)]
        found = convert.from_keras(self.request.settings.cell, layers, stack=True, gradients=True)
        return found | convert.dense_from_keras([kernel, bias], gradients=True)

    def _loss_and_gradients(self, inputs: Any, targets: Any) -> tuple[Any, list[Any]]:
        with tf.GradientTape() as tape:
            loss = self.loss(targets, self.model(inputs, training=True))
        return loss, tape.gradient(loss, self.model.trainable_variables)

    def _step(self, inputs: Any, targets: Any) -> Any:
        loss, gradients = self._loss_and_gradients(inputs, targets)
        self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))
        return loss


def build(s: Settings) -> tuple[Any, list[Any], Any]:
    """The model, (m, T) indices to (m, T, vocab_size) logits; its recurrent layers; its dense layer."""
    kind, options = KINDS[s.cell]
    layers = [kind(s.hidden_size, return_sequences=True, **options) for _ in range(s.num_layers)]
    head = keras.layers.Dense(s.vocab_size)
    inputs = keras.Input((s.seq_length,), dtype="int64")
    out = keras.ops.one_hot(inputs, s.vocab_size, dtype=s.dtype)
    for layer in layers:
        out = layer(out)
    return keras.Model(inputs, head(out)), layers, head


def set_threads(request: Request, way: str) -> KerasSide:
    """A side, after the number of threads: TensorFlow takes it only before its first operation."""
    threads = request.settings.threads
    if threads is not None and tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    return KerasSide(request, way)


if __name__ == "__main__":
    main(set_threads)
