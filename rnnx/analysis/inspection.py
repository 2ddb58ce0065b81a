"""Gates, states and gradient norms as arrays. Dimensions: T steps, m examples, n_a hidden units, n_x inputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core import checks, layout
from rnnx._core.arrays import Array
from rnnx._core.harmless_errors import ignore_harmless_errors
from rnnx._core.words import shown
from rnnx.cells import Cell
from rnnx.cells.observation import is_derived, observed
from rnnx.engines.protocol import Cotangents, Tape
from rnnx.functional import arguments, schedule
from rnnx.functional.caches import Caches, Steps
from rnnx.functional.heads import softmax_cross_entropy
from rnnx.functional.replay import replayed
from rnnx.functional.resets import initial_shares
from rnnx.functional.shapes import units_in_symbols

States = dict[str, Array]


def gate_values(caches: Any) -> dict[str, Array]:
    """Return all gates and states of a sequence.

    Parameters
    ----------
    caches : Caches, or (steps, x)
        The result of a forward function.

    Returns
    -------
    values : dict of str to array, shape (n_a, m, T)
        Under the course's names: first the gates in a step's cache tuple (ft, it, cct, ot of an LSTM; ut, rt, cct of a
        GRU), or in a cell that `rnnx.cell` made the activations of its gates (ft of a gate f); then the states after
        each step (a, c). Entries past an example's length are zero. The arrays are copies.

    Raises
    ------
    TypeError
        If `caches` are not the caches of a sequence.
    ValueError
        If the caches were consumed, or the forward pass had ``keep_caches=False``.

    See Also
    --------
    text_values, rnnx.plots.gate_activations, rnnx.Caches

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("lstm", n_x=3, n_a=5, rng=0)
    >>> parameters["bf"][:] = 20.0  # forget nothing
    >>> a, _, c, caches = rnnx.lstm_forward(np.ones((3, 2, 7)), None, parameters)
    >>> values = rnnx.analysis.gate_values(caches)
    >>> list(values), values["ft"].shape, bool((values["ft"] > 0.999).all())
    (['ft', 'it', 'cct', 'ot', 'a', 'c'], (5, 2, 7), True)
    """
    owner = _owner(caches)
    cell, tape = owner.cell, owner.tape_for(owner.cell)
    xp, saved = tape.xp, dict(zip(tape.cell.saved, tape.saved or (), strict=True))
    names = cell.cache or cell.saved
    if is_derived(cell) and not cell.cache:
        with_gates, names = observed(tape.cell)
        saved = replayed(tape, with_gates)
    values = {name: saved[name] for name in names}
    values |= {name: state[1:, :, :] for name, state in zip(cell.states, tape.states, strict=True)}
    public = {name: layout.zero_past_end(xp, layout.to_public(xp, a), tape.lengths) for name, a in values.items()}
    return {name: ns.owned_copy(xp, a) for name, a in public.items()}


def state_gradients(caches: Any, *, ds_final: Any = (), ds: Sequence[Array | None] = ()) -> States:
    """Compute the gradient with respect to the states after every step.

    Parameters
    ----------
    caches : Caches, or (steps, x)
        The result of a forward function. They are not consumed.
    ds_final : array, shape (n_a, m), or sequence of array or None
        Gradient of the loss with respect to the final state: one array for the hidden state, or one per state in the
        order of ``cell.states``. None, or a missing one, means zeros.
    ds : sequence of array or None, shape (n_a, m, T)
        Gradients with respect to the states of every step, as in `rnnx.recurrent_backward`, for a loss at every step
        or a layer below another one.

    Returns
    -------
    gradients : dict of str to array, shape (n_a, m, T + 1)
        Under "d" + name of the state. Entry t is the total derivative of the loss with respect to the state after t
        steps: entry 0 belongs to the initial state (da0, dc0), entry T is `ds_final` plus the last entry of `ds`.
        Past an example's length the state is constant, and so is its gradient.

    Raises
    ------
    ValueError, TypeError
        As for `rnnx.recurrent_backward`.

    See Also
    --------
    gradient_norms, gate_values, rnnx.recurrent_backward

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters = rnnx.initialize_parameters("gru", n_x=3, n_a=5, rng=0)
    >>> _, _, caches = rnnx.gru_forward(np.ones((3, 2, 7)), None, parameters)
    >>> da = np.ones((5, 2, 7))  # a loss at every step
    >>> gradients = rnnx.analysis.state_gradients(caches, ds=(da,))
    >>> gradients["da"].shape, bool(np.allclose(gradients["da"][:, :, 0], rnnx.gru_backward(da, caches)["da0"]))
    ((5, 2, 8), True)
    """
    return _walk_back(caches, ds_final, ds)[0]


def gradient_norms(
    caches: Any, *, ds_final: Any = (), ds: Sequence[Array | None] = (), per_example: bool = False
) -> Array:
    """Compute the norm of the gradient with respect to the states after every step.

    Parameters
    ----------
    caches, ds_final, ds
        As for `state_gradients`, with the same errors.
    per_example : bool
        Return one norm per example instead of one for all examples.

    Returns
    -------
    norms : array, shape (T + 1,) or (m, T + 1)
        Euclidean norm of the result of `state_gradients`, over all states. It overflows or underflows only if the
        gradient itself does.

    See Also
    --------
    state_gradients, text_gradient_norms, rnnx.plots.gradient_norms

    Examples
    --------
    >>> import numpy as np
    >>> import rnnx
    >>> parameters = {"Wax": np.eye(2), "Waa": 0.5 * np.eye(2), "ba": np.zeros((2, 1))}
    >>> _, _, caches = rnnx.rnn_forward(np.zeros((2, 1, 4)), None, parameters)
    >>> rnnx.analysis.gradient_norms(caches, ds_final=np.array([[3.0], [4.0]]))  # halved by every step back
    array([0.3125, 0.625 , 1.25  , 2.5   , 5.    ])
    """
    axes = (0,) if checks.flag("per_example", per_example) else (0, 1)
    return _norms(state_gradients(caches, ds_final=ds_final, ds=ds), axes)


def text_values(model: Any, tokenizer: Any, text: str) -> list[dict[str, Array]]:
    """Return all gates and states of a character model that reads a text.

    Parameters
    ----------
    model : CharModel
    tokenizer : CharTokenizer
        The model's tokenizer.
    text : str
        At least one character.

    Returns
    -------
    layers : list of dict of str to array, shape (n_a, len(text))
        The result of `gate_values` for each layer. Column t belongs to the step that reads ``text[t]``.

    Raises
    ------
    ValueError
        If the text is too short or has a character that is not in the vocabulary.

    See Also
    --------
    gate_values, text_gradient_norms, rnnx.plots.text_activation

    Examples
    --------
    >>> from rnnx.analysis import text_values
    >>> from rnnx.data import CharTokenizer
    >>> from rnnx.models import CharModel
    >>> tokenizer = CharTokenizer(oov_token=None).fit("abcd")
    >>> model = CharModel(tokenizer.vocab_size, hidden_size=8, cell="gru", rng=0)
    >>> (layer,) = text_values(model, tokenizer, "dabba")
    >>> {name: values.shape for name, values in layer.items()}
    {'ut': (8, 5), 'rt': (8, 5), 'cct': (8, 5), 'a': (8, 5)}
    """
    _, _, caches = _read(model, tokenizer, text)
    return [{name: values[:, 0, :] for name, values in gate_values(layer).items()} for layer in caches]


def text_gradient_norms(model: Any, tokenizer: Any, text: str) -> list[Array]:
    """Compute gradient norms of a character model that predicts the last character of a text.

    The loss is the negative log-likelihood of ``text[-1]`` given the characters before it.

    Parameters
    ----------
    model, tokenizer, text
        As for `text_values`, with the same errors; at least two characters.

    Returns
    -------
    layers : list of array, shape (len(text),)
        For each layer, the norm of the gradient with respect to its state after t characters.

    See Also
    --------
    gradient_norms, text_values, rnnx.plots.gradient_norms

    Examples
    --------
    >>> from rnnx.analysis import text_gradient_norms
    >>> from rnnx.data import CharTokenizer
    >>> from rnnx.models import CharModel
    >>> tokenizer = CharTokenizer(oov_token=None).fit("abcd")
    >>> model = CharModel(tokenizer.vocab_size, hidden_size=8, num_layers=2, cell="gru", rng=0)
    >>> below, above = text_gradient_norms(model, tokenizer, "abcdabcd")
    >>> above.shape, bool(above[0] < above[-1])  # the beginning matters less for the last character
    ((8,), True)
    """
    target, logits, caches = _read(model, tokenizer, text, hold_out=1)
    weights = model.parameters["Wy"]
    xp, device = ns.common_namespace({"Wy": weights, "logits": logits})
    _, dz = softmax_cross_entropy(logits[:, :, -1:], xp.asarray(target, device=device))
    ds_final: Any = (xp.matrix_transpose(weights) @ dz[:, :, 0],)
    ds: tuple[Array | None, ...] = ()
    norms = []
    for layer in reversed(caches):
        gradients, dx = _walk_back(layer, ds_final, ds, inputs=layer is not caches[0])
        norms.append(_norms(gradients, (0, 1)))
        ds_final, ds = (), (dx,)
    return norms[::-1]


def _read(model: Any, tokenizer: Any, text: str, hold_out: int = 0) -> tuple[np.ndarray, Array, list[Caches]]:
    """Run a model on all but the last `hold_out` characters; return their indices, the logits, each layer's caches."""
    if not isinstance(text, str):
        raise TypeError(f"`text` must be a str; got {type(text).__name__}")
    if len(text) <= hold_out:
        raise ValueError(f"`text` must have at least {hold_out + 1} character{'s' * hold_out}; got {shown(text)}")
    checks.check_methods("model", model, "a CharModel", "forward", "parameters")
    checks.check_methods("tokenizer", tokenizer, "a CharTokenizer", "encode", "vocab_size")
    indices = np.asarray(tokenizer.encode(text))[None, :]
    end = len(text) - hold_out
    logits, _, cache = model.forward(indices[:, :end])
    return np.ascontiguousarray(indices[:, end:]), logits, [forward for forward, *_ in cache.stack.layers]


