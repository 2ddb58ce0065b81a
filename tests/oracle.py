"""PyTorch's autograd as an oracle."""

import numpy as np
import pytest


def torch_results(step, problem, resets=None):
    """Return the states and gradients of a step written in torch, ``step(parameters, states, x, extra)`` -> states.

    They have the names that `problems.run` gives them. Where `resets` (m, T) is true, the initial states come back.
    """
    torch = pytest.importorskip("torch")
    leaves = {key: torch.tensor(a, requires_grad=True) for key, a in problem.inputs.items()}
    initial = states = tuple(leaves[f"{state}0"] for state in problem.cell.states)
    history, loss = [], 0
    for t in range(problem.x.shape[2]):
        extra = {key: leaves[key][:, :, t] for key in problem.extra}
        active = torch.tensor([problem.lengths is None or t < n for n in problem.lengths or [0] * problem.x.shape[1]])
        if resets is not None:
            back = torch.tensor(resets[:, t]) & active
            states = tuple(torch.where(back, first, s) for first, s in zip(initial, states, strict=True))
        new = step(leaves, states, leaves["x"][:, :, t], extra)
        states = tuple(torch.where(active, s, old) for s, old in zip(new, states, strict=True))
        history.append([torch.where(active, s, torch.zeros_like(s)) for s in states])
        loss = loss + sum(
            (s * torch.tensor(d[:, :, t])).sum() for s, d in zip(history[-1], problem.dstates, strict=True)
        )
    loss = loss + sum((s * torch.tensor(d)).sum() for s, d in zip(states, problem.dfinal, strict=True))
    loss.backward()
    over_time = [np.stack([step[k].detach().numpy() for step in history], axis=2) for k in range(len(states))]
    gradients = {
        f"d{key}": np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy() for key, leaf in leaves.items()
    }
    return dict(zip(problem.cell.states, over_time, strict=True)) | gradients
