"""Diagnoses of a run from its log: dead layers, vanishing or exploding gradients, updates of a wrong size.

The thresholds are rules of thumb, and each diagnosis names its own: it is a hint where to look, not an
error.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nnfunc.runs import metrics_log
from nnfunc.runs.metrics_log import LayerSeries, Row

DEAD = SATURATED = 0.5  # fraction of the units of a layer
UPDATE = 1e-3  # Karpathy 2019 and others: about a thousandth of the weights a step
DECADE = 10.0
GRADIENT_FACTOR = 1e3  # from the median of the layers
SMALL_DEVIATION, LARGE_DEVIATION = 1e-3, 1e3
SPIKE_FACTOR = 100.0  # from the median of the rows before
SPIKE_WINDOW = 8  # rows


class Diagnosis(NamedTuple):
    """One diagnosis.

    name: a word or two.
    message: a sentence.
    threshold: the condition that was met.
    paths: of the layers that meet it, the worst first.
    """

    name: str
    message: str
    threshold: str
    paths: list[str]


def find_diagnoses(rows: list[Row]) -> list[Diagnosis]:
    """The diagnoses of a run, the most serious first; [] if there are none. rows: of metrics.jsonl."""
    return [
        *_activation_fractions(rows, "dead", DEAD, "are zero for every example"),
        *_layer_gradients(rows),
        *_gradient_spike(rows),
        *_deviations(rows),
        *_updates(rows),
        *_activation_fractions(rows, "saturated", SATURATED, "are saturated"),
    ]


def _diagnose(
    name: str,
    series: LayerSeries,
    values: np.ndarray,
    is_bad: np.ndarray,
    message: Callable[[str, float], str],
    threshold: str,
    *,
    largest_first: bool = True,
) -> list[Diagnosis]:
    """The diagnosis of the layers whose value [paths] is bad; [] without one. message: of the worst layer."""
    order = np.argsort(-values if largest_first else values, kind="stable")
    order = order[is_bad[order]]
    if not order.size:
        return []
    paths = [series.paths[i] for i in order]
    text = message(paths[0], float(values[order[0]]))
    others = f"; {len(paths)} of {len(series.paths)} layers are like this" if len(paths) > 1 else ""
    return [Diagnosis(name, f"{text[0].upper()}{text[1:]}{others}.", threshold, paths)]


def _activation_fractions(rows: list[Row], name: str, limit: float, what: str) -> list[Diagnosis]:
    """Layers of which a large fraction of the units is dead or saturated at the end."""
    series = metrics_log.layer_series(rows, "activations", name)
    latest = _latest(series)
    message = lambda path, value: f"{value:.0%} of the units of {path} {what} at step {series.steps[-1]}"
    return _diagnose(f"{name} units", series, latest, latest > limit, message, f"more than {limit:.0%}")


def _layer_gradients(rows: list[Row]) -> list[Diagnosis]:
    """Layers whose gradient is much smaller or larger than that of most layers, in the last quarter of the run."""
    series = metrics_log.layer_series(rows, "parameters", "gradient_norm")
    recent = series.values[:, -max(len(series.steps) // 4, 1) :] if series.paths else np.empty((0, 1))
    norms = np.asarray([_median(row[np.isfinite(row)]) for row in recent])
    median = _median(norms[norms > 0])
    if not median > 0:
        return []
    # the bias before a norm and that of the keys in attention have no gradient by design
    is_weight = np.asarray([not _is_bias(path) for path in series.paths], bool)
    small = lambda path, norm: f"the gradient of {path} is {norm / median:.1g} of the layers' median, {median:.2g}"
    large = lambda path, norm: f"the gradient of {path} is {norm / median:,.0f} times the layers' median, {median:.2g}"
    is_small, is_large = (norms < median / GRADIENT_FACTOR) & is_weight, norms > median * GRADIENT_FACTOR
    below = f"below 1/{GRADIENT_FACTOR:,.0f} of the median, in the last quarter"
    above = f"above {GRADIENT_FACTOR:,.0f} times the median, in the last quarter"
    return [
        *_diagnose("vanishing gradients", series, norms, is_small, small, below, largest_first=False),
        *_diagnose("exploding gradients", series, norms, is_large, large, above),
    ]


def _gradient_spike(rows: list[Row]) -> list[Diagnosis]:
    """A sudden rise of the global gradient norm; a norm that falls over the run is normal."""
    steps, values = metrics_log.metric_series(rows, "train", "gradient_norm")
    before = [_median(values[max(i - SPIKE_WINDOW, 0) : i]) for i in range(len(values))]
    times = [v / b if i >= 4 and b > 0 else 0 for i, (v, b) in enumerate(zip(values, before, strict=True))]
    if not times or not max(times) > SPIKE_FACTOR:
        return []
    index = times.index(max(times))
    text = f"The gradient norm reached {values[index]:.3g} up to step {steps[index]}"
    text += f", {times[index]:,.0f} times the median before."
    threshold = f"above {SPIKE_FACTOR:.0f} times the median of the {SPIKE_WINDOW} rows before"
    return [Diagnosis("gradient spike", text, threshold, [])]


def _deviations(rows: list[Row]) -> list[Diagnosis]:
    """Layers whose outputs have a very small or very large standard deviation."""
    series = metrics_log.layer_series(rows, "activations", "deviation")
    latest = _latest(series)
    message = lambda path, value: (
        f"the standard deviation of the outputs of {path} is {value:.2g} at step {series.steps[-1]}"
    )
    is_small, is_large = latest < SMALL_DEVIATION, latest > LARGE_DEVIATION
    below, above = f"below {SMALL_DEVIATION:g}", f"above {LARGE_DEVIATION:,.0f}"
    return [
        *_diagnose("vanishing activations", series, latest, is_small, message, below, largest_first=False),
        *_diagnose("exploding activations", series, latest, is_large, message, above),
    ]


def _updates(rows: list[Row]) -> list[Diagnosis]:
    """Weights that change too little or too much in a step."""
    series = median_update_ratios(rows)
    ratios = _latest(series)
    small = lambda path, ratio: f"a step changes {path} by {ratio:.1e} of its norm: a larger learning rate may help"
    large = lambda path, ratio: (
        f"a step changes {path} by {ratio:.1e} of its norm: a smaller learning rate or a warm-up may help"
    )
    threshold = f"a factor of {DECADE:.0f} from {UPDATE:g}, median while the learning rate is high"
    is_small, is_large = ratios < UPDATE / DECADE, ratios > UPDATE * DECADE
    return [
        *_diagnose("small updates", series, ratios, is_small, small, threshold, largest_first=False),
        *_diagnose("large updates", series, ratios, is_large, large, threshold),
    ]


def median_update_ratios(rows: list[Row]) -> LayerSeries:
    """The median update ratio of each weight [paths, 1] while the learning rate is at least half its peak.

    Biases are left out: they start at zero, where the ratio means nothing. So are the rows in which a
    weight is frozen.
    rows: of metrics.jsonl.
    """
    series = metrics_log.layer_series(rows, "parameters", "update_ratio")
    is_updated = np.any(series.values > 0, axis=1).tolist()
    weights = [i for i, path in enumerate(series.paths) if is_updated[i] and not _is_bias(path)]
    steps, rates = metrics_log.metric_series(rows, "train", "learning_rate")
    is_high = np.ones(len(series.steps), bool)
    if len(rates) and rates.max() > 0:
        is_high = np.interp(series.steps, steps, rates) >= rates.max() / 2
    values = series.values[weights][:, is_high]
    medians = np.asarray([[_median(row[row > 0])] for row in values]).reshape(len(weights), 1)
    return LayerSeries([series.paths[i] for i in weights], series.steps[-1:], medians)


def rank_layers(rows: list[Row], part: str, columns: tuple[str, ...]) -> tuple[list[str], np.ndarray]:
    """(paths, values [paths, columns]) of the last row of layers, the most conspicuous layers first.

    rows: of metrics.jsonl.
    part: "parameters" or "activations".
    columns: the names of statistics.
    """
    recent = [row for row in rows if row["split"] == "layers"][-1:]
    tables = [metrics_log.layer_series(recent, part, name) for name in columns]
    paths = list(dict.fromkeys(path for table in tables for path in table.paths))
    indices = {path: i for i, path in enumerate(paths)}
    values = np.full((len(paths), len(columns)), np.nan)
    for column, table in enumerate(tables):
        for path, row in zip(table.paths, table.values, strict=True):
            values[indices[path], column] = row[0]
    concern = np.nansum([_concern(name, values[:, i]) for i, name in enumerate(columns)], axis=0)
    order = np.argsort(-concern, kind="stable")
    return [paths[i] for i in order], values[order]


def _concern(name: str, values: np.ndarray) -> np.ndarray:
    """How conspicuous the values of a statistic are: 0 for a usual one, 1 at the threshold."""
    with np.errstate(all="ignore"):
        size = np.log10(np.maximum(values, 1e-30))
        if name == "update_ratio":
            return np.abs(size - math.log10(UPDATE)) / math.log10(DECADE)
        if name == "gradient_norm":
            distance = np.abs(size - np.nanmedian(size)) if np.isfinite(size).any() else size
            return distance / math.log10(GRADIENT_FACTOR)
        if name == "deviation":
            return np.abs(size) / math.log10(LARGE_DEVIATION)
        if name in ("dead", "saturated"):
            return values / DEAD
    return np.zeros_like(values)


def _is_bias(path: str) -> bool:
    return path.rsplit("/", 1)[-1] == "bias"


def _latest(series: LayerSeries) -> np.ndarray:
    """Each layer's value in the last row."""
    return series.values[:, -1] if series.paths else np.empty(0)


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else math.nan
