"""The commands ``rnnx sample``, ``evaluate`` and ``plot``, which use a trained model, and ``rnnx compare``."""

import math
from pathlib import Path
from typing import Any

import click
from click import Choice, FloatRange, IntRange, option

from rnnx.analysis.ngram import NGram
from rnnx.cli.group import (
    UP_TO_ONE,
    Command,
    check_one_text,
    check_paths,
    device_option,
    errors_as_messages,
    is_lines,
    load_characters,
    lowered,
    number,
    output_folder,
    quoted,
    run_argument,
)
from rnnx.cli.options import shared_option
from rnnx.compare.runner import PEERS
from rnnx.compare.task import CELLS, DTYPES, OPTIMIZERS
from rnnx.data import Corpus, Dataset, make_corpus
from rnnx.functional.quantization import SMALL
from rnnx.models import generation
from rnnx.training import Checkpoint, Settings
from rnnx.training import evaluate as mean_loss


@click.command(cls=Command)
@run_argument
@option("--start", "--prompt", default="", help="Text that every sample begins with.")
@number("--temperature", type=FloatRange(0), default=1.0, help="Lower is more conservative; 0 is greedy.")
@option("--greedy", is_flag=True, help="Always take the most likely character, as with temperature 0.")
@option("--top-k", type=IntRange(1), help="Sample only from this many most likely characters.")
@number("--top-p", type=UP_TO_ONE, help="Sample only from the most likely characters with this total probability.")
@option("-n", "--number", type=IntRange(1), default=1, help="Number of texts.")
@option(
    "--max-length", type=IntRange(1), show_default="60 for lines, otherwise 500", help="Maximum number of characters."
)
@option(
    "--stop",
    show_default="newline for lines, otherwise none",
    help="End a text before this character, '\\n' for a newline; '' for none.",
)
@option("--seed", type=IntRange(0), help="Random seed. Same seed, same texts.")
@option("--weights", type=Choice([*SMALL]), help="Round the weights of recurrent layers: a large model is faster.")
@device_option
def sample(run: str, start: str, number: int, max_length: int | None, greedy: bool, **options: Any) -> None:
    """Sample texts from a trained model.

    RUN is a run folder or a checkpoint file.

    \b
    Example:
      rnnx sample runs/dinos-lstm -n 10 --start Tri --temperature 0.8
    """  # noqa: D301
    with errors_as_messages():
        stop, weights, device = (options.pop(name) for name in ("stop", "weights", "device"))
        if weights is not None and device != "cpu":
            raise ValueError("--weights is for the CPU; it cannot be combined with --device")
        loaded, tokenizer = load_characters(run, device)
        lines, model = is_lines(loaded), loaded.model
        texts = generation.sample(
            model if weights is None else model.quantized(weights),
            tokenizer,
            start=lowered(loaded, start),
            n=number,
            max_length=max_length or (60 if lines else 500),
            stop=("\n" if lines else None) if stop is None else stop.replace("\\n", "\n") or None,
            **{**options, **({"temperature": 0.0} if greedy else {})},
        )
    for text in texts:
        click.echo(text)


@click.command(cls=Command)
@run_argument
@option("--text", type=click.Path(dir_okay=False), help="Evaluate on all of this file instead of the run's text.")
@option("--part", type=Choice(["validation", "train"]), default="validation", help="Part of the run's text to use.")
@option("--batch-size", type=IntRange(1), default=64, help="Sequences per batch.")
@option("--baseline", type=IntRange(1, 12), help="Also evaluate n-gram models up to this order, fitted to the text.")
@option("--novelty", type=IntRange(1), help="Sample this many lines and count those not in the training part.")
@number("--temperature", type=FloatRange(0), default=1.0, help="Sampling temperature for --novelty.")
@option("--seed", type=IntRange(0), default=0, help="Random seed for --novelty.")
@device_option
def evaluate(run: str, text: str | None, part: str, batch_size: int, **options: Any) -> None:
    """Measure the loss of a trained model.

    Can also measure the loss of n-gram models and the novelty of sampled lines.

    \b
    Example:
      rnnx evaluate runs/dinos-lstm --baseline 6 --novelty 1000
    """  # noqa: D301
    with errors_as_messages():
        loaded, _ = load_characters(run, options["device"])
        if text is not None and (options["baseline"] or options["novelty"]):
            raise ValueError("--baseline and --novelty use the run's own text; they cannot be combined with --text")
        if options["novelty"] and not is_lines(loaded):
            raise ValueError("--novelty requires a model trained on lines")
        corpus = Settings.of(loaded).same_corpus(loaded) if text is None else _whole(text, loaded)
        dataset = corpus.validation if part == "validation" and corpus.validation else corpus.train
        # Parallel streams each start from a zero state; with a single one no context is lost.
        loss = mean_loss(loaded.model, dataset, 1 if corpus.by == "streams" else batch_size)
        click.echo(f"{corpus.name}, " + ("whole text" if text is not None else f"{part} part ({corpus.split})"))
        _print_loss("model", loss)
        if options["baseline"]:
            baseline = NGram(options["baseline"], corpus.tokenizer.vocab_size).fit(corpus.train)
            for order, value in enumerate(baseline.losses(dataset), start=1):
                _print_loss(f"{order}-gram", value)
        if options["novelty"]:
            _print_novelty(loaded, corpus, options)


