"""The HTML of a sweep's report."""

import html
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc.check import counted
from nnfunc.reports.charts import Chart, bars, shorten
from nnfunc.reports.format import format_metric
from nnfunc.reports.html_page import (
    Line,
    PageCell,
    draw_charts,
    render_cards,
    render_note,
    render_page,
    render_section,
    render_sorted,
    render_table,
    save_page,
)
from nnfunc.reports.palette import BEST_NAME, BETTER_NAME, WORSE_NAME
from nnfunc.reports.sweep.axes import Axis, format_value
from nnfunc.reports.sweep.importance import Importance, compute_importance
from nnfunc.reports.sweep.report_data import SweepData, build_sweep_data
from nnfunc.reports.sweep.summary_text import describe_best, describe_importance, format_score, headline
from nnfunc.reports.sweep.sweep_charts import curve_charts, pair_charts, parallel_chart, slice_charts
from nnfunc.runs import status
from nnfunc.sweeps.result import FAULTS, Result

TABLE_ROWS = 2000  # of the best settings
RANKING = "Ranking of all settings with a score"
UNINFORMATIVE = ("gradient_norm", "learning_rate")  # metrics whose last value says little
PARALLEL_AXES, SLICES, PAIR_AXES = 10, 12, 4  # how many hyperparameters each plot shows

PARALLEL = (
    f"Each line is a run, from its values to its score. The better a run ranks, the more {BETTER_NAME} it is, from "
    f"{WORSE_NAME}; the best is a thick {BEST_NAME} line; diverged runs are dashed red."
)
BRUSH = (
    "Drag along an axis to choose runs: the table shows only those, and the charts fade the others. Double-click an "
    "axis to choose all again."
)
STOPPED = " The scores of runs that the search stopped are from fewer steps; they rank last."
SLICES_NOTE = "The score of every run over each hyperparameter, in the colour of its rank."
PAIRS = f"Every run at its values of two hyperparameters: the better it ranks, the more {BETTER_NAME}."
CLEAR = '<p><button type="button" data-clear="parallel" hidden>Choose all runs</button></p>'

Interval = tuple[float, float, float]
"""A value, and the ends of its 95 % interval."""


