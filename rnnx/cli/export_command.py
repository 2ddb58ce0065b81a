"""The command ``rnnx export``."""

import json
from pathlib import Path
from typing import Any

import click
from click import option

from rnnx._core.files import check_writable, write_atomically
from rnnx.cli.group import Command, errors_as_messages, printable, run_argument
from rnnx.convert.onnx import to_onnx
from rnnx.export import build, to_c
from rnnx.export.library import TARGETS, compiler
from rnnx.training import Checkpoint
from rnnx.training.table_runs import load_exported
from rnnx.training.tables import TASKS, table_settings


@click.command(cls=Command)
@run_argument
@click.argument("output", type=click.Path(dir_okay=False))
@option("--lengths", is_flag=True, help="ONNX: make the numbers of steps of the sequences an input.")
@option("--int8", is_flag=True, help="C: store the weights of the layers in 8 bits.")
@option("--shared", is_flag=True, help="C: compile a shared library, too.")
@option("--target", help=f"C: what to compile for: {', '.join(TARGETS)}, or a target of zig. Default: this machine.")
def export(run: str, output: str, lengths: bool, int8: bool, shared: bool, target: str | None) -> None:
    """Export a trained model as an ONNX file or as C.

    RUN is a run folder of `rnnx train`, `forecast` or `classify`, or a checkpoint file. OUTPUT is the file to write,
    which ends in .onnx or .c; beside a C file, its header is written. Both also contain the characters or the names of
    the classes: in the metadata "vocabulary", a JSON list, or an array of that name. Of tables, the command prints
    which columns a step consists of, which are in the metadata, too.

    \b
    Examples:
      rnnx export runs/dinos-lstm dinos.onnx
      rnnx export runs/dinos-lstm dinos.c --shared
      rnnx export runs/load-forecast load.onnx
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
        loaded = load_exported(run)
        check_writable(output)
        facts = _facts(loaded)
        if kind == ".onnx":
            _export_onnx(loaded.model, facts, output, lengths)
        else:
            _export_c(loaded.model, facts, output, int8, shared, target)
        for name, value in facts.items():
            if "vocabulary" not in name:
                text = ", ".join(value) if isinstance(value, list | tuple) else str(value)
                click.echo(printable(f"{name}: {text}"))


def _facts(loaded: Checkpoint) -> dict[str, Any]:
    """Return what a program that runs the model must know."""
    model, facts = loaded.model, {}
    if loaded.training.get("task") in TASKS:
        facts = {key: value for key, value in table_settings(loaded).of_program().items() if value}
    of = {"vocabulary": loaded.tokenizer, "target_vocabulary": loaded.target_tokenizer}
    facts |= {name: tokenizer.get_vocab() for name, tokenizer in of.items() if tokenizer is not None}
    if getattr(model, "classes", None) is not None:
        facts["vocabulary"] = [str(name) for name in model.classes]
    return facts


def _export_onnx(model: Any, facts: dict[str, Any], output: str, lengths: bool) -> None:
    proto = to_onnx(model, lengths=lengths)
    for key, value in facts.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    write_atomically(output, proto.SerializeToString())
    _report(Path(output))


def _export_c(model: Any, facts: dict[str, Any], output: str, int8: bool, shared: bool, target: str | None) -> None:
    if shared:
        compiler(target)  # raises before anything is written
    words = {name: value for name, value in facts.items() if "vocabulary" in name}
    written = list(to_c(model, output, weights="int8" if int8 else None, **words))
    if shared:
        written.append(build(written[0], target=target))
    for path in written:
        _report(path)


def _report(path: Path) -> None:
    click.echo(f"{path}: {path.stat().st_size} bytes")
