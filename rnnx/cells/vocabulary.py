"""The functions that a cell may call, besides ``+ - * /``, unary minus and ``abs``.

Each engine passes its own `Ops`: on arrays here, on vectors in `rnnx.engines.cpu.codegen.vector_math`, on symbols in
`rnnx.engines.gpu.trace`. A function added here needs a vector version and one in ``gpu/kernels/prelude.cuh``.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

from rnnx.cells import gaussian

Word = Callable[[Any], Any]
PairWord = Callable[[Any, Any], Any]


class Ops(NamedTuple):
    """The vocabulary: functions that keep the dtype, elementwise but for `mean`. NaN stays NaN, infinities give limits.

    Where a function takes several operands, some may be Python numbers, but not all.
    """

    tanh: Word
    sigmoid: Word
    relu: Word
    heaviside: Word  # 1 where the argument is > 0, else 0: the derivative of relu
    exp: Word
    zeros_like: Word
    log: Word  # -inf at 0, NaN below
    sqrt: Word  # NaN below 0
    abs: Word
    sign: Word  # -1, 0 or 1: the derivative of abs
    floor: Word  # the largest integer that is not above the argument
    sin: Word  # accurate for arguments of any size
    cos: Word
    softplus: Word  # log(1 + exp(x)), accurate for small results too
    log_sigmoid: Word  # log(sigmoid(x)) = -softplus(-x)
    erf: Word  # 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x
    gelu: Word  # x Phi(x) = x (1 + erf(x / sqrt(2))) / 2, accurate for negative x too
    mean: Word  # over the units of a layer, for every example; each unit gets it
    maximum: PairWord  # NaN if either operand is
    minimum: PairWord
    greater: PairWord  # a > b, a `Condition`; false if either operand is NaN
    where: Callable[[Any, Any, Any], Any]  # where(condition, a, b): a where the condition holds, else b
    constant: PairWord  # constant(value, like): an operand of like's kind with this number everywhere


class Condition:
    """The result of `Ops.greater`, truth values in an engine's own form. It can only be passed to `Ops.where`."""

    __array_ufunc__ = None  # makes NumPy functions raise

    def __init__(self, value: Any) -> None:
        self.value = value

    def __bool__(self) -> bool:
        raise TypeError("a cell cannot branch on a condition: use `ops.where(condition, a, b)`")


def value_of(condition: Any) -> Any:
    """Return an engine's own form of a condition."""
    if not isinstance(condition, Condition):
        raise TypeError(
            f"the first operand of `ops.where` must come from `ops.greater`; got {type(condition).__name__}"
        )
    return condition.value


def check_operands(*operands: Any) -> None:
    """Raise if there are only numbers."""
    if all(isinstance(value, int | float) for value in operands):
        got = ", ".join(map(repr, operands))
        raise TypeError(f"a function of the vocabulary needs an operand that is not a plain number; got {got}")


@lru_cache(maxsize=32)
def array_ops(xp: Any) -> Ops:
    """Return the vocabulary for arrays of a namespace."""

    def sigmoid(x: Any) -> Any:
        # exp of a number <= 0 cannot overflow and keeps small results accurate.
        e = xp.exp(-xp.abs(x))
        return xp.where(x < 0, e, xp.ones_like(e)) / (1 + e)

    def relu(x: Any) -> Any:
        return xp.where(x < 0, xp.zeros_like(x), x)  # keeps NaN

    def heaviside(x: Any) -> Any:
        return xp.astype(x > 0, x.dtype)

    def softplus(x: Any) -> Any:
        return relu(x) + xp.log1p(xp.exp(-xp.abs(x)))

    def mean(x: Any) -> Any:
        return xp.broadcast_to(xp.mean(x, axis=-1, keepdims=True), x.shape)  # arrays are (m, n)

    def constant(value: float, like: Any) -> Any:
        return xp.full_like(like, value)

    def of_arrays(function: PairWord, a: Any, b: Any) -> Any:
        """Call a function of two arrays; one may be given as a number."""
        check_operands(a, b)
        if isinstance(a, int | float):
            a = constant(a, b)
        elif isinstance(b, int | float):
            b = constant(b, a)
        return function(a, b)

    def of_normal(function: Callable[..., Any], x: Any) -> Any:
        return function(ops, x, gaussian.SPLIT[xp.finfo(x.dtype).bits])

    ops = Ops(
        tanh=xp.tanh,
        sigmoid=sigmoid,
        relu=relu,
        heaviside=heaviside,
        exp=xp.exp,
        zeros_like=xp.zeros_like,
        log=xp.log,
        sqrt=xp.sqrt,
        abs=xp.abs,
        sign=xp.sign,
        floor=xp.floor,
        sin=xp.sin,
        cos=xp.cos,
        softplus=softplus,
        log_sigmoid=lambda x: -softplus(-x),
        erf=partial(of_normal, gaussian.erf),
        gelu=partial(of_normal, gaussian.gelu),
        mean=mean,
        maximum=partial(of_arrays, xp.maximum),
        minimum=partial(of_arrays, xp.minimum),
        greater=lambda a, b: Condition(of_arrays(xp.greater, a, b)),
        where=lambda condition, a, b: of_arrays(partial(xp.where, value_of(condition)), a, b),
        constant=constant,
    )
    return ops
