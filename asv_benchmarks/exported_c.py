"""Models exported as C against `Stream`, rnnx's sequences and onnxruntime, on one thread. Not run by asv.

``python asv_benchmarks/exported_c.py``                    sizes, start, steps and sequences of LSTM and GRU
``python asv_benchmarks/exported_c.py --cc clang --flags "-O2"``
``python asv_benchmarks/exported_c.py --rtneural FOLDER``  also steps of RTNeural, https://github.com/jatinchowdhury18/RTNeural

A regressor with n_x = n_a and one output per step. C is measured by a program in C: a start is `init` and one step
after the program has been loaded, a step is one of many, and a sequence one call of `run`. The sides run in separate
processes, alternately, for `--rounds` rounds; a result is the minimum of all calls.

FOLDER is a checkout of RTNeural. The same model is compiled with its compile-time API and with its run-time layers, by
the C++ compiler with the same flags, with its backends for Eigen, which a checkout contains, and for the C++ library.
The column has the fastest of the four.
"""

import argparse
import functools
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from shared import child, least_ms, versions

from rnnx.compare.process import in_turn

STEPS, SECONDS = 50, 0.3

MAIN = """
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <time.h>
#include "model.h"
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec * 1e6 + t.tv_nsec * 1e-3;
}
static model_state s;
static float x[$STEPS * MODEL_INPUTS], y[$STEPS * MODEL_OUTPUTS];
int main(void) {
  double first = now(), step = 1e9, run = 1e9, end;
  int i, t;
  model_init(&s);
  model_step(&s, x, y);
  first = now() - first;
  for (i = 0; i < $STEPS * MODEL_INPUTS; ++i) x[i] = (float)(i * 37 % 101) / 50.0f - 1.0f;
  for (end = now() + $SECONDS * 1e6; now() < end;) {
    double start = now(), took;
    for (t = 0; t < $STEPS; ++t) model_step(&s, x + t * MODEL_INPUTS, y);
    took = (now() - start) / $STEPS;
    step = took < step ? took : step;
    start = now();
    model_run(&s, x, $STEPS, y);
    took = now() - start;
    run = took < run ? took : run;
  }
  printf("%g %g %g", first, step, run);
  return 0;
}
"""


RTNEURAL = """
#include <cstdio>
#include <ctime>
#include <memory>
#include <random>
#include <RTNeural/RTNeural.h>
static double now() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec * 1e6 + t.tv_nsec * 1e-3;
}
typedef std::vector<std::vector<float>> Rows;
static std::mt19937 generator(0);
static Rows rows(int n, int k) {
  std::normal_distribution<float> normal(0.0f, 0.1f);
  Rows found(n, std::vector<float>(k));
  for (auto &row : found) for (auto &value : row) value = normal(generator);
  return found;
}
template <class L> void fill(L &layer) {
  layer.setWVals(rows($N, $GATES * $N));
  layer.setUVals(rows($N, $GATES * $N));
  layer.setBVals($BIASES);
}
template <class M> double least_of(M &model) {
  alignas(64) static float x[$STEPS * $STRIDE];
  static volatile float y;
  double best = 1e9;
  for (int i = 0; i < $STEPS * $STRIDE; ++i) x[i] = (float)(i * 37 % 101) / 50.0f - 1.0f;
  model.reset();
  for (double end = now() + $SECONDS * 1e6; now() < end;) {
    double start = now(), took;
    for (int t = 0; t < $STEPS; ++t) y = model.forward(x + t * $STRIDE);
    took = (now() - start) / $STEPS;
    best = took < best ? took : best;
  }
  return best;
}
int main() {
  typedef RTNeural::ModelT<float, $N, 1, RTNeural::$LAYERLayerT<float, $N, $N>, RTNeural::DenseT<float, $N, 1>> Static;
  auto fixed = std::make_unique<Static>();
  fill(fixed->template get<0>());
  fixed->template get<1>().setWeights(rows(1, $N));
  RTNeural::Model<float> model($N);
  auto layer = new RTNeural::$LAYERLayer<float>($N, $N);
  fill(*layer);
  model.addLayer(layer);
  auto head = new RTNeural::Dense<float>($N, 1);
  head->setWeights(rows(1, $N));
  model.addLayer(head);
  std::printf("%g %g", least_of(*fixed), least_of(model));
  return 0;
}
"""


def model_of(cell, n):
    from rnnx.models import SequenceRegressor

    return SequenceRegressor(n, n, 1, cell=cell, per_step=True, seed=0)


def measure_c(cell, n, weights, command):
    """Return bytes of machine code, and microseconds of the start, a step and a sequence."""
    from rnnx.export import to_c

    with tempfile.TemporaryDirectory() as folder:
        source, _ = to_c(model_of(cell, n), Path(folder) / "model.c", weights=weights)
        main = MAIN.replace("$STEPS", str(STEPS)).replace("$SECONDS", str(SECONDS))
        (Path(folder) / "main.c").write_text(main)
        subprocess.run([*command, "-c", source.name], cwd=folder, check=True)
        command_of_size = ["size", "-A", "model.o"]
        sizes = subprocess.run(command_of_size, cwd=folder, check=True, capture_output=True, text=True).stdout
        subprocess.run([*command, "main.c", "model.o", "-o", "main"], cwd=folder, check=True)
        found = subprocess.run(["./main"], cwd=folder, check=True, capture_output=True, text=True).stdout
    sections = [line.split() for line in sizes.splitlines() if line.startswith(".text")]
    return sum(int(section[1]) for section in sections), *map(float, found.split())


