"""The command ``rnnx info``."""

import platform
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from typing import Any

import click
import numpy as np

import rnnx
from rnnx._core.devices import cuda_lines
from rnnx.cli.group import errors_as_messages, load_characters
from rnnx.engines import engines_of
from rnnx.training import Settings
from rnnx.training.counters import Counters

_LIBRARIES = ("numpy", "cupy", "torch", "jax")
_OTHERS = ("numba", "llvmlite", "array-api-compat", "safetensors", "matplotlib", "tensorflow")
_NOT_INSTALLED = "not installed"


@click.command()
@click.argument("run", type=click.Path(), required=False)
def info(run: str | None) -> None:
    """Show information about this machine or a run.

    Without RUN: array libraries and their engines, devices, versions. With RUN: the model, its text, its progress and
    its settings.
    """
    with errors_as_messages():
        lines = _machine() if run is None else _about(run)
    for name, value in lines:
        click.echo(f"{name:<18} {value}")


def _machine() -> list[tuple[str, Any]]:
    from rnnx.engines.cpu.runtime.object_cache import cache_directory
    from rnnx.engines.cpu.runtime.thread_pool import max_threads

    return [
        ("rnnx", rnnx.__version__),
        ("python", platform.python_version()),
        ("system", platform.platform()),
        *((library, _library(library)) for library in _LIBRARIES),
        ("engines", ", ".join(rnnx.engine_names())),
        ("engine for NumPy", rnnx.engine_for(np.empty(0))),
        ("cpu", f"{max_threads()} threads"),
        *cuda_lines(),
        ("object cache", cache_directory() or "none"),
        *((package, _version(package)) for package in _OTHERS),
    ]


def _library(library: str) -> str:
    """Return the version and engines of an array library; the package of CuPy has another name."""
    packages = dict.fromkeys(packages_distributions().get(library, ()))
    if not packages:
        return _NOT_INSTALLED
    versions = ", ".join(version(p) if p == library else f"{version(p)} ({p})" for p in packages)
    return f"{versions}; engines: {', '.join(engines_of(library))}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return _NOT_INSTALLED


def _about(run: str) -> list[tuple[str, Any]]:
    loaded, tokenizer = load_characters(run)
    settings, counters = Settings.of(loaded), Counters.of(loaded.training.get("counters"))
    return [
        ("model", loaded.model.summary().replace("\n", "\n" + " " * 19)),
        ("characters", repr("".join(tokenizer.get_vocab()))),
        ("trained on", f"{settings.text or settings.dataset} ({loaded.training['split']})"),
        ("progress", f"step {counters.step}, epoch {counters.epoch}"),
        ("validation loss", f"{counters.validation_loss} (best {counters.best_loss}) nats per character"),
        *((name, value) for name, value in sorted(loaded.training["settings"].items()) if value is not None),
    ]
