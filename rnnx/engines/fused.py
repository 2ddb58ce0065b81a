"""The engine for CuPy arrays: `_gpu_engine` on CuPy's queues. See `rnnx.engines` for the interface."""

from rnnx.engines._cupy import queue_of
from rnnx.engines._gpu_engine import Engine

_engine = Engine(queue_of)
forward, backward, matmul, Stepper = _engine.forward, _engine.backward, _engine.matmul, _engine.stepper
