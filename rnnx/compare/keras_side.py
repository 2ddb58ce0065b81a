"""TensorFlow's sides: `model.fit`, a GradientTape loop, a model class. Only this file imports tensorflow and keras."""

import math
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from rnnx import convert
from rnnx.compare.records import CONTINUATION, Arrays, Request, Settings
from rnnx.compare.side import Side

BETAS, EPSILON = (0.9, 0.999), 1e-8


def freeze_second_biases(bias: Any) -> Any:
    """Keep recurrent biases (the second row) at zero where they are only added to the input biases.

    If both were trained, their sum would learn twice as fast as rnnx's single bias. The last third, the candidate's
    recurrent bias, is a separate parameter.
    """
    k = bias.shape[1] // 3
    mask = np.ones((2, 3 * k))
    mask[1, : 2 * k] = 0
    return bias * tf.constant(mask, bias.dtype)


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "rnn": (keras.layers.SimpleRNN, {}),
    "lstm": (keras.layers.LSTM, {}),
    "gru": (keras.layers.GRU, {"reset_after": False}),
    "gru_reset_after": (keras.layers.GRU, {"reset_after": True, "bias_constraint": freeze_second_biases}),
}


def make_recurrent(s: Settings, **options: Any) -> list[Any]:
    """Return the recurrent layers."""
    kind, own = KINDS[s.cell_name]
    return [kind(s.hidden_size, return_sequences=True, **own, **options) for _ in range(s.num_layers)]


class PaperAdam(keras.optimizers.Adam):
    """Adam as in algorithm 1 of its paper, like rnnx and torch.

    Keras divides by sqrt(s) + epsilon ("epsilon hat" in section 2) instead of sqrt(s / (1 - beta_2^t)) + epsilon.
    Replacing its epsilon by epsilon sqrt(1 - beta_2^t) makes them equal. Keras also rounds the betas to float32.
    """

    def __init__(self, learning_rate: float) -> None:
        super().__init__(learning_rate)
        self.beta_1, self.beta_2 = (tf.constant(beta, keras.config.floatx()) for beta in BETAS)

    @property
    def epsilon(self) -> Any:
        """Keras's epsilon at the current step."""
        t = tf.cast(self.iterations + 1, keras.config.floatx())
        return EPSILON * tf.sqrt(1 - tf.pow(self.beta_2, t))

    @epsilon.setter
    def epsilon(self, value: float) -> None:
        """Ignore the value that Keras's constructor sets."""


