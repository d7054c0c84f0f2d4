"""The HTML of a report: one file that contains its charts, pictures and tables."""

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from nnfunc.documents import write_file
from nnfunc.reports import vega
from nnfunc.reports.charts import Chart
from nnfunc.reports.palette import THEMES

ChartLayout = Literal["", "single", "small"]
MISSING = "The charts need vl-convert-python: pip install 'nnfunc[programs]'."


def png_url(png: bytes) -> str:
    """A data URL that contains the bytes of a png."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def render_page(
    name: str,
    *parts: str,
    charts: Sequence[Chart] = (),
    examples: Mapping[str, Sequence[str]] | None = None,
    layout: str = "",
    live: str = "",
) -> str:
    """A page with the title `name` and parts in HTML; empty parts are dropped.

    charts: all that the parts show.
    examples: {key: pieces of HTML}, that a click shows.
    layout: of the examples.
    live: the address of new data for a page that is served.
    """
    title = html.escape(name)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f"<title>{title}</title><style>{_static('page.css')}</style>"
    head += "<noscript><style>figure, button, .gestures { display: none; }</style></noscript>"
    library, scripts = vega.library() if charts else "", ""
    if library:
        described = {c.name: c._asdict() | {"name": c.name} for c in charts}
        data = {"charts": described, "themes": THEMES, "examples": examples or {}, "layout": layout}
        for block, text in (("library", library), ("charts", vega.compress(json.dumps(data, separators=(",", ":"))))):
            scripts += f'<script type="text/plain" id="{block}">{text}</script>\n'
    scripts += f"<script>{_static('page.js')}</script>"
    note = render_note(MISSING) if charts and not library else ""
    body = "\n".join(["<main>", f"<h1>{title}</h1>", note, *(part for part in parts if part), "</main>", scripts])
    source = f' data-live="{html.escape(live)}"' if live else ""
    return f"<!doctype html>\n<html lang=en><head>{head}</head>\n<body{source}>{body}</body></html>\n"


def _static(name: str) -> str:
    return (resources.files("nnfunc.reports") / "static" / name).read_text(encoding="utf-8")


def render_charts(
    charts: Sequence[Chart], *, layout: ChartLayout = "", png: bytes | None = None, table: str = ""
) -> str:
    """The charts side by side; "" without any.

    layout: "single" for charts below each other, "small" for more of them in a line.
    png, table: a picture of all, or a table in HTML, for readers without JavaScript.
    """
    figures = []
    for chart in charts:
        alt = html.escape(f"{chart.description}.")
        caption = f"<figcaption><span>{html.escape(chart.title)}</span></figcaption>"
        tall = ' class="tall"' if chart.data.get("grid") else ""
        focus = f' tabindex="0" role="group" aria-label="{alt}"' if tall else ""
        plot = f'<div class="plot" data-chart="{html.escape(chart.name)}"{focus}></div>'
        figures.append(f"<figure{tall}>{caption}{plot}</figure>")
    if png:
        alt = html.escape("; ".join(chart.description for chart in charts))
        figures.append(f'<noscript><img alt="{alt}." src="{png_url(png)}"></noscript>')
    if table:
        figures.append(f"<noscript>{table}</noscript>")
    return f'<div class="{f"charts {layout}".rstrip()}">{"".join(figures)}</div>' if figures else ""


def draw_charts(charts: Sequence[Chart], *, layout: ChartLayout = "") -> str:
    """`render_charts` with their picture, where vl-convert is installed."""
    png = vega.draw_png(charts, columns=1 if layout == "single" else 2) if charts and vega.library() else None
    return render_charts(charts, layout=layout, png=png)


def render_section(title: str, content: str) -> str:
    """A section with a `title`; "" when the `content` is empty."""
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>" if content else ""


def render_note(text: str, gestures: str = "") -> str:
    """A paragraph in grey; "" when both texts are empty. gestures: what a reader with JavaScript may do."""
    parts = [html.escape(text), f'<span class="gestures">{html.escape(gestures)}</span>' if gestures else ""]
    return f'<p class="note">{" ".join(filter(None, parts))}</p>' if any(parts) else ""


def render_cards(cards: Iterable[tuple[str, str]]) -> str:
    """A row of `cards` (value, label), each a large value above its label."""
    return f'<div class="cards" id="cards">{card_texts(cards)}</div>'


def card_texts(cards: Iterable[tuple[str, str]]) -> str:
    """The cards of `render_cards` without what is around them."""
    card = '<div class="card"><b>{}</b>{}</div>'
    return "".join(card.format(html.escape(value), html.escape(label)) for value, label in cards)


def render_tables(**tables: Mapping[str, Any]) -> str:
    """The tables of names and values side by side, each under its title."""
    sections = "\n".join(render_section(title, render_table(values)) for title, values in tables.items())
    return f'<div class="columns">\n{sections}\n</div>'


def render_table(values: Mapping[str, Any]) -> str:
    """Names and values, one row each."""
    row = '<tr><th scope="row">{}</th><td>{}</td></tr>'
    rows = [row.format(html.escape(str(name)), html.escape(str(value))) for name, value in values.items()]
    return f"<table>{''.join(rows)}</table>"


def link(address: str, text: str) -> str:
    """A link to a page that is served. address: below the page, quoted here."""
    return f'<a href="{html.escape(quote(address))}">{html.escape(text)}</a>'


class PageCell(NamedTuple):
    """A cell of a sorted table. text: as shown. value: to sort by and for CSV. markup: HTML instead of the text."""

    text: str
    value: float | None = None
    markup: str = ""


Line = tuple[str, Sequence[PageCell | str]]
"""A row of a sorted table: what it is linked by, such as the number of a trial, or "", and its cells."""


def sorted_rows(lines: Iterable[Line]) -> str:
    """The rows of a sorted table in HTML."""
    rendered = []
    for trial, cells in lines:
        row = ""
        for cell in cells:
            cell = cell if isinstance(cell, PageCell) else PageCell(cell)
            value = "" if cell.value is None else f' data-value="{cell.value:.10g}"'
            row += f"<td{value}>{cell.markup or html.escape(cell.text)}</td>"
        rendered.append(f'<tr data-trial="{html.escape(trial)}">{row}</tr>' if trial else f"<tr>{row}</tr>")
    return "".join(rendered)


def render_sorted(name: str, header: Iterable[str], lines: Iterable[Line], *, numbers: bool = True) -> str:
    """A table that sorts, filters and downloads as `name`.csv. numbers: whether columns but the first are numbers."""
    heads = "".join(f'<th scope="col">{html.escape(text) or "&nbsp;"}</th>' for text in header)
    body, label = sorted_rows(lines), html.escape(name)
    table = f'<table class="sorted{" numbers" * numbers}" data-name="{label}" id="table-{label}">'
    table += f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" tabindex="0" role="region" aria-label="Table {label}">{table}</div>'


def save_page(path: Path, text: str) -> None:
    """Write the `text` of a page to `path` completely or not at all; invalid characters of file names are escaped."""
    write_file(path, text.encode("utf-8", "backslashreplace"))
