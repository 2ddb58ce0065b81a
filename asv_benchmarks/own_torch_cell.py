"""The peephole LSTM as users write it in torch, in a form that torch can also script and compile."""

import torch


class Peephole(torch.nn.Module):
    """A loop over torch's operations, (T, m, n_x) to (T, m, n_a)."""

    def __init__(self, n_x: int, n_a: int) -> None:
        super().__init__()
        scale = n_a**-0.5
        self.w_x = torch.nn.Parameter(scale * torch.randn(4 * n_a, n_x))
        self.w_h = torch.nn.Parameter(scale * torch.randn(4 * n_a, n_a))
        self.b, self.p = torch.nn.Parameter(torch.zeros(4 * n_a)), torch.nn.Parameter(torch.zeros(3, n_a))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all hidden states and the last cell state."""
        zx = x @ self.w_x.t() + self.b
        a = torch.zeros(x.shape[1], self.p.shape[1], dtype=x.dtype)
        c = a
        outputs: list[torch.Tensor] = []
        for t in range(x.shape[0]):
            f, i, g, o = (zx[t] + a @ self.w_h.t()).chunk(4, 1)
            c_next = torch.sigmoid(f + self.p[0] * c) * c + torch.sigmoid(i + self.p[1] * c) * torch.tanh(g)
            a, c = torch.sigmoid(o + self.p[2] * c_next) * torch.tanh(c_next), c_next
            outputs.append(a)
        return torch.stack(outputs), c
