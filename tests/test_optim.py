"""Optimizers, schedules, clipping and initialisation."""

import json
import math
import runpy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import to_numpy
from hypothesis import given
from hypothesis import strategies as st
from problems import assert_close

import rnnx
from rnnx import engines, optim
from rnnx.optim import (
    OPTIMIZERS,
    SCHEDULES,
    SGD,
    Adam,
    AdamW,
    CosineDecay,
    ExponentialDecay,
    InverseTimeDecay,
    LinearWarmup,
    Momentum,
    RMSProp,
    StepDecay,
    learning_rate_at,
    optimizer_config,
    optimizer_from_config,
)

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
SHAPES = {"W": (3, 4), "b": (3, 1), "v": (2, 3, 2)}
# Our optimizers, and torch's with the same options.
CASES = {
    "sgd": (SGD(0.05), "SGD", {}),
    "sgd-decay": (SGD(0.05, weight_decay=0.1), "SGD", {"weight_decay": 0.1}),
    "momentum": (Momentum(0.05), "SGD", {"momentum": 0.9}),
    "momentum-all": (
        Momentum(0.05, 0.7, dampening=0.4, weight_decay=0.1),
        "SGD",
        {"momentum": 0.7, "dampening": 0.4, "weight_decay": 0.1},
    ),
    "nesterov": (OPTIMIZERS["nesterov"](0.05), "SGD", {"momentum": 0.9, "nesterov": True}),
    "nesterov-decay": (
        Momentum(0.05, 0.6, True, weight_decay=0.1),
        "SGD",
        {"momentum": 0.6, "nesterov": True, "weight_decay": 0.1},
    ),
    "rmsprop": (RMSProp(0.05), "RMSprop", {}),
    "rmsprop-centered": (RMSProp(0.05, 0.8, centered=True), "RMSprop", {"alpha": 0.8, "centered": True}),
    "rmsprop-momentum": (RMSProp(0.05, momentum=0.5), "RMSprop", {"momentum": 0.5}),
    "rmsprop-all": (
        RMSProp(0.05, 0.9, 1e-3, 0.5, True, 0.1),
        "RMSprop",
        {"alpha": 0.9, "eps": 1e-3, "momentum": 0.5, "centered": True, "weight_decay": 0.1},
    ),
    "adam": (Adam(0.05), "Adam", {}),
    "adam-all": (
        Adam(0.05, 0.8, 0.95, 1e-3, 0.1),
        "Adam",
        {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1},
    ),
    "adamw": (AdamW(0.05), "AdamW", {}),
    "adamw-all": (
        AdamW(0.05, 0.8, 0.95, 1e-3, 0.2),
        "AdamW",
        {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2},
    ),
}


@pytest.fixture(params=list(CASES))
def case(request):
    return CASES[request.param]


@pytest.fixture
def problem(rng):
    p = {"W": rng.standard_normal((3, 4)), "b": rng.standard_normal((3, 1))}
    return p, [{"d" + k: rng.standard_normal(v.shape) for k, v in p.items()} for _ in range(5)]


def long_problem(rng, steps=50):
    p = {k: rng.standard_normal(shape) for k, shape in SHAPES.items()}
    return p, [{"d" + k: rng.standard_normal(v.shape) for k, v in p.items()} for _ in range(steps)]


def train(optimizer, p, steps, **keywords):
    state = optimizer.init(p)
    for t, grads in enumerate(steps, start=1):
        p, state = optimizer.update(p, grads, state, t, **keywords)
    return p, state


def train_torch(name, options, p, steps, schedule=None, learning_rate=0.05):
    """Take the same steps with torch.optim; return the parameters and the learning rates."""
    torch = pytest.importorskip("torch")
    theirs = {k: torch.tensor(v, requires_grad=True) for k, v in p.items()}
    optimizer = getattr(torch.optim, name)(theirs.values(), lr=learning_rate, **options)
    scheduler = schedule(torch.optim.lr_scheduler, optimizer) if schedule else None
    rates = []
    for grads in steps:
        for k, tensor in theirs.items():
            tensor.grad = torch.tensor(grads["d" + k])
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler:
            scheduler.step()
    return {k: tensor.detach().numpy() for k, tensor in theirs.items()}, rates


def test_optimizers_are_torchs(case, rng):
    ours, name, options = case
    p, steps = long_problem(rng)
    new, _ = train(ours, p, steps)
    expected, _ = train_torch(name, options, p, steps)
    for k in p:
        assert_close(new[k], expected[k], 1e-12, k)


def test_optimizers_with_a_schedule_are_torchs(rng):
    p, steps = long_problem(rng)
    for ours, name, options in (
        (AdamW(StepDecay(0.05, 7, 0.3), weight_decay=0.5), "AdamW", {"weight_decay": 0.5}),
        (Momentum(StepDecay(0.05, 7, 0.3)), "SGD", {"momentum": 0.9}),
    ):
        expected, _ = train_torch(name, options, p, steps, lambda s, o: s.StepLR(o, 7, 0.3))
        new, _ = train(ours, p, steps)
        for k in p:
            assert_close(new[k], expected[k], 1e-12, k)


