"""The commands that show what was learned: ``rnnx sample``, ``evaluate``, ``plot``, ``compare`` and ``info``."""

import math
from pathlib import Path
from typing import Any

import click
import numpy as np

import rnnx
from rnnx.analysis.ngram import NGram
from rnnx.cli.group import device_option, errors_as_messages, load_characters, number, run_argument
from rnnx.data import CORPORA, Corpus, Dataset, make_corpus
from rnnx.models.generation import sample as draw
from rnnx.training.checkpoint import Checkpoint
from rnnx.training.settings import Settings
from rnnx.training.trainer import evaluate as mean_loss

_NOT_INSTALLED = "not installed"


def _is_lines(loaded: Checkpoint) -> bool:
    return loaded.training.get("by") == "lines"


@click.command()
@run_argument
@click.option("--start", "--prompt", default="", help="What every text starts with.")
@number("--temperature", type=click.FloatRange(0), default=1.0, help="Below 1 more careful, 0 the likeliest.")
@click.option("--greedy", is_flag=True, help="Always the likeliest character: temperature 0.")
@click.option("--top-k", type=click.IntRange(1), help="Draw from so many likeliest characters only.")
@number("--top-p", type=click.FloatRange(0, 1, min_open=True), help="Draw from the likeliest with this probability.")
@click.option("-n", "--number", type=click.IntRange(1), default=1, help="How many texts.")
@click.option("--length", type=click.IntRange(1), help="Characters at most; default 60 for lines, else 500.")
@click.option("--stop", help="Character at which a text ends, '' for nowhere; default: the end of the line for lines.")
@click.option("--seed", type=click.IntRange(0), help="Same seed, same texts.")
@device_option
def sample(run: str, start: str, number: int, length: int | None, greedy: bool, **options: Any) -> None:
    """Draw texts from a trained model.

    RUN is the folder of a run, or a checkpoint file.

    \b
    rnnx sample runs/dinos-lstm -n 10 --start Tri --temperature 0.8
    """  # noqa: D301
    with errors_as_messages():
        loaded, tokenizer = load_characters(run, options.pop("device"))
        lines = _is_lines(loaded)
        stop = options.pop("stop")
        texts = draw(
            loaded.model,
            tokenizer,
            start=start,
            n=number,
            max_length=length or (60 if lines else 500),
            stop=("\n" if lines else None) if stop is None else stop.replace("\\n", "\n") or None,
            **{**options, **({"temperature": 0.0} if greedy else {})},
        )
    for text in texts:
        click.echo(text)


@click.command()
@run_argument
@click.option("--text", type=click.Path(dir_okay=False), help="Another text, all of it.")
@click.option("--part", type=click.Choice(["validation", "train"]), default="validation", help="Of the run's own text.")
@click.option("--batch-size", type=click.IntRange(1), default=64, help="Sequences side by side.")
@click.option("--baseline", type=click.IntRange(1, 12), help="Also n-gram models up to this order, from the same text.")
@click.option("--novelty", type=click.IntRange(1), help="Draw so many lines: how many are not in the training text?")
@number("--temperature", type=click.FloatRange(0), default=1.0, help="Of these lines.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of these lines.")
@device_option
def evaluate(run: str, text: str | None, part: str, batch_size: int, **options: Any) -> None:
    """Measure a trained model: loss, bits, novelty.

    \b
    rnnx evaluate runs/dinos-lstm --baseline 6 --novelty 1000
    """  # noqa: D301
    with errors_as_messages():
        loaded, _ = load_characters(run, options["device"])
        settings = Settings.of(loaded)
        if text is not None and (options["baseline"] or options["novelty"]):
            raise ValueError("--baseline and --novelty need the run's own text; leave out --text")
        if options["novelty"] and not _is_lines(loaded):
            raise ValueError("--novelty is for a model of lines")
        corpus = settings.same_corpus(loaded) if text is None else _whole(text, loaded)
        dataset = corpus.validation if part == "validation" and corpus.validation else corpus.train
        # Streams of a text side by side start from nothing: one alone loses nothing.
        loss = mean_loss(loaded.model, dataset, 1 if corpus.by == "streams" else batch_size)
        click.echo(f"{corpus.name}, " + ("all of it" if text is not None else f"{part} part ({corpus.split})"))
        _say_loss("model", loss)
        if options["baseline"]:
            baseline = NGram(options["baseline"], corpus.tokenizer.vocab_size).fit(corpus.train)
            for order, value in enumerate(baseline.losses(dataset), start=1):
                _say_loss(f"{order}-gram", value)
        if options["novelty"]:
            _say_novelty(loaded, corpus, options)


