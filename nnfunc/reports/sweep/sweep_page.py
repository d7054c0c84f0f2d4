"""The HTML of the report of a sweep."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc.check import counted
from nnfunc.reports import html_page, inline_images
from nnfunc.reports.sweep import pair_plots, summary_text, sweep_plots
from nnfunc.reports.sweep.axes import Axis, text
from nnfunc.reports.sweep.curves import curves, named
from nnfunc.reports.sweep.importance import Importance, of_sheet
from nnfunc.reports.sweep.report_data import Sheet, sheet
from nnfunc.runs import status
from nnfunc.sweeps.result import FAULTS, Result

__all__ = ["write_page"]

ROWS = 20  # of the table of the best
LISTED = 20  # of diverged and of refused trials, at first sight
OF_STEPS = ("gradient_norm", "learning_rate")  # figures of which the last value says little
LANES, PANELS, PAIRED = 10, 12, 6  # names that the pictures have room for


def write_page(result: Result, folder: Path, name: str = "sweep", base: Mapping[str, Any] | None = None) -> Path:
    """Write `report.html` of a sweep into the folder, and give its path: one file that needs no other.

    It holds what was best and how sure that is, a table of the best, the scores over the
    hyperparameters, how important each is, learning curves, what diverged or was refused, and the plan.
    name: its title. base: settings that all runs have, a table at the end; dicts in it may be nested.
    Raises: ModuleNotFoundError without matplotlib and scikit-learn, which `nnfunc[programs]` brings.

    >>> def build(h):
    ...     return nf.Task(nf.linear(1, 1), nf.regression(), nf.optimizers.sgd(h["rate"]))
    >>> data = nf.data.arrays((np.ones((4, 1), np.float32),) * 2, batch_size=4)
    >>> result = nf.sweep(build, [{"rate": 0.1}], data, steps=2, execution="vmap", key=jax.random.key(0))
    >>> write_page(result, getfixture("tmp_path")).name
    'report.html'
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    own = sheet(result)
    found = of_sheet(own)
    axes = _in_order(own, found)
    page = html_page.render_page(
        name,
        f'<p class="note">{html.escape(summary_text.headline(own, result))}</p>',
        f'<div class="cards">{_cards(own, result)}</div>',
        _section("The best", "".join(f"<p>{html.escape(p)}</p>" for p in summary_text.verdict(own, result))),
        _section(_title(own), _table(own, result)),
        _pictures(own, axes),
        _section("Importance", _importance(found, own)),
        _section("Learning curves", _curves(own, result)),
        _section("Diverged", _diverged(own, result)),
        _section("Refused", _refused(own, result)),
        _section("Plan", f'<pre style="white-space: pre-wrap">{html.escape(str(result.plan))}</pre>'),
        _section("All runs have", _fixed(own, base)),
    )
    path = folder / "report.html"
    html_page.save_page(path, page)
    return path


def _in_order(own: Sheet, found: Importance | None) -> list[Axis]:
    """The names that vary, the most important first; in their own order where none is known."""
    if found is None:
        return own.axes
    place = {name: at for at, name in enumerate(found.names)}
    return sorted(own.axes, key=lambda one: place.get(one.name, len(place)))


def _section(title: str, content: str) -> str:
    """A part with its title; nothing when it is empty."""
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>" if content else ""


def _note(sentence: str) -> str:
    return f'<p class="note">{html.escape(sentence)}</p>' if sentence else ""


def _picture(figure: Any, alt: str) -> str:
    address = inline_images.png_url(sweep_plots.png(figure))
    return f'<img class="plain" alt="{html.escape(alt)}" src="{address}">'


