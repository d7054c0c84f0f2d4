"""Examples of a data set in HTML: a picture, a row of a table, or a text."""

import html
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nnfunc.reports.html_page import png_url

MAX_SIDE = 96  # pixels of a picture; larger ones are made smaller
MAX_FEATURES, MAX_LETTERS = 8, 400


class InputFormat(NamedTuple):
    """How the inputs of a data set read.

    image_shape: (height, width, channels) of pictures that are flat or in another layout, or None.
    columns: the names of features, or None.
    scaling: their "mean" and "std", or None.
    decode: token ids -> text, or None.
    features: of a table with more than numbers, as `Preprocessing.facts` has them, or None.
    """

    image_shape: tuple[int, int, int] | None = None
    columns: Sequence[str] | None = None
    scaling: Mapping[str, Sequence[float]] | None = None
    decode: Callable[[np.ndarray], str] | None = None
    features: Mapping[str, Any] | None = None

    @property
    def layout(self) -> str:
        return "texts" if self.decode else ""


def example_card(x: Any, form: InputFormat, title: str, note: str) -> str:
    """An example with a title, such as its prediction, and a note, such as its loss."""
    caption = f"<b>{html.escape(title)}</b><p class=note>{html.escape(note)}</p>"
    return f'<div class="example">{_input(x, form, title)}{caption}</div>'


def _input(x: Any, form: InputFormat, title: str) -> str:
    if form.features is not None:
        return _pairs(_feature_pairs(x, form.features))
    if isinstance(x, Mapping):
        return "".join(_input(part, InputFormat(), str(name)) for name, part in x.items())
    x = np.asarray(x)
    if form.decode is not None and x.dtype.kind in "iu" and x.ndim == 1:
        text = form.decode(x)
        return f"<p>{html.escape(text if len(text) <= MAX_LETTERS else text[:MAX_LETTERS] + '…')}</p>"
    picture = _as_picture(x, form)
    if picture is not None:
        return f'<img alt="example: {html.escape(title)}" src="{picture}">'
    if x.ndim <= 1:
        return _row(np.atleast_1d(x), form)
    return f"<p>an array {x.shape}</p>"


def _row(x: np.ndarray, form: InputFormat) -> str:
    """The features of a row in their units."""
    names = (
        form.columns if form.columns is not None and len(form.columns) == len(x) else [f"x{i}" for i in range(len(x))]
    )
    values = x.astype(np.float64)
    if form.scaling and len(form.scaling["mean"]) == len(x):
        values = _restore(values, form.scaling["std"], form.scaling["mean"])
    return _pairs([(str(name), f"{value:.6g}") for name, value in zip(names, values.tolist(), strict=True)])


def _restore(x: np.ndarray, scale: Any, center: Any) -> np.ndarray:
    """Standardised values of float32 in their units, without the digits that float32 did not keep: 0, not -7e-8."""
    spread = x * np.asarray(scale)
    with np.errstate(over="ignore"):
        error = np.spacing(np.abs(spread).astype(np.float32)).astype(np.float64)
    digits = np.nan_to_num(-np.log10(np.maximum(error, 1e-30))).astype(int)  # 0 of values that are not finite
    values = [round(value, digit) for value, digit in zip((spread + center).tolist(), digits.tolist(), strict=True)]
    return np.asarray(values) + 0.0  # no -0.0


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and values, one on each line."""
    text = "<br>".join(html.escape(f"{name} {value}") for name, value in pairs[:MAX_FEATURES])
    return f"<p>{text}{f'<br>and {len(pairs) - MAX_FEATURES} more' if len(pairs) > MAX_FEATURES else ''}</p>"


def _feature_pairs(x: Any, features: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(column, value) of the categories, numbers and dates of a row of a table; texts and one_hot are left out."""
    pairs, start = [], 0
    part = features["categorical"]
    codes = np.asarray(x["categories"]).tolist() if isinstance(x, Mapping) and "categories" in x else []
    for column, code, names in zip(part["columns"], codes, part.get("categories", []), strict=False):
        pairs.append((column, ["unknown", "missing", *names][code]))
    numbers = np.asarray(x.get("numbers", []) if isinstance(x, Mapping) else x, np.float64)
    for group in ("numbers", "dates"):
        part = features[group]
        names = list(part["columns"])
        if group == "dates":
            names = [
                f"{name} {detail}"
                for name, parts in zip(names, part.get("parts", []), strict=False)
                for detail in parts
            ]
        flags = part.get("indicators", [])
        width = len(names) + len(flags)
        values, start = numbers[start : start + width], start + width
        if "scale" in part and len(part["scale"]) == len(values):
            values = _restore(values, part["scale"], part["center"])
        absent = {flag for flag, value in zip(flags, values[len(names) :], strict=False) if value > 0.5}
        texts = ["missing" if i in absent else f"{value:.6g}" for i, value in enumerate(values[: len(names)])]
        pairs += zip(names, texts, strict=False)
    return pairs


def _as_picture(x: np.ndarray, form: InputFormat) -> str | None:
    """The address of a picture, where x is one."""
    from PIL import Image

    if form.image_shape is not None and x.size == np.prod(form.image_shape):
        x = x.reshape(form.image_shape)
    if x.ndim == 3 and x.shape[-1] == 1:
        x = x[..., 0]
    if not (x.ndim == 2 or (x.ndim == 3 and x.shape[-1] == 3)) or min(x.shape[:2]) < 4:
        return None
    if x.dtype != np.uint8:
        low, high = float(np.nanmin(x)), float(np.nanmax(x))
        x = np.nan_to_num(255 * (x - low) / max(high - low, 1e-12)).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(x))
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    file = io.BytesIO()
    if image.mode == "RGB":
        image.save(file, "jpeg", quality=80)
        return png_url(file.getvalue()).replace("image/png", "image/jpeg", 1)
    image.save(file, "png", optimize=True)
    return png_url(file.getvalue())
