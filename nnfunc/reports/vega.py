"""Vega-Lite from vl-convert: the library for a page, and pictures of charts without a browser."""

import base64
import contextlib
import functools
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc.documents import write_file
from nnfunc.reports.charts import Chart
from nnfunc.reports.palette import THEMES

LICENCE = "Vega, Vega-Lite and Vega-Embed, (c) University of Washington Interactive Data Lab, BSD 3-Clause licence."


def compress(text: str) -> str:
    """The text compressed, for a page: gzip in base64."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


@functools.cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, compressed; "" without vl-convert.

    The script takes 1.5 s to bundle, so it is a file in the user's cache.
    """
    from nnfunc import user_cache

    try:
        import vl_convert  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        return ""
    version: Any = vl_convert.__version__  # pyright: ignore[reportAttributeAccessIssue]
    folder = user_cache.cache_folder()
    file = folder / f"vega-{version}.txt" if folder else None
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if file is not None:
            return file.read_text(encoding="ascii")
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    packed = compress(f"/* {LICENCE} */\n{script}")
    with contextlib.suppress(OSError):  # a folder that cannot be written
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_file(file, packed.encode())
    return packed


def draw_png(charts: Sequence[Chart], *, columns: int = 2) -> bytes:
    """The charts in one picture, on a transparent ground, legible on a light and a dark page.

    charts: of Vega-Lite, or a single one of Vega.
    columns: the most charts side by side, at least 1.
    Raises: ModuleNotFoundError without vl-convert.
    """
    import vl_convert  # pyright: ignore[reportMissingImports]
    from PIL import Image

    if charts[0].is_vega:
        png = vl_convert.vega_to_png(_json(charts[0].full_spec() | {"config": THEMES["picture"]}))
    else:
        views = [_static_view(chart.full_spec()) | {"title": chart.title} for chart in charts]
        columns = min(columns, len(views))
        wide = {"width": 400 if columns > 1 else 640}
        views = [view | wide if view.get("width", "container") == "container" else view for view in views]
        spec: dict[str, Any] = {"concat": views, "columns": columns, "spacing": 30, "padding": 12}
        spec["resolve"] = {"scale": {"color": "independent"}, "legend": {"color": "independent"}}
        png = vl_convert.vegalite_to_png(_json(spec), config=THEMES["picture"])
    with Image.open(io.BytesIO(png)) as image:  # a palette takes a tenth of the bytes
        return _png_bytes(image.convert("RGBA").quantize(256, method=Image.Quantize.FASTOCTREE))


def _json(spec: dict[str, Any]) -> str:
    """A spec as JSON, with "?" for bytes of file names that are not UTF-8: vl-convert refuses them."""
    return json.dumps(spec, ensure_ascii=False).encode("utf-8", "replace").decode()


def save_png(png: bytes, path: Path) -> None:
    """Write a picture of `draw_png`, on a white ground, completely or not at all."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        image.apply_transparency()
        palette = np.asarray(image.getpalette("RGBA")).reshape(-1, 4)
        alpha = palette[:, 3:] / 255
        image.putpalette((palette[:, :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8).tobytes())
        write_file(path, _png_bytes(image))


def _png_bytes(image: Any) -> bytes:
    """A picture with a palette as the bytes of a file."""
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def _static_view(spec: dict[str, Any]) -> dict[str, Any]:
    """A specification for a picture: without the cursor, and without clips that cut nothing and are slow to draw."""
    scales = [spec["encoding"].get(axis, {}).get("scale") or {} for axis in ("x", "y")]
    return _without_params(
        spec, dropped=("params",) if any("domain" in scale for scale in scales) else ("params", "clip")
    )


def _without_params(part: Any, dropped: tuple[str, ...]) -> Any:
    """A specification without the names in `dropped`, and without layers that only the cursor shows.

    The names of parameters, which a picture does not need, would clash.
    """
    if isinstance(part, list):
        entries = [_without_params(entry, dropped) for entry in part]
        return [entry for entry in entries if not _is_for_the_cursor(entry)]
    if not isinstance(part, dict):
        return part
    condition = part.get("condition")
    if isinstance(condition, dict) and ("param" in condition or str(condition.get("test")).startswith("!chosen")):
        return {"value": part["value"] if "param" in condition else condition["value"]}
    return {
        name: entry if name == "values" else _without_params(entry, dropped)
        for name, entry in part.items()
        if name not in dropped
    }


def _is_for_the_cursor(entry: Any) -> bool:
    """Whether a part of a specification is an invisible layer."""
    return isinstance(entry, dict) and (entry.get("encoding") or {}).get("fillOpacity") == {"value": 0}
