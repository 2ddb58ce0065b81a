"""Kernels that draw and apply the masks of dropout, with the bits of NumPy's generator Philox.

J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011: four 64-bit words are a function of a key and
a counter. NumPy increases the first word of the counter before every block of four, and splits words into 32-bit
halves, the low one first, whose high 24 bits are a number from 0 to 1. With AVX-512, vectors hold the words of eight
blocks; two such vectors alternate, because each instruction needs the result of the one before.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from llvmlite import ir

from rnnx.engines.cpu.codegen import leaves
from rnnx.engines.cpu.codegen.ir import I32, I64, Function, features, integers

_NUMBERS = 8  # per block
_BLOCKS = 16, 8  # at once
_ROUNDS = 10
_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_INCREMENTS = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B  # of the key from round to round
_LOW = (1 << 32) - 1
_DOUBLE, _WIDE = ir.DoubleType(), ir.IntType(128)
_Word: TypeAlias = ir.Value | None  # of 64 bits, the same for all blocks, or of one number per block; None is 0


def emit_masks(module: ir.Module, dtype: Any) -> None:
    """Emit mask, drop and drop_again, with the arguments declared in `leaves`."""
    mask = _Kernel(module, "mask", dtype)
    mask.draw(lambda place: place.store(mask.factors(place)))
    drop = _Kernel(module, "drop", dtype)
    drop.draw(lambda place: drop.multiply(place.note()))
    again = _Kernel(module, "drop_again", dtype)
    again.read(again.multiply)


class _Place(NamedTuple):
    """A vector of the numbers of a step: whether each is kept, and which are not past the end; None for all."""

    f: Function  # with so many lanes
    step: ir.Value
    first: ir.Value  # number
    kept: ir.Value
    inside: ir.Value | None = None

    def at(self, array: ir.Value) -> ir.Value:
        """Return the address of the numbers in an array."""
        f = self.f
        return f.sum(array, f.times(f.sum(f.times(self.step, f.arguments.size), self.first), f.itemsize))

    def store(self, numbers: ir.Value) -> None:
        """Store what becomes of the numbers."""
        self.f.store_vector(numbers, self.at(self.f.arguments.target), self.inside)

    def bits(self) -> ir.Value:
        """Return a pointer to one bit per number. Steps begin with a byte."""
        f = self.f
        row = f.build.lshr(f.sum(f.arguments.size, _NUMBERS - 1), I64(3))
        at = f.sum(f.arguments.kept, f.times(self.step, row), f.build.lshr(self.first, I64(3)))
        return f.pointer(at, ir.IntType(f.lanes))

    def note(self) -> "_Place":
        """Store which numbers are kept."""
        pointer = self.bits()
        self.f.build.store(self.f.build.bitcast(self.kept, pointer.type.pointee), pointer).align = 1
        return self

    def noted(self) -> "_Place":
        """Load which numbers are kept."""
        bits = self.f.build.load(self.bits())
        bits.align = 1
        return self._replace(kept=self.f.build.bitcast(bits, self.f.mask))


class _Kernel:
    """A kernel under construction."""

    def __init__(self, module: ir.Module, name: str, dtype: Any) -> None:
        self.f = f = Function(module, name, leaves.MASK, dtype, public=True)
        number = f.load(f.arguments.value, _DOUBLE)
        self._value = number if f.itemsize == 8 else f.build.fptrunc(number, f.real)

    def factors(self, place: _Place) -> ir.Value:
        """Return the mask."""
        return place.f.build.select(place.kept, place.f.spread(self._value), place.f.constant(0))

    def multiply(self, place: _Place) -> None:
        """Store the numbers of the source, masked."""
        numbers = place.f.load_vector(place.at(place.f.arguments.source), place.inside)
        place.store(place.f.build.fmul(numbers, self.factors(place)))

    def draw(self, use: Callable[[_Place], Any]) -> None:
        """Emit the loops over all numbers, which draw whether they are kept."""
        f, a, keys = self.f, self.f.arguments, self._keys()
        with f.loop(a.steps) as step:
            done = I64(0)
            if features().get("avx512dq"):
                for blocks in _BLOCKS:
                    whole = f.build.and_(a.size, I64(-blocks * _NUMBERS))
                    with f.loop(whole, done, blocks * _NUMBERS) as i:
                        words = _philox(f, keys, self._counter(step, i, blocks))
                        for k, halves in enumerate(_halves_of_blocks(f, words)):
                            use(self._drawn(step, f.sum(i, k * halves.type.count), halves))
                    done = whole
            for i, inside in self._blocks(done):
                use(self._drawn(step, i, _halves(f, _philox(f, keys, self._counter(step, i, 1))), inside))
        f.end()

    def read(self, use: Callable[[_Place], Any]) -> None:
        """Emit the loops over all numbers, for which it is known whether they are kept."""
        f = self.f.of_lanes(_NUMBERS)
        with f.loop(f.arguments.steps) as step:
            for i, inside in self._blocks(I64(0)):
                use(_Place(f, step, i, i, inside).noted())
        f.end()

    def _blocks(self, start: ir.Value) -> Iterator[tuple[ir.Value, ir.Value | None]]:
        """Emit the loops over blocks: yield the first number of whole ones, then that of the last one and its mask."""
        f, size = self.f, self.f.arguments.size
        whole = f.build.and_(size, I64(-_NUMBERS))
        with f.loop(whole, start, _NUMBERS) as i:
            yield i, None
        inside = f.of_lanes(_NUMBERS).first_lanes(f.build.sub(size, whole))
        with f.loop(size, whole, _NUMBERS) as i:
            yield i, inside

    def _keys(self) -> ir.Value:
        """Store the keys of all rounds; return their address."""
        f = self.f
        keys = f.build.ptrtoint(f.build.alloca(I64, 2 * _ROUNDS), I64)
        for k, increment in enumerate(_INCREMENTS):
            word = f.load(f.sum(f.arguments.key, 8 * k), I64)
            for number in range(_ROUNDS):
                key = f.build.add(word, I64(increment * number & (1 << 64) - 1))
                f.build.store(key, f.pointer(f.sum(keys, 8 * (2 * number + k)), I64))
        return keys

    def _counter(self, step: ir.Value, i: ir.Value, blocks: int) -> list[_Word]:
        """Return the counter of the block that begins with number i, or of `blocks` from there on."""
        f = self.f
        block, step = f.sum(f.build.lshr(i, I64(3)), 1), f.sum(f.arguments.start, step)
        if blocks > 1:
            every = f.build.add(_spread(f, block, blocks), integers(I64, *range(blocks)))
            block = f.build.and_(every, _every(_LOW, blocks))  # so that LLVM knows that it is small
        return [block, None, None, step]

    def _drawn(self, step: ir.Value, i: ir.Value, halves: ir.Value, inside: ir.Value | None = None) -> _Place:
        """Return the place of numbers from i on, for which these halves of words were drawn."""
        f = self.f.of_lanes(halves.type.count)
        numbers = f.build.lshr(halves, integers(I32, *[8] * f.lanes))
        least = f.spread(f.build.trunc(f.arguments.least, I32), I32)
        return _Place(f, step, i, f.build.icmp_unsigned(">=", numbers, least), inside)


def _philox(f: Function, keys: ir.Value, counter: list[_Word]) -> list[ir.Value]:
    """Return the four words of a counter, given the address of the keys of all rounds."""
    for number in range(_ROUNDS):
        key = [f.load(f.sum(keys, 8 * (2 * number + k)), I64) for k in range(2)]
        (low, high), (low_1, high_1) = (_product(f.build, *of) for of in zip(counter[::2], _MULTIPLIERS, strict=True))
        counter = [_xor(f, high_1, counter[1], key[0]), low_1, _xor(f, high, counter[3], key[1]), low]
    return counter


def _xor(f: Function, *words: _Word) -> ir.Value:
    given = [word for word in words if word is not None]
    blocks = max(getattr(word.type, "count", 1) for word in given)
    if blocks > 1:
        given = [_spread(f, word, blocks) if word.type is I64 else word for word in given]
    return functools.reduce(f.build.xor, given)


def _spread(f: Function, word: ir.Value, blocks: int) -> ir.Value:
    return f.of_lanes(blocks).spread(word, I64)


def _every(number: int, blocks: int) -> ir.Constant:
    return integers(I64, *[number] * blocks)


def _product(build: ir.IRBuilder, word: _Word, factor: int) -> tuple[_Word, _Word]:
    """Return the low and the high word of a product."""
    if word is None:
        return None, None
    if word.type is not I64:
        return _product_of_halves(build, word, factor)
    product = build.mul(build.zext(word, _WIDE), ir.Constant(_WIDE, factor))
    return build.trunc(product, I64), build.trunc(build.lshr(product, ir.Constant(_WIDE, 64)), I64)


def _product_of_halves(build: ir.IRBuilder, words: ir.Value, factor: int) -> tuple[ir.Value, ir.Value]:
    """Return what `_product` does for vectors, whose instructions multiply halves of words."""
    mask, half, *factors = (_every(number, words.type.count) for number in (_LOW, 32, factor & _LOW, factor >> 32))

    def low(value: ir.Value) -> ir.Value:
        return build.and_(value, mask)

    def high(value: ir.Value) -> ir.Value:
        return build.lshr(value, half)

    halves = low(words), high(words)
    (last, middle), (other, first) = ([build.mul(part, one) for part in halves] for one in factors)
    middle = build.add(middle, high(last))
    other = build.add(other, low(middle))
    result = build.or_(build.shl(other, half), low(last))
    return result, build.add(build.add(first, high(middle)), high(other))


def _halves(f: Function, words: list[ir.Value]) -> ir.Value:
    """Return the eight halves of four words, in order."""
    kind = ir.VectorType(I64, len(words))
    joined: ir.Value = ir.Constant(kind, ir.Undefined)
    for k, word in enumerate(words):
        joined = f.build.insert_element(joined, word, I32(k))
    return f.build.bitcast(joined, ir.VectorType(I32, 2 * len(words)))


def _halves_of_blocks(f: Function, words: list[ir.Value]) -> list[ir.Value]:
    """Return the halves of the words of all blocks, in order, those of two blocks in each vector."""
    pairs, blocks = [f.joined(words[k : k + 2]) for k in (0, 2)], words[0].type.count
    found = []
    for block in range(0, blocks, 2):
        places = [blocks * word + b for b in (block, block + 1) for word in range(4)]
        of_two = f.build.shuffle_vector(*pairs, integers(I32, *places))
        found.append(f.build.bitcast(of_two, ir.VectorType(I32, 2 * len(places))))
    return found
