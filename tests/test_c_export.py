"""Models exported as C compute what they compute here."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from head_cells import HEADS
from lab import ok
from mean_cells import MEANS
from wide_cells import WIDE

import rnnx
from rnnx.data import Scaler
from rnnx.export import build, library, load, to_c
from rnnx.export.shared_model import FORMAT, loading
from rnnx.export.text import identifier, string
from rnnx.models import CharModel, Seq2Seq, SequenceClassifier, SequenceRegressor
from rnnx.training.checkpoint import load_run

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")

ZOO = list(rnnx.CELLS.values())
OWN = [cell for cell in (*HEADS, *MEANS, *WIDE) if cell not in ZOO]
STRICT = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror"]
SHAPES = [{"per_step": True}, {"bidirectional": True}, {"per_step": True, "bidirectional": True}, {}]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Compile in half the time, with all warnings as errors; the reference engine compiles nothing."""
    monkeypatch.setattr(library, "_FLAGS", [*library._FLAGS, *STRICT, "-O1"])
    with rnnx.use_engine("reference"):
        yield


def exported(model, folder, **options):
    return load(build(to_c(model, folder / "model.c", **options)[0]))


def compare(model, shared, rng, n_steps=7, tolerance=1e-5):
    """Compare outputs and final states."""
    x = rng.standard_normal((model.stack.input_size, 1, n_steps)).astype(np.float32)
    if shared.indices:
        x = rng.integers(0, model.stack.input_size, (1, n_steps))
    sizes = {name: size for one in model.stack.directions for name, size in one.state_sizes.items()}
    # Positive, because some cells divide by a state.
    states = {name: rng.uniform(0.5, 1, size).astype(np.float32) for name, size in sizes.items()}
    extra = {name: rng.random((1, n_steps)).astype(np.float32) for name in model.stack.cell.inputs}
    shared.states = states
    found = {"outputs": shared.run(x[..., 0, :], {name: e[0] for name, e in extra.items()}), **shared.states}
    y, final = model.outputs(x, states={name: s[:, None] for name, s in states.items()}, extra=extra or None)
    for name, expected in {"outputs": y, **final}.items():
        np.testing.assert_allclose(found[name], expected[:, 0], rtol=tolerance, atol=tolerance, err_msg=name)


def cells_and_kinds():
    """Each cell with one of the four kinds, in turn: a kind is a matter of the stack, and not of the cell."""
    for i, cell in enumerate([*ZOO, *OWN]):
        kind = SHAPES[i % 4]
        yield pytest.param(cell, kind, id="-".join([cell.name, *kind]))


@pytest.mark.parametrize(("cell", "kind"), [*cells_and_kinds()])
def test_any_cell(cell, kind, rng, tmp_path):
    model = SequenceRegressor(3, 5 * cell.multiple, 2, num_layers=2, cell=cell, seed=0, **kind)
    compare(model, exported(model, tmp_path), rng)
    if "lstm" in cell.name or "gru" in cell.name:
        compare(model.quantized(), exported(model, tmp_path, weights="int8"), rng)


@pytest.mark.parametrize("n", [4, 8, 12])
def test_constants_with_all_optimizations(n, tmp_path, monkeypatch, rng):
    """GCC 12 makes wrong vectors of constants such as new biases, n ones and then zeros, for AVX-512."""
    monkeypatch.setattr(library, "_FLAGS", [flag for flag in library._FLAGS if flag != "-O1"])
    model = SequenceRegressor(3, n, 32, rng=0)
    model.parameters["Wy"], model.parameters["by"] = np.eye(32, n, dtype="f4"), np.float32(np.arange(32) < n)[:, None]
    compare(model, exported(model, tmp_path), rng)


