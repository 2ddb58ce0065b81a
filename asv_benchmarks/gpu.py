"""All checks and benchmarks for a machine with a GPU, in one command of at most six minutes that ends with a table.

``python asv_benchmarks/gpu.py``                   everything
``python asv_benchmarks/gpu.py --quick``           fewer shapes and steps
``python asv_benchmarks/gpu.py --parts a,b``       a: checks, b: times against torch, c: costs, d: training
``python asv_benchmarks/gpu.py --emulate``         the checks on the CPU, with the emulated engine: needs g++

Every part runs in separate processes with a time limit, so that a failure or a hang affects nothing else. The exit
status is 1 if a check failed and 2 without a GPU. Nothing is downloaded; only the ``--json`` file and the caches of
CuPy and the tests are written.
"""

import argparse
import importlib
import importlib.util
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gpu_runner import HERE, ROOT, Runner, last_line, row
from gpu_table import table

CELLS = ("rnn", "lstm", "gru", "gru_reset_after")
PRECISIONS = ("float64", "float32", "tf32", "float16", "bfloat16")
OPTIONAL = ("numba", "ml_dtypes", "pytest", "hypothesis", "array_api_strict", "torch")
OPTIONAL += ("safetensors", "tqdm", "click", "asv")
PARALLEL = 6  # concurrent processes, where nothing is timed
LIMIT = 350.0  # seconds for everything


def checks(runner):
    """Check every cell and precision against float64, in parallel, and then the cases that must run alone."""
    options = runner.options
    cells, precisions = list(CELLS), [p for p in PRECISIONS if not (options["emulate"] and p == "tf32")]
    if options["emulate"] and options["quick"]:  # each compiles for several seconds
        cells, precisions = ["lstm", "gru"], ["float32", "bfloat16"]
    if importlib.util.find_spec("ml_dtypes") is None:
        runner.rows.append(row("bfloat16", "skipped", "no ml_dtypes"))
        precisions.remove("bfloat16")
    jobs = [("cases", 100, cell, precision) for cell in cells for precision in precisions]
    few = 1 if options["emulate"] and options["quick"] else None
    narrow = [precision for precision in precisions if precision != "float64"]
    jobs += [("persistent", 100, cell, precision) for cell in cells[:few] for precision in narrow[:few]]
    jobs += [("forwards_before_backward", 60), ("threads", 60)] + [("streams", 60)] * (not options["emulate"])
    with ThreadPoolExecutor(min(PARALLEL, os.cpu_count() or 1)) as pool:
        for future in [pool.submit(runner.child, *job, **switches(job), OPENBLAS_NUM_THREADS="2") for job in jobs]:
            runner.rows += future.result()
    if not options["emulate"]:
        runner.add("captured_steps", 90)
        runner.add("memory", 60)
        runner.add("waiting", 45)


def switches(job):
    """Return the environment of a job: step kernels only, persistent kernels wherever they fit, or the default."""
    return {"cases": {"RNNX_CUDA_PERSISTENT": "0"}, "persistent": {"RNNX_CUDA_PERSISTENT": "1"}}.get(job[0], {})


def slow_checks(runner):
    """Run the tests that need a GPU, and NVIDIA's memory and race checkers, in parallel."""
    jobs = [(pytest, "-m gpu", 120, "-m", "gpu", *tests_of_every_library())]
    jobs += [(pytest, "tests/test_cuda.py", 120, "tests/test_cuda.py", "-k", "not compiles")]
    jobs += [(sanitizer, "memcheck", "--report-api-errors", "no"), (sanitizer, "racecheck")]
    with ThreadPoolExecutor(len(jobs)) as pool:
        for future in [pool.submit(job, runner, *rest) for job, *rest in jobs]:
            runner.rows += future.result()


