"""What stands out in a run: dead layers, gradients that vanish or explode, updates of a wrong size.

Each finding names the threshold that it is measured by. They are rules of thumb: a finding is a place
to look at, not a fault.
"""

import math
from typing import NamedTuple

import numpy as np

from nnfunc.runs import metrics_log
from nnfunc.runs.metrics_log import LayerSeries, Row

__all__ = ["Diagnosis", "find_diagnoses", "median_update_ratios", "rank_layers"]

DEAD = 0.5
SATURATED = 0.5
UPDATE = 1e-3  # Karpathy 2019 and others: about a thousandth of the weights a step
DECADE = 10.0
VANISHING = EXPLODING = 1e3
QUIET, LOUD = 1e-3, 1e3
JUMP = 100.0
BEFORE = 8


class Diagnosis(NamedTuple):
    """name: a word or two. message: a sentence. threshold: that is exceeded. paths: of the layers, worst first."""

    name: str
    message: str
    threshold: str
    paths: list[str]


def find_diagnoses(rows: list[Row]) -> list[Diagnosis]:
    """The findings, most serious first; [] without any, or without rows of layers. rows: of metrics.jsonl."""
    found = [
        *_shares(rows, "dead", "dead", DEAD, "are zero for every example"),
        *_gradients(rows),
        *_whole_gradient(rows),
        *_deviations(rows),
        *_updates(rows),
        *_shares(rows, "saturated", "saturated", SATURATED, "sit at the flat ends"),
    ]
    return [finding for finding in found if finding is not None]


def _shares(rows: list[Row], name: str, kind: str, most: float, what: str) -> list[Diagnosis]:
    """Layers of which more than a share of the units is dead or saturated at the end."""
    own = metrics_log.layer_series(rows, "activations", name)
    now = _latest(own)
    bad = _paths(own, now > most, now)
    if not bad:
        return []
    value = float(np.nanmax(now))
    words = f"{value:.0%} of the units of {bad[0]} {what} at step {own.steps[-1]}"
    return [_finding(f"{kind} units", words, bad, len(own.paths), f"more than {most:.0%}")]


def _gradients(rows: list[Row]) -> list[Diagnosis]:
    """Layers whose gradient is far smaller or larger than that of most, in the last quarter."""
    own = metrics_log.layer_series(rows, "parameters", "gradient_norm")
    now = _recent(own)
    middle = _median(now[now > 0])
    if not middle > 0:
        return []
    found = []
    # a bias before a norm, or that of keys in attention, has no gradient by design
    weights = np.asarray([not _is_bias(path) for path in own.paths], bool)
    small = _paths(own, (now < middle / VANISHING) & weights, -now)
    if small:
        share = now[own.paths.index(small[0])] / middle
        words = f"the gradient of {small[0]} is {share:.1g} of the layers' median, {middle:.2g}"
        threshold = f"below 1/{VANISHING:,.0f} of the median, in the last quarter"
        found.append(_finding("vanishing gradients", words, small, len(own.paths), threshold))
    large = _paths(own, now > middle * EXPLODING, now)
    if large:
        times = float(np.nanmax(now)) / middle
        words = f"the gradient of {large[0]} is {times:,.0f} times the layers' median, {middle:.2g}"
        threshold = f"above {EXPLODING:,.0f} times the median, in the last quarter"
        found.append(_finding("exploding gradients", words, large, len(own.paths), threshold))
    return found


def _whole_gradient(rows: list[Row]) -> list[Diagnosis]:
    """A whole gradient that jumped at some step; that it shrinks over the run is no jump."""
    steps, values = metrics_log.metric_series(rows, "train", "gradient_norm")
    before = [_median(values[max(i - BEFORE, 0) : i]) for i in range(len(values))]
    times = [v / b if i >= 4 and b > 0 else 0 for i, (v, b) in enumerate(zip(values, before, strict=True))]
    if not times or not max(times) > JUMP:
        return []
    place = times.index(max(times))
    words = f"The gradient's norm reached {values[place]:.3g} up to step {steps[place]}"
    words += f", {times[place]:,.0f} times what it was before."
    threshold = f"above {JUMP:.0f} times the median of the {BEFORE} rows before"
    return [Diagnosis("gradient spike", words, threshold, [])]


def _deviations(rows: list[Row]) -> list[Diagnosis]:
    """Layers whose results hardly vary, or vary wildly."""
    own = metrics_log.layer_series(rows, "activations", "deviation")
    now = _latest(own)
    found = []
    for kind, bad, sign, threshold in (
        ("vanishing activations", now < QUIET, -1, f"below {QUIET:g}"),
        ("exploding activations", now > LOUD, 1, f"above {LOUD:,.0f}"),
    ):
        paths = _paths(own, bad, sign * now)
        if paths:
            value = now[own.paths.index(paths[0])]
            words = f"the results of {paths[0]} deviate by {value:.2g} at step {own.steps[-1]}"
            found.append(_finding(kind, words, paths, len(own.paths), threshold))
    return found


