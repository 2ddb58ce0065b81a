"""A module for any cell of rnnx. Dimensions: T steps, m examples, n features."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rnnx._core.checks import flag, integer, real
from rnnx.cells import Cell, cell_of
from rnnx.functional.initialization import initialize_parameters
from rnnx.interop.torch.passes import Optional
from rnnx.interop.torch.stack import Stack
from rnnx.interop.torch.weights import name_of_cell


class Recurrent(torch.nn.Module):
    """A stack of recurrent layers with any cell, in one or both directions.

    Parameters
    ----------
    cell : str or Cell
        A name in ``rnnx.CELLS``, or a cell, for instance one of your own.
    input_size : int
    hidden_size : int
        Units of the hidden state.
    num_layers : int
    bidirectional : bool
    batch_first : bool
        Whether sequences are (m, T, n) instead of (T, m, n).
    dropout : float, 0 <= dropout < 1
        Dropout probability of a layer's outputs in training, except for the last layer.
    scheme : {"keras", "torch", "course"}
        Initial parameters, see `rnnx.initialize_parameters`. They are drawn with a seed from torch's generator.
    device, dtype
        Of the parameters; default: torch's.

    Raises
    ------
    ValueError, TypeError
        For an unknown cell, or sizes or rates out of range.

    See Also
    --------
    LSTM, rnnx.CELLS, rnnx.cell

    Notes
    -----
    The parameters have the keys of the cell and torch's suffixes: ``Wf_l0``, ``Wf_l0_reverse``.

    Examples
    --------
    >>> import torch
    >>> from rnnx.interop.torch import Recurrent
    >>> layer = Recurrent("gru", input_size=3, hidden_size=5)
    >>> out, (a,) = layer(torch.randn(7, 2, 3), lengths=torch.tensor([7, 4]))
    >>> torch.equal(a[0, 1], out[3, 1]), bool((out[4:, 1] == 0).all())  # the second example ends after 4 steps
    (True, True)
    """

    def __init__(
        self,
        cell: Cell | str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        batch_first: bool = False,
        dropout: float = 0.0,
        scheme: str = "keras",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.cell = cell_of(cell)
        self.input_size, self.hidden_size = integer("input_size", input_size), integer("hidden_size", hidden_size)
        self.num_layers, self.dropout = integer("num_layers", num_layers), real("dropout", dropout, "[0, 1)")
        self.bidirectional, self.batch_first = flag("bidirectional", bidirectional), flag("batch_first", batch_first)
        directions = ("", "_reverse") if bidirectional else ("",)
        self._suffixes = [f"_l{layer}{end}" for layer in range(num_layers) for end in directions]
        seed = int(torch.randint(2**31, ()))
        for k, suffix in enumerate(self._suffixes):
            n_x = input_size if k < len(directions) else hidden_size * len(directions)
            drawn = initialize_parameters(self.cell, n_x, hidden_size, scheme=scheme, rng=seed + k, dtype="float64")
            for key, value in drawn.items():
                tensor = torch.from_numpy(value).to(device=device, dtype=dtype or torch.get_default_dtype())
                self.register_parameter(key + suffix, torch.nn.Parameter(tensor))

    def extra_repr(self) -> str:
        """Return the sizes, for `repr`."""
        return f"{self.cell.name}, {self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"

    def forward(
        self,
        x: torch.Tensor,
        states: tuple[torch.Tensor, ...] | None = None,
        *,
        lengths: Optional = None,
        resets: Optional = None,
        inputs: Mapping[str, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Run the stack.

        Parameters
        ----------
        x : Tensor, shape (T, m, n) or (m, T, n) if `batch_first`; or of int, without n
            Inputs, or indices of one-hot inputs.
        states : tuple of Tensor, shape (layers * directions, m, n), optional
            Initial states in the order of ``cell.states``; default zeros.
        lengths : Tensor of int, shape (m,), optional
            Numbers of steps; outputs past them are zero. Reverse layers start at the end of each example.
        resets : Tensor of bool, shape of x without n, optional
            Steps before which an example returns to its initial states. Not with `bidirectional`.
        inputs : dict of str to Tensor, shape of x with n = hidden_size or without n, optional
            The inputs besides x that the cell has, for all layers.

        Returns
        -------
        out : Tensor, shape (T, m, directions * hidden_size) or (m, T, ...) if `batch_first`
        states : tuple of Tensor, shape (layers * directions, m, n)
            After each example's last step, or after its first step in a reverse layer.

        Raises
        ------
        ValueError, TypeError
            For wrong shapes, dtypes, lengths, or indices.
        """
        if x.dim() != (3 if x.is_floating_point() else 2):
            expected = "(m, T, n)" if self.batch_first else "(T, m, n)"
            raise ValueError(f"`x` must have shape {expected}, without n for indices; got {tuple(x.shape)}")
        if resets is not None and self.bidirectional:
            raise ValueError("`resets` cannot be combined with bidirectional=True")

        def time_major(tensor: Optional) -> Any:
            return tensor.transpose(0, 1) if self.batch_first and tensor is not None else tensor

        x = time_major(x)
        stack = Stack(name_of_cell(self.cell), self.num_layers, self.bidirectional, self.dropout * self.training)
        keys = (*self.cell.parameter_keys, *self.cell.optional_keys)
        weights = [[getattr(self, key + suffix) for key in keys] for suffix in self._suffixes]
        given = {key: time_major(value) for key, value in (inputs or {}).items()}
        start = self._checked_states(states, x.size(1), weights[0][0])
        options = {"inputs": given, "lengths": lengths, "resets": time_major(resets)}
        out, final = stack.run(x, start, weights, **options)
        return time_major(out), tuple(final)

    def _checked_states(self, states: Any, m: int, like: torch.Tensor) -> Sequence[Optional]:
        cell = self.cell
        shapes = [(len(self._suffixes), m, cell.size(state, self.hidden_size)) for state in cell.states]
        if states is None and not torch.compiler.is_compiling():
            return [None for _ in shapes]
        if states is None:
            return [like.new_zeros(shape) for shape in shapes]
        if not isinstance(states, tuple | list) or [tuple(s.shape) for s in states] != shapes:
            got = [tuple(getattr(s, "shape", ())) for s in states] if isinstance(states, tuple | list) else states
            raise ValueError(f"`states` must be tensors {cell.states} of shapes {shapes}; got {got}")
        return list(states)