def _whole(text: str, loaded: Checkpoint) -> Corpus:
    """Return a text file as a corpus without a validation set."""
    by, path = loaded.training["by"], Path(text)
    options = Settings.of(loaded).select("seq_length", "lower")
    return make_corpus(path.stem, path, by=by, tokenizer=loaded.tokenizer, validation=None, **options)


def _print_loss(name: str, loss: float) -> None:
    perplexity = math.exp(loss) if loss < 700 else math.inf
    click.echo(f"  {name:<8} {loss:.4f} nats per character, {loss / math.log(2):.4f} bits, perplexity {perplexity:.2f}")


def _print_novelty(loaded: Checkpoint, corpus: Corpus, options: dict[str, Any]) -> None:
    n, given = options["novelty"], {name: options[name] for name in ("temperature", "seed")}
    lines = generation.sample(loaded.model, corpus.tokenizer, n=n, max_length=200, **given)
    known, held_out = _lines_of(corpus.train, corpus), _lines_of(corpus.validation, corpus)
    new = sum(line not in known for line in lines)
    click.echo(
        f"  {n} lines sampled at temperature {options['temperature']:g}: {new / n:.1%} are not in the training part, "
        f"{len(set(lines)) / n:.1%} are distinct, {sum(line in held_out for line in lines)} are in the validation part"
    )


def _lines_of(dataset: Dataset | None, corpus: Corpus) -> set[str]:
    batches = dataset.batches(64) if dataset else ()
    return {corpus.tokenizer.decode(targets[:-1]) for batch in batches for _, targets in batch.rows()}


@click.command(cls=Command)
@run_argument
@option("--text", show_default="a sample from the model", help="Input text for the plots.")
@option("--format", type=Choice(["png", "svg", "pdf"]), default="png", help="Image format.")
@option("--dpi", type=IntRange(10, 2400), default=200, help="Dots per inch of PNG files.")
@option("--output", type=click.Path(file_okay=False), show_default="RUN", help="Folder in which to create plots/.")
def plot(run: str, text: str | None, format: str, dpi: int, output: str | None) -> None:  # noqa: A002
    """Plot a run.

    Writes the training curves, the gates and the gradient norms over a text, and histograms of the weights to
    RUN/plots.
    """
    with errors_as_messages():
        from rnnx import plots
        from rnnx.training.metrics import read_metrics

        loaded, tokenizer = load_characters(run)
        folder = Path(run) if Path(run).is_dir() else Path(run).parent
        metrics = read_metrics(folder) if (folder / "metrics.jsonl").exists() else []
        lines = is_lines(loaded)
        if text is None:  # a long one shows more
            options: dict[str, Any] = {"temperature": 0.5, "max_length": 60, "seed": 0, "stop": "\n" if lines else None}
            text = max(generation.sample(loaded.model, tokenizer, n=8, **options), key=len)
        text = lowered(loaded, text)
        if lines:  # training sequences begin with a newline
            text = "\n" + text.removeprefix("\n")
        for path in plots.plot_run(metrics, loaded.model, tokenizer, output or folder, text, format=format, dpi=dpi):
            click.echo(path)


@click.command(cls=Command)
@click.argument("peer", type=Choice([*PEERS]))
@option("--cell", "--model", type=Choice(CELLS), default="lstm", help="Recurrent cell.")
@option("--reset-after", is_flag=True, help="Use the GRU variant of PyTorch and Keras instead of the course's.")
@option("--hidden-size", "--rnn-size", type=IntRange(1), default=128, help="Units per layer.")
@shared_option("--num-layers", default=1)
@shared_option("--batch-size", default=32)
@option("--seq-length", type=IntRange(1), default=64, help="Characters per sequence.")
@option("--steps", "--iterations", type=IntRange(2), default=100, help="Training steps.")
@option("--optimizer", type=Choice(OPTIMIZERS), default="adam", help="Optimizer.")
@shared_option("--learning-rate", default=0.003)
@option("--dataset", metavar="NAME", default="pydoc", help="Text by name, as for rnnx train.")
@option("--text", type=click.Path(dir_okay=False), help="UTF-8 text file, instead of --dataset.")
@option("--dtype", type=Choice(DTYPES), default="float32", help="Floating-point type.")
@option("--seed", type=IntRange(0), default=0, help="Random seed of the weights and the batches.")
@option("--threads", type=IntRange(1), show_default="each library's default", help="Threads per side.")
@option(
    "--output",
    type=click.Path(file_okay=False),
    show_default="runs/compare-PEER",
    help="Folder for the report and the plot.",
)
@click.pass_context
def compare(context: click.Context, /, peer: str, **options: Any) -> None:
    """Compare rnnx with Keras or PyTorch.

    Trains the same model in both libraries, from the same weights on the same batches, each in its own process.
    Reports losses, gradients, times and memory, and plots them. keras requires TensorFlow (pip install tensorflow)
    and also trains a model class with an Embedding layer; torch requires PyTorch. The exit code is 1 if the results do
    not agree.
    """
    with errors_as_messages():
        from rnnx.compare import run

        check_paths(options, "text", "output")
        check_one_text(context, options)
        if peer == "torch" and options["cell"] == "gru" and not options["reset_after"]:
            raise ValueError("PyTorch's GRU resets after the product: add --reset-after")
        with output_folder(options.pop("output"), f"compare-{peer}") as folder:
            report = run(peer, output=folder, **options, progress=lambda label: click.echo(f"{label} ...", err=True))
    click.echo(report.text())
    click.echo(f"report saved in {quoted(folder)}")
    if not report.agrees:
        raise SystemExit(1)