def test_in_place_is_the_same_bit_for_bit(case, rng, runtime):
    ours, _, _ = case
    p, steps = long_problem(rng, 3)
    p, *steps = ({k: runtime.asarray(v.astype("float32")) for k, v in tree.items()} for tree in (p, *steps))
    before = {k: np.array(to_numpy(v)) for k, v in p.items()}
    pure, pure_state = train(ours, p, steps)
    for k, v in p.items():
        np.testing.assert_array_equal(to_numpy(v), before[k])
    new, state = train(ours, p, steps, in_place=True)
    assert state.keys() == pure_state.keys()
    for k, v in {**pure, **pure_state}.items():
        np.testing.assert_array_equal(to_numpy({**new, **state}[k]), to_numpy(v))
        assert v.dtype == p["W"].dtype
    writable = not runtime.readonly and "jax" not in runtime.xp.__name__
    for k, v in p.items():
        assert (new[k] is v) == writable
        if not writable:
            np.testing.assert_array_equal(to_numpy(v), before[k])


def test_engines_agree_bit_for_bit(case, rng):
    """The compiled rules round every sum and product, as NumPy does."""
    ours, _, _ = case
    p, steps = long_problem(rng, 3)
    for dtype in ("float32", "float64"):
        own, *grads = ({k: v.astype(dtype) for k, v in tree.items()} for tree in (p, *steps))
        with rnnx.use_engine("reference"):
            expected, expected_state = train(ours, own, grads)
        new, state = train(ours, own, grads)
        for k, v in {**expected, **expected_state}.items():
            np.testing.assert_array_equal({**new, **state}[k], v)


def test_all_parameters_are_updated_in_one_call(case, rng, monkeypatch):
    ours, _, _ = case
    p, steps = long_problem(rng, 2)
    calls = []
    operations = type(engines.operations(np))
    whole = operations.elementwise
    monkeypatch.setattr(operations, "elementwise", lambda *arguments: calls.append(arguments) or whole(*arguments))
    train(ours, p, steps)
    assert [len(rows) for _, _, _, rows, _ in calls] == [len(p)] * 2


def test_out_must_be_like_the_parameters_and_the_state(rng):
    p, (grads,) = long_problem(rng, 1)
    state = Adam().init(p)
    for change in ({"W": np.ones((4, 3))}, {"b": np.ones((3, 1), "float32")}, {"v": None}):
        out = ({k: np.ones_like(a) for k, a in p.items()} | change, {k: np.ones_like(a) for k, a in state.items()})
        with pytest.raises(ValueError, match=f"`out` must hold arrays like .*; '{next(iter(change))}' differs"):
            Adam().update(p, grads, state, 1, out=out)
        assert all(a is None or (a == 1).all() for tree in out for a in tree.values())


@pytest.mark.parametrize(
    ("place", "change", "error"),
    [
        (0, {"b": np.ones((3, 2))}, ValueError),
        (0, {"b": np.ones((3, 1), int)}, TypeError),
        (1, {"dW": np.ones((4, 3)).T[:, :3]}, ValueError),
        (1, {"dW": np.ones((3, 4), complex)}, TypeError),
        (1, {"dW": None}, TypeError),
        (1, {7: np.ones(1)}, TypeError),
        (2, {"v.dW": np.ones((3, 4), "float32")}, TypeError),
        (2, {"v.dx": np.ones((3, 4))}, ValueError),
        (3, {"W": np.ones((3, 4), "float32")}, ValueError),
        (4, {"s.dv": np.ones((2, 3))}, ValueError),
    ],
)
def test_an_update_like_an_earlier_one_but_for_one_array(place, change, error, rng):
    """What was found right for arrays of the same kinds does not hide an error."""
    p, (grads,) = long_problem(rng, 1)
    state = Adam().init(p)
    trees = [p, grads, state, *({k: np.empty_like(a) for k, a in tree.items()} for tree in (p, state))]
    for _ in range(2):
        new = Adam().update(*trees[:3], 1, out=(trees[3], trees[4]))
        assert all(new[0][k] is trees[3][k] for k in p)
    trees[place] = trees[place] | change
    with pytest.raises(error):
        Adam().update(*trees[:3], 1, out=(trees[3], trees[4]))


def test_an_optimizer_of_ones_own(rng):
    class Signs(optim.Optimizer):
        """Steps of one size."""

        learning_rate = 0.5

        def numbers(self, rate, t):
            return {"rate": rate / t}

        @staticmethod
        def rule(ops, n, p, g, *state):
            return (p - n["rate"] * ops.sign(g),)

    p, steps = long_problem(rng, 2)
    new, state = train(Signs(), p, steps)
    assert state == {}
    for k in p:
        np.testing.assert_array_equal(
            new[k], p[k] - 0.5 * np.sign(steps[0]["d" + k]) - 0.25 * np.sign(steps[1]["d" + k])
        )


def test_in_place_keeps_the_arrays_of_the_state(case, rng):
    ours, _, _ = case
    p, steps = long_problem(rng, 2)
    p, state = ours.update(p, steps[0], ours.init(p), 1, in_place=True)
    kept = dict(state)
    _, state = ours.update(p, steps[1], state, 2, in_place=True)
    assert state.keys() == kept.keys()
    assert all(state[k] is kept[k] for k in kept)


