"""The functions of an encoder and a decoder with attention in C.

Dimensions: n decoder and n_e encoder features, T_x source steps, n_y target tokens.
"""

import math
from collections.abc import Iterable

import numpy as np

from rnnx.export.code import Code
from rnnx.export.functions import init
from rnnx.export.stack import StackCode
from rnnx.export.text import function, indented, number
from rnnx.models.layers import Direction
from rnnx.models.seq2seq import Seq2Seq


class Seq2SeqFunctions:
    """Writes the functions of a model, whose names begin with `name`.

    What depends on the whole source is in memory of the caller, ``work``: per step, the encoder's outputs, their keys
    if they are projected, a score, and the outputs of the encoder's other layers.
    """

    def __init__(self, model: Seq2Seq, parameters: dict[str, np.ndarray], name: str, *, int8: bool) -> None:
        self.model, self.name, self.parameters = model, name, parameters
        self.code, self.attention = Code(int8), model.attention
        names = self.code.names
        ends = ("state", "init", "reset", "encode", "decode", "translate", "vocabulary", "target_vocabulary")
        for own in ("head", "advance", "given", "attend", "rnnx_model", *(f"{name}_{end}" for end in ends)):
            names(own)
        member, state = names.within(), f"{name}_state"
        self.encoder, self.decoder = (
            StackCode(self.code, stack, parameters, member, state, indices=True)
            for stack in (model.encoder, model.decoder)
        )
        self.states = [*self.encoder.states, *self.decoder.states]
        self.n, self.n_encoded, self.n_y = model.head.n_in, model.encoder.output_size, model.target_vocab_size
        self.projects = model.attention is not None and "Wk_attention" in parameters

    @property
    def state_type(self) -> str:
        """The type of the state."""
        return f"{self.name}_state"

    @property
    def _last(self) -> Direction:
        """The last layer of the decoder."""
        (layer,) = self.model.decoder.layers[-1]
        return layer

    @property
    def counters(self) -> dict[str, str]:
        """Integers in the state, and what they count."""
        return {"source": "steps of the source"} | ({"steps": "of the target"} if self.decoder.has_counter else {})

    @property
    def workspaces(self) -> dict[str, int]:
        """Numbers per step of the source in ``work``, by what they are, in order."""
        outputs = [sum(one.hidden_size for one in layer) for layer in self.model.encoder.layers[:-1]]
        parts = {"first": max(outputs[::2], default=0), "second": max(outputs[1::2], default=0)}
        if self.attention is not None:
            parts = {"encoded": self.n_encoded, "keys": self.n * self.projects, "scores": 1, **parts}
        return {name: size for name, size in parts.items() if size}

    @property
    def needs_work(self) -> bool:
        """Whether functions have an argument ``work``."""
        return bool(self.workspaces)

    @property
    def work_size(self) -> int:
        """Numbers per step of the source in ``work``."""
        return sum(self.workspaces.values())

    @property
    def work(self) -> str:
        """The argument for memory, with a comma."""
        return ", float *work" if self.workspaces else ""

    # --- prototypes ------------------------------------------------------------------------------------------------

    def encode_arguments(self) -> str:
        """The arguments of the function that reads a source."""
        return f"{self.state_type} *s, const int32_t *x, size_t steps{self.work}"

    def decode_arguments(self) -> str:
        """The arguments of the function of a target step."""
        work, weights = ("", "") if self.attention is None else (self.work, ", float *weights")
        return f"{self.state_type} *s, int32_t x{work}, float *y{weights}"

    def translate_arguments(self) -> str:
        """The arguments of the function that decodes greedily."""
        return f"{self.encode_arguments()}, int32_t *tokens, int32_t most"

    # --- definitions -----------------------------------------------------------------------------------------------

    def definitions(self) -> list[str]:
        """Return the definitions of all functions."""
        found = [*self.encoder.definitions(), *self.decoder.definitions()]
        if self.encoder.inputs:
            found.append(self.encoder.defaults())
        found += [
            self.decoder.advance(),
            *([] if self.attention is None else [self._attend(self.attention.kind)]),
            self._head(),
        ]
        of_sequences = [self._reset(), self._encode(), self._decode(), self._translate()]
        return [*found, init(self.code, self.name), *of_sequences]

    def _dense(self, key: str, place: str, *sources: str) -> list[str]:
        """Return lines that set a place to W [sources] + b, for the parameters "W" + key and "b" + key."""
        parts = np.split(self._weights("W" + key), len(sources), axis=1)
        return self._sum(key, zip(parts, sources, strict=True), place)

    def _sum(self, key: str, products: Iterable[tuple[np.ndarray, str]], place: str) -> list[str]:
        """Return lines that set a place to the sum of matrices times vectors, and of the bias "b" + key."""
        b = self._weights("b" + key)
        lines = self.code.start("b" + key, b, place)
        for W, source in products:
            lines += self.code.product("W" + key, W, source, place, exact=True)
        return lines

    def _weights(self, key: str) -> np.ndarray:
        return self.parameters[key].astype(np.float32)

    def _reset(self) -> str:
        lines = ["int u;", *self.encoder.reset(), *self.decoder.reset(), "s->source = 0;"]
        return function(f"void {self.name}_reset({self.state_type} *s)", lines)

    def _places(self, steps: str, *names: str) -> list[str]:
        """Return the definitions of pointers to parts of ``work``."""
        starts = dict(zip(self.workspaces, np.cumsum([0, *self.workspaces.values()]).tolist(), strict=False))
        return [f"float *const {name} = work + {steps} * {starts[name]};" for name in names if name in starts]

    def _encode(self) -> str:
        n_x, layers = self.model.encoder.input_size, self.model.encoder.layers
        places = ["second" if k % 2 else "first" for k in range(len(layers) - 1)]
        attends = self.attention is not None
        lines = ["size_t t;", "int u;", *[f"float own[{len(self.encoder.inputs)}];"] * bool(self.encoder.inputs)]
        lines += ["const float *const extra = 0;"] * bool(self.encoder.inputs)
        lines += [*self._places("steps", "encoded", "keys", "first", "second")]
        lines += ["if ((uint32_t)steps != steps) return 1;", "for (t = 0; t < steps; ++t)"]
        lines += [f"  if (x[t] < 0 || x[t] >= {n_x}) return 1;", f"{self.name}_reset(s);"]
        lines += ["s->source = (uint32_t)steps;"]
        lines += self.encoder.layer_by_layer([*places, "encoded" if attends else ""])
        if self.projects:
            n, n_e, W = self.n, self.n_encoded, self._weights("Wk_attention")
            product = self.code.product("Wk", W, f"encoded + t * {n_e}", f"keys + t * {n}", exact=True)
            of_step = [f"for (u = 0; u < {n}; ++u) keys[t * {n} + u] = 0.0f;", *product]
            lines += ["for (t = 0; t < steps; ++t) {", *indented(of_step), "}"]
        return function(f"int {self.name}_encode({self.encode_arguments()})", [*lines, *self._bridge(), "return 0;"])

    def _bridge(self) -> list[str]:
        """Return lines that compute the initial states of the decoder."""
        bridge, lines = self.model.network.bridge, list[str]()
        for state, sources, dense in bridge.links:
            place, n = self.decoder.place(state), dense.n_out
            if not bridge.parts:
                lines.append(f"for (u = 0; u < {n}; ++u) {place}[u] = {self.encoder.place(sources[0])}[u];")
                continue
            self.code.words.add("tanh")
            lines += self._dense(dense.name, place, *map(self.encoder.place, sources))
            lines.append(f"for (u = 0; u < {n}; ++u) {place}[u] = op_tanh({place}[u]);")
        return lines

    def _attend(self, kind: str) -> str:
        """Return the function that combines the hidden state of the decoder with its context."""
        code, n, n_e, memory = self.code, self.n, self.n_encoded, self.code.memory
        a, context, out = self.decoder.hidden(self._last), memory("context", n_e), memory("attended", n)
        code.words |= {"tanh", "exp", "mean"}
        lines = ["float most = 0.0f, sum = 0.0f;", "size_t t;", "int u;"]
        lines += self._places("(size_t)s->source", "encoded", "keys", "scores")
        lines += [*self._scores(kind, a, memory("query", n), memory("terms", n))]
        lines += ["for (t = 0; t < s->source; ++t) sum += scores[t] = op_exp(scores[t] - most);"]
        lines += [f"for (u = 0; u < {n_e}; ++u) {context}[u] = 0.0f;", "for (t = 0; t < s->source; ++t) {"]
        lines += ["  const float p = scores[t] / sum;", "  if (weights) weights[t] = p;"]
        lines += [f"  for (u = 0; u < {n_e}; ++u) {context}[u] += p * encoded[t * {n_e} + u];", "}"]
        parts = np.split(self._weights("Wc_attention"), [n_e], axis=1)
        lines += self._sum("c_attention", zip(parts, (context, a), strict=True), out)
        lines += [f"for (u = 0; u < {n}; ++u) {out}[u] = op_tanh({out}[u]);"]
        head = f"static void attend({self.state_type} *s, float *work, float *weights)"
        return function(head, lines, "Attention to the source, and what the head reads.")

    def _scores(self, kind: str, a: str, query: str, terms: str) -> list[str]:
        """Return lines that compute the scores of the steps of the source, and the largest."""
        code, n = self.code, self.n
        key = f"{'keys' if self.projects else 'encoded'}[t * {n} + u]"
        if kind == "additive":
            lines = code.start("ba", self._weights("ba_attention"), query)
            lines += code.product("Wq", self._weights("Wq_attention"), a, query, exact=True)
            va, declared = code.pointer(code.constants("va", self._weights("va_attention")))
            lines += declared
            term = f"{va}[u] * op_tanh({query}[u] + {key})"
        else:
            scale = number(float(np.float32(1 / math.sqrt(n) if kind == "scaled_dot" else 1)))
            lines = [f"for (u = 0; u < {n}; ++u) {query}[u] = {a}[u] * {scale};"]
            term = f"{query}[u] * {key}"
        of_step = [f"for (u = 0; u < {n}; ++u) {terms}[u] = {term};", f"scores[t] = op_mean({terms}, {n}) * {n}.0f;"]
        of_step += ["most = !t || scores[t] > most ? scores[t] : most;"]
        return [*lines, "for (t = 0; t < s->source; ++t) {", *indented(of_step), "}"]

    def _head(self) -> str:
        hidden = self.decoder.hidden(self._last)
        source = hidden if self.attention is None else self.code.memory("attended", self.n)
        head = f"static void head(const {self.state_type} *s, float *y)"
        return function(head, self._dense("y", "y", source), "The output layer.")

    def _decode(self) -> str:
        lines = [f"if (x < 0 || x >= {self.n_y}) return 1;", f"advance(s, x{', 0' if self.decoder.inputs else ''});"]
        lines += ["attend(s, work, weights);"] * (self.attention is not None) + ["if (y) head(s, y);", "return 0;"]
        return function(f"int {self.name}_decode({self.decode_arguments()})", lines)

    def _translate(self) -> str:
        logits, end = self.code.memory("logits", self.n_y), self.model.end_token
        work, more = (", work" if self.workspaces else ""), ""
        if self.attention is not None:
            more = ", 0"
        lines = [f"int32_t k, u, token = {end};", f"if ({self.name}_encode(s, x, steps{work})) return -1;"]
        of_step = f"s, token{work if self.attention is not None else ''}, {logits}{more}"
        lines += ["for (k = 0; k < most; ++k) {", f"  {self.name}_decode({of_step});", "  token = 0;"]
        lines += [f"  for (u = 1; u < {self.n_y}; ++u) token = {logits}[u] > {logits}[token] ? u : token;"]
        lines += [f"  if (token == {end}) break;", "  tokens[k] = token;", "}", "return k;"]
        return function(f"int32_t {self.name}_translate({self.translate_arguments()})", lines)
