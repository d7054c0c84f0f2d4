"""The HTML of the report."""

import html
import math
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc.reports import html_page, inline_images
from nnfunc.reports.format import format_metric, sort_metrics
from nnfunc.reports.run import heatmaps, histograms, run_plots
from nnfunc.runs import diagnostics, metrics_log, status
from nnfunc.runs.metrics_log import Row, number

__all__ = ["build_page"]


def build_page(folder: Path, rows: list[Row], result: dict[str, Any]) -> str:
    """The whole page; `curves.png` is in the folder already."""
    config, _ = status.config_of(folder)
    environment = status.json_of(folder / "environment.json")
    versions = environment.pop("versions", None)
    versions = versions if isinstance(versions, dict) else {}
    speed = run_plots.plot_speed(rows)
    layers, pages = heatmaps.render_heatmaps(rows), histograms.render_histograms(rows)
    return html_page.render_page(
        folder.name,
        f'<p class="note">{_sentence(config, result)}</p>',
        f'<div class="cards">{_cards(rows, result)}</div>',
        _note(html.escape(_beside(result))) if _without(result) else "",
        _section("What stands out", _findings(rows)),
        _section("Curves", html_page.picture(folder / "curves.png", "Curves of the run")),
        _section("Events", _events(rows)),
        _section("Speed and memory", _speed(speed)),
        _section("Layers over time", _note(_HEAT) + layers if layers else ""),
        _section("Histograms over time", _note(_HISTOGRAMS) + pages if pages else ""),
        html_page.render_tables(Settings=status.flat(config), Environment={**environment, **versions}),
    )


_HEAT = (
    "Each row is a layer, each column a row of metrics.jsonl; time runs to the right, the last value "
    "stands beside it. Where a layer has no value, the picture is clear."
)
_HISTOGRAMS = (
    "Time runs to the right, values upwards; the stronger the colour, the more of them, by the root of "
    "their share. Between the ends lie 99.6 % of all values."
)

_NOTHING = (
    "Nothing: no layer is dead or saturated by half, no gradient is a thousand times off the "
    "layers' median, no deviation is below 0.001 or above 1,000, and while the rate was at least half "
    "its peak, updates were within a factor of ten of 0.001 in the median."
)
_UNWATCHED = "The layers were not watched in this run, and its gradient norm never jumped a hundredfold."


def _section(title: str, content: str) -> str:
    """A part with its title; nothing when it is empty."""
    return f"<section><h2>{title}</h2>{content}</section>" if content else ""


def _note(words: str) -> str:
    return f'<p class="note">{words}</p>'


def _sentence(config: dict[str, Any], result: dict[str, Any]) -> str:
    """What was trained, in how long."""
    train = config.get("train")
    steps = train.get("steps") if isinstance(train, dict) else None
    text = f"{html.escape(str(steps))} steps" if steps is not None else "a run"
    if math.isfinite(seconds := number(result.get("seconds"))):
        first = number(result.get("first"))
        last = f", those from {first:.0f} on" if first > 0 else ""
        text += f"{last} in {seconds:.1f} s"
    if "loop" in result:
        text += f", loop &ldquo;{html.escape(str(result['loop']))}&rdquo;"
    if math.isfinite(step := number(result.get("step"))):
        text += f". The figures are those of the best checkpoint, step {step:.0f}"
    return text + "."


def _cards(rows: list[Row], result: dict[str, Any]) -> str:
    """The figures of the held-out data, then how fast and how large it was."""
    found = []
    for split in ("test", "validation"):
        own = result.get(split)
        values = {k: number(v) for k, v in own.items()} if isinstance(own, dict) else {}
        found += [(format_metric(name, value), f"{split} {name}") for name, value in sort_metrics(values)]
    found += [(format_metric(name, value), words) for words, name, value in _without(result)]
    for name, words in (("tokens_per_second", "tokens/s"), ("examples_per_second", "examples/s")):
        _, values = metrics_log.series(rows, "train", name)
        if len(values):
            found.append((f"{np.median(values):,.0f}", words))
            break
    _, memory = metrics_log.series(rows, "train", "memory_mb")
    _, share = metrics_log.series(rows, "train", "utilisation")
    found += [(f"{memory.max():,.0f} MB", "memory")] if len(memory) else []
    found += [(f"{np.median(share):.1%}", "utilisation")] if len(share) else []
    card = '<div class="card"><b>{}</b>{}</div>'
    return "".join(card.format(html.escape(value), html.escape(words)) for value, words in found)


def _without(result: dict[str, Any]) -> list[tuple[str, str, float]]:
    """(words, metric, value) of one answer for all examples, of the split that is reported last."""
    own = result.get("baseline")
    for split in ("test", "validation"):
        metrics = own.get(split) if isinstance(own, dict) else None
        if isinstance(metrics, dict) and metrics:
            values = {k: number(v) for k, v in metrics.items()}
            return [(f"{split} {k} without a look", k, v) for k, v in sort_metrics(values)]
    return []


def _beside(result: dict[str, Any]) -> str:
    """What one answer for all examples reaches, and whether the run does better."""
    found = _without(result)
    split = found[0][0].split()[0]
    metrics = {name: value for _, name, value in found}
    words = "One answer for every example, without a look at it, reaches "
    words += ", ".join(f"{split} {name} {format_metric(name, value)}" for name, value in metrics.items())
    own = result.get(split)
    better = status.beats(own if isinstance(own, dict) else {}, metrics)
    return f"{words}. The run {'beats it' if better else 'does NOT beat it'}."


def _findings(rows: list[Row]) -> str:
    """What stands out, each with its threshold."""
    found = diagnostics.find(rows)
    watched = any(row["split"] == "layers" for row in rows)
    if not found:
        words = _NOTHING if watched else _UNWATCHED
        return f"<p>{words}</p>"
    items = []
    for one in found:
        more = [html.escape(path) for path in one.paths[1:6]]
        more += [f"{len(one.paths) - 6} more"] if len(one.paths) > 6 else []
        others = f' <span class="paths">Then {", ".join(more)}.</span>' if more else ""
        threshold = f'<span class="note">({html.escape(one.threshold)})</span>'
        words = f"{html.escape(one.words)}{others} {threshold}"
        items.append(f"<li><b>{html.escape(one.kind.capitalize())}.</b> {words}</li>")
    return f'<ul class="findings">{"".join(items)}</ul>'


def _events(rows: list[Row]) -> str:
    """A table of what happened."""
    found = metrics_log.events(rows)
    line = '<tr><td class="step">{:,}</td><th>{}</th><td>{}</td></tr>'
    lines = [line.format(event.step, html.escape(event.name), html.escape(event.message)) for event in found[-200:]]
    if len(found) > 200:
        lines.insert(0, f"<tr><td></td><th></th><td>{len(found) - 200} earlier ones</td></tr>")
    return f'<table class="events">{"".join(lines)}</table>' if lines else ""


def _speed(png: bytes | None) -> str:
    if png is None:
        return ""
    words = "Throughput, memory and utilisation over the steps"
    return f'<img class="plain" alt="{words}" src="{inline_images.png_url(png)}">'
