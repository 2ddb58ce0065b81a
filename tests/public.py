"""The public names of the package, for tests of all of them."""

import importlib.util
import inspect

_SUBPACKAGES = [
    "analysis",
    "compare",
    "convert",
    "course",
    "data",
    "export",
    "losses",
    "metrics",
    "models",
    "optim",
    "plots",
    "training",
]
if importlib.util.find_spec("sklearn"):
    _SUBPACKAGES.append("estimators")
PUBLIC = ["rnnx", *(f"rnnx.{name}" for name in _SUBPACKAGES)]
RESULTS = {
    "Backtest",
    "LearningRates",
    "Batch",
    "PairBatch",
    "Prediction",
    "Progress",
    "StackCache",
}  # records that rnnx creates


def callables():
    """Every public function, class and method, as (name, object)."""
    for name in PUBLIC:
        module = importlib.import_module(name)
        for public in module.__all__:
            value = getattr(module, public)
            if public in RESULTS or not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            yield public, value
            members = {k: v for c in value.__mro__[::-1] for k, v in vars(c).items()} if inspect.isclass(value) else {}
            for method, function in members.items():
                function = getattr(function, "__func__", function)
                if not method.startswith("_") and inspect.isfunction(function) and "rnnx" in function.__module__:
                    yield f"{public}.{method}", function


def parameters():
    """Every parameter of these, as (name of the callable, `inspect.Parameter`)."""
    for name, value in callables():
        yield from ((name, parameter) for parameter in inspect.signature(value).parameters.values())
