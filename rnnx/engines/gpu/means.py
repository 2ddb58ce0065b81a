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

from rnnx.engines.gpu.trace import MEAN, ZERO, block

ATTRIBUTES = "__launch_bounds__(RNNX_MOST_THREADS, 1) "
EXAMPLE = "const unsigned j = blockIdx.x;"
SHARED = "RNNX_SHARED(real, shared);"
PARTS = 16  # partial sums of a sum
_GROUP = 8  # means that are added up at once
_ELEMENT = "const unsigned e = j * (unsigned)n + u;"
_DECLARATION = re.compile(r"const [\w*]+ (\w+) = (.*);")
# The number of registers per thread limits the number of threads: float64 needs twice as many.
_DEFINED = f"#define RNNX_PARTS {PARTS}\n#define RNNX_MOST_THREADS (2048 / sizeof(real))\n"


def source(text: str) -> str:
    """Return the text of ``kernels/means.cuh`` with the constants that it needs."""
    return _DEFINED + text


def most_threads(itemsize: int) -> int:
    """Return the largest number of threads per block, for the item size of `real`."""
    return 2048 // itemsize


def shared_bytes(n_sums: int, threads: int, itemsize: int) -> int:
    """Return the shared memory of a block. Consecutive sums have memory of their own, so they need fewer barriers."""
    return 2 * n_sums * (threads + PARTS) * itemsize


def over_units(lines: Iterable[str]) -> list[str]:
    """Return a loop over the units of a thread."""
    return block("for (unsigned u = threadIdx.x; u < n; u += blockDim.x)", [_ELEMENT, *lines])


class Phases:
    """The phases of a stage.

    Parameters
    ----------
    values : sequence of str
        Declarations of the values of a unit, each after those that it needs.
    stores : sequence of str
        Lines that store the results of a unit. They come after all loads of this unit.
    """

    def __init__(self, values: Sequence[str], stores: Sequence[str]) -> None:
        self._lines: dict[str, str] = {}
        self._uses: dict[str, list[str]] = {}
        self._stores = stores
        level: dict[str, int] = {}
        means: dict[str, str] = {}
        for line in values:
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
        lines = [SHARED, "const bool inside = threadIdx.x < n;"]
        lines += ["const unsigned u = inside ? threadIdx.x : (unsigned)n - 1;", _ELEMENT]
        known: list[str] = []
        for number, group in enumerate(self._groups):
            arguments = [self._means[name] for name in group]
            lines += self._compute(arguments, known)
            known += [*self._needed(arguments, known), *group]
            terms = ", ".join(f"inside ? {argument} : {ZERO}" for argument in arguments)
            lines += [f"real sums{number}[] = {{{terms}}};", *self._finish(number)]
        return [*lines, *self._compute(self._results, known), *block("if (inside)", self._stores)]

    def with_a_loop(self) -> list[str]:
        """Return the lines of the kernel for any n."""
        lines, known = [SHARED], list[str]()
        for number, group in enumerate(self._groups):
            arguments = [self._means[name] for name in group]
            added = [f"sums{number}[{k}] += {argument};" for k, argument in enumerate(arguments)]
            lines.append(f"real sums{number}[{len(group)}] = {{}};")
            lines += [*over_units([*self._compute(arguments, known), *added]), *self._finish(number)]
            known += group
        return [*lines, *over_units([*self._compute(self._results, known), *self._stores])]