def _whole(text: str, loaded: Checkpoint) -> Corpus:
    """Another text, as good as all of it to be measured."""
    settings = Settings.of(loaded)
    by = loaded.training["by"]
    return make_corpus(
        Path(text).stem, Path(text), by=by, seq_length=settings.seq_length, tokenizer=loaded.tokenizer, validation=None
    )


def _say_loss(name: str, loss: float) -> None:
    perplexity = math.exp(loss) if loss < 700 else math.inf
    click.echo(f"  {name:<8} {loss:.4f} nats per character, {loss / math.log(2):.4f} bits, perplexity {perplexity:.2f}")


def _say_novelty(loaded: Checkpoint, corpus: Corpus, options: dict[str, Any]) -> None:
    n = options["novelty"]
    lines = draw(
        loaded.model, corpus.tokenizer, n=n, temperature=options["temperature"], seed=options["seed"], max_length=200
    )
    known, held_out = _lines_of(corpus.train, corpus), _lines_of(corpus.validation, corpus)
    new = [line for line in lines if line not in known]
    click.echo(
        f"  {n} lines drawn at temperature {options['temperature']:g}: {len(new) / n:.1%} are not in the training "
        f"part, {len(set(lines)) / n:.1%} are different, {sum(line in held_out for line in lines)} are held-out ones"
    )


def _lines_of(dataset: Dataset | None, corpus: Corpus) -> set[str]:
    batches = dataset.batches(64) if dataset else ()
    return {corpus.tokenizer.decode(targets[:-1]) for batch in batches for _, targets in batch.rows()}


@click.command()
@run_argument
@click.option("--text", help="What the model reads in the pictures of its inside; default: a text of its own.")
@click.option("--format", type=click.Choice(["png", "svg"]), default="png", help="Of the pictures.")
@click.option("--output", type=click.Path(file_okay=False), help="They go into its folder plots; default: RUN.")
def plot(run: str, text: str | None, format: str, output: str | None) -> None:  # noqa: A002
    """Draw pictures of a run.

    Training curves, gates over a text, gradients over time, weights: they are written to RUN/plots.
    """
    with errors_as_messages():
        from rnnx import plots
        from rnnx.training.metrics import read_metrics

        loaded, tokenizer = load_characters(run)
        folder = Path(run) if Path(run).is_dir() else Path(run).parent
        metrics = read_metrics(folder) if (folder / "metrics.jsonl").exists() else []
        if text is None:  # of lines, one that shows something
            stop = "\n" if _is_lines(loaded) else None
            text = max(draw(loaded.model, tokenizer, n=8, temperature=0.5, max_length=60, seed=0, stop=stop), key=len)
        if _is_lines(loaded):  # as it has learned to begin
            text = "\n" + text.removeprefix("\n")
        for path in plots.plot_run(metrics, loaded.model, tokenizer, output or folder, text, format=format):
            click.echo(path)


