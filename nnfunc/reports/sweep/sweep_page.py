"""The HTML of a sweep's report."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc.check import counted
from nnfunc.reports.figures import png_bytes
from nnfunc.reports.html_page import (
    render_cards,
    render_image,
    render_note,
    render_page,
    render_section,
    render_table,
    save_page,
)
from nnfunc.reports.sweep.axes import Axis, format_value
from nnfunc.reports.sweep.curves import plot_curves
from nnfunc.reports.sweep.importance import Importance, compute_importance
from nnfunc.reports.sweep.pair_plots import plot_pairs
from nnfunc.reports.sweep.report_data import SweepData, build_sweep_data
from nnfunc.reports.sweep.summary_text import describe_best, describe_importance, format_score, headline
from nnfunc.reports.sweep.sweep_plots import plot_parallel, plot_slices
from nnfunc.runs import status
from nnfunc.sweeps.result import FAULTS, Result

__all__ = ["write_page"]

TABLE_ROWS = 20  # of the best settings
LIST_ROWS = 20  # of diverged and of refused trials; the others are folded away
RANKING = "Ranking of all settings with a score"
UNINFORMATIVE = ("gradient_norm", "learning_rate")  # metrics whose last value says little
PARALLEL_AXES, SLICES, PAIR_AXES = 10, 12, 6  # how many hyperparameters each plot shows

PARALLEL = (
    "Each line is a run, from its values to its score. Purple scores are better, green ones worse; the best is "
    "orange, diverged runs are red."
)
GREY = " Runs that the search stopped are grey: their scores are from fewer steps, and in no median below."
SLICES_NOTE = "The score of every run over each hyperparameter."
PAIRS = (
    "The median score of the runs in each cell: purple is better, green is worse. Dots are runs, red crosses are "
    "diverged runs; cells without a run are empty."
)


def write_page(result: Result, folder: Path, name: str = "sweep", base: Mapping[str, Any] | None = None) -> Path:
    """Write `report.html` of a sweep, one self-contained file, and return its path.

    It shows the best setting and how certain it is, a table of the best, the scores over the
    hyperparameters, their importance, learning curves, diverged and refused trials, and the plan.
    result: of `nf.sweep`. folder: made if it is missing. name: the title. base: settings that all runs
    have, shown in a table at the end; may be nested.
    Raises: ModuleNotFoundError without matplotlib and scikit-learn, which `nnfunc[programs]` installs.

    >>> def build(h):
    ...     return nf.Task(nf.linear(1, 1), nf.regression(), nf.optimizers.sgd(h["rate"]))
    >>> data = nf.data.arrays((np.ones((4, 1), np.float32),) * 2, batch_size=4)
    >>> result = nf.sweep(build, [{"rate": 0.1}], data, steps=2, execution="vmap", key=jax.random.key(0))
    >>> write_page(result, getfixture("tmp_path")).name
    'report.html'
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data = build_sweep_data(result)
    importance = compute_importance(data)
    rank = {hyper: i for i, hyper in enumerate(importance.names)} if importance else {}
    axes = sorted(data.axes, key=lambda axis: rank.get(axis.name, len(rank)))  # the most important first
    best = "".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in describe_best(data, result))
    page = render_page(
        name,
        render_note(headline(data, result)),
        render_cards(_cards(data, result)),
        render_section("The best", best),
        render_section(f"The {TABLE_ROWS} best" if len(data.ranked) > TABLE_ROWS else RANKING, _ranking(data, result)),
        _render_plots(data, axes),
        render_section("Importance", _render_importance(importance, data)),
        render_section("Learning curves", _render_curves(data, result)),
        render_section("Diverged", _render_diverged(data, result)),
        render_section("Refused", _render_refused(data, result)),
        render_section("Plan", f'<pre style="white-space: pre-wrap">{html.escape(str(result.plan))}</pre>'),
        render_section("All runs have", _render_fixed(data, base)),
    )
    path = folder / "report.html"
    save_page(path, page)
    return path


