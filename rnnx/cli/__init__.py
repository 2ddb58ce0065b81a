"""The command line: all printing, all exit codes. What is computed stands in the modules below it."""

from rnnx.cli.commands import compare, evaluate, info, plot, sample
from rnnx.cli.group import cli
from rnnx.cli.train_command import train

for command in (train, sample, evaluate, plot, compare, info):
    cli.add_command(command)

__all__ = ["cli"]
