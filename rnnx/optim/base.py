"""The base class of optimizers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import flag, integer
from rnnx.optim.checks import Checked, Named, check_distinct, check_mapping, check_parameters, checked_update
from rnnx.optim.schedules import learning_rate_at

Tree = dict[str, Array]
Arrays = tuple[Array, ...]


class Update(NamedTuple):
    """A step, and whether it writes to the parameters and state.

    With `write`, arrays are updated in place where the library allows it (in JAX, augmented assignment makes a new
    array); otherwise no input is written to. With `out` as well, NumPy arrays are left alone and the results written to
    the arrays that it holds for their ids. All ways are bit-identical.
    """

    xp: Any
    rate: float
    t: int
    write: bool
    out: Mapping[int, Array] = {}

    def scale(self, a: Array, factor: float) -> Array:
        """Return factor * a."""
        if not self.write:
            return a * factor
        if id(a) in self.out:
            return self.xp.multiply(a, factor, out=self.out[id(a)])
        a *= factor
        return a

    def accumulate(self, a: Array, factor: float, term: Array) -> Array:
        """Return factor * a + term."""
        a = self.scale(a, factor)
        a += term
        return a

    def subtract(self, p: Array, step: Array) -> Array:
        """Return p - step."""
        if not self.write:
            return p - step
        if id(p) in self.out:
            return self.xp.subtract(p, step, out=self.out[id(p)])
        p -= step
        return p


class Optimizer(Checked):
    """Base class of optimizers: it holds hyper-parameters only, and the state is a dict of arrays.

    Attributes
    ----------
    learning_rate : float or schedule
        A number, or a function of the step number, which starts at 1.
    """

    learning_rate: Any

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the state arrays of each parameter: "v" in the key "v.dW"."""
        return ()

    def update_array(self, p: Array, g: Array, state: Arrays, u: Update) -> Arrays:
        """Return parameter p and its state after a step with gradient g; the state is in the order of `slots`."""
        raise NotImplementedError

    def init(self, parameters: Named) -> Tree:
        """Return the initial state: zeros like the parameters, with keys such as "v.dW"."""
        check_mapping("parameters", parameters)
        if not self.slots:
            return {}
        xp, _ = ns.common_namespace(parameters)
        check_parameters(xp, parameters)
        return {f"{slot}.d{key}": xp.zeros_like(p) for slot in self.slots for key, p in parameters.items()}

    @np.errstate(under="ignore")
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
        if flag("in_place", in_place):
            check_distinct({**parameters, **{"d" + key: grads["d" + key] for key in parameters}, **state})
        new: Tree = {}
        new_state: Tree = {}
        fresh, writing = Update(xp, rate, t, False), Update(xp, rate, t, True)
        for key, p, g, (names, moments) in rows:
            u = fresh
            if out is not None:
                targets = out[0][key], *map(out[1].__getitem__, names)
                u = Update(xp, rate, t, True, dict(zip(map(id, (p, *moments)), targets, strict=True)))
            elif in_place and all(map(_is_writable, (p, *moments))):
                u = writing
            elif not p.shape:  # NumPy would return scalars for 0-d arrays
                p, moments = ns.owned_copy(xp, p), tuple([ns.owned_copy(xp, a) for a in moments])
                u = writing
            if g.dtype != p.dtype:
                g = ns.astype(xp, g, p.dtype)
            new[key], *changed = self.update_array(p, g, moments, u)
            new_state.update(zip(names, changed, strict=True))
        return new, new_state


def _is_writable(array: Any) -> bool:
    """Return whether an array can be updated in place; NumPy's may be read-only."""
    return bool(getattr(getattr(array, "flags", None), "writeable", True))


def with_prefix(arrays: Named, prefix: str) -> Tree:
    """Return the arrays whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
