"""The kernels of stages with means over units: one block per example, whose threads share its units.

A mean needs a value of every unit of the example, so the work is done in phases. A phase computes the arguments of the
means of one level, those with as many means beneath them, and adds them up in shared memory; the last one computes and
stores the results. In memory, a unit's results may take the place of its own arguments, but all phases before the
last only read.

There are two versions. With at most one unit per thread, values stay in registers from phase to phase. With more
units, every phase is a loop over them, and computes again what it needs.

Dimensions as in `codegen`: j an example, u a unit of n, e = j n + u.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from rnnx.engines.gpu.device import DType
from rnnx.engines.gpu.kernel import Kernel, LaunchSize, block, make_kernel, read, real_dtype
from rnnx.engines.gpu.trace import MEAN, ZERO

_ATTRIBUTES = "__launch_bounds__(RNNX_MOST_THREADS, 1) "
_EXAMPLE = "const unsigned j = blockIdx.x;"
_ELEMENT = "const unsigned e = j * (unsigned)n + u;"
_SHARED = "RNNX_SHARED(real, shared);"
_DECLARATION = re.compile(r"const [\w*]+ (\w+) = (.*);")
_WARP = 32  # threads
_PARTS = 16  # partial sums of a sum
_GROUP = 8  # means that are added up at once
# Threads per block, in bytes of their numbers: with more, each has too few registers.
_MOST_BYTES = 2048


def source() -> str:
    """Return the text that the kernels include."""
    names = {"PARTS": _PARTS, "MOST_THREADS": f"({_MOST_BYTES} / sizeof(real))"}
    return "".join(f"#define RNNX_{name} {value}\n" for name, value in names.items()) + read("means.cuh")


def launch_size(kernel: Kernel, m: int, n: int, dtype: DType) -> LaunchSize:
    """Return the size of a launch of a kernel with means."""
    assert kernel.n_sums is not None
    itemsize = real_dtype(dtype).itemsize
    most = _MOST_BYTES // itemsize
    threads = min(most, -(-n // _WARP) * _WARP)
    # Consecutive sums use different memory, which saves a barrier.
    shared = 2 * kernel.n_sums * (threads + _PARTS) * itemsize
    return LaunchSize(kernel.name if n <= most else f"{kernel.name}_loop", m, threads, shared)


def make_kernels(
    name: str, parameters: Sequence[str], head: Sequence[str],
    loads: Sequence[str], values: Sequence[str], stores: Sequence[str],
) -> Kernel:  # fmt: skip
    """Generate both versions of a kernel. `head` depends on the example only; see `Phases` for the rest."""
    phases = Phases(loads, values, stores)
    versions = {name: phases.with_a_unit_per_thread(), f"{name}_loop": phases.with_a_loop()}
    kernels = [
        make_kernel(version, parameters, [_EXAMPLE, *head, _SHARED, *lines], _ATTRIBUTES)
        for version, lines in versions.items()
    ]
    return replace(kernels[0], text="\n".join(kernel.text for kernel in kernels), n_sums=phases.n_sums)


def over_units(lines: Iterable[str]) -> list[str]:
    """Return a loop over the units of a thread."""
    return block("for (unsigned u = threadIdx.x; u < n; u += blockDim.x)", [_ELEMENT, *lines])


class Phases:
    """The phases of a stage.

    Parameters
    ----------
    loads, values : sequence of str
        Declarations of what is loaded for a unit, and of its other values, each after those that it needs.
    stores : sequence of str
        Lines that store the results of a unit. They come after all loads of this unit.
    """

    def __init__(self, loads: Sequence[str], values: Sequence[str], stores: Sequence[str]) -> None:
        self._lines: dict[str, str] = {}
        self._uses: dict[str, list[str]] = {}
        self._stores = stores
        level: dict[str, int] = {}
        means: dict[str, str] = {}
        for line in (*loads, *values):
            match = _DECLARATION.fullmatch(line)
            assert match, line
            name, expression = match.groups()
            used = self._words(expression)
            self._lines[name], self._uses[name] = line, used
            level[name] = max((level[other] for other in used), default=0)
            if expression.startswith(f"{MEAN}("):
                level[name] += 1
                means[name] = used[0]
        self._results = self._words(" ".join(stores))
        self._loads = [name for name in self._needed(self._results, ()) if self._lines[name] in loads]
        self._means = {name: means[name] for name in self._needed(self._results, ()) if name in means}
        by_level = [[name for name in self._means if level[name] == k] for k in sorted(set(level.values()))]
        self._groups = [names[at : at + _GROUP] for names in by_level for at in range(0, len(names), _GROUP)]
        self.n_sums = max(map(len, self._groups), default=0)  # that are added up at once

    def _words(self, text: str) -> list[str]:
        return [word for word in re.findall(r"\w+", text) if word in self._lines]

    def _needed(self, names: Iterable[str], known: Iterable[str]) -> list[str]:
        """Return the values from which these are computed, and these, without those known."""
        known, todo = set(known), list(names)
        found = set(known)
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo += self._uses[name]
        return [name for name in self._lines if name in found and name not in known]

    def _compute(self, names: Iterable[str], known: Iterable[str]) -> list[str]:
        return [self._lines[name] for name in self._needed(names, known)]

    def _finish(self, number: int) -> list[str]:
        """Return lines that turn the sums of a group into means."""
        memory = f"shared + {number % 2} * {self.n_sums} * (blockDim.x + RNNX_PARTS)"
        means = [f"const real {name} = sums{number}[{k}] / real(n);" for k, name in enumerate(self._groups[number])]
        return [f"add_up(sums{number}, {memory});", *means]

    def with_a_unit_per_thread(self) -> list[str]:
        """Return the lines of the kernel for n <= blockDim.x. Surplus threads repeat the last unit."""
        lines = ["const bool inside = threadIdx.x < n;"]
        lines += ["const unsigned u = inside ? threadIdx.x : (unsigned)n - 1;", _ELEMENT]
        lines += [self._lines[name] for name in self._loads]  # all at once, because barriers would separate them
        known = [*self._loads]
        for number, group in enumerate(self._groups):
            arguments = [self._means[name] for name in group]
            lines += self._compute(arguments, known)
            known += [*self._needed(arguments, known), *group]
            terms = ", ".join(f"inside ? {argument} : {ZERO}" for argument in arguments)
            lines += [f"real sums{number}[] = {{{terms}}};", *self._finish(number)]
        return [*lines, *self._compute(self._results, known), *block("if (inside)", self._stores)]

    def with_a_loop(self) -> list[str]:
        """Return the lines of the kernel for any n."""
        lines, known = list[str](), list[str]()
        for number, group in enumerate(self._groups):
            arguments = [self._means[name] for name in group]
            added = [f"sums{number}[{k}] += {argument};" for k, argument in enumerate(arguments)]
            lines.append(f"real sums{number}[{len(group)}] = {{}};")
            lines += [*over_units([*self._compute(arguments, known), *added]), *self._finish(number)]
            known += group
        return [*lines, *over_units([*self._compute(self._results, known), *self._stores])]
