"""The trials of a sweep as charts that the page links: a brush in one filters the others."""

from itertools import combinations
from typing import Any

import numpy as np

from nnfunc.reports.charts import RANK_SCALE, Chart, lines, scatter, shorten, thin
from nnfunc.reports.palette import ALERT, BEST
from nnfunc.reports.sweep.axes import Axis, axis_limits
from nnfunc.reports.sweep.parallel_spec import parallel_spec
from nnfunc.reports.sweep.report_data import SweepData
from nnfunc.sweeps.result import Result

POINTS = 20_000  # of all curves of a chart


def parallel_chart(data: SweepData, axes: list[Axis]) -> Chart:
    """Parallel coordinates: one line for each trial in data through its values on the axes to its score.

    Colours are those of ranks, so that one bad score does not flatten the rest. Diverged trials are dashed and end
    beyond the worst score. A drag along an axis chooses trials.
    """
    axes = [*axes, data.score_axis]
    beyond = -0.12 if data.mode == "max" else 1.12
    y = np.stack([_spread(axis) for axis in axes], axis=1)  # [trials, axes]
    y[data.diverged, -1] = beyond
    ranks = data.trial_ranks()
    order = np.argsort(np.where(np.isfinite(ranks), -ranks, -np.inf), kind="stable")  # the best is drawn last
    is_known: Any = np.isfinite(y).all(axis=1)
    order = order[is_known[order]]
    columns = _identify(data, order) | {f"p{i}": shorten(y[order, i], 4) for i in range(len(axes))}
    ticks = [
        {"axis": i, "at": (tick - axis.low) / (axis.high - axis.low), "text": label}
        for i, axis in enumerate(axes)
        for tick, label in list(zip(axis.ticks, axis.labels, strict=True))[:: max(1, -(-len(axis.ticks) // 12))]
    ]
    spec = parallel_spec(
        ticks,
        [axis.name for axis in axes],
        last=int(np.nanmax(ranks)) if np.isfinite(ranks).any() else 1,
        opacity=float(np.clip(25 / max(len(order), 1), 0.3, 0.85)),
        beyond=beyond if data.diverged.any() else None,
    )
    description = f"Parallel coordinates of {len(order)} runs: their values of {', '.join(a.name for a in axes)}"
    return Chart("parallel", "Parallel coordinates", description, spec, columns)


def slice_charts(data: SweepData, axes: list[Axis]) -> list[Chart]:
    """The score of every trial in data over each of the axes."""
    return [_trial_scatter(data, f"slice{i}", axis.name, axis, data.score_axis) for i, axis in enumerate(axes)]


def pair_charts(data: SweepData, axes: list[Axis]) -> list[Chart]:
    """Every trial at its values on each two of the axes, in the colour of its rank."""
    pairs = combinations(axes, 2)
    return [_trial_scatter(data, f"pair{i}", f"{a.name} and {b.name}", a, b) for i, (a, b) in enumerate(pairs)]


def curve_charts(data: SweepData, result: Result) -> list[Chart]:
    """The metric that ranks, and the training loss, of all trials in result over the steps. data: of the result."""
    names = list(dict.fromkeys(name for name in (data.rank, "train/loss") if name in result.curves))
    return [_curve_chart(data, result, name) for name in names]


def _curve_chart(data: SweepData, result: Result, name: str) -> Chart:
    """One metric of all trials; the y axis leaves out a few far values."""
    steps = result.steps[name.partition("/")[0]]
    curves = np.asarray(result.curves[name], np.float64)
    mode = data.mode if name == data.rank else "min"
    some = thin(len(steps), max(POINTS // len(curves), 4))
    trial, at = np.nonzero(np.isfinite(curves[:, some]))
    values = curves[:, some][trial, at]
    columns = _identify(data, trial, about=False) | {"series": list(map(str, trial.tolist()))}
    columns |= {"step": np.asarray(steps)[some][at].tolist(), "value": shorten(values)}
    steady = curves[~data.diverged] if not data.diverged.all() else curves
    steady = steady[np.isfinite(steady)]
    y: dict[str, Any] = {}
    log = None
    if len(steady):
        log = (
            bool(mode == "min" and steady.min() > 0 and steady.max() > 20 * steady.min()) if steady.min() > 0 else None
        )
        low, high = axis_limits(np.log10(steady) if log else steady, mode)
        low, high = (10**low, 10**high) if log else (low, high)
        if low < high:
            y = {"scale": {"domain": [float(low), float(high)]}}
    ends = [int(np.flatnonzero(trial == t)[-1]) for t in np.flatnonzero(data.diverged) if (trial == t).any()]
    crosses = [
        {"step": columns["step"][i], "value": columns["value"][i], "about": f"run {trial[i]} diverged"} for i in ends
    ]
    extra = [
        {
            "data": {"values": crosses},
            "mark": {"type": "point", "shape": "cross", "angle": 45, "color": ALERT, "size": 50, "clip": True},
            "encoding": {"color": {"value": ALERT}, "detail": None, "tooltip": {"field": "about", "type": "nominal"}},
        }
    ] * bool(crosses)
    title = name.replace("/", " ").replace("_", " ")
    return lines(
        f"curve-{name.replace('/', '-')}", title, columns, log=log, is_linked=True, y=y, extra=extra, height=260
    )


def _trial_scatter(data: SweepData, name: str, title: str, a: Axis, b: Axis) -> Chart:
    """Every trial at its values on two axes; diverged ones are red crosses at the worst end."""
    everyone = np.arange(len(data.hypers))
    columns = _identify(data, everyone) | {"a": _values(a), "b": _values(b)}
    if b is data.score_axis:
        worst = b.low if data.mode == "max" else b.high
        positions = np.where(data.diverged, worst, np.clip(b.positions, b.low, b.high))
        columns["b"] = shorten(10**positions if b.scale == "log" else positions)
    red = {"test": "datum.rank === null", "value": ALERT}
    colour = {"condition": [red, {"test": "datum.rank === 1", "value": BEST}], "field": "rank", "type": "quantitative"}
    colour |= {"scale": RANK_SCALE, "legend": None}
    tips = [{"field": "about", "type": "nominal", "title": "run"}]
    return scatter(
        name, title, columns, x=_encoding(a, "a"), y=_encoding(b, "b"), colour=colour, tooltip=tips, is_linked=True
    )


def _identify(data: SweepData, trials: np.ndarray, *, about: bool = True) -> dict[str, list[Any]]:
    """Columns that tell the trials: the setting that the page links by, the rank, and what the cursor shows."""
    columns = {"trial": [data.link(trial) for trial in trials.tolist()]}
    columns["rank"] = shorten(data.trial_ranks()[trials])
    return columns | ({"about": [data.tell(trial) for trial in trials.tolist()]} if about else {})


def _values(axis: Axis) -> list[Any]:
    """The values of an axis for a chart: numbers, or the labels where each value has one."""
    if axis.is_discrete:
        return [axis.labels[int(position)] for position in axis.positions]
    return shorten(10**axis.positions if axis.scale == "log" else axis.positions)


def _encoding(axis: Axis, field: str) -> dict[str, Any]:
    """The encoding of an axis."""
    encoding: dict[str, Any] = {"field": field, "title": axis.name}
    if axis.is_discrete:
        return encoding | {"type": "ordinal", "sort": axis.labels, "axis": {"labelAngle": -20, "labelLimit": 110}}
    scale = {"type": "log"} if axis.scale == "log" else {"zero": False}
    return encoding | {"type": "quantitative", "scale": scale | {"padding": 8, "nice": False}, "axis": {"tickCount": 6}}


def _spread(axis: Axis) -> np.ndarray:
    """Fractions along the axis; those of discrete values a little apart, so that lines stay visible."""
    width = 0.12 / len(axis.ticks) if axis.is_discrete else 0
    return axis.fractions + width * (2 * ((np.arange(len(axis.positions)) * 0.6180339887) % 1) - 1)
