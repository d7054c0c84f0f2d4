"""Curves of block characters."""

import numpy as np

BLOCKS, ASCII_BLOCKS = " ▁▂▃▄▅▆▇█", " .:-=+*#@"


def sparkline(
    steps: np.ndarray, values: np.ndarray, *, width: int, last: int, height: int = 1, ascii_only: bool = False
) -> str:
    """A curve over the steps 0 to `last`, as `height` lines of `width` characters.

    The lowest value has the lowest block, never a blank. The scale is logarithmic where the largest value
    is over twenty times the smallest.
    steps, values: [n], values finite.
    width, height: in characters.
    last: the step at the right edge.
    ascii_only: use ASCII characters, in one line.

    >>> sparkline(np.array([1, 2, 3, 4]), np.array([0.0, 1.0, 2.0, 3.0]), width=4, last=4)
    '▁▃▆█'
    """
    height = 1 if ascii_only else height
    if not len(values) or width < 1:
        return "\n" * (height - 1)
    values = np.clip(values, -1e300, 1e300)
    if values.min() > 0 and values.max() > 20 * values.min():
        values = np.log(values)
    column = np.clip((steps - 1) * width // max(last, 1), 0, width - 1)
    total = np.bincount(column, values / len(values), minlength=width) * len(values)
    count = np.bincount(column, minlength=width)
    filled = np.flatnonzero(count)
    means = np.interp(np.arange(filled[0], filled[-1] + 1), filled, total[filled] / count[filled])
    low, high = means.min(), means.max()
    span = high / 2 - low / 2  # halves, because the difference may overflow
    is_flat = span <= 1e-6 * max(abs(low), abs(high))  # the values differ by rounding alone
    fraction = np.full(len(means), 0.5) if is_flat else (means / 2 - low / 2) / span
    level = 1 + np.round(fraction * (8 * height - 1)).astype(int)  # 1 to 8 * height
    blocks, margin = ASCII_BLOCKS if ascii_only else BLOCKS, " " * int(filled[0])
    return "\n".join(
        margin + "".join(blocks[n] for n in np.clip(level - 8 * line, 0, 8)) for line in reversed(range(height))
    )
