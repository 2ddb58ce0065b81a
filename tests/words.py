"""Every word of the vocabulary, on the engines and in NumPy, and a cell that uses them all."""

import math

import numpy as np

from rnnx.cells import Cell, Gate, Stage


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def erf(x):
    return np.vectorize(math.erf, otypes=[float])(x)


def gelu(x):
    return np.where(x == -np.inf, 0, x * np.vectorize(math.erfc, otypes=[float])(-x / np.sqrt(2)) / 2)


# name -> (on the engines, in NumPy); u and v are the operands
EVERY_WORD = {
    "tanh": (lambda ops, u, v: ops.tanh(u), lambda u, v: np.tanh(u)),
    "sigmoid": (lambda ops, u, v: ops.sigmoid(u), lambda u, v: 1 / (1 + np.exp(-u))),
    "relu": (lambda ops, u, v: ops.relu(u), lambda u, v: np.maximum(u, 0)),
    "heaviside": (lambda ops, u, v: ops.heaviside(u), lambda u, v: u > 0),
    "exp": (lambda ops, u, v: ops.exp(u), lambda u, v: np.exp(u)),
    "zeros_like": (lambda ops, u, v: ops.zeros_like(u), lambda u, v: np.zeros_like(v)),
    "log": (lambda ops, u, v: ops.log(u), lambda u, v: np.log(u)),
    "sqrt": (lambda ops, u, v: ops.sqrt(u), lambda u, v: np.sqrt(u)),
    "abs": (lambda ops, u, v: ops.abs(u), lambda u, v: np.abs(u)),
    "sign": (lambda ops, u, v: ops.sign(u), lambda u, v: np.sign(u)),
    "floor": (lambda ops, u, v: ops.floor(3 * u), lambda u, v: np.floor(3 * u)),
    "sin": (lambda ops, u, v: ops.sin(u), lambda u, v: np.sin(u)),
    "cos": (lambda ops, u, v: ops.cos(u), lambda u, v: np.cos(u)),
    "softplus": (lambda ops, u, v: ops.softplus(u), lambda u, v: softplus(u)),
    "log_sigmoid": (lambda ops, u, v: ops.log_sigmoid(u), lambda u, v: -softplus(-u)),
    "erf": (lambda ops, u, v: ops.erf(u), lambda u, v: erf(u)),
    "gelu": (lambda ops, u, v: ops.gelu(u), lambda u, v: gelu(u)),
    "maximum": (lambda ops, u, v: ops.maximum(u, v), lambda u, v: np.maximum(u, v)),
    "minimum": (lambda ops, u, v: ops.minimum(u, v), lambda u, v: np.minimum(u, v)),
    "maximum with numbers": (
        lambda ops, u, v: ops.maximum(-0.5, ops.minimum(u, 1)),
        lambda u, v: np.maximum(-0.5, np.minimum(u, 1)),
    ),
    "greater": (lambda ops, u, v: ops.where(ops.greater(u, v), 1.0, v), lambda u, v: np.where(u > v, 1.0, v)),
    "where": (lambda ops, u, v: ops.where(ops.greater(0.5, u), v, u), lambda u, v: np.where(u < 0.5, v, u)),
    "where, one side NaN": (
        lambda ops, u, v: ops.where(ops.greater(u, 0.0), ops.log(u), -1),
        lambda u, v: np.where(u > 0, np.log(u), -1),
    ),
    "constant": (lambda ops, u, v: ops.constant(0.1, u), lambda u, v: np.full_like(v, 0.1)),
    "infinite constant": (lambda ops, u, v: ops.constant(-math.inf, u), lambda u, v: np.full_like(v, -np.inf)),
    "sum of constants": (
        lambda ops, u, v: ops.constant(0.1, u) - ops.zeros_like(u) + 2,
        lambda u, v: np.full_like(v, 2.1),
    ),
    "divide": (lambda ops, u, v: u / v, lambda u, v: u / v),
    # without cancellation
    "numbers on the right": (
        lambda ops, u, v: (abs(u) + 0.1) * 3 / 7.0 - -2,
        lambda u, v: (np.abs(u) + 0.1) * 3 / 7 + 2,
    ),
    "numbers on the left": (
        lambda ops, u, v: 0.1 + 3 * (2 - 1 / (1 + abs(u))),
        lambda u, v: 0.1 + 3 * (2 - 1 / (1 + np.abs(u))),
    ),
    "minus and abs": (lambda ops, u, v: -abs(-u), lambda u, v: -np.abs(u)),
}


def every_word_forward(ops, zx, zh, s):
    (z_x,), (z_h,), (_, u, v, *_) = zx, zh, s
    return (z_x + z_h, u, v, *(word(ops, u, v) for word, _ in EVERY_WORD.values())), ()


def every_word_backward(ops, ds, s_prev, s_next, saved):
    da = ds[0]
    dz = (ops.constant(0.25, da),)
    return dz, dz, tuple(ops.constant(k, da) for k in range(len(ds)))


STATES = ("a", "u", "v", *EVERY_WORD)
ALL_WORDS = Cell(
    "all_words", STATES, (Stage((Gate(("Wx", "Wh"), "b"),), STATES, (), every_word_forward, every_word_backward),)
)
