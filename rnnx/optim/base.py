"""The base class of optimizers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rnnx._core.arrays import Array
from rnnx._core.checks import integer
from rnnx.optim.apply import Rule, Tree, apply_rule, zeros
from rnnx.optim.checks import Checked
from rnnx.optim.schedules import learning_rate_at

Arrays = tuple[Array, ...]


class Update(NamedTuple):
    """A step, and whether it writes to parameters and state.

    With `write`, arrays are updated in place where the library allows it (JAX does not: augmented assignment then
    makes a new array); otherwise no input is written to. The operations and the results are bit-identical.
    """

    xp: Any
    rate: float
    t: int
    write: bool

    def scale(self, a: Array, factor: float) -> Array:
        """Return a * factor."""
        if not self.write:
            return a * factor
        a *= factor
        return a

    def subtract(self, p: Array, step: Array) -> Array:
        """Return p - step."""
        if not self.write:
            return p - step
        p -= step
        return p


class Optimizer(Checked):
    """Base of all optimizers: hyper-parameters only; the state is a dict of arrays.

    Attributes
    ----------
    learning_rate : float or schedule
        A number, or a function of the step number, which starts at 1.
    """

    learning_rate: Any
    weight_decay: float

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the state arrays of each parameter: "v" in the key "v.dW"."""
        return ()

    def update_array(self, p: Array, g: Array, state: Arrays, u: Update) -> Arrays:
        """Return one parameter and its state after a step.

        Parameters
        ----------
        p, g : array
            The parameter and its gradient.
        state : tuple of array
            In the order of `slots`.
        u : Update
        """
        raise NotImplementedError

    def rule(self, rate: float, t: int) -> Rule:
        """Return the update of one parameter in step t, ``rule(xp, p, g, *state, write) -> (p, *state)``."""

        def rule(xp: Any, p: Array, g: Array, *state: Array, write: bool) -> Arrays:
            return self.update_array(p, g, state, Update(xp, rate, t, write))

        return rule

    def init(self, parameters: Mapping[str, Array]) -> Tree:
        """Return the state before the first step.

        Parameters
        ----------
        parameters : dict of str to array

        Returns
        -------
        dict of str to array
            Zeros in the shapes and dtypes of the parameters; keys such as "v.dW".
        """
        return zeros(parameters, self.slots)

    def update(
        self,
        parameters: Mapping[str, Array],
        grads: Mapping[str, Array],
        state: Mapping[str, Array],
        t: int,
        *,
        in_place: bool = False,
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
            Write to the arrays of `parameters` and `state` where the library allows it (NumPy, CuPy, torch); other
            arrays (JAX's, read-only ones) are replaced, so always continue with the returned dicts. The result is
            bit-identical and needs no second set of arrays. No array may occur twice, and gradients must not be views
            of parameters.

        Returns
        -------
        parameters, state : dict of str to array
            New dicts. Without `in_place`, no input is written to.

        Raises
        ------
        ValueError, TypeError
            Before anything is written: if a gradient is missing, a shape, dtype or library does not match, or the
            state belongs to another optimizer or other parameters. (An interrupt can leave an update in place
            incomplete.)
        """
        rule = self.rule(learning_rate_at(self.learning_rate, t), integer("t", t))
        return apply_rule(rule, self.slots, parameters, grads, state, in_place)

    def _decayed(self, p: Array, g: Array) -> Array:
        """Return the gradient of loss + weight_decay / 2 * p**2."""
        return g + self.weight_decay * p if self.weight_decay else g
