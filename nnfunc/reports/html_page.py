"""The HTML of a report: one file that contains its images and tables."""

import html
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nnfunc.documents import write_file
from nnfunc.reports.css import STYLE
from nnfunc.reports.inline_images import png_url

__all__ = [
    "render_cards",
    "render_grid",
    "render_image",
    "render_note",
    "render_page",
    "render_section",
    "render_table",
    "render_tables",
    "save_page",
]


def render_page(name: str, *parts: str) -> str:
    """A page with the title `name` and parts in HTML; empty parts are dropped."""
    title = html.escape(name)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f"<title>{title}</title>"
    body = "\n".join([f"<h1>{title}</h1>", *(part for part in parts if part)])
    return f"<!doctype html>\n<html lang=en><head>{head}<style>{STYLE}</style></head>\n<body>{body}</body></html>\n"


def render_section(title: str, content: str) -> str:
    """A section with a `title`; "" when the `content` is empty."""
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>" if content else ""


def render_note(text: str) -> str:
    """A paragraph in grey; "" when the text is empty."""
    return f'<p class="note">{html.escape(text)}</p>' if text else ""


def render_cards(cards: Iterable[tuple[str, str]]) -> str:
    """A row of `cards` (value, label), each a large value above its label."""
    card = '<div class="card"><b>{}</b>{}</div>'
    rendered = "".join(card.format(html.escape(value), html.escape(label)) for value, label in cards)
    return f'<div class="cards">{rendered}</div>'


def render_image(png: bytes, alt: str) -> str:
    """The png as an image inside the page, as wide as the page. alt: its description."""
    return f'<img class="plain" alt="{html.escape(alt)}" src="{png_url(png)}">'


def render_tables(**tables: Mapping[str, Any]) -> str:
    """The tables of names and values side by side, each under its title."""
    sections = "\n".join(render_section(title, render_table(values)) for title, values in tables.items())
    return f'<div class="columns">\n{sections}\n</div>'


def render_table(values: Mapping[str, Any]) -> str:
    """Names and values, one row each."""
    row = "<tr><th>{}</th><td>{}</td></tr>"
    rows = [row.format(html.escape(str(name)), html.escape(str(value))) for name, value in values.items()]
    return f"<table>{''.join(rows)}</table>"


def render_grid(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A wide table of texts with a `header`; all columns of the `rows` but the first are numbers."""
    cells = lambda tag, texts: "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts)
    lines = [cells("th", header), *(cells("td", row) for row in rows)]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table class="numbers">{body}</table></div>'


def save_page(path: Path, text: str) -> None:
    """Write the `text` of a page to `path` completely or not at all; invalid characters of file names are escaped."""
    write_file(path, text.encode("utf-8", "backslashreplace"))
