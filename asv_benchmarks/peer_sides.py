"""The sides that `peers.py` times: one class per library, each run in a process that imports no other peer.

A side has three methods without arguments for a problem (cell, dtype, size):

* ``step``: forward, backward, gradients of the parameters and of the input, from a given cotangent of the states;
* ``inference``: forward alone, without caches;
* ``stream``: returns a function for one time step, which carries the state from call to call.

Every library gets its preferred layout, prepared before the timing. rnnx gets the course's layout (n_x, m, T_x), in C
order as NumPy users make it ("rnnx"), or in Fortran order as rnnx's own functions return it ("rnnx_f"); "rnnx_fixed"
has weights of ``rnnx.quantize(..., "float32")``.
"""

import warnings

import numpy as np
from shared import GATES, usable_cores


def problem(dtype, size):
    """Return x and da, time-major: (T, m, n_x) and (T, m, n_a)."""
    n_x, n_a, m, n_steps = size
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal((n_steps, m, n)).astype(dtype) for n in (n_x, n_a))


class Rnnx:
    """The public functions, arrays in C order."""

    order = "C"

    def __init__(self, cell, dtype, size):
        import rnnx

        self.rnnx, self.cell, self.dtype, self.size = rnnx, cell, dtype, size
        self.x, self.da = (np.array(a.T, order=self.order) for a in problem(dtype, size))
        self.parameters = rnnx.initialize_parameters(cell, size[0], size[1], seed=0, dtype=dtype)

    def step(self):
        _, _, caches = self.rnnx.recurrent_forward(self.cell, self.x, (), self.parameters)
        self.rnnx.recurrent_backward(self.cell, (self.da,), caches, consume=True)

    def inference(self):
        self.rnnx.recurrent_forward(self.cell, self.x, (), self.parameters, keep_caches=False)

    def stream(self):
        stream = self.rnnx.Stream(self.cell, self.parameters, m=self.size[2])
        xt = np.ascontiguousarray(self.x[:, :, 0])
        return lambda: stream.step(xt)


class RnnxF(Rnnx):
    """The public functions, arrays in Fortran order, as the functions return them."""

    order = "F"


class RnnxFixed(Rnnx):
    """The public functions, with weights that are packed once, as those of an inference session are."""

    def __init__(self, cell, dtype, size):
        super().__init__(cell, dtype, size)
        self.parameters = self.rnnx.quantize(cell, self.parameters, "float32")


class Torch:
    """torch.nn modules (oneDNN for the float32 LSTM), time-major sequences."""

    def __init__(self, cell, dtype, size):
        import torch

        self.torch = torch
        module = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru_reset_after": torch.nn.GRU}[cell]  # no other GRU
        self.layer = module(size[0], size[1], dtype=getattr(torch, dtype))
        self.x, self.da = (torch.from_numpy(a) for a in problem(dtype, size))
        self.inputs = [self.x.clone().requires_grad_(), *self.layer.parameters()]

    def step(self):
        a, _ = self.layer(self.inputs[0])
        self.torch.autograd.grad(a, self.inputs, self.da)

    def inference(self):
        with self.torch.inference_mode():
            self.layer(self.x)

    def stream(self):
        xt, state = self.x[:1], None

        def step():
            nonlocal state
            with self.torch.inference_mode():
                _, state = self.layer(xt, state)

        return step


class Jax:
    """lax.scan under jit, with the input product outside the loop and one recurrent product inside."""

    def __init__(self, cell, dtype, size):
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_x64", dtype == "float64")
        n_x, n_a, m, _ = size
        gates, rng = GATES[cell], np.random.default_rng(0)
        shapes = ((gates * n_a, n_x), (gates * n_a, n_a), (gates * n_a,))
        weights = [jnp.asarray(0.1 * rng.standard_normal(shape).astype(dtype)) for shape in shapes]
        self.block = jax.block_until_ready
        s0 = tuple(jnp.zeros((m, n_a), dtype) for _ in range(2 if cell == "lstm" else 1))

        def cell_step(wh, state, zx):
            if cell == "rnn":
                new = (jnp.tanh(zx + state[0] @ wh.T),)
            elif cell == "lstm":
                f, i, g, o = jnp.split(zx + state[0] @ wh.T, 4, axis=1)
                c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
                new = (jax.nn.sigmoid(o) * jnp.tanh(c), c)
            elif cell == "gru":
                u, r = jnp.split(jax.nn.sigmoid(zx[:, : 2 * n_a] + state[0] @ wh[: 2 * n_a].T), 2, axis=1)
                candidate = jnp.tanh(zx[:, 2 * n_a :] + (r * state[0]) @ wh[2 * n_a :].T)
                new = (u * candidate + (1 - u) * state[0],)
            else:
                (ux, rx, cx), (uh, rh, ch) = (jnp.split(z, 3, axis=1) for z in (zx, state[0] @ wh.T))
                u, r = jax.nn.sigmoid(ux + uh), jax.nn.sigmoid(rx + rh)
                new = (u * jnp.tanh(cx + r * ch) + (1 - u) * state[0],)
            return new, new[0]

        def run(x, wx, wh, b):
            _, a = jax.lax.scan(lambda state, zx: cell_step(wh, state, zx), s0, x @ wx.T + b)
            return a

        def gradients(x, da, *weights):
            a, back = jax.vjp(run, x, *weights)
            return a, back(da)

        self.run, self.gradients, self.weights = jax.jit(run), jax.jit(gradients), weights
        self.one = jax.jit(lambda state, xt, wx, wh, b: cell_step(wh, state, xt @ wx.T + b)[0])
        self.state, self.arrays = s0, tuple(map(jnp.asarray, problem(dtype, size)))

    def step(self):
        self.block(self.gradients(*self.arrays, *self.weights))

    def inference(self):
        self.block(self.run(self.arrays[0], *self.weights))

    def stream(self):
        xt = self.arrays[0][0]

        def step():
            self.state = self.block(self.one(self.state, xt, *self.weights))

        return step


