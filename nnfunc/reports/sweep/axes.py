"""Axes of plots for hyperparameters and scores: linear, logarithmic, or of evenly spaced labels."""

import functools
import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from nnfunc.sweeps.grouping import static_key

FEW = 8  # at most so many distinct numbers are treated one by one
DECADES = 2  # positive values that span more get a logarithmic axis


class Axis(NamedTuple):
    """The axis of a hyperparameter or a score, with the positions of its values.

    name: of the hyperparameter or the score.
    scale: "linear"; "log", where positions are log10 of the values; "levels", numbers that are evenly spaced;
        "categories", which have no order.
    positions: [trials], NaN where a score is missing.
    ticks, labels: positions and their text.
    low, high: the ends, low < high.
    """

    name: str
    scale: str
    positions: np.ndarray
    ticks: list[float]
    labels: list[str]
    low: float
    high: float

    @property
    def is_discrete(self) -> bool:
        """Whether every distinct value has its own tick."""
        return self.scale in ("levels", "categories")

    @property
    def fractions(self) -> np.ndarray:
        """[trials] in [0, 1]: the positions between the ends; those beyond an end are at it."""
        return np.clip((self.positions - self.low) / (self.high - self.low), 0, 1)

    @property
    def groups(self) -> np.ndarray:
        """The distinct positions if they are few, else none."""
        distinct = np.unique(self.positions[np.isfinite(self.positions)])
        return distinct if self.is_discrete or len(distinct) <= FEW else distinct[:0]


def build_axis(name: str, values: Sequence[Any], *, log: bool = False) -> Axis:
    """The axis of a hyperparameter's values.

    name: its title.
    values: one for each trial.
    log: whether their space is logarithmic. Finite numbers get a linear axis; a logarithmic one if their space is,
        or if they are positive, span more than two decades and crowd at the low end; levels if they are few and
        unevenly spaced. All other values are categories.

    >>> build_axis("lr", [1e-4, 1e-2, 1e-1]).positions, build_axis("act", ["relu", "tanh", "relu"]).labels
    (array([-4., -2., -1.]), ['relu', 'tanh'])
    >>> build_axis("width", [64, 32, 512, 128]).labels
    ['32', '64', '128', '512']
    """
    numbers = [_as_number(value) for value in values]
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        return _category_axis(name, values)
    positions = np.asarray(known, np.float64)
    distinct = np.unique(positions)
    if distinct[0] > 0 and (log or (_spans_decades(positions) and 5 * np.median(distinct) < distinct[-1])):
        return _number_axis(name, "log", np.log10(positions))
    if 2 < len(distinct) <= FEW and all(map(_is_round, distinct.tolist())):
        gaps = np.diff(distinct)
        if gaps.max() > 2.5 * gaps.min():
            levels = np.searchsorted(distinct, positions).astype(np.float64)
            return _discrete_axis(name, "levels", levels, [format_value(value, digits=4) for value in distinct])
    return _number_axis(name, "linear", positions)


def build_score_axis(name: str, values: np.ndarray, mode: str) -> Axis:
    """The axis of scores.

    name: its title.
    values: [trials], NaN where a score is missing.
    mode: "min" or "max", the better end. At the worse end it stops before a few far scores that would take up most
        of it.

    >>> build_score_axis("loss", np.asarray([1.0, np.nan, 2.0]), "min").fractions
    array([ 0., nan,  1.])
    """
    positions = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    known = positions[np.isfinite(positions)]
    if not len(known):
        return Axis(name, "linear", positions, [], [], 0.0, 1.0)
    logarithm = mode == "min" and _spans_decades(known)
    scaled = _number_axis(name, "log" if logarithm else "linear", np.log10(positions) if logarithm else positions)
    low, high = axis_limits(scaled.positions[np.isfinite(positions)], mode)
    return _number_axis(name, scaled.scale, scaled.positions, low, high)


def axis_limits(known: np.ndarray, mode: str) -> tuple[float, float]:
    """The ends of an axis for finite numbers. A few far ones at the worse end do not count.

    known: the numbers.
    mode: "min" or "max", the better end.

    >>> axis_limits(np.asarray([*range(20), 1000.0]), "min"), axis_limits(np.arange(20.0), "min")
    ((0.0, 27.0), (0.0, 19.0))
    """
    low, high = float(known.min()), float(known.max())
    best, worst = (low, high) if mode == "min" else (high, low)
    usual = float(np.quantile(known, 0.9 if mode == "min" else 0.1))
    if len(known) >= 10 and abs(worst - best) > 5 * abs(usual - best) > 0:
        end = best + 1.5 * (usual - best)
        return (low, end) if mode == "min" else (end, high)
    return low, high


def build_axes(hypers: Sequence[dict[str, Any]], log: Collection[str] = ()) -> list[Axis]:
    """The axes of the names whose values differ, in their order.

    hypers: one dict for each trial.
    log: the names whose space is logarithmic.

    >>> [axis.name for axis in build_axes([{"lr": 0.1, "depth": 2}, {"lr": 0.2, "depth": 2}])]
    ['lr']
    """
    names = list(dict.fromkeys(name for trial in hypers for name in trial))
    columns = {name: [trial.get(name) for trial in hypers] for name in names}
    columns = {name: values for name, values in columns.items() if len({*map(_identity, values)}) > 1}
    return [build_axis(name, values, log=name in log) for name, values in columns.items()]


