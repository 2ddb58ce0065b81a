"""The base class of optimizers."""

from typing import Any

from rnnx import engines
from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import flag, integer
from rnnx.cells.vocabulary import Ops
from rnnx.engines.operations import Numbers
from rnnx.optim.checks import (
    Checked,
    Named,
    check_distinct,
    check_mapping,
    check_out,
    check_parameters,
    checked_update,
)
from rnnx.optim.schedules import learning_rate_at

Tree = dict[str, Array]


class Optimizer(Checked):
    """Base class of optimizers: it holds hyper-parameters only, and the state is a dict of arrays.

    Attributes
    ----------
    learning_rate : float or schedule
        A number, or a function of the step number, which starts at 1.

    See Also
    --------
    SGD, Adam, optimizer_config

    Examples
    --------
    >>> import numpy as np
    >>> from rnnx.optim import Optimizer
    >>> class SignDescent(Optimizer):
    ...     def __init__(self, learning_rate):
    ...         self.learning_rate = learning_rate
    ...     def numbers(self, rate, t):
    ...         return {"rate": rate}
    ...     @staticmethod
    ...     def rule(ops, n, p, g):
    ...         return (p - n["rate"] * ops.sign(g),)
    >>> optimizer, parameters = SignDescent(0.1), {"W": np.zeros((1, 3))}
    >>> state = optimizer.init(parameters)
    >>> parameters, state = optimizer.update(parameters, {"dW": np.array([[5.0, 0.0, -0.2]])}, state, t=1)
    >>> parameters["W"]
    array([[-0.1,  0. ,  0.1]])
    """

    learning_rate: Any

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the state arrays of each parameter: "v" in the key "v.dW"."""
        return ()

    def numbers(self, rate: float, t: int) -> dict[str, float]:
        """Return the numbers of step t for `rule`: always the same names, for the same hyper-parameters."""
        raise NotImplementedError

    @staticmethod
    def rule(ops: Ops, n: Numbers, p: Any, g: Any, *state: Any) -> tuple[Any, ...]:
        """Return parameter p and its state, in the order of `slots`, after a step with gradient g.

        It is elementwise, a `rnnx.engines.operations.Rule`, for which `n` holds what `numbers` returns.
        """
        raise NotImplementedError

    def init(self, parameters: Named) -> Tree:
        """Return the initial state: zeros like the parameters, with keys such as "v.dW"."""
        check_mapping("parameters", parameters)
        if not self.slots:
            return {}
        xp, _ = ns.common_namespace(parameters)
        check_parameters(xp, parameters)
        return {f"{slot}.d{key}": xp.zeros_like(p) for slot in self.slots for key, p in parameters.items()}

    def update(
        self,
        parameters: Named,
        grads: Named,
        state: Named,
        t: int,
        *,
        in_place: bool = False,
        out: tuple[Named, Named] | None = None,
    ) -> tuple[Tree, Tree]:
        """Take one step.

        Parameters
        ----------
        parameters : dict of str to array
        grads : dict of str to array
            "d" + key for every key of `parameters`; other keys (dx, da0) are ignored.
        state : dict of str to array
            As returned by `init` or the previous update.
        t : int
            Number of this step, from 1.
        in_place : bool
            Write to the arrays of `parameters` and `state` where the library allows it (NumPy, CuPy, torch). Others
            (JAX's, read-only ones) are replaced, so always continue with the returned dicts. The result is
            bit-identical and needs no second set of arrays. No array may occur twice, and gradients must not be views
            of parameters.
        out : pair of dict of str to array, optional
            NumPy arrays like `parameters` and `state`, to which the result is written; bit-identical. Until the update
            is complete, the arguments are the only valid state, and afterwards their arrays can be the next `out`.

        Returns
        -------
        parameters, state : dict of str to array
            New dicts. Without `in_place`, no input is written to.

        Raises
        ------
        ValueError, TypeError
            Before anything is written, if a gradient is missing, a shape, dtype or library does not match, or the state
            belongs to another optimizer or other parameters. (An interrupt can leave an in-place update incomplete;
            with `out`, the arguments stay as they were.)
        """
        t, slots = integer("t", t), self.slots
        rate = learning_rate_at(self.learning_rate, t)
        xp, rows = checked_update(parameters, grads, state, slots)
        if out is not None:
            check_out(parameters, state, out)
        if flag("in_place", in_place):
            check_distinct({**parameters, **{"d" + key: grads["d" + key] for key in parameters}, **state})
        arrays: list[Any] = []
        targets: list[Any] = []
        for key, p, g, (names, moments) in rows:
            g = g if g.dtype == p.dtype else ns.astype(xp, g, p.dtype)
            arrays.append((p, g, *moments))
            target: Any = None
            if out is not None:
                target = out[0][key], *map(out[1].__getitem__, names)
            elif in_place and all(map(_is_writable, (p, *moments))):
                target = p, *moments
            targets.append(target)
        changed = engines.operations(xp).elementwise(
            self.rule, self.numbers(rate, t), arrays, targets if in_place or out is not None else None
        )
        new_state: Tree = {}
        for (_, _, _, (names, _)), results in zip(rows, changed, strict=True):
            new_state.update(zip(names, results[1:], strict=True))
        return {row[0]: results[0] for row, results in zip(rows, changed, strict=True)}, new_state


def _is_writable(array: Any) -> bool:
    """Return whether an array can be updated in place; NumPy's may be read-only."""
    return bool(getattr(getattr(array, "flags", None), "writeable", True))


def with_prefix(arrays: Named, prefix: str) -> Tree:
    """Return the arrays whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