def test_a_character_model(rng, tmp_path):
    """Step by step too, with names that are not C's, and characters that a string in C escapes."""
    model = CharModel(7, [9, 40], cell="lstm", zoneout=0.25, seed=0)
    vocabulary = ["\n", '"', "\\", "??/", "é", "*/", "0"]
    source, header = to_c(model, tmp_path / "2 dinos-π.c", vocabulary=vocabulary)
    assert header == tmp_path / "2 dinos-π.h"
    shared = load(build(source))
    assert (shared.name, shared.kind, shared.vocabulary) == ("m_2_dinos", "characters", vocabulary)
    compare(model, shared, rng)
    shared.reset()
    x = rng.integers(0, 7, 6)
    other = shared.copy()
    whole = shared.run(x)
    np.testing.assert_array_equal(np.stack([other.step(index) for index in x], axis=1), whole)
    np.testing.assert_allclose(whole, model.outputs(x[None])[0][:, 0], atol=1e-6)
    for wrong in (7, -1):
        with pytest.raises(ValueError, match=r"`x` must hold indices in \[0, n_x\) = \[0, 7\)"):
            shared.step(wrong)


def test_weights_of_eight_bits(rng, tmp_path):
    model = SequenceClassifier(3, 37, 4, cell="gru", per_step=True, seed=0)
    compare(model.quantized(), exported(model, tmp_path, weights="int8"), rng)
    rounded = (tmp_path / "model.c").read_text()
    assert "int8_t wh0_l0[2738]" in rounded  # two gates, 37 x 37 each
    to_c(model.quantized(), tmp_path / "model.c")
    assert (tmp_path / "model.c").read_text() == rounded
    model = CharModel(5, 12, cell=rnnx.CELLS["slstm"].replace(heads=4), seed=0)
    compare(model.quantized(), exported(model, tmp_path, weights="int8"), rng)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_all_lengths_of_vectors(weights, rng, tmp_path):
    """31 units and outputs are 16, 8, 4 and three single ones; the gates have panels of 32 rows, too."""
    model = SequenceRegressor(3, 31, 31, cell="lstm", seed=0)
    shared = exported(model, tmp_path, weights=weights)
    compare(model.quantized() if weights == "int8" else model, shared, rng)
    for end in (16, 24, 28, 31):
        assert f"u < {end}; ++u) {{" in (tmp_path / "model.c").read_text()


def test_classes_of_indices_and_double_precision(rng, tmp_path):
    model = SequenceClassifier(6, 8, 3, bidirectional=True, dtype="float64", seed=0)
    shared = exported(model, tmp_path, indices=True, vocabulary=["good", "bad", "ugly"])
    compare(model, shared, rng)
    assert shared.vocabulary == ["good", "bad", "ugly"]
    with pytest.raises(ValueError, match="bidirectional"):
        shared.step(0)


def test_outputs_of_a_loss(rng, tmp_path):
    """A file has what `outputs` returns, and probabilities where classes exclude each other."""
    model = SequenceRegressor(3, 5, 2, loss="gaussian", seed=0)
    assert exported(model, tmp_path).n_y == model.head.n_out == 4
    compare(model, exported(model, tmp_path), rng)
    to_c(SequenceClassifier(3, 5, 2, loss="multi_label", seed=0), tmp_path / "model.c")
    assert "probabilities" not in (tmp_path / "model.h").read_text()


LOSSES = ["squared_error", "quantile", "student_t", "poisson"]
SCALERS = {"input_scaler": Scaler([1e3, -2, 0], [5, -1, 0.1]), "target_scaler": Scaler([-50, 3], [20, 0.5])}


@pytest.mark.parametrize(("loss", "kind"), [*zip(LOSSES, SHAPES, strict=True)])
def test_raw_units_and_what_outputs_say(loss, kind, rng, tmp_path):
    """A file takes inputs in raw units, and `predict` gives the numbers of `predict_distribution`."""
    scalers = {**SCALERS, **({"target_scaler": None} if loss == "poisson" else {})}
    model = SequenceRegressor(3, 6, 2, loss=loss, seed=0, **scalers, **kind)
    shared, x = exported(model, tmp_path), SCALERS["input_scaler"].inverse(rng.standard_normal((3, 9)))
    x = x.astype(np.float32)
    y, expected = shared.run(x), model.predict_distribution(x[:, None])
    found, of_lists = shared.predict(y), shared.predict(y.tolist())  # whose steps are not contiguous
    assert shared.predictions == list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values[:, 0], rtol=1e-5, atol=1e-4, err_msg=name)
        np.testing.assert_array_equal(of_lists[name], found[name])
    with pytest.raises(ValueError, match=r"`y` must have shape \(n_y,\) or \(n_y, T\) with n_y = "):
        shared.predict(x)


