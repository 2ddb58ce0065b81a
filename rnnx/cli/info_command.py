"""The command ``rnnx info``."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click
import numpy as np

import rnnx
from rnnx._core.devices import cuda_lines
from rnnx.cli.group import errors_as_messages, load_characters
from rnnx.engines import engines_of
from rnnx.training import Settings

# Array libraries, and the packages that provide them.
_LIBRARIES = {
    "numpy": ("numpy",),
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x", "cupy"),
    "torch": ("torch",),
    "jax": ("jax",),
}
_OTHERS = ("numba", "llvmlite", "array-api-compat", "safetensors", "matplotlib", "tensorflow")
_NOT_INSTALLED = "not installed"


@click.command()
@click.argument("run", type=click.Path(), required=False)
def info(run: str | None) -> None:
    """Describe this machine or a run.

    Without RUN: array libraries and their engines, devices, versions. With RUN: the model, its text, its progress and
    its settings.
    """
    with errors_as_messages():
        lines = _machine() if run is None else _about(run)
    for name, value in lines:
        click.echo(f"{name:<18} {value}")


def _machine() -> list[tuple[str, Any]]:
    from rnnx.engines.cpu.runtime.object_cache import cache_directory
    from rnnx.engines.cpu.runtime.thread_policy import max_threads

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
        *((package, _version(package) or _NOT_INSTALLED) for package in _OTHERS),
    ]


def _library(library: str) -> str:
    """Return the version and engines of an array library."""
    found = [(package, found) for package in _LIBRARIES[library] if (found := _version(package))]
    if not found:
        return _NOT_INSTALLED
    versions = ", ".join(found if package == library else f"{found} ({package})" for package, found in found)
    return f"{versions}; engines: {', '.join(engines_of(library))}"


def _version(package: str) -> str:
    """Return the version of a package, or "" if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _about(run: str) -> list[tuple[str, Any]]:
    loaded, tokenizer = load_characters(run)
    settings, counters = Settings.of(loaded), loaded.training["counters"]
    return [
        ("model", loaded.model.summary().replace("\n", "\n" + " " * 19)),
        ("characters", repr("".join(tokenizer.get_vocab()))),
        ("trained on", f"{settings.text or settings.dataset} ({loaded.training['split']})"),
        ("progress", f"step {counters['step']}, epoch {counters['epoch']}"),
        ("validation loss", f"{counters['validation_loss']} (best {counters['best_loss']}) nats per character"),
        *((name, value) for name, value in sorted(loaded.training["settings"].items()) if value is not None),
    ]
