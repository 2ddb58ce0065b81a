"""Sequence functions of the built-in cells on all engines, and the matrix products that bound their times from below.

Every class is a grid of engine, cell, dtype and size = (n_x, n_a, m, T_x). `CELLS` has the built-in cells;
`asv_benchmarks/cells.py` measures all cells.
"""

import numpy as np

import rnnx

from .common import Benchmark, EngineBenchmark

CELLS = ("rnn", "lstm", "gru", "gru_reset_after")
LATENCY, MIXED, PRODUCTS = (50, 50, 1, 200), (64, 64, 32, 100), (256, 256, 64, 50)
SIZES = (LATENCY, MIXED, PRODUCTS)  # named after what limits the speed


def _skip_most_of_float64(dtype, size):
    if dtype == "float64" and size != MIXED:
        raise NotImplementedError("float64 is timed at one size only")


class _Recurrent(EngineBenchmark):
    param_names = (*EngineBenchmark.param_names, "cell", "dtype", "size")
    params = (*EngineBenchmark.params, CELLS, ("float32", "float64"), SIZES)

    def setup(self, engine, cell, dtype, size):
        super().setup(engine)
        _skip_most_of_float64(dtype, size)
        if cell not in rnnx.CELLS:
            raise NotImplementedError(f"no cell {cell!r} at this commit")
        n_x, n_a, m, T_x = size
        # Not orthogonal: for 1,024 units that takes longer than what is timed, and asv runs setup before every sample.
        options = {"scheme": "torch", "seed": self.rng, "dtype": dtype, "xp": self.xp}
        self.parameters = rnnx.initialize_parameters(cell, n_x, n_a, **options)
        self.x = self.sequence(dtype, n_x, m, T_x)


class RecurrentForward(_Recurrent):
    """Forward with caches."""

    def setup(self, *params):
        super().setup(*params)
        self.warm_up(params, self.time_forward)

    def time_forward(self, _engine, cell, *_):
        rnnx.recurrent_forward(cell, self.x, (), self.parameters)
        self.synchronize()


class RecurrentInference(_Recurrent):
    """Forward without caches."""

    params = (*EngineBenchmark.params, CELLS, ("float32",), (LATENCY, PRODUCTS))

    def setup(self, *params):
        super().setup(*params)
        self.warm_up(params, self.time_forward)

    def time_forward(self, _engine, cell, *_):
        rnnx.recurrent_forward(cell, self.x, (), self.parameters, keep_caches=False)
        self.synchronize()


class RecurrentBackward(_Recurrent):
    """Backward alone, with a cotangent of every step's hidden state."""

    def setup(self, engine, cell, dtype, size):
        super().setup(engine, cell, dtype, size)
        for _ in range(2):  # on a GPU the second forward pass captures the CUDA graph that the backward pass uses
            _, _, self.caches = rnnx.recurrent_forward(cell, self.x, (), self.parameters)
        self.da = self.sequence(dtype, *size[1:])
        self.warm_up((engine, cell, dtype, size), self.time_backward)

    def time_backward(self, _engine, cell, *_):
        rnnx.recurrent_backward(cell, (self.da,), self.caches)
        self.synchronize()


class Streaming(_Recurrent):
    """One time step of one example, with the state carried from step to step."""

    params = (*EngineBenchmark.params, CELLS, ("float32",), ((64, 128, 1, 1), (256, 1024, 1, 1)))
    number = 100

    def setup(self, *params):
        super().setup(*params)
        self.stream = rnnx.Stream(params[1], self.parameters)
        self.xt = self.xp.asarray(self.rng.standard_normal((params[3][0], 1), dtype="float32"))
        self.warm_up(params, self.time_step)

    def time_step(self, *_):
        self.stream.step(self.xt)
        self.synchronize()


class IndexInputs(_Recurrent):
    """Forward and backward from indices, at the sizes of a character model and a word model."""

    params = (*EngineBenchmark.params, ("lstm", "gru"), ("float32",), ((65, 128, 32, 64), (5000, 128, 32, 32)))

    def setup(self, engine, cell, dtype, size):
        super().setup(engine, cell, dtype, size)
        n_x, n_a, m, T_x = size
        self.x = self.xp.asarray(self.rng.integers(0, n_x, (m, T_x)))
        self.da = self.sequence(dtype, n_a, m, T_x)
        try:
            self.warm_up((engine, cell), self.time_step)
        except ValueError as error:
            raise NotImplementedError(f"no such inputs at this commit: {error}") from None

    def time_step(self, _engine, cell, *_):
        _, _, caches = rnnx.recurrent_forward(cell, self.x, (), self.parameters)
        rnnx.recurrent_backward(cell, (self.da,), caches, consume=True)
        self.synchronize()