class Onnxruntime:
    """A node of onnxruntime, time-major sequences; it has inference alone."""

    def __init__(self, cell, dtype, size):
        from onnx_sides import onnx_sequence

        x, threads = problem(dtype, size)[0], int(usable_cores() == 1)
        self.inference = onnx_sequence(cell, size[1], x, threads=threads)


class Keras:
    """Keras layers on TensorFlow in a tf.function, batch-first as Keras requires."""

    def __init__(self, cell, dtype, size):
        warnings.simplefilter("ignore")
        import keras
        import tensorflow as tf

        layer = {"rnn": keras.layers.SimpleRNN, "lstm": keras.layers.LSTM, "gru_reset_after": keras.layers.GRU}[cell]
        layer = layer(size[1], return_sequences=True, dtype=dtype)
        x, da = (tf.constant(np.ascontiguousarray(a.transpose(1, 0, 2))) for a in problem(dtype, size))
        layer(x)
        run = tf.function(lambda x: layer(x))

        @tf.function
        def gradients(x, da):
            with tf.GradientTape() as tape:
                tape.watch(x)
                a = layer(x)
            return a, tape.gradient(a, [x, *layer.trainable_variables], da)

        self.step = lambda: gradients(x, da)[0].numpy()
        self.inference = lambda: run(x).numpy()

    def stream(self):
        raise NotImplementedError


class Course:
    """The course's NumPy loops: [a; x] concatenated, one product per gate, weight gradients summed step by step."""

    def __init__(self, cell, dtype, size):
        if cell != "lstm":
            raise NotImplementedError
        n_x, n_a, _, _ = size
        rng = np.random.default_rng(0)
        self.x, self.da = (np.array(a.T, order="C") for a in problem(dtype, size))
        self.n_a = n_a
        self.W = {k: (0.1 * rng.standard_normal((n_a, n_a + n_x))).astype(dtype) for k in "fico"}
        self.b = {k: np.zeros((n_a, 1), dtype) for k in "fico"}

    def forward_step(self, xt, a, c):
        joint = np.concatenate([a, xt])
        z = {k: self.W[k] @ joint + self.b[k] for k in "fico"}
        f, i, o = (1 / (1 + np.exp(-z[k])) for k in "fio")
        g = np.tanh(z["c"])
        c_next = f * c + i * g
        return o * np.tanh(c_next), c_next, (joint, c, c_next, f, i, g, o)

    def zeros(self):
        return np.zeros((self.n_a, self.x.shape[1]), self.x.dtype)

    def forward(self):
        a, c, caches, out = self.zeros(), self.zeros(), [], np.empty_like(self.da)
        for t in range(self.x.shape[2]):
            a, c, cache = self.forward_step(self.x[:, :, t], a, c)
            out[:, :, t] = a
            caches.append(cache)
        return out, caches

    def step(self):
        _, caches = self.forward()
        da, dc, dx = self.zeros(), self.zeros(), np.empty_like(self.x)
        dW = {k: np.zeros_like(w) for k, w in self.W.items()}
        db = {k: np.zeros_like(b) for k, b in self.b.items()}
        for t in reversed(range(self.x.shape[2])):
            joint, c, c_next, f, i, g, o = caches[t]
            da = da + self.da[:, :, t]
            tc = np.tanh(c_next)
            dc = dc + da * o * (1 - tc * tc)
            dz = {"f": dc * c * f * (1 - f), "i": dc * g * i * (1 - i), "c": dc * i * (1 - g * g)}
            dz["o"] = da * tc * o * (1 - o)
            both = sum(self.W[k].T @ dz[k] for k in "fico")
            for k in "fico":
                dW[k] += dz[k] @ joint.T
                db[k] += dz[k].sum(axis=1, keepdims=True)
            da, dx[:, :, t], dc = both[: self.n_a], both[self.n_a :], dc * f
        return dx, dW, db

    def inference(self):
        self.forward()

    def stream(self):
        a, c = self.zeros(), self.zeros()

        def step():
            nonlocal a, c
            a, c, _ = self.forward_step(self.x[:, :, 0], a, c)

        return step


SIDES = {"rnnx": Rnnx, "rnnx_f": RnnxF, "rnnx_fixed": RnnxFixed, "torch": Torch, "keras": Keras, "jax": Jax}
SIDES |= {"onnxruntime": Onnxruntime, "course": Course}