class Loop(Side):
    """A tf.function with GradientTape."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        s = request.settings
        self._compiled_step = tf.function(self._step)
        # TensorFlow accepts the number of threads only before its first operation.
        if s.threads is not None and tf.config.threading.get_intra_op_parallelism_threads() != s.threads:
            tf.config.threading.set_intra_op_parallelism_threads(s.threads)
            tf.config.threading.set_inter_op_parallelism_threads(s.threads)
        self.versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
        keras.config.set_floatx(s.dtype)
        self.model, layers, head = self._make_model()
        for layer, weights in zip(layers, convert.to_keras(s.cell_name, request.parameters), strict=True):
            layer.set_weights(weights)
        head.set_weights(convert.dense_to_keras(request.parameters))
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        rule = {"sgd": keras.optimizers.SGD, "adam": PaperAdam}[s.optimizer]
        self.optimizer = rule(learning_rate=s.learning_rate)

    def _make_model(self) -> tuple[Any, list[Any], Any]:
        """Return a model, its recurrent layers and its dense layer."""
        s = self.settings
        inputs = keras.Input((s.seq_length,), dtype="int64")
        out = keras.ops.one_hot(inputs, s.vocab_size, dtype=s.dtype)
        layers, head = make_recurrent(s), keras.layers.Dense(s.vocab_size)
        for layer in layers:
            out = layer(out)
        return keras.Model(inputs, head(out)), layers, head

    def first_gradients(self) -> Arrays:  # noqa: D102
        inputs, targets = tf.constant(self.request.inputs[0]), tf.constant(self.request.targets[0])
        _, found = self._loss_and_gradients(inputs, targets)
        *recurrent, kernel, bias = found[-3 * self.settings.num_layers - 2 :]  # an embedding's would come first
        layers = [recurrent[at : at + 3] for at in range(0, len(recurrent), 3)]
        gradients = convert.from_keras(self.settings.cell_name, layers, stack=True, gradients=True)
        return gradients | convert.dense_from_keras([kernel, bias], gradients=True)

    def _loss_and_gradients(self, inputs: Any, targets: Any) -> tuple[Any, list[Any]]:
        with tf.GradientTape() as tape:
            loss = self.loss(targets, self.model(inputs, training=True))
        return loss, tape.gradient(loss, self.model.trainable_variables)

    def step(self, inputs: np.ndarray, targets: np.ndarray) -> float:  # noqa: D102
        return self._compiled_step(tf.constant(inputs), tf.constant(targets))

    def _step(self, inputs: Any, targets: Any) -> Any:
        loss, gradients = self._loss_and_gradients(inputs, targets)
        self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))
        return loss


class Fit(Loop):
    """`model.fit`."""

    def train(self) -> tuple[list[float], list[float]]:  # noqa: D102
        losses: list[float] = []
        times: list[float] = []

        def record(_batch: int, logs: dict[str, Any]) -> None:
            losses.append(float(logs["loss"]))
            times.append(time.perf_counter())
            self.model.stop_training = not math.isfinite(losses[-1])

        def reset(*_: Any, **__: Any) -> None:  # because Keras reports the mean loss since the last reset
            self.model.reset_metrics()

        self.model.compile(self.optimizer, self.loss)
        times.append(time.perf_counter())
        self.model.fit(
            # A generator, because Keras accepts no other iterator.
            (batch for batch in zip(self.request.inputs, self.request.targets, strict=True)),
            steps_per_epoch=self.settings.steps,
            shuffle=False,
            verbose=0,
            callbacks=[keras.callbacks.LambdaCallback(on_train_batch_begin=reset, on_train_batch_end=record)],
        )
        return losses, list(np.diff(times))


class CharacterModel(keras.Model):
    """A model class as in TensorFlow's tutorial on text generation: an embedding, recurrent layers, a dense layer.

    The embedding is initially the identity and then equals a one-hot input.
    """

    def __init__(self, s: Settings) -> None:
        super().__init__()
        self.embedding = keras.layers.Embedding(s.vocab_size, s.vocab_size, embeddings_initializer="identity")
        self.recurrent = make_recurrent(s, return_state=True)
        self.head = keras.layers.Dense(s.vocab_size)

    def call(self, inputs: Any, states: Any = None, return_states: bool = False, training: bool = False) -> Any:
        """Return logits (m, T, vocab_size), and the final states of all layers if they are asked for."""
        out, final = self.embedding(inputs), []
        for layer, state in zip(self.recurrent, states or [None] * len(self.recurrent), strict=True):
            out, *state = layer(out, initial_state=state, training=training)
            final.append(state)
        logits = self.head(out)
        return (logits, final) if return_states else logits

    @tf.function
    def next_character(self, indices: Any, states: Any, seed: Any) -> tuple[Any, Any]:
        """Read indices (1, T), draw the index after them, (1, 1), and return it with the states."""
        logits, states = self(indices, states, return_states=True)
        return tf.random.stateless_categorical(logits[:, -1], 1, seed), states

    def generate(self, prompt: np.ndarray, n: int, seed: int) -> np.ndarray:
        """Return the prompt and n more characters, drawn with their probabilities."""
        text, states = [tf.constant(prompt[None])], None
        for at in range(n):
            index, states = self.next_character(text[-1], states, tf.constant([seed % 2**31, at]))
            text.append(index)
        return np.concatenate(text, axis=1)[0]


class Subclass(Fit):
    """`model.fit` with a `CharacterModel`."""

    checked_losses = 1
    note = (
        "has an Embedding for the one-hot input. It starts as the identity, so the first loss and the gradients are "
        "those of the other models; then it is trained too, so later losses differ and are not checked."
    )

    def _make_model(self) -> tuple[Any, list[Any], Any]:
        model = CharacterModel(self.settings)
        model(keras.Input((self.settings.seq_length,), dtype="int64"))  # creates the weights
        return model, model.recurrent, model.head

    def sample(self) -> np.ndarray:  # noqa: D102
        return self.model.generate(self.request.prompt, CONTINUATION, self.settings.seed)
