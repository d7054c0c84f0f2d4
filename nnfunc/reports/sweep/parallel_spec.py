"""The specification of parallel coordinates with a brush on every axis, in Vega: Vega-Lite has none."""

from typing import Any

from nnfunc.reports.palette import ALERT, BEST, BETTER, VALIDATION, WORSE

HEIGHT, GAP = 300, 96  # of the axes, and the least distance between them
GREY = "#7b858f"
BOX = "isFinite(containerSize()[0]) ? containerSize()[0] - 16 : 760"
FRACTION = "clamp(1 - y() / height, -0.15, 1.15)"  # where the cursor is on an axis


def parallel_spec(
    ticks: list[dict[str, Any]], names: list[str], *, last: int, opacity: float, beyond: float | None
) -> dict[str, Any]:
    """The specification for rows of trial, rank, about, and p0, p1, ...: the fractions along the axes.

    The signal chosen is {trial: 1} of the trials to show, or null for all; the data set inside has the rows that all
    brushes choose.
    ticks: rows of axis, at (a fraction) and text.
    names: of the axes.
    last: the rank of the worst trial.
    opacity: of a line.
    beyond: the fraction at which diverged trials end on the last axis; None without any.
    """
    count = len(names)
    box = f"max({BOX}, {GAP * count})"
    signals: list[dict[str, Any]] = [
        {"name": "width", "init": box, "on": [{"events": "window:resize", "update": box}]},
        {"name": "gap", "update": f"width / {count}"},
        {"name": "chosen", "value": None},
    ]
    path = " + 'L' + ".join(f"{i + 0.5} * gap + ',' + (1 - datum.p{i}) * height" for i in range(count))
    colour = f"datum.rank === null ? '{ALERT}' : datum.rank === 1 ? '{BEST}' : scale('rank', datum.rank)"
    marks = [
        _mark(
            "path",
            "rows",
            path=f"'M' + {path}",
            stroke=colour,
            strokeWidth="datum.rank === 1 ? 3.5 : 1.3",
            strokeDash="datum.rank === null ? [4, 3] : []",
            strokeOpacity=f"datum.inside && (!chosen || chosen[datum.trial]) ? max({opacity}, datum.rank === 1) : 0.04",
            tooltip="datum.about",
        ),
        _mark("rule", "names", x="(datum.axis + 0.5) * gap", y=0, y2="height", stroke=f"'{GREY}'"),
        _text("ticks", "(datum.axis + 0.5) * gap - 6", "(1 - datum.at) * height", "datum.text", "'right'", "gap - 14"),
        _text(
            "names", "(datum.axis + 0.5) * gap", "-46 + 15 * (datum.axis % 2)", "datum.text", "'center'", "1.9 * gap"
        ),
    ]
    if beyond is not None:
        at = f"{count - 0.5} * gap + 6", f"{1 - beyond} * height"
        marks.append(_text(None, *at, "'diverged'", "'left'", "80", fill=f"'{ALERT}'"))
    for i in range(count):
        signals += _brush(i)
        low, high = (f"brush{i} ? (1 - span{i}[{end}]) * height : 0" for end in (0, 1))
        middle = f"{i + 0.5} * gap"
        brush = _mark("rect", x=f"{middle} - 9", width=18, y=high, y2=low, fill=f"'{VALIDATION}'", fillOpacity=0.35)
        strip = _mark("rect", x=f"{middle} - 14", width=28, y=-36, height="height + 72", fill="'transparent'")
        strip["encode"]["update"]["cursor"] = {"value": "ns-resize"}
        marks += [brush | {"interactive": False}, strip | {"name": f"strip{i}"}]
    inside = " && ".join(f"(!brush{i} || inrange(datum.p{i}, span{i}))" for i in range(count))
    return {
        "$schema": "https://vega.github.io/schema/vega/v6.json",
        "height": HEIGHT,
        "padding": 8,
        "signals": signals,
        "data": [
            {"name": "rows", "transform": [{"type": "formula", "as": "inside", "expr": inside}]},
            {"name": "inside", "source": "rows", "transform": [{"type": "filter", "expr": "datum.inside"}]},
            {"name": "ticks", "values": ticks},
            {"name": "names", "values": [{"axis": i, "text": name} for i, name in enumerate(names)]},
        ],
        "scales": [{"name": "rank", "type": "linear", "domain": [1, max(last, 2)], "range": [BETTER, WORSE]}],
        "marks": marks,
    }


def _brush(i: int) -> list[dict[str, Any]]:
    """The signals of the brush of an axis: where the drag began and is, and the range with a margin."""
    moves = [
        {"events": f"@strip{i}:pointerdown", "update": f"[{FRACTION}, {FRACTION}]"},
        {
            "events": f"[@strip{i}:pointerdown, window:pointerup] > window:pointermove!",
            "update": f"[brush{i}[0], {FRACTION}]",
        },
        {"events": f"@strip{i}:dblclick", "update": "null"},
    ]
    span = f"brush{i} ? [min(brush{i}[0], brush{i}[1]) - 0.005, max(brush{i}[0], brush{i}[1]) + 0.005] : null"
    return [{"name": f"brush{i}", "value": None, "on": moves}, {"name": f"span{i}", "update": span}]


def _mark(form: str, source: str | None = None, **channels: str | float) -> dict[str, Any]:
    """A mark, without words for those who cannot see it: the description of the chart tells what the marks show.

    channels: numbers, or expressions.
    """
    update = {name: {"signal": v} if isinstance(v, str) else {"value": v} for name, v in channels.items()}
    mark = {"type": form, "aria": False, "encode": {"update": update}}
    return mark | {"from": {"data": source}} if source else mark


def _text(source: str | None, x: str, y: str, text: str, align: str, limit: str, **more: str) -> dict[str, Any]:
    channels = {"x": x, "y": y, "text": text, "align": align, "limit": limit, "baseline": "'middle'"} | more
    return _mark("text", source, fontSize=11, **channels) | {"interactive": False}
