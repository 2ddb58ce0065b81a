"""Copies and pickles of objects that hold an array namespace."""

import importlib
from types import ModuleType
from typing import Any


class _Namespace:
    """Stands for a module, which `copy.deepcopy` and pickle refuse."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def __deepcopy__(self, _memo: Any) -> "_Namespace":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _namespace, (self.module.__name__,)


def _namespace(name: str) -> _Namespace:
    return _Namespace(importlib.import_module(name))


class Portable:
    """Base of classes with modules among their attributes, so that instances can be copied and pickled."""

    def __getstate__(self) -> dict[str, Any]:
        state = vars(self).items()
        return {name: _Namespace(value) if isinstance(value, ModuleType) else value for name, value in state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            self.__dict__[name] = value.module if isinstance(value, _Namespace) else value