def _owner(caches: Any) -> Caches:
    """Return the caches object, even if it was passed as (steps, x)."""
    if isinstance(caches, tuple | list) and len(caches) == 2 and isinstance(caches[0], Steps):
        return caches[0].caches
    if not isinstance(caches, Caches):
        raise TypeError(f"`caches` must be the caches of a sequence, from a forward function; got {shown(caches)}")
    return caches


@ignore_harmless_errors
def _walk_back(caches: Any, ds_final: Any, ds: Sequence[Array | None], inputs: bool = False) -> tuple[States, Array]:
    """Run backward step by step; return the cotangents of states (n_a, m, T + 1) and, with `inputs`, x (n_x, m, T)."""
    owner = _owner(caches)
    cell = owner.cell
    tape, here, entering = _cotangents(cell, owner.tape_for(cell), ds_final, ds)
    xp = tape.xp
    found, dxs, shares = [], [], []
    for t in range(tape.n_steps, 0, -1):
        here = tuple(d if more is None else d + more[:, :, t - 1] for d, more in zip(here, entering, strict=True))
        found.append(here)
        one_step = tape.steps(t - 1, t)
        gradients = schedule.backward(one_step, owner.engine, Cotangents((None,) * len(here), here))
        here = gradients.s0
        dxs.append(gradients.x)
        shares.append(initial_shares(xp, tape.cell, gradients))
    found.append(tuple(sum((share[s] for share in shares if share), d) for s, d in zip(cell.states, here, strict=True)))
    columns = zip(cell.states, zip(*found[::-1], strict=True), strict=True)
    result = {f"d{name}": xp.stack(list(values), axis=2) for name, values in columns}
    return result, xp.concat(dxs[::-1], axis=2) if inputs else None