def test_predictions_of_classes(rng, tmp_path):
    x = rng.standard_normal((3, 9)).astype(np.float32)
    for loss, name, n in (("cross_entropy", "probability", 4), ("multi_label", "y", 4), ("binary", "probability", 2)):
        model = SequenceClassifier(3, 5, n, loss=loss, per_step=True, seed=0)
        shared = exported(model, tmp_path, vocabulary=list("abcd"[:n]))
        found = shared.predict(shared.run(x))
        np.testing.assert_allclose(found[name], model.predict(x[:, None])[:, 0], atol=1e-6)
    plain = exported(SequenceRegressor(3, 5, 2, seed=0), tmp_path)
    np.testing.assert_array_equal(plain.predict([1, 2])["y"], [1, 2])


def test_inputs_with_defaults(rng, tmp_path):
    """The number of the step is counted by the state, and from each end of a sequence alike."""
    x = rng.standard_normal((3, 9)).astype(np.float32)
    for kind in ({}, {"bidirectional": True}):
        model = SequenceRegressor(3, 6, 2, cell="phased_lstm", per_step=True, seed=0, **kind)
        shared = exported(model, tmp_path)
        for _ in range(2):
            shared.reset()
            np.testing.assert_allclose(shared.run(x), model.outputs(x[:, None])[0][:, 0], atol=1e-6)
    assert shared.extra == {"t": "step"}


@pytest.mark.parametrize("kind", SHAPES)
def test_no_steps(kind, tmp_path):
    model = SequenceRegressor(3, 5, 2, cell="rnn", seed=0, **kind)
    x = np.zeros((3, 1, 0), np.float32)
    np.testing.assert_allclose(exported(model, tmp_path).run(x[:, 0]), model.outputs(x)[0][:, 0], atol=1e-6)


def test_a_replaced_library_is_loaded_again(tmp_path):
    for n_y in (2, 3):
        assert exported(SequenceRegressor(3, 4, n_y, seed=0), tmp_path).n_y == n_y


def test_names_of_users():
    assert [identifier(name) for name in ("dinos-lstm", "2x", "é", "__a", "a__b")] == [
        "dinos_lstm", "m_2x", "m", "a", "a_b"]  # fmt: skip
    assert string('a"\\?\né') == r'"a\"\\\?\012\303\251"'


def test_names_that_collide(rng, tmp_path):
    """Parameters and states may be called like words of C, functions of the file, and each other's arrays."""

    @rnnx.cell
    def collide(x, a, u, *, panel=rnnx.Gate, q_l0=rnnx.Vector, q=rnnx.Vector, op_tanh=rnnx.Vector, é=rnnx.Vector):
        u = u + rnnx.cells.tanh(panel(x, a)) * q_l0 - q * op_tanh
        return rnnx.cells.sigmoid(u) * é, u

    model = SequenceRegressor(2, 4, cell=collide, seed=0)
    compare(model, exported(model, tmp_path, name="panel"), rng)


def test_means_in_two_stages(rng, tmp_path):
    @rnnx.cell
    def two_means(x, a, *, r=rnnx.Gate, c=rnnx.Gate):
        z = r(x, a)
        k = c(x, rnnx.cells.sigmoid(z - rnnx.cells.mean(z)) * a)
        return rnnx.cells.tanh(k - rnnx.cells.mean(k))

    model = SequenceRegressor(2, 4, cell=two_means, num_layers=2, seed=0)
    compare(model, exported(model, tmp_path), rng)


