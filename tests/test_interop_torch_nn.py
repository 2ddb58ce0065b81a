"""Torch's own tests of its recurrent layers, by their names, for those layers and for ours.

The tests are written from what torch documents, with the names that they have in torch's `test_nn.py` and
`test_modules.py`. Each runs with `torch.nn`, which shows that it is right, and with `rnnx.interop.torch`.
"""

import inspect
import itertools
import pickle
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
_IGNORED = ("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:LSTM with projections")
pytestmark = pytest.mark.filterwarnings(*_IGNORED)

from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence  # noqa: E402

import rnnx.interop.torch as rt  # noqa: E402

KINDS = ("LSTM", "GRU", "RNN")


@pytest.fixture(params=[torch.nn, rt], ids=["torch", "rnnx"])
def nn(request):
    torch.manual_seed(0)
    return request.param


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def tensors(result):
    return [result] if torch.is_tensor(result) else [tensor for part in result for tensor in tensors(part)]


def assert_equal(actual, expected, tolerance=0.0):
    for a, b in zip(tensors(actual), tensors(expected), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=tolerance)


def states(kind, *shape, proj=None):
    """Random states of a shape, whose last size is `proj` in the hidden state if given."""
    hidden = torch.randn(*shape[:-1], proj or shape[-1])
    return (hidden, torch.randn(*shape)) if kind == "LSTM" else hidden


def wrong_by_one(shape):
    """The shape with each of its sizes wrong in turn, and with a dimension too many."""
    for k in range(len(shape)):
        yield (*shape[:k], shape[k] + 4, *shape[k + 1 :])
    yield (1, *shape)


def check_args(layer, kind, x_shape, *state_shapes):
    for k, shape in enumerate((x_shape, *state_shapes)):
        for wrong in wrong_by_one(shape):
            if k == 0 and wrong[0] != shape[0]:
                continue  # any number of steps is right
            shapes = [wrong if k == i else right for i, right in enumerate((x_shape, *state_shapes))]
            x, *hx = map(torch.zeros, shapes)
            with pytest.raises(RuntimeError):
                layer(x, tuple(hx) if kind == "LSTM" else hx[0])


def test_rnn_args_check(nn, kind):
    layer = getattr(nn, kind)(3, 5, 2)
    check_args(layer, kind, (6, 4, 3), *[(2, 4, 5)] * (1 + (kind == "LSTM")))


def test_projections_lstm_args_check(nn):
    check_args(nn.LSTM(3, 5, 2, proj_size=2), "LSTM", (6, 4, 3), (2, 4, 2), (2, 4, 5))


def test_projections_errors_on_gru_and_rnn(nn):
    for kind in ("GRU", "RNN"):
        with pytest.raises(ValueError, match="proj_size argument is only supported for LSTM"):
            getattr(nn, kind)(3, 5, proj_size=2)


def test_rnn_initial_hidden_state(nn, kind):
    layer, x, zeros = getattr(nn, kind)(7, 5, 2), torch.randn(4, 3, 7), torch.zeros(2, 3, 5)
    assert_equal(layer(x), layer(x, (zeros, zeros) if kind == "LSTM" else zeros), 1e-6)


def test_projections_lstm_initial_hidden_state(nn):
    for bidirectional in (False, True):
        layer, x = nn.LSTM(7, 5, 2, bidirectional=bidirectional, proj_size=3), torch.randn(4, 3, 7)
        rows = 4 if bidirectional else 2
        assert_equal(layer(x), layer(x, (torch.zeros(rows, 3, 3), torch.zeros(rows, 3, 5))), 1e-6)


def test_RNN_nonlinearity(nn):
    assert nn.RNN(1, 10).nonlinearity == "tanh"
    assert nn.RNN(1, 10, nonlinearity="relu").nonlinearity == "relu"
    with pytest.raises(ValueError, match="Unknown nonlinearity"):
        nn.RNN(1, 10, nonlinearity="garbage")


def test_RNN_nonlinearity_passed_as_arg(nn):
    assert nn.RNN(2, 3, 1, "relu").nonlinearity == "relu"


def test_RNN_input_size_zero(nn, kind):
    layer, x = getattr(nn, kind)(3, 4), torch.zeros(5, 0, 3)
    out, final = layer(x)
    assert out.shape == (5, 0, 4)
    assert all(state.shape == (1, 0, 4) for state in tensors(final))
    out.sum().backward()


