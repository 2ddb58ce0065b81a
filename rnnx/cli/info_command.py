"""The command ``rnnx info``."""

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any

import click
import numpy as np

import rnnx
from rnnx._core.devices import cuda_lines
from rnnx.cli.group import Command, errors_as_messages, printable
from rnnx.engines import engines_of
from rnnx.training import checkpoint as checkpoints

_LIBRARIES = ("numpy", "cupy", "torch", "jax")
_OTHERS = ("numba", "llvmlite", "array-api-compat", "safetensors", "matplotlib", "tensorflow")
_NOT_INSTALLED = "not installed"


@click.command(cls=Command)
@click.argument("run", type=click.Path(), required=False)
def info(run: str | None) -> None:
    """Show information about this machine or a run.

    Without RUN: array libraries and their engines, devices, versions. With RUN: the model, its text, its progress and
    its settings.
    """
    with errors_as_messages():
        lines = _machine() if run is None else _about(run)
    for name, value in lines:
        text = f"{value:.6g}" if isinstance(value, float) else str(value)
        click.echo(printable(f"{name:<18} {text}"))


def _machine() -> list[tuple[str, Any]]:
    from rnnx.engines.cpu.runtime.object_files import cache_directory
    from rnnx.engines.cpu.runtime.thread_policy import max_threads

    packages = packages_distributions()  # reads what every installed package says about itself
    return [
        ("rnnx", rnnx.__version__),
        ("python", platform.python_version()),
        ("system", platform.platform()),
        *((library, _library(library, packages.get(library, ()))) for library in _LIBRARIES),
        ("engines", ", ".join(rnnx.engine_names())),
        ("engine for NumPy", rnnx.engine_for(np.empty(0))),
        ("cpu", f"{max_threads()} threads"),
        *cuda_lines(),
        ("object cache", cache_directory() or "none"),
        *((package, _version(package)) for package in _OTHERS),
    ]


def _library(library: str, packages: Iterable[str]) -> str:
    """Return the version and engines of an array library; the packages of CuPy have other names."""
    names = dict.fromkeys(packages)
    if not names:
        return _NOT_INSTALLED
    versions = ", ".join(version(p) if p == library else f"{version(p)} ({p})" for p in names)
    return f"{versions}; engines: {', '.join(engines_of(library))}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return _NOT_INSTALLED


def _about(run: str) -> list[tuple[str, Any]]:
    loaded = checkpoints.load_run(run, np)
    lines: list[tuple[str, Any]] = [("model", loaded.model.summary().replace("\n", "\n" + " " * 19))]
    for name in checkpoints.TOKENIZERS:
        tokenizer = getattr(loaded, name)
        if tokenizer is not None:
            lines.append((name.replace("tokenizer", "characters"), repr("".join(tokenizer.get_vocab()))))
    training = dict(loaded.training)
    counters, settings = (training.pop(name, None) for name in ("counters", "settings"))
    settings = settings if isinstance(settings, dict) else {"settings": settings}
    if {"text", "dataset", "split"} <= settings.keys():
        # The text decides what `by` and `split` mean, so this says what was done, not what was asked for.
        text, dataset, _ = (settings.pop(name) for name in ("text", "dataset", "split"))
        lines.append(("trained on", f"{text or dataset} ({training.pop('split', 'unknown split')})"))
        settings["by"] = training.pop("by", None)
    if isinstance(counters, dict):
        lines.append(("progress", f"step {counters.get('step')}, epoch {counters.get('epoch')}"))
        last, best = (_loss(counters.get(name)) for name in ("validation_loss", "best_loss"))
        unit = " nats per character" if loaded.model.kind == "characters" else ""
        lines.append(("validation loss", f"{last} (best {best}){unit}"))
    return lines + [(name, value) for name, value in sorted((settings | training).items()) if value is not None]


def _loss(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "none"
