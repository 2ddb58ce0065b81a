"""The vocabulary of cells on NumPy and on torch, written independently of the package, and random cells."""

import math
from types import SimpleNamespace

import numpy as np
from hypothesis import strategies as st

_erf = np.vectorize(math.erf, otypes=[np.float64])
_erfc = np.vectorize(math.erfc, otypes=[np.float64])

NUMPY = SimpleNamespace(
    tanh=np.tanh,
    sigmoid=lambda x: np.exp(-np.logaddexp(0, -x)),
    relu=lambda x: np.where(x < 0, 0.0, x),
    heaviside=lambda x: np.where(x > 0, 1.0, 0.0),
    exp=np.exp,
    log=np.log,
    sqrt=np.sqrt,
    abs=np.abs,
    sign=np.sign,
    floor=np.floor,
    maximum=np.maximum,
    minimum=np.minimum,
    greater=np.greater,
    where=np.where,
    softplus=lambda x: np.logaddexp(0, x),
    log_sigmoid=lambda x: -np.logaddexp(0, -x),
    sin=np.sin,
    cos=np.cos,
    erf=_erf,
    mean=lambda x: np.broadcast_to(x.mean(-1, keepdims=True), x.shape),
    gelu=lambda x: 0.5 * x * _erfc(-x / math.sqrt(2)),
    zeros_like=np.zeros_like,
    constant=lambda value, like: np.full_like(like, value),
)


def torch_words(torch):
    def tensors(function):
        """Torch's functions of two arguments take no numbers."""

        def apply(*arguments):
            like = next(a for a in arguments if isinstance(a, torch.Tensor))
            return function(*(a if isinstance(a, torch.Tensor) else torch.full_like(like, a) for a in arguments))

        return apply

    def where(condition, a, b):
        return torch.where(condition, torch.as_tensor(a).double(), torch.as_tensor(b).double())

    same = ("tanh", "sigmoid", "relu", "exp", "log", "sqrt", "abs", "sign", "floor", "sin", "cos", "erf", "zeros_like")
    return SimpleNamespace(
        **{name: getattr(torch, name) for name in same},
        heaviside=lambda x: (x > 0).to(x.dtype),
        maximum=tensors(torch.maximum),
        minimum=tensors(torch.minimum),
        greater=tensors(torch.greater),
        where=where,
        softplus=lambda x: torch.logaddexp(x, torch.zeros_like(x)),
        log_sigmoid=torch.nn.functional.logsigmoid,
        gelu=torch.nn.functional.gelu,
        mean=lambda x: x.mean(-1, keepdim=True).expand(x.shape),
        constant=lambda value, like: torch.full_like(like, value),
    )


# How a random cell applies a word: only where it is defined and, if it jumps, to leaves, whose values are never near
# the jump. `t` and `u` are any values, `leaf` is a leaf.
FORMS = {
    "+": lambda ops, t, u, leaf: t + u,
    "-": lambda ops, t, u, leaf: t - u,
    "*": lambda ops, t, u, leaf: t * u,
    "/": lambda ops, t, u, leaf: t / (1.5 + u * u),
    "neg": lambda ops, t, u, leaf: -t,
    "number +": lambda ops, t, u, leaf: 0.7 + t,
    "number -": lambda ops, t, u, leaf: 2 - t,
    "* number": lambda ops, t, u, leaf: t * -1.3,
    "number /": lambda ops, t, u, leaf: 3.0 / (2 + ops.abs(t)),
    "/ number": lambda ops, t, u, leaf: t / 3.0,
    "tanh": lambda ops, t, u, leaf: ops.tanh(t),
    "sigmoid": lambda ops, t, u, leaf: ops.sigmoid(t),
    "relu": lambda ops, t, u, leaf: ops.relu(t),
    "heaviside": lambda ops, t, u, leaf: ops.heaviside(leaf) * t,
    "exp": lambda ops, t, u, leaf: ops.exp(-ops.abs(t)),
    "log": lambda ops, t, u, leaf: ops.log(0.5 + t * t),
    "sqrt": lambda ops, t, u, leaf: ops.sqrt(0.1 + t * t),
    "abs": lambda ops, t, u, leaf: ops.abs(t),
    "sign": lambda ops, t, u, leaf: ops.sign(leaf) * t,
    "floor": lambda ops, t, u, leaf: leaf - 0.5 * ops.floor(2 * leaf) + t,
    "maximum": lambda ops, t, u, leaf: ops.maximum(t, u),
    "minimum": lambda ops, t, u, leaf: ops.minimum(t, 0.3),
    "where": lambda ops, t, u, leaf: ops.where(ops.greater(leaf, 0.1), t, u),
    "where number": lambda ops, t, u, leaf: ops.where(ops.greater(0.2, leaf), 0.5, t),
    "softplus": lambda ops, t, u, leaf: ops.softplus(t),
    "log_sigmoid": lambda ops, t, u, leaf: ops.log_sigmoid(t),
    "sin": lambda ops, t, u, leaf: ops.sin(t),
    "cos": lambda ops, t, u, leaf: ops.cos(t),
    "erf": lambda ops, t, u, leaf: ops.erf(t),
    "gelu": lambda ops, t, u, leaf: ops.gelu(t),
    "mean": lambda ops, t, u, leaf: ops.mean(t),
    "normalize": lambda ops, t, u, leaf: (
        (t - ops.mean(t)) / ops.sqrt(ops.mean((t - ops.mean(t)) * (t - ops.mean(t))) + 0.1)
    ),
    "zeros_like": lambda ops, t, u, leaf: t + ops.zeros_like(u),
    "constant": lambda ops, t, u, leaf: t * ops.constant(0.25, u),
}


class RandomStage(SimpleNamespace):
    """A forward function made of `steps`, each a form and the numbers of its operands among the values so far."""

    n_h_only: int
    n_both: int
    n_x_only: int
    n_reads: int
    n_given: int
    sums_only: bool
    steps: list
    outputs: list

    @property
    def n_x(self):
        return self.n_both + self.n_x_only

    @property
    def n_h(self):
        return self.n_h_only + self.n_both

    def __call__(self, ops, zx, zh, s, v=()):
        values = self.values(ops, zx, zh, s, v)
        return tuple(values[-k % len(values)] for k in self.outputs), ()

    def values(self, ops, zx, zh, s, v=()):
        """Return the leaves, then the result of every step."""
        sums = [a + b for a, b in zip(zx, zh[self.n_h_only :], strict=False)]
        values = [*s, *v, *sums, *zh[: self.n_h_only], *zx[self.n_both :]]
        values += [] if self.sums_only else [*zx[: self.n_both], *zh[self.n_h_only :]]
        leaves = len(values)
        for form, t, u, leaf in self.steps:
            values.append(FORMS[form](ops, values[-t % len(values)], values[-u % len(values)], values[leaf % leaves]))
        return values

    def arguments(self, seed, size=3):
        """Return random zx, zh, s, v."""
        rng = np.random.default_rng(seed)
        counts = (self.n_x, self.n_h, self.n_reads, self.n_given)
        return tuple(tuple(rng.standard_normal((size,)) for _ in range(n)) for n in counts)


random_stages = st.builds(
    RandomStage,
    n_h_only=st.integers(0, 1),
    n_both=st.integers(0, 2),
    n_x_only=st.integers(0, 1),
    n_reads=st.integers(1, 3),
    n_given=st.integers(0, 2),
    sums_only=st.booleans(),
    steps=st.lists(
        st.tuples(st.sampled_from(sorted(FORMS)), *[st.integers(1, 8)] * 2, st.integers(0, 7)), min_size=1, max_size=12
    ),
    outputs=st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
