"""The page of a served run: a form, and the predictions of what was sent. It works without scripts."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnfunc.commands.serve.input_form import Field

STYLE = f"<style>\n{Path(__file__).with_suffix('.css').read_text('utf-8')}</style>"
BARS = 10
SHOWN = 100
IMAGE_TYPES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".gif": "gif", ".webp": "webp", ".bmp": "bmp"}
LARGEST_IMAGE = 2 << 20


def render_form(
    name: str,
    fields: Sequence[Field],
    values: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
    files: Sequence[tuple[str, bytes]],
    problem: str,
) -> str:
    """The page.

    name: of the run.
    fields: of the form.
    values: in the fields, by name.
    rows: the predictions.
    files: (name, content) of those that were sent.
    problem: why there is no prediction, or "".
    """
    inputs = "\n".join(_input(field, values.get(field.name, "")) for field in fields)
    form = f'<form method="post" action="/" enctype="multipart/form-data">{inputs}\n<button>Predict</button></form>'
    answer = f'<p class="problem" role="alert">{html.escape(problem)}</p>' if problem else ""
    images = [_image(*file) for file in files] if len(files) == len(rows) else [""] * len(rows)
    if rows and (len(rows) == 1 or any(images)):
        captions = [file for file, _ in files] if any(images) else [""]
        shown = list(zip(rows, images, captions, strict=True))[:SHOWN]
        answer += "<h2>Prediction</h2>" + "".join(_answer(*one) for one in shown)
    elif rows:
        answer += f"<h2>{len(rows):,} predictions</h2>{_table(rows)}"
    title = html.escape(f"{name}: predictions")
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f"<title>{title}</title>{STYLE}"
    body = f"<main><h1>{title}</h1>\n{form}\n{answer}</main>"
    return f"<!doctype html>\n<html lang=en><head>{head}</head>\n<body>{body}</body></html>\n"


def _input(field: Field, value: str) -> str:
    name, label, value = (html.escape(text, quote=True) for text in (field.name, field.label, value))
    if field.type == "choice":
        options = "".join(
            f"<option{' selected' if html.escape(option) == value else ''}>{html.escape(option)}</option>"
            for option in field.options
        )
        return f'<label>{label}<select name="{name}">{options}</select></label>'
    if field.type == "area":
        return f'<label class="wide">{label}<textarea name="{name}">{value}</textarea></label>'
    if field.type == "files":
        return f'<label class="wide">{label}<input type="file" name="{name}" multiple></label>'
    extra = ' inputmode="decimal"' if field.type == "number" else ""
    return f'<label>{label}<input name="{name}" value="{value}"{extra}></label>'


def _image(name: str, content: bytes) -> str:
    """An uploaded image as an element; "" for other files and large ones."""
    subtype = IMAGE_TYPES.get(Path(name).suffix.lower())
    if subtype is None or len(content) > LARGEST_IMAGE:
        return ""
    data = base64.b64encode(content).decode()
    return f'<img alt="{html.escape(name, quote=True)}" src="data:image/{subtype};base64,{data}">'


def _answer(row: Mapping[str, Any], image: str, caption: str) -> str:
    """One prediction: the class and bars of probabilities, or the values."""
    bars = {name[2:] if name.startswith("p_") else name[1:]: p for name, p in row.items() if _is_probability(name, p)}
    values = {name: value for name, value in row.items() if not _is_probability(name, value)}
    if "class" in values or not bars:
        first = values.pop("class", next(iter(values.values()))) if len(values) == 1 or "class" in values else ""
    else:
        first = ", ".join(name for name, value in values.items() if value == 1) or "none"
        values = {}
    text = f"<b>{html.escape(_text(first))}</b>" if first != "" else ""
    note = f'<p class="note">{html.escape(caption)}</p>' if caption else ""
    rest = _table([values]) if len(values) > 1 or (values and first == "") else ""
    top = sorted(bars.items(), key=lambda item: -(item[1] or 0))[:BARS]
    lines = "".join(
        f'<span>{html.escape(name)}</span><i style="width:{100 * (p or 0):.1f}%"></i><em>{100 * (p or 0):.1f} %</em>'
        for name, p in top
    )
    return f'<div class="answer">{image}{text}{note}{rest}<div class="bars">{lines}</div></div>'


def _is_probability(name: str, value: Any) -> bool:
    is_named = name.startswith("p_") or (name[:1] == "p" and name[1:].isdigit())
    return is_named and (value is None or isinstance(value, float))


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The first rows as a table."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(_text(value))}</td>' for value in row.values())}</tr>" for row in rows[:SHOWN]
    )
    more = f'<p class="note">The first {SHOWN} rows.</p>' if len(rows) > SHOWN else ""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}'
