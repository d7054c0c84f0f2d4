"""Several runs in one page: a table, their curves, and their settings over their scores, all linked."""

import html
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc.check import counted
from nnfunc.commands.list_runs import runs_table
from nnfunc.commands.list_runs.collect_runs import RunEntry
from nnfunc.durations import format_clock
from nnfunc.reports import html_page, vega
from nnfunc.reports.charts import Chart, lines, shorten, thin
from nnfunc.reports.format import format_metric, sort_names
from nnfunc.reports.html_page import Line, PageCell
from nnfunc.reports.palette import BEST_NAME, BETTER_NAME, COLOURS, WORSE_NAME
from nnfunc.reports.run.run_charts import spans_scales
from nnfunc.reports.sweep.axes import build_axes, build_score_axis
from nnfunc.reports.sweep.report_data import SweepData
from nnfunc.reports.sweep.sweep_charts import parallel_chart
from nnfunc.runs import metrics_log

PANELS, AXES = 4, 8
POINTS = 8_000  # of all curves of a chart
RANKS = (
    f"The better a run ranks by its best validation metric, among the runs with the same one, the more {BETTER_NAME} "
    f"it is, from {WORSE_NAME}; the best is {BEST_NAME}."
)
COMPARE = '<form id="compare" action="/" method="get"><button>Compare the checked runs</button></form>'
BRUSH = "Drag along an axis to choose runs: the table shows only those, and the curves fade the others."


def write_runs_page(entries: list[RunEntry], path: Path) -> None:
    """Write a page of runs. entries: of `collect_runs`. path: of the HTML file."""
    html_page.save_page(path, build_runs_page(entries))


def plot_runs(entries: list[RunEntry], path: Path) -> None:
    """Plot the curves of runs. entries: of `collect_runs`. path: of the PNG file."""
    charts = [chart for chart in runs_charts(entries) if not chart.is_vega]
    vega.save_png(vega.draw_png(charts or [_curve_chart("loss", entries, {}, _rank(entries))]), path)


def build_runs_page(entries: list[RunEntry], *, title: str = "", live: str = "", links: bool = False) -> str:
    """The page of runs. title: of the page. live: the address of new data. links: whether runs have pages."""
    charts = runs_charts(entries)
    curves = [chart for chart in charts if not chart.is_vega]
    parallel = [chart for chart in charts if chart.is_vega]
    draw = html_page.render_charts if live else html_page.draw_charts
    few = len([entry for entry in entries if _curves(entry)]) <= len(COLOURS)
    note = html_page.render_note("" if few else RANKS)
    table = html_page.render_sorted("runs", runs_header(entries, links=links), table_rows(entries, links=links))
    return html_page.render_page(
        title or counted(len(entries), "run"),
        html_page.render_section("Runs", COMPARE * links + table),
        html_page.render_section("Curves", note + draw(curves) if curves else ""),
        html_page.render_section(
            "Settings and scores",
            html_page.render_note(RANKS, BRUSH) + draw(parallel, layout="single") if parallel else "",
        ),
        charts=charts,
        live=live,
    )


def runs_charts(entries: list[RunEntry]) -> list[Chart]:
    """The validation curves of the runs, and parallel coordinates of the settings that differ."""
    plotted = [entry for entry in entries if _curves(entry)]
    names = sort_names({name for entry in plotted for name in _curves(entry)})[:PANELS]
    colours = (
        dict(zip((entry.name for entry in plotted), COLOURS, strict=False)) if len(plotted) <= len(COLOURS) else {}
    )
    ranks = _rank(entries)
    charts = [_curve_chart(name, plotted, colours, ranks) for name in names]
    data = _compare(entries)
    return [*charts, parallel_chart(data, data.axes[:AXES])] if data is not None and data.axes else charts