def test_errors(tmp_path):
    model, path = SequenceRegressor(3, 4, seed=0), tmp_path / "model.c"
    scaled = SequenceRegressor(3, 4, seed=0, input_scaler=SCALERS["input_scaler"])
    for error, message, call in (
        (TypeError, "`model` must be a CharModel, Seq", lambda: to_c(None, path)),
        (ValueError, "`indices` must be True for a Seq2Seq", lambda: to_c(Seq2Seq(5, 5, 4), path, indices=False)),
        (ValueError, "`target_vocabulary` is for a Seq2Seq", lambda: to_c(model, path, target_vocabulary=["a"])),
        (TypeError, "`path` must be a str or Path; got 3", lambda: to_c(model, 3)),
        (ValueError, r"`path` must end in \.c; got ", lambda: to_c(model, tmp_path / "model.cpp")),
        (ValueError, "`path` must have a name without quotes", lambda: to_c(model, tmp_path / 'a".c')),
        (ValueError, "the folder .* does not exist", lambda: to_c(model, tmp_path / "none" / "model.c")),
        (ValueError, "`weights` must be one of", lambda: to_c(model, path, weights="int4")),
        (TypeError, "`indices` must be True or False", lambda: to_c(model, path, indices=1)),
        (TypeError, "`name` must be a str", lambda: to_c(model, path, name=3)),
        (ValueError, "`name` must not be empty", lambda: to_c(model, path, name="")),
        (TypeError, "`vocabulary` must be a sequence of str", lambda: to_c(model, path, vocabulary="abc")),
        (ValueError, "`indices` must be False for a model with an", lambda: to_c(scaled, path, indices=True)),
        (ValueError, "an entry for each of the 1 outputs; got 2", lambda: to_c(model, path, vocabulary=["a", "b"])),
        (ValueError, "each of the 5 source tokens; got 1", lambda: to_c(Seq2Seq(5, 6, 4), path, vocabulary=["a"])),
        (ValueError, "`source` must be a C file written by to_c", lambda: build(path)),
        (TypeError, "`path` must be a str or Path", lambda: load(3)),
    ):
        with pytest.raises(error, match=message):
            call()
    model.parameters["Wy"][0, 0] = np.nan
    with pytest.raises(ValueError, match="must have parameters that are finite in float32; 'Wy' is not"):
        to_c(model, path)
    assert not list(tmp_path.iterdir())


def test_errors_of_shared_models(tmp_path):
    shared = exported(SequenceRegressor(3, 4, cell="mgu", seed=0), tmp_path)
    with pytest.raises(ValueError, match=r"`x` must hold real numbers, \(n_x, T\) = \(3, T\); got float64, \(2, 5\)"):
        shared.run(np.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"`states\['a_l0'\]` must have shape \(4,\); got \(3,\)"):
        shared.states = {"a_l0": np.zeros(3)}
    with pytest.raises(ValueError, match="`extra` must hold"):
        shared.run(np.zeros((3, 5)), {"t": [1] * 5})


def test_a_library_of_another_format(tmp_path, monkeypatch):
    path = build(to_c(SequenceRegressor(3, 4, seed=0), tmp_path / "model.c")[0])
    monkeypatch.setattr(loading, "FORMAT", FORMAT + 1)
    with pytest.raises(ValueError, match=f"has format {FORMAT}; this copy of shared_model reads format {FORMAT + 1}"):
        load(path)


def test_errors_of_compilers(tmp_path, monkeypatch):
    source, _ = to_c(SequenceRegressor(3, 4, seed=0), tmp_path / "model.c")
    with pytest.raises(ValueError, match=r"`target` must be one of .*; got 'wasm'.*wasm32"):
        build(source, target="wasm")
    source.write_text("int f( {")
    with pytest.raises(RuntimeError, match=r"could not compile .*error"):
        build(source)
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"no C compiler was found: pip install .*(ziglang|zig)"):
        build(source)
    with pytest.raises(RuntimeError, match="compiling for wasm32 requires zig"):
        build(source, target="wasm32")
    with pytest.raises(ValueError, match=r"`target` must be one of .*; got 'wasm'"):
        library.compiler("wasm")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.c", "model.h"]