@click.command()
@click.argument("peer", type=click.Choice(["keras", "torch"]))
@click.option(
    "--cell", type=click.Choice(["rnn", "lstm", "gru", "gru-reset-after"]), default="lstm", help="The recurrent cell."
)
@click.option("--hidden-size", type=click.IntRange(1), default=128, help="Units of a layer.")
@click.option("--num-layers", type=click.IntRange(1), default=1, help="Recurrent layers.")
@click.option("--batch-size", type=click.IntRange(1), default=32, help="Sequences of a step.")
@click.option("--seq-length", type=click.IntRange(1), default=64, help="Characters of a sequence.")
@click.option("--steps", type=click.IntRange(2), default=100, help="Training steps.")
@click.option("--optimizer", type=click.Choice(["sgd", "adam"]), default="adam", help="Update rule.")
@number("--learning-rate", default=0.003, help="Step size.")
@click.option("--dataset", type=click.Choice([*CORPORA]), default="pydoc", help="A built-in text.")
@click.option("--text", type=click.Path(dir_okay=False), help="A text of your own.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", help="Precision.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the weights and the batches.")
@click.option("--threads", type=click.IntRange(1), help="Threads of each side; default: each as it likes.")
@click.option("--output", type=click.Path(file_okay=False), default="compare", help="Folder for report and plot.")
def compare(peer: str, **options: Any) -> None:
    """Train the same model with Keras or PyTorch.

    Same initial weights, same batches, each side in a process of its own: losses step by step, gradients, times,
    memory, and a plot. keras needs TensorFlow (pip install 'rnnx[keras]'), torch needs PyTorch. The exit code is 1 if
    the sides do not agree.
    """
    with errors_as_messages():
        from rnnx.compare import run

        options["cell"] = options["cell"].replace("-", "_")
        report = run(peer, **options, progress=lambda label: click.echo(f"{label} ...", err=True))
    click.echo(report.text())
    if not report.agrees:
        raise SystemExit(1)


@click.command()
@click.argument("run", type=click.Path(), required=False)
def info(run: str | None) -> None:
    """Describe this machine, or a run.

    Without RUN: array libraries and their engines, devices, versions. With RUN: what it has learned, and how.
    """
    with errors_as_messages():
        lines = _machine() if run is None else _about(run)
    for name, value in lines:
        click.echo(f"{name:<18} {value}")


# Distributions whose modules hold arrays that rnnx takes, by the name of the library.
_BACKENDS = {
    "numpy": ("numpy",),
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x", "cupy"),
    "torch": ("torch",),
    "jax": ("jax",),
}


def _machine() -> list[tuple[str, Any]]:
    import platform

    from rnnx._core.devices import cuda_lines
    from rnnx.engines import engines_of
    from rnnx.engines.cpu.runtime.object_cache import cache_directory
    from rnnx.engines.cpu.runtime.thread_pool import max_threads

    def backend(library: str) -> str:
        found = [(package, version) for package in _BACKENDS[library] if (version := _version(package))]
        if not found:
            return _NOT_INSTALLED
        versions = ", ".join(version if package == library else f"{version} ({package})" for package, version in found)
        return f"{versions}; engines: {', '.join(engines_of(library))}"

    others = ("numba", "llvmlite", "array-api-compat", "safetensors", "matplotlib", "tensorflow")
    return [
        ("rnnx", rnnx.__version__),
        ("python", platform.python_version()),
        ("system", platform.platform()),
        *((library, backend(library)) for library in _BACKENDS),
        ("engines", ", ".join(rnnx.engine_names())),
        ("engine for NumPy", rnnx.engine_for(np.empty(0))),
        ("cpu", f"{max_threads()} threads"),
        *cuda_lines(),
        ("compiled code in", cache_directory() or "nowhere"),
        *((package, _version(package) or _NOT_INSTALLED) for package in others),
    ]


def _version(package: str) -> str:
    """Of what is installed; "" of what is not."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _about(run: str) -> list[tuple[str, Any]]:
    loaded, tokenizer = load_characters(run)
    settings, counters = Settings.of(loaded), loaded.training["counters"]
    lines = [("model", loaded.model.summary().replace("\n", "\n" + " " * 19))]
    lines += [("characters", repr("".join(tokenizer.get_vocab())))]
    lines += [("learned from", f"{settings.text or settings.dataset} ({loaded.training['split']})")]
    lines += [("so far", f"step {counters['step']}, epoch {counters['epoch']}")]
    lines += [("validation loss", f"{counters['validation_loss']} (best {counters['best_loss']}) nats per character")]
    lines += [(name, value) for name, value in sorted(loaded.training["settings"].items()) if value is not None]
    return lines
