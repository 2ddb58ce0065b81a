"""The base class of optimizers."""

from collections.abc import Callable
from itertools import chain
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
        given = checked_update(parameters, grads, state, slots, out)
        if flag("in_place", in_place):
            check_distinct({**parameters, **{"d" + key: grads["d" + key] for key in parameters}, **state})
        xp, own, used = given.xp, given.parameters, given.gradients
        if given.casts:
            used = [ns.astype(xp, g, p.dtype) for p, g in zip(own, used, strict=True)]
        rows = [*zip(own, used, *given.moments, strict=True)]
        targets: Any = None
        if out is not None:
            targets = [*zip(*given.targets, strict=True)]
        elif in_place:
            pairs = zip(own, *given.moments, strict=True)
            targets = [arrays if all(map(_is_writable, arrays)) else None for arrays in pairs]
        changed = engines.operations(xp).elementwise(self.rule, self.numbers(rate, t), rows, targets)
        new_parameters = {key: results[0] for key, results in zip(parameters, changed, strict=True)}
        new_state: Tree = {}
        for names, results in zip(zip(*given.names, strict=True), changed, strict=bool(slots)):
            new_state.update(zip(names, results[1:], strict=True))
        return new_parameters, new_state


def once(optimizer: Any, parameters: Named, grads: Named, state: Named, t: int) -> Callable[[], None] | None:
    """Return a function that does `update` in place: once, even if an interrupt comes and it is called again.

    None if optimizer or arrays are not such that this is possible, or an array occurs twice. Gradients must not be
    views of parameters.
    """
    if getattr(type(optimizer), "update", None) is not Optimizer.update or not parameters:
        return None
    given = checked_update(parameters, grads, state, optimizer.slots)
    run = None if given.casts else getattr(engines.operations(given.xp), "once", None)
    written = [*map(id, given.parameters), *map(id, chain(*given.moments))]
    if run is None or len({*written}) < len(written):
        return None
    rows = [*zip(given.parameters, given.gradients, *given.moments, strict=True)]
    numbers = optimizer.numbers(learning_rate_at(optimizer.learning_rate, t), t)
    found: Callable[[], None] | None = run(optimizer.rule, numbers, rows)
    return found


def _is_writable(array: Any) -> bool:
    """Return whether an array can be updated in place; NumPy's may be read-only."""
    return bool(getattr(getattr(array, "flags", None), "writeable", True))


def with_prefix(arrays: Named, prefix: str) -> Tree:
    """Return the arrays whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