def _cards(own: Sheet, result: Result) -> str:
    """The best score, then how many runs ended how."""
    cards = []
    if own.ranked:
        best = float(own.scores[own.ranked[0]].mean())
        cards.append((summary_text.score(own, best), f"best {own.score.name}"))
    for count, what in (
        (len(own.hypers), "runs"),
        (len(result.diverged), "diverged"),
        (int(own.stopped.sum()), "stopped early"),
        (len(result.refused), "refused"),
    ):
        cards += [(f"{count:,}", what)] if count or what in ("runs", "diverged") else []
    card = '<div class="card"><b>{}</b>{}</div>'
    return "".join(card.format(html.escape(value), html.escape(what)) for value, what in cards)


def _title(own: Sheet) -> str:
    return f"The {ROWS} best" if len(own.ranked) > ROWS else "All that have a score, best first"


def _table(own: Sheet, result: Result) -> str:
    """A row for each of the best settings: its score, what it was given, its other last figures."""
    several = own.seeds > 1
    others = [n for n in result.curves if n != own.rank and n.partition("/")[2] not in OF_STEPS]
    heads = ["", "setting" if several else "trial", own.score.name]
    heads += ["95 % interval"] * several + [one.name for one in own.axes]
    heads += [name.replace("/", " ").replace("_", " ") for name in others]
    table = result.table()
    stopped = "stopped_at" in table[0]
    heads += ["stopped at"] * stopped
    rows = {row.get("setting", row.get("trial")): row for row in table}
    cells = []
    for place, trials in enumerate(own.ranked[:ROWS]):
        row = rows[trials[0] // own.seeds]
        line = [str(place + 1), str(trials[0] // own.seeds), summary_text.score(own, row[own.rank])]
        if several:
            ends = [summary_text.score(own, row[f"{own.rank} {end}"]) for end in ("low", "high")]
            line.append(" to ".join(ends))
        line += [text(own.hypers[trials[0]].get(one.name)) for one in own.axes]
        line += [f"{row[name]:.4g}" if np.isfinite(row[name]) else "-" for name in others]
        line += [_stopped(row)] if stopped else []
        cells.append(line)
    without = len(own.hypers) // own.seeds - len(own.ranked)
    why = "of which a run" if several else "that"
    note = f"Without {counted(without, 'setting')} {why} did not end with a score."
    return _grid(heads, cells) + _note(note * bool(without)) if cells else ""


def _stopped(row: Mapping[str, Any]) -> str:
    """The step at which a run was ended, of a setting the first one and of how many runs."""
    if row["stopped_at"] is None:
        return ""
    of = f" ({row['stopped']} of {row['runs']})" if "runs" in row else ""
    return f"{row['stopped_at']}{of}"


def _pictures(own: Sheet, axes: list[Axis]) -> str:
    """Scores over the hyperparameters; nothing where none varies or nothing ran."""
    if not axes or not (np.isfinite(own.scores) | own.diverged).any():
        return ""
    edge = own.score.low if own.mode == "max" else own.score.high
    edge = 10**edge if own.score.kind == "log" else edge
    places = own.score.places[np.isfinite(own.score.places)]
    beyond = int(((places < own.score.low) | (places > own.score.high)).sum())
    cut = f" {counted(beyond, 'score')} beyond {edge:.3g} drawn there." if beyond else ""
    cut = _SHORT * bool(own.short.any()) + cut
    lanes = _picture(sweep_plots.parallel(own, axes[:LANES]), "Parallel coordinates of all runs")
    parts = [_section("Parallel coordinates", _note(_PARALLEL + cut + _left(axes, LANES)) + lanes)]
    if len(places):
        panels = _picture(sweep_plots.slices(own, axes[:PANELS]), "Score over each hyperparameter")
        parts.append(_section("Slices", _note(_SLICES + _left(axes, PANELS)) + panels))
    if len(places) and len(axes) > 1:
        maps = _picture(pair_plots.pairs(own, axes[:PAIRED]), "Score over each pair of hyperparameters")
        parts.append(_section("Pairs", _note(_PAIRS + _left(axes, PAIRED)) + maps))
    return "\n".join(parts)


_PARALLEL = (
    "Each line is a run, from its values to its score: purple is better, green is worse, orange is the "
    "best, red diverged."
)
_SHORT = " Grey is what the search gave up: its scores, from fewer steps, are in no median below."
_SLICES = "The score of every run over each hyperparameter."
_PAIRS = (
    "The median score of the runs in each cell, purple is better, green is worse; dots are runs, red "
    "crosses diverged ones, and a cell without a run is empty."
)


def _left(axes: list[Axis], most: int) -> str:
    """Which names a picture has no room for."""
    if len(axes) <= most:
        return ""
    left = ", ".join(one.name for one in axes[most:][:8]) + (", ..." if len(axes) > most + 8 else "")
    return f" Only the {most} most important of {len(axes)} names are drawn; left out: {left}."


def _importance(found: Importance | None, own: Sheet) -> str:
    """A bar a name, with what it means."""
    if not own.axes:
        return ""
    said = _note(summary_text.trust(found, own))
    if found is None:
        return said
    longest = max(float(found.values.max()), 1e-9)
    shade = "" if found.means_something else "; opacity: .35"
    bar = '<i style="display: block; height: .8em; width: {:.1f}%; background: var(--blue){}"></i>'
    row = '<tr><th>{}</th><td style="white-space: nowrap">{:.3f} ± {:.3f}</td>'
    row += '<td style="width: 70%">{}</td></tr>'
    lines = [
        row.format(html.escape(n), v, d, bar.format(100 * max(v, 0) / longest, shade))
        for n, v, d in zip(found.names, found.values, found.deviations, strict=True)
    ]
    return f"{said}<table>{''.join(lines)}</table>"


def _curves(own: Sheet, result: Result) -> str:
    if not any(np.isfinite(curve).any() for curve in result.curves.values()):
        return ""
    return _picture(curves(own, result), "Learning curves of all runs")


def _diverged(own: Sheet, result: Result) -> str:
    layers = result.layers
    heads = ["trial", "step", "first layer", "settings"]
    missing = ["" if place < FAULTS else "not looked for" for place in range(len(result.diverged))]
    cells = [
        [str(trial), f"{step:,}", layers.get(trial, none), named(own, trial)]
        for (trial, step), none in zip(result.diverged.items(), missing, strict=True)
    ]
    if not layers:
        heads, cells = [*heads[:2], heads[3]], [[*line[:2], line[3]] for line in cells]
    return _listed(heads, cells)


def _refused(own: Sheet, result: Result) -> str:
    cells = [[str(trial), named(own, trial), why] for trial, why in result.refused.items()]
    return _listed(["trial", "settings", "why"], cells)


def _listed(heads: list[str], cells: list[list[str]]) -> str:
    """A table, of which the end of a long one is folded away."""
    if not cells:
        return ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    shown = f"<table><tr>{head}</tr>{_lines(cells[:LISTED])}</table>"
    if len(cells) <= LISTED:
        return shown
    summary = f"<summary>{len(cells) - LISTED:,} more</summary>"
    return f"{shown}<details>{summary}<table>{_lines(cells[LISTED:])}</table></details>"


def _fixed(own: Sheet, base: Mapping[str, Any] | None) -> str:
    varied = {one.name for one in own.axes}
    every = (status.flat(dict(base or {})) | own.fixed).items()
    shown = {name: text(value, 200) for name, value in every if name not in varied}
    return html_page.render_table(shown) if shown else ""


def _grid(heads: Sequence[str], cells: list[list[str]]) -> str:
    """A table with a head for every column, that may be wider than the page."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    body = _lines(cells)
    return f'<div class="wide"><table class="numbers"><tr>{head}</tr>{body}</table></div>'


def _lines(cells: list[list[str]]) -> str:
    rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in line) for line in cells]
    return "".join(f"<tr>{row}</tr>" for row in rows)
