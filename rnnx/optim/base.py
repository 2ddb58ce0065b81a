"""What all optimizers have in common."""

from collections.abc import Mapping

from rnnx._core.arrays import Array
from rnnx._core.checks import integer
from rnnx.optim.apply import Rule, Tree, apply_rule, zeros
from rnnx.optim.schedules import Schedule, learning_rate_at


class Optimizer:
    """What all optimizers have in common. `learning_rate` is a number, or a function of the step, from 1."""

    learning_rate: float | Schedule

    @property
    def slots(self) -> tuple[str, ...]:
        """What is remembered of every parameter: the first part of the state's keys, "v" in "v.dW"."""
        return ()

    def rule(self, rate: float, t: int) -> Rule:
        """The update of one parameter in step t: ``rule(xp, p, g, *remembered, write) -> (p, *remembered)``.

        What `write` asks for stands in ``rnnx/optim/array_rules.py``.
        """
        raise NotImplementedError

    def init(self, parameters: Mapping[str, Array]) -> Tree:
        """The state before the first step.

        Parameters
        ----------
        parameters : dict of str to array

        Returns
        -------
        dict of str to array
            Zeros, of the parameters' shapes and dtypes; keys such as "v.dW".
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
        """One step.

        Parameters
        ----------
        parameters : dict of str to array
        grads : dict of str to array
            "d" + key for every key of `parameters`; other keys (dx, da0) are ignored.
        state : dict of str to array
            As `init` or the last update returned it.
        t : int
            Number of this step, from 1.
        in_place : bool
            Write to the arrays of `parameters` and `state` where these can be written to (NumPy, CuPy, torch). Of
            others (JAX's, read-only ones) new ones are made as ever: go on with what is returned. The result is the
            same bit for bit, without memory for a second set of arrays. No array may be given twice, and gradients
            must not be views of parameters.

        Returns
        -------
        parameters, state : dict of str to array
            New dicts. Without `in_place` nothing that was given is written to.

        Raises
        ------
        ValueError, TypeError
            Before anything is written: for a missing gradient, a shape, dtype or library that does not fit, or a state
            that is not of this optimizer and these parameters. (An interrupt may leave an update in place half done.)
        """
        rule = self.rule(learning_rate_at(self.learning_rate, t), integer("t", t))
        return apply_rule(rule, self.slots, parameters, grads, state, in_place)
