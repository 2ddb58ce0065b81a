"""Modules that replace torch.nn.LSTM, GRU and RNN. Dimensions: T steps, m examples, n features."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from rnnx.interop.torch.passes import Optional, Tensors
from rnnx.interop.torch.stack import Stack, result_dtype
from rnnx.interop.torch.weights import name_of_module


class _Layers(torch.nn.RNNBase):
    """What `LSTM`, `GRU` and `RNN` share. They do not inherit from torch's, which torch.compile refuses to trace."""

    _torch: type[torch.nn.RNNBase]

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002 - torch's name
        """Run the layers; see the documentation of the torch module of the same name."""
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        given: Any = () if hx is None else hx if self.mode == "LSTM" else (hx,)
        if input.dim() not in (2, 3) or any(h.dim() != input.dim() for h in given):
            return self._torch.forward(self, input, hx)  # raises torch's error
        batch_dim, is_batched = 0 if self.batch_first else 1, input.dim() == 3
        if not is_batched:
            input, given = input.unsqueeze(batch_dim), [h.unsqueeze(1) for h in given]  # noqa: A001
        states = given or self._no_states(input, input.size(batch_dim))
        if states[0] is None:
            self.check_input(input, None)
        else:
            self.check_forward_args(input, self._public(states), None)
        out, final = self._run(input.transpose(0, 1) if self.batch_first else input, states, None)
        out = out.transpose(0, 1) if self.batch_first else out
        if not is_batched:
            out, final = out.squeeze(batch_dim), [h.squeeze(1) for h in final]
        return out, self._public(final)

    def _forward_packed(self, packed: PackedSequence, hx: Any) -> Any:
        data, batch_sizes, sorted_indices, unsorted_indices = packed
        if hx is None:
            states: Any = self._zeros(data, int(batch_sizes[0]))
        else:
            hx = self.permute_hidden(hx, sorted_indices)
            states = hx if self.mode == "LSTM" else (hx,)
        self.check_forward_args(data, self._public(states), batch_sizes)
        x, lengths = pad_packed_sequence(PackedSequence(data, batch_sizes))
        out, final = self._run(x, states, lengths)
        result = PackedSequence(pack_padded_sequence(out, lengths).data, batch_sizes, sorted_indices, unsorted_indices)
        return result, self.permute_hidden(self._public(final), unsorted_indices)

    def _public(self, states: Sequence[Optional]) -> Any:
        return tuple(states) if self.mode == "LSTM" else states[0]

    def _no_states(self, like: torch.Tensor, m: int) -> Sequence[Optional]:
        """Return zeros, as None where that will do."""
        if not torch.compiler.is_compiling():
            return (None, None) if self.mode == "LSTM" else (None,)
        return self._zeros(like, m)

    def _zeros(self, like: torch.Tensor, m: int) -> Tensors:
        widths = [self.proj_size or self.hidden_size, self.hidden_size][: 2 if self.mode == "LSTM" else 1]
        layers = self.num_layers * (2 if self.bidirectional else 1)
        return [torch.zeros(layers, m, width, dtype=like.dtype, device=like.device) for width in widths]

    def _run(
        self, x: torch.Tensor, states: Sequence[Optional], lengths: torch.Tensor | None
    ) -> tuple[torch.Tensor, Tensors]:
        """Run all layers on (T, m, n); return the outputs and the final states, (layers, m, n)."""
        if x.size(0) == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        name = name_of_module(self.mode, self.bias, self.hidden_size, self.proj_size > 0)
        known: Any = self._parameters  # faster than `getattr`, which also finds what has replaced a parameter
        weights = [[known[key] if key in known else getattr(self, key) for key in keys] for keys in self._all_weights]
        stack = Stack(name, self.num_layers, self.bidirectional, self.dropout if self.training else 0.0)
        dtype = result_dtype(x, self.mode)
        out, final = stack.run(x, states, weights, lengths=lengths)
        return (out, final) if out.dtype == dtype else (out.to(dtype), [state.to(dtype) for state in final])


class LSTM(_Layers):
    """`torch.nn.LSTM` on the engines of rnnx, with the same arguments, parameters, results and errors.

    See Also
    --------
    GRU, RNN, Recurrent, rnnx.convert.from_torch

    Examples
    --------
    >>> import torch
    >>> from rnnx.interop.torch import LSTM
    >>> theirs, ours = torch.nn.LSTM(3, 5, num_layers=2), LSTM(3, 5, num_layers=2)
    >>> ours.load_state_dict(theirs.state_dict())
    <All keys matched successfully>
    >>> x = torch.randn(7, 2, 3)  # (T, m, n_x)
    >>> torch.allclose(ours(x)[0], theirs(x)[0], atol=1e-6)
    True
    """

    _torch = torch.nn.LSTM
    check_forward_args = torch.nn.LSTM.check_forward_args  # type: ignore[assignment]
    get_expected_cell_size = torch.nn.LSTM.get_expected_cell_size
    permute_hidden = torch.nn.LSTM.permute_hidden  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)


class GRU(_Layers):
    """`torch.nn.GRU` on the engines of rnnx, with the same arguments, parameters, results and errors.

    See Also
    --------
    LSTM, RNN, Recurrent

    Examples
    --------
    >>> import torch
    >>> from rnnx.interop.torch import GRU
    >>> gru = GRU(3, 5, bidirectional=True, batch_first=True)
    >>> out, h = gru(torch.randn(2, 7, 3))
    >>> out.sum().backward()
    >>> out.shape, h.shape, gru.weight_ih_l0.grad.shape
    (torch.Size([2, 7, 10]), torch.Size([2, 2, 5]), torch.Size([15, 3]))
    """

    _torch = torch.nn.GRU

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "proj_size" in kwargs:
            torch.nn.GRU(*args, **kwargs)  # raises torch's error
        super().__init__("GRU", *args, **kwargs)


class RNN(_Layers):
    """`torch.nn.RNN` on the engines of rnnx, with the same arguments, parameters, results and errors.

    See Also
    --------
    LSTM, GRU, Recurrent

    Examples
    --------
    >>> import torch
    >>> from rnnx.interop.torch import RNN
    >>> sentences = torch.nn.utils.rnn.pack_sequence([torch.randn(length, 3) for length in (7, 4, 2)])
    >>> packed, h = RNN(3, 5, nonlinearity="relu")(sentences)
    >>> out, lengths = torch.nn.utils.rnn.pad_packed_sequence(packed)
    >>> out.shape, lengths
    (torch.Size([7, 3, 5]), tensor([7, 4, 2]))
    """

    _torch = torch.nn.RNN

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = torch.nn.RNN(*args, **{**kwargs, "device": "meta"})  # raises torch's errors
        self.nonlinearity = given.nonlinearity
        kwargs.pop("nonlinearity", None)
        super().__init__(given.mode, *args[:3], *args[4:], **kwargs)
