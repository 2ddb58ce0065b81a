"""An object with named parameters: their checks, their summary, and rounded weights for inference."""

import copy
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import check_shape, listed
from rnnx._core.copying import Portable
from rnnx.functional.quantization import QuantizedParameters
from rnnx.models.layers import Layer, Parameters

_KIND = operator.attrgetter("shape", "dtype", "__class__")


class Parameterized(Portable, Layer):
    """The parameters of a model, and the library, the device and the dtype that they have."""

    _parameters: Parameters = {}  # noqa: RUF012  # replaced, never written to
    _kinds: Sequence[Any] = ()  # the names, and the `_KIND` of each parameter, at the last check

    @property
    def parameters(self) -> Parameters:
        """The parameters by name."""
        return self._parameters

    @parameters.setter
    def parameters(self, parameters: Parameters) -> None:
        name, array = next(iter(parameters.items()))
        if not (ns.is_on_host(array) and ns.is_on_host(self._parameters.get(name))):
            self.xp, self.device = ns.common_namespace({name: array})
        self.dtype = array.dtype
        self._parameters = parameters

    def set_parameters(self, parameters: Mapping[str, Array]) -> None:
        """Replace all parameters. Raise ValueError or TypeError if names, shapes, dtypes or libraries are wrong."""
        self._check_fit(parameters)
        self.parameters = {name: parameters[name] for name in self.shapes()}

    def check_parameters(self) -> None:
        """Raise unless the parameters fit. It costs little if none was replaced by an array of another kind."""
        own = self._parameters
        try:
            kinds = [*own, *map(_KIND, own.values())]
        except AttributeError:  # not an array
            kinds = []
        if kinds != self._kinds or self.device != "cpu":
            self._check_fit(own)
            self._kinds = kinds

    def _check_fit(self, parameters: Mapping[str, Array]) -> None:
        expected = self.shapes()
        missing = [name for name in expected if name not in parameters]
        unknown = [name for name in parameters if name not in expected]
        if missing or unknown:
            raise ValueError(
                f"`parameters` must contain {listed([*expected])}; missing {listed(missing)}, unknown {listed(unknown)}"
            )
        xp, _ = ns.common_namespace(parameters)
        for name, shape in expected.items():
            check_shape(name, parameters[name], "(from the config)", shape)
        ns.floating_dtype(xp, parameters, {})

    def quantized(self, weights: str = "int8") -> Self:
        """Return a copy of the model for inference, with the weights of its recurrent layers rounded, or just fixed.

        Predictions, evaluation, streams and samples of it read less memory, and pack the weights once for all calls;
        see `rnnx.quantize`. Dense layers and attention stay as they are. A checkpoint of it holds the weights as
        float32.

        Parameters
        ----------
        weights : {"int8", "bfloat16", "float32"}

        Raises
        ------
        ValueError, TypeError
            As for `rnnx.quantize`.
        """
        self.check_parameters()
        model = copy.copy(self)
        model.parameters = QuantizedParameters(self.rounded(dict(self.parameters), weights), weights)
        return model

    @property
    def n_parameters(self) -> int:
        """Total number of parameter elements."""
        return sum(math.prod(shape) for shape in self.shapes().values())

    def summary(self) -> str:
        """Return a table of the parameters and their shapes."""
        shapes = self.shapes()
        width = max(map(len, shapes))
        lines = [repr(self).strip("<>")]
        for name, shape in shapes.items():
            lines.append(f"  {name:<{width}}  {shape!s:>14}  {math.prod(shape):>12,}")
        lines.append(f"  {'total':<{width}}  {'':>14}  {self.n_parameters:>12,}  {self.dtype}")
        return "\n".join(lines)

    def array(self, values: Array, name: str = "batch") -> Array:
        """Convert an array to the library of the parameters, and floats to their dtype."""
        if isinstance(values, np.ndarray):
            values = np.ascontiguousarray(values)
            values = values if self.device == "cpu" else self.xp.asarray(values, device=self.device)
        else:
            ns.common_namespace({"parameters": next(iter(self.parameters.values())), name: values})
        return values if ns.is_integer(self.xp, values) else ns.astype(self.xp, values, self.dtype)
