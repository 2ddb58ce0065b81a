"""The derivative of every operator and word, and reverse-mode differentiation of a graph of expressions.

A rule gives the cotangents of an operation's arguments, given that of its result. It uses the *result* where that is
cheaper than the arguments: ``1 - tanh(x)^2`` needs no second tanh. Where functions are not differentiable, the rules
do as PyTorch and JAX do:

- ``relu`` and ``abs`` have derivative 0 at 0, ``heaviside``, ``sign``, ``floor`` and conditions everywhere.
- ``maximum`` and ``minimum`` give half the cotangent to each of two equal arguments.
- ``sqrt`` has an infinite derivative at 0, ``log`` too.

Cotangents are selected, never multiplied by 0, so a branch that was not taken passes on zero even where its own
cotangent would be infinite or NaN. An operation *inside* such a branch may still turn this zero into NaN, as 0 / 0 in
the derivative of ``where(x > 0, sqrt(x), 0)`` at 0: guard its argument, as in ``sqrt(where(x > 0, x, 1))``.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from rnnx.cells.expressions import Expression
from rnnx.cells.graph import depending_on, reachable, symbolic_ops

Cotangents = tuple[Expression | None, ...]  # one per argument; None is zero


def _selected(ops: Any, condition: Expression, d: Expression) -> Cotangents:
    return None, ops.where(condition, d, 0.0), ops.where(condition, 0.0, d)


def _extremum(ops: Any, d: Expression, a_wins: Expression, b_wins: Expression) -> Cotangents:
    half = 0.5 * d
    to_a = ops.where(a_wins, d, ops.where(b_wins, 0.0, half))
    return to_a, ops.where(b_wins, d, ops.where(a_wins, 0.0, half))


def _gelu(ops: Any, d: Expression, x: Expression) -> Cotangents:
    """Return d (Phi(x) + x phi(x)), with the normal distribution function Phi(x) = gelu(x) / x and its density phi.

    Beyond 40, Phi and x phi have reached their limits. Near 0, where gelu(x) / x loses digits, Phi(x) is 1/2 + x phi(0)
    up to terms in x^3.
    """
    x = ops.minimum(ops.maximum(x, -40.0), 40.0)
    is_far = ops.greater(ops.abs(x), 1e-6)
    first = x * (1 / math.sqrt(2 * math.pi))  # x phi(0)
    distribution = ops.where(is_far, ops.gelu(x) / ops.where(is_far, x, 1.0), 0.5 + first)
    return (d * (distribution + first * ops.exp(-0.5 * x * x)),)


# (ops, cotangent of the result, result, arguments) -> cotangents of the arguments
RULES: dict[str, Callable[..., Cotangents]] = {
    "+": lambda ops, d, y, a, b: (d, d),
    "-": lambda ops, d, y, a, b: (d, -d),
    "*": lambda ops, d, y, a, b: (d * b, d * a),
    "/": lambda ops, d, y, a, b: (d / b, -(d * (y / b))),  # not (d / b) y: d / b may overflow where y is 0
    "neg": lambda ops, d, y, x: (-d,),
    "tanh": lambda ops, d, y, x: (d - d * y * y,),
    "sigmoid": lambda ops, d, y, x: (d * (y - y * y),),
    "relu": lambda ops, d, y, x: (ops.where(ops.greater(y, 0.0), d, 0.0),),
    "heaviside": lambda ops, d, y, x: (None,),
    "exp": lambda ops, d, y, x: (d * y,),
    "log": lambda ops, d, y, x: (d / x,),
    "sqrt": lambda ops, d, y, x: (d / (y + y),),
    "abs": lambda ops, d, y, x: (d * ops.sign(x),),
    "sign": lambda ops, d, y, x: (None,),
    "floor": lambda ops, d, y, x: (None,),
    "softplus": lambda ops, d, y, x: (d * ops.sigmoid(x),),
    "log_sigmoid": lambda ops, d, y, x: (d * ops.sigmoid(-x),),
    "sin": lambda ops, d, y, x: (d * ops.cos(x),),
    "cos": lambda ops, d, y, x: (-(d * ops.sin(x)),),
    "erf": lambda ops, d, y, x: (d * (2 / math.sqrt(math.pi) * ops.exp(-(x * x))),),
    "gelu": lambda ops, d, y, x: _gelu(ops, d, x),
    "mean": lambda ops, d, y, x: (ops.mean(d),),
    "maximum": lambda ops, d, y, a, b: _extremum(ops, d, ops.greater(a, b), ops.greater(b, a)),
    "minimum": lambda ops, d, y, a, b: _extremum(ops, d, ops.greater(b, a), ops.greater(a, b)),
    "greater": lambda ops, d, y, a, b: (None, None),
    "where": lambda ops, d, y, condition, a, b: _selected(ops, condition, d),
}


def gradients(
    outputs: Sequence[Expression], cotangents: Sequence[Expression], inputs: Sequence[Expression]
) -> list[Expression]:
    """Return the cotangents of leaves, given those of the outputs (reverse mode).

    Parameters
    ----------
    outputs, cotangents : sequences of Expression
        Values of one graph, and their cotangents.
    inputs : sequence of Expression
        The leaves to differentiate with respect to.
    """
    graph = inputs[0].graph
    ops = symbolic_ops(graph)
    values = reachable(outputs)
    active = depending_on(inputs, values)
    found: dict[int, Expression] = {}

    def add(value: Expression, d: Expression | None) -> None:
        if d is not None and value.number in active:
            found[value.number] = found[value.number] + d if value.number in found else d

    for output, cotangent in zip(outputs, cotangents, strict=True):
        add(output, cotangent)
    for value in reversed(values):  # uses before definitions
        if value.arguments and value.number in found:
            rule = RULES[value.operation]
            contributions = rule(ops, found[value.number], value, *value.arguments)
            for argument, d in zip(value.arguments, contributions, strict=True):
                add(argument, d)
    return [found.get(value.number, graph.constant(0.0)) for value in inputs]