def _render_figure(figure: Any, alt: str) -> str:
    return render_image(png_bytes(figure), alt)


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
    heads = ["", index, data.score_axis.name, *["95 % interval"] * has_seeds, *(axis.name for axis in data.axes)]
    heads += [name.replace("/", " ").replace("_", " ") for name in others] + ["stopped at"] * has_stopped
    rows = {row[index]: row for row in table}
    lines = []
    for rank, trials in enumerate(data.ranked[:TABLE_ROWS], start=1):
        row = rows[trials[0] // data.seeds]
        line = [str(rank), str(row[index]), format_score(data, row[data.rank])]
        if has_seeds:
            line.append(" to ".join(format_score(data, row[f"{data.rank} {end}"]) for end in ("low", "high")))
        line += [format_value(data.hypers[trials[0]].get(axis.name)) for axis in data.axes]
        line += [f"{row[name]:.4g}" if np.isfinite(row[name]) else "-" for name in others]
        if has_stopped:
            count = f" ({row['stopped']} of {row['runs']})" if "runs" in row else ""
            line.append("" if row["stopped_at"] is None else f"{row['stopped_at']}{count}")
        lines.append(line)
    content = f'<table class="numbers">{_render_rows([heads], "th")}{_render_rows(lines)}</table>'
    without = data.settings - len(data.ranked)
    reason = "of which a run" if has_seeds else "that"
    note = f"Without {counted(without, 'setting')} {reason} ended without a score." if without else ""
    return f'<div class="wide">{content}</div>{render_note(note)}'


def _render_plots(data: SweepData, axes: list[Axis]) -> str:
    """The scores over the hyperparameters; "" where none varies or nothing ran."""
    if not axes or not (np.isfinite(data.scores) | data.diverged).any():
        return ""
    scores = data.score_axis.positions[np.isfinite(data.score_axis.positions)]
    end = data.score_axis.low if data.mode == "max" else data.score_axis.high
    end = 10**end if data.score_axis.scale == "log" else end
    beyond = int(((scores < data.score_axis.low) | (scores > data.score_axis.high)).sum())
    note = PARALLEL + GREY * bool(data.ranks_last.any())
    note += f" {counted(beyond, 'score')} beyond {end:.3g} {'is' if beyond == 1 else 'are'} drawn there." * bool(beyond)
    plots = [("Parallel coordinates", plot_parallel, PARALLEL_AXES, note)]
    if len(scores):
        plots.append(("Slices", plot_slices, SLICES, SLICES_NOTE))
    if len(scores) and len(axes) > 1:
        plots.append(("Pairs", plot_pairs, PAIR_AXES, PAIRS))
    sections = []
    for title, plot, limit, note in plots:
        figure = _render_figure(plot(data, axes[:limit]), f"{title}: scores over the hyperparameters")
        sections.append(render_section(title, render_note(note + _list_omitted(axes, limit)) + figure))
    return "\n".join(sections)


def _list_omitted(axes: list[Axis], limit: int) -> str:
    """A sentence on the hyperparameters that a plot does not show."""
    if len(axes) <= limit:
        return ""
    omitted = ", ".join(axis.name for axis in axes[limit:][:8]) + (", ..." if len(axes) > limit + 8 else "")
    return f" Only the {limit} most important of {len(axes)} hyperparameters are shown, without {omitted}."


def _render_importance(importance: Importance | None, data: SweepData) -> str:
    """A bar for each hyperparameter, and how far they can be trusted."""
    if not data.axes:
        return ""
    note = render_note(describe_importance(importance, data))
    if importance is None:
        return note
    longest = max(float(importance.values.max()), 1e-9)
    shade = "" if importance.is_meaningful else "; opacity: .35"
    bar = '<i style="display: block; height: .8em; width: {:.1f}%; background: var(--blue){}"></i>'
    row = '<tr><th>{}</th><td style="white-space: nowrap">{:.3f} ± {:.3f}</td>'
    row += '<td style="width: 70%">{}</td></tr>'
    rows = [
        row.format(html.escape(name), value, deviation, bar.format(100 * max(value, 0) / longest, shade))
        for name, value, deviation in zip(importance.names, importance.values, importance.deviations, strict=True)
    ]
    return f"{note}<table>{''.join(rows)}</table>"


def _render_curves(data: SweepData, result: Result) -> str:
    if not any(np.isfinite(curve).any() for curve in result.curves.values()):
        return ""
    return _render_figure(plot_curves(data, result), "Learning curves of all runs")


def _render_diverged(data: SweepData, result: Result) -> str:
    lines = []
    for i, (trial, step) in enumerate(result.diverged.items()):
        layer = result.layers.get(trial, "" if i < FAULTS else "not looked for")
        lines.append([str(trial), f"{step:,}", *[layer] * bool(result.layers), data.describe(trial)])
    return _render_list(["trial", "step", *["first layer"] * bool(result.layers), "hyperparameters"], lines)


def _render_refused(data: SweepData, result: Result) -> str:
    lines = [[str(trial), data.describe(trial), reason] for trial, reason in result.refused.items()]
    return _render_list(["trial", "hyperparameters", "reason"], lines)


def _render_list(heads: list[str], lines: list[list[str]]) -> str:
    """A table, whose rows after the first ones are folded away."""
    if not lines:
        return ""
    table = f"<table>{_render_rows([heads], 'th')}{_render_rows(lines[:LIST_ROWS])}</table>"
    if len(lines) <= LIST_ROWS:
        return table
    summary = f"<summary>{len(lines) - LIST_ROWS:,} more</summary>"
    return f"{table}<details>{summary}<table>{_render_rows(lines[LIST_ROWS:])}</table></details>"


def _render_fixed(data: SweepData, base: Mapping[str, Any] | None) -> str:
    varied = {axis.name for axis in data.axes}
    settings = status.flatten_settings(dict(base or {})) | data.fixed
    fixed = {name: format_value(value, 200) for name, value in settings.items() if name not in varied}
    return render_table(fixed) if fixed else ""


def _render_rows(lines: list[list[str]], tag: str = "td") -> str:
    rows = ["".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line) for line in lines]
    return "".join(f"<tr>{row}</tr>" for row in rows)
