"""Recurrent networks with explicit forward and hand-derived backward passes, on any array library."""

from rnnx._core import startup as _startup  # noqa: F401, I001  # first, for Ctrl-C while the rest is imported

import importlib
from types import ModuleType

from rnnx.cells import CELLS, Cell, Gate, Input, Stage, Vector, cell
from rnnx.engines import (
    engine_for,
    engine_names,
    register_engine,
    unregister_engine,
    use_engine,
    use_precision,
    warm_up,
)
from rnnx.functional import (
    gru_backward,
    gru_cell_backward,
    gru_cell_forward,
    gru_forward,
    lstm_backward,
    lstm_cell_backward,
    lstm_cell_forward,
    lstm_forward,
    recurrent_backward,
    recurrent_forward,
    rnn_backward,
    rnn_cell_backward,
    rnn_cell_forward,
    rnn_forward,
)
from rnnx.functional.activations import (
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    softmax,
    softmax_backward,
    tanh,
    tanh_backward,
)
from rnnx.functional.attention import (
    additive_attention_backward,
    additive_attention_forward,
    dot_product_attention_backward,
    dot_product_attention_forward,
)
from rnnx.functional.caches import Caches
from rnnx.functional.cell_check import check_cell
from rnnx.functional.heads import dense_backward, dense_forward, softmax_cross_entropy, squared_error
from rnnx.functional.one_hot import one_hot
from rnnx.functional.initialization import initialize_parameters
from rnnx.functional.quantization import QuantizedParameters, quantize
from rnnx.functional.streaming import Stream
from rnnx.optim import (
    SGD,
    Adam,
    AdamW,
    CosineDecay,
    ExponentialDecay,
    InverseTimeDecay,
    LinearWarmup,
    Momentum,
    RMSProp,
    StepDecay,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    initialize_adam,
    initialize_velocity,
    update_parameters_with_adam,
    update_parameters_with_adamw,
    update_parameters_with_momentum,
    update_parameters_with_rmsprop,
    update_parameters_with_sgd,
)

__version__ = "0.1.0"

__all__ = [
    "CELLS", "SGD", "Adam", "AdamW", "Caches", "Cell", "CosineDecay", "ExponentialDecay", "Gate", "Input",
    "InverseTimeDecay", "LinearWarmup", "Momentum", "QuantizedParameters", "RMSProp", "Stage", "StepDecay", "Stream",
    "Vector", "additive_attention_backward", "additive_attention_forward", "cell", "check_cell", "clip_by_global_norm",
    "clip_by_norm", "clip_by_value", "dense_backward", "dense_forward", "dot_product_attention_backward",
    "dot_product_attention_forward", "engine_for", "engine_names", "gru_backward", "gru_cell_backward",
    "gru_cell_forward", "gru_forward", "initialize_adam", "initialize_parameters", "initialize_velocity",
    "lstm_backward", "lstm_cell_backward", "lstm_cell_forward", "lstm_forward", "one_hot", "quantize",
    "recurrent_backward", "recurrent_forward", "register_engine", "relu", "relu_backward", "rnn_backward",
    "rnn_cell_backward", "rnn_cell_forward", "rnn_forward", "sigmoid", "sigmoid_backward", "softmax",
    "softmax_backward", "softmax_cross_entropy", "squared_error", "tanh", "tanh_backward", "unregister_engine",
    "update_parameters_with_adam", "update_parameters_with_adamw", "update_parameters_with_momentum",
    "update_parameters_with_rmsprop", "update_parameters_with_sgd", "use_engine", "use_precision", "warm_up",
]  # fmt: skip

_SUBPACKAGES = (
    "analysis", "cli", "compare", "convert", "course", "data", "estimators", "export", "losses", "metrics", "models",
    "optim", "plots", "training",
)  # fmt: skip


def __getattr__(name: str) -> ModuleType:
    """Import a subpackage when it is first used as an attribute."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f"rnnx.{name}")
    raise AttributeError(f"module 'rnnx' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBPACKAGES})
