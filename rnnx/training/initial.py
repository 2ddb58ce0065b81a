"""The model of an earlier run, to be trained further on another text."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from rnnx._core import arrays as ns
from rnnx.cells import Cell
from rnnx.data import Corpus
from rnnx.models import CharModel
from rnnx.training.checkpoint import load_run
from rnnx.training.settings import Settings


def initial_model(
    path: str | Path, settings: Settings, xp: Any, cell: Cell | None
) -> tuple[Settings, Corpus, CharModel]:
    """Return settings with the sizes of the model in a file, the text with its characters, and the model for both."""
    loaded = load_run(path, xp, cell)
    if not isinstance(loaded.model, CharModel) or loaded.tokenizer is None:
        raise ValueError(f"`init_from` must have a character model with its tokenizer; {path} has none")
    config, found = loaded.model.config, loaded.model
    name = config["cell"].name if isinstance(config["cell"], Cell) else config["cell"]
    dtype = str(ns.to_host(found.parameters["by"]).dtype)
    sizes: dict[str, Any] = {"hidden_size": tuple(config["hidden_size"]), "num_layers": 1, "dtype": dtype}
    settings = replace(settings, cell=name, reset_after=config["reset_after"], **sizes)
    corpus = settings.corpus(loaded.tokenizer, extend=True)
    rates = settings.select("dropout", "zoneout", "recurrent_dropout")
    more = found.extended(corpus.tokenizer.vocab_size, seed=settings.seed)
    model = CharModel(**{**more.config, **rates}, parameters=more.parameters)
    return settings, corpus, model
