"""Optimizers and gradient clipping, on the parameters of an LSTM with an output layer."""

import numpy as np

import rnnx

from .common import ENGINES, EngineBenchmark


class Optimizers(EngineBenchmark):
    """n_a = n_x = n_y = n: small arrays measure the overhead per array, large ones the memory bandwidth."""

    param_names = (*EngineBenchmark.param_names, "n")
    params = (ENGINES, (64, 512))

    def setup(self, engine, n):
        super().setup(engine)
        self.parameters = rnnx.initialize_parameters("lstm", n, n, n, seed=self.rng, xp=self.xp)
        self.gradients = {
            "d" + key: self.xp.asarray(self.rng.standard_normal(p.shape, dtype="float32"))
            for key, p in self.parameters.items()
        }
        self.adam, self.sgd = rnnx.Adam(), rnnx.SGD()
        self.adam_state, self.sgd_state = self.adam.init(self.parameters), self.sgd.init(self.parameters)
        trees = (self.parameters, self.adam_state)
        self.out = tuple({key: self.xp.empty_like(a) for key, a in tree.items()} for tree in trees)
        calls = [self.time_adam, self.time_sgd, self.time_clip_by_value, self.time_clip_by_global_norm]
        calls += [self.time_adam_out] if self.xp is np else []
        self.warm_up((engine, n), *calls)

    def time_adam(self, *_):
        self.adam.update(self.parameters, self.gradients, self.adam_state, 1)
        self.synchronize()

    def time_adam_out(self, *_):
        if self.xp is not np:
            raise NotImplementedError("`out` is for NumPy arrays")
        self.adam.update(self.parameters, self.gradients, self.adam_state, 1, out=self.out)

    def time_sgd(self, *_):
        self.sgd.update(self.parameters, self.gradients, self.sgd_state, 1)
        self.synchronize()

    def time_clip_by_value(self, *_):
        rnnx.clip_by_value(self.gradients, 1.0)
        self.synchronize()

    def time_clip_by_global_norm(self, *_):
        rnnx.clip_by_global_norm(self.gradients, 1.0)
        self.synchronize()
