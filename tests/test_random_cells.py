"""Random cells on all engines, against torch's autograd of the same equations and central differences.

``python tests/test_random_cells.py 5000 [SEED] [ENGINE ...]`` tries that many.
"""

import contextlib
import dataclasses
import shutil
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, seed, settings
from hypothesis import strategies as st
from oracle import torch_results
from problems import TOLERANCE, make_problem
from whole_cells import Watch, random_cells, random_widths

import rnnx
from rnnx.engines.cpu.runtime.thread_policy import use_policy

POLICIES = [lambda work: (1, False), lambda work: (min(3, work.m), False), lambda work: (min(3, work.shares), True)]
STEP = 2e-5  # of the central differences
MANY = {"suppress_health_check": list(HealthCheck), "database": None}


@dataclasses.dataclass
class Sizes:
    """The sizes and options of a call."""

    n_x: int
    n: int
    m: int
    n_steps: int
    lengths: bool
    resets: bool
    indices: bool
    seed: int


sizes = st.builds(
    Sizes,
    n_x=st.integers(1, 5),
    n=st.sampled_from([1, 2, 3, 5, 8, 16, 17, 33]),
    m=st.integers(1, 4),
    n_steps=st.integers(1, 4),
    lengths=st.booleans(),
    resets=st.sampled_from([False, False, False, True]),
    indices=st.sampled_from([False, False, True]),
    seed=st.integers(0, 2**31),
)


class Case:
    """A random cell with random arguments, and what it computes according to torch."""

    def __init__(self, recipe, size):
        torch = pytest.importorskip("torch")
        cell, rng = recipe.cell(), np.random.default_rng(size.seed)
        lengths = rng.integers(0, size.n_steps + 1, size.m).tolist() if size.lengths else None
        self.problem = make_problem(cell, rng, size.n_x, size.n, size.m, size.n_steps, lengths=lengths)
        for key in cell.optional_keys:
            self.problem.parameters[key] = rng.standard_normal((size.n, 1))
        for gate in cell.gates:
            for key in gate.weights:
                self.problem.parameters[key] /= self.problem.parameters[key].shape[1] ** 0.5
        self.resets = rng.random((size.m, size.n_steps)) < 0.3 if size.resets else None
        self.indices = None
        if size.indices and any("x" in gate.sides for gate in cell.gates):
            self.indices = rng.integers(0, size.n_x, (size.m, size.n_steps))
            self.problem.x = np.eye(size.n_x)[:, self.indices]
        self.expected = torch_results(recipe.step(cell, Watch(torch)), self.problem, self.resets)

    def forward(self, **options):
        """Run forward; return the states and the caches."""
        p = self.problem
        x = p.x if self.indices is None else self.indices
        options |= {"lengths": p.lengths, "inputs": p.extra, "resets": self.resets}
        states, _, caches = rnnx.recurrent_forward(p.cell, x, p.s0, p.parameters, **options)
        return states, caches

    def results(self):
        """Return the states and all gradients by name."""
        states, caches = self.forward()
        found = dict(zip(self.problem.cell.states, states, strict=True))
        return found | rnnx.recurrent_backward(
            self.problem.cell, self.problem.dstates, caches, ds_final=self.problem.dfinal
        )

    def check(self):
        """Check all results of the current engine, and those of inference and of single steps."""
        found = self.results()
        assert {*self.expected} - {*found} == (set() if self.indices is None else {"dx"})
        for key, value in found.items():
            assert_near(value, self.expected[key], TOLERANCE["oracle"], key)
        states, _ = self.forward(keep_caches=False)
        for name, value in zip(self.problem.cell.states, states, strict=True):
            assert_near(value, self.expected[name], TOLERANCE["oracle"], f"{name} without caches")
        if self.problem.lengths is None and any("x" in gate.sides for gate in self.problem.cell.gates):
            self.check_stream()
        return found

    def check_stream(self):
        p = self.problem
        stream = rnnx.Stream(p.cell, p.parameters, m=p.x.shape[1], s0=p.s0)
        for t in range(p.x.shape[2]):
            inputs = {name: e[:, :, t] for name, e in p.extra.items()}
            stream.step(p.x[:, :, t], inputs=inputs, resets=None if self.resets is None else self.resets[:, t])
            for name, value in stream.states.items():
                assert_near(value, self.expected[name][:, :, t], TOLERANCE["oracle"], f"{name} of step {t}")

    def loss(self):
        states, caches = self.forward()
        pairs = [*zip(states, self.problem.dstates, strict=True)]
        pairs += zip(caches.final_state.values(), self.problem.dfinal, strict=True)
        return sum(np.sum(s * d) for s, d in pairs)

    def check_differences(self):
        """Check the derivative in a random direction."""
        rng, arrays = np.random.default_rng(0), self.problem.inputs
        if self.indices is not None:
            arrays = {name: array for name, array in arrays.items() if name != "x"}
        direction = {name: rng.standard_normal(array.shape) for name, array in arrays.items()}
        length = sum(np.sum(d * d) for d in direction.values()) ** 0.5
        direction = {name: d / length for name, d in direction.items()}
        expected = sum(np.sum(self.expected[f"d{name}"] * d) for name, d in direction.items())
        kept, losses = {name: array.copy() for name, array in arrays.items()}, []
        for step in (STEP, -STEP, 2 * STEP, -2 * STEP):
            for name, array in arrays.items():
                array[...] = kept[name] + step * direction[name]
            losses.append(self.loss())
        for name, array in arrays.items():
            array[...] = kept[name]
        numeric = (8 * (losses[0] - losses[1]) - (losses[2] - losses[3])) / (12 * STEP)
        assert_near(numeric, expected, TOLERANCE["gradient"], "derivative")


