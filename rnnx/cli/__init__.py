"""The command line: printing and exit codes. The computations are in the packages that it calls."""

from rnnx.cli.commands import compare, evaluate, plot, sample
from rnnx.cli.export_command import export
from rnnx.cli.group import cli
from rnnx.cli.info_command import info
from rnnx.cli.table_commands import classify, forecast, predict
from rnnx.cli.train_command import train
from rnnx.cli.tune_command import tune

for command in (train, tune, sample, evaluate, plot, forecast, classify, predict, export, compare, info):
    cli.add_command(command)

__all__ = ["cli"]
