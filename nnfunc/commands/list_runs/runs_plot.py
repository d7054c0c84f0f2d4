"""A plot of the validation curves of several runs."""

import html
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc.commands.list_runs import runs_table
from nnfunc.commands.list_runs.collect_runs import Entry
from nnfunc.reports import html_page
from nnfunc.reports.figures import COLOURS, TITLE, make_figure, png_bytes, save_figure
from nnfunc.reports.format import format_metric, sort_names
from nnfunc.runs import metrics_log

__all__ = ["plot_runs"]

LEGEND_ENTRIES = 40
PANELS = 4
CSS = """
body { max-width: 80rem; } img.plain { filter: none !important; }
.wide { overflow-x: auto; margin-top: 1rem; font-variant-numeric: tabular-nums; }
.wide td, .wide th { padding-right: 1rem; white-space: nowrap; }
"""


def plot_runs(entries: list[Entry], path: Path) -> None:
    """Plot the curves of runs. entries: of `collect_runs`. path: a .png, or an .html with the table too."""
    plotted = [entry for entry in entries if _curves(entry)]
    colours = dict(zip((entry.name for entry in plotted), _pick_colours(len(plotted)), strict=True))
    if path.suffix == ".png":
        save_figure(_draw_figure(plotted, colours, legend=True), path)
    else:
        html_page.save_page(path, _render_page(entries, colours, _draw_figure(plotted, colours, legend=False)))


def _curves(entry: Entry) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The validation metrics over the steps, or the training loss of a run without any."""
    names = metrics_log.metric_names(entry.rows, "validation")
    curves = {name: metrics_log.metric_series(entry.rows, "validation", name) for name in names}
    if not curves and "loss" in metrics_log.metric_names(entry.rows, "train"):
        curves["loss"] = metrics_log.metric_series(entry.rows, "train", "loss")
    return curves


def _pick_colours(count: int) -> list[Any]:
    """So many colours that are as distinct as possible."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if count <= len(COLOURS):
        return list(COLOURS[:count])
    name, values = ("tab20", np.arange(count)) if count <= 20 else ("turbo", np.linspace(0, 1, count))
    return [to_hex(colour) for colour in colormaps[name](values)]


def _draw_figure(entries: list[Entry], colours: dict[str, Any], *, legend: bool) -> Any:
    """The figure, with one panel per metric, loss and accuracy first."""
    metrics = sort_names({name for entry in entries for name in _curves(entry)})[:PANELS] or ["loss"]
    columns = min(len(metrics), 2)
    rows = -(-len(metrics) // columns)
    labelled = entries[:LEGEND_ENTRIES] if legend else []
    legend_columns = max(min(3, 110 // max((len(e.name) for e in labelled), default=1)), 1)
    legend_height = 0.2 * -(-len(labelled) // legend_columns)
    width, height = 5.5 * max(columns, 1.6), 3.6 + legend_height / rows
    figure, axes = make_figure(len(metrics), columns=columns, height=height, width=width, xlabel="step")
    for name, axis in zip(metrics, axes, strict=False):
        _draw_panel(axis, name, entries, colours)
    if labelled:
        texts = [e.name.encode(errors="replace").decode()[-60:] for e in labelled]
        figure.legend(
            [axes[0].plot([], [], color=colours[e.name], lw=2)[0] for e in labelled],
            [text.replace("$", r"\$").lstrip("_") for text in texts],
            loc="outside lower center",
            ncols=legend_columns,
            fontsize=8,
            frameon=False,
            title=f"and {len(entries) - LEGEND_ENTRIES} more" if len(entries) > LEGEND_ENTRIES else None,
            title_fontsize=8,
        )
    return figure


def _draw_panel(axis: Any, name: str, entries: list[Entry], colours: dict[str, Any]) -> None:
    """One metric of every run; training losses, which stand in for missing metrics, are dashed."""
    lowest, highest = np.inf, -np.inf
    for entry in entries:
        steps, values = _curves(entry).get(name, ((), ()))
        if not len(values):
            continue
        values = np.clip(values, -1e38, 1e38)
        style = "-" if name in metrics_log.metric_names(entry.rows, "validation") else "--"
        marker = "o" if len(values) < 3 else None
        axis.plot(steps, values, color=colours[entry.name], lw=1.5, ls=style, ms=4, marker=marker)
        lowest, highest = min(lowest, values.min()), max(highest, values.max())
    if name == "loss" and lowest > 1e-45 and highest > 20 * lowest:
        axis.set_yscale("log")
    axis.set_title(f"validation {name.replace('_', ' ')}", **TITLE)


def _render_page(entries: list[Entry], colours: dict[str, Any], figure: Any) -> str:
    """A page with the figure and the table of the runs."""
    metrics, settings = runs_table.metric_names(entries), runs_table.differing_settings(entries)
    header = ["", "run", "state", "model", "steps"]
    header += [f"{part} {metric}" for part in runs_table.METRIC_COLUMNS for metric in metrics] + settings
    rows = []
    for e in entries:
        dot = f'<span style="color:{colours[e.name]}">&#9679;</span>' if e.name in colours else ""
        texts = [e.name, e.state, e.model, runs_table.steps_text(e)]
        for part in runs_table.METRIC_COLUMNS:
            values = getattr(e, part)
            texts += [format_metric(metric, values[metric]) if metric in values else "" for metric in metrics]
        texts += [runs_table.setting_text(e.settings.get(name, "")) for name in settings]
        cells = "".join(f"<td>{html.escape(text)}</td>" for text in texts)
        rows.append(f'<tr title="{html.escape(e.note)}"><td>{dot}</td>{cells}</tr>')
    head = "".join(f"<th>{html.escape(text)}</th>" for text in header)
    return html_page.render_page(
        f"{len(entries)} runs",
        f"<style>{CSS}</style>",
        html_page.render_image(png_bytes(figure), "Validation curves of the runs"),
        f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>',
    )
