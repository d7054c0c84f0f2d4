"""A hyperparameter, or a score, as an axis to draw on: numbers, their logarithms, or named places."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Axis", "axis", "limits", "places_of", "score_axis", "short", "text"]

FEW = 8  # distinct numbers, at most, that are places of their own
DECADES = 2  # positive values that span more are drawn by their logarithm


class Axis(NamedTuple):
    """A name and where its values lie.

    kind: "linear"; "log", places are log10 of the values; "levels", numbers evenly spaced;
    "categories", which have no order. places: [n], not a number where a score is missing. ticks,
    labels: a place and its words. low, high: the ends, low < high.
    """

    name: str
    kind: str
    places: np.ndarray
    ticks: list[float]
    labels: list[str]
    low: float
    high: float

    @property
    def shares(self) -> np.ndarray:
        """[n] in [0, 1]: how far between the ends each value lies; what is beyond them is at them."""
        return np.clip((self.places - self.low) / (self.high - self.low), 0, 1)

    @property
    def groups(self) -> np.ndarray:
        """The distinct places, where they are few enough to speak of each; else none."""
        distinct = np.unique(self.places[np.isfinite(self.places)])
        few = self.kind in ("levels", "categories") or len(distinct) <= FEW
        return distinct if few else distinct[:0]


def axis(name: str, values: Sequence[Any]) -> Axis:
    """The axis of a hyperparameter's values.

    Finite numbers are drawn as they are, by their logarithm where they are positive, span more than two
    decades and crowd at the low end, and evenly spaced where they are few and far from even. All else
    is categories.

    >>> axis("lr", [1e-4, 1e-2, 1e-1]).places, axis("act", ["relu", "tanh", "relu"]).labels
    (array([-4., -2., -1.]), ['relu', 'tanh'])
    >>> axis("width", [64, 32, 512, 128]).labels
    ['32', '64', '128', '512']
    """
    numbers = [_number(value) for value in values]
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        return _categories(name, values)
    places = np.asarray(known, np.float64)
    distinct = np.unique(places)
    if _decades_apart(places) and 5 * np.median(distinct) < distinct[-1]:
        return _line(name, "log", np.log10(places))
    if 2 < len(distinct) <= FEW and all(map(_round_number, distinct.tolist())):
        gaps = np.diff(distinct)
        if gaps.max() > 2.5 * gaps.min():
            at = np.searchsorted(distinct, places).astype(np.float64)
            return _named(name, "levels", at, [text(value, digits=4) for value in distinct])
    return _line(name, "linear", places)


def score_axis(name: str, values: np.ndarray, mode: str) -> Axis:
    """The axis of scores [n], not a number where there is none. mode: "min" or "max" is best.

    Where a tenth of them would take up most of the axis, it ends before them, at the worse end.

    >>> score_axis("loss", np.asarray([1.0, np.nan, 2.0]), "min").shares
    array([ 0., nan,  1.])
    """
    places = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    known = places[np.isfinite(places)]
    if not len(known):
        return Axis(name, "linear", places, [], [], 0.0, 1.0)
    logarithm = mode == "min" and _decades_apart(known)
    made = _line(name, "log" if logarithm else "linear", np.log10(places) if logarithm else places)
    low, high = limits(made.places[np.isfinite(places)], mode)
    return _line(name, made.kind, made.places, low, high)


def limits(known: np.ndarray, mode: str) -> tuple[float, float]:
    """The ends of an axis for these numbers, where a few far ones at the worse end do not count.

    >>> limits(np.asarray([*range(20), 1000.0]), "min"), limits(np.arange(20.0), "min")
    ((0.0, 27.0), (0.0, 19.0))
    """
    low, high = float(known.min()), float(known.max())
    best, worst = (low, high) if mode == "min" else (high, low)
    usual = float(np.quantile(known, 0.9 if mode == "min" else 0.1))
    if len(known) >= 10 and abs(worst - best) > 5 * abs(usual - best) > 0:
        end = best + 1.5 * (usual - best)
        return (low, end) if mode == "min" else (end, high)
    return low, high


def places_of(hypers: Sequence[dict[str, Any]]) -> list[Axis]:
    """The axes of the names whose values differ, in their order; places [len(hypers)].

    >>> [one.name for one in places_of([{"lr": 0.1, "depth": 2}, {"lr": 0.2, "depth": 2}])]
    ['lr']
    """
    names = list(dict.fromkeys(name for own in hypers for name in own))
    columns = {name: [own.get(name) for own in hypers] for name in names}
    return [axis(n, c) for n, c in columns.items() if len({_mark(value) for value in c}) > 1]


def text(value: Any, most: int = 40, digits: int = 6) -> str:
    """A value in few words: a number with so many digits, whole ones below a million with all.

    >>> text(0.00012345678), text(jax.nn.relu), text((2, 3)), text(None)
    ('0.000123457', 'relu', '(2, 3)', 'None')
    """
    number = _number(value)
    if number is not None:
        return str(int(number)) if number == int(number) and abs(number) < 1e6 else short(number, digits)
    if hasattr(value, "shape"):
        value = np.asarray(value).tolist()
    if isinstance(value, functools.partial):
        value = value.func
    words = " ".join(str(getattr(value, "__name__", None) or value).split())
    return words if len(words) <= most else words[: most - 1] + "…"


def short(value: float, digits: int) -> str:
    """A number with so many digits, its exponent as short as it can be.

    >>> short(1e-5, 3), short(2500.0, 3), short(0.25, 3)
    ('1e-5', '2.5e3', '0.25')
    """
    words = f"{value:.{digits}g}"
    return words.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def _decades_apart(values: np.ndarray) -> bool:
    return bool(values.min() > 0 and values.max() > 10**DECADES * values.min())


def _round_number(value: float) -> bool:
    """Whether somebody chose it: one that was drawn has more digits."""
    return value == int(value) or float(f"{value:.3g}") == value


def _line(name: str, kind: str, places: np.ndarray, low: float | None = None, high: float | None = None) -> Axis:
    """An axis of numbers, with ticks at round ones, or at the values where they are few."""
    known = places[np.isfinite(places)]
    low = float(known.min()) if low is None else low
    high = float(known.max()) if high is None else high
    if not high - low > 1e-9 * max(abs(high), abs(low), 1e-300):
        pad = 0.1 * abs(low) if kind == "linear" and low else 0.5
        low, high = low - pad, high + pad
    distinct = np.unique(known)
    few = len(distinct) < 7 and distinct[0] >= low and distinct[-1] <= high
    if few and (len(distinct) < 2 or np.diff(distinct).min() >= (high - low) / 10):
        values = 10**distinct if kind == "log" else distinct
        return Axis(name, kind, places, distinct.tolist(), [text(v, digits=4) for v in values], low, high)
    ticks, labels = _decades(low, high) if kind == "log" else _round(low, high)
    return Axis(name, kind, places, ticks, labels, low, high)


def _decades(low: float, high: float) -> tuple[list[float], list[str]]:
    first, last = math.ceil(low - 1e-9), math.floor(high + 1e-9)
    if last - first < 1:  # less than two powers of ten: cut by a limit
        ticks = np.linspace(low, high, 3).tolist()
        return ticks, [short(10**tick, 2) for tick in ticks]
    every = range(first, last + 1, max(1, math.ceil((last - first) / 5)))
    labels = [f"{10.0**power:g}" if -3 <= power <= 3 else f"1e{power}" for power in every]
    return [float(power) for power in every], labels


def _round(low: float, high: float) -> tuple[list[float], list[str]]:
    from matplotlib.ticker import MaxNLocator

    wide = 1e-9 * (high - low)
    found = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
    ticks = [float(tick) for tick in found if low - wide <= tick <= high + wide]
    step = found[1] - found[0]
    most = max(map(abs, ticks), default=1.0) or 1.0
    digits = max(1, math.floor(math.log10(most)) - math.floor(math.log10(step)) + 1)
    return ticks, [short(tick if abs(tick) > wide else 0.0, max(digits, 4)) for tick in ticks]


def _categories(name: str, values: Sequence[Any]) -> Axis:
    """Numbers first, then the others by their words; those with the same words are numbered."""
    marks = [_mark(value) for value in values]
    distinct = dict(zip(marks, values, strict=True))
    numbers = {mark: _order(value) for mark, value in distinct.items()}
    order = sorted(distinct, key=lambda mark: (numbers[mark], text(distinct[mark])))
    labels: list[str] = []
    for mark in order:
        words = text(distinct[mark])
        again = sum(label == words or label.startswith(f"{words} (") for label in labels)
        labels.append(f"{words} ({again + 1})" if again else words)
    at = {mark: place for place, mark in enumerate(order)}
    return _named(name, "categories", np.asarray([at[mark] for mark in marks], np.float64), labels)


def _named(name: str, kind: str, places: np.ndarray, labels: list[str]) -> Axis:
    last = len(labels) - 1
    low, high = (0.0, float(last)) if last else (-0.5, 0.5)
    return Axis(name, kind, places, [float(i) for i in range(len(labels))], labels, low, high)


def _order(value: Any) -> float:
    """Where a value stands among others: infinity is a number here, words come last."""
    plain = value.item() if getattr(value, "shape", None) == () else value
    real = isinstance(plain, int | float) and not isinstance(plain, bool) and plain == plain
    return float(plain) if real else math.inf


def _number(value: Any) -> float | None:
    """The finite number that a value is, or None."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _mark(value: Any) -> Any:
    """What two values have in common when they are the same."""
    number = _number(value)
    if number is not None:
        return number
    if hasattr(value, "shape"):
        value = np.asarray(value).tolist()
    try:
        hash(value)
    except TypeError:
        return type(value), repr(value)
    return type(value), value