def _cotangents(
    cell: Cell, tape: Tape, ds_final: Any, ds: Sequence[Array | None]
) -> tuple[Tape, tuple[Array, ...], tuple[Array | None, ...]]:
    """Check and convert to one dtype: the tape, the cotangents of the final states, and those added at each step."""
    xp, m, n_a = tape.xp, tape.m, tape.n_a
    ds_final = ds_final if isinstance(ds_final, tuple | list) else (ds_final,)
    named = arguments.by_state("ds_final", ds_final, cell, "d{}_final")
    named |= arguments.by_state("ds", ds, cell, "d{}")
    given = {name: d for name, d in named.items() if d is not None}
    if not given:
        raise ValueError("`ds_final` and `ds` must hold at least one gradient; got None for every state")
    ns.common_namespace({"caches": tape.states[0], **given})
    for (name, d), state in zip(named.items(), 2 * cell.states, strict=True):
        if d is None:
            continue
        n, final = cell.size(state, n_a), name.endswith("_final")
        of_n = units_in_symbols(cell, state)
        symbols, shape = (f"({of_n}, m)", (n, m)) if final else (f"({of_n}, m, T_x)", (n, m, tape.n_steps))
        checks.check_shape(name, d, symbols, shape)
    dtype = ns.floating_dtype(xp, {}, {"caches": tape.states[0], **given})
    tape = tape.astype(dtype)
    at_end = tuple(
        xp.zeros_like(xp.matrix_transpose(states[0, :, :]))
        if (d := named[f"d{s}_final"]) is None
        else ns.astype(xp, d, dtype)
        for s, states in zip(cell.states, tape.states, strict=True)
    )
    entering = tuple(  # there is no output past an example's end
        None if (d := named[f"d{s}"]) is None else layout.zero_past_end(xp, ns.astype(xp, d, dtype), tape.lengths)
        for s in cell.states
    )
    return tape, at_end, entering


@ignore_harmless_errors
def _norms(gradients: States, axes: tuple[int, ...]) -> Array:
    """Return Euclidean norms of all states over some axes, scaled so that no square overflows or underflows."""
    xp, _ = ns.common_namespace(gradients)
    all_states = xp.concat(list(gradients.values()), axis=0)
    if 0 in all_states.shape:  # no examples: the norm is 0
        return xp.sum(all_states, axis=axes)
    largest = xp.max(xp.abs(all_states), axis=axes, keepdims=True)
    scale = xp.where(largest > 0, largest, xp.ones_like(largest))
    return xp.squeeze(scale, axis=axes) * xp.sqrt(xp.sum((all_states / scale) ** 2, axis=axes))
