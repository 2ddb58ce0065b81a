"""The commands ``rnnx forecast``, ``classify`` and ``predict``, which read CSV files."""

from functools import partial
from pathlib import Path
from typing import Any

import click
from click import Choice, IntRange, option

from rnnx._core.files import check_writable, errors_of, write_atomically
from rnnx._core.words import in_words_of_the_caller
from rnnx.cli.group import (
    FRACTION,
    Command,
    check_paths,
    errors_as_messages,
    on_command_line,
    output_folder,
    quoted,
)
from rnnx.cli.interrupt import Interrupt
from rnnx.cli.options import check_resumed, columns, levels, setting_of, table_options
from rnnx.cli.table_display import ClassifyDisplay, ForecastDisplay
from rnnx.cli.table_results import as_csv, class_rows, forecast_rows
from rnnx.losses import LOSSES
from rnnx.training.classify_settings import ClassifySettings
from rnnx.training.forecast_settings import QUANTILES, ForecastSettings
from rnnx.training.table_base import TableSettings
from rnnx.training.table_runs import TableRun, load_best
from rnnx.training.tables import table_settings

_ON_RESUME = ("epochs", "patience", "table")  # settings that --resume may change
_NOT_SETTINGS = ("resume", "folder", "output", "device", "save_every", "quiet")
_SAME = ("horizon", "quantiles", "folds", "season", "patience", "future", "stride", "validation", "time")
_WORDS = {  # of errors, and of the command line
    **{f"`{name}`": f"--{name}" for name in _SAME},
    **{"`input_length`": "--input-length", "`validation_length`": "--validation", "`test_length`": "--backtest"},
    **{"gaps='hold'": "--gaps hold", "allow_gaps=True": "--allow-gaps", "`id`, the column": "--group, the column"},
    "`series` must have one of": "there must be a series of",
}
_ADVICE = "; pass gaps='hold' to give the model the last value before it"  # `rnnx predict` lacks this option
_of_forecast = partial(setting_of, ForecastSettings)
_of_classify = partial(setting_of, ClassifySettings)
_table = click.argument("table", required=False, type=click.Path(dir_okay=False))


def _column(name: str, help: str) -> Any:  # noqa: A002
    """Declare an option that is the name of a column."""
    return option(name, metavar="COLUMN", help=help)


def _columns(name: str, help: str) -> Any:  # noqa: A002
    """Declare an option that is a list of columns."""
    return option(name, metavar="COLUMNS", callback=columns, help=f"{help}, separated by commas.")


@click.command(cls=Command)
@_table
@_columns("--target", "What to forecast: columns")
@_column("--time", "Column of times: numbers, or dates such as 2024-01-31 06:00.")
@option("--id", "--group", "id", metavar="COLUMN", help="Column that tells series apart.")
@_columns("--future", "Columns that are known in advance, also in the rows after the last target")
@_columns("--past", "Further columns that are known until now")
@_columns("--static", "Columns that are constant in each series")
@option("--horizon", type=IntRange(1), help="Steps to forecast.")
@option("--input-length", type=IntRange(1), show_default="2 seasons or horizons", help="Steps that a forecast sees.")
@option(
    "--season",
    type=IntRange(1),
    show_default="a day, a week or a year, by the times",
    help="Steps of a season: the model learns the difference from the seasonal naive forecast. 1: the last value.",
)
@_of_forecast(
    "--loss",
    type=Choice([name for name, loss in LOSSES.items() if loss.kind == "numbers"]),
    help="What the model learns: quantiles, a distribution (gaussian, student_t; poisson, of counts), or a number.",
    metavar="NAME",
)
@_of_forecast(
    "--quantiles",
    type=str,
    help="Quantiles to forecast, of a loss that has them.",
    callback=levels,
    metavar="NUMBERS",
    show_default=",".join(map(str, QUANTILES)),
)
@_of_forecast(
    "--gaps", type=Choice(["error", "hold"]), help="Whether the model may see the last value where a target is missing."
)
@option("--allow-gaps", is_flag=True, help="Take unevenly spaced times, such as business days, as steps.")
@_of_forecast("--stride", type=IntRange(1), help="Steps between the windows of the training set.")
@_of_forecast(
    "--validation",
    type=FRACTION,
    help="Part of the steps, before those of the backtest, to choose the best weights on.",
)
@option(
    "--backtest",
    type=IntRange(0),
    show_default="1 to 4 horizons",
    help="Last steps that training does not see, to compare with the seasonal naive forecast; 0: none.",
)
@_of_forecast("--patience", type=IntRange(1), help="Stop after this many epochs without improvement.")
@table_options(ForecastSettings)
@option("--output", type=click.Path(dir_okay=False), show_default="RUN/forecast.csv", help="CSV file of the forecast.")
@click.pass_context
def forecast(context: click.Context, /, **options: Any) -> None:
    """Forecast the series of a CSV file.

    Trains a model, compares it with the seasonal naive forecast on steps that it has not seen, and forecasts what comes
    after the last row of each series, with quantiles. Ctrl-C saves and stops; --resume continues.

    \b
    Examples:
      rnnx forecast load.csv --target load --time timestamp --horizon 24
      rnnx forecast shops.csv --target sales --time day --horizon 14 --group shop --future price,holiday
    """  # noqa: D301
    with errors_as_messages(), in_words_of_the_caller(_WORDS), Interrupt() as interrupt:
        needed = ("target", "time", "horizon")
        run = _started(context, options, ForecastSettings, needed)
        _finish(ForecastDisplay(run, options), interrupt)


