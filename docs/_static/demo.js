// The box on the front page: a character model as a WebAssembly module (rnnx/export/README.md) writes dinosaur names.
"use strict";

const COUNT = 8; // names at a time
const LONGEST = 40; // characters of a name

/** A function (start, temperature) => name, from the module in base64. */
async function loadModel(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const c = (await WebAssembly.instantiate(bytes)).instance.exports;
  let text = "";
  for (let k = 0, p; (p = c.rnnx_model(k)); ++k)
    for (const m = new Uint8Array(c.memory.buffer); m[p]; ++p) text += String.fromCharCode(m[p]);
  const { name, outputs, state_bytes, vocabulary } = JSON.parse(text);

  const state = c.__heap_base.value, y = state + state_bytes, end = y + 4 * outputs;
  c.memory.grow(Math.max(0, Math.ceil((end - c.memory.buffer.byteLength) / 65536)));
  const p = new Float32Array(c.memory.buffer, y, outputs);
  const newline = vocabulary.indexOf("\n");
  const read = (index) => c[name + "_step"](state, index, y);

  /** An index drawn from the probabilities of the next character; unknown characters are never drawn. */
  function draw(temperature) {
    c[name + "_probabilities"](y, temperature, y);
    const known = (i) => [...vocabulary[i]].length === 1;
    let left = Math.random() * p.reduce((sum, q, i) => (known(i) ? sum + q : sum), 0);
    const index = p.findIndex((q, i) => known(i) && (left -= q) < 0);
    return index < 0 ? newline : index;
  }

  return (start, temperature) => {
    const indices = [...start].map((character) => vocabulary.indexOf(character));
    const unknown = indices.indexOf(-1);
    if (unknown >= 0) throw new RangeError(`The model does not know "${[...start][unknown]}": it has seen only letters.`);
    c[name + "_init"](state);
    read(newline);
    indices.forEach(read);
    let result = start;
    for (let i = draw(temperature); i !== newline && result.length < LONGEST; i = draw(temperature)) {
      result += vocabulary[i];
      read(i);
    }
    return result;
  };
}

const form = document.getElementById("demo");
const names = form.querySelector(".demo-names");
const model = loadModel(DINOS);

async function show(event) {
  event?.preventDefault();
  try {
    const sample = await model;
    const spans = Array.from({ length: COUNT }, () => {
      const span = document.createElement("span");
      span.textContent = sample(form.start.value.trim(), Number(form.temperature.value));
      return span;
    });
    names.replaceChildren(...spans.flatMap((span) => [span, " "]));
  } catch (error) {
    names.textContent =
      error instanceof RangeError ? error.message : "This browser cannot run the model: it needs WebAssembly with SIMD.";
  }
}

form.addEventListener("submit", show);
form.temperature.addEventListener("input", () => (form.shown.value = Number(form.temperature.value).toFixed(1)));
show();