class PeakMemory(_Recurrent):
    """Peak memory of a process that runs forward and backward."""

    params = (*EngineBenchmark.params, ("lstm", "gru"), ("float32",), (PRODUCTS,))

    def setup(self, *params):
        super().setup(*params)
        self.da = self.sequence("float32", *params[3][1:])

    def peakmem_step(self, _engine, cell, *_):
        _, _, caches = rnnx.recurrent_forward(cell, self.x, (), self.parameters)
        rnnx.recurrent_backward(cell, (self.da,), caches, consume=True)
        self.synchronize()


class TrainStep(_Recurrent):
    """A full training step: forward, dense head, loss, backward, Adam."""

    params = (*EngineBenchmark.params, CELLS, ("float32",), (MIXED, PRODUCTS))
    n_y = 64

    def setup(self, engine, cell, dtype, size):
        super().setup(engine, cell, dtype, size)
        n_x, n_a, m, T_x = size
        self.all_parameters = rnnx.initialize_parameters(
            cell, n_x, n_a, self.n_y, seed=self.rng, dtype=dtype, xp=self.xp
        )
        # Without the head's parameters forward computes no softmax: the loss needs the logits.
        self.head = rnnx.CELLS[cell].head
        self.parameters = {key: p for key, p in self.all_parameters.items() if key not in self.head}
        self.targets = self.xp.asarray(self.rng.integers(0, self.n_y, (m, T_x)))
        self.optimizer = rnnx.Adam()
        self.state = self.optimizer.init(self.all_parameters)
        self.warm_up((engine, cell, dtype, size), self.time_step)

    def time_step(self, _engine, cell, *_):
        W, b = (self.all_parameters[key] for key in self.head)
        states, _, caches = rnnx.recurrent_forward(cell, self.x, (), self.parameters)
        z = rnnx.dense_forward(states[0], W, b)
        _, dz = rnnx.softmax_cross_entropy(z, self.targets)
        head = rnnx.dense_backward(dz, states[0], W)
        da, *d_head = head.values() if isinstance(head, dict) else head  # a tuple in commits before November 2026
        gradients = rnnx.recurrent_backward(cell, (da,), caches, consume=True)
        gradients.update({"d" + key: d for key, d in zip(self.head, d_head, strict=True)})
        self.optimizer.update(self.all_parameters, gradients, self.state, 1)
        self.synchronize()


class GemmFloor(Benchmark):
    """NumPy's matrix products alone, in the shapes of a cell with 1 (rnn), 3 (both forms of gru) or 4 (lstm) gates.

    A forward pass needs the input product and the recurrent products, a backward pass the recurrent products
    (transposed) and the gradient products. The rest of a pass is overhead. Small recurrent products can be faster than
    BLAS's.
    """

    param_names = ("gates", "dtype", "size")
    params = ((1, 3, 4), ("float32", "float64"), SIZES)

    def setup(self, gates, dtype, size):
        _skip_most_of_float64(dtype, size)
        n_x, n_a, m, T_x = size
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((T_x * m, n_x), dtype=dtype)
        self.a = rng.standard_normal((T_x, m, n_a), dtype=dtype)
        self.dz = rng.standard_normal((T_x * m, gates * n_a), dtype=dtype)
        self.w_x = rng.standard_normal((gates * n_a, n_x), dtype=dtype)
        self.w_h = rng.standard_normal((n_a, gates * n_a), dtype=dtype)
        self.z = np.empty((m, gates * n_a), dtype)
        self.time_input_product()  # starts the threads of BLAS

    def time_input_product(self, *_):
        self.x @ self.w_x.T

    def time_recurrent_products(self, *_):
        for a in self.a:
            np.matmul(a, self.w_h, out=self.z)

    def time_gradient_products(self, *_):
        self.dz.T @ self.x
        self.dz.T @ self.a.reshape(len(self.x), -1)
        self.dz @ self.w_x