@click.command(cls=Command)
@_table
@_column("--label", "Column of the classes: the same in all rows of a sequence.")
@_column("--id", "Column that says which sequence a row belongs to.")
@_column("--time", "Column of times, by which the rows of a sequence are ordered; default: as they come.")
@option(
    "--inputs",
    metavar="COLUMNS",
    callback=columns,
    show_default="all others",
    help="Columns of features, separated by commas.",
)
@_column("--group", "Column of what cross-validation must not divide, such as persons.")
@_of_classify("--folds", type=IntRange(0), help="Folds of cross-validation; 0: none.")
@option("--bidirectional", is_flag=True, help="Read the sequences in both directions.")
@option(
    "--validation",
    type=FRACTION,
    show_default="0.1 with --patience",
    help="Part of the sequences to choose the best weights on, which training does not see.",
)
@_of_classify("--patience", type=IntRange(1), help="Stop after this many epochs without improvement on this part.")
@table_options(ClassifySettings)
@option(
    "--output",
    type=click.Path(dir_okay=False),
    show_default="RUN/cross_validation.csv",
    help="CSV file of the classes that cross-validation predicts.",
)
@click.pass_context
def classify(context: click.Context, /, **options: Any) -> None:
    """Classify the sequences of a CSV file, which has a row for each step.

    Trains a model, and measures how it does on sequences that it has not seen, by cross-validation. Ctrl-C saves and
    stops; --resume continues. `rnnx predict` classifies new sequences.

    \b
    Example:
      rnnx classify train.csv --label activity --id series --time t
    """  # noqa: D301
    with errors_as_messages(), in_words_of_the_caller(_WORDS), Interrupt() as interrupt:
        run = _started(context, options, ClassifySettings, ("label", "id"))
        _finish(ClassifyDisplay(run, options), interrupt)


def _finish(display: ForecastDisplay | ClassifyDisplay, interrupt: Interrupt) -> None:
    display.describe()
    display.train(interrupt)
    if not interrupt.requested:
        display.finish(interrupt)
    if interrupt.requested:
        display.interrupted()
        raise SystemExit(interrupt.exit_code)


def _started(
    context: click.Context, options: dict[str, Any], kind: type[TableSettings], needed: tuple[str, ...]
) -> TableRun:
    """Start or resume a run, after checking all that can be checked."""
    check_paths(options, "resume", "folder", "output")
    if options["output"] is not None:
        check_writable(options["output"])
    if options["resume"] is not None:
        return _resumed(context, options, kind)
    missing = [f"--{name}" for name in needed if not options[name]]
    if options["table"] is None or missing:
        raise ValueError(f"missing {' and '.join(['TABLE'] * (options['table'] is None) + missing)}")
    given = {name: value for name, value in options.items() if name not in _NOT_SETTINGS}
    settings = kind(**given)
    data = settings.read()  # before a folder gets its name
    with output_folder(options["folder"], f"{Path(settings.table).stem}-{settings.task}") as folder:
        return TableRun.start(folder, settings, data, options["device"])


def _resumed(context: click.Context, options: dict[str, Any], kind: type[TableSettings]) -> TableRun:
    given = [name for name in options if on_command_line(context, name) and name not in _NOT_SETTINGS]
    fixed = [name for name in given if name not in _ON_RESUME]
    check_resumed(fixed or ["run"] * (options["folder"] is not None))
    return TableRun.resume(options["resume"], kind.task, options["device"], **{name: options[name] for name in given})


@click.command(cls=Command)
@click.argument("model", type=click.Path())
@click.argument("table", type=click.Path(dir_okay=False))
@option("--output", type=click.Path(dir_okay=False), show_default="printed", help="CSV file of the predictions.")
def predict(model: str, table: str, output: str | None) -> None:
    """Predict with a model of `rnnx forecast` or `rnnx classify` from a new CSV file.

    MODEL is a run folder or a checkpoint file, TABLE a file with the columns that it was trained on. A classifier needs
    no labels. A forecast begins after the last target of each series.

    \b
    Example:
      rnnx predict runs/train-classify new.csv --output predictions.csv
    """  # noqa: D301
    with errors_as_messages(), in_words_of_the_caller({_ADVICE: "; fill it, or forecast with --gaps hold", **_WORDS}):
        if output is not None:
            check_writable(output)
        loaded = load_best(model)
        settings = table_settings(loaded)
        data = settings.read(table, complete=False)
        with errors_of(table):
            if settings.task == "forecast":
                rows = forecast_rows(loaded.model, settings, data)
            else:
                rows = class_rows(loaded.model, data, settings.id)
        if output is None:
            click.echo(as_csv(rows), nl=False)
        else:
            write_atomically(output, as_csv(rows))
            click.echo(f"{len(rows) - 1} predictions saved in {quoted(output)}")
