"""Charts as specifications of Vega-Lite and Vega, with their data in columns."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nnfunc.reports.palette import BEST, BETTER, TRAIN, WORSE

NEAREST = 4000  # with more points, the cursor tells only the run of a curve
RANK_SCALE = {"type": "linear", "range": [BETTER, WORSE], "interpolate": "rgb"}  # that of "hcl" passes through pink
IN_A_PICTURE = 150  # trials
WHEEL = "wheel![event.ctrlKey || event.metaKey]"  # the wheel alone scrolls the page
ZOOM = {"name": "zoom", "select": {"type": "interval", "zoom": WHEEL}, "bind": "scales"}
SHARES = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"  # square roots from 0 to 1


class Chart(NamedTuple):
    """A chart of a page.

    name: unique on the page.
    title: above it.
    description: for those who cannot see it.
    spec: of Vega-Lite, or of Vega, without data.
    data: {column: values}, all of one length; or a grid, {"x": [columns], "y": [rows], column: [rows * columns]}.
    log: whether y begins on a logarithmic scale, with a switch; None without one.
    """

    name: str
    title: str
    description: str
    spec: dict[str, Any]
    data: dict[str, Any]
    log: bool | None = None

    @property
    def is_vega(self) -> bool:
        return "marks" in self.spec

    def rows(self) -> list[dict[str, Any]]:
        """The data as rows, as the page makes them."""
        if "x" in self.data and "y" in self.data and "grid" in self.data:
            xs, ys = self.data["x"], self.data["y"]
            values = {name: column for name, column in self.data.items() if name not in ("x", "y", "grid")}
            return [
                {"x": x, "y": y} | {name: column[i * len(xs) + j] for name, column in values.items()}
                for i, y in enumerate(ys)
                for j, x in enumerate(xs)
            ]
        return [dict(zip(self.data, row, strict=True)) for row in zip(*self.data.values(), strict=True)]

    def full_spec(self) -> dict[str, Any]:
        """The specification with its data and scale, for a picture, which shows at most `IN_A_PICTURE` trials."""
        spec, rows = dict(self.spec), self.rows()
        trials = list(dict.fromkeys(row["trial"] for row in rows)) if "trial" in self.data else []
        if len(trials) > IN_A_PICTURE:
            ranks = {row["trial"]: row["rank"] or math.inf for row in rows}
            trials = sorted(trials, key=lambda trial: ranks[trial])
            some = {trials[i] for i in thin(len(trials), IN_A_PICTURE)}
            rows = [row for row in rows if row["trial"] in some]
        if self.is_vega:
            spec["data"] = [spec["data"][0] | {"values": rows}, *spec["data"][1:]]
            return spec
        spec |= {"data": {"values": rows}}
        if self.data.get("grid"):
            spec["height"] = min(spec["height"], 500)  # without the names of all rows
        return _with_scale(spec, "log" if self.log else "linear")


def _with_scale(spec: Any, scale: str) -> Any:
    """The specification whose encodings named y have the scale; the page does the same."""
    if isinstance(spec, list):
        return [_with_scale(part, scale) for part in spec]
    if not isinstance(spec, dict):
        return spec
    result = {name: _with_scale(part, scale) for name, part in spec.items() if name != "data"}
    if isinstance(spec.get("y"), dict) and spec["y"].get("type") == "quantitative":
        before = result["y"].get("scale", {})
        number = {"type": "log"} if scale == "log" else {} if "type" in before else {"zero": False}
        result["y"] = result["y"] | {"scale": number | before}
    return result | ({"data": spec["data"]} if "data" in spec else {})


def shorten(values: Any, digits: int = 5) -> list[Any]:
    """The numbers as a list for JSON, with so many digits; None where they are not finite, or not when rounded.

    >>> shorten([1 / 3, float("nan"), 7])
    [0.33333, None, 7.0]
    """
    array = np.asarray(values)
    if array.dtype.kind in "iub":
        return array.tolist()
    rounded = [float(f"{v:.{digits}g}") for v in array.astype(np.float64).tolist()]
    return [v if math.isfinite(v) else None for v in rounded]


def thin(length: int, limit: int) -> np.ndarray:
    """At most `limit` evenly spaced indices of an axis of this length, both ends among them."""
    return np.unique(np.linspace(0, max(length - 1, 0), min(length, limit)).round().astype(int))


def linked(spec: dict[str, Any]) -> dict[str, Any]:
    """The specification of a chart in which the trials that the page has not chosen fade; see `_fading`."""
    return spec | {"params": [{"name": "chosen", "value": None}, *spec.get("params", [])]}


def _fading(opacity: float) -> dict[str, Any]:
    """The encoding of this opacity, for the trials that the page has chosen."""
    return {"condition": {"test": "!chosen || chosen[datum.trial]", "value": opacity}, "value": 0.03}


def lines(
    name: str,
    title: str,
    data: dict[str, Any],
    colours: Mapping[str, str] | None = None,
    *,
    x: str = "step",
    log: bool | None = None,
    rules: Iterable[tuple[float, str, str]] = (),
    is_linked: bool = False,
    y: Mapping[str, Any] | None = None,
    x_scale: Mapping[str, Any] | None = None,
    height: int = 200,
    extra: Sequence[dict[str, Any]] = (),
) -> Chart:
    """A chart of curves.

    data: columns x, "value" and "series", of a linked chart also "trial" and "rank".
    colours: {series: colour}; without them those of ranks.
    rules: (x, text, colour) of upright lines.
    y, x_scale: more of their encodings.
    extra: more layers.
    """
    count = len(data["value"])
    encoding: dict[str, Any] = {
        "x": {"field": x, "type": "quantitative", "title": x.replace("_", " "), "scale": {"nice": False}},
        "y": {"field": "value", "type": "quantitative", "title": None} | dict(y or {}),
        "detail": {"field": "series"},
    }
    encoding["x"] |= dict(x_scale or {})
    if colours:
        legend = None if len(colours) < 2 else {"title": None, "orient": "bottom", "columns": 2}
        scale = {"domain": list(colours), "range": list(colours.values())}
        encoding["color"] = {"field": "series", "type": "nominal", "scale": scale, "legend": legend}
    elif is_linked:
        encoding["color"] = {"field": "rank", "type": "quantitative", "scale": RANK_SCALE, "legend": None}
    shown = {"run" if is_linked else "curve": "series", **({"": "about"} if "about" in data else {}), x: x}
    parts = [f"'{title}': (datum.datum || datum)['{field}']" for title, field in shown.items()]
    parts.append("'value': format((datum.datum || datum).value, '.5~g')")
    tips = {"expr": f"{{{', '.join(parts)}}}"}  # the point nearest to the cursor has the row in `datum.datum`
    hover = {"name": "hover", "select": {"type": "point", "on": "pointerover", "nearest": True, "clear": "pointerout"}}
    is_crowd = is_linked and not colours
    curve: dict[str, Any] = {"mark": {"type": "line", "clip": True, "strokeWidth": 1.0 if is_crowd else 1.8}}
    if is_linked:
        curve["encoding"] = {"strokeOpacity": _fading(0.55 if is_crowd else 1.0)}
    few = count < 3 * len(set(data["series"])) if count else True
    visible = {"condition": {"param": "hover", "empty": False, "value": 1}, "value": 0.9 if few else 0}
    point: dict[str, Any] = {"mark": {"type": "point", "filled": True, "size": 46, "clip": True, "tooltip": tips}}
    point |= {"params": [hover], "encoding": {"fillOpacity": visible}}
    curve["params"] = [ZOOM]
    if count > NEAREST:
        curve["mark"]["tooltip"] = {"expr": "{'run': datum.series, 'rank': datum.rank}"}
    layers = [curve, *[point] * (count <= NEAREST), *extra]
    if is_crowd:
        best = {"mark": {"type": "line", "strokeWidth": 3, "color": BEST, "clip": True}}
        layers.append(
            best
            | {
                "transform": [{"filter": "datum.rank === 1"}],
                "encoding": {"color": {"value": BEST}, "strokeOpacity": _fading(1.0)},
            }
        )
    marks = [{"at": at, "text": text, "colour": colour} for at, text, colour in rules]
    if marks:
        rule = {"x": {"field": "at", "type": "quantitative"}, "y": None, "detail": None}
        rule |= {"color": {"field": "colour", "type": "nominal", "scale": None}}
        rule |= {"tooltip": [{"field": "text", "type": "nominal"}, {"field": "at", "type": "quantitative", "title": x}]}
        mark = {"type": "rule", "strokeDash": [4, 3], "strokeWidth": 1.5, "clip": True}
        layers.insert(0, {"data": {"values": marks}, "mark": mark, "encoding": rule})
    spec = {"width": "container", "height": height, "encoding": encoding, "layer": layers}
    description = f"{title}: curves over {x}"
    return Chart(name, title, description, linked(spec) if is_linked else spec, data, log)


def histograms(name: str, title: str, data: dict[str, Any], *, colour: str, height: int = 90) -> Chart:
    """A chart of histograms over the steps: cells whose opacity grows with the square root of a bin's share.

    data: columns "step"; "low" and "high", the ends of the bins; "shares", of each bin a character of `SHARES`.
    colour: of the cells.
    """
    tips = {"step": "datum.step", "values": "format(datum.from, '.4~g') + ' to ' + format(datum.to, '.4~g')"}
    tips["share"] = "format(datum.root * datum.root, '.2p')"
    bins = [
        {"calculate": "split(datum.shares, '')", "as": "share"},
        {"calculate": "(datum.high - datum.low) / length(datum.shares)", "as": "width"},
        {"calculate": "sequence(length(datum.shares))", "as": "bin"},
        {"flatten": ["share", "bin"]},
        {"calculate": f"indexof('{SHARES}', datum.share) / {len(SHARES) - 1}", "as": "root"},
        {"filter": "datum.root > 0"},
        {"calculate": "datum.low + datum.bin * datum.width", "as": "from"},
        {"calculate": "datum.from + datum.width", "as": "to"},
    ]
    peaks = [max(map(SHARES.index, shares)) / (len(SHARES) - 1) for shares in data["shares"]]
    opacity = {"domain": [0, max(float(np.median(peaks)), 0.1)], "range": [0, 1], "clamp": True}
    ticks = [data["step"][i] for i in thin(len(data["step"]), 4)]
    axis = {"values": ticks, "labelAngle": 0, "format": ",", "ticks": True, "labelFlush": True}
    y = {"type": "quantitative", "title": None, "scale": {"zero": False}, "axis": {"tickCount": 4, "format": ".6~g"}}
    shown = {"expr": f"{{{', '.join(f'{key!r}: {value}' for key, value in tips.items())}}}"}
    spec = {
        "width": "container",
        "height": height,
        "transform": bins,
        "mark": {"type": "rect", "color": colour, "stroke": colour, "strokeWidth": 0.5, "tooltip": shown},
        "encoding": {
            "x": {"field": "step", "type": "ordinal", "title": None, "scale": {"padding": 0}, "axis": axis},
            "y": {"field": "from"} | y,
            "y2": {"field": "to"},
            "opacity": {"field": "root", "type": "quantitative", "scale": opacity, "legend": None},
        },
    }
    return Chart(name, title, f"{title}: histograms over time", spec, data)


def heatmap(
    name: str,
    title: str,
    data: dict[str, Any],
    *,
    colour: Mapping[str, Any],
    x: Mapping[str, Any],
    y: Mapping[str, Any],
    tooltip: Sequence[Mapping[str, Any]],
    step: int = 18,
    height: int | None = None,
    width: int | None = None,
) -> Chart:
    """A chart of cells: a grid `data`.

    colour, x, y: more of their encodings.
    step: the height of a row.

    width: in pixels; None for that of the page.
    """
    encoding = {
        "x": {"field": "x", "type": "ordinal"} | dict(x),
        "y": {"field": "y", "type": "nominal", "sort": None} | dict(y),
        "color": {"field": "value", "type": "quantitative"} | dict(colour),
        "tooltip": [dict(entry) for entry in tooltip],
    }
    spec = {
        "width": width or "container",
        "height": height or step * len(data["y"]),
        "mark": {"type": "rect"},
        "encoding": encoding,
    }
    return Chart(name, title, f"{title}: a heat map", spec, data | {"grid": True})


def scatter(
    name: str,
    title: str,
    data: dict[str, Any],
    *,
    x: Mapping[str, Any],
    y: Mapping[str, Any],
    tooltip: Sequence[Mapping[str, Any]],
    colour: Mapping[str, Any] | None = None,
    is_linked: bool = False,
    height: int = 220,
    extra: Sequence[dict[str, Any]] = (),
) -> Chart:
    """A chart of points. x, y, colour: their encodings. extra: more layers."""
    encoding = {"x": dict(x), "y": dict(y)}
    look = {"color": dict(colour or {"value": BETTER}), "tooltip": [dict(entry) for entry in tooltip]}
    look["fillOpacity"] = _fading(0.75) if is_linked else {"value": 0.75}
    points: dict[str, Any] = {"mark": {"type": "point", "filled": True, "size": 36, "clip": True}, "encoding": look}
    if all(part.get("type") == "quantitative" for part in (x, y)):
        points["params"] = [ZOOM]
    spec = {"width": "container", "height": height, "encoding": encoding, "layer": [*extra, points]}
    return Chart(name, title, f"{title}: points", linked(spec) if is_linked else spec, data)


def bars(name: str, title: str, data: dict[str, Any], *, x: Mapping[str, Any], faded: bool = False) -> Chart:
    """Horizontal bars: columns "name", "value", and "low" and "high" of an interval."""
    y = {"field": "name", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 160}}
    number = {"type": "quantitative", "format": ".3~g"}
    tips = [{"field": "name", "type": "nominal"}, *({"field": part} | number for part in ("value", "low", "high"))]
    bar = {"mark": {"type": "bar", "color": BETTER, "fillOpacity": 0.4 if faded else 1}}
    bar |= {
        "encoding": {
            "x": {"field": "value", "type": "quantitative", "axis": {"tickCount": 6}} | dict(x),
            "tooltip": tips,
        }
    }
    rule = {"mark": {"type": "rule", "color": TRAIN, "strokeWidth": 2}}
    rule |= {"encoding": {"x": {"field": "low", "type": "quantitative"}, "x2": {"field": "high"}, "tooltip": tips}}
    spec = {"width": "container", "height": 24 * len(data["name"]), "encoding": {"y": y}, "layer": [bar, rule]}
    return Chart(name, title, f"{title}: bars", spec, data)
