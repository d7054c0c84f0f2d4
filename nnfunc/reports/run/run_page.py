"""The HTML of a run's report."""

import html
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc.check import counted
from nnfunc.durations import format_duration
from nnfunc.reports.charts import Chart
from nnfunc.reports.format import format_metric, sort_metrics
from nnfunc.reports.html_page import (
    draw_charts,
    render_cards,
    render_charts,
    render_note,
    render_page,
    render_section,
    render_tables,
)
from nnfunc.reports.run.evaluation_section import Evaluation
from nnfunc.reports.run.heatmaps import heatmap_charts
from nnfunc.reports.run.histogram_charts import histogram_charts, render_histograms
from nnfunc.reports.run.run_charts import curve_charts, speed_charts
from nnfunc.runs import diagnostics, metrics_log, status
from nnfunc.runs.best_metric import BestMetric
from nnfunc.runs.metrics_log import Row, to_float

CURVES = "Drag to move, scroll with Ctrl to zoom, double-click for all; the cursor shows values."
HEATMAPS = "Each row is a layer; time runs to the right. Cells without a value are empty."
HISTOGRAMS = "Time runs to the right, values upwards. The more of the values are in a bin, the more opaque it is."
NO_PROBLEMS = (
    "No problems: in every layer fewer than half of the units are dead or saturated, no gradient is a "
    "thousand times larger or smaller than the layers' median, and every standard deviation is between 0.001 "
    "and 1,000. While the learning rate was at least half its peak, the median update of every weight was "
    "within a factor of ten of 0.001."
)
NOT_WATCHED = (
    "The layers of this run were not watched. Its gradient norm never jumped by more than a factor of a hundred."
)
MAX_EVENTS = 200


def build_page(
    folder: Path,
    rows: list[Row],
    result: dict[str, Any],
    evaluation: Evaluation | None = None,
    *,
    png: bytes | None = None,
    live: str = "",
) -> str:
    """The page of a run.

    folder: of the run.
    rows: of metrics.jsonl.
    result: of result.json.
    evaluation: of held-out data.
    png: of the curves.
    live: the address of new data, for a page that is served, without pictures.
    """
    config, _ = status.read_config(folder)
    environment = status.read_json_table(folder / "environment.json")
    versions = environment.pop("versions", None)
    versions = versions if isinstance(versions, dict) else {}
    curves, speed, heatmaps = (*live_charts(rows, result), heatmap_charts(rows))
    histograms, show = histogram_charts(rows), render_charts if live else draw_charts
    evaluated = evaluation or Evaluation([], {}, "", [])
    return render_page(
        folder.name,
        render_note(_summary(config, result)),
        render_cards(run_cards(rows, result)),
        render_note(_compare_with_baseline(result, BestMetric.of_config(config))),
        render_section("Problems", _render_problems(rows)),
        render_section("Curves", render_note("", CURVES) + render_charts(curves, png=png) if curves else ""),
        *(render_section(title, content) for title, content in evaluated.sections),
        render_section("Events", _render_events(rows)),
        render_section("Speed and memory", show(speed)),
        render_section("Layers over time", render_note(HEATMAPS) + show(heatmaps, layout="single") if heatmaps else ""),
        render_section(
            "Histograms over time", render_note("", HISTOGRAMS) + render_histograms(histograms) if histograms else ""
        ),
        render_tables(Settings=status.flatten_settings(config), Environment={**environment, **versions}),
        charts=[*curves, *evaluated.charts, *speed, *heatmaps, *itertools.chain(*histograms.values())],
        examples=evaluated.examples,
        layout=evaluated.layout,
        live=live,
    )


def live_charts(rows: list[Row], result: dict[str, Any]) -> tuple[list[Chart], list[Chart]]:
    """The curves and the speed of a run, which grow while it trains."""
    return curve_charts(rows, best=best_step(result)), speed_charts(rows)


def best_step(result: dict[str, Any]) -> int | None:
    """The step of the best checkpoint, None while it is unknown. result: of result.json."""
    step = to_float(result.get("step"))
    return int(step) if math.isfinite(step) else None


