"""The sides that `cells.py` times: any cell of rnnx, by rnnx and by the loops that users of JAX and PyTorch write.

The peers run the equations of the cell's own record with their own functions, one product for all gates of a stage, and
differentiate them. A step is forward, backward and the gradients of all parameters and of x, given a cotangent of the
hidden states. Sequences are time-major, (T, m, n), for all sides.
"""

import numpy as np

import rnnx
from rnnx.cells.parameters import stack_weights
from rnnx.cells.wiring import wiring


class Problem:
    """Inputs and parameters of a cell."""

    def __init__(self, name, size):
        n_x, n_a, m, n_steps = size
        rng = np.random.default_rng(0)
        self.cell, self.size = rnnx.CELLS[name], size
        self.parameters = rnnx.initialize_parameters(self.cell, n_x, n_a, seed=0)
        self.x, self.da = (rng.standard_normal((n_steps, m, n)).astype("float32") for n in (n_x, n_a))
        self.inputs = [rng.random((n_steps, m, n_a)).astype("float32") for _ in self.cell.inputs]
        # Not zero: some cells divide by a state.
        self.s0 = [np.ones((m, n_a), "float32") for _ in self.cell.states]


class Rnnx(Problem):
    """The public functions."""

    def step(self):
        inputs = dict(zip(self.cell.inputs, (e.T for e in self.inputs), strict=True))
        s0 = [s.T for s in self.s0]
        _, _, caches = rnnx.recurrent_forward(self.cell, self.x.T, s0, self.parameters, inputs=inputs)
        return rnnx.recurrent_backward(self.cell, (self.da.T,), caches, consume=True)


def loop(ops, cell, weights, zx, states, inputs):
    """Return the new states of one step; `weights` holds (W_h transposed, vectors) per stage, `zx` one array each."""
    s = states
    for stage, (wh, vectors), sides in zip(wiring(cell), weights, zx, strict=True):
        n = s[0].shape[1]
        zh = s[0] @ wh if stage.n_zh else None
        split = [None if z is None else [z[:, k : k + n] for k in range(0, z.shape[1], n)] for z in (sides, zh)]
        given = (*vectors, *(inputs[slot.number] for slot in stage.inputs))
        s, _ = stage.forward(ops, tuple(split[0] or ()), tuple(split[1] or ()), s, given)
    return s


def stacked(cell, parameters, n_x, transpose):
    """Return (W_x transposed or None, b, W_h transposed, vectors) per stage."""
    found = []
    for stage in wiring(cell):
        w = stack_weights(np, stage, parameters, n_x, next(iter(parameters.values())).shape[0])
        found.append((transpose(w.wx) if stage.n_zx else None, w.b, transpose(w.wh), w.vectors))
    return found


class Jax(Problem):
    """`jax.lax.scan` over the steps, compiled, with `jax.grad`."""

    def __init__(self, name, size):
        import jax
        import jax.numpy as jnp

        super().__init__(name, size)
        self.jax, ops = jax, self.ops(jax, jnp)
        cell, hoisted, n_x = self.cell, self.cell.hoisted, size[0]

        def loss(x, sources, weights):
            if hoisted:  # the vectors of the stages come first from the parameters, then from these
                results = dict(zip(hoisted.results, hoisted.forward(ops, *sources), strict=True))
                weights = [
                    (*w[:3], tuple(results.get(key, v) for key, v in zip(stage.vectors, w[3], strict=True)))
                    for stage, w in zip(cell.stages, weights, strict=True)
                ]
            zx = [None if wx is None else x @ wx + b for wx, b, _, _ in weights]
            inner = [(wh, vectors) for _, _, wh, vectors in weights]

            def body(states, at):
                z, inputs = at
                states = loop(ops, cell, inner, z, states, inputs)
                return states, states[0]

            s0 = tuple(map(jnp.asarray, self.s0))
            _, a = jax.lax.scan(body, s0, (zx, [jnp.asarray(e) for e in self.inputs]))
            return jnp.vdot(a, self.da)

        parameters = dict(self.parameters)
        sources = [parameters[key][:, 0] for key in hoisted.sources] if hoisted else []
        parameters |= dict.fromkeys(hoisted.results, np.zeros((size[1], 1), "float32")) if hoisted else {}
        weights = stacked(cell, parameters, n_x, np.transpose)
        self.arguments = jax.tree.map(jnp.asarray, (self.x, sources, weights))
        self.gradient = jax.jit(jax.grad(loss, (0, 1, 2)))

    @staticmethod
    def ops(jax, jnp):
        from types import SimpleNamespace

        named = {
            name: getattr(jnp, name)
            for name in ("tanh", "exp", "log", "sqrt", "abs", "sin", "cos", "where", "sign", "floor")
        }
        named |= {name: getattr(jax.nn, name) for name in ("sigmoid", "relu", "softplus", "log_sigmoid", "gelu")}
        named["mean"] = lambda x: jnp.broadcast_to(x.mean(-1, keepdims=True), x.shape)
        named |= {"maximum": jnp.maximum, "minimum": jnp.minimum, "greater": jnp.greater, "zeros_like": jnp.zeros_like}
        return SimpleNamespace(**named, constant=lambda value, like: jnp.full_like(like, value))

    def step(self):
        return self.jax.block_until_ready(self.gradient(*self.arguments))


