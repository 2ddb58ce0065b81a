"""The engine for CuPy arrays: `engine` on CuPy's queues. See `rnnx.engines` for the interface."""

from rnnx.engines.gpu.cupy_device import queue_of
from rnnx.engines.gpu.engine import Engine

_engine = Engine(queue_of)
forward, backward, matmul, Stepper = _engine.forward, _engine.backward, _engine.matmul, _engine.stepper
