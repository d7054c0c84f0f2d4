"""The curves of a run as charts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnfunc.reports.charts import Chart, lines, shorten, thin
from nnfunc.reports.palette import ACCENTS, ALERT, COLOURS, TRAIN, VALIDATION
from nnfunc.runs import metrics_log
from nnfunc.runs.diagnostics import UPDATE
from nnfunc.runs.metrics_log import Row

FIRST = ("loss", "accuracy", "learning_rate", "gradient_norm")
SPEED = {  # name -> (factor, title)
    "examples_per_second": (1, "examples per second"),
    "tokens_per_second": (1, "tokens per second"),
    "memory_mb": (1, "memory (MB)"),
    "flops_per_second": (1e-9, "GFLOP per second"),
    "utilisation": (100, "utilisation (% of the peak)"),
}
POINTS = 1500  # of a curve
MAX_EVENTS = 200


def curve_charts(rows: list[Row], best: int | None = None) -> list[Chart]:
    """The metrics in rows over the steps: of training and validation, learning rate, gradient norm, update ratio.

    best: the step of the best checkpoint, marked by a dashed line, as are events, such as a rollback.
    """
    known = {*metrics_log.metric_names(rows, "train"), *metrics_log.metric_names(rows, "validation")} - set(SPEED)
    names = [name for name in FIRST if name in known] + sorted(known - set(FIRST))
    rules = _event_rules(rows)
    charts = [_metric_chart(rows, name, best, rules) for name in names]
    updates = metrics_log.layer_series(rows, "parameters", "update_ratio")
    return charts + [_update_chart(updates, rules)] * bool(updates.paths)


def picture_charts(rows: list[Row], best: int | None = None) -> list[Chart]:
    """The charts of `curve_charts` for a picture, where validation metrics between 0 and 1 share some.

    A chart takes a picture as much time as several evaluations.
    rows, best: as for `curve_charts`.
    """
    charts = curve_charts(rows, best)
    alone = [chart for chart in charts if _is_fraction(chart)]
    if len(alone) < 2:
        return charts
    rules = [*_event_rules(rows), *([(best, "best checkpoint", VALIDATION)] if best is not None else [])]
    shared = []
    for start in range(0, len(alone), len(COLOURS)):
        some = alone[start : start + len(COLOURS)]
        data = {name: [value for chart in some for value in chart.data[name]] for name in ("step", "value")}
        data["series"] = [chart.title for chart in some for _ in chart.data["step"]]
        colours = dict(zip((chart.title for chart in some), COLOURS, strict=False))
        shared.append(lines(f"curve-metrics-{start}", "validation metrics", data, colours, rules=rules))
    return [chart for chart in charts if not _is_fraction(chart)] + shared


def _is_fraction(chart: Chart) -> bool:
    """Whether a chart shows one curve of the validation split, between 0 and 1."""
    values = chart.data["value"]
    return set(chart.data["series"]) == {"validation"} and all(v is not None and 0 <= v <= 1 for v in values)


def speed_charts(rows: list[Row]) -> list[Chart]:
    """Throughput, memory and utilisation over the steps."""
    known, rules = metrics_log.metric_names(rows, "train"), _event_rules(rows)
    charts = []
    for name, (factor, title) in SPEED.items():
        if name in known:
            steps, values = metrics_log.metric_series(rows, "train", name)
            data = _columns({title: (steps, factor * values)})
            y = {"scale": {"zero": True}}
            charts.append(lines(f"speed-{name}", title, data, {title: VALIDATION}, rules=rules, y=y, height=140))
    return charts


def spans_scales(values: np.ndarray) -> bool:
    """Whether values are positive and the largest is more than 20 times the smallest."""
    return len(values) > 0 and values.min() > 0 and values.max() > 20 * values.min()


def _columns(series: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, list[Any]]:
    """The data of `lines` of {series: (steps, values)}."""
    data: dict[str, list[Any]] = {"series": [], "step": [], "value": []}
    for name, (steps, values) in series.items():
        some = thin(len(steps), POINTS)
        data["series"] += [name] * len(some)
        data["step"] += shorten(steps[some])
        data["value"] += shorten(values[some])
    return data


def _metric_chart(rows: list[Row], name: str, best: int | None, rules: list[tuple[float, str, str]]) -> Chart:
    """One metric of both splits over the steps."""
    series = {split: metrics_log.metric_series(rows, split, name) for split in ("train", "validation")}
    series = {split: entry for split, entry in series.items() if len(entry[0])}
    if "validation" in series and best is not None:
        rules = [*rules, (best, "best checkpoint", VALIDATION)]
    values = np.concatenate([values for _, values in series.values()])
    log = bool(name in ("loss", "gradient_norm") and spans_scales(values)) if values.min() > 0 else None
    colours = {"train": TRAIN, "validation": VALIDATION}
    colours = {split: colours[split] for split in series} if len(series) > 1 else {next(iter(series)): VALIDATION}
    return lines(f"curve-{name}", name.replace("_", " "), _columns(series), colours, log=log, rules=rules)


def _update_chart(updates: metrics_log.LayerSeries, rules: Sequence[tuple[float, str, str]]) -> Chart:
    """The update-to-weight ratios: the median of the layers, the range of most, and the usual size."""
    positive = np.where(np.isfinite(updates.values) & (updates.values > 0), updates.values, np.nan)
    known = np.isfinite(positive).any(axis=0)
    quantiles = np.nanquantile(positive[:, known], (0.1, 0.5, 0.9), axis=0) if known.any() else np.zeros((3, 0))
    names: list[str] = ["a tenth of the layers below", "median layer", "a tenth of the layers above"]
    data = _columns({name: (updates.steps[known], values) for name, values in zip(names, quantiles, strict=True)})
    usual = {"data": {"values": [{"value": UPDATE, "about": f"usual size, {UPDATE:g}"}]}}
    usual |= {"mark": {"type": "rule", "strokeDash": [6, 4], "color": ALERT, "clip": True}}
    usual |= {"encoding": {"x": None, "detail": None, "color": None, "tooltip": {"field": "about"}}}
    colours = dict(zip(names, (TRAIN, VALIDATION, ACCENTS[2]), strict=True))
    title = "update-to-weight ratio of the layers"
    return lines("curve-update-ratio", title, data, colours, log=True, rules=rules, extra=[usual])


def _event_rules(rows: list[Row]) -> list[tuple[float, str, str]]:
    """A dashed line for each event, in the colour of its name."""
    events = metrics_log.event_rows(rows)[:MAX_EVENTS]
    names = list(dict.fromkeys(event.name for event in events))
    colour = lambda name: ACCENTS[min(names.index(name), len(ACCENTS) - 1)]
    return [(event.step, f"{event.name}: {event.message}"[:160], colour(event.name)) for event in events]