def test_in_place_on_arrays_of_any_layout(rng):
    """Views and Fortran order are updated in place; a read-only array is replaced."""
    base = rng.standard_normal((6, 8))
    p = {"W": base[::2, 1::2], "F": np.asfortranarray(rng.standard_normal((4, 5))), "r": rng.standard_normal(3)}
    p["r"].flags.writeable = False
    kept, before = base.copy(), p["r"].copy()
    steps = [{"d" + k: rng.standard_normal(v.shape) for k, v in p.items()} for _ in range(2)]
    expected, _ = train(Adam(), p, steps)
    new, _ = train(Adam(), p, steps, in_place=True)
    for k in p:
        np.testing.assert_array_equal(new[k], expected[k])
    np.testing.assert_array_equal(base[::2, 1::2], new["W"])
    np.testing.assert_array_equal(base[1::2], kept[1::2])
    np.testing.assert_array_equal(p["r"], before)


def test_a_parameter_without_axes_stays_an_array(case, runtime):
    ours, _, _ = case
    p, grads = {"w": runtime.asarray(np.array(3.0))}, {"dw": runtime.asarray(np.array(2.0))}
    pure, state = train(ours, p, [grads] * 2)
    new, _ = train(ours, p, [grads] * 2, in_place=True)
    assert {type(a) for a in (*pure.values(), *state.values())} == {type(p["w"])}
    assert float(pure["w"]) == float(new["w"]) < 3


def test_in_place_writes_nothing_after_a_failed_check(problem):
    p, (grads, *_) = problem
    optimizer = Adam()
    state = optimizer.init(p)
    before = {k: v.copy() for k, v in {**p, **state}.items()}
    tied = {"W": p["W"], "b": p["b"], "W2": p["W"]}
    for call, error, message in (
        (lambda u: u(p, {**grads, "db": p["W"]}, state, 1), ValueError, r"`db` must have shape"),
        (lambda u: u(p, {**grads, "db": grads["db"] * 1j}, state, 1), TypeError, "`db` must hold real numbers"),
        (lambda u: u(p, grads, {**state, "s.db": p["W"]}, 1), ValueError, r"`s.db` must have shape"),
        (
            lambda u: u(p, grads, {**state, "s.db": state["s.db"].astype("float32")}, 1),
            TypeError,
            "`s.db` must have the dtype of b, float64; got float32",
        ),
        (
            lambda u: u(p, grads, SGD().init(p), 1),
            ValueError,
            r"`state` must have the keys of init\(parameters\); missing \['s.dW', 's.db', 'v.dW', 'v.db'",
        ),
        (lambda u: u(p, grads, {**state, "m.dW": p["W"]}, 1), ValueError, r"unknown \['m.dW'\]"),
        (lambda u: u(p, {**grads, "dW": p["W"]}, state, 1), ValueError, "`W` and `dW` are the same array"),
        (
            lambda u: u(tied, {**grads, "dW2": grads["dW"].copy()}, optimizer.init(tied), 1),
            ValueError,
            "`W` and `W2` are the same array",
        ),
    ):
        with pytest.raises(error, match=message):
            call(partial(optimizer.update, in_place=True))
    for k, v in {**p, **state}.items():
        np.testing.assert_array_equal(v, before[k])
    new, _ = optimizer.update(tied, {**grads, "dW2": grads["dW"]}, optimizer.init(tied), 1)
    np.testing.assert_array_equal(new["W"], new["W2"])  # the pure update allows it


def test_leaves_that_require_a_gradient():
    """torch would record the graph of every step."""
    torch = pytest.importorskip("torch")
    p = {"w": torch.ones(3, requires_grad=True)}
    for in_place in (False, True):
        with pytest.raises(ValueError, match=r"`w` must not have requires_grad=True; pass `w.detach\(\)`"):
            SGD().update(p, {"dw": torch.ones(3)}, {}, 1, in_place=in_place)


def test_adam_of_the_course(problem):
    """Signature, results and keys; inputs are not modified and other gradients are ignored."""
    p, (grads, *_) = problem
    before = {k: v.copy() for k, v in p.items()}
    v, s = rnnx.initialize_adam(p)
    assert set(v) == set(s) == {"dW", "db"}
    new, v1, s1 = rnnx.update_parameters_with_adam(p, {**grads, "dx": np.ones(3)}, v, s, 1)
    assert_close(v1["dW"], 0.1 * grads["dW"], 1e-14)
    assert_close(s1["dW"], 0.001 * grads["dW"] ** 2, 1e-12)
    assert_close(new["W"], p["W"] - 0.01 * np.sign(grads["dW"]), 1e-6)
    for k in p:
        np.testing.assert_array_equal(p[k], before[k])
        assert not v["d" + k].any()
        assert not s["d" + k].any()


def test_adam_is_torchs(problem):
    p, steps = problem
    expected, _ = train_torch("Adam", {}, p, steps, learning_rate=0.02)
    v, s = rnnx.initialize_adam(p)
    for t, grads in enumerate(steps, start=1):
        p, v, s = rnnx.update_parameters_with_adam(p, grads, v, s, t, learning_rate=0.02)
    for k in p:
        assert_close(p[k], expected[k], 1e-12, k)


