"""`rnnx.interop.torch` beside torch's own layers, in everything that users of those rely on."""

import copy
import itertools
import pickle
import subprocess
import sys

import numpy as np
import pytest
from head_cells import HEADS

import rnnx
from rnnx.cells.options import with_options
from rnnx.engines.cpu.runtime import thread_policy

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch.*")

from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence  # noqa: E402

import rnnx.interop.torch as rt  # noqa: E402
from rnnx.interop.torch.weights import name_of_module  # noqa: E402

T, M, N_X, N = 6, 3, 4, 5
KINDS = ["LSTM", "GRU", "RNN"]


def pair(kind, *args, dtype=torch.float64, **options):
    """Torch's layer and ours, with the same weights."""
    torch.manual_seed(1)
    theirs = getattr(torch.nn, kind)(N_X, N, *args, dtype=dtype, **options)
    ours = getattr(rt, kind)(N_X, N, *args, dtype=dtype, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def tensors(result):
    """All tensors of nested results."""
    if isinstance(result, PackedSequence):
        return [result.data]
    return [result] if torch.is_tensor(result) else [tensor for part in result for tensor in tensors(part)]


def run(layer, x, hx=None):
    """Results, and gradients of inputs, states and parameters for random cotangents."""
    given = [tensor for tensor in tensors([x] if hx is None else [x, hx]) if tensor.requires_grad]
    results = tensors(layer(x, hx))
    torch.manual_seed(2)
    loss = sum((result * torch.randn(result.shape, dtype=torch.float64).to(result)).sum() for result in results)
    return [*results, *torch.autograd.grad(loss, [*given, *layer.parameters()])]


def assert_same(actual, expected, tolerance=1e-12):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert float((a - b).detach().abs().max()) <= tolerance * max(float(b.detach().abs().max()), 1)


def states(kind, rows, m, options):
    widths = [options.get("proj_size") or N, N][: 1 + (kind == "LSTM")]
    made = [torch.randn(*((rows, width) if m is None else (rows, m, width)), dtype=torch.float64) for width in widths]
    made = [state.requires_grad_() for state in made]
    return tuple(made) if kind == "LSTM" else made[0]


# Half of all combinations, in which any three options have all their values together.
OPTIONS = [
    (kind, options)
    for kind, layers, bidirectional, bias, batch_first, proj_size in itertools.product(
        KINDS, (1, 2), (False, True), (False, True), (False, True), (0, 3)
    )
    if kind == "LSTM" or not proj_size
    if (layers + bidirectional + bias + batch_first + proj_size) % 2 == 0
    for options in [
        {"num_layers": layers, "bidirectional": bidirectional, "bias": bias, "batch_first": batch_first}
        | ({"proj_size": proj_size} if proj_size else {})
    ]
]


@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_results_and_gradients_are_torchs(kind, options):
    theirs, ours = pair(kind, **options)
    rows = options["num_layers"] * (2 if options["bidirectional"] else 1)
    first = options["batch_first"]
    x = torch.randn(*((M, T) if first else (T, M)), N_X, dtype=torch.float64, requires_grad=True)
    alone = torch.randn(T, N_X, dtype=torch.float64, requires_grad=True)
    packed = pack_padded_sequence(x.detach(), [4, 6, 2], batch_first=first, enforce_sorted=False)
    for given, m in ((x, M), (alone, None), (packed, M)):
        for hx in (None, states(kind, rows, m, options)):
            assert_same(run(ours, given, hx), run(theirs, given, hx))


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_nonlinearities(nonlinearity):
    theirs, ours = pair("RNN", 2, nonlinearity)
    assert ours.nonlinearity == nonlinearity
    x = torch.randn(T, M, N_X, dtype=torch.float64)
    assert_same(run(ours, x), run(theirs, x))


@pytest.mark.parametrize("kind", KINDS)
def test_state_dicts_and_initial_weights_are_torchs(kind):
    torch.manual_seed(3)
    theirs = getattr(torch.nn, kind)(N_X, N, 2, bidirectional=True)
    torch.manual_seed(3)
    ours = getattr(rt, kind)(N_X, N, 2, bidirectional=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert repr(ours) == repr(theirs)
    theirs.load_state_dict(ours.state_dict())


BAD_ARGUMENTS = [
    ("LSTM", (N_X,), {}),
    ("LSTM", (N_X, 0), {}),
    ("LSTM", (N_X, N), {"proj_size": N}),
    ("LSTM", (N_X, N), {"dropout": 2}),
    ("GRU", (N_X, N), {"proj_size": 2}),
    ("GRU", (N_X, N), {"num_layers": 0}),
    ("RNN", (N_X, N), {"nonlinearity": "sine"}),
    ("RNN", (N_X, 1.5), {}),
]


@pytest.mark.parametrize(("kind", "args", "options"), BAD_ARGUMENTS)
def test_errors_of_arguments_are_torchs(kind, args, options):
    messages = []
    for module in (torch.nn, rt):
        with pytest.raises((TypeError, ValueError)) as caught:
            getattr(module, kind)(*args, **options)
        messages.append((caught.type, str(caught.value).replace("_Layers", "RNNBase")))
    assert messages[0] == messages[1]


def bad_calls(kind):
    zeros = torch.zeros
    state = (zeros(1, M, N), zeros(1, M, N)) if kind == "LSTM" else zeros(1, M, N)
    wrong = (zeros(1, M, N + 1), zeros(1, M, N)) if kind == "LSTM" else zeros(1, M, N + 1)
    flat = (zeros(1, N), zeros(1, N)) if kind == "LSTM" else zeros(1, N)
    yield zeros(T, M, N_X + 1), None
    yield zeros(T), None
    yield zeros(1, T, M, N_X), None
    yield zeros(0, M, N_X), None
    yield zeros(T, M, N_X, dtype=torch.float64), None
    yield zeros(T, M, N_X), wrong
    yield zeros(T, M, N_X), flat
    yield zeros(T, N_X), state
    yield pack_padded_sequence(zeros(T, M, N_X + 1), [6, 4, 2]), None
    yield pack_padded_sequence(zeros(T, M, N_X), [6, 4, 2]), wrong
    if kind == "LSTM":
        yield zeros(T, M, N_X), (zeros(1, M, N), zeros(1, M, N + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_errors_of_calls_are_torchs(kind):
    for x, hx in bad_calls(kind):
        messages = []
        for layer in pair(kind, dtype=torch.float32):
            with pytest.raises((RuntimeError, ValueError)) as caught:
                layer(x, hx)
            messages.append((caught.type, str(caught.value)))
        expected, actual = messages
        if kind == "LSTM" and isinstance(x, PackedSequence):  # torch's does not check these, and fails later
            assert actual[1].startswith(("input.size(-1) must", "Expected hidden[0] size"))
        else:
            assert actual == expected


@pytest.mark.parametrize("kind", KINDS)
def test_no_examples(kind):
    theirs, ours = pair(kind)
    x = torch.zeros(T, 0, N_X, dtype=torch.float64)
    assert [a.shape for a in tensors(ours(x))] == [b.shape for b in tensors(theirs(x))]


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind):
    _, ours = pair(kind)
    x = torch.randn(3, 2, N_X, dtype=torch.float64, requires_grad=True)
    hx = states(kind, 1, 2, {})
    names = [name for name, _ in ours.named_parameters()]

    def call(x, *rest):
        hx = rest[:2] if kind == "LSTM" else rest[0]
        weights = dict(zip(names, rest[-len(names) :], strict=True))
        return tuple(tensors(torch.func.functional_call(ours, weights, (x, hx))))

    assert torch.autograd.gradcheck(
        call, (x, *tensors([hx]), *(p.detach().requires_grad_() for p in ours.parameters()))
    )


def test_second_derivatives_are_an_error():
    _, ours = pair("LSTM")
    x = torch.randn(T, M, N_X, dtype=torch.float64, requires_grad=True)
    (dx,) = torch.autograd.grad(ours(x)[0].sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        dx.sum().backward()


def test_without_gradients_nothing_is_kept(monkeypatch):
    from rnnx.interop.torch import passes

    kept, forward = [], passes.forward

    def spy(name, given, *, keep):
        kept.append(keep)
        return forward(name, given, keep=keep)

    monkeypatch.setattr(passes, "forward", spy)
    _, ours = pair("LSTM")
    x = torch.randn(T, M, N_X, dtype=torch.float64)
    assert ours(x)[0].requires_grad
    with torch.no_grad():
        assert not ours(x)[0].requires_grad
    with torch.inference_mode():
        ours(x)
    ours.requires_grad_(False)(x)
    assert kept == [True, False, False, False]


def test_frozen_parts_get_no_gradients():
    theirs, ours = pair("LSTM")
    for layer in (theirs, ours):
        layer.weight_hh_l0.requires_grad_(False)
        layer(torch.ones(T, M, N_X, dtype=torch.float64))[0].sum().backward()
    assert ours.weight_hh_l0.grad is None
    assert_same([ours.weight_ih_l0.grad], [theirs.weight_ih_l0.grad])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_share_no_memory(kind):
    """A caller may change each, as gradient clipping does."""
    _, ours = pair(kind, 2)
    ours(torch.ones(T, M, N_X, dtype=torch.float64))[0].sum().backward()
    expected = [p.grad.clone() for p in ours.parameters()]
    for p, d in zip(ours.parameters(), expected, strict=True):
        assert torch.equal(p.grad, d)
        p.grad.zero_()


def test_results_belong_to_the_caller():
    _, ours = pair("LSTM")
    x = torch.randn(T, M, N_X, dtype=torch.float64, requires_grad=True)
    d = torch.randn(T, M, N, dtype=torch.float64)
    (expected,) = torch.autograd.grad(ours(x)[0], x, d)
    out = ours(x)[0]
    given = x * 1
    later = ours(given)[0]
    with torch.no_grad():
        out.zero_()
        given.zero_()
    assert torch.equal(torch.autograd.grad(out, x, d)[0], expected)
    assert torch.equal(torch.autograd.grad(later, x, d)[0], expected)


def test_inputs_that_torch_negates_in_reading():
    theirs, ours = pair("GRU")
    x = torch.randn(T, M, N_X, dtype=torch.complex128).conj().imag
    assert x.is_neg()
    torch.testing.assert_close(ours(x)[0], theirs(x)[0])


def test_copies_and_pickles():
    _, ours = pair("GRU", 2)
    recurrent = rt.Recurrent("mgu", N_X, N).double()
    x = torch.randn(T, M, N_X, dtype=torch.float64)
    for layer in (ours, recurrent):
        for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert_same(run(copied, x), run(layer, x), 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_other_dtypes(kind, dtype):
    theirs, ours = pair(kind)
    theirs, ours = theirs.float().to(dtype).float(), ours.to(dtype)
    x = torch.randn(T, M, N_X).to(dtype)
    expected = [tensor.to(dtype) for tensor in run(theirs, x.float())]
    assert_same(run(ours, x), expected, 8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast(kind):
    theirs, ours = pair(kind, dtype=torch.float32)
    for x in (torch.randn(T, M, N_X), torch.randn(T, M, N_X).bfloat16()):
        with torch.autocast("cpu", torch.bfloat16):
            expected, actual = tensors(theirs(x)), tensors(ours(x))
        assert_same(actual, expected, 0.02)
        sum(tensor.float().sum() for tensor in actual).backward()
        assert ours.weight_ih_l0.grad.dtype == torch.float32


def test_dropout_between_layers():
    _, ours = pair("LSTM", 2, dropout=0.5)
    x = torch.randn(T, M, N_X, dtype=torch.float64)
    assert not torch.equal(ours(x)[0], ours(x)[0])
    assert torch.equal(ours.eval()(x)[0], ours(x)[0])
    torch.manual_seed(5)
    first = ours.train()(x)[0]
    torch.manual_seed(5)
    assert torch.equal(ours(x)[0], first)


def test_torchs_number_of_threads(monkeypatch):
    limits, found = [], thread_policy.max_threads
    monkeypatch.setattr(thread_policy, "max_threads", lambda: limits.append(found()) or limits[-1])
    monkeypatch.setattr(thread_policy.os, "sched_getaffinity", lambda _: range(8), raising=False)
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            rt.LSTM(200, 200)(torch.zeros(50, 50, 200))
        finally:
            torch.set_num_threads(before)
    assert set(limits) <= {1, 2}
    assert limits[0] == 1
    with thread_policy.use_limit(3):
        assert found() <= 3


CELLS = [*rnnx.CELLS.values(), *HEADS]


def keys_of(cell):
    return (*cell.parameter_keys, *cell.optional_keys)


def own_results(cell, layer, x, s0, options):
    """What `recurrent_forward` and `recurrent_backward` give for the first layer."""
    parameters = {key: getattr(layer, key + "_l0").detach().numpy() for key in keys_of(cell)}
    given = {
        key: value.numpy().T for key, value in options.items() if key in ("lengths", "resets") and value is not None
    }
    inputs = {key: value.detach().numpy().T for key, value in options["inputs"].items()}
    s0 = [s[0].detach().numpy().T for s in s0]
    return rnnx.recurrent_forward(cell, x.detach().numpy().T, s0, parameters, inputs=inputs, **given)


@pytest.mark.parametrize("extra", ["nothing", "lengths", "resets"])
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_any_cell(cell, extra):
    torch.manual_seed(4)
    n = 4 * cell.multiple
    layer = rt.Recurrent(cell, N_X, n, dtype=torch.float64)
    x = torch.randn(T, M, N_X, dtype=torch.float64, requires_grad=True)
    s0 = tuple(torch.rand(1, M, cell.size(name, n), dtype=torch.float64, requires_grad=True) for name in cell.states)
    sizes = {name: cell.size(name, n) for name in cell.inputs}
    inputs = {k: torch.rand(T, M, size, dtype=torch.float64, requires_grad=True) for k, size in sizes.items()}
    options = {
        "inputs": inputs,
        "lengths": torch.tensor([6, 0, 4]) if extra == "lengths" else None,
        "resets": torch.rand(T, M) < 0.3 if extra == "resets" else None,
    }
    out, final = layer(x, s0, **options)
    expected, _, caches = own_results(cell, layer, x, s0, options)
    assert np.array_equal(out.detach().numpy(), expected[0].T)
    d, d_final = torch.randn_like(out), [torch.randn_like(s) for s in final]
    loss = (out * d).sum() + sum((s * ds).sum() for s, ds in zip(final, d_final, strict=True))
    given = [x, *s0, *(getattr(layer, key + "_l0") for key in keys_of(cell)), *inputs.values()]
    actual = torch.autograd.grad(loss, given)
    ds = [d.numpy().T, *[None] * (len(s0) - 1)]
    found = rnnx.recurrent_backward(cell, ds, caches, ds_final=[ds[0].numpy().T for ds in d_final])
    names = ["x", *(s + "0" for s in cell.states), *keys_of(cell), *inputs]
    for name, d_given in zip(names, actual, strict=True):
        want = found["d" + name]
        want = want.T if name not in keys_of(cell) else want
        got = d_given[0] if name[:-1] in cell.states and name[-1] == "0" else d_given
        assert np.array_equal(got.numpy(), want), name


def test_stacks_of_any_cell():
    layer = rt.Recurrent("mgu", N_X, N, 2, bidirectional=True, batch_first=True, dropout=0.5, dtype=torch.float64)
    x = torch.randn(M, T, N_X, dtype=torch.float64)
    lengths = torch.tensor([6, 3, 0])
    out, (final,) = layer.eval()(x, lengths=lengths)
    assert out.shape == (M, T, 2 * N)
    assert final.shape == (4, M, N)
    alone, _ = layer(x[1:2, :3])
    assert torch.allclose(out[1:2, :3], alone, rtol=0, atol=1e-12)
    assert not out[1, 3:].any()
    assert torch.equal(final[3, 1], out[1, 0, N:])  # the reverse layer's last step is the example's first


def test_indices_as_inputs():
    layer = rt.Recurrent("gru", N_X, N, dtype=torch.float64)
    indices = torch.randint(0, N_X, (T, M))
    one_hot = torch.nn.functional.one_hot(indices, N_X).double()
    assert_same(run(layer, indices), run(layer, one_hot), 1e-14)


BAD_INPUTS = [
    (torch.zeros(T, M), {}, ValueError, r"`x` must have shape \(T, m, n\)"),
    (torch.zeros(T, M, N_X + 1), {}, ValueError, "n_x"),
    (torch.zeros(T, M, N_X), {"states": torch.zeros(1, M, N)}, ValueError, "`states` must be tensors"),
    (torch.zeros(T, M, N_X), {"states": (torch.zeros(1, M, N + 1),)}, ValueError, "`states` must be tensors"),
    (torch.zeros(T, M, N_X), {"lengths": torch.tensor([1, 2])}, ValueError, "`lengths`"),
    (torch.zeros(T, M, N_X), {"lengths": torch.tensor([1, 2, 7])}, ValueError, "`lengths`"),
    (torch.zeros(T, M, N_X), {"resets": torch.zeros(T, M)}, TypeError, "`resets`"),
    (torch.zeros(T, M, N_X), {"inputs": {"e": torch.zeros(T, M)}}, ValueError, "`inputs`"),
    (torch.full((T, M), N_X), {}, (ValueError, IndexError), "`x`"),
]


@pytest.mark.parametrize(("x", "options", "error", "match"), BAD_INPUTS)
def test_errors_of_recurrent(x, options, error, match):
    layer = rt.Recurrent("gru", N_X, N)
    with pytest.raises(error, match=match):
        layer(x, **options)


def test_arguments_of_recurrent():
    with pytest.raises(ValueError, match="`cell`"):
        rt.Recurrent("none", N_X, N)
    with pytest.raises(ValueError, match="`hidden_size`"):
        rt.Recurrent("gru", N_X, 0)
    with pytest.raises(ValueError, match="`dropout`"):
        rt.Recurrent("gru", N_X, N, dropout=1)
    with pytest.raises(TypeError, match="`bidirectional`"):
        rt.Recurrent("gru", N_X, N, bidirectional="no")
    layer = rt.Recurrent("gru", N_X, N, bidirectional=True)
    with pytest.raises(ValueError, match="`resets` cannot be combined with bidirectional"):
        layer(torch.zeros(T, M, N_X), resets=torch.zeros(T, M, dtype=torch.bool))


OPERATORS = [("lstm", False), ("lstm", True), ("gru", False), ("lru", True), ("phased_lstm", True)]


@pytest.mark.parametrize(("cell", "resets"), [*OPERATORS, ("layer_norm_lstm", False)])
def test_the_operators_keep_torchs_rules(cell, resets):
    """Schemas, fake tensors and autograd, as compiled programs need them; and the eager results."""
    from rnnx.interop.torch.weights import name_of_cell

    torch.manual_seed(6)
    cell = rnnx.CELLS[cell]
    layer = rt.Recurrent(cell, N_X, N, dtype=torch.float64)
    x = torch.randn(T, M, N_X, dtype=torch.float64, requires_grad=True)
    s0 = [torch.randn(M, N, dtype=torch.float64, requires_grad=True) for _ in cell.states]
    inputs = [torch.rand(T, M, dtype=torch.float64, requires_grad=True) for _ in cell.inputs]
    mask, lengths = torch.rand(T, M) < 0.3 if resets else None, torch.tensor([6, 2, 0])
    weights = list(layer.parameters())
    arguments = name_of_cell(cell), x, s0, weights, inputs, list(cell.inputs), lengths, mask, True
    torch.library.opcheck(torch.ops.rnnx.forward.default, arguments)
    results = torch.ops.rnnx.forward(*arguments)
    named = dict(zip(cell.inputs, inputs, strict=True))
    out, final = layer(x, [s.unsqueeze(0) for s in s0], lengths=lengths, resets=mask, inputs=named)
    d = torch.randn_like(out)
    given = [x, *s0, *weights, *inputs]
    assert_same([results[0]], [out], 0)
    expected = torch.autograd.grad((out * d).sum() + final[0].sum(), given, retain_graph=True)
    actual = torch.autograd.grad((results[0] * d).sum() + results[1].sum(), given)
    assert_same(actual, expected, 1e-13)
    tape = results[1 + len(s0) :]
    assert len(tape) == len(s0) + len((with_options(cell, resets=resets)).saved) + 1 + len(
        with_options(cell, resets=resets).inputs
    )


class Model(torch.nn.Module):
    def __init__(self, layer, width):
        super().__init__()
        self.layer, self.head = layer, torch.nn.Linear(width, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.layer(x)[0]))


@pytest.mark.slow
def test_compiled_and_exported(tmp_path):
    """One graph without breaks, compiled once for all lengths; an exported program runs in another process."""
    theirs, ours = pair("LSTM", bidirectional=True, dtype=torch.float32)
    torch.manual_seed(7)
    expected = Model(theirs, 2 * N)
    torch.manual_seed(7)
    model = Model(ours, 2 * N)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for n_steps in (7, 9, 12):
            x = torch.randn(n_steps, M, N_X)
            gradients = []
            for one in (expected, compiled):
                one.zero_grad()
                one(x).square().sum().backward()
                gradients.append([p.grad.clone() for p in one.parameters()])
            assert_same(*gradients, 1e-5)
    program = torch.export.export(model.eval(), (x,))
    torch.export.save(program, tmp_path / "model.pt2")
    torch.save((x, expected.eval()(x).detach()), tmp_path / "data.pt")
    script = (
        "import torch, rnnx.interop.torch\n"
        "x, y = torch.load('data.pt')\n"
        "assert torch.allclose(torch.export.load('model.pt2').module()(x), y, atol=1e-5)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=tmp_path, check=True)


@pytest.mark.slow
def test_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        theirs, ours = pair("GRU")
        wrapped, x = torch.nn.parallel.DistributedDataParallel(ours), torch.randn(T, M, N_X, dtype=torch.float64)
        for one in (wrapped, theirs):
            one(x)[0].sum().backward()
        assert_same([p.grad for p in ours.parameters()], [p.grad for p in theirs.parameters()])
    finally:
        torch.distributed.destroy_process_group()


def test_names_of_weights_are_the_same_in_every_process():
    assert name_of_module("LSTM", True, 5, False) == "torch/LSTM/1/0"
    assert name_of_module("LSTM", False, 5, True) == "torch/LSTM/0/5"