def write_page(
    result: Result,
    folder: Path,
    name: str = "sweep",
    base: Mapping[str, Any] | None = None,
    *,
    log: Collection[str] = (),
    test: Mapping[str, Interval] | None = None,
    interval: str = "",
) -> Path:
    """Write `report.html` of a sweep, one self-contained file, and return its path.

    It shows the best setting and how certain it is, a table of the settings, the scores over the
    hyperparameters, their importance, learning curves, diverged and refused trials, and the plan.
    result: of `nf.sweep`.
    folder: made if it is missing.
    name: the title.
    base: settings that all runs have, shown in a table at the end; may be nested.
    log: the names whose space is logarithmic.
    test: the metrics of the best setting on the test split.
    interval: where their intervals are from.
    Raises: ModuleNotFoundError without scikit-learn, which `nnfunc[programs]` installs.

    >>> def build(h):
    ...     return nf.Task(nf.linear(1, 1), nf.regression(), nf.optimizers.sgd(h["rate"]))
    >>> data = nf.data.arrays((np.ones((4, 1), np.float32),) * 2, batch_size=4)
    >>> result = nf.sweep(build, [{"rate": 0.1}], data, steps=2, execution="vmap", key=jax.random.key(0))
    >>> write_page(result, getfixture("tmp_path")).name
    'report.html'
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data = build_sweep_data(result, log)
    importance = compute_importance(data)
    rank = {hyper: i for i, hyper in enumerate(importance.names)} if importance else {}
    axes = sorted(data.axes, key=lambda axis: rank.get(axis.name, len(rank)))  # the most important first
    paragraphs = [*describe_best(data, result), *_describe_test(test or {}, interval)]
    best = "".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs)
    is_known = any(np.isfinite(curve).any() for curve in result.curves.values())
    curves = curve_charts(data, result) if is_known else []
    plots, plot_sections = _plots(data, axes)
    importances = _importance_charts(importance)
    page = render_page(
        name,
        render_note(headline(data, result)),
        render_cards(_cards(data, result)),
        render_section("The best", best),
        plot_sections[0],
        render_section("Learning curves", draw_charts(curves)),
        render_section(RANKING, _ranking(data, result)),
        *plot_sections[1:],
        render_section("Importance", _render_importance(importance, data, importances)),
        render_section("Diverged", _render_diverged(data, result)),
        render_section("Refused", _render_refused(data, result)),
        render_section("Plan", f"<pre>{html.escape(str(result.plan))}</pre>"),
        render_section("All runs have", _render_fixed(data, base)),
        charts=[*plots, *curves, *importances],
    )
    path = folder / "report.html"
    save_page(path, page)
    return path


def _describe_test(test: Mapping[str, Interval], interval: str) -> list[str]:
    """The metrics of the best setting on the test split, which chose nothing."""
    parts = []
    for name, (value, low, high) in test.items():
        ends = f" (95 % interval {format_metric(name, low)} to {format_metric(name, high)})" if low <= high else ""
        parts.append(f"{name.replace('_', ' ')} {format_metric(name, value)}{ends}")
    text = f"On the test split, which chose nothing, the best has {', '.join(parts)}."
    return [text + f" {interval}" * bool(interval)] if parts else []


def _cards(data: SweepData, result: Result) -> list[tuple[str, str]]:
    """(value, label): the best score, then how many runs ended how."""
    cards = []
    if data.ranked:
        best = float(data.scores[data.ranked[0]].mean())
        cards.append((format_score(data, best), f"best {data.score_axis.name}"))
    cards += [(f"{len(data.hypers):,}", "runs"), (f"{len(result.diverged):,}", "diverged")]
    rest = (int(data.stopped.sum()), "stopped early"), (len(result.refused), "refused")
    return cards + [(f"{count:,}", label) for count, label in rest if count]


def _ranking(data: SweepData, result: Result) -> str:
    """A table of the best settings: score, varied hyperparameters, other metrics."""
    if not data.ranked:
        return ""
    has_seeds = data.seeds > 1
    index = "setting" if has_seeds else "trial"
    others = [name for name in result.curves if name != data.rank and name.partition("/")[2] not in UNINFORMATIVE]
    table = result.table()
    has_stopped = "stopped_at" in table[0]
    heads = ["rank", index, data.score_axis.name, *["95 % interval"] * has_seeds, *(axis.name for axis in data.axes)]
    heads += [name.replace("/", " ").replace("_", " ") for name in others] + ["stopped at"] * has_stopped
    rows = {row[index]: row for row in table}
    lines: list[Line] = []
    for rank, trials in enumerate(data.ranked[:TABLE_ROWS], start=1):
        row = rows[trials[0] // data.seeds]
        line: list[PageCell | str] = [
            str(rank),
            str(row[index]),
            PageCell(format_score(data, row[data.rank]), row[data.rank]),
        ]
        if has_seeds:
            line.append(" to ".join(format_score(data, row[f"{data.rank} {end}"]) for end in ("low", "high")))
        line += [format_value(data.hypers[trials[0]].get(axis.name)) for axis in data.axes]
        line += [f"{row[name]:.4g}" if np.isfinite(row[name]) else "" for name in others]
        if has_stopped:
            count = f" ({row['stopped']} of {row['runs']})" if "runs" in row else ""
            line.append("" if row["stopped_at"] is None else f"{row['stopped_at']}{count}")
        lines.append((str(trials[0] // data.seeds), line))
    without = data.settings - len(data.ranked)
    reason = "of which a run" if has_seeds else "that"
    note = f"Without {counted(without, 'setting')} {reason} ended without a score." if without else ""
    return render_sorted("ranking", heads, lines) + render_note(note)


def _plots(data: SweepData, axes: list[Axis]) -> tuple[list[Chart], list[str]]:
    """The scores over the hyperparameters, and their sections; none where nothing varies or nothing ran."""
    if not axes or not (np.isfinite(data.scores) | data.diverged).any():
        return [], [""]
    scores = data.score_axis.positions[np.isfinite(data.score_axis.positions)]
    end = data.score_axis.low if data.mode == "max" else data.score_axis.high
    end = 10**end if data.score_axis.scale == "log" else end
    beyond = int(((scores < data.score_axis.low) | (scores > data.score_axis.high)).sum())
    note = PARALLEL + STOPPED * bool(data.ranks_last.any())
    note += f" {counted(beyond, 'score')} beyond {end:.3g} {'is' if beyond == 1 else 'are'} drawn there." * bool(beyond)
    groups = [("Parallel coordinates", [parallel_chart(data, axes[:PARALLEL_AXES])], PARALLEL_AXES, note)]
    if len(scores):
        groups.append(("Slices", slice_charts(data, axes[:SLICES]), SLICES, SLICES_NOTE))
    if len(scores) and len(axes) > 1:
        groups.append(("Pairs", pair_charts(data, axes[:PAIR_AXES]), PAIR_AXES, PAIRS))
    sections = [
        render_section(
            title,
            render_note(note + _list_omitted(axes, limit), BRUSH if charts[0].name == "parallel" else "")
            + CLEAR * (charts[0].name == "parallel")
            + draw_charts(charts, layout="single" if len(charts) == 1 else ""),
        )
        for title, charts, limit, note in groups
    ]
    return [chart for _, charts, _, _ in groups for chart in charts], sections


def _list_omitted(axes: list[Axis], limit: int) -> str:
    """A sentence on the hyperparameters that a plot does not show."""
    if len(axes) <= limit:
        return ""
    omitted = ", ".join(axis.name for axis in axes[limit:][:8]) + (", ..." if len(axes) > limit + 8 else "")
    return f" Only the {limit} most important of {len(axes)} hyperparameters are shown, without {omitted}."


def _importance_charts(importance: Importance | None) -> list[Chart]:
    """A bar for each hyperparameter; they add up to 1."""
    if importance is None:
        return []
    ends = importance.values - importance.deviations, importance.values + importance.deviations
    columns = {"value": importance.values, "low": np.maximum(ends[0], 0), "high": np.minimum(ends[1], 1)}
    data = {"name": importance.names} | {name: shorten(values, 3) for name, values in columns.items()}
    title = "Share of the importance"
    return [bars("importance", title, data, x={"title": title.lower()}, faded=not importance.is_meaningful)]


def _render_importance(importance: Importance | None, data: SweepData, charts: list[Chart]) -> str:
    """The bars, their numbers, and how far they can be trusted."""
    if not data.axes:
        return ""
    note = render_note(describe_importance(importance, data))
    if importance is None:
        return note
    triples = zip(importance.names, importance.values, importance.deviations, strict=True)
    table = render_table({name: f"{value:.3f} ± {deviation:.3f}" for name, value, deviation in triples})
    return note + draw_charts(charts, layout="single") + table


def _render_diverged(data: SweepData, result: Result) -> str:
    lines = []
    for i, (trial, step) in enumerate(result.diverged.items()):
        layer = result.layers.get(trial, "" if i < FAULTS else "not looked for")
        lines.append([str(trial), f"{step:,}", *[layer] * bool(result.layers), data.describe(trial)])
    heads = ["trial", "step", *["first layer"] * bool(result.layers), "hyperparameters"]
    return render_sorted("diverged", heads, [("", line) for line in lines], numbers=False) if lines else ""


def _render_refused(data: SweepData, result: Result) -> str:
    lines = [[str(trial), data.describe(trial), reason] for trial, reason in result.refused.items()]
    heads = ["trial", "hyperparameters", "reason"]
    return render_sorted("refused", heads, [("", line) for line in lines], numbers=False) if lines else ""


def _render_fixed(data: SweepData, base: Mapping[str, Any] | None) -> str:
    varied = {axis.name for axis in data.axes}
    settings = status.flatten_settings(dict(base or {})) | data.fixed
    fixed = {name: format_value(value, 200) for name, value in settings.items() if name not in varied}
    return render_table(fixed) if fixed else ""
