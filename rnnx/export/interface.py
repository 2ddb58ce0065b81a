"""What the C files of each kind of model declare, and how they are used."""

from typing import Any

from rnnx.export.heads import HeadCode
from rnnx.export.shared_model import FORMAT
from rnnx.export.source import Source


class SequenceSource(Source):
    """The files of a model of single sequences."""

    def sizes(self) -> dict[str, int]:
        """See `Source`."""
        own = self.functions
        of_heads = {head.size_name: head.n for head in own.heads}
        return {"INPUTS": self.model.stack.input_size, **of_heads, "EXTRA": len(own.inputs)}

    @property
    def stands_for(self) -> dict[str, str]:
        """See `Source`."""
        return {
            f"vocabulary{head.end}": f"the outputs{f' {head.name}' * bool(head.name)}" for head in self.functions.heads
        }

    def declarations(self) -> list[str]:
        """See `Source`."""
        own, found = self.functions, list[str]()
        if not own.bidirectional:
            found.append(self.declared(self._explained("step"), "int", "step", own.step_arguments()))
        found.append(self.declared(self._explained("run"), "int", "run", own.run_arguments()))
        return [*found, *(text for head in own.heads for text in self._predictions(head))]

    def _predictions(self, head: HeadCode) -> list[str]:
        """Return the declarations of the functions that compute what the outputs of a head say."""
        outputs, found = f"outputs {head.name}" if head.name else "outputs", list[str]()
        if head.classes:
            p = "probabilities p, which may be y" if head.n > 1 else "two probabilities p"
            about = [f"Turn {outputs} into {p}. A temperature below 1 favors likely ones."]
            arguments = "const float *y, float temperature, float *p"
            found.append(self.declared(about, "void", f"probabilities{head.end}", arguments))
        if head.objective.describes:
            names = ", ".join(head.predictions)
            about = [f"Turn {outputs} into predictions p, which may be y, in the units of the targets: {names}."]
            found.append(self.declared(about, "void", f"predict{head.end}", "const float *y, float *p"))
        return found

    def _explained(self, kind: str) -> list[str]:
        own, upper, one = self.functions, self.upper, kind == "step"
        x = "an index" if own.indices else f"{upper}_INPUTS numbers"
        lines = [f"Read one step, {x} x." if one else f"Read a sequence x, {x} per step."]
        for head in own.heads:
            outputs = "logits" if head.classes else "outputs"
            per = " per step" if head.per_step and not one else ""
            lines.append(f"Write {upper}_{head.size_name} {outputs}{per} to {head.y}, unless it is NULL.")
        if own.inputs:
            lines.append(f"extra has the inputs {', '.join(own.inputs)}" + ("" if one else " of each step"))
            lines[-1] += "; NULL gives their defaults." if own.optional else "."
        if own.bidirectional:
            lines.append(
                f"work has {upper}_WORKSPACE(steps) numbers. The state holds the initial states, then the final ones."
            )
        return [*lines, "Return 0, or 1 if an argument is out of range; the state is then as before."]

    def usage(self) -> list[str]:
        """See `Source`."""
        own, name, upper = self.functions, self.name, self.upper
        x = "int32_t x[STEPS];" if own.indices else f"float x[STEPS * {upper}_INPUTS],"
        y = [f"{head.y}[{'STEPS * ' * head.per_step}{upper}_{head.size_name}]" for head in own.heads]
        places = ", ".join(head.y for head in own.heads)
        arguments = f"&s, x, STEPS, {'extra, ' * bool(own.inputs)}{places}{', work' * own.bidirectional}"
        step = f"or, one step at a time, {name}_step. {name}_reset begins another sequence."
        return [
            "Sequences are stored step by step. To run one:",
            f'  #include "{self.header_name}"',
            f"  static {name}_state s;",
            f"  {x}{' float' * own.indices} {', '.join(y)};",
            *[f"  float work[{upper}_WORKSPACE(STEPS)];"] * own.bidirectional,
            f"  {name}_init(&s);",
            f"  {name}_run({arguments});",
            *[step] * (not own.bidirectional),
        ]

    def facts(self) -> dict[str, Any]:
        """See `Source`."""
        own, model, defaults = self.functions, self.model, dict(self.functions.stack.cell.defaults)
        heads = [self._facts_of(head) for head in own.heads]
        return {
            "format": FORMAT,
            "name": self.name,
            "kind": model.kind,
            "inputs": model.stack.input_size,
            "indices": own.indices,
            "bidirectional": own.bidirectional,
            "extra": [[name, defaults.get(name)] for name in own.inputs],
            "states": [[state.name, state.size] for state in own.states],
            "state_bytes": self.state_bytes,
            "workspace": own.work_size,
            **({"heads": heads} if own.heads[0].name else heads[0]),
        }

    def _facts_of(self, head: HeadCode) -> dict[str, Any]:
        """Return what a program must know of a head: also its name, unless it is the only one."""
        named = {"name": head.name, "end": head.end} if head.name else {}
        return {
            **named,
            "outputs": head.n,
            "per_step": head.per_step,
            "vocabulary": self.words.get(f"vocabulary{head.end}"),
            "predictions": head.predictions,
        }


