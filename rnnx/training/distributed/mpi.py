"""A group of MPI processes."""

import importlib
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.arrays import Array
from rnnx._core.checks import real
from rnnx._core.install import install_command

# The number of processes and that of this one, as Open MPI, MPICH (also Intel's), MVAPICH and Slurm's srun tell them.
_LAUNCHED = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
_RANK = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID")
_AWAKE = 1e-3  # seconds of waiting without sleep
_yield: Callable[[], Any] = getattr(os, "sched_yield", lambda: time.sleep(0))  # Windows


class MpiGroup:
    """The processes of an MPI run, for data-parallel training.

    A script that uses it is started by ``mpiexec -n 4 python -m mpi4py train.py``: with ``-m mpi4py``, an error in one
    process ends all of them.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, optional
        Default: all processes.
    timeout : float > 0
        Seconds to wait for the other ranks, for instance while one writes a checkpoint. A rank that is lost without its
        launcher's notice then ends all others.

    Attributes
    ----------
    rank, size : int
        The number of this process, from 0, and the number of processes.
    local_rank, local_size : int
        The same among the processes on this machine.

    Raises
    ------
    ImportError
        If mpi4py is not installed, or finds no MPI library.

    See Also
    --------
    NcclGroup, Trainer

    Examples
    --------
    >>> from rnnx.training import MpiGroup, Trainer
    >>> group = MpiGroup()  # doctest: +SKIP
    >>> trainer = Trainer(model, optimizer, shards=4, group=group)  # doctest: +SKIP
    >>> progress = trainer.fit(train, validation, epochs=10, batch_size=256)  # doctest: +SKIP
    >>> if group.rank == 0:  # doctest: +SKIP
    ...     save_checkpoint("model.safetensors", Checkpoint(model))
    """

    def __init__(self, comm: Any = None, *, timeout: float = 600.0) -> None:
        self.timeout = real("timeout", timeout, "(0, inf)")
        self._mpi = mpi = _library()
        self._comm = (mpi.COMM_WORLD if comm is None else comm).Dup()
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        local = self._comm.Split_type(mpi.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = local.Get_rank(), local.Get_size()
        local.Free()
        self.machine = mpi.Get_processor_name()
        self._sums: list[Any] = []  # requests that have begun

    @classmethod
    def launched(cls) -> "MpiGroup":
        """Return the group of all processes that an MPI launcher has started."""
        group = cls()
        if group.size != launched():
            library = " ".join(group._mpi.Get_library_version().split())[:60]
            why = f"mpi4py uses another MPI library, {library!r}"
            raise ValueError(f"{launched()} processes were started, but they do not find each other: {why}")
        return group

    def __deepcopy__(self, _memo: Any) -> "MpiGroup":
        return self

    def exchange(self, rows: Array) -> Array:
        """Send row j of an array (size, n) to rank j; return the rows from all ranks in their order, (size, n)."""
        sent = np.ascontiguousarray(ns.to_host(rows))
        found = np.empty_like(sent)
        self._wait(self._comm.Ialltoall(self._bytes(sent), self._bytes(found)))
        return _like(rows, found)

    def gather(self, row: Array) -> Array:
        """Return the rows (n,) of all ranks in their order, (size, n)."""
        sent = np.ascontiguousarray(ns.to_host(row))
        found = np.empty((self.size, *sent.shape), sent.dtype)
        self._wait(self._comm.Iallgather(self._bytes(sent), self._bytes(found)))
        return _like(row, found)

    def start_sum(self, array: Array) -> Callable[[], Array]:
        """Begin to add up the arrays (n,) of all ranks; return a function that waits for the sum."""
        host = np.ascontiguousarray(ns.to_host(array))
        request = self._comm.Iallreduce(self._mpi.IN_PLACE, host, op=self._mpi.SUM)
        self._sums = [one for one in self._sums if not one.Test()]  # MPI works only while it is called
        self._sums.append(request)

        def wait() -> Array:
            self._wait(request)
            return _like(array, host)

        return wait

    def collect(self, value: Any) -> list[Any]:
        """Return the plain values of all ranks in their order."""
        sent = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes = self.gather(np.array([len(sent)])).ravel()
        found, ends = np.empty(sizes.sum(), np.uint8), np.cumsum(sizes)
        self._wait(self._comm.Iallgatherv([sent, self._mpi.BYTE], [found, (sizes, ends - sizes), self._mpi.BYTE]))
        return [pickle.loads(found[end - size : end].tobytes()) for end, size in zip(ends, sizes, strict=True)]

    def abort(self, message: str) -> None:
        """Print one line, and end all ranks."""
        sys.stderr.write(f"Error: rank {self.rank}: {message}\n")
        sys.stderr.flush()
        self._comm.Abort(1)

    def _bytes(self, array: np.ndarray) -> list[Any]:
        return [array.view(np.uint8), self._mpi.BYTE]

    def _wait(self, request: Any) -> None:
        """Wait for a request; end all ranks if it takes too long."""
        start = time.monotonic()
        while not request.Test():
            waited = time.monotonic() - start
            if waited > self.timeout:
                self.abort(f"no answer from the other ranks for {self.timeout:g} seconds: one of them is lost")
            if waited < _AWAKE:
                _yield()
            else:
                time.sleep(min(waited / 10, _AWAKE))


def _like(given: Array, host: np.ndarray) -> Array:
    """Return an array of the host in the library, and on the device, of another one."""
    return host if ns.is_on_host(given) else ns.namespace(given).asarray(host, device=ns.device(given))


def _library() -> Any:
    try:
        return importlib.import_module("mpi4py.MPI")
    except ModuleNotFoundError:
        raise ImportError(f"data-parallel training needs mpi4py: {install_command('mpi')}") from None
    except (ImportError, RuntimeError) as error:
        why = str(error).splitlines()[0]
        raise ImportError(f"mpi4py cannot be used: {why}. Install an MPI library, or: pip install mpich") from None


def launched() -> int:
    """Return the number of processes that an MPI launcher has started, with this one."""
    return max(_told(_LAUNCHED), default=1)


def launched_rank() -> int:
    """Return the number of this process among those, from 0, without starting MPI."""
    return max(_told(_RANK), default=0) if launched() > 1 else 0


def _told(names: Iterable[str]) -> list[int]:
    return [int(value) for name in names if (value := os.environ.get(name, "")).isdecimal()]