def assert_near(actual, expected, tolerance, what):
    """Check an array whose elements may cancel to rounding errors."""
    assert np.shape(actual) == np.shape(expected), what
    error, size = np.linalg.norm(np.subtract(actual, expected)), np.linalg.norm(expected)
    assert error <= tolerance * (1 + size), f"{what}: error {error:.2e}, norm {size:.2e}"


def check_cpu(case):
    """With every way to share the work, all of the same bits."""
    alone = None
    for policy in POLICIES:
        with rnnx.use_engine("cpu"), use_policy(policy):
            if alone is None:
                alone = case.check()
            else:
                for key, value in case.results().items():
                    np.testing.assert_array_equal(value, alone[key], err_msg=key)


def check_named(name):
    def check(case):
        with rnnx.use_engine(name):
            case.check()

    return check


def check_reference(case):
    with rnnx.use_engine("reference"):
        case.check()
        case.check_differences()


CHECKS = {"reference": check_reference, "cpu": check_cpu, "emulated": check_named("emulated")}


@pytest.mark.slow
@settings(max_examples=60, **MANY)  # an example compiles; as a script, the file tries thousands
@given(random_cells, sizes)
def test_random_cells(recipe, size):
    case = Case(recipe, size)
    check_reference(case)
    check_cpu(case)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler (g++) for the emulation of CUDA")
@pytest.mark.parametrize("kind", ["any", "several widths"])
def test_random_cells_on_the_emulated_gpu(kind):
    @settings(max_examples=8, **MANY)
    @given(random_cells if kind == "any" else random_widths, sizes)
    def run(recipe, size):
        case = Case(recipe, size)
        assume(kind == "any" or case.problem.cell.has_widths)
        CHECKS["emulated"](case)

    run()


def main(n, number=0, *names):
    """Try n random cells."""
    import collections

    if "emulated" in names:
        from pathlib import Path

        sys.path.insert(0, str(Path(__file__).parent / "emulation"))
        rnnx.engines.register_engine("emulated", "emulated_engine:ENGINE", ("numpy",), default=False)
    counts = collections.Counter()

    @seed(int(number))
    @settings(max_examples=int(n), deadline=None, **MANY)
    @given(random_cells, sizes)
    def run(recipe, size):
        counts["tried"] += 1
        case = Case(recipe, size)
        counts[f"{type(recipe).__name__}, {len(case.problem.cell.stages)} stages"] += 1
        counts["hoisted"] += case.problem.cell.hoisted is not None
        counts["several widths"] += case.problem.cell.has_widths
        for name in names or ("reference", "cpu"):
            CHECKS[name](case)
        counts["checked"] += 1

    with contextlib.suppress(KeyboardInterrupt):
        run()
    print(dict(counts))


if __name__ == "__main__":
    main(*sys.argv[1:])