def test_adamw_is_torchs(problem):
    p, steps = problem
    expected, _ = train_torch("AdamW", {"weight_decay": 0.3}, p, steps, learning_rate=0.02)
    v, s = optim.initialize_adam(p)
    for t, grads in enumerate(steps, start=1):
        p, v, s = optim.update_parameters_with_adamw(p, grads, v, s, t, learning_rate=0.02, weight_decay=0.3)
    for k in p:
        assert_close(p[k], expected[k], 1e-12, k)


def test_rmsprop_is_torchs(problem):
    p, steps = problem
    expected, _ = train_torch("RMSprop", {"alpha": 0.9}, p, steps, learning_rate=0.02)
    s = optim.initialize_velocity(p)
    for grads in steps:
        p, s = optim.update_parameters_with_rmsprop(p, grads, s, learning_rate=0.02, alpha=0.9)
    for k in p:
        assert_close(p[k], expected[k], 1e-12, k)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_of_the_course(problem, nesterov):
    """v is a mean of gradients; torch's convention takes the same steps with (1 - beta) of the learning rate."""
    p, steps = problem
    start, before = p, {k: a.copy() for k, a in p.items()}
    v = zero = optim.initialize_velocity(p)
    assert set(v) == {"dW", "db"}
    expected = {k: a.copy() for k, a in p.items()}
    mean = dict.fromkeys(p, 0.0)
    for grads in steps:
        p, v = optim.update_parameters_with_momentum(p, grads, v, 0.8, 0.1, nesterov=nesterov)
        for k in p:
            mean[k] = 0.8 * mean[k] + 0.2 * grads["d" + k]
            expected[k] -= 0.1 * (0.8 * mean[k] + 0.2 * grads["d" + k] if nesterov else mean[k])
    same, _ = train(Momentum(0.1 * (1 - 0.8), 0.8, nesterov), start, steps)
    for k in p:
        assert_close(v["d" + k], mean[k], 1e-14, k)
        assert_close(p[k], expected[k], 1e-14, k)
        assert_close(same[k], expected[k], 1e-12, k)
        np.testing.assert_array_equal(start[k], before[k])
        assert not zero["d" + k].any()


def test_decoupled_decay_leaves_the_moments_alone(problem):
    """AdamW shrinks parameters without gradient by one factor; in Adam the decay is part of the gradient."""
    p, _ = problem
    grads = {"d" + k: np.zeros_like(a) for k, a in p.items()}
    new, state = AdamW(0.1, weight_decay=0.5).update(p, grads, AdamW().init(p), 1)
    assert_close(new["W"], 0.95 * p["W"], 1e-15)
    assert not any(a.any() for a in state.values())
    new, _ = Adam(0.1, weight_decay=0.5).update(p, grads, Adam().init(p), 1)
    assert_close(new["W"], p["W"] - 0.1 * np.sign(p["W"]), 1e-6)


def test_centered_rmsprop_survives_a_constant_gradient():
    """Rounding sometimes makes s - m**2 negative."""
    p, grads = {"w": np.zeros(64, "float32")}, {"dw": np.linspace(0.1, 7, 64, dtype="float32")}
    optimizer = RMSProp(1e-9, alpha=0.9, centered=True)
    p, state = train(optimizer, p, [grads] * 300)
    assert (state["s.dw"] - state["m.dw"] ** 2).min() < 0  # otherwise this tests nothing
    assert np.isfinite(p["w"]).all()


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_optimizers_find_the_minimum(name, runtime):
    optimizer = OPTIMIZERS[name](learning_rate=LinearWarmup(StepDecay(0.1, 50, 0.4), 5))
    p = {"w": runtime.asarray(np.array([3.0, -2.0], "float32"))}
    state = optimizer.init(p)
    for t in range(1, 201):
        p, state = optimizer.update(p, {"dw": 2 * p["w"]}, state, t, in_place=True)
    assert type(p["w"]) is type(runtime.asarray(np.zeros(2)))
    assert str(p["w"].dtype).endswith("float32")
    assert np.abs(to_numpy(p["w"])).max() < (0.2 if name in ("adam", "adamw", "rms", "rmsprop") else 1e-2)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (StepDecay(0.3, 4, 0.5), lambda s, o: s.StepLR(o, 4, 0.5)),
        (StepDecay(0.3, 1, 1), lambda s, o: s.ConstantLR(o, 1.0)),
        (ExponentialDecay(0.3, 0.9), lambda s, o: s.ExponentialLR(o, 0.9)),
        (ExponentialDecay(0.3, 0.9, 5), lambda s, o: s.LambdaLR(o, lambda e: 0.9 ** (e / 5))),
        (InverseTimeDecay(0.3, 0.7, 3), lambda s, o: s.LambdaLR(o, lambda e: 1 / (1 + 0.7 * e / 3))),
        (CosineDecay(0.3, 20), lambda s, o: s.CosineAnnealingLR(o, 20)),
        (CosineDecay(0.3, 20, 0.01), lambda s, o: s.CosineAnnealingLR(o, 20, 0.01)),
        (LinearWarmup(0.3, 8), lambda s, o: s.LinearLR(o, 1 / 8, 1, 7)),
        (
            LinearWarmup(ExponentialDecay(0.3, 0.8), 5),
            lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 1 / 5, 1, 4), s.ExponentialLR(o, 0.8)], [5]),
        ),
        (
            CosineDecay(0.3, 20, 0.1, warmup=6),
            lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 1 / 6, 1, 5), s.CosineAnnealingLR(o, 14, 0.1)], [6]),
        ),
    ],
    ids=lambda x: type(x).__name__,
)
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")  # torch's own call
def test_schedules_are_torchs(ours, theirs):
    _, expected = train_torch("SGD", {}, {"w": np.zeros(1)}, [{"dw": np.zeros(1)}] * 20, theirs, learning_rate=0.3)
    np.testing.assert_allclose([ours(t) for t in range(1, 21)], expected, rtol=1e-12)