class Torch(Problem):
    """A Python loop over the steps, with autograd."""

    compiled = False

    def __init__(self, name, size):
        import torch

        super().__init__(name, size)
        torch.set_num_threads(1)
        self.torch, ops = torch, self.ops(torch)
        cell, hoisted = self.cell, self.cell.hoisted

        def tensor(a):
            return torch.tensor(np.ascontiguousarray(a))

        parameters = dict(self.parameters)
        self.sources = [tensor(parameters[key][:, 0]).requires_grad_() for key in hoisted.sources] if hoisted else []
        parameters |= dict.fromkeys(hoisted.results, np.zeros((size[1], 1), "float32")) if hoisted else {}
        self.weights = [
            (None if wx is None else tensor(wx), tensor(b), tensor(wh), [tensor(v) for v in vectors])
            for wx, b, wh, vectors in stacked(cell, parameters, size[0], np.transpose)
        ]
        self.given, self.states = [tensor(e) for e in self.inputs], tuple(map(tensor, self.s0))
        self.x_tensor, self.da_tensor = tensor(self.x).requires_grad_(), tensor(self.da)
        self.leaves = [self.x_tensor, *self.sources]
        for stage, (wx, b, wh, vectors) in zip(cell.stages, self.weights, strict=True):
            own = [
                v for key, v in zip(stage.vectors, vectors, strict=True) if not hoisted or key not in hoisted.results
            ]
            self.leaves += [w.requires_grad_() for w in (wx, b, wh if stage.recurrent else None, *own) if w is not None]

        def step(weights, zx, states, inputs):
            return loop(ops, cell, weights, zx, states, inputs)

        self.ops_, self.step_ = ops, torch.compile(step, dynamic=False) if self.compiled else step

    @staticmethod
    def ops(torch):
        from types import SimpleNamespace

        functional = torch.nn.functional
        names = (
            "tanh",
            "exp",
            "log",
            "sqrt",
            "abs",
            "sin",
            "cos",
            "sign",
            "floor",
            "sigmoid",
            "relu",
            "maximum",
            "minimum",
        )
        named = {name: getattr(torch, name) for name in names}
        named |= {name: getattr(functional, name.replace("_", "")) for name in ("softplus", "log_sigmoid", "gelu")}
        named["mean"] = lambda x: x.mean(-1, keepdim=True).expand(x.shape)
        named |= {"where": torch.where, "greater": torch.gt, "zeros_like": torch.zeros_like}
        return SimpleNamespace(**named, constant=lambda value, like: torch.full_like(like, value))

    def step(self):
        cell, hoisted, results = self.cell, self.cell.hoisted, {}
        if hoisted:
            results = dict(zip(hoisted.results, hoisted.forward(self.ops_, *self.sources), strict=True))
        inner = [
            (wh, [results.get(key, v) for key, v in zip(stage.vectors, vectors, strict=True)])
            for stage, (_, _, wh, vectors) in zip(cell.stages, self.weights, strict=True)
        ]
        zx = [None if wx is None else self.x_tensor @ wx + b for wx, b, _, _ in self.weights]
        states, hidden = self.states, []
        for t in range(self.size[3]):
            sides = [None if z is None else z[t] for z in zx]
            states = self.step_(inner, sides, states, [e[t] for e in self.given])
            hidden.append(states[0])
        return self.torch.autograd.grad(self.torch.stack(hidden), self.leaves, self.da_tensor, allow_unused=True)


class TorchCompiled(Torch):
    """The same loop with a compiled step."""

    compiled = True


SIDES = {"rnnx": Rnnx, "jax": Jax, "torch": Torch, "torch_compiled": TorchCompiled}
