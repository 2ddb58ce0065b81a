"""Layers on top of each other, in one or both directions. Dimensions: T steps, m examples, n features."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from rnnx.interop.torch.autograd import run
from rnnx.interop.torch.passes import Optional, Tensors

_SHORT = (torch.float16, torch.bfloat16)


class Stack(NamedTuple):
    """A stack of layers with weights of one kind, registered as `name`."""

    name: str
    num_layers: int
    bidirectional: bool
    dropout: float  # between layers

    def run(
        self,
        x: torch.Tensor,
        states: Sequence[Optional],
        weights: Sequence[Tensors],
        *,
        inputs: Mapping[str, torch.Tensor] | None = None,
        lengths: Optional = None,
        resets: Optional = None,
    ) -> tuple[torch.Tensor, Tensors]:
        """Run all layers.

        Parameters
        ----------
        x : (T, m, n) or, for indices, (T, m)
        states : per state, (layers * directions, m, n); or, unless compiled, None for zeros
        weights : per layer and direction
        inputs, lengths, resets
            As in `passes.Arguments`.

        Returns
        -------
        out : (T, m, directions * n)
        final : per state, (layers * directions, m, n)
        """
        directions, given = 2 if self.bidirectional else 1, inputs or {}
        order = None if lengths is None or directions == 1 else _reversed_steps(x.size(0), lengths.to(x.device))
        backwards = {key: reverse(value, order) for key, value in given.items()} if directions == 2 else {}
        final: list[Tensors] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction, extra in enumerate((given, backwards)[:directions]):
                row, sequence = layer * directions + direction, reverse(x, order) if direction else x
                s0 = [None if state is None else state[row] for state in states]
                sequence, s0, own, extra = _computed(sequence, s0, weights[row], extra)
                out, last = run(self.name, sequence, s0, own, extra, lengths, resets)
                outputs.append(reverse(out, order) if direction else out)
                final.append(last)
            x = torch.cat(outputs, dim=2) if directions == 2 else outputs[0]
            if self.dropout and layer < self.num_layers - 1:
                x = torch.nn.functional.dropout(x, self.dropout)
        if len(final) == 1:
            return x, [row.unsqueeze(0) for row in final[0]]
        return x, [torch.stack(rows) for rows in zip(*final, strict=True)]


def reverse(x: torch.Tensor, order: Optional) -> torch.Tensor:
    """Reverse the steps of (T, m, ...), or take them in an order (T, m)."""
    if order is None:
        return x.flip(0)
    return x.gather(0, order if x.dim() == 2 else order.unsqueeze(2).expand(x.shape))


def _reversed_steps(n_steps: int, lengths: torch.Tensor) -> torch.Tensor:
    """Return the steps (T, m) in the order of a reverse layer, each example's own steps reversed."""
    t = torch.arange(n_steps, device=lengths.device).unsqueeze(1)
    return torch.where(t < lengths, lengths - 1 - t, t)


def _computed(x: torch.Tensor, s0: Sequence[Optional], weights: Tensors, inputs: Mapping[str, torch.Tensor]) -> Any:
    """Return the tensors in the dtype that a pass computes in: on the CPU, float32 instead of 16-bit types."""
    device, dtype = x.device.type, None
    if torch.is_autocast_enabled(device):
        dtype = torch.float32 if device == "cpu" else torch.get_autocast_dtype(device)
    elif device == "cpu" and (x.dtype in _SHORT or weights[0].dtype in _SHORT):
        dtype = torch.float32
    if dtype is None or weights[0].dtype == torch.float64:
        return x, s0, weights, inputs

    def computed(tensor: Optional) -> Any:
        return tensor if tensor is None or not tensor.is_floating_point() else tensor.to(dtype)

    of_inputs = {key: computed(value) for key, value in inputs.items()}
    return computed(x), [*map(computed, s0)], [*map(computed, weights)], of_inputs


def result_dtype(x: torch.Tensor, mode: str) -> torch.dtype:
    """Return the dtype of torch's results for an input. On the CPU, autocast does not concern the GRU."""
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64 and (device != "cpu" or mode != "GRU"):
        return torch.get_autocast_dtype(device)
    return x.dtype