def _curves(entry: RunEntry) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The validation metrics over the steps, or the training loss of a run without any."""
    names = metrics_log.metric_names(entry.rows, "validation")
    curves = {name: metrics_log.metric_series(entry.rows, "validation", name) for name in names}
    if not curves and "loss" in metrics_log.metric_names(entry.rows, "train"):
        curves["loss"] = metrics_log.metric_series(entry.rows, "train", "loss")
    return curves


def _curve_chart(name: str, entries: list[RunEntry], colours: dict[str, str], ranks: dict[str, int]) -> Chart:
    """One metric of every run."""
    data: dict[str, list[Any]] = {part: [] for part in ("series", "trial", "rank", "step", "value")}
    limit = max(POINTS // max(len(entries), 1), 8)
    for entry in entries:
        steps, values = _curves(entry).get(name, (np.zeros(0), np.zeros(0)))
        some = thin(len(steps), limit) if len(steps) else np.zeros(0, int)
        data["series"] += [entry.name] * len(some)
        data["trial"] += [entry.name] * len(some)
        data["rank"] += [ranks.get(entry.name)] * len(some)
        data["step"] += shorten(steps[some])
        data["value"] += shorten(values[some])
    values = np.asarray(data["value"], np.float64)
    log = (name == "loss" and bool(spans_scales(values))) if len(values) and values.min() > 0 else None
    title = f"validation {name.replace('_', ' ')}"
    return lines(f"curve-{name}", title, data, colours, log=log, is_linked=True, height=260)


def _rank(entries: list[RunEntry]) -> dict[str, int]:
    """{run: 1 for the best of the runs with the same metric, ...}"""
    groups: dict[tuple[str, str], dict[str, float]] = {}
    for entry in entries:
        if entry.metric in entry.best:
            score = entry.best[entry.metric] * (-1 if entry.mode == "max" else 1)
            groups.setdefault((entry.metric, entry.mode), {})[entry.name] = score
    return {
        name: rank for scores in groups.values() for rank, name in enumerate(sorted(scores, key=scores.__getitem__), 1)
    }


def _compare(entries: list[RunEntry]) -> SweepData | None:
    """The runs that share a metric as the trials of one sweep; None where there is nothing to compare."""
    runs = [entry for entry in entries if entry.settings and entry.metric in entry.best]
    metrics = [(entry.metric, entry.mode) for entry in runs]
    if len(runs) < 3:
        return None
    metric, mode = max(dict.fromkeys(metrics), key=metrics.count)
    runs = [entry for entry in runs if (entry.metric, entry.mode) == (metric, mode)]
    settings = runs_table.differing_settings(runs)
    hypers = [{name: entry.settings.get(name) for name in settings} for entry in runs]
    scores = np.asarray([entry.best[metric] for entry in runs])
    order = np.argsort(-scores if mode == "max" else scores, kind="stable")
    none = np.zeros(len(runs), bool)
    return SweepData(
        hypers,
        build_axes(hypers),
        {},
        f"validation/{metric}",
        build_score_axis(f"best {metric.replace('_', ' ')}", scores, mode),
        scores,
        [[int(trial)] for trial in order],
        1,
        mode,
        none,
        none,
        none,
        [entry.name for entry in runs],
    )


def runs_header(entries: list[RunEntry], *, links: bool = False) -> list[str]:
    """The heads of the table of runs. links: as for `table_rows`."""
    metrics = runs_table.metric_names(entries)
    header = ["run", *["compare"] * links, "state", "model", "parameters", "steps"]
    header += [f"{part} {metric}" for part in runs_table.METRIC_COLUMNS for metric in metrics]
    return [*header, "time", *runs_table.differing_settings(entries), "note"]


def table_rows(entries: list[RunEntry], *, links: bool = False) -> list[Line]:
    """The rows of the table of runs. links: whether each leads to the page of the run, and can be compared."""
    metrics, settings = runs_table.metric_names(entries), runs_table.differing_settings(entries)
    return [(entry.name, _cells(entry, metrics, settings, links)) for entry in entries]


def _cells(entry: RunEntry, metrics: list[str], settings: list[str], links: bool) -> list[PageCell | str]:
    name = PageCell(entry.name)
    if links and entry.state != "no run":
        name = PageCell(entry.name, None, html_page.link(f"run/{entry.name}/", entry.name))
    count = entry.parameters
    parameters = "" if count is None else PageCell(f"{count:,}", count)
    box = f'<input type="checkbox" form="compare" name="run" value="{html.escape(entry.name)}" '
    box += f'aria-label="compare {html.escape(entry.name)}">'
    cells: list[PageCell | str] = [
        name,
        *[PageCell("", None, box)] * links,
        entry.state,
        entry.model,
        parameters,
        PageCell(runs_table.steps_text(entry), entry.steps),
    ]
    for part in runs_table.METRIC_COLUMNS:
        values = getattr(entry, part)
        cells += [PageCell(format_metric(m, values[m]), values[m]) if m in values else "" for m in metrics]
    cells.append(PageCell(format_clock(entry.seconds), entry.seconds) if entry.seconds > 0 else "")
    return [*cells, *(runs_table.setting_text(entry.settings.get(setting, "")) for setting in settings), entry.note]
