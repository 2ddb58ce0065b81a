"""What ``rnnx forecast`` and ``rnnx classify`` print and write at the end of training."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from rnnx import metrics
from rnnx._core import arrays as ns
from rnnx._core.devices import by_device
from rnnx._core.files import read_regular, write_atomically
from rnnx.analysis import Backtest, backtest, forecast
from rnnx.cli.group import quoted
from rnnx.cli.interrupt import Interrupt
from rnnx.cli.run_display import RunDisplay
from rnnx.cli.table_results import as_csv, forecast_rows, probability_rows, times_of
from rnnx.training import Progress, Trainer

_MOST_PICTURES = 12  # series


class ForecastDisplay(RunDisplay):
    """Trains a forecasting model, compares it with the naive forecast, and writes the forecast."""

    command = "forecast"

    def summary(self) -> str:
        """Return what the run is trained on."""
        s, data = self.run.settings, self.run.data
        steps = [one.targets.shape[1] for one in data]
        many = f"{len(data)} series of {min(steps)} to {max(steps)} steps" if len(data) > 1 else f"{steps[0]} steps"
        season = f", season {s.season}" if s.season > 1 else ""
        held = f"; the last {s.backtest} are held out for the backtest" if s.backtest else ""
        return f"{Path(s.table).name}: {many}{season}{held}; {s.input_length} steps predict {s.horizon}"

    def finish(self, _interrupt: Interrupt) -> None:
        """Print the backtest, write the forecast and the pictures, and say what to do next."""
        self.say_if_done()
        run, model = self.run, self.run.best()
        tested = None
        if run.test_set is not None:
            s = run.settings
            tested = backtest(model, run.test_set, season=s.season, quantiles=s.quantiles or None)
            self._print(tested)
        rows = forecast_rows(model, run.settings, run.data)
        output = self.options["output"] or run.folder / "forecast.csv"
        write_atomically(output, as_csv(rows))
        pictures = self._draw(model, tested)
        click.echo(f"{time.perf_counter() - self.started:.0f} s; run saved in {quoted(run.folder)}")
        click.echo(f"forecast: {quoted(output)}; pictures: {', '.join(map(quoted, pictures))}")
        click.echo(f"forecasts from newer rows: rnnx predict {quoted(run.folder)} NEW.csv")

    def _print(self, tested: Backtest) -> None:
        click.echo(f"backtest, {len(tested.starts)} forecasts of {tested.actual.shape[2]} steps:")
        for name, scores in tested.scores.items():
            click.echo(f"  {name:<16}" + "  ".join(f"{key} {value:<9.4g}" for key, value in scores.items()).rstrip())
        quantiles = self.run.settings.quantiles
        if tested.coverage is not None:
            click.echo(
                f"  {tested.coverage:.0%} of the values are between the quantiles {quantiles[0]} and {quantiles[-1]}"
            )
        if tested.scores["model"]["MAE"] >= tested.scores["seasonal naive"]["MAE"]:
            click.echo("  the seasonal naive forecast is better on these steps")

    def _draw(self, model: Any, tested: Backtest | None) -> list[Path]:
        """Draw the first target of each series, with the forecasts of the backtest that do not overlap."""
        from rnnx import plots

        s, paths = self.run.settings, []
        ahead = forecast(model, s.windows(self.run.data), quantiles=s.quantiles or None)
        for k, one in enumerate(self.run.data[:_MOST_PICTURES]):
            values, pieces = one.targets[0], []
            end = len(values)
            if tested is not None:
                own = np.flatnonzero(tested.series == k)[:: -(-s.horizon // s.stride)]
                named = {**tested.forecasts, "naive": tested.naive}
                pieces = [(int(tested.starts[j]), {name: a[0, j] for name, a in named.items()}) for j in own]
            pieces.append((end, {name: a[0, k] for name, a in ahead.items()}))
            first = max(0, end - (s.backtest or 0) - max(s.input_length, 3 * s.horizon))
            title = f"{s.target[0]}" + ("" if one.id is None else f", {one.id}")
            times = times_of(one, s.horizon)[first : end + s.horizon]
            shifted = [(start - first, piece) for start, piece in pieces]
            figure = plots.forecasts(times, values[first:], shifted, unit=s.target[0], title=title)
            paths.append(self.run.folder / (f"forecast-{k + 1}.png" if len(self.run.data) > 1 else "forecast.png"))
            plots.save(figure, paths[-1])
        return paths


class ClassifyDisplay(RunDisplay):
    """Trains a classifier, and others for cross-validation."""

    command = "classify"

    def summary(self) -> str:
        """Return what the run is trained on."""
        s, data = self.run.settings, self.run.data
        steps = f"{data.lengths.min()} to {data.lengths.max()} steps of {len(s.inputs)} features"
        held = self.run.validation_set
        best = "" if held is None else f"; {len(held)} of them are held out to choose the best weights"
        return f"{Path(s.table).name}: {len(data.ids)} sequences of {steps}, {len(data.classes)} classes{best}"

    def finish(self, interrupt: Interrupt) -> None:
        """Cross-validate, print the accuracy and draw a confusion matrix."""
        self.say_if_done()
        run = self.run
        if run.settings.folds:
            found = self._cross_validated(interrupt)
            if interrupt.requested:
                return
            self._report(*found)
        click.echo(f"{time.perf_counter() - self.started:.0f} s; run saved in {quoted(run.folder)}")
        click.echo(f"classify new sequences: rnnx predict {quoted(run.folder)} NEW.csv")

    def _cross_validated(self, interrupt: Interrupt) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities (classes, n) of all sequences by models that have not seen them, and their folds.

        What a fold found is kept in the folder, so that a resumed run does not compute it again.
        """
        s, data, path = self.run.settings, self.run.data, self.run.folder / "cross_validation.json"
        folds = s.parts(data)
        key = json.loads(json.dumps({"settings": asdict(s), "fingerprint": self.run.hash}))
        known = json.loads(read_regular(path, 1 << 30)) if path.exists() else {}
        done = known.get("folds", []) if known.get("key") == key else []
        p, of_fold = np.zeros((len(data.classes), len(data.ids))), np.zeros(len(data.ids), int)
        with tqdm(total=len(folds), **{**self.bar_options, "unit": "fold"}) as bar:
            for k, held in enumerate(folds):
                if k >= len(done):
                    found = self._fold(np.setdiff1d(np.arange(len(data.ids)), held), held, interrupt)
                    if interrupt.requested:
                        break
                    done.append(found.tolist())
                    with interrupt.held():
                        write_atomically(path, json.dumps({"key": key, "folds": done}).encode())
                p[:, held], of_fold[held] = np.array(done[k]), k
                bar.update()
        return p, of_fold

    def _fold(self, train: np.ndarray, held: np.ndarray, interrupt: Interrupt) -> np.ndarray:
        """Return the probabilities (classes, m) of the sequences held out, by a model trained on the others."""
        s, data = self.run.settings, self.run.data
        examples, validation = s.divided(data, train)
        model = s.model_of(examples, data.classes, by_device(self.options["device"]))

        def stop(_trainer: Trainer, _progress: Progress) -> bool:
            return interrupt.requested

        rule = s.update_rule(examples.n_batches(s.batch_size))
        trainer = Trainer(model, rule, **s.select("clip_norm", "clip_value", "seed", "shuffle", "precision"))
        best = validation is not None
        options = s.select("epochs", "batch_size", "patience")
        trainer.fit(examples, validation, callbacks=[stop], restore_best=best, **options)
        found: np.ndarray = ns.to_host(model.predict(data.inputs[:, held], lengths=data.lengths[held]))
        return found

    def _report(self, p: np.ndarray, of_fold: np.ndarray) -> None:
        from rnnx import plots

        run, data = self.run, self.run.data
        predicted = p.argmax(axis=0)
        right = predicted == data.targets
        parts = [right[of_fold == k].mean() for k in range(run.settings.folds)]
        often = np.unique(data.targets, return_counts=True)[1].max() / len(data.targets)
        click.echo(
            f"cross-validated accuracy {right.mean():.3f} ({min(parts):.3f} to {max(parts):.3f} in {len(parts)} folds)"
            f", macro F1 {metrics.f1_score(data.targets, predicted):.3f}; the most frequent class: {often:.3f}"
        )
        output = self.options["output"] or run.folder / "cross_validation.csv"
        rows = probability_rows(run.settings.id, data.ids, data.classes, p)
        truth = [data.classes[k] for k in data.targets]
        rows = [[row[0], label, *row[1:]] for row, label in zip(rows, [run.settings.label, *truth], strict=True)]
        write_atomically(output, as_csv(rows))
        figure = plots.confusion_matrix(
            data.targets, predicted, data.classes, title="Confusion matrix, cross-validated"
        )
        plots.save(figure, run.folder / "confusion_matrix.png")
        click.echo(f"predictions: {quoted(output)}; picture: {quoted(run.folder / 'confusion_matrix.png')}")
