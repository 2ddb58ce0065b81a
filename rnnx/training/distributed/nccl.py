"""A group of GPUs."""

import importlib
from collections.abc import Callable
from typing import Any

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx.training.distributed.group import Group


class NcclGroup:
    """The GPUs of the processes of another group, for data-parallel training: their arrays go from GPU to GPU.

    Parameters
    ----------
    group : MpiGroup
        Of processes with a GPU each, which is their current device. Plain values are sent by it.

    Raises
    ------
    ImportError
        If nccl4py is not installed.

    See Also
    --------
    MpiGroup, Trainer

    Examples
    --------
    >>> from rnnx.training import MpiGroup, NcclGroup, Trainer
    >>> group = NcclGroup(MpiGroup())  # doctest: +SKIP
    >>> trainer = Trainer(model, optimizer, shards=8, group=group)  # doctest: +SKIP
    """

    def __init__(self, group: Group) -> None:
        self._group, self._nccl = group, nccl_library()
        self.rank, self.size = group.rank, group.size
        own = bytes(self._nccl.get_unique_id()) if self.rank == 0 else b""
        shared = self._nccl.UniqueId.from_bytes(group.collect(own)[0])
        self._comm = self._nccl.Communicator.init(self.size, self.rank, shared)
        self._side: Any = None  # the stream of sums

    def __deepcopy__(self, _memo: Any) -> "NcclGroup":
        return self

    def exchange(self, rows: Array) -> Array:
        """Send row j of an array (size, n) to rank j; return the rows from all ranks in their order, (size, n)."""
        if ns.is_on_host(rows):
            return self._group.exchange(rows)
        found = ns.namespace(rows).empty_like(rows)
        self._comm.alltoall(rows, found, stream=_cuda(rows).get_current_stream().ptr)
        return found

    def gather(self, row: Array) -> Array:
        """Return the rows (n,) of all ranks in their order, (size, n)."""
        if ns.is_on_host(row):
            return self._group.gather(row)
        xp = ns.namespace(row)
        found = xp.empty((self.size, *row.shape), dtype=row.dtype, device=ns.device(row))
        self._comm.allgather(row, found, stream=_cuda(row).get_current_stream().ptr)
        return found

    def start_sum(self, array: Array) -> Callable[[], Array]:
        """Begin to add up the arrays (n,) of all ranks on a stream of its own; return a function that waits for it."""
        if ns.is_on_host(array):
            return self._group.start_sum(array)
        cuda = _cuda(array)
        if self._side is None:
            self._side = cuda.Stream(non_blocking=True)
        self._side.wait_event(cuda.get_current_stream().record())
        self._comm.allreduce(array, array, self._nccl.SUM, stream=self._side.ptr)
        done = self._side.record()

        def wait() -> Array:
            cuda.get_current_stream().wait_event(done)
            return array

        return wait

    def collect(self, value: Any) -> list[Any]:
        """Return the plain values of all ranks in their order."""
        return self._group.collect(value)

    def abort(self, message: str) -> None:
        """Print one line, and end all ranks."""
        self._group.abort(message)


def _cuda(array: Array) -> Any:
    return ns.namespace(array).cuda


def nccl_library() -> Any:
    """Import nccl4py, or raise ImportError with the command that installs it."""
    try:
        return importlib.import_module("nccl.core")
    except ImportError as error:
        install = 'pip install "nccl4py[cu13]"'
        raise ImportError(f"groups of GPUs need nccl4py: {install} ({error})") from None
