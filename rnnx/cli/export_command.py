"""The command ``rnnx export``."""

import json
from pathlib import Path

import click
from click import option

from rnnx._core.files import check_writable, write_atomically
from rnnx.cli.group import Command, errors_as_messages, load_characters, run_argument
from rnnx.convert.onnx import to_onnx


@click.command(cls=Command)
@run_argument
@click.argument("output", type=click.Path(dir_okay=False))
@option("--lengths", is_flag=True, help="Make the numbers of steps of the texts an input.")
def export(run: str, output: str, lengths: bool) -> None:
    """Export a trained model as an ONNX file.

    RUN is a run folder or a checkpoint file, OUTPUT the file to write. The file also contains the characters, in the
    metadata "vocabulary", a JSON list.

    \b
    Example:
      rnnx export runs/dinos-lstm dinos.onnx
    """  # noqa: D301
    with errors_as_messages():
        if Path(output).suffix != ".onnx":
            raise ValueError(f"OUTPUT must end in .onnx; got {output}")
        loaded, tokenizer = load_characters(run)
        check_writable(output)
        proto = to_onnx(loaded.model, lengths=lengths)
        entry = proto.metadata_props.add()
        entry.key, entry.value = "vocabulary", json.dumps(tokenizer.get_vocab())
        write_atomically(output, proto.SerializeToString())
    click.echo(f"{output}: {proto.ByteSize()} bytes")
