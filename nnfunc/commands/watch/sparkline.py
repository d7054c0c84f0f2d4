"""Curves of block characters."""

import numpy as np

__all__ = ["spark"]

BLOCKS, PLAIN = " ▁▂▃▄▅▆▇█", " .:-=+*#@"


def spark(steps: np.ndarray, values: np.ndarray, *, width: int, last: int, height: int = 1, plain: bool = False) -> str:
    """The curve of finite values over the steps 0 to `last`, as `height` lines of `width` characters.

    The lowest value has the lowest block, never none; where values span a factor of twenty, the scale
    is logarithmic. plain: with ASCII alone, in one line.

    >>> spark(np.array([1, 2, 3, 4]), np.array([0.0, 1.0, 2.0, 3.0]), width=4, last=4)
    '▁▃▆█'
    """
    height = 1 if plain else height
    lines = [""] * height
    if not len(values) or width < 1:
        return "\n".join(lines)
    values = np.clip(values, -1e300, 1e300)
    if values.min() > 0 and values.max() > 20 * values.min():
        values = np.log(values)
    column = np.clip((steps - 1) * width // max(last, 1), 0, width - 1)
    total = np.bincount(column, values / len(values), minlength=width) * len(values)
    count = np.bincount(column, minlength=width)
    known = np.flatnonzero(count)
    means = np.interp(np.arange(known[0], known[-1] + 1), known, total[known] / count[known])
    low, high = means.min(), means.max()
    span = high / 2 - low / 2
    flat = span <= 1e-6 * max(abs(low), abs(high))  # nothing but rounding
    share = np.full(len(means), 0.5) if flat else (means / 2 - low / 2) / span
    level = 1 + np.round(share * (8 * height - 1)).astype(int)  # 1 to 8 * height
    for line in range(height):
        below = 8 * (height - 1 - line)
        text = "".join((PLAIN if plain else BLOCKS)[n] for n in np.clip(level - below, 0, 8))
        lines[line] = " " * int(known[0]) + text
    return "\n".join(lines)