MAIN = """
#include <stdio.h>
#include "model.h"

int main(void) {
  static model_state s;
  float x[5 * MODEL_INPUTS], y[MODEL_OUTPUTS];
  int i;
  for (i = 0; i < 5 * MODEL_INPUTS; ++i) x[i] = (float)(i % 7) - 3.0f;
  model_init(&s);
  if (model_run(&s, x, 5, y)) return 1;
  model_probabilities(y, 0.5f, y);
  for (i = 0; i < MODEL_OUTPUTS; ++i) printf("%.6f ", y[i]);
  return 0;
}
"""


def programs(compilers, model, folder, flags, prefix=(), rounding=1e-5):
    """Compile a program that runs a classifier, with each compiler; compare what it prints."""
    to_c(model, folder / "model.c")
    (folder / "main.c").write_text(MAIN)
    x = ((np.arange(15) % 7) - 3.0).reshape(5, 3).T.astype(np.float32)
    z = model.outputs(x[:, None])[0][:, 0] / 0.5
    expected = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    for compiler in compilers:
        command = [*compiler, *STRICT, *flags, "model.c", "main.c", "-o", "main"]
        built = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr
        run = subprocess.run([*prefix, "./main"], cwd=folder, capture_output=True, text=True)
        assert (run.returncode, run.stderr) == (0, ""), run.stderr
        np.testing.assert_allclose(np.array(run.stdout.split(), float), expected, atol=rounding)


def compilers():
    found = [[name] for name in ("gcc", "clang") if shutil.which(name)]
    return found + ([library.compiler("x86_64")] if library.importlib.util.find_spec("ziglang") else [])


def test_memory_of_three_layers_in_both_directions(tmp_path, rng):
    """The last one, without outputs for every step, needs none, however wide it is."""
    model = SequenceClassifier(3, [2, 4, 30], 4, cell="rnn", bidirectional=True, seed=0)
    source, header = to_c(model, tmp_path / "model.c")
    assert "MODEL_WORKSPACE(steps) ((steps) * 12)" in header.read_text()
    assert "next = steps ? work + steps * 4 : work;" in source.read_text()
    compare(model, load(build(source)), rng)


def test_a_program_in_c(tmp_path):
    """It is linked without the library of mathematical functions."""
    programs([["cc"]], SequenceClassifier(3, 10, 4, seed=0), tmp_path, ["-O2"])


@pytest.mark.parametrize("method", [0, 16, 1, 2, -1])
def test_floats_are_computed_in_their_own_precision(method, tmp_path):
    """As C99 says in float.h, where x87 arithmetic has method 2, and 16 is float16 in a precision of its own."""
    source, _ = to_c(SequenceRegressor(2, 3, seed=0), tmp_path / "model.c")
    (tmp_path / "float.h").write_text(f"#define FLT_EVAL_METHOD ({method})\n")
    command = ["cc", "-fsyntax-only", "-I", str(tmp_path), str(source)]
    errors = subprocess.run(command, capture_output=True, text=True).stderr
    assert ("compile with -msse2 -mfpmath=sse" in errors) == (method not in (0, 16))
    assert bool(errors) == (method not in (0, 16))


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "layer_norm_gru", "slstm", "lstmp"])
def test_compilers_and_checkers(cell, tmp_path):
    """All compilers without a warning, sanitizers, and valgrind without an error; as C++ too."""
    model = SequenceClassifier(3, 5 * rnnx.CELLS[cell].multiple, 4, num_layers=2, cell=cell, seed=0)
    programs(compilers(), model, tmp_path, ["-O3", "-march=native"])
    sanitize = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    programs([one for one in compilers() if len(one) == 1], model, tmp_path, sanitize)
    if shutil.which("valgrind"):
        programs([["cc"]], model, tmp_path, ["-O1", "-g"], ["valgrind", "-q", "--error-exitcode=9"])
    header = 'extern "C" {}\n#include "model.h"\nint f(model_state *s) { model_init(s); return MODEL_INPUTS; }\n'
    (tmp_path / "use.cpp").write_text(header)
    subprocess.run(["c++", "-Wall", "-Werror", "-c", "use.cpp", "-o", "use.o"], cwd=tmp_path, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24))
