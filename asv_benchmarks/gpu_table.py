"""The rows of `gpu.py` as text."""

from shared import flops

SIDES = ("rnnx", "C order", "steps", "persistent", "eager", "reference", "torch", "torch graph")
GOALS = {128: 0.6, 512: 0.9}  # of torch's time for a whole training step, by hidden size
LEGEND = """\
milliseconds of a forward pass and of a step (forward, backward, all gradients), with the spread of the middle 80 % of
the calls in percent; steps and persistent: with RNNX_CUDA_PERSISTENT=0 and 1; eager: without CUDA graphs; reference:
the loop of CuPy's own functions; torch graph: each pass in a CUDA graph; of product: share of the rate of one large
product; host: microseconds that a call occupies the host, rnnx and torch; torch does not flatten bfloat16 weights into
one buffer, so cuDNN copies them in every call"""


def table(rows):
    """Format all tables as text. The first line describes the machine."""
    of = {kind: [row for row in rows if row["kind"] == kind] for kind in ("machine", "torch", "check")}
    lines = ["; ".join(row["text"] for row in of["machine"] + of["torch"])]
    lines += ["", "checks; errors are relative, in norm; the largest of all outputs and gradients"]
    lines += [f"{row['status']:7} {row['name']}: {row['detail']}" for row in of["check"]]
    return "\n".join([*lines, *_times(rows), *_costs(rows), *_tokens(rows)])


def _times(rows):
    times = [row for row in rows if row["kind"] == "time"]
    if not times:
        return []
    rates = {row["precision"]: row for row in rows if row["kind"] == "rate"}
    products = ", ".join(f"{name} {row['tflops']:.0f}" for name, row in rates.items())
    columns = ["cell precision (n_x, n_a, m, T) job", *SIDES, "torch/rnnx", "torch graph/rnnx", "reference/rnnx"]
    columns += ["of product", "host"]
    lines = ["", LEGEND, f"rate of a large product, TFLOP/s: {products or 'not measured'}", " | ".join(columns)]
    keys = dict.fromkeys((row["cell"], row["precision"], tuple(row["size"]), row["job"]) for row in times)
    return lines + [_time(key, _sides(times, key), rates.get(key[1])) for key in keys]


def _sides(times, key):
    return {row["side"]: row for row in times if (row["cell"], row["precision"], tuple(row["size"]), row["job"]) == key}


def _time(key, found, rate):
    cell, precision, size, job = key
    ours, torch, graph, reference = (found.get(side) for side in ("rnnx", "torch", "torch graph", "reference"))
    cells = [f"{cell} {precision} {','.join(map(str, size))} {job}"]
    for side in SIDES:
        row = found.get(side)
        cells.append(f"{row['ms']:.3g} {row['spread']:.0%}" if row else "")
    cells += [f"{other['ms'] / ours['ms']:.2f}" if ours and other else "" for other in (torch, graph, reference)]
    cells.append(f"{flops(job, cell, size) / ours['ms'] / 1e9 / rate['tflops']:.0%}" if ours and rate else "")
    cells.append(" / ".join(f"{row['host_us']:.0f}" for row in (ours, torch) if row))
    return " | ".join(cells)


def _costs(rows):
    costs = [row for row in rows if row["kind"] == "cost"]
    return ["", "microseconds", *(f"{row['us']:8.2f} {row['name']}" for row in costs)] if costs else []


def _tokens(rows):
    tokens = [row for row in rows if row["kind"] == "tokens"]
    if not tokens:
        return []
    lines = ["", "training as `rnnx train` does it: LSTM, float32, 64 windows of 64 characters a step"]
    for row in tokens:
        rest = f"{row['ms']:.3g} ms a step, {row['per_second']:,.0f} characters a second ({row['steps']} steps)"
        lines.append(f"{row['side']}, hidden size {row['hidden_size']}: {rest}")
    return lines + [line for hidden_size, goal in GOALS.items() for line in _against_torch(tokens, hidden_size, goal)]


def _against_torch(tokens, hidden_size, goal):
    """Compare whole steps in one graph each."""
    ms = {row["side"]: row["ms"] for row in tokens if row["hidden_size"] == hidden_size}
    if not {"cuda", "torch graph"} <= ms.keys():
        return []
    ratio = ms["cuda"] / ms["torch graph"]
    return [f"hidden size {hidden_size}: {ratio:.2f} of torch's time in one graph (goal: at most {goal})"]
