"""The training loop and the files of a run: metrics, checkpoints, settings."""

from rnnx.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from rnnx.training.distributed.mpi import MpiGroup
from rnnx.training.distributed.nccl import NcclGroup
from rnnx.training.evaluation import evaluate
from rnnx.training.folders import free_folder
from rnnx.training.loggers import MLflowLogger, TensorBoardLogger, WandbLogger
from rnnx.training.metrics import MetricsWriter, read_metrics
from rnnx.training.progress import Progress
from rnnx.training.rates import LearningRates, learning_rate_range
from rnnx.training.runs import Run
from rnnx.training.settings import Settings
from rnnx.training.sweep import Sweep
from rnnx.training.trainer import Trainer

__all__ = [
    "Checkpoint",
    "LearningRates",
    "MLflowLogger",
    "MetricsWriter",
    "MpiGroup",
    "NcclGroup",
    "Progress",
    "Run",
    "Settings",
    "Sweep",
    "TensorBoardLogger",
    "Trainer",
    "WandbLogger",
    "evaluate",
    "free_folder",
    "learning_rate_range",
    "load_checkpoint",
    "read_metrics",
    "save_checkpoint",
]
