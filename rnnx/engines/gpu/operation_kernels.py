"""The CUDA source of the kernels of `operations`, traced from rules and losses."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from rnnx.cells.vocabulary import Condition
from rnnx.engines.gpu.kernel import C_TYPES, Kernel, block, make_kernel, read
from rnnx.engines.gpu.trace import Symbol, Trace
from rnnx.engines.operations import Loss, Rule

THREADS = 256  # per block; a power of two

Kinds = tuple[tuple[str, str], ...]  # names of numbers, and their dtypes


class TableKernel(NamedTuple):
    """A kernel over the rows of a table: blockIdx.y is the row, blocks in x share its elements.

    A row has a size and `n_arrays` addresses. For each number, `numbers` has an address, or 0 and a float64.
    """

    kernel: Kernel
    source: str
    n_arrays: int
    n_results: int


_PARAMETERS = ("const i64* table", "const i64* numbers", "double* parts")
_ROW = "const i64* own = table + (i64)blockIdx.y * {width};"
_EVERY = "for (i64 e = (i64)blockIdx.x * blockDim.x + threadIdx.x; e < own[0]; e += (i64)gridDim.x * blockDim.x)"
# Sums or maxima over the threads of a block, in a fixed order. `shared` has room for two numbers per thread.
_ACROSS = """
template <bool largest, typename T> __device__ __forceinline__ T across(T x, T* shared) {
  shared[threadIdx.x] = x;
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half; half /= 2) {
    if (threadIdx.x < half) {
      const T a = shared[threadIdx.x], b = shared[threadIdx.x + half];
      shared[threadIdx.x] = largest ? (a > b || a != a ? a : b) : a + b;
    }
    __syncthreads();
  }
  x = shared[0];
  __syncthreads();
  return x;
}
"""


def source_of(*kernels: Kernel) -> str:
    """Return the source of kernels."""
    return "\n".join([read("prelude.cuh"), _ACROSS, *(kernel.text for kernel in kernels)])


@lru_cache(maxsize=256)
def elementwise_kernel(rule: Rule, kinds: Kinds, n_arrays: int) -> TableKernel:
    """Return the kernel ``elementwise`` of a rule."""
    trace, lines = Trace(), []
    for k, (name, kind) in enumerate(kinds):
        place = f"numbers + {2 * k + 1}" if kind == "" else f"numbers[{2 * k}]"
        value = (
            f"(real)*(const double*)({place})"
            if kind in ("", "float64")
            else f"load((const {C_TYPES[kind][0]}*){place})"
        )
        lines.append(f"const real n_{name} = {value};")
    numbers = {name: Symbol(trace, f"n_{name}") for name, _ in kinds}
    results = rule(trace.ops(), numbers, *trace.symbols("a", n_arrays))
    loads = [f"const real a{k} = load((const storage*)own[{1 + k}] + e);" for k in range(n_arrays)]
    stores = [f"store((storage*)own[{1 + n_arrays + k}] + e, {r.name});" for k, r in enumerate(results)]
    width = 1 + n_arrays + len(results)
    body = block(_EVERY, [*loads, *trace.lines, *stores])
    kernel = make_kernel("elementwise", _PARAMETERS, [_ROW.format(width=width), *lines, *body])
    return TableKernel(kernel, source_of(kernel), n_arrays, len(results))


@lru_cache(maxsize=1)
def squares_kernel() -> TableKernel:
    """Return the kernel ``squares``: each block writes the largest magnitude of its part and the sum of its squares.

    The sum is in float64, of magnitudes relative to the largest.
    """
    lines = [
        "RNNX_SHARED(double, shared);",
        _ROW.format(width=2),
        "double largest = 0, total = 0;",
        *block(
            _EVERY,
            [
                "const double x = op_abs(load((const storage*)own[1] + e));",
                "largest = x > largest || x != x ? x : largest;",
            ],
        ),
        "largest = across<true>(largest, shared);",
        *block(
            _EVERY,
            [
                "const double x = largest > 0 || largest != largest ? load((const storage*)own[1] + e) / largest : 0;",
                "total += x * x;",
            ],
        ),
        "total = across<false>(total, shared);",
        *block(
            "if (threadIdx.x == 0)",
            [
                "double* part = parts + 2 * (blockIdx.y * (i64)gridDim.x + blockIdx.x);",
                "part[0] = largest;",
                "part[1] = total;",
            ],
        ),
    ]
    kernel = make_kernel("squares", _PARAMETERS, lines)
    return TableKernel(kernel, source_of(kernel), 1, 0)


@lru_cache(maxsize=1)
def finish_kernels() -> tuple[str, dict[str, Kernel]]:
    """Return the source of ``finish_norm`` and ``finish_mean``, which one block runs, and both kernels by name."""
    each = "for (i64 k = threadIdx.x; k < count; k += blockDim.x)"
    norm = make_kernel(
        "finish_norm",
        ("const double* parts", "i64 count", "storage* result"),
        [
            "RNNX_SHARED(double, shared);",
            "double largest = 0, total = 0;",
            *block(each, ["const double x = parts[2 * k];", "largest = x > largest || x != x ? x : largest;"]),
            "largest = across<true>(largest, shared);",
            *block(
                each,
                [
                    "const double x = parts[2 * k] / largest;",
                    "if (parts[2 * k] != 0) total += x * x * parts[2 * k + 1];",
                ],
            ),
            "total = across<false>(total, shared);",
            "if (threadIdx.x == 0) store(result, (real)(largest * (largest == 0 ? 0 : sqrt(total))));",
        ],
    )
    mean = make_kernel(
        "finish_mean",
        (
            "const double* parts",
            "i64 count",
            "storage* result",
            "const i64* lengths",
            "i64 m",
            "i64 n_steps",
            "i64 terms",
        ),
        [
            "RNNX_SHARED(double, shared);",
            "double total = 0;",
            *block(each, ["total += parts[k];"]),
            "total = across<false>(total, shared);",
            *_COUNT,
            "if (threadIdx.x == 0) store(result, (real)(total / (double)(steps * terms)));",
        ],
    )
    return source_of(norm, mean), {kernel.name: kernel for kernel in (norm, mean)}


_COUNT = [
    "i64 steps = m * n_steps;",
    *block(
        "if (lengths)",
        [
            "double own_steps = 0;",
            "for (i64 k = threadIdx.x; k < m; k += blockDim.x) own_steps += (double)lengths[k];",
            "steps = (i64)across<false>(own_steps, (double*)shared);",
            "if (steps < 1) steps = 1;",
        ],
    ),
]


@lru_cache(maxsize=64)
def loss_kernel(loss: Loss, weighted: bool) -> tuple[Kernel, str]:
    """Return the kernel ``loss`` and its source. Each block runs a row (t, j), and writes its loss to `values`.

    A weighted one writes its share of the mean, given the `total` of the weights (T, m); it has no lengths.
    """
    each = "for (i64 i = threadIdx.x; i < n; i += blockDim.x)"
    parameters = ["const storage* y", "const i64* targets" if loss.of_classes else "const storage* targets"]
    parameters += ["const i64* lengths", "double* values", "storage* dy", "i64 n_steps", "i64 m", "i64 n", "i64 terms"]
    parameters += ["i64 target_row", "i64 target_step"]
    parameters += ["const storage* weights", "const double* total"] if weighted else []
    share = ["const double weight = load(weights + blockIdx.x), share = weight / (total[0] * terms);"]
    clear = " ".join(f"store(result + i + {p} * n, real(0));" for p in range(loss.parts))
    lines = [
        "RNNX_SHARED(double, shared);",
        *(share if weighted else [*_COUNT, "const real count = (real)(steps * terms);"]),
        "const i64 t = blockIdx.x / m, j = blockIdx.x - t * m;",
        f"const storage* row = y + (i64)blockIdx.x * n * {loss.parts};",
        f"storage* result = dy + (i64)blockIdx.x * n * {loss.parts};",
        *block(
            "if (weight == 0)" if weighted else "if (lengths && t >= lengths[j])",
            ["if (threadIdx.x == 0) values[blockIdx.x] = 0;", f"{each} {{ {clear} }}", "return;"],
        ),
    ]
    at = "t * target_step + j * target_row"
    if loss.of_classes:
        lines.append(f"const i64 chosen = targets[{at}];")
    loads = [f"const real y{p} = load(row + i + {p} * n);" for p in range(loss.parts)]
    loads.append(
        "const bool target = i == chosen;" if loss.of_classes else f"const real g0 = load(targets + {at} + i);"
    )
    for k, (reduction, function) in enumerate(loss.statistics):
        trace, largest = Trace(), reduction == "maximum"
        value = function(trace.ops(), *_operands(trace, loss), *trace.symbols("s", k))
        if reduction == "target":
            own = ["const i64 i = chosen;", *loads, *trace.lines, f"s{k} = {value.name};"]
            lines += [f"real s{k} = real(0);", *block("if (chosen >= 0 && chosen < n)", own)]
            continue
        start = "-real(1) / real(0)" if largest else "real(0)"
        join = f"op_maximum(s{k}, {value.name})" if largest else f"s{k} + {value.name}"
        lines += [f"real s{k} = {start};", *block(each, [*loads, *trace.lines, f"s{k} = {join};"])]
        lines.append(f"s{k} = across<{str(largest).lower()}>(s{k}, (real*)shared);")
    trace, n = Trace(), len(loss.statistics)
    value = loss.value(trace.ops(), *trace.symbols("s", n))
    of_row = " * share" if weighted else ""
    lines += block("if (threadIdx.x == 0)", [*trace.lines, f"values[blockIdx.x] = (double){value.name}{of_row};"])
    trace = Trace()
    operands, statistics = _operands(trace, loss), trace.symbols("s", n)
    if loss.kept is not None:  # to compute it again takes less time than to store it
        kept = loss.statistics[loss.kept].function(trace.ops(), *operands, *statistics[: loss.kept])
        operands = kept, operands[-1]
    gradient = loss.gradient(trace.ops(), *operands, *statistics)
    part = "* (real)share" if weighted else "/ count"
    stores = [f"store(result + i + {p} * n, {d.name} {part});" for p, d in enumerate(gradient)]
    lines += block(each, [*loads, *trace.lines, *stores])
    kernel = make_kernel("loss", parameters, lines)
    return kernel, source_of(kernel)


def _operands(trace: Trace, loss: Loss) -> Sequence[object]:
    return *trace.symbols("y", loss.parts), Condition("target") if loss.of_classes else Symbol(trace, "g0")
