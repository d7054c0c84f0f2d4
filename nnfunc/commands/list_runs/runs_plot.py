"""The validation curves of several runs in one picture."""

import html
import io
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc.commands.list_runs import runs_table
from nnfunc.commands.list_runs.collect_runs import Entry
from nnfunc.reports import inline_images
from nnfunc.reports.css import STYLE
from nnfunc.reports.format import format_metric
from nnfunc.runs import metrics_log

__all__ = ["draw"]

COLOURS = ("#1f5fbf", "#d9782d", "#3a9a5b", "#a24fb0", "#6b7580", "#c23b4b", "#2aa3a3", "#9a8a2a")
NAMED = 40
PANELS = 4


def draw(entries: list[Entry], path: Path) -> None:
    """Write the curves as a .png, or an .html page that holds them and the table of the runs."""
    shown = [entry for entry in entries if _curves(entry)]
    colours = dict(zip((entry.name for entry in shown), _colours(len(shown)), strict=True))
    png = _picture(shown, colours, legend=path.suffix == ".png")
    content = png if path.suffix == ".png" else _page(entries, colours, png).encode(errors="backslashreplace")
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _curves(entry: Entry) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The held-out metrics; of a run without any, the training loss."""
    names = metrics_log.names(entry.rows, "validation")
    found = {name: metrics_log.series(entry.rows, "validation", name) for name in names}
    if not found and "loss" in metrics_log.names(entry.rows, "train"):
        found["loss"] = metrics_log.series(entry.rows, "train", "loss")
    return found


def _colours(count: int) -> list[Any]:
    """One colour a run, as far apart as they can be."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if count <= len(COLOURS):
        return list(COLOURS[:count])
    name, places = ("tab20", np.arange(count)) if count <= 20 else ("turbo", np.linspace(0, 1, count))
    return [to_hex(colour) for colour in colormaps[name](places)]


def _picture(entries: list[Entry], colours: dict[str, Any], *, legend: bool) -> bytes:
    """The PNG: a panel a metric, loss and accuracy first."""
    from matplotlib.figure import Figure

    every = {name for entry in entries for name in _curves(entry)}
    first = [name for name in ("loss", "accuracy") if name in every]
    names = (first + sorted(every - set(first)))[:PANELS] or ["loss"]
    columns = min(len(names), 2)
    lines = -(-len(names) // columns)
    named = entries[:NAMED] if legend else []
    across = max(min(3, 110 // max((len(e.name) for e in named), default=1)), 1)
    below = 0.2 * -(-len(named) // across)
    size = (5.5 * max(columns, 1.6), 3.6 * lines + below)
    picture = Figure(figsize=size, dpi=110, layout="constrained")
    axes = picture.subplots(lines, columns, squeeze=False).ravel()
    for name, axis in zip(names, axes, strict=False):
        _panel(axis, name, entries, colours)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    if named:
        lines_ = [axes[0].plot([], [], color=colours[e.name], lw=2)[0] for e in named]
        names = [e.name.encode(errors="replace").decode() for e in named]
        labels = [name[-60:].replace("$", r"\$").lstrip("_") for name in names]
        more = f"and {len(entries) - NAMED} more" if len(entries) > NAMED else None
        picture.legend(
            lines_,
            labels,
            loc="outside lower center",
            ncols=across,
            fontsize=8,
            frameon=False,
            title=more,
            title_fontsize=8,
        )
    file = io.BytesIO()
    picture.savefig(file, format="png")
    return file.getvalue()


def _panel(axis: Any, name: str, entries: list[Entry], colours: dict[str, Any]) -> None:
    """One metric of every run; training losses, where there is nothing better, are dashed."""
    lowest, highest = np.inf, -np.inf
    for entry in entries:
        steps, values = _curves(entry).get(name, ((), ()))
        if not len(values):
            continue
        values = np.clip(values, -1e38, 1e38)
        held_out = name in metrics_log.names(entry.rows, "validation")
        marker = "o" if len(values) < 3 else None
        axis.plot(steps, values, color=colours[entry.name], lw=1.5, ls="-" if held_out else "--", ms=4, marker=marker)
        lowest, highest = min(lowest, values.min()), max(highest, values.max())
    if name == "loss" and lowest > 1e-45 and highest > 20 * lowest:
        axis.set_yscale("log")
    axis.set_title(f"validation {name.replace('_', ' ')}", fontsize=10, loc="left")
    axis.set_xlabel("step", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _page(entries: list[Entry], colours: dict[str, Any], png: bytes) -> str:
    """The picture and the table in one file."""
    metrics, names = runs_table.metrics_of(entries), runs_table.differing(entries)
    heads = ["", "run", "state", "model", "steps"]
    heads += [f"{part} {metric}" for part in runs_table.FIGURES for metric in metrics] + names
    lines = []
    for e in entries:
        dot = f'<span style="color:{colours[e.name]}">&#9679;</span>' if e.name in colours else ""
        steps = f"{e.steps:,}/{e.total:,}" if e.total else f"{e.steps:,}"
        cells = [e.name, e.state, e.model, steps]
        for part in runs_table.FIGURES:
            values = getattr(e, part)
            cells += [format_metric(m, values[m]) if m in values else "" for m in metrics]
        cells += [runs_table.value(e.settings.get(name, "")) for name in names]
        words = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr title="{html.escape(e.note)}"><td>{dot}</td>{words}</tr>')
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    picture = f'<img class="plain" alt="Validation curves of the runs" src="{inline_images.png_url(png)}">'
    parts = (
        '<!doctype html>\n<html lang=en><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Runs</title>'
        f"<style>{STYLE}{_MORE}</style></head>\n<body><h1>{len(entries)} runs</h1>{picture}"
        f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div></body></html>\n'
    )
    return parts


_MORE = """
body { max-width: 80rem; } img.plain { filter: none !important; }
.wide { overflow-x: auto; margin-top: 1rem; font-variant-numeric: tabular-nums; }
.wide td, .wide th { padding-right: 1rem; white-space: nowrap; }
"""
