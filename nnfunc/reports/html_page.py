"""What every page has: one file that needs no other, with pictures and tables inside."""

import base64
import html
from pathlib import Path
from typing import Any

from nnfunc.reports.css import STYLE

__all__ = ["picture", "render_page", "render_table", "render_tables", "save_page"]


def render_page(name: str, *parts: str) -> str:
    """A page of parts in HTML; empty ones are left out."""
    title = html.escape(name)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f"<title>{title}</title>"
    body = "\n".join([f"<h1>{title}</h1>", *(part for part in parts if part)])
    return f"<!doctype html>\n<html lang=en><head>{head}<style>{STYLE}</style></head>\n<body>{body}</body></html>\n"


def picture(path: Path, words: str) -> str:
    """A PNG file inside of the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    source = f"data:image/png;base64,{data}"
    return f'<img class="plain" alt="{html.escape(words)}" src="{source}">'


def render_tables(**tables: dict[str, Any]) -> str:
    """Tables of names and values side by side, each under its title."""
    parts = [f"<section><h2>{title}</h2>{render_table(own)}</section>" for title, own in tables.items()]
    return f'<div class="columns">\n{chr(10).join(parts)}\n</div>'


def render_table(values: dict[str, Any]) -> str:
    """Names and values, a row each."""
    cell = "<tr><th>{}</th><td>{}</td></tr>"
    rows = [cell.format(html.escape(str(k)), html.escape(str(v))) for k, v in values.items()]
    return f"<table>{''.join(rows)}</table>"


def save_page(path: Path, text: str) -> None:
    """Write a page whole or not at all. Names of files may be no text: what is none is spelled out."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    temporary.replace(path)