def _summary(config: dict[str, Any], result: dict[str, Any]) -> str:
    """The steps, the time, the loop and the checkpoint that was evaluated."""
    train = config.get("train")
    steps = train.get("steps") if isinstance(train, dict) else None
    text = f"{steps} steps" if steps is not None else "A run"
    if math.isfinite(early := to_float(result.get("stopped_early"))):
        text = f"Stopped early at step {early:.0f} of {steps}"
    if math.isfinite(seconds := to_float(result.get("seconds"))):
        first = to_float(result.get("first"))
        time = format_duration(seconds)
        text += f" in {time}" if not first > 0 else f"; the time from step {first:.0f} on is {time}"
    if "loop" in result:
        text += f", with the “{result['loop']}” loop"
    text += "."
    if math.isfinite(step := to_float(result.get("step"))):
        text += f" The metrics are those of the best checkpoint, at step {step:.0f}."
    return text


def run_cards(rows: list[Row], result: dict[str, Any]) -> list[tuple[str, str]]:
    """(value, label): the test and validation metrics, speed and memory."""
    cards = []
    for split in ("test", "validation"):
        values = _metrics(result.get(split))
        cards += [(format_metric(name, value), f"{split} {name.replace('_', ' ')}") for name, value in values]
    for name, label in (("tokens_per_second", "tokens/s"), ("examples_per_second", "examples/s")):
        _, values = metrics_log.metric_series(rows, "train", name)
        if len(values):
            cards.append((f"{np.median(values):,.0f}", label))
            break
    _, memory = metrics_log.metric_series(rows, "train", "memory_mb")
    _, utilisation = metrics_log.metric_series(rows, "train", "utilisation")
    cards += [(f"{memory.max():,.0f} MB", "memory")] if len(memory) else []
    cards += [(f"{np.median(utilisation):.1%}", "utilisation")] if len(utilisation) else []
    return cards


def _metrics(entry: Any) -> list[tuple[str, float]]:
    """(name, value) of the metrics of a split, sorted."""
    return sort_metrics({k: to_float(v) for k, v in entry.items()}) if isinstance(entry, dict) else []


def _baseline(result: dict[str, Any]) -> tuple[str, list[tuple[str, float]]]:
    """The split of the baseline, test or else validation, and the metrics of the best constant prediction on it."""
    baseline = result.get("baseline")
    for split in ("test", "validation"):
        if metrics := _metrics(baseline.get(split) if isinstance(baseline, dict) else None):
            return split, metrics
    return "", []


def _compare_with_baseline(result: dict[str, Any], best: BestMetric) -> str:
    """The metrics of the baseline, and whether the run beats them; "" without a baseline."""
    split, baseline = _baseline(result)
    if not baseline:
        return ""
    metrics = result.get(split)
    beats = status.beats_baseline(metrics if isinstance(metrics, dict) else {}, dict(baseline), best)
    text = "Baseline: the same output for every example reaches "
    text += ", ".join(f"{split} {name} {format_metric(name, value)}" for name, value in baseline)
    return f"{text}. The run {'beats it' if beats else 'does NOT beat it'}."


def _render_problems(rows: list[Row]) -> str:
    """A list of problems, each with its threshold."""
    problems = diagnostics.find_diagnoses(rows)
    if not problems:
        is_watched = any(row["split"] == "layers" for row in rows)
        return f"<p>{NO_PROBLEMS if is_watched else NOT_WATCHED}</p>"
    items = []
    for problem in problems:
        others = [*problem.paths[1:6], *([f"{len(problem.paths) - 6} more"] if len(problem.paths) > 6 else [])]
        also = f' <span class="paths">Then {html.escape(", ".join(others))}.</span>' if others else ""
        threshold = f'<span class="note">({html.escape(problem.threshold)})</span>'
        title = html.escape(problem.name.capitalize())
        items.append(f"<li><b>{title}.</b> {html.escape(problem.message)}{also} {threshold}</li>")
    return f'<ul class="findings">{"".join(items)}</ul>'


def _render_events(rows: list[Row]) -> str:
    """A table of the last events."""
    events = metrics_log.event_rows(rows)
    row = '<tr><td class="step">{:,}</td><th>{}</th><td>{}</td></tr>'
    lines = [row.format(event.step, html.escape(event.name), html.escape(event.message)) for event in events]
    if (earlier := len(events) - MAX_EVENTS) > 0:
        lines[:earlier] = [f"<tr><td></td><th></th><td>{counted(earlier, 'earlier event')}</td></tr>"]
    return f'<table class="events">{"".join(lines)}</table>' if lines else ""
