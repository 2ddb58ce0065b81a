"""The base class of optimizers."""

from collections.abc import Mapping
from typing import Any

from rnnx._core.arrays import Array
from rnnx._core.checks import integer
from rnnx.optim.apply import Arrays, Tree, Update, apply_rule, zeros
from rnnx.optim.checks import Checked
from rnnx.optim.schedules import learning_rate_at


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

    def init(self, parameters: Mapping[str, Array]) -> Tree:
        """Return the initial state.

        Parameters
        ----------
        parameters : dict of str to array

        Returns
        -------
        dict of str to array
            Zeros like the parameters, with keys such as "v.dW".
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
            Write to the arrays of `parameters` and `state` where the library allows it (NumPy, CuPy, torch). Others
            (JAX's, read-only ones) are replaced, so always continue with the returned dicts. The result is
            bit-identical and needs no second set of arrays. No array may occur twice, and gradients must not be views
            of parameters.

        Returns
        -------
        parameters, state : dict of str to array
            New dicts. Without `in_place`, no input is written to.

        Raises
        ------
        ValueError, TypeError
            Before anything is written, if a gradient is missing, a shape, dtype or library does not match, or the state
            belongs to another optimizer or other parameters. (An interrupt can leave an in-place update incomplete.)
        """
        rate = learning_rate_at(self.learning_rate, t)
        return apply_rule(self.update_array, self.slots, rate, integer("t", t), parameters, grads, state, in_place)
