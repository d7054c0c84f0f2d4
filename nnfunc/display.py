"""What values print in terminals and notebooks."""

import html
from collections.abc import Sequence
from typing import Any


def text_table(rows: Sequence[Sequence[str]], text_columns: int) -> list[str]:
    """The lines of a table, aligned. rows: the header first. text_columns: the first so many are left-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    align = [str.ljust if i < text_columns else str.rjust for i in range(len(widths))]
    return ["  ".join(fill(cell, n) for fill, cell, n in zip(align, row, widths, strict=True)).rstrip() for row in rows]


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """The table as HTML. rows: the header first."""
    lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    lines[0] = lines[0].replace("td>", "th>")
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def html_text(text: str) -> str:
    """Text as HTML, in the type of code, which breaks its lines where the page ends."""
    return f"<code>{html.escape(text)}</code>"


def tree_html(tree: Any) -> str | None:
    """A pytree as HTML that unfolds, by treescope; None where it is missing."""
    try:
        import treescope  # pyright: ignore
    except ImportError:
        return None
    return treescope.render_to_html(tree)
