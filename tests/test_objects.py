"""Objects of the wrong kind where a function wants a model, a tokenizer, a dataset, ...: the message names them."""

import pytest

from rnnx import analysis, models
from rnnx.data import CharTokenizer, Lines, encode_file
from rnnx.models import CharModel, Seq2Seq
from rnnx.optim import SGD
from rnnx.training import Checkpoint, Run, Trainer, evaluate, save_checkpoint

MODEL, PAIRS, TOKENIZER = CharModel(5, 4, seed=0), Seq2Seq(5, 5, 4, seed=0), CharTokenizer(None).fit("\nabcd")
LINES = Lines([[1, 2, 3]], 0)
CALLS = {
    "sample model": ("model", lambda v: models.sample(v, TOKENIZER)),
    "sample tokenizer": ("tokenizer", lambda v: models.sample(MODEL, v)),
    "generate": ("tokenizer", lambda v: MODEL.generate(v)),
    "translate from": ("source_tokenizer", lambda v: PAIRS.translate(["a"], v, TOKENIZER, max_length=2)),
    "translate to": ("target_tokenizer", lambda v: PAIRS.translate(["a"], TOKENIZER, v, max_length=2)),
    "trainer of a model": ("model", lambda v: Trainer(v, SGD())),
    "trainer with an optimizer": ("optimizer", lambda v: Trainer(MODEL, v)),
    "fit": ("train", lambda v: Trainer(MODEL, SGD()).fit(v, epochs=1)),
    "trainer evaluates": ("dataset", lambda v: Trainer(MODEL, SGD()).evaluate(v, 2)),
    "evaluate model": ("model", lambda v: evaluate(v, LINES, 2)),
    "evaluate dataset": ("dataset", lambda v: evaluate(MODEL, v, 2)),
    "fit n-grams": ("dataset", lambda v: analysis.NGram(2, 5).fit(v)),
    "losses of n-grams": ("dataset", lambda v: analysis.NGram(2, 5).losses(v)),
    "values of a model": ("model", lambda v: analysis.text_values(v, TOKENIZER, "ab")),
    "values with a tokenizer": ("tokenizer", lambda v: analysis.text_values(MODEL, v, "ab")),
    "norms of a model": ("model", lambda v: analysis.text_gradient_norms(v, TOKENIZER, "ab")),
    "norms with a tokenizer": ("tokenizer", lambda v: analysis.text_gradient_norms(MODEL, v, "ab")),
    "save": ("checkpoint", lambda v: save_checkpoint("m", v)),
    "save a model": ("checkpoint.model", lambda v: save_checkpoint("m", Checkpoint(v))),
    "run": ("settings", lambda v: Run.start("run", v)),
}
OR_NONE = {
    "validation": ("validation", lambda v: Trainer(MODEL, SGD()).fit(LINES, v, epochs=1)),
    "save a tokenizer": ("checkpoint.tokenizer", lambda v: save_checkpoint("m", Checkpoint(MODEL, v))),
    "encode": ("tokenizer", lambda v: encode_file("a.txt", v)),
}


@pytest.mark.parametrize("value", [None, 3, "abc", [], {}, CharTokenizer, object()])
@pytest.mark.parametrize("name", CALLS | OR_NONE)
def test_the_message_names_the_argument(name, value, tmp_path, monkeypatch):
    if value is None and name in OR_NONE:
        return
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("ab")
    argument, call = (CALLS | OR_NONE)[name]
    with pytest.raises(TypeError, match=f"^`{argument}` must ") as error:
        call(value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
