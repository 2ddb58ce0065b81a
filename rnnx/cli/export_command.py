"""The command ``rnnx export``."""

import json
from pathlib import Path
from typing import Any

import click
from click import option

from rnnx._core.files import check_writable, write_atomically
from rnnx.cli.group import Command, errors_as_messages, load_characters, run_argument
from rnnx.convert.onnx import to_onnx
from rnnx.data import CharTokenizer
from rnnx.export import build, to_c
from rnnx.export.library import TARGETS, compiler
from rnnx.models import CharModel


@click.command(cls=Command)
@run_argument
@click.argument("output", type=click.Path(dir_okay=False))
@option("--lengths", is_flag=True, help="ONNX: make the numbers of steps of the texts an input.")
@option("--int8", is_flag=True, help="C: store the weights of the layers in 8 bits.")
@option("--shared", is_flag=True, help="C: compile a shared library, too.")
@option("--target", help=f"C: what to compile for: {', '.join(TARGETS)}, or a target of zig. Default: this machine.")
def export(run: str, output: str, lengths: bool, int8: bool, shared: bool, target: str | None) -> None:
    """Export a trained model as an ONNX file or as C.

    RUN is a run folder or a checkpoint file. OUTPUT is the file to write, which ends in .onnx or .c; beside a C file,
    its header is written. Both also contain the characters: in the metadata "vocabulary", a JSON list, or an array of
    that name.

    \b
    Examples:
      rnnx export runs/dinos-lstm dinos.onnx
      rnnx export runs/dinos-lstm dinos.c --shared
    """  # noqa: D301
    with errors_as_messages():
        kind = Path(output).suffix
        if kind not in (".onnx", ".c"):
            raise ValueError(f"OUTPUT must end in .onnx or .c; got {output}")
        for_c = {"--int8": int8, "--shared": shared, "--target": target is not None}
        for name in [name for name, given in ({"--lengths": lengths} if kind == ".c" else for_c).items() if given]:
            raise ValueError(f"{name} is not for {kind} files")
        if target is not None and not shared:
            raise ValueError("--target needs --shared")
        loaded, tokenizer = load_characters(run)
        check_writable(output)
        if kind == ".onnx":
            _export_onnx(loaded.model, tokenizer, output, lengths)
        else:
            _export_c(loaded.model, tokenizer, output, int8, shared, target)


def _export_onnx(model: Any, tokenizer: CharTokenizer, output: str, lengths: bool) -> None:
    proto = to_onnx(model, lengths=lengths)
    entry = proto.metadata_props.add()
    entry.key, entry.value = "vocabulary", json.dumps(tokenizer.get_vocab())
    write_atomically(output, proto.SerializeToString())
    _report(Path(output))


def _export_c(
    model: CharModel, tokenizer: CharTokenizer, output: str, int8: bool, shared: bool, target: str | None
) -> None:
    if shared:
        compiler(target)  # raises before anything is written
    written = list(to_c(model, output, weights="int8" if int8 else None, vocabulary=tokenizer.get_vocab()))
    if shared:
        written.append(build(written[0], target=target))
    for path in written:
        _report(path)


def _report(path: Path) -> None:
    click.echo(f"{path}: {path.stat().st_size} bytes")
