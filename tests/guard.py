"""Arrays that end where their memory ends: to read or to write past them ends the process."""

import ctypes
import mmap
import sys

import numpy as np

_NO_ACCESS = 0


def guarded(a, order="C"):
    """Return a copy that ends with a page, the next of which allows no access; on Windows, a usual copy."""
    if sys.platform == "win32" or not a.size:
        return np.array(a, order=order)
    size = -(-a.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, size + mmap.PAGESIZE)
    end = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + size
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    assert protect(end, mmap.PAGESIZE, _NO_ACCESS) == 0
    copy = np.frombuffer(memory, a.dtype, a.size, size - a.nbytes).reshape(a.shape, order=order)
    copy[...] = a
    return copy
