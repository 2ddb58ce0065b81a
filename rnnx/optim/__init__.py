"""Optimizers, learning-rate schedules and gradient clipping for dicts of arrays of any library.

The course's pure functions (`update_parameters_with_adam`, ...), and classes with the same update rules. The classes
hold hyper-parameters only; the state is a dict of arrays, which can be saved.
"""

from rnnx.optim.base import Optimizer
from rnnx.optim.clipping import clip_by_global_norm, clip_by_norm, clip_by_value
from rnnx.optim.config import optimizer_config, optimizer_from_config
from rnnx.optim.flat import Joined
from rnnx.optim.optimizers import OPTIMIZERS, SGD, Adam, AdamW, Momentum, RMSProp
from rnnx.optim.rules import (
    initialize_adam,
    initialize_velocity,
    update_parameters_with_adam,
    update_parameters_with_adamw,
    update_parameters_with_momentum,
    update_parameters_with_rmsprop,
    update_parameters_with_sgd,
)
from rnnx.optim.schedules import (
    SCHEDULES,
    CosineDecay,
    ExponentialDecay,
    InverseTimeDecay,
    LinearWarmup,
    Schedule,
    StepDecay,
    learning_rate_at,
)

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "Adam",
    "AdamW",
    "CosineDecay",
    "ExponentialDecay",
    "InverseTimeDecay",
    "Joined",
    "LinearWarmup",
    "Momentum",
    "Optimizer",
    "RMSProp",
    "Schedule",
    "StepDecay",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_value",
    "initialize_adam",
    "initialize_velocity",
    "learning_rate_at",
    "optimizer_config",
    "optimizer_from_config",
    "update_parameters_with_adam",
    "update_parameters_with_adamw",
    "update_parameters_with_momentum",
    "update_parameters_with_rmsprop",
    "update_parameters_with_sgd",
]
