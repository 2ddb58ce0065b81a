"""The dense layer and the losses, over all time steps at once."""

import rnnx

from .common import ENGINES, LIBRARIES, EngineBenchmark


class DenseHead(EngineBenchmark):
    """size = (n_a, n_y, m, T_x): a character model, and a vocabulary larger than the hidden state."""

    param_names = (*EngineBenchmark.param_names, "size")
    params = (LIBRARIES, ((64, 64, 32, 100), (256, 1024, 64, 50)))

    def setup(self, engine, size):
        super().setup(engine)
        n_a, n_y, m, T_x = size
        self.a = self.sequence("float32", n_a, m, T_x)
        parameters = rnnx.initialize_parameters("lstm", 1, n_a, n_y, seed=self.rng, xp=self.xp)
        self.W, self.b = parameters["Wy"], parameters["by"]
        self.z = rnnx.dense_forward(self.a, self.W, self.b)
        calls = self.time_dense_forward, self.time_dense_backward, self.time_softmax
        self.warm_up((engine, size), *calls)

    def time_dense_forward(self, *_):
        rnnx.dense_forward(self.a, self.W, self.b)
        self.synchronize()

    def time_dense_backward(self, *_):
        rnnx.dense_backward(self.z, self.a, self.W)
        self.synchronize()

    def time_softmax(self, *_):
        rnnx.softmax(self.z)
        self.synchronize()


class Losses(EngineBenchmark):
    """size = (n_y, m, T_x): one name, a character model with and without lengths, and a large vocabulary."""

    param_names = (*EngineBenchmark.param_names, "size")
    params = (ENGINES, ((27, 1, 10), (65, 64, 64), (1024, 64, 50)))

    def setup(self, engine, size):
        super().setup(engine)
        n_y, m, T_x = size
        self.z, self.y = (self.sequence("float32", n_y, m, T_x) for _ in range(2))
        self.targets = self.xp.asarray(self.rng.integers(0, n_y, (m, T_x)))
        self.lengths = self.xp.asarray(self.rng.integers(1, T_x + 1, m))
        calls = self.time_softmax_cross_entropy, self.time_with_lengths, self.time_squared_error
        self.warm_up((engine, size), *calls)

    def time_softmax_cross_entropy(self, *_):
        rnnx.softmax_cross_entropy(self.z, self.targets)
        self.synchronize()

    def time_with_lengths(self, *_):
        rnnx.softmax_cross_entropy(self.z, self.targets, lengths=self.lengths)
        self.synchronize()

    def time_squared_error(self, *_):
        rnnx.squared_error(self.z, self.y)
        self.synchronize()
