"""The base class of optimizers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import integer
from rnnx.optim.checks import Checked, Named, check_distinct, check_update
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
        if not self.slots:
            return {}
        xp, _ = ns.common_namespace(parameters)
        return {f"{slot}.d{key}": xp.zeros_like(p) for slot in self.slots for key, p in parameters.items()}

    @ns.underflow_is_zero
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
        xp = check_update(parameters, grads, state, slots)
        if in_place:
            check_distinct({**parameters, **{"d" + key: grads["d" + key] for key in parameters}, **state})
        new: Tree = {}
        new_state: Tree = {}
        for key in parameters:
            names = [f"{slot}.d{key}" for slot in slots]
            arrays = [parameters[key], *[state[name] for name in names]]
            targets: dict[int, Array] = {}
            if out is not None:
                write, results = True, [out[0][key], *[out[1][name] for name in names]]
                targets = {id(a): target for a, target in zip(arrays, results, strict=True)}
            else:  # NumPy arrays may be read-only; arrays without flags are not
                write = in_place and all(getattr(getattr(a, "flags", None), "writeable", True) for a in arrays)
            if not write and not arrays[0].shape:  # NumPy would return scalars for 0-d arrays
                arrays, write = [ns.owned_copy(xp, a) for a in arrays], True
            p, *moments = arrays
            g = ns.astype(xp, grads["d" + key], p.dtype)
            new[key], *moments = self.update_array(p, g, tuple(moments), Update(xp, rate, t, write, targets))
            new_state.update(zip(names, moments, strict=True))
        return new, new_state


def with_prefix(arrays: Named, prefix: str) -> Tree:
    """Return the arrays whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