def test_values_of_schedules():
    """Hand-computed values where each schedule begins, changes and ends."""
    assert [StepDecay(8.0, 2, 0.5)(t) for t in (1, 2, 3, 4, 5)] == [8, 8, 4, 4, 2]
    assert ExponentialDecay(8.0, 0.25, 2)(2) == 4
    assert InverseTimeDecay(8.0, 1.0)(4) == 2
    cosine = CosineDecay(8.0, 10, 2.0)
    assert [cosine(1), cosine(11), cosine(1000)] == [8, 2, 2]
    assert cosine(6) == pytest.approx(5)
    assert [LinearWarmup(8.0, 4)(t) for t in (1, 2, 4, 5, 99)] == [2, 4, 8, 8, 8]
    assert [learning_rate_at(x, 3) for x in (0.5, np.float32(0.5), lambda t: t / 6)] == [0.5, 0.5, 0.5]
    for t in range(1, 40):
        assert CosineDecay(3.0, 30, 1.0, 10)(t) == LinearWarmup(CosineDecay(3.0, 20, 1.0), 10)(t)


rates = st.floats(1e-6, 10)
shares = st.floats(0.01, 1)
counts = st.integers(1, 50)
decays = st.one_of(
    st.builds(StepDecay, rates, counts, shares),
    st.builds(ExponentialDecay, rates, shares, counts),
    st.builds(InverseTimeDecay, rates, st.floats(0, 5), counts),
    rates.flatmap(lambda r: st.builds(CosineDecay, st.just(r), counts, st.floats(0, r))),
)
schedules = decays | st.builds(LinearWarmup, rates | decays, counts)


@given(schedules, st.integers(1, 200))
def test_schedules_fall_and_survive_a_round_trip(schedule, t):
    rate = schedule(t)
    assert math.isfinite(rate)
    assert rate >= 0
    start = schedule.steps if isinstance(schedule, LinearWarmup) else 0
    assert schedule(t + start + 1) <= schedule(t + start) * (1 + 1e-12)
    assert all(schedule(i) < schedule(i + 1) for i in range(1, start))
    config = optimizer_config(Adam(schedule))
    assert optimizer_from_config(json.loads(json.dumps(config))) == Adam(schedule)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_optimizers_survive_a_round_trip(name):
    for rate in (np.float32(0.25), 1, LinearWarmup(CosineDecay(0.1, 100, 0.01, 5), 3)):
        optimizer = OPTIMIZERS[name](learning_rate=rate, weight_decay=np.float64(0.1))
        config = json.loads(json.dumps(optimizer_config(optimizer)))
        assert optimizer_from_config(config) == optimizer
        assert type(optimizer_from_config(config)) is type(optimizer)
    assert optimizer_from_config({"name": name, "learning_rate": 0.25}) == OPTIMIZERS[name](0.25)


