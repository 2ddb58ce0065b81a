"""Random changes to the files that the library reads: every one must be read right, or be a clear error.

``python tests/fuzz_files.py 10000 [SEED]`` tries that many files and prints the faults; tests/test_fuzz.py tries a few.

The files are a checkpoint of a run, its metrics, and a tokenizer. A change cuts, repeats or overwrites bytes, or
replaces a value in the JSON inside. Half of the changed checkpoints get the right checksum for their new content, as an
attacker would do. A *clear error* is a ValueError or OSError of one short line.
"""

import collections
import json
import struct
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fuzz import limited, main
from safetensors.numpy import load, save

from rnnx.data import CharTokenizer
from rnnx.training import MetricsWriter, Run, Settings, load_checkpoint, read_metrics
from rnnx.training import checkpoint as checkpoints

BYTES = 1 << 28  # more memory than any of these files needs
VALUES = [None, True, -1, 0, 1.5, 1e308, float("inf"), float("nan"), 10**9, 10**30, "", "x", "/dev/zero", [], [1], {}]
VALUES += [[[]], {"a": 1}, "lstm", [10**9], [True], "\x1b[31m", "é\udc80"]


def make_files(folder: Path) -> dict[str, bytes]:
    """Train a little and return the content of the files by name."""
    names = "\n".join(f"name{i}{'abc'[i % 3]}" for i in range(60))
    (folder / "names.txt").write_text(names, encoding="utf-8")
    settings = Settings(text=str(folder / "names.txt"), hidden_size=(4,), epochs=2, batch_size=8, evaluate_every=3)
    run = Run.start(folder / "run", settings)
    for _ in run.train():
        pass
    run.corpus.tokenizer.save(folder / "tokenizer.json")
    files = [folder / "run" / "model.safetensors", folder / "run" / "metrics.jsonl", folder / "tokenizer.json"]
    return {path.name: path.read_bytes() for path in files}


def change_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut, repeat or overwrite a few bytes."""
    at, n = int(rng.integers(len(data) + 1)), int(rng.integers(1, 40))
    noise = rng.integers(0, 256, n, np.uint8).tobytes()
    kinds = [data[:at], data[:at] + data[at + n :], data[:at] + noise + data[at:], data[:at] + noise + data[at + n :]]
    kinds += [data[:at] + data[max(0, at - n) : at] * 3 + data[at:], data[at:], b"", data + noise]
    return kinds[int(rng.integers(len(kinds)))]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def change_json(value: Any, rng: np.random.Generator) -> Any:
    """Replace or remove a value at a random place."""
    found = places(value)[1:]
    if not found:
        return VALUES[int(rng.integers(len(VALUES)))]
    *path, last = found[int(rng.integers(len(found)))]
    parent = value
    for key in path:
        parent = parent[key]
    if rng.random() < 0.2:
        del parent[last]
    else:
        parent[last] = VALUES[int(rng.integers(len(VALUES)))]
    return value


def changed_checkpoint(data: bytes, rng: np.random.Generator) -> bytes:
    """Change the description in the header, half of the time with the right checksum."""
    (size,) = struct.unpack("<Q", data[:8])
    description = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["rnnx"])
    for _ in range(int(rng.integers(1, 3))):
        description = change_json(description, rng)
    tensors = load(data)
    if isinstance(description, dict) and rng.random() < 0.5:
        description.pop("digest", None)
        description["digest"] = checkpoints._digest(description, tensors)
    return save(tensors, {"rnnx": json.dumps(description)})


def changed_lines(data: bytes, rng: np.random.Generator) -> bytes:
    """Change one of several JSON lines."""
    lines = data.decode().splitlines()
    at = int(rng.integers(len(lines)))
    lines[at] = json.dumps(change_json(json.loads(lines[at]), rng))
    return "\n".join(lines).encode() + b"\n"


def read_checkpoint(path: Path) -> None:
    """Load a checkpoint, use the model, and read and resume its run."""
    loaded = load_checkpoint(path)
    assert loaded.model.predict is not None if hasattr(loaded.model, "predict") else True
    loaded.model.forward(np.zeros((1, 2), np.int64))
    Settings.of(loaded)
    Run.resume(path)


def read_lines(path: Path) -> None:
    """Resume a run with these metrics, which must be possible, and read them."""
    data = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            MetricsWriter(path.parent, after_step=9, evaluated=9).close()
        except ValueError as error:
            raise AssertionError(f"metrics block the run: {error}") from None
    read_metrics(path)
    path.write_bytes(data)
    read_metrics(path)


CHANGES: dict[str, tuple[Callable[[bytes, np.random.Generator], bytes], Callable[[Path], Any]]] = {
    "model.safetensors": (changed_checkpoint, read_checkpoint),
    "metrics.jsonl": (changed_lines, read_lines),
    "tokenizer.json": (lambda data, rng: json.dumps(change_json(json.loads(data), rng)).encode(), CharTokenizer.load),
}


def fault(path: Path, read: Callable[[Path], Any]) -> str | None:
    """Read a file; return what is wrong with the error, if it is one."""
    tracemalloc.reset_peak()
    try:
        with limited():
            read(path)
    except (ValueError, OSError) as error:
        message = str(error)
        if isinstance(error, UnicodeError) or "\n" in message or "\x1b" in message or len(message) > 500:
            return f"unclear {type(error).__name__}: {message[:150]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    peak = tracemalloc.get_traced_memory()[1]
    return f"{peak >> 20} MiB" if peak > BYTES else None


def faults(n: int, seed: int) -> collections.Counter[str]:
    """Try n changed files; return the faults, counted."""
    rng, found = np.random.default_rng(seed), collections.Counter[str]()
    tracemalloc.start()
    with tempfile.TemporaryDirectory() as name:
        files = make_files(Path(name))
        for _ in range(n):
            kind = str(rng.choice(list(files)))
            change, read = CHANGES[kind]
            data = (change if rng.random() < 0.7 else change_bytes)(files[kind], rng)
            path = Path(name) / "run" / kind if kind != "tokenizer.json" else Path(name) / kind
            path.write_bytes(data)
            problem = fault(path, read)
            if problem is not None:
                found[f"{kind}: {problem}"] += 1
            path.write_bytes(files[kind])
    tracemalloc.stop()
    return found


if __name__ == "__main__":
    main(faults, "files")
