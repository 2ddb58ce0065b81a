"""Training steps of a character model by `rnnx train` and by torch, for `gpu.py`. One function per child process."""

import itertools
import tempfile
import time
from pathlib import Path

import numpy as np

CHARACTERS, LENGTH, BATCH = 1_000_000, 64, 64
SECONDS = 1.5


def training(options, side, hidden_size):
    """Time whole steps of a character model's `Trainer`, as one row.

    `side` is a device; "cuda, steps" is one without graphs of whole steps, and "cuda, bfloat16" one in 16 bits.
    """
    device, _, how = side.partition(", ")
    from gpu_device import ROOT  # noqa: F401 - makes rnnx importable

    from rnnx.training import Run, Settings

    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text(_text(), encoding="utf-8")
        settings = Settings(
            text=str(text), by="windows", hidden_size=(hidden_size,), seq_length=LENGTH, batch_size=BATCH, epochs=10**6,
            precision=how if how == "bfloat16" else None,
        )  # fmt: skip
        run = Run.start(Path(folder) / "run", settings, device)
        # One iterator for all steps: another one would copy the text again, and capture the steps anew.
        run_steps = {"iterations": 10**9, "batch_size": BATCH, "evaluate_every": 10**9}
        items = run.trainer.run(run.corpus.train, **run_steps)
        _seconds(items, 5)  # compiles and captures
        yield _row(options, side, hidden_size, lambda steps: _seconds(items, steps))


def torch_training(options, side, hidden_size):
    """Time the same steps of torch in IEEE float32: "torch", call by call, or "torch graph", in one CUDA graph.

    Each gathers its windows on the device, clips the norm and takes a fused step of Adam.
    """
    import torch

    torch.backends.cudnn.rnn.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "ieee"
    step, stream = _torch_step(torch, hidden_size), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(5):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    if side == "torch graph":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        step = graph.replay

    def seconds(steps):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    yield _row(options, side, hidden_size, seconds)


def _torch_step(torch, hidden_size):
    from torch.nn import functional

    n = 28
    lstm, head = torch.nn.LSTM(n, hidden_size).cuda(), torch.nn.Linear(hidden_size, n).cuda()
    parameters = [*lstm.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.003, capturable=True, fused=True)
    text = torch.randint(0, n, (CHARACTERS,), device="cuda")
    starts = torch.randint(0, CHARACTERS - LENGTH - 1, (BATCH,), device="cuda")
    steps = torch.arange(LENGTH + 1, device="cuda")[:, None]

    def step():
        window = text[starts[None, :] + steps]
        z = head(lstm(functional.one_hot(window[:-1], n).float())[0])
        loss = functional.cross_entropy(z.reshape(-1, n), window[1:].reshape(-1))
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0, foreach=True)
        optimizer.step()

    return step


def _row(options, side, hidden_size, seconds):
    """Return a row for a function that returns the seconds of a number of steps."""
    steps = 20
    seconds(steps)
    steps = max(5, min(400, int((1.0 if options["quick"] else SECONDS) / seconds(steps) * steps)))
    took = min(seconds(steps) for _ in range(3))
    row = {"kind": "tokens", "side": side, "hidden_size": hidden_size, "steps": steps}
    return {**row, "ms": 1e3 * took / steps, "per_second": BATCH * LENGTH * steps / took}


def _text():
    """Return random words over 28 characters."""
    rng = np.random.default_rng(0)
    letters = rng.integers(ord("a"), ord("z") + 1, CHARACTERS).astype(np.uint8)
    letters[rng.random(CHARACTERS) < 0.18] = ord(" ")
    letters[99::100] = ord("\n")
    return letters.tobytes().decode()


def _seconds(items, n):
    """Return the seconds for n steps. Only the last loss is read, which synchronizes."""
    start = time.perf_counter()
    *_, last = itertools.islice(items, n)
    assert np.isfinite(float(last.loss))
    return time.perf_counter() - start


CHILDREN = {"training": training, "torch_training": torch_training}
