"""Tables of arrays, which elementwise kernels read: each row has a number of elements and the addresses of arrays."""

import operator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rnnx._core.kinds import Table, kinds
from rnnx.engines.cpu.kernels import DTYPES
from rnnx.engines.cpu.runtime.buffer_pool import addresses
from rnnx.engines.cpu.runtime.objects import address_writer

_DTYPE = operator.attrgetter("dtype")
_WANTED, _WRITEABLE = 0x101, 0x400  # C order and alignment, and that it may be written to, in NumPy's flags


class _Template(NamedTuple):
    """What tables of arrays of the same kinds share; `numbers` has no addresses."""

    numbers: np.ndarray
    size: int
    is_usable: bool


class ArrayTable(NamedTuple):
    """A table, and the elements of the rows in total."""

    numbers: np.ndarray
    size: int


_templates: Table[_Template] = Table()


def array_table(arrays: Sequence[np.ndarray], width: int, n_read: int) -> ArrayTable | None:
    """Return the table of rows of `width` arrays with as many elements, one row after the other.

    None unless all have one dtype that is compiled, C order and aligned elements, and those after the first `n_read` of
    a row may be written to.
    """
    of_arrays = kinds(arrays)
    key = of_arrays and (width, n_read, of_arrays)
    template = _templates.find(key)
    if template is None:
        template = _templates.add(key, _template(arrays, width, n_read))
    if not template.is_usable:
        return None
    numbers, write = template.numbers.copy(), address_writer() if key else None
    if write is not None:
        write((numbers, *arrays), width)
    else:
        numbers.reshape(-1, width + 1)[:, 1:] = np.array(addresses(arrays), np.int64).reshape(-1, width)
    return ArrayTable(numbers, template.size)


def _template(arrays: Sequence[np.ndarray], width: int, n_read: int) -> _Template:
    dtypes, flags = {*map(_DTYPE, arrays)}, [a.flags.num for a in arrays]
    written = [of for k, of in enumerate(flags) if k % width >= n_read]
    is_usable = (
        len(dtypes) == 1 and dtypes <= DTYPES
        and all(of & _WANTED == _WANTED for of in flags) and all(of & _WRITEABLE for of in written)
    )  # fmt: skip
    sizes = [a.size for a in arrays[::width]]
    numbers = np.array([n for size in sizes for n in (size, *[0] * width)], np.int64)
    return _Template(numbers, sum(sizes), is_usable)
