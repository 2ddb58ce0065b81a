"""The best rate of any matrix product on this machine: the floor of the scripts in this folder."""

import numpy as np
from shared import median_ms

_SHAPES = ((1024, 1024, 1024), (2048, 2048, 2048), (4096, 1024, 64), (6400, 256, 1024))


def product_rate(dtype):
    """Return the best GFLOP/s of a product on the usable cores: NumPy's BLAS at some shapes, and our micro-kernel."""
    rng, rates = np.random.default_rng(0), []
    for m, k, n in _SHAPES:
        a, b = (rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n)))
        rates.append(2 * m * k * n / median_ms(lambda a=a, b=b: a @ b) / 1e6)
    return max(*rates, micro_kernel_rate(np.dtype(dtype)))


def micro_kernel_rate(dtype):
    """Return GFLOP/s of the micro-kernel on all threads at once: 96 rows by 512 terms by 1024 columns each."""
    from concurrent.futures import ThreadPoolExecutor

    from rnnx.engines.cpu.codegen import ir, leaves
    from rnnx.engines.cpu.descriptor import builder
    from rnnx.engines.cpu.runtime import thread_policy, tuning

    threads, (rows, n_k, columns) = thread_policy.max_threads(), (96, 512, 1024)
    panel = tuning.panel_vectors(4, rows)
    product = leaves.python_function(leaves.PRODUCT, builder.product(dtype, panel))
    vectors, item = columns // ir.lanes(dtype), dtype.itemsize
    arrays = [
        [np.ones(shape, dtype) for shape in ((n_k, columns), (rows, n_k), (rows, columns))] for _ in range(threads)
    ]
    zeros = np.zeros(columns, dtype)

    def work(w, h, z):
        w, h, z, zero = (a.ctypes.data for a in (w, h, z, zeros))
        for _ in range(20):
            product(w, vectors, 0, vectors, n_k, h, n_k * item, item, rows, zero, 0, z, columns * item, 0, 0, 0)

    with ThreadPoolExecutor(threads) as pool:
        ms = median_ms(lambda: list(pool.map(lambda a: work(*a), arrays)))
    return 20 * threads * 2 * rows * n_k * columns / ms / 1e6