def test_RNN_dropout(nn):
    for p, train in itertools.product((0, 0.276, 0.731, 1), (True, False)):
        layer = nn.RNN(10, 1000, 2, bias=False, dropout=p, nonlinearity="relu").train(train)
        with torch.no_grad():
            for weight in layer.parameters():
                weight.fill_(1)
            out, final = layer(torch.ones(1, 1, 10), torch.zeros(2, 1, 1000))
        value = float(out[0, 0, 0])
        assert bool((out == value).all())
        assert bool((final[0] == 10).all())
        assert float(final[1, 0, 0]) == value
        if p == 0 or not train:
            assert value == 10_000
        elif p == 1:
            assert value == 0
        else:
            assert 8_000 < value < 12_000
            assert abs(value * (1 - p) / 10 - round(value * (1 - p) / 10)) < 1e-2  # units are kept or not


def test_RNN_change_dropout(nn):
    for train in (True, False):
        layer, x, previous = nn.RNN(10, 20, 2, dropout=0).train(train), torch.rand(3, 2, 10), None
        for p in (0, 0.5, 0, 0.7, 0.2, 1, 0.2, 0):
            layer.dropout = p
            out = layer(x)[0]
            if p == 0 or not train:
                previous = out if previous is None else previous
                assert_equal(out, previous)
            else:
                assert not torch.equal(out, previous)


def test_RNN_dropout_state(nn):
    for p, train in itertools.product((0, 0.1234), (True, False)):
        layer, x = nn.RNN(30, 30, 2, bias=False, dropout=p, nonlinearity="relu").train(train), torch.rand(2, 1, 30)
        outs = [layer(x)[0], layer(x)[0], pickle.loads(pickle.dumps(layer))(x)[0]]
        for a, b in itertools.combinations(outs, 2):
            assert torch.equal(a, b) == (p == 0 or not train)


def test_rnn_weight_norm(nn):
    for proj_size, count in ((0, 4), (3, 5)):
        layer, x, name = nn.LSTM(6, 6, proj_size=proj_size), torch.randn(3, 2, 6), "weight_hh_l0"
        before = layer(x)
        torch.nn.utils.weight_norm(layer, name=name)
        assert sum(isinstance(p, torch.nn.Parameter) for p in layer._flat_weights) == count - 1
        assert_equal(layer(x), before, 1e-6)
        layer(x)[0].sum().backward()
        assert layer.weight_hh_l0_v.grad is not None
        torch.nn.utils.remove_weight_norm(layer, name=name)
        assert sum(isinstance(p, torch.nn.Parameter) for p in layer._flat_weights) == count
        assert name in layer._parameters
        assert name + "_v" not in layer._parameters


def test_rnn_retain_variables(nn, kind):
    layer, x = getattr(nn, kind)(6, 5, 2).double(), torch.randn(4, 3, 6, dtype=torch.float64, requires_grad=True)
    loss, found = layer(x)[0].sum(), []
    for _ in range(3):
        layer.zero_grad()
        x.grad = None
        loss.backward(retain_graph=True)
        found.append([x.grad, *(p.grad.clone() for p in layer.parameters())])
    assert_equal(found[1], found[0])
    assert_equal(found[2], found[0])


@pytest.mark.parametrize("batch_first", [False, True])
def test_variable_sequence(nn, kind, batch_first):
    """A packed sequence gives what its examples give alone, from the same initial states; and so do gradients."""
    lengths, layer = [6, 6, 4, 2, 1], getattr(nn, kind)(3, 4, 2, batch_first=batch_first).double()
    parts = [torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in lengths]
    hx = [h.double() for h in tensors(states(kind, 2, len(lengths), 4))]
    given = tuple(hx) if kind == "LSTM" else hx[0]
    packed, final = layer(pack_sequence(parts), given)
    out, found = pad_packed_sequence(packed, batch_first=True)
    assert found.tolist() == lengths
    alone = []
    for j, part in enumerate(parts):
        own = tuple(h[:, j : j + 1] for h in hx)
        one, last = layer(part.unsqueeze(0 if batch_first else 1), own if kind == "LSTM" else own[0])
        alone.append(one.squeeze(0 if batch_first else 1))
        assert_equal(out[j, : lengths[j]], alone[j], 1e-12)
        assert_equal([s[:, j : j + 1] for s in tensors(final)], tensors(last), 1e-12)
    weights = [torch.randn_like(one) for one in alone]
    losses = [sum((a[: len(w)] * w).sum() for a, w in zip(rows, weights, strict=True)) for rows in (out, alone)]
    gradients = [torch.autograd.grad(loss, [*parts, *layer.parameters()]) for loss in losses]
    assert_equal(*gradients, 1e-11)


def test_pack_padded_sequence_in_any_order(nn, kind):
    """`test_pack_padded_sequence`, with enforce_sorted=False."""
    layer, x = getattr(nn, kind)(3, 4), torch.randn(5, 3, 3)
    some, final = layer(pack_padded_sequence(x, [2, 5, 3], enforce_sorted=False))
    order = [1, 2, 0]
    all_, last = layer(pack_padded_sequence(x[:, order], [5, 3, 2]))
    assert_equal(pad_packed_sequence(some)[0][:, order], pad_packed_sequence(all_)[0], 1e-6)
    assert_equal([s[:, order] for s in tensors(final)], tensors(last), 1e-6)