class Seq2SeqSource(Source):
    """The files of an encoder and a decoder."""

    @property
    def stands_for(self) -> dict[str, str]:
        """See `Source`."""
        return {"vocabulary": "the inputs", "target_vocabulary": "the tokens"}

    def sizes(self) -> dict[str, int]:
        """See `Source`."""
        model = self.model
        return {"INPUTS": model.encoder.input_size, "OUTPUTS": model.target_vocab_size, "END": model.end_token}

    def declarations(self) -> list[str]:
        """See `Source`."""
        own, upper = self.functions, self.upper
        work = [f"work has {upper}_WORKSPACE(steps) numbers, which belong to the state until the next source."]
        source = ["Read a source, an index x per step.", *work * own.needs_work]
        source.append("Return 0, or 1 if an argument is out of range; the state is then as before.")
        step = [
            f"Read a target token, at first {upper}_END, and write the {upper}_OUTPUTS logits of the next one to y,"
        ]
        attends = own.attention is not None
        step.append("unless it is NULL" + ", and a weight for each step of the source to weights, likewise." * attends)
        step[-1] = step[-1] if attends else step[-1] + "."
        step += ["work is that of the source."] * attends + ["Return 0, or 1 if x is out of range."]
        whole = ["Read a source, and write its most likely tokens, at most so many, up to the end token.", *work]
        whole = whole if own.needs_work else whole[:1]
        whole.append("Return how many they are, or -1 if an argument is out of range.")
        return [
            self.declared(source, "int", "encode", own.encode_arguments()),
            self.declared(step, "int", "decode", own.decode_arguments()),
            self.declared(whole, "int32_t", "translate", own.translate_arguments()),
        ]

    def usage(self) -> list[str]:
        """See `Source`."""
        own, name, upper = self.functions, self.name, self.upper
        work = own.needs_work
        return [
            "To decode greedily:",
            f'  #include "{self.header_name}"',
            f"  static {name}_state s;",
            "  int32_t x[STEPS], tokens[MOST], n;",
            *[f"  float work[{upper}_WORKSPACE(STEPS)];"] * work,
            f"  {name}_init(&s);",
            f"  n = {name}_translate(&s, x, STEPS{', work' * work}, tokens, MOST);",
            f"or, to choose tokens otherwise, {name}_encode and then {name}_decode for one after another.",
        ]

    def facts(self) -> dict[str, Any]:
        """See `Source`."""
        own, model = self.functions, self.model
        return {
            "format": FORMAT,
            "name": self.name,
            "kind": model.kind,
            "inputs": model.encoder.input_size,
            "outputs": model.target_vocab_size,
            "end": model.end_token,
            "attends": own.attention is not None,
            "needs_work": own.needs_work,
            "state_bytes": self.state_bytes,
            "workspace": own.work_size,
            "vocabulary": self.words.get("vocabulary"),
            "target_vocabulary": self.words.get("target_vocabulary"),
        }
