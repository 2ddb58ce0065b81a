"""The package as a whole: what it exports, what it imports, where it may ask about libraries."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import rnnx

SOURCE = Path(rnnx.__file__).parent
PUBLIC = [
    "CELLS",
    "SGD",
    "Adam",
    "AdamW",
    "Caches",
    "Cell",
    "CosineDecay",
    "ExponentialDecay",
    "Gate",
    "InverseTimeDecay",
    "LinearWarmup",
    "Momentum",
    "RMSProp",
    "Stage",
    "StepDecay",
    "Stream",
    "additive_attention_backward",
    "additive_attention_forward",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_value",
    "dense_backward",
    "dense_forward",
    "dot_product_attention_backward",
    "dot_product_attention_forward",
    "engine_for",
    "engine_names",
    "gru_backward",
    "gru_cell_backward",
    "gru_cell_forward",
    "gru_forward",
    "initialize_adam",
    "initialize_parameters",
    "initialize_velocity",
    "lstm_backward",
    "lstm_cell_backward",
    "lstm_cell_forward",
    "lstm_forward",
    "one_hot",
    "recurrent_backward",
    "recurrent_forward",
    "relu",
    "relu_backward",
    "rnn_backward",
    "rnn_cell_backward",
    "rnn_cell_forward",
    "rnn_forward",
    "sigmoid",
    "sigmoid_backward",
    "softmax",
    "softmax_backward",
    "softmax_cross_entropy",
    "squared_error",
    "tanh",
    "tanh_backward",
    "update_parameters_with_adam",
    "update_parameters_with_adamw",
    "update_parameters_with_momentum",
    "update_parameters_with_rmsprop",
    "update_parameters_with_sgd",
    "use_engine",
    "use_precision",
    "warm_up",
]


def python(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_public_names():
    assert rnnx.__all__ == PUBLIC
    assert all(getattr(rnnx, name).__doc__ for name in PUBLIC if callable(getattr(rnnx, name)))


def test_import_pulls_in_nothing_optional():
    optional = ("numba", "llvmlite", "cupy", "jax", "torch", "scipy", "click", "tqdm", "safetensors", "matplotlib")
    assert python(f"import sys, rnnx; print([m for m in {optional} if m in sys.modules])") == "[]"


def test_plain_never_imports_numba():
    code = """
import sys, numpy as np, rnnx
p = rnnx.initialize_parameters("lstm", 2, 3, seed=0)
with rnnx.use_engine("plain"):
    _, _, _, caches = rnnx.lstm_forward(np.ones((2, 1, 4)), None, p)
    rnnx.lstm_backward(np.ones((3, 1, 4)), caches)
rnnx.rnn_cell_forward(np.ones((2, 1)), np.ones((3, 1)), rnnx.initialize_parameters("rnn", 2, 3))
print("numba" in sys.modules)
"""
    assert python(code) == "False"


def files_matching(pattern):
    return {
        str(path.relative_to(SOURCE)).replace("\\\\", "/")
        for path in SOURCE.rglob("*.py")
        if re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    }


def test_each_question_has_one_room():
    assert files_matching(r"^\s*(import|from) (numba|llvmlite)\b") == {
        "engines/_intrinsics.py",
        "engines/_ir.py",
        "engines/_jit_packing.py",
        "engines/_kernels.py",
        "engines/_moves.py",
        "engines/_native.py",
        "engines/_team_loops.py",
        "engines/_tile.py",
    }
    assert files_matching(r"^\s*(import|from) array_api_compat\b") == {"_namespace.py"}
    # What a GPU is asked about, and what answers the GPU engine.
    assert files_matching(r"^\s*(import|from) cupy\b") == {"_devices.py", "engines/_cupy.py"}
    assert files_matching(r"^\s*(import|from) (torch|jax|tensorflow|keras)\b") == {
        "compare/_keras_side.py",
        "compare/_torch_side.py",
    }
    assert files_matching(r"\bis_(numpy|cupy|torch|jax)_|hasattr\([a-z]+, .get.\)") == {"_namespace.py"}
    # The table of engines goes by the library's name; nothing else does.
    assert files_matching(r"\blibrary_name\b") == {"_namespace.py", "engines/__init__.py"}


# From the bottom to the top: a room imports only from rooms before it.
ROOMS = [
    *("_ops", "_namespace", "_devices", "_files", "cells", "_layout", "_check", "_caches", "engines", "_sequence"),
    *("activations", "heads", "functional", "initialization", "streaming", "optim", "_attention", "attention"),
    *("text", "text_files", "datasets", "pairs", "corpus", "_device_data", "sampling", "models"),
    *("_flat", "_progress", "training"),
    *("metrics", "ngram", "inspection", "plots", "convert", "compare", "checkpoint", "settings", "runs", "cli"),
    "__main__",
]


def test_dependencies_point_one_way():
    files = {path: path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in SOURCE.rglob("*.py")}
    assert set(files.values()) == {*ROOMS, "__init__"}
    for path, room in files.items():
        if room == "__init__":
            continue
        imported = re.findall(r"^\s*(?:from|import) rnnx\.(\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        imported += re.findall(r"^\s*from rnnx import (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        for other in imported:
            assert ROOMS.index(other) <= ROOMS.index(room), f"{path} imports rnnx.{other}"


def test_engines_know_no_cell():
    sources = [path for path in (SOURCE / "engines").rglob("*") if path.suffix in (".py", ".cu", ".cuh")]
    assert {path.suffix for path in sources} == {".py", ".cu", ".cuh"}
    for path in sources:
        text = path.read_text(encoding="utf-8")
        code = re.sub(r'""".*?"""|#[^\n]*|//[^\n]*', "", text, flags=re.DOTALL)
        assert not re.search(r"\b(lstm|gru|rnn)\b", code, re.IGNORECASE), path


def test_version():
    from importlib.metadata import version

    assert version("rnnx") == rnnx.__version__


@pytest.mark.parametrize("name", ["py.typed"])
def test_typed(name):
    assert (SOURCE / name).exists()