def test_LSTM_grad_and_gradgrad(nn):
    check_grad_and_gradgrad(nn, "LSTM")


def test_GRU_grad_and_gradgrad(nn):
    check_grad_and_gradgrad(nn, "GRU")


def check_grad_and_gradgrad(nn, kind):
    """First derivatives; second ones are torch's alone."""
    layer = getattr(nn, kind)(2, 3, bias=False).double()
    x = torch.randn(2, 1, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: layer(x)[0], (x,))
    if nn is torch.nn:
        assert gradgradcheck(lambda x: layer(x)[0], (x,))
    else:
        with pytest.raises(NotImplementedError, match="first derivatives only"):
            gradgradcheck(lambda x: layer(x)[0], (x,))


# From test_modules.py.


def test_forward(nn, kind):
    """Inputs without examples give what one example gives."""
    for options in ({}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "batch_first": True}):
        layer, x = getattr(nn, kind)(3, 4, **options), torch.randn(5, 3)
        one = 0 if options.get("batch_first") else 1
        hx = states(kind, 2 * options.get("num_layers", 0) or 1, 4)
        batched = [h.unsqueeze(1) for h in tensors([hx])]
        out, final = layer(x, hx)
        expected, last = layer(x.unsqueeze(one), tuple(batched) if kind == "LSTM" else batched[0])
        assert_equal(out, expected.squeeze(one), 1e-6)
        assert_equal(final, [h.squeeze(1) for h in tensors([last])] if kind == "LSTM" else last.squeeze(1), 1e-6)


def test_factory_kwargs(nn, kind):
    layer = getattr(nn, kind)(3, 4, device="meta", dtype=torch.float64)
    assert all(p.device.type == "meta" and p.dtype == torch.float64 for p in layer.parameters())
    layer = layer.to_empty(device="cpu")
    layer.reset_parameters()
    assert layer(torch.zeros(2, 1, 3, dtype=torch.float64))[0].dtype == torch.float64


def test_pickle(nn, kind):
    layer, x = getattr(nn, kind)(3, 4, 2), torch.randn(5, 2, 3)
    assert_equal(pickle.loads(pickle.dumps(layer))(x), layer(x))


def test_repr(nn, kind):
    assert repr(getattr(nn, kind)(3, 4, num_layers=2, bias=False)) == f"{kind}(3, 4, num_layers=2, bias=False)"


def test_non_contiguous_tensors(nn, kind):
    layer, x = getattr(nn, kind)(3, 4), torch.randn(5, 2, 3)
    hx = states(kind, 1, 2, 4)
    spread = [torch.stack([h, h], dim=-1)[..., 0] for h in (x, *tensors([hx]))]
    assert not any(h.is_contiguous() for h in spread)
    leaf = spread[0].detach().requires_grad_()
    out, final = layer(leaf, tuple(spread[1:]) if kind == "LSTM" else spread[1])
    assert_equal([out, *tensors([final])], tensors(layer(x, hx)), 1e-6)
    whole = torch.randn(5, 2, 8)
    (actual,) = torch.autograd.grad(out, leaf, whole[..., ::2])
    x.requires_grad_()
    assert_equal(actual, torch.autograd.grad(layer(x, hx)[0], x, whole[..., ::2].contiguous())[0], 1e-6)


def test_grad(nn, kind):
    layer = getattr(nn, kind)(2, 3, bidirectional=True).double()
    x = torch.randn(2, 1, 2, dtype=torch.float64, requires_grad=True)
    hx = [h.double().requires_grad_() for h in tensors([states(kind, 2, 1, 3)])]
    assert gradcheck(lambda x, *hx: tuple(tensors(layer(x, hx if kind == "LSTM" else hx[0]))), (x, *hx))


def test_save_load_state_dict(nn, kind):
    first, second, x = getattr(nn, kind)(3, 4, 2), getattr(torch.nn, kind)(3, 4, 2), torch.randn(5, 2, 3)
    second.load_state_dict(first.state_dict())
    assert_equal(first(x), second(x), 1e-6)


def test_the_list_in_the_documentation_is_complete():
    page = (Path(__file__).parent.parent / "docs" / "torch.md").read_text(encoding="utf-8")
    names = [name for name, f in globals().items() if name.startswith("test_") and inspect.isfunction(f)]
    own = {"test_the_list_in_the_documentation_is_complete", "test_pack_padded_sequence_in_any_order"}
    assert not [name for name in names if f"`{name}`" not in page and name not in own]
