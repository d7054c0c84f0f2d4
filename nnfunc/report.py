"""Plots and the report of a run, from what lies in its folder."""

import base64
import html
import tomllib
from pathlib import Path
from typing import Any

from nnfunc.progress import figure, in_order
from nnfunc.runlog import read_json
from nnfunc.training.saving import read_rows

__all__ = ["columns", "curves", "flat", "picture", "put", "whole", "write"]

TRAIN, HELD_OUT = "#9aa5b1", "#1f5fbf"


def write(folder: Path) -> None:
    """Draw `curves.png` and write `report.html`, which needs no other file."""
    rows = read_rows(folder / "metrics.jsonl")
    result = read_json(folder / "result.json") or {}
    curves(rows, folder / "curves.png", best=result.get("step"))
    text = page(folder, result)
    put(folder / "report.html", text)


def put(path: Path, text: str) -> None:
    """Write a page whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def curves(rows: list[dict[str, Any]], path: Path, best: int | None = None) -> None:
    """Draw the metrics over the steps: training and held-out ones, learning rate, gradient norm."""
    from matplotlib.figure import Figure

    splits = {split: [r for r in rows if r["split"] == split] for split in ("train", "validation")}
    known = {name for row in rows for name in row} - {"split", "step", "seconds"}
    first = ["loss", "accuracy", "learning_rate", "gradient_norm"]
    names = [n for n in first if n in known] + sorted(known - set(first))
    columns = 2
    count = -(-len(names) // columns)
    figure = Figure(figsize=(10, 3.1 * max(count, 1)), dpi=110, layout="constrained")
    axes = figure.subplots(max(count, 1), columns, squeeze=False).ravel()
    for name, axis in zip(names, axes, strict=False):
        for split, colour, width in (("train", TRAIN, 1.2), ("validation", HELD_OUT, 1.8)):
            points = [(row["step"], row[name]) for row in splits[split] if name in row]
            if points:
                marker = "o" if len(points) < 3 else None
                axis.plot(
                    *zip(*points, strict=True), color=colour, lw=width, marker=marker, label=split
                )
        if name in splits["validation"][0] if splits["validation"] else False:
            axis.legend(frameon=False, fontsize=8)
            if best is not None:
                axis.axvline(best, color=HELD_OUT, lw=0.8, ls=":")
        values = [row[name] for row in rows if name in row]
        if name in ("loss", "gradient_norm") and min(values) > 0 and max(values) > 20 * min(values):
            axis.set_yscale("log")
        axis.set_title(name.replace("_", " "), fontsize=10, loc="left")
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25, lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    temporary = path.with_name("curves.tmp.png")
    figure.savefig(temporary)
    temporary.replace(path)


def page(folder: Path, result: dict[str, Any]) -> str:
    """The HTML of the report."""
    config = tomllib.loads((folder / "config.toml").read_text())
    environment = read_json(folder / "environment.json") or {}
    figures = [(split, result[split]) for split in ("test", "validation") if split in result]
    cards = [
        f'<div class="card"><b>{figure(name, value)}</b>{html.escape(split)} {html.escape(name)}</div>'
        for split, values in figures
        for name, value in in_order(values)
    ]
    versions = environment.pop("versions", {})
    return whole(
        folder.name,
        f'<p class="note">{_sentence(config, result)}</p>',
        f'<div class="cards">{"".join(cards)}</div>',
        picture(folder / "curves.png", "Curves of the run"),
        columns(Settings=flat(config), Environment={**environment, **versions}),
    )


def whole(name: str, *parts: str) -> str:
    """A page that needs no other file, of parts in HTML."""
    title = html.escape(name)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f"<title>{title}</title>"
    body = "\n".join([f"<h1>{title}</h1>", *parts])
    return (
        f"<!doctype html>\n<html lang=en><head>{head}<style>{_STYLE}</style></head>\n<body>"
        f"{body}</body></html>\n"
    )


def picture(path: Path, words: str) -> str:
    """A PNG file inside of the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{data}">'


def columns(**tables: dict[str, Any]) -> str:
    """Tables of names and values side by side, each under its title."""
    parts = [f"<section><h2>{title}</h2>{_table(own)}</section>" for title, own in tables.items()]
    return f'<div class="columns">\n{chr(10).join(parts)}\n</div>'


def _sentence(config: dict[str, Any], result: dict[str, Any]) -> str:
    steps = config.get("train", {}).get("steps")
    text = f"{steps} steps"
    if "seconds" in result:
        last = f", those from {result['first']} on" if result.get("first") else ""
        text += f"{last} in {result['seconds']:.1f} s"
    if "loop" in result:
        text += f", loop &ldquo;{html.escape(result['loop'])}&rdquo;"
    if "step" in result:
        text += f". The figures are those of the best checkpoint, step {result['step']}"
    return text + "."


def flat(tables: dict[str, Any], start: str = "") -> dict[str, Any]:
    """The values of nested tables, by dotted names."""
    found: dict[str, Any] = {}
    for name, value in tables.items():
        inner = isinstance(value, dict)
        found |= flat(value, f"{start}{name}.") if inner else {f"{start}{name}": value}
    return found


def _table(values: dict[str, Any]) -> str:
    cell = "<tr><th>{}</th><td>{}</td></tr>"
    rows = [cell.format(html.escape(str(k)), html.escape(str(v))) for k, v in values.items()]
    return f"<table>{''.join(rows)}</table>"


_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.05rem; margin: 1.5rem 0 .4rem; }
.note { color: #68737d; margin: .2rem 0 1rem; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin-bottom: 1rem; }
.card { border: 1px solid #8884; border-radius: .5rem; padding: .6rem 1rem; color: #68737d; }
.card b { display: block; font-size: 1.5rem; color: #1f5fbf; }
img { width: 100%; background: #fff; border-radius: .5rem; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 0 2rem; }
table { border-collapse: collapse; width: 100%; font-size: .87rem; }
th { text-align: left; font-weight: 500; padding-right: 1rem; }
th { vertical-align: top; white-space: nowrap; }
.wide { overflow-x: auto; margin: 1rem 0; } .grid td { white-space: nowrap; }
.grid th, .grid td { text-align: right; padding: .15rem .6rem; }
.grid :first-child { text-align: left; }
td { word-break: break-word; } tr { border-bottom: 1px solid #8883; }
"""