def test_plain_values():
    assert optimizer_config(Momentum(0.1, nesterov=True)) == {
        "name": "momentum",
        "learning_rate": 0.1,
        "momentum": 0.9,
        "nesterov": True,
        "dampening": 0.0,
        "weight_decay": 0.0,
    }
    assert optimizer_config(SGD(LinearWarmup(StepDecay(0.1, 5), 3)))["learning_rate"] == {
        "schedule": "warmup",
        "then": {"schedule": "step", "initial": 0.1, "every": 5, "factor": 0.5},
        "steps": 3,
    }
    assert {type(OPTIMIZERS[name]()).__name__ for name in OPTIMIZERS} == {"SGD", "Momentum", "RMSProp", "Adam", "AdamW"}
    assert OPTIMIZERS["rms"] is RMSProp


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ("adam", TypeError, "`config` must be a dict; got str"),
        ({}, ValueError, r"`name` in `config` must be one of \['sgd', 'momentum', .*\]; got None"),
        ({"name": "adma"}, ValueError, "`name` in `config` must be one of .* got 'adma'"),
        ({"name": ["adam"]}, ValueError, r"`name` in `config` must be one of .* got \['adam'\]"),
        ({"name": "adam", "lr": 1}, ValueError, r"`config` for adam takes keys \['name', 'learning_rate', .* \['lr'\]"),
        ({"name": "sgd", "learning_rate": "1"}, TypeError, "`learning_rate` must be a number; got str"),
        ({"name": "sgd", "learning_rate": None}, TypeError, "`learning_rate` must be a number; got NoneType"),
        ({"name": "sgd", "learning_rate": True}, TypeError, "`learning_rate` must be a number; got bool"),
        ({"name": "sgd", "learning_rate": 0}, ValueError, "`learning_rate` must be a positive number; got 0"),
        ({"name": "sgd", "weight_decay": -1}, ValueError, "`weight_decay` must be a number of at least 0; got -1"),
        ({"name": "rms", "centered": 1}, TypeError, "`centered` must be True or False; got 1"),
        ({"name": "nesterov", "dampening": 0.5}, ValueError, "`nesterov` needs `momentum` > 0 and `dampening` = 0"),
        ({"name": "nesterov", "momentum": 0}, ValueError, "`nesterov` needs `momentum` > 0 and `dampening` = 0"),
        ({"name": "adam", "beta2": 1.0}, ValueError, r"`beta2` must be a number in \[0, 1\); got 1.0"),
        (
            {"name": "adam", "learning_rate": {"schedule": "steps"}},
            ValueError,
            "`schedule` in `learning_rate` must be one of .* got 'steps'",
        ),
        (
            {"name": "adam", "learning_rate": {"schedule": "step", "initial": 1}},
            ValueError,
            r"`learning_rate` for step takes keys \['schedule', 'initial', 'every', 'factor'\]; missing \['every'\]",
        ),
        (
            {"name": "adam", "learning_rate": {"schedule": "step", "initial": 1, "every": 1.5}},
            TypeError,
            "`every` must be an integer of at least 1; got 1.5",
        ),
    ],
)
def test_messages_about_plain_values(config, error, message):
    with pytest.raises(error, match=message):
        optimizer_from_config(config)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: optimizer_config(object()), TypeError, "`optimizer` must be one of .* to be saved; got <object"),
        (lambda: optimizer_config(SGD(lambda t: 0.1)), TypeError, "`learning_rate` must be one of .*'cosine'"),
        (lambda: StepDecay(0.1, 0), ValueError, "`every` must be an integer of at least 1; got 0"),
        (lambda: StepDecay(0.1, True), TypeError, "`every` must be an integer of at least 1; got True"),
        (lambda: StepDecay(0.1, 5, 1.5), ValueError, r"`factor` must be a number in \(0, 1\]; got 1.5"),
        (lambda: CosineDecay(0.1, 5, -0.1), ValueError, "`final` must be a number of at least 0; got -0.1"),
        (lambda: CosineDecay(0.1, 5, warmup=5), ValueError, "`warmup` must be below `steps` = 5; got 5"),
        (lambda: StepDecay(0.1, 5)(0), ValueError, "`t` must be an integer of at least 1; got 0"),
        (
            lambda: learning_rate_at(lambda t: -1.0, 7),
            ValueError,
            r"`learning_rate\(7\)` must be a number of at least 0; got -1.0",
        ),
        (
            lambda: learning_rate_at(lambda t: math.nan, 7),
            ValueError,
            r"`learning_rate\(7\)` must be a number of at least 0; got nan",
        ),
        (lambda: Adam().init({}), TypeError, "expected at least one array; got none"),
    ],
)
def test_messages_about_optimizers_and_schedules(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_schedule_may_end_at_zero(problem):
    p, (grads, *_) = problem
    new, _ = SGD(CosineDecay(0.1, 4)).update(p, grads, {}, 5)
    np.testing.assert_array_equal(new["W"], p["W"])


@pytest.mark.slow
def test_the_picture_of_the_paths(tmp_path):
    """The stored picture is what the script draws, and shows what docs/optimizers.md says."""
    pytest.importorskip("matplotlib")
    script = runpy.run_path(PICTURES / "optimizer_paths.py")
    script["main"](tmp_path / "paths.svg")
    drawn = (tmp_path / "paths.svg").read_bytes()
    assert b"<dc:date>" not in drawn
    assert drawn.count(b"<path") == (PICTURES / "optimizer_paths.svg").read_bytes().count(b"<path")
    paths = {name: script["path"](optimizer) for name, _, _, optimizer in script["PATHS"]}
    lowest = script["LOWEST"]
    # The zigzag and the crawl of SGD; the overshooting of momentum; the stride and the kick of RMSProp; the decay.
    sideways, along = (paths["SGD"].T - lowest).T[::-1]
    np.testing.assert_allclose(sideways[1:11] / sideways[:10], -0.8, rtol=1e-6)
    np.testing.assert_allclose(along[1:] / along[:-1], 0.955, rtol=1e-6)
    assert paths["Momentum"][0].max() > lowest[0] + 1
    assert np.ptp(paths["Nesterov"][1, 10:]) < 0.3 * np.ptp(paths["Momentum"][1, 10:])
    stride = np.diff(paths["RMSProp"][:, :2], axis=1)[:, 0]
    assert stride[0] == pytest.approx(-stride[1], rel=1e-6)
    assert np.abs(paths["RMSProp"][1, 10:] - 1).argmax() + 10 == 53
    assert paths["AdamW"][0, -1] < 3.5 < paths["Adam"][0, -1]


def test_names():
    assert optim.__all__ == sorted(optim.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    assert all(getattr(optim, name).__doc__ for name in optim.__all__ if name != "Schedule")
    assert set(SCHEDULES.values()) == {StepDecay, ExponentialDecay, InverseTimeDecay, CosineDecay, LinearWarmup}


def test_clip_by_value():
    clipped = rnnx.clip_by_value({"dW": np.array([-9.0, 1.0, np.nan, np.inf])}, 5)
    np.testing.assert_array_equal(clipped["dW"], [-5, 1, np.nan, 5])


def test_clip_by_global_norm(runtime):
    grads = {"dW": runtime.asarray(np.array([3.0, 0.0])), "db": runtime.asarray(np.array([[4.0]]))}
    clipped, norm = rnnx.clip_by_global_norm(grads, 1.0)
    assert float(norm) == pytest.approx(5)
    np.testing.assert_allclose(to_numpy(clipped["dW"]), [0.6, 0])
    np.testing.assert_allclose(to_numpy(clipped["db"]), [[0.8]])
    same, _ = rnnx.clip_by_global_norm(grads, 10.0)
    np.testing.assert_array_equal(to_numpy(same["db"]), [[4]])


def test_clip_by_norm(runtime):
    """Each gradient is clipped separately, as by Keras' clipnorm."""
    grads = {
        "dW": np.array([3.0, 4.0], "float32"),
        "db": np.array([[0.5]], "float32"),
        "de": np.zeros((0, 2), "float32"),
    }
    clipped = optim.clip_by_norm({k: runtime.asarray(g) for k, g in grads.items()}, 1.0)
    np.testing.assert_allclose(to_numpy(clipped["dW"]), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(to_numpy(clipped["db"]), [[0.5]])
    assert clipped["de"].shape == (0, 2)
    assert all(str(g.dtype).endswith("float32") for g in clipped.values())
    assert optim.clip_by_norm({}, 1.0) == {}


def test_clipping_keeps_the_dtype_of_each(runtime):
    grads = {"dW": runtime.asarray(np.full(4, 3.0, "float32")), "db": runtime.asarray(np.full(4, 4.0))}
    clipped, norm = rnnx.clip_by_global_norm(grads, 5.0)
    assert [clipped[k].dtype == g.dtype for k, g in grads.items()] == [True, True]
    assert float(norm) == pytest.approx(10)
    np.testing.assert_allclose(to_numpy(clipped["db"]), 2)


def test_the_norm_of_large_gradients_does_not_overflow():
    grads = {"dW": np.full(4, 1e30, "float32")}
    clipped, norm = rnnx.clip_by_global_norm(grads, 1.0)
    assert float(norm) == pytest.approx(2e30)
    np.testing.assert_allclose(clipped["dW"], 0.5)
    zero, norm = rnnx.clip_by_global_norm({"dW": np.zeros(3)}, 1.0)
    assert float(norm) == 0
    assert not zero["dW"].any()


def test_numpy_hyper_parameters_do_not_change_the_dtype(problem):
    p, (grads, *_) = problem
    p, grads = ({k: a.astype("float32") for k, a in tree.items()} for tree in (p, grads))
    rate = np.float64(0.01)
    v, s = rnnx.initialize_adam(p)
    for results in (
        *rnnx.update_parameters_with_adam(p, grads, v, s, np.int64(1), rate, np.float64(0.9)),
        rnnx.update_parameters_with_sgd(p, grads, rate),
        *optim.update_parameters_with_momentum(p, grads, v, np.float64(0.9), rate),
        *optim.update_parameters_with_rmsprop(p, grads, s, rate, np.float64(0.9), np.float64(1e-8)),
        *optim.update_parameters_with_adamw(p, grads, v, s, 1, rate, weight_decay=np.float64(0.1)),
        *Adam(rate, np.float64(0.9)).update(p, grads, Adam().init(p), np.int64(1)),
        *SGD(lambda t: np.float64(0.1)).update(p, {k: g.astype("float64") for k, g in grads.items()}, {}, 1)[:1],
        optim.clip_by_norm(grads, rate),
        rnnx.clip_by_global_norm(grads, rate)[0],
        rnnx.clip_by_value(grads, rate),
    ):
        assert {str(a.dtype) for a in results.values()} == {"float32"}


def test_messages(problem):
    p, (grads, *_) = problem
    v, s = rnnx.initialize_adam(p)
    for call, message in (
        (
            lambda: rnnx.update_parameters_with_adam(p, {"dW": p["W"]}, v, s, 1),
            r"`grads` must hold a gradient for every parameter; missing \['db'\]",
        ),
        (
            lambda: rnnx.update_parameters_with_adam(p, {**grads, "db": p["W"]}, v, s, 1),
            r"`db` must have shape \(the shape of b\) = \(3, 1\); got \(3, 4\)",
        ),
        (lambda: rnnx.update_parameters_with_adam(p, grads, v, s, 0), "`t` must be an integer of at least 1; got 0"),
        (
            lambda: rnnx.update_parameters_with_adam(p, grads, v, s, 1, beta1=1),
            r"`beta1` must be a number in \[0, 1\); got 1",
        ),
        (lambda: rnnx.update_parameters_with_sgd(p, grads, -1), "`learning_rate` must be a positive number; got -1"),
        (
            lambda: rnnx.update_parameters_with_adam(p, grads, {}, s, 1),
            r"`v` must have the keys of initialize_adam\(parameters\); missing \['dW', 'db'\]",
        ),
        (lambda: rnnx.clip_by_global_norm({}, 1), "`grads` must hold at least one non-empty array"),
        (
            lambda: rnnx.clip_by_global_norm({"dW": np.ones(2) * 1j}, 1),
            "`dW` must have dtype float32, float64, integer",
        ),
        (lambda: optim.clip_by_norm(grads, -1), "`max_norm` must be a positive number; got -1"),
        (
            lambda: optim.update_parameters_with_momentum(p, grads, {}),
            r"`v` must have the keys of initialize_velocity\(parameters\); missing \['dW', 'db'\]",
        ),
        (
            lambda: optim.update_parameters_with_rmsprop(p, grads, v, alpha=1),
            r"`alpha` must be a number in \[0, 1\); got 1",
        ),
        (lambda: rnnx.clip_by_value(grads, 0), "`max_value` must be a positive number; got 0"),
        (lambda: rnnx.clip_by_global_norm(grads, float("nan")), "`max_norm` must be a positive number; got nan"),
        (lambda: rnnx.initialize_parameters("lstm", 0, 3), "`n_x` must be an integer of at least 1; got 0"),
        (
            lambda: rnnx.initialize_parameters("lstm", 2, 3, scheme="keres"),
            r"`scheme` must be one of \['course', 'keras', 'torch'\]",
        ),
        (
            lambda: rnnx.initialize_parameters("lstm", 2, 3, dtype="int8"),
            "`dtype` must be 'float32' or 'float64'; got 'int8'",
        ),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            call()


@pytest.mark.parametrize("scheme", ["course", "keras", "torch"])
def test_initialisation(cell, scheme):
    p = rnnx.initialize_parameters(cell, 7, 50, 4, scheme=scheme, seed=3, dtype="float64")
    again = rnnx.initialize_parameters(cell, 7, 50, 4, scheme=scheme, seed=np.random.default_rng(3), dtype="float64")
    assert all(np.array_equal(p[k], again[k]) for k in p)
    single = rnnx.initialize_parameters(cell, 7, 50, 4, scheme=scheme, seed=3)
    assert {str(v.dtype) for v in single.values()} == {"float32"}
    head = p[cell.head[0]]
    recurrent = p["Waa"] if "Waa" in p else p[cell.gates[0].weights[0]][:, :50]
    if scheme == "keras":
        assert_close(recurrent @ recurrent.T, np.eye(50), 1e-12)
        assert np.abs(head).max() <= np.sqrt(6 / 54)
    elif scheme == "torch":
        assert 0.9 / np.sqrt(50) < max(np.abs(v).max() for v in p.values()) <= 1 / np.sqrt(50)
    else:
        assert np.std(recurrent) == pytest.approx(0.01, rel=0.05)
    if cell.name == "lstm":
        assert (p["bf"] == 1).all() == (scheme == "keras")
        assert (rnnx.initialize_parameters(cell, 7, 5, scheme=scheme, forget_bias=2)["bf"] == 2).all()
        assert not (p["bi"] == 1).any()


def test_initialisation_in_another_library():
    strict = pytest.importorskip("array_api_strict")
    p = rnnx.initialize_parameters("gru", 2, 3, seed=0, xp=strict)
    q = rnnx.initialize_parameters("gru", 2, 3, seed=0)
    np.testing.assert_array_equal(to_numpy(p["Wu"]), q["Wu"])


def test_arguments_that_are_not_numbers_are_named(problem):
    p, (grads, *_) = problem
    with pytest.raises(TypeError, match=r"`learning_rate` must be a number; got an array of shape \(2,\)"):
        SGD(np.array([0.1, 0.2]))
    assert SGD(np.array(0.5)).learning_rate == 0.5
    with pytest.raises(TypeError, match=r"`learning_rate\(3\)` must be a number; got NoneType"):
        SGD(lambda t: None).update(p, grads, {}, 3)
    with pytest.raises(TypeError, match="`nesterov` must be True or False; got 'no'"):
        optim.update_parameters_with_momentum(p, grads, optim.initialize_velocity(p), nesterov="no")


def test_half_precision_is_refused(runtime):
    """In half precision, both the square of a gradient of 1e-4 and epsilon are zero."""
    if "strict" in runtime.xp.__name__:
        pytest.skip("it has no half precision")
    p = {"w": runtime.asarray(np.ones(3, "float16"))}
    grads = {"dw": runtime.asarray(np.ones(3, "float16"))}
    for optimizer in (SGD(), Adam()):
        with pytest.raises(TypeError, match=r"`w` must be float32 or float64, because small steps vanish in .*float16"):
            optimizer.update(p, grads, optimizer.init(p), 1)
    wide = {"w": runtime.asarray(np.ones(3, "float32"))}
    new, _ = SGD(0.5).update(wide, grads, {}, 1)  # gradients may be narrow
    assert to_numpy(new["w"]).tolist() == [0.5] * 3
