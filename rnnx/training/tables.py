"""The kinds of runs on a CSV file, by name."""

from typing import Any

from rnnx.training import checkpoint as checkpoints
from rnnx.training.classify_settings import ClassifySettings
from rnnx.training.forecast_settings import ForecastSettings
from rnnx.training.table_base import TableSettings

TASKS: dict[str, type[TableSettings]] = {one.task: one for one in (ForecastSettings, ClassifySettings)}


def table_settings(loaded: checkpoints.Checkpoint) -> Any:
    """Return the settings of a run on a table from its checkpoint; raise ValueError if there are none."""
    task = loaded.training.get("task")
    if task not in TASKS:
        raise ValueError("the checkpoint does not belong to a run of `rnnx forecast` or `rnnx classify`")
    return TASKS[task].of(loaded)