def _updates(rows: list[Row]) -> list[Diagnosis]:
    """Weights that move too little or too much a step."""
    own = median_update_ratios(rows)
    now = own.values[:, 0] if own.paths else np.empty(0)
    found = []
    for kind, bad, sign, words in (
        ("small updates", now < UPDATE / DECADE, -1, "it may learn faster with a larger rate"),
        ("large updates", now > UPDATE * DECADE, 1, "a smaller rate or a warm-up may be steadier"),
    ):
        paths = _paths(own, bad, sign * now)
        if paths:
            value = now[own.paths.index(paths[0])]
            text = f"a step moves {paths[0]} by {value:.1e} of its norm: {words}"
            threshold = f"a factor of {DECADE:.0f} from {UPDATE:g}, median while the rate is high"
            found.append(_finding(kind, text, paths, len(own.paths), threshold))
    return found


def median_update_ratios(rows: list[Row]) -> LayerSeries:
    """The median update ratio of each weight [paths, 1] while the rate is at least half its peak.

    Biases are left out, for they start at zero, where the ratio says nothing; and so is what is
    frozen, as long as it is.
    rows: of metrics.jsonl.
    """
    own = metrics_log.layer_series(rows, "parameters", "update_ratio")
    moves = np.any(own.values > 0, axis=1).tolist()
    keep = [i for i, path in enumerate(own.paths) if moves[i] and not _is_bias(path)]
    steps, rates = metrics_log.metric_series(rows, "train", "learning_rate")
    high = np.ones(len(own.steps), bool)
    if len(rates) and rates.max() > 0:
        high = np.interp(own.steps, steps, rates) >= rates.max() / 2
    values = own.values[keep][:, high]
    medians = np.asarray([[_median(row[row > 0])] for row in values]).reshape(len(keep), 1)
    return LayerSeries([own.paths[i] for i in keep], own.steps[-1:], medians)


def rank_layers(rows: list[Row], part: str, columns: tuple[str, ...]) -> tuple[list[str], np.ndarray]:
    """(paths, values [paths, columns]) of the last row of layers, the most conspicuous layers first.

    rows: of metrics.jsonl. part: "parameters" or "activations". columns: statistics.
    """
    recent = [row for row in rows if row["split"] == "layers"][-1:]
    tables = [metrics_log.layer_series(recent, part, name) for name in columns]
    paths = list(dict.fromkeys(path for table in tables for path in table.paths))
    place = {path: i for i, path in enumerate(paths)}
    values = np.full((len(paths), len(columns)), np.nan)
    for column, table in enumerate(tables):
        for path, row in zip(table.paths, table.values, strict=True):
            values[place[path], column] = row[0]
    concern = np.nansum([_concern(name, values[:, i]) for i, name in enumerate(columns)], axis=0)
    order = np.argsort(-concern, kind="stable")
    return [paths[i] for i in order], values[order]


def _concern(name: str, values: np.ndarray) -> np.ndarray:
    """How conspicuous values are: 0 for a usual one, 1 at the threshold."""
    with np.errstate(all="ignore"):
        size = np.log10(np.maximum(values, 1e-30))
        if name == "update_ratio":
            return np.abs(size - math.log10(UPDATE)) / math.log10(DECADE)
        if name == "gradient_norm":
            away = np.abs(size - np.nanmedian(size)) if np.isfinite(size).any() else size
            return away / math.log10(VANISHING)
        if name == "deviation":
            return np.maximum(np.abs(size) / 3, 0)
        if name in ("dead", "saturated"):
            return values / DEAD
    return np.zeros_like(values)


def _finding(kind: str, words: str, paths: list[str], of: int, threshold: str) -> Diagnosis:
    others = f"; {len(paths)} of {of} layers are so" if len(paths) > 1 else ""
    return Diagnosis(kind, f"{words[0].upper()}{words[1:]}{others}.", threshold, paths)


def _paths(own: LayerSeries, bad: np.ndarray, by: np.ndarray) -> list[str]:
    """The paths of the bad ones, those with the largest `by` first."""
    return [own.paths[i] for i in np.argsort(-by, kind="stable") if bad[i]]


def _is_bias(path: str) -> bool:
    return path.rsplit("/", 1)[-1] == "bias"


def _latest(own: LayerSeries) -> np.ndarray:
    """Each layer's value in the last row."""
    return own.values[:, -1] if own.paths else np.empty(0)


def _recent(own: LayerSeries) -> np.ndarray:
    """Each layer's median over the last quarter of the rows."""
    recent = own.values[:, -max(len(own.steps) // 4, 1) :] if own.paths else np.empty((0, 1))
    return np.asarray([_median(row[np.isfinite(row)]) for row in recent])


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else math.nan
