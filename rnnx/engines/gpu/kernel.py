"""Kernels: their text, parameters, number types and sizes of launches."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from rnnx.engines.gpu.device import DType

# dtype -> the C++ types in memory and in registers
C_TYPES = {
    "float32": ("float", "float"),
    "float64": ("double", "double"),
    "float16": ("half_bits", "float"),
    "bfloat16": ("bfloat16_bits", "float"),
}

V = TypeVar("V")


def options(dtype: DType) -> tuple[str, ...]:
    """Return the compiler options for a dtype."""
    storage, real = C_TYPES[dtype.name]
    return (f"-DRNNX_STORAGE={storage}", f"-DRNNX_REAL={real}", "-std=c++17")


def real_dtype(dtype: DType) -> DType:
    """Return the dtype of computation and accumulation for arrays of a dtype."""
    return np.dtype(np.float64 if dtype.name == "float64" else np.float32)


@lru_cache(maxsize=8)
def read(name: str) -> str:
    """Return the text of a file in ``kernels/``."""
    return (Path(__file__).parent / "kernels" / name).read_text(encoding="utf-8")


class LaunchSize(NamedTuple):
    """How a step kernel is launched."""

    kernel: str
    blocks: int
    threads: int  # per block
    shared: int = 0  # bytes per block


@dataclass(frozen=True)
class Kernel:
    """A kernel, with 64-bit parameters: pointers and integers.

    A kernel with means over units runs on one block per example, and has a second version, ``<name>_loop``.
    """

    name: str
    parameters: tuple[str, ...]  # declarations, such as "i64 n"
    text: str = ""
    n_sums: int | None = None  # at once; None if there is a thread per element

    @cached_property
    def names(self) -> list[str]:
        """Names of the parameters."""
        return [declaration.rsplit(" ", 1)[1] for declaration in self.parameters]

    def bind(self, values: Mapping[str, V]) -> list[V]:
        """Return the named arguments in the order of the parameters."""
        if len(values) != len(self.parameters):
            raise TypeError(f"{self.name} has parameters {self.names}; got {list(values)}")
        return [values[name] for name in self.names]


def block(head: str, lines: Iterable[str]) -> list[str]:
    """Return lines in braces after a head."""
    return [head + " {", *(f"  {line}" for line in lines), "}"]


def make_kernel(name: str, parameters: Iterable[str], lines: Iterable[str], attributes: str = "") -> Kernel:
    """Generate a kernel with these parameters and lines."""
    parameters = tuple(parameters)
    head = f'extern "C" __global__ void {attributes}{name}(\n    {", ".join(parameters)})'
    return Kernel(name, parameters, "\n".join([*block(head, lines), ""]))


def kernel_names(text: str) -> list[str]:
    """Return the names of the kernels in a source."""
    return re.findall(r'extern "C" __global__ void (?:__\w+\([^)]*\) )*(\w+)\(', text)


def cooperative(text: str) -> bool:
    """Whether all blocks of a source's kernels must run at the same time, see ``kernels/persistent.cuh``."""
    return "#define RNNX_GRID 1\n" in text


@lru_cache(maxsize=64)
def declared(text: str, name: str) -> Kernel:
    """Read the parameters of a function from its declaration in a CUDA source."""
    match = re.search(rf"\bvoid (?:__\w+\([^)]*\) )*{name}\(([^)]*)\)", text)
    assert match, name
    return Kernel(name, tuple(declaration.strip() for declaration in match[1].split(",")))