def test_random_shapes(seed, tmp_path):
    rng = np.random.default_rng(seed)
    cell = ZOO[rng.integers(len(ZOO))]
    widths = [int(rng.integers(1, 70 // cell.multiple)) * cell.multiple for _ in range(rng.integers(1, 4))]
    n_x, n_y, per_step, bidirectional, int8 = rng.integers(1, 40), rng.integers(1, 50), *(rng.random(3) < 0.5)
    kind = {"per_step": bool(per_step), "bidirectional": bool(bidirectional)}
    model = SequenceRegressor(int(n_x), widths, int(n_y), cell=cell, seed=seed, **kind)
    weights = "int8" if int8 else "float32"
    shared = exported(model, tmp_path, weights=weights, indices=bool(rng.random() < 0.3))
    compare(model.quantized() if int8 else model, shared, rng, int(rng.integers(1, 12)), 3e-5)


# --- sequence to sequence ------------------------------------------------------------------------------------------

TRANSLATING = ["lstm", "gru", "phased_lstm", "lstm", "rnn", "gru"]
ATTENTION = [("additive", True), ("dot", False), ("scaled_dot", True), (None, True), ("additive", False), (None, False)]


@pytest.mark.parametrize(
    ("cell", "how"), [*zip(["lstm", "gru", "phased_lstm", "lstm", "rnn", "gru"], ATTENTION, strict=True)]
)
def test_a_translator(cell, how, rng, tmp_path):
    """Greedy decoding, and its logits and weights step by step, of deep stacks of different widths."""
    attention, bidirectional = how
    widths = [6, 5, 7] if bidirectional else [9]
    options = {"cell": cell, "attention": attention, "bidirectional_encoder": bidirectional, "end_token": 2}
    model = Seq2Seq(8, 6, widths, seed=1, **options)
    for name, p in model.parameters.items():  # attention that is not even, and targets that end at some time
        model.parameters[name] = p + rng.normal(0, 0.5, p.shape).astype(p.dtype)
    shared = exported(model, tmp_path, target_vocabulary=list("abcdef"))
    assert (shared.kind, shared.n_x, shared.n_y, shared.end) == ("seq2seq", 8, 6, 2)
    assert (shared.vocabulary, shared.target_vocabulary) == (None, list("abcdef"))
    for n_source in (7, 1, 0):
        source = rng.integers(0, 8, n_source)
        expected = model.predict(source[None], max_length=9)
        n = expected.lengths[0]
        np.testing.assert_array_equal(shared.translate(source, 9), expected.indices[0, :n])
        given = np.array([2, *rng.integers(0, 6, 8)])
        z, weights, _ = model.forward(source[None], given[None])
        shared.encode(source)
        for t, token in enumerate(given):
            other = shared.copy()
            y, w = other.decode(token)
            shared.decode(token)
            np.testing.assert_allclose(y, z[:, 0, t], rtol=1e-5, atol=1e-5)
            assert (w is None) == (attention is None)
            if w is not None:
                np.testing.assert_allclose(w, weights[0, t], rtol=1e-5, atol=1e-5)


def test_a_translator_of_eight_bits(rng, tmp_path):
    model = Seq2Seq(8, 6, 12, num_layers=2, seed=0)
    shared, rounded = exported(model, tmp_path, weights="int8"), model.quantized()
    source, given = rng.integers(0, 8, 5), rng.integers(0, 6, 4)
    z, _, _ = rounded.forward(source[None], given[None], keep_caches=False)
    shared.encode(source)
    found = np.stack([shared.decode(token)[0] for token in given], axis=1)
    np.testing.assert_allclose(found, z[:, 0], rtol=1e-5, atol=1e-5)


def test_errors_of_translators(tmp_path):
    shared = exported(Seq2Seq(8, 6, 4, seed=0), tmp_path)
    for source in ([8], [-1], [0.5], [[1]]):
        with pytest.raises(ValueError, match=r"`source` must hold integers in \[0, 8\), of shape \(T_x,\)"):
            shared.encode(source)
    for token in (6, -1, 2**32 + 3, 1.0):
        with pytest.raises(ValueError, match=rf"`token` must be an integer in \[0, 6\); got {token}"):
            shared.decode(token)
    for most in (-1, 2**31, 2.5):
        with pytest.raises(ValueError, match=f"`max_length` must be an integer from 0 to 2.31 - 1; got {most}"):
            shared.translate([1, 2], most)


TRANSLATOR = """
#include <stdio.h>
#include "model.h"
int main(void) {
  static model_state s;
  static const int32_t x[5] = {3, 1, 4, 1, 5}, wrong[2] = {0, MODEL_INPUTS};
  float work[MODEL_WORKSPACE(5)];
  int32_t tokens[9], n, k;
  model_init(&s);
  if (model_encode(&s, wrong, 2, work) != 1 || model_translate(&s, wrong, 2, work, tokens, 9) != -1) return 2;
  n = model_translate(&s, x, 5, work, tokens, 9);
  for (k = 0; k < n; ++k) printf("%d ", (int)tokens[k]);
  return 0;
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [one for one in ATTENTION if one != (None, False)])  # which needs no memory
def test_a_translator_with_all_compilers_and_sanitizers(how, tmp_path):
    attention, bidirectional = how
    widths = [6, 5, 7] if bidirectional else [5, 7]
    model = Seq2Seq(8, 6, widths, seed=1, attention=attention, bidirectional_encoder=bidirectional)
    to_c(model, tmp_path / "model.c")
    (tmp_path / "main.c").write_text(TRANSLATOR)
    found = model.predict(np.array([[3, 1, 4, 1, 5]]), max_length=9)
    expected = found.indices[0, : found.lengths[0]].tolist()
    number, local = ATTENTION.index(how), [one for one in compilers() if len(one) == 1]
    runs = [(one, ["-O3", "-march=native"]) for one in (local if number else compilers())]
    for one in local[number % max(len(local), 1) :][:1]:  # in turn: each of them has several kinds of attention
        runs.append((one, ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]))
    for compiler, flags in runs:
        command = [*compiler, *STRICT, *flags, "model.c", "main.c", "-o", "main"]
        built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr
        done = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert list(map(int, done.stdout.split())) == expected


# --- libraries -----------------------------------------------------------------------------------------------------

ZIG = pytest.mark.skipif(not library.importlib.util.find_spec("ziglang"), reason="no ziglang")


def test_the_loader_needs_numpy_alone(tmp_path, rng):
    """From a copy of its folder, in a process that cannot import rnnx."""
    model = SequenceRegressor(3, 6, 2, seed=0)
    path = build(to_c(model, tmp_path / "model.c")[0])
    shutil.copytree(Path(library.__file__).with_name("shared_model"), tmp_path / "shared_model")
    code = f"""if True:
        import sys
        sys.modules["rnnx"] = None
        sys.path.insert(0, ".")
        import numpy as np
        from shared_model import load
        print(*load({str(path)!r}).run(np.ones((3, 4))))
        assert not {{"numba", "llvmlite", "array_api_compat"}} & {{*sys.modules}}
    """
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    y = model.outputs(np.ones((3, 1, 4), np.float32))[0][:, 0]
    np.testing.assert_allclose(np.array(result.stdout.split(), float), y, atol=1e-6)


JAVASCRIPT = """
import { readFileSync } from "node:fs";
const { instance } = await WebAssembly.instantiate(readFileSync("model.wasm"), {});
"""


@ZIG
@pytest.mark.skipif(not shutil.which("node"), reason="no Node.js")
def test_a_web_assembly_module(tmp_path):
    """Called as the README of the package says."""
    model = CharModel(5, 10, cell="gru", seed=0)
    build(to_c(model, tmp_path / "model.c", vocabulary=["\n", "t", "é", '"', "<UNK>"])[0], target="wasm32")
    readme = Path(library.__file__).with_name("README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```js\n(.*?)```", readme, re.DOTALL)
    script = JAVASCRIPT + example.partition("\n")[2] + "console.log(JSON.stringify([...p, model.vocabulary[2]]));"
    (tmp_path / "model.mjs").write_text(script)
    run = subprocess.run(["node", "model.mjs"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    *p, e = json.loads(run.stdout)
    z = model.outputs(np.array([[1]]))[0][:, 0, 0] / 0.8
    np.testing.assert_allclose(p, np.exp(z) / np.exp(z).sum(), atol=1e-6)
    assert e == "é"


@ZIG
@pytest.mark.slow
@pytest.mark.parametrize("target", [*library.TARGETS, "riscv64-linux-musl"])
def test_targets(target, tmp_path):
    """Each makes a file of the right kind."""
    starts = {".so": b"\x7fELF", ".dll": b"MZ", ".wasm": b"\0asm", ".dylib": b"\xcf\xfa\xed\xfe"}
    for name in ("lstm", "phased_lstm", "slstm"):
        source, _ = to_c(CharModel(5, 8, cell=name, seed=0), tmp_path / "model.c")
        output = build(source, target=target)
        assert output.name == (f"model-{target}.so" if output.suffix == ".so" else f"model{output.suffix}")
        assert output.read_bytes().startswith(starts[output.suffix])
        assert output.stat().st_size < 100_000


def test_the_page(tmp_path, monkeypatch):
    """The program in C on docs/c.md prints the probabilities of the model there."""
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parent.parent / "docs" / "c.md").read_text(encoding="utf-8")
    python, program, commands = (re.search(rf"```{language}\n(.*?)```", page, re.DOTALL).group(1) for language in
                                 ("python", "c", "sh"))  # fmt: skip
    scope = {}
    exec(python, scope)
    Path("main.c").write_text(program)
    printed = subprocess.run(commands, shell=True, check=True, capture_output=True, text=True).stdout
    x = np.zeros((3, 1, 20), np.float32)
    x[:, 0, 0] = 0.5, -1, 2
    p = scope["model"].predict(x)[:, 0]
    words = ["left", "right", "up", "down"]
    assert printed == "".join(f"{word}: {value:.4f}\n" for word, value in zip(words, p, strict=True))


def test_the_command(run, tmp_path):
    ok(run("train", "--text", "names.txt", "--hidden-size", 8, "--iterations", 2, "--output", "run"))
    told = ok(run("export", "run", "names.c", "--shared", "--int8"))
    assert [line.partition(":")[0] for line in told.splitlines()] == [
        "names.c",
        "names.h",
        "names" + library.suffix(None),
    ]
    loaded, shared = load_run("run", np), load("names" + library.suffix(None))
    assert shared.vocabulary == loaded.tokenizer.get_vocab()
    x = loaded.tokenizer.encode("tri").astype(np.int64)
    np.testing.assert_allclose(shared.run(x), loaded.model.quantized().outputs(x[None])[0][:, 0], atol=1e-5)
    for arguments, message in (
        (["names.txt"], "OUTPUT must end in .onnx or .c; got names.txt"),
        (["names.c", "--lengths"], "--lengths is not for .c files"),
        (["names.c", "--target", "wasm32"], "--target needs --shared"),
        (["other.c", "--shared", "--target", "vax"], "`target` must be one of aarch64, "),
    ):
        code, _, found = run("export", "run", *arguments)
        assert code == 1
        assert message in found
    assert not Path("other.c").exists()
