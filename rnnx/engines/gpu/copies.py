"""Copies between the caller's arrays and the memory of a pass: a launch at its beginning, and one at its end.

A CUDA graph has fixed arguments, and the caller's arrays are others in every call. So the addresses and strides of
these arrays, the *numbers* of a call, are sent to device memory before the launch (`DeviceStream.send`), and the kernel
``copy`` reads them there. What it does with them is fixed, in one record per copy.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rnnx._core.arrays import INDEX
from rnnx.engines.gpu.device import Array, DeviceStream, DType, Launch

TILE = 32  # units and steps that a block copies, of one example
# What a copy does with types, and with lengths: zeros past each length, or only examples of some length, or of none.
SAME, TO_REAL, FROM_REAL, INDICES = range(4)
PAST_END, NOT_EMPTY, EMPTY = range(3)


class Given(NamedTuple):
    """A number of the call, by its place among them."""

    place: int


Number = int | Given


class End(NamedTuple):
    """The source or target of a copy, an array (n, m, T): units, examples, steps."""

    address: Number  # of a source: 0 means zeros
    strides: tuple[Number, ...] = ()  # bytes between units, examples, and steps; missing ones do not matter
    first: int = 0  # of a source: the number of units before the first one; of a target: bytes

    @classmethod
    def time_major(cls, address: Number, shape: tuple[int, ...], dtype: DType, first: int = 0) -> "End":
        """Return time-major memory (T, m, n), or (m, n)."""
        *_, m, n = shape
        return cls(address, (dtype.itemsize, n * dtype.itemsize, m * n * dtype.itemsize), first)


class Copy(NamedTuple):
    """A copy of an array (n, m, T)."""

    source: End
    target: End
    shape: tuple[int, int, int]
    types: int = SAME
    lengths: Number = 0  # the address of the lengths; 0 if there are none
    rule: int = PAST_END

    @property
    def n_tiles(self) -> int:
        """Number of blocks of threads."""
        n, m, n_steps = self.shape
        return -(-n // TILE) * m * -(-n_steps // TILE)

    def fields(self, first_tile: int) -> dict[str, Number]:
        """Return the fields of the record."""
        named: dict[str, Number] = {}
        for name, end in (("from", self.source), ("to", self.target)):
            strides = (*end.strides, 0, 0, 0)
            named |= {name: end.address, f"{name}_first": end.first}
            named |= {f"{name}_{axis}": strides[i] for i, axis in enumerate(("unit", "example", "step"))}
        named |= dict(zip(("n", "m", "n_steps"), self.shape, strict=True))
        return named | {"types": self.types, "lengths": self.lengths, "rule": self.rule, "first_tile": first_tile}


FIELDS = (*Copy(End(0), End(0), (1, 1, 1)).fields(0), "given")  # of a record, each 8 bytes


def source() -> str:
    """Return the CUDA declaration of the fields of a record."""
    return f"enum Field {{ {', '.join(f'field_{name}' for name in FIELDS)}, n_fields }};"


def _record(fields: dict[str, Number]) -> list[int]:
    given = sum(1 << i for i, value in enumerate(fields.values()) if isinstance(value, Given))
    return [*(value.place if isinstance(value, Given) else value for value in fields.values()), given]


class Matrix(NamedTuple):
    """A matrix of the call."""

    address: Number = 0
    by_row: Number = 0
    by_column: Number = 0

    def columns(self, first: int) -> End:
        """Return the source whose units are the columns from `first` on, and whose steps are the rows."""
        return End(self.address, (self.by_column, 0, self.by_row), first)

    def vector(self) -> End:
        """Return the source whose units are the rows of the only column."""
        return End(self.address, (self.by_row,))


NO_MATRIX = Matrix()


class Numbers:
    """The numbers of a call: which there are, in order."""

    def __init__(self) -> None:
        self.count, self._sizes = 0, list[int]()

    def next(self, count: int) -> list[Given]:
        """Return the next `count` numbers, of an array of the call."""
        self.count += count
        self._sizes.append(count)
        return [Given(place) for place in range(self.count - count, self.count)]

    def of(self, stream: DeviceStream, arrays: Iterable[Array | None]) -> list[int]:
        """Return the numbers of arrays, in the order of `next`. None means zeros; missing axes come last."""
        numbers, place = list[int](), stream.place
        for array, size in zip(arrays, self._sizes, strict=False):
            own = () if array is None else place(array)
            numbers += own
            if len(own) < size:
                numbers += (0,) * (size - len(own))
        return numbers

    def array(self, n_axes: int) -> End:
        """Return the next array of the call: its address, and its strides in the order units, examples, steps."""
        address, *strides = self.next(1 + n_axes)
        return End(address, tuple(strides))

    def matrix(self) -> Matrix:
        """Return the next matrix of the call."""
        return Matrix(*self.next(3))


class Transfer:
    """The numbers of a call, and the copies that use them, in groups that are launched separately."""

    def __init__(self, stream: DeviceStream, launch: Launch, numbers: Numbers, *groups: Sequence[Copy]) -> None:
        self.stream, self._launch, self._count = stream, launch, numbers.count
        self._groups: list[tuple[int, int, int]] = []  # first record, records, tiles
        self._records: list[int] = []
        for group in groups:
            first, n_tiles = len(self._records), 0
            for copy in group:
                self._records += _record(copy.fields(n_tiles))
                n_tiles += copy.n_tiles
            self._groups.append((first, len(group), n_tiles))
        size = (self._count + len(self._records)) * INDEX.itemsize
        self._memory = stream.allocate(max(size, 1))
        self._address = stream.base(self._memory)

    def send(self, numbers: Sequence[int]) -> None:
        """Send the numbers of a call. They are read before this returns."""
        assert len(numbers) == self._count
        self.stream.send([*numbers, *self._records] if self._records else numbers, self._address)
        self._records = []  # they remain

    def copy(self, group: int) -> None:
        """Launch a group of copies."""
        first, n_records, n_tiles = self._groups[group]
        if n_tiles:
            numbers, records = self._address, self._address + (self._count + first) * INDEX.itemsize
            shared = TILE * (TILE + 1) * 8  # enough for float64
            self._launch("copy", (n_tiles, 1), (TILE, 8), [numbers, records, n_records], shared)
