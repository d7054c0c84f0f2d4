"""Windows over one long row of tokens, to predict the next token."""

import numpy as np

__all__ = ["Windows"]


class Windows:
    """The windows of an array of tokens that lie end to end, each from the other's last token on."""

    def __init__(self, tokens: np.ndarray, window: int):
        self.tokens, self.window = tokens, window

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // (self.window - 1)

    def rows(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """[n, window]: a copy of some of them."""
        step = self.window - 1
        stop = len(self) if stop is None else min(stop, len(self))
        part = np.asarray(self.tokens[start * step : stop * step + 1])
        return np.lib.stride_tricks.sliding_window_view(part, self.window)[::step].copy()