def format_value(value: Any, limit: int = 40, digits: int = 6) -> str:
    """A value as text of at most `limit` characters; floats have `digits` digits.

    value: of any type; an integer below a million has all its digits, a function its name.

    >>> format_value(0.00012345678), format_value(jax.nn.relu), format_value((2, 3)), format_value(None)
    ('0.000123457', 'relu', '(2, 3)', 'None')
    """
    number = _as_number(value)
    if number is not None:
        return str(int(number)) if number == int(number) and abs(number) < 1e6 else short_number(number, digits)
    if hasattr(value, "shape"):
        value = np.asarray(value).tolist()
    if isinstance(value, functools.partial):
        value = value.func
    text = " ".join(str(getattr(value, "__name__", None) or value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def short_number(value: float, digits: int) -> str:
    """The value with so many digits, and with a short exponent.

    >>> short_number(1e-5, 3), short_number(2500.0, 3), short_number(0.25, 3)
    ('1e-5', '2.5e3', '0.25')
    """
    return f"{value:.{digits}g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def _spans_decades(values: np.ndarray) -> bool:
    return bool(values.min() > 0 and values.max() > 10**DECADES * values.min())


def _is_round(value: float) -> bool:
    """Whether a person chose the value: a random one has more digits."""
    return value == int(value) or float(f"{value:.3g}") == value


def _number_axis(
    name: str, scale: str, positions: np.ndarray, low: float | None = None, high: float | None = None
) -> Axis:
    """An axis of numbers, with ticks at the values if they are few, else at round numbers."""
    known = positions[np.isfinite(positions)]
    low = float(known.min()) if low is None else low
    high = float(known.max()) if high is None else high
    if not high - low > 1e-9 * max(abs(high), abs(low), 1e-300):
        pad = 0.1 * abs(low) if scale == "linear" and low else 0.5
        low, high = low - pad, high + pad
    distinct = np.unique(known)
    are_few = len(distinct) < 7 and distinct[0] >= low and distinct[-1] <= high
    if are_few and (len(distinct) < 2 or np.diff(distinct).min() >= (high - low) / 10):
        values = 10**distinct if scale == "log" else distinct
        return Axis(name, scale, positions, distinct.tolist(), [format_value(v, digits=4) for v in values], low, high)
    ticks, labels = _decade_ticks(low, high) if scale == "log" else _round_ticks(low, high)
    return Axis(name, scale, positions, ticks, labels, low, high)


def _decade_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    first, last = math.ceil(low - 1e-9), math.floor(high + 1e-9)
    if last - first < 1:  # the limits leave less than two powers of ten
        ticks = np.linspace(low, high, 3).tolist()
        return ticks, [short_number(10**tick, 2) for tick in ticks]
    powers = range(first, last + 1, max(1, math.ceil((last - first) / 5)))
    labels = [f"{10.0**power:g}" if -3 <= power <= 3 else f"1e{power}" for power in powers]
    return [float(power) for power in powers], labels


def _round_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    tolerance = 1e-9 * (high - low)
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if (high - low) / (power * factor) <= 5 + 1e-9)
    first, last = math.ceil((low - tolerance) / step), math.floor((high + tolerance) / step)
    ticks = [step * i for i in range(first, last + 1)]
    largest = max(map(abs, ticks), default=1.0) or 1.0
    digits = max(1, math.floor(math.log10(largest)) - math.floor(math.log10(step)) + 1)
    return ticks, [short_number(tick if abs(tick) > tolerance else 0.0, max(digits, 4)) for tick in ticks]


def _category_axis(name: str, values: Sequence[Any]) -> Axis:
    """Numbers first, then the other values by their text; values with the same text are numbered."""
    identities = [_identity(value) for value in values]
    distinct = dict(zip(identities, values, strict=True))
    order = sorted(distinct, key=lambda identity: (_sort_key(distinct[identity]), format_value(distinct[identity])))
    labels: list[str] = []
    for identity in order:
        text = format_value(distinct[identity])
        count = sum(label == text or label.startswith(f"{text} (") for label in labels)
        labels.append(f"{text} ({count + 1})" if count else text)
    position = {identity: i for i, identity in enumerate(order)}
    positions = np.asarray([position[identity] for identity in identities], np.float64)
    return _discrete_axis(name, "categories", positions, labels)


def _discrete_axis(name: str, scale: str, positions: np.ndarray, labels: list[str]) -> Axis:
    last = len(labels) - 1
    low, high = (0.0, float(last)) if last else (-0.5, 0.5)
    return Axis(name, scale, positions, [float(i) for i in range(len(labels))], labels, low, high)


def _sort_key(value: Any) -> float:
    """The value of a number, which may be infinite; inf for everything else, so that it comes last."""
    plain = value.item() if getattr(value, "shape", None) == () else value
    is_number = isinstance(plain, int | float) and not isinstance(plain, bool) and plain == plain
    return float(plain) if is_number else math.inf


def _as_number(value: Any) -> float | None:
    """The value as a float if it is a finite number, else None."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _identity(value: Any) -> Any:
    """A hashable that is equal for equal values, for numbers of all types too."""
    number = _as_number(value)
    return static_key([value]) if number is None else number
