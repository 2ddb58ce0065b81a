"""Large matrix products: the fastest one is the floor of `peers.py`."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from shared import median_ms

PRODUCTS = ("micro-kernel", (1024, 1024, 1024), (2048, 2048, 2048), (4096, 1024, 64), (6400, 256, 1024))
_CALLS, _ROWS, _TERMS, _COLUMNS = 20, 96, 512, 1024  # of the micro-kernel


def fastest_product(dtype):
    """Return the one of `PRODUCTS` that has the best rate on the usable cores."""
    return max(PRODUCTS, key=lambda which: product_flops(which) / median_ms(product(dtype, which)))


def product(dtype, which):
    """Return a function that computes a product with NumPy's BLAS, or with our micro-kernel on all threads at once."""
    if which == "micro-kernel":
        return _micro_kernel(np.dtype(dtype))
    m, k, n = which
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n)))
    return lambda: a @ b


def product_flops(which):
    """Return the FLOPs of a call of `product`."""
    from rnnx.engines.cpu.runtime import thread_policy

    if which == "micro-kernel":
        return 2 * thread_policy.max_threads() * _CALLS * _ROWS * _TERMS * _COLUMNS
    return 2 * int(np.prod(which))


def _micro_kernel(dtype):
    from rnnx.engines.cpu.codegen import ir, leaves
    from rnnx.engines.cpu.descriptor import builder
    from rnnx.engines.cpu.runtime import thread_policy, tuning

    threads = thread_policy.max_threads()
    kernel = leaves.python_function(leaves.PRODUCT, builder.product(dtype, tuning.panel_vectors(4, _ROWS)))
    vectors, item = _COLUMNS // ir.lanes(dtype), dtype.itemsize
    shapes = (_TERMS, _COLUMNS), (_ROWS, _TERMS), (_ROWS, _COLUMNS)
    arrays = [[np.ones(shape, dtype) for shape in shapes] for _ in range(threads)]
    zeros = np.zeros(_COLUMNS, dtype)

    def work(w, h, z):
        w, h, z, zero = (a.ctypes.data for a in (w, h, z, zeros))
        strides = _TERMS * item, item
        for _ in range(_CALLS):
            kernel(w, vectors, 0, vectors, _TERMS, h, *strides, _ROWS, zero, 0, z, _COLUMNS * item, 0, 0, 0)

    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(lambda given: work(*given), arrays))