def tests_of_every_library():
    """Return the test files that need a GPU: those with marked tests or on the cupy-gpu and cupy-reference runtimes."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    return [str(file) for file in files if re.search(r"\bruntime\b|mark\.gpu", file.read_text(encoding="utf-8"))]


def pytest(runner, name, limit, *arguments):
    if missing := [name for name in ("pytest", "hypothesis") if importlib.util.find_spec(name) is None]:
        return [row(f"pytest {name}", "skipped", f"no {' and no '.join(missing)}")]
    # Disable installed plugins, and errors for the warnings of other libraries.
    command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider"]
    for kind in ("UserWarning", "DeprecationWarning", "FutureWarning"):
        command += ["-W", f"default::{kind}"]
    command += ["--continue-on-collection-errors", *arguments]
    status, said = runner.run(f"pytest {name}", command, limit, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    words = ("PASSED", "FAILED", "SKIPPED", "ERROR")
    count = {word: len(re.findall(rf"^\S+::.* {word}\b", said, re.M)) for word in words}
    count["ERROR"] += len(re.findall(r"^ERROR \S+\.py(?: |$)", said, re.M))
    detail = ", ".join(f"{n} {word.lower()}" for word, n in count.items())
    detail += "" if status in (0, 1) else f"; {status}"
    wrong = [line[:150] for line in re.findall(r"^(?:FAILED|ERROR) (\S+.*)$", said, re.M)[:6]]
    good = status == 0 and count["PASSED"]
    return [row(f"pytest {name}", "ok" if good else "FAILED", "; ".join([detail, *wrong]))]


def sanitizer(runner, kind, *options):
    """Run a few small passes under compute-sanitizer, if it is installed and supports the device."""
    name, tool = f"compute-sanitizer {kind}", shutil.which("compute-sanitizer")
    tool = tool or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None:
        return [row(name, "skipped", "the program is not on PATH")]
    given = json.dumps(["tiny", runner.options, [], os.devnull])
    command = [tool, "--tool", kind, "--error-exitcode", "99", *options, sys.executable, __file__, "--child", given]
    status, said = runner.run(name, command, 120)
    if isinstance(status, str):
        return [row(name, "skipped", status)]
    if status and ("not supported" in said.lower() or "unsupported" in said.lower()):
        return [row(name, "skipped", "it does not support this device")]
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", said)[-1:] or [last_line(said)]
    lines = re.findall(r"^=+ (?:Invalid|Error|Warning|Race).*$", said, re.M)[:3]
    return [row(name, "ok" if status == 0 else "FAILED", "; ".join(summary + lines))]


def times(runner):
    """Time every side in a separate process."""
    runner.add("rates", 40)
    time_sides(runner, {"rnnx": 70, "torch": 110, "persistent": 60, "steps": 45})


def more_times(runner):
    time_sides(runner, {"C order": 60, "eager": 60, "reference": 45})


def time_sides(runner, sides):
    environments = {"eager": {"RNNX_CUDA_GRAPHS": "0"}}
    environments |= {"persistent": {"RNNX_CUDA_PERSISTENT": "1"}, "steps": {"RNNX_CUDA_PERSISTENT": "0"}}
    for side, limit in sides.items():
        if side == "torch" and not has_torch():
            runner.rows.append(row("times of torch", "skipped", "no torch"))
        else:
            runner.add("times", limit, side, **environments.get(side, {}))


def training(runner):
    train_sides(runner, ("torch graph",), ("cuda", "cuda, bfloat16"))


def more_training(runner):
    train_sides(runner, ("torch",), ("cuda, steps", "cpu"))


def train_sides(runner, of_torch, own):
    for hidden_size in (128,) if runner.options["quick"] else (128, 512):
        for side in of_torch * has_torch():
            runner.add("torch_training", 40, side, hidden_size)
        for side in own:
            environment = {"RNNX_CUDA_STEP_GRAPHS": "0"} if side == "cuda, steps" else {}
            runner.add("training", 40, side, hidden_size, **environment)


def has_torch():
    return importlib.util.find_spec("torch") is not None


def asv(runner):
    """Run the GPU rows of the asv suite for the LSTM."""
    if importlib.util.find_spec("asv") is None or not (ROOT / ".git").exists():
        runner.rows.append(
            row("asv, rows of cupy-gpu", "skipped", "asv is not installed, or this is not a git repository")
        )
        return
    rows = r"recurrent\.(RecurrentForward|TrainStep).*cupy-gpu.*lstm.*float32"
    command = f"cd {HERE} && {sys.executable} -m asv machine --yes && {sys.executable} -m asv run --quick --python=same"
    command += f" --show-stderr --dry-run -b '{rows}'"
    status, said = runner.run("asv", ["bash", "-c", command], 60, RNNX_BENCH_PROFILE="fast", PYTHONPATH=str(ROOT))
    found = re.findall(r"cupy-gpu\s.*\d[mun]s\b.*", said.replace("μ", "u"))
    detail = f"{len(found)} rows" if status == 0 else f"{status}: {last_line(said)}"
    runner.rows.append(row("asv, rows of cupy-gpu", "ok" if status == 0 and found else "FAILED", detail))


def costs(runner):
    runner.add("costs", 60)


# The most important parts come first, because time may run out.
PARTS = (("a", checks), ("b", times), ("c", costs), ("d", training), ("a", slow_checks))
PARTS += (("b", more_times), ("d", more_training), ("c", asv))


def be_child(function, options, arguments, target):
    """Run one function from the files in this folder and write its rows as they arrive."""
    for name in ("gpu_device", "gpu_checks", "gpu_resources", "gpu_steps", "gpu_times", "gpu_costs", "gpu_training"):
        found = importlib.import_module(name).CHILDREN.get(function)
        if found:
            break
    with open(target, "a") as file:
        for one in found(options, *arguments):
            file.write(json.dumps(one) + "\n")
            file.flush()


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="fewer shapes and steps")
    parser.add_argument("--parts", default="a,b,c,d", help="a: checks, b: times, c: costs, d: training")
    parser.add_argument("--emulate", action="store_true", help="run the checks of part a on the CPU")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31), help="seed of the inputs")
    parser.add_argument("--limit", type=float, default=LIMIT, help=f"seconds for everything (default: {LIMIT:.0f})")
    parser.add_argument("--json", help="also write everything to this file")
    return parser.parse_args()


def main():
    arguments = parse()
    if arguments.child:
        be_child(*json.loads(arguments.child))
        return 0
    options = {name: getattr(arguments, name) for name in ("quick", "emulate", "seed", "limit")}
    started = time.monotonic()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("RNNX_CACHE_DIR", str(Path(folder) / "cache"))
        os.environ.pop("RNNX_TEST_RUNTIMES", None)  # it would skip tests
        runner = Runner(options, folder)
        rows = runner.child("machine", 90)
        runner.rows += rows
        if "machine" not in {one["kind"] for one in rows}:
            print(f"nothing to run on: {rows[-1].get('text') or rows[-1]['detail']} (--emulate runs on the CPU)")
            return 2
        if missing := [name for name in OPTIONAL if importlib.util.find_spec(name) is None]:
            runner.rows.append(row("packages", "note", f"not installed: {', '.join(missing)}"))
        for letter, part in PARTS:
            if letter not in arguments.parts or (arguments.emulate and part is not checks):
                continue
            try:
                part(runner)
            except Exception as error:
                traceback.print_exc()
                runner.rows.append(row(part.__name__, "FAILED", f"{type(error).__name__}: {error}"))
    bad = [one for one in runner.rows if one["kind"] == "check" and one["status"] == "FAILED"]
    seconds = time.monotonic() - started
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"seed": arguments.seed, "seconds": seconds, "rows": runner.rows}))
    print(f"\n{table(runner.rows)}\nseed {arguments.seed}, {seconds:.0f} s, {len(bad)} checks failed", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