def measure_rtneural(cell, n, folder, flags):
    """Return microseconds of a step of RTNeural's fastest variant."""
    gates, biases = (4, f"rows(1, {4 * n})[0]") if cell == "lstm" else (3, f"rows(2, {3 * n})")
    values = {"STEPS": STEPS, "SECONDS": SECONDS, "LAYER": cell.upper(), "GATES": gates, "BIASES": biases, "N": n}
    values = {**values, "STRIDE": -(-n // 16) * 16}  # Eigen wants aligned inputs
    main = RTNEURAL
    for name, value in values.items():
        main = main.replace(f"${name}", str(value))
    common = ["-std=c++17", "-w", f"-I{folder}", f"-I{folder}/modules/Eigen", "-DRTNEURAL_DEFAULT_ALIGNMENT=32"]
    common += ["-DEIGEN_STACK_ALLOCATION_LIMIT=0"]
    found = []
    with tempfile.TemporaryDirectory() as own:
        (Path(own) / "main.cpp").write_text(main)
        for backend in (["-DRTNEURAL_USE_EIGEN=1", "-DEIGEN_MAX_ALIGN_BYTES=32"], []):
            command = [os.environ.get("CXX", "c++"), *flags, *common, *backend, "main.cpp", "-o", "main"]
            subprocess.run(command, cwd=own, check=True)
            run = subprocess.run(["./main"], cwd=own, check=True, capture_output=True, text=True)
            found += map(float, run.stdout.split())
    return min(found)


def least_us(f):
    """Return the shortest CPU time of a call in microseconds."""
    return 1e3 * least_ms(f, seconds=SECONDS)


def measure_rnnx(cell, n):
    """Return microseconds of a step of `Stream`, and of a sequence of the model."""
    import rnnx

    model = model_of(cell, n)
    x = np.random.default_rng(0).standard_normal((n, 1, STEPS)).astype(np.float32)
    stream = rnnx.Stream(cell, model.stack.directions[0].own(model.parameters))
    steps = [np.ascontiguousarray(x[:, :, t]) for t in range(STEPS)]
    return least_us(lambda: [stream.step(xt) for xt in steps]) / STEPS, least_us(lambda: model.predict(x))


def measure_onnx(cell, n):
    """Return microseconds of a step with the state as input and output, and of a sequence."""
    import onnxruntime

    from rnnx.convert import to_onnx

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = model_of(cell, n)
    x = np.random.default_rng(0).standard_normal((STEPS, 1, n)).astype(np.float32)
    states = {name: np.zeros((1, n), np.float32) for name in model.stack.state_names}
    one, whole = (
        onnxruntime.InferenceSession(to_onnx(model, states=kind).SerializeToString(), options) for kind in (True, False)
    )
    step = least_us(lambda: [one.run(None, {"inputs": xt[None], **states}) for xt in x]) / STEPS
    return step, least_us(lambda: whole.run(None, {"inputs": x}))


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", type=int, default=[20, 32, 64, 100, 128, 200, 256])
    parser.add_argument("--cells", nargs="+", default=["lstm", "gru"])
    parser.add_argument("--cc", default=os.environ.get("CC", "cc"))
    parser.add_argument("--flags", default="-O3 -march=native")
    parser.add_argument("--rtneural", metavar="FOLDER", help="a checkout of RTNeural, to measure it, too")
    arguments = parser.parse_args()
    command = [*shlex.split(arguments.cc), *shlex.split(arguments.flags)]
    print(f"{versions()}; {' '.join(command)}\n")
    columns = "code, bytes | start, ms | step: C, us | int8 | Stream | onnxruntime | Stream / C |"
    columns += f" {STEPS} steps: C, us | rnnx | onnxruntime |" + " RTNeural: step, us |" * bool(arguments.rtneural)
    print(f"| cell, n | {columns}\n{'|---' * columns.count('|')}|---|")
    for cell in arguments.cells:
        for n in arguments.sizes:
            calls = {
                "C": functools.partial(child, "exported_c:measure_c", cell, n, "float32", command, threads=1),
                "int8": functools.partial(child, "exported_c:measure_c", cell, n, "int8", command, threads=1),
                "rnnx": functools.partial(child, "exported_c:measure_rnnx", cell, n, threads=1),
                "onnx": functools.partial(child, "exported_c:measure_onnx", cell, n, threads=1),
            }
            if arguments.rtneural:
                given = cell, n, str(Path(arguments.rtneural).resolve()), shlex.split(arguments.flags)
                calls["rtneural"] = functools.partial(child, "exported_c:measure_rtneural", *given, threads=1)
            best = {side: np.min(found, axis=0) for side, found in in_turn(calls, arguments.rounds).items()}
            size, start, step, run = best["C"]
            (stream, sequence), (onnx_step, onnx_run) = best["rnnx"], best["onnx"]
            row = [f"{size:.0f}", f"{start / 1e3:.3f}"]
            row += [f"{us:.3g}" for us in (step, best["int8"][2], stream, onnx_step, stream / step)]
            row += [f"{us:.3g}" for us in (run, sequence, onnx_run)]
            row += [f"{best['rtneural']:.3g}"] if arguments.rtneural else []
            print(f"| {cell}, {n} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
