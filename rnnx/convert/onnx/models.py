"""Models as ONNX files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rnnx._core import arrays as ns
from rnnx._core.checks import flag
from rnnx._core.files import write_atomically
from rnnx._core.install import install_command
from rnnx._core.words import shown
from rnnx.convert.onnx.graph import IR_VERSION, OPSET, Graph, Symbol, symbol_ops, value_info
from rnnx.convert.onnx.layers import add_stack
from rnnx.convert.onnx.seq2seq import Seq2SeqExporter
from rnnx.models.character import CharModel
from rnnx.models.heads import Readout
from rnnx.models.seq2seq import Seq2Seq
from rnnx.models.stack_model import StackModel


def to_onnx(
    model: StackModel | Seq2Seq, *, states: bool | None = None, lengths: bool = False, indices: bool | None = None
) -> Any:
    """Export a model as an ONNX graph, for onnxruntime and other runtimes.

    Parameters
    ----------
    model : CharModel, SequenceClassifier, SequenceRegressor, MultiTaskModel or Seq2Seq
        With any cell; evaluation is exported, without dropout.
    states : bool, optional
        Whether the initial states are inputs, and the final ones outputs, named as in ``model.stack.state_names``. The
        default is true for a CharModel, which then reads a text in parts, and false for other models, which start at
        zero. A Seq2Seq cannot have them.
    lengths : bool
        Whether the numbers of steps are an input `lengths`, (m,) of int64; `source_lengths` for a Seq2Seq.
    indices : bool, optional
        Whether the inputs are indices, as for a model with an embedding folded into its weights. The default is true
        for a CharModel and a Seq2Seq, false for other models.

    Returns
    -------
    onnx.ModelProto
        Inputs: `inputs`, (T, m, n_x) of the model's dtype, or indices (T, m) of int64; `lengths` and states (m, n) if
        asked for; the cell's inputs besides x, (T, m, 1). Outputs: `outputs`, the logits or the predicted
        numbers, (T, m, n_y), or (m, n_y) if the model has one output per example; the states; where
        `predict_distribution` says other numbers, because of the loss or a `target_scaler`, these too, by their names
        ("mean", "0.1", ...; "y" without others). Of a MultiTaskModel, each head has an output of its name, such as
        "load", and what it says is "load.mean", "load.0.1", ... T and m are open.

        A Seq2Seq becomes one graph that decodes greedily, like its `predict`. Inputs: `source`, (T_x, m) of int64;
        `max_length`, a number of int64; `source_lengths` if asked for. Outputs: `indices`, (T_y, m) of int64, with
        T_y <= max_length; `lengths`, (m,); with attention, `weights`, (T_y, m, T_x).

    Raises
    ------
    ValueError
        If states, or inputs that are not indices, are asked for of a Seq2Seq, or indices of a model with an
        `input_scaler`; or if two inputs or outputs of the file would have the same name.
    TypeError
        If this is not such a model.
    ImportError
        If onnx is not installed.

    See Also
    --------
    save_onnx, from_onnx, rnnx.export.to_c

    Notes
    -----
    LSTM, both GRUs and the RNN become the nodes of these names. For other cells, the equations themselves become the
    body of a Scan.

    Examples
    --------
    >>> import numpy as np
    >>> import onnx.reference
    >>> from rnnx.convert import to_onnx
    >>> from rnnx.models import SequenceRegressor
    >>> model = SequenceRegressor(3, 8, rng=0)
    >>> graph = to_onnx(model)
    >>> x = np.ones((6, 2, 3), "float32")  # (T, m, n_x); rnnx has (n_x, m, T)
    >>> (y,) = onnx.reference.ReferenceEvaluator(graph).run(None, {"inputs": x})
    >>> y.shape, bool(np.allclose(y.T, model.predict(x.T.copy()), atol=1e-5))
    ((2, 1), True)
    """
    if not isinstance(model, StackModel | Seq2Seq):
        kinds = "CharModel, SequenceClassifier, SequenceRegressor, MultiTaskModel or Seq2Seq"
        raise TypeError(f"`model` must be a {kinds}; got {shown(model)}")
    lengths = flag("lengths", lengths)
    with_states = isinstance(model, CharModel) if states is None else flag("states", states)
    if with_states and isinstance(model, Seq2Seq):
        raise ValueError("`states` must be False for a Seq2Seq, whose decoder starts from the encoder's states")
    with_indices = isinstance(model, CharModel | Seq2Seq) if indices is None else flag("indices", indices)
    if not with_indices and isinstance(model, Seq2Seq):
        raise ValueError("`indices` must be True for a Seq2Seq")
    if with_indices and isinstance(model, StackModel) and model.input_scaler is not None:
        raise ValueError("`indices` must be False for a model with an `input_scaler`")
    model.check_parameters()
    try:
        import onnx
    except ImportError:
        raise ImportError(f"to_onnx requires onnx: {install_command('onnx')}") from None
    from onnx import helper

    if isinstance(model, Seq2Seq):
        graph = Seq2SeqExporter(model, lengths).graph()
    else:
        graph = _Exporter(model, with_states, lengths, with_indices).graph()
    opset = [helper.make_opsetid("", OPSET)]
    proto = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="rnnx")
    onnx.checker.check_model(proto, full_check=True)
    return proto


def save_onnx(model: StackModel | Seq2Seq, path: str | Path, **options: Any) -> None:
    """Write a model to an ONNX file, which is replaced only when it is complete.

    Parameters
    ----------
    model, **options
        As for `to_onnx`.
    path : str or path

    See Also
    --------
    to_onnx, from_onnx, rnnx.training.save_checkpoint

    Examples
    --------
    >>> import onnx
    >>> from rnnx.convert import save_onnx
    >>> from rnnx.models import SequenceClassifier
    >>> save_onnx(SequenceClassifier(3, 8, num_classes=2, cell="gru", rng=0), "model.onnx", lengths=True)
    >>> [value.name for value in onnx.load("model.onnx").graph.input]
    ['inputs', 'lengths']
    """
    data = to_onnx(model, **options).SerializeToString()
    write_atomically(path, data)


class _Exporter:
    """Builds the graph of a model."""

    def __init__(self, model: StackModel, with_states: bool, with_lengths: bool, indices: bool) -> None:
        self.model = model
        self.parameters = {name: ns.to_host(a) for name, a in model.parameters.items()}
        self.dtype = next(iter(self.parameters.values())).dtype
        self.onnx = Graph(self.dtype)
        self.indices = indices
        self.lengths = "lengths" if with_lengths else ""
        sizes = [pair for one in model.stack.directions for pair in one.state_sizes.items()]
        self.state_sizes = dict(sizes if with_states else [])

    def graph(self) -> Any:
        """Return the whole graph."""
        from onnx import helper

        stack, inputs = self.model.stack, self._inputs()
        start = {name: name for name in self.state_sizes}
        extra = {name: name for name in stack.cell.inputs}
        first = self._standardized("inputs")
        a, final = add_stack(self.onnx, stack, self.parameters, first, self.indices, start, self.lengths, extra)
        last = ""
        if not all(one.per_step for one in self.model.readouts.values()):
            ends = [final[one.state_names[0]] for one in stack.layers[-1]]
            last = ends[0] if len(ends) == 1 else self.onnx.add("Concat", *ends, axis=1)
        found, described = list[Any](), list[Any]()
        for name, one in self.model.readouts.items():
            z, info = self._outputs(name, one, a if one.per_step else last)
            found.append(info)
            described += self._described(name, one, z)
        found += self._final_states(final) + described
        _check_names([value.name for value in (*inputs, *found)])
        return helper.make_graph(self.onnx.nodes, self.model.kind, inputs, found, self.onnx.initializers)

    def _outputs(self, name: str, one: Readout, a: str) -> tuple[str, Any]:
        """Add a dense layer; return the name of its outputs, and their description as a result."""
        dense, add = one.dense, self.onnx.add
        W = self.onnx.constant(self.parameters["W" + dense.name].T, "Wy")
        b = self.onnx.constant(self.parameters["b" + dense.name][:, 0], "by")
        z = add("Add", add("MatMul", a, W), b)
        result = name or "outputs"
        self.onnx.rename(z, result)
        return z, value_info(result, self.dtype, [*_sizes(one), dense.n_out])

    def _described(self, name: str, one: Readout, z: str) -> list[Any]:
        """Add what outputs say, in the units of the targets; return their descriptions as results."""
        objective, graph = one.objective, self.onnx
        if not objective.describes:
            return []
        n = len(objective.loss.outputs)
        parts = [z] if n == 1 else graph.add("Split", z, axis=-1, n=n)
        unit = objective.unit
        numbers = [] if unit is None else [unit.scaler.mean, unit.scaler.scale]
        given = [Symbol(graph, graph.constant(np.array(v, self.dtype), "unit")) for v in numbers]
        found = objective.traced(symbol_ops(), [Symbol(graph, part) for part in parts], *given)
        results = {f"{name}.{key}" if name else key: value for key, value in found.items()}
        for result, value in results.items():
            graph.rename(value.name, result)
        return [value_info(result, self.dtype, [*_sizes(one), objective.sizes.n_y]) for result in results]

    def _final_states(self, final: dict[str, str]) -> list[Any]:
        """Return the descriptions of the final states as results."""
        for name in self.state_sizes:
            self.onnx.rename(final[name], name + "_final")
        return [value_info(name + "_final", self.dtype, ["m", size]) for name, size in self.state_sizes.items()]

    def _standardized(self, name: str) -> str:
        """Return the name of the inputs of the stack, which a model with an `input_scaler` standardizes."""
        scaler = self.model.input_scaler
        if scaler is None:
            return name
        mean, scale = (self.onnx.constant(np.array(v, self.dtype), "scaler") for v in (scaler.mean, scaler.scale))
        found: str = self.onnx.add("Div", self.onnx.add("Sub", name, mean), scale)
        return found

    def _inputs(self) -> list[Any]:
        stack = self.model.stack
        size = [] if self.indices else [stack.input_size]
        found = [value_info("inputs", np.int64 if self.indices else self.dtype, ["T", "m", *size])]
        if self.lengths:
            found.append(value_info("lengths", np.int64, ["m"]))
        found += [value_info(name, self.dtype, ["m", size]) for name, size in self.state_sizes.items()]
        return found + [value_info(name, self.dtype, ["T", "m", 1]) for name in stack.cell.inputs]


def _sizes(one: Readout) -> list[str]:
    """Return the first sizes of the outputs of a head."""
    return ["T", "m"] if one.per_step else ["m"]


def _check_names(names: Sequence[str]) -> None:
    """Raise if the inputs and results of a file do not have different names."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"the inputs and outputs of an ONNX file must have different names; {name!r}, of a head, a state or "
                "an input of the cell, is there twice"
            )
