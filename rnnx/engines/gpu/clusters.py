"""Whole passes as one launch of a kernel whose clusters of blocks hold the recurrent weights: for small hidden sizes.

Off unless the environment has RNNX_CUDA_CLUSTERS=1: it has not been measured on a GPU yet. See `cluster_codegen`.
"""

from rnnx.engines.gpu import cluster_codegen as source
from rnnx.engines.gpu.codegen import options
from rnnx.engines.gpu.device import Queue
from rnnx.engines.gpu.pass_key import Setup

_CLUSTERS = 16  # that an H200 has room for at a time


def rows_of(queue: Queue, setup: Setup) -> int:
    """The examples of a cluster, so many that all clusters run at once if possible; 0 if weights do not fit."""
    if not queue.clusters:
        return 0
    choices = source.rows_choices(setup.dtype.itemsize)
    enough = next((rows for rows in choices if -(-setup.m // rows) <= _CLUSTERS), choices[-1])
    fitting = [rows for rows in choices if rows <= enough and _shared(setup, rows) <= queue.clusters]
    return fitting[-1] if fitting else 0


def _shared(setup: Setup, rows: int) -> int:
    return source.shared_bytes(setup.cell, setup.dtype.itemsize, setup.n, rows)


def launch(queue: Queue, setup: Setup, name: str, rows: int, arguments: list[int]) -> None:
    """The whole pass."""
    kernels = queue.kernels((source.source(setup.cell),), (*options(setup.dtype), f"-DRNNX_ROWS={rows}"))
    blocks = source.CLUSTER * -(-setup.m // rows)
    kernels(name, (blocks, 1), (source.THREADS, 1), arguments, shared=_shared(setup, rows))
