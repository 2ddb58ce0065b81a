"""What `peers.py` measures: problems as (n_x, n_a, m, T_x), tables, and the ratios that rnnx aims at."""

from typing import NamedTuple

STREAM = [(64, 128, 1, 64)]
LARGE = [(128, 256, 64, 100), (256, 512, 32, 60), (512, 1024, 64, 25)]
REQUIRED = [*STREAM, (27, 64, 32, 25), (40, 100, 50, 30), (64, 128, 32, 50), (37, 211, 53, 41), *LARGE]
# Sizes that fill no whole vectors, one example, a short sequence, many examples, and wide layers with few examples.
FURTHER = [(37, 100, 20, 40), (50, 50, 1, 200), (100, 200, 16, 35), (13, 33, 7, 90), (77, 300, 48, 21)]
FURTHER += [(300, 150, 128, 12), (20, 20, 1, 100), (16, 64, 256, 20), (256, 256, 8, 50), (80, 384, 24, 40)]
FURTHER += [(200, 512, 1, 50), (600, 320, 64, 20)]
SIZES = REQUIRED + FURTHER
# For onnxruntime, which is built for small batches.
ONNX = [(n_x, n_a, m, n_steps) for n_x, n_a, _, n_steps in [(20, 20, 1, 100), *REQUIRED] for m in (1, 8, 32)]

OF_FLOOR = 0.92
_LEAST_UNITS, _LEAST_EXAMPLES = 256, 8
BY_ARITHMETIC = f"n_a >= {_LEAST_UNITS}, m >= {_LEAST_EXAMPLES}"


class Table(NamedTuple):
    """A side of rnnx, `own`, against peers. `targets`: the least geometric mean and least single ratio to torch."""

    job: str
    cell: str
    dtype: str
    peers: tuple[str, ...]
    sizes: list[tuple[int, int, int, int]]
    targets: tuple[float, float] | None = None
    own: str = "rnnx"


PLAN = [
    Table("step", "lstm", "float32", ("torch", "keras", "jax", "course", "rnnx_f"), SIZES, (1.35, 1.1)),
    Table("inference", "lstm", "float32", ("torch", "keras", "jax", "rnnx_f"), SIZES, (1.15, 1.0)),
    Table("step", "lstm", "float64", ("torch",), SIZES, (4.0, 2.5)),
    Table("step", "gru_reset_after", "float32", ("torch", "keras", "jax"), SIZES, (3.0, 1.4)),
    Table("inference", "gru_reset_after", "float32", ("torch", "keras", "jax"), SIZES, (2.0, 1.2)),
    Table("step", "rnn", "float32", ("torch", "keras", "jax"), SIZES, (2.5, 1.2)),
    Table("inference", "rnn", "float32", ("torch", "keras", "jax"), SIZES, (1.5, 1.0)),
    Table("step", "gru", "float32", ("jax",), SIZES),
    Table("inference", "gru", "float32", ("jax",), SIZES),
    *(
        Table("inference", cell, "float32", ("onnxruntime",), ONNX, own="rnnx_fixed")
        for cell in ("lstm", "gru", "gru_reset_after", "rnn")
    ),
    Table("stream", "lstm", "float32", ("torch", "jax", "course"), STREAM),
    Table("memory", "lstm", "float32", ("torch",), [(128, 256, 64, 100), (512, 1024, 64, 25)]),
]
_ONNX, _ONE_THREAD = (1.2, 1.0), (1.1, 1.0)


def by_arithmetic(size):
    """Return whether the rate of products limits the time: with fewer examples, that of reading the weights does."""
    _, n_a, m, _ = size
    return n_a >= _LEAST_UNITS and m >= _LEAST_EXAMPLES


def targets(table, peer, one_thread):
    """Return the least geometric mean and the least single ratio that rnnx aims at, or None twice."""
    if peer == "onnxruntime":
        return _ONNX
    given = table.targets if peer == "torch" else None
    return (_ONE_THREAD if one_thread else given) if given else (None, None)
