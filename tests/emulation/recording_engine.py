"""A device whose training steps can be captured: array-api-strict, with every operation on arrays recorded.

A captured graph repeats the recorded operations on the same memory, and holds memory only of arrays that were made
while it was captured: others are read and written at their addresses, so that a replay fails if one of them was freed.
"""

import sys
import types
import weakref

import array_api_strict as xp
import numpy as np

from rnnx.engines.reference.engine import ENGINE as REFERENCE

ARRAY = type(xp.asarray(0))
# The library checks every operation. These checks are the same, and take half the time of all.
_checks = sys.modules[ARRAY.__module__]
_checks._all_dtypes, _checks.SupportsIndex = frozenset(_checks._all_dtypes), (int, np.integer)
_OPERATORS = ["add", "sub", "mul", "truediv", "pow", "matmul", "and", "or", "xor", "mod", "floordiv"]
_METHODS = [
    *(f"__{prefix}{name}__" for name in _OPERATORS for prefix in ("", "r", "i")),
    *(
        f"__{name}__"
        for name in ("invert", "neg", "pos", "abs", "eq", "ne", "lt", "le", "gt", "ge", "getitem", "setitem")
    ),
]
_FUNCTIONS = [name for name in xp.__all__ if isinstance(getattr(xp, name), types.FunctionType)]


class Recorder:
    """The operations on arrays while a graph is captured, and the number of calls that a device would see."""

    def __init__(self):
        self.tape = None
        self.depth = 0
        self.operations = self.replays = self.writes = self.captures = 0

    def wrap(self, function):
        def recorded(*arguments, **keywords):
            if self.depth:
                return function(*arguments, **keywords)
            if self.tape is not None and function.__name__ in ("concat", "stack"):
                assert len(arguments[0]) <= 8, "CuPy copies a table from the host, and a graph would copy it again"
            held = None if self.tape is None else (self.tape.hold(arguments), self.tape.hold(keywords))
            self.depth += 1
            try:
                result = function(*arguments, **keywords)
            finally:
                self.depth -= 1
            self.operations += 1
            if held is not None:
                is_new = isinstance(result, ARRAY) and not any(result is argument for argument in arguments)
                self.tape.add(function, *held, result if is_new else None)
                if function.__name__ == "asarray" and not isinstance(arguments[0], ARRAY):
                    self.tape.copied.add(id(result))
            return result

        return recorded

    def install(self, monkeypatch):
        for name in _FUNCTIONS:
            monkeypatch.setattr(xp, name, self.wrap(getattr(xp, name)))
        monkeypatch.setattr(RecordingEngine, "kept", staticmethod(self.wrap(RecordingEngine.kept)))
        for name in _METHODS:
            if hasattr(ARRAY, name):
                monkeypatch.setattr(ARRAY, name, self.wrap(getattr(ARRAY, name)))


class Tape:
    """A captured graph."""

    def __init__(self):
        self.work = []
        self.own = {}  # by id: keeps its arrays, the pool of the graph
        self.copied = set()  # ids of arrays copied from the host
        self.before = {}  # by id: memory from outside, and what it held

    def add(self, function, arguments, keywords, result):
        self.work.append((function, arguments, keywords, result))
        if result is not None:
            self.own[id(result)] = result

    def hold(self, value):
        """Replace arrays from outside by their addresses."""
        assert id(value) not in self.copied, "a copy from the host in a graph repeats the same numbers"
        if isinstance(value, ARRAY) and id(value) not in self.own:
            outside = _Outside(value)
            memory = outside.memory()
            self.before.setdefault(id(memory), (outside.memory, memory.copy()))
            return outside
        if isinstance(value, dict):
            return {key: self.hold(item) for key, item in value.items()}
        return type(value)(map(self.hold, value)) if isinstance(value, tuple | list) else value

    def undo(self):
        """Undo the work, because a capture computes nothing."""
        for memory, before in self.before.values():
            if memory() is not None:
                memory()[...] = before

    def replay(self):
        for function, arguments, keywords, result in self.work:
            found = function(*_opened(arguments), **_opened(keywords))
            if result is not None and result is not found and result._array.flags.writeable:  # else it is a view
                result._array[...] = found._array


class _Outside:
    """The memory of an array that was not made in the graph."""

    def __init__(self, array):
        base = array._array
        while isinstance(base.base, np.ndarray):
            base = base.base
        self.memory, self.device = weakref.ref(base), array.device
        # A view would keep the memory alive; an address does not.
        self.address, self.shape, self.strides = array._array.ctypes.data, array.shape, array._array.strides
        self.kind = array._array.dtype

    def open(self):
        memory = self.memory()
        assert memory is not None, "a graph uses an array that was freed"
        offset = self.address - memory.ctypes.data
        flat = memory.reshape(-1, order="A").view(np.uint8)
        view = np.ndarray(self.shape, self.kind, flat, offset, self.strides)
        return ARRAY._new(view, device=self.device)


def _opened(value):
    if isinstance(value, _Outside):
        return value.open()
    if isinstance(value, dict):
        return {key: _opened(item) for key, item in value.items()}
    return type(value)(map(_opened, value)) if isinstance(value, tuple | list) else value


class Steps:
    """See `rnnx.engines.protocol.StepCapture`."""

    def __init__(self, recorder):
        self.recorder = recorder
        self.around = lambda replay: replay()  # for tests

    def write(self, array, values):
        assert isinstance(values, np.ndarray)
        self.recorder.writes += 1
        array._array[...] = values

    def capture(self, like, work):
        recorder = self.recorder
        work()
        tape = recorder.tape = Tape()
        try:
            work()
        finally:
            recorder.tape = None
            tape.undo()
        recorder.captures += 1

        def replay():
            recorder.replays += 1
            recorder.depth += 1
            try:
                self.around(tape.replay)
            finally:
                recorder.depth -= 1

        return replay


class RecordingEngine:
    """The reference engine, with captured training steps."""

    def __init__(self, steps):
        self.steps = steps

    def forward(self, call, *, keep):
        return REFERENCE.forward(call, keep=keep)

    def backward(self, tape, cotangents):
        return REFERENCE.backward(tape, cotangents)

    def matmul(self, a, b, bias=None):
        return REFERENCE.matmul(a, b, bias)

    @staticmethod
    def kept(key, start, rate, shape, like, value):
        """Masks by NumPy, computed when the operation runs: the key is in memory of the device."""
        masks, n_steps = np.empty(shape[::-1]), shape[2]
        for t in range(n_steps):
            philox = np.random.Philox(key=key._array.view(np.uint64), counter=[0, 0, 0, start + t])
            masks[t] = np.random.Generator(philox).random(shape[1::-1], np.float32) >= rate
        return ARRAY._new((masks.astype(like._array.dtype) * value).T, device=like.device)

    def stepper(self, call):
        return REFERENCE.stepper(call)
