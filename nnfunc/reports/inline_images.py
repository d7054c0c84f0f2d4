"""Small pictures whose pixels are values. The words beside them are HTML: legible at any size."""

import base64
import io

import numpy as np

__all__ = ["build_palette", "fading_palette", "palette_indices", "png_url", "spaced_indices"]


def png_url(png: bytes) -> str:
    """A picture as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def palette_png_url(places: np.ndarray, palette: np.ndarray) -> str:
    """The address of a picture whose pixels are places [height, width] in a palette [colours, 4]."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(places, np.uint8))
    image.putpalette(palette[:, :3].astype(np.uint8).tobytes(), "RGB")
    file = io.BytesIO()
    alpha, bits = palette[:, 3].astype(np.uint8).tobytes(), 4 if len(palette) <= 16 else 8
    image.save(file, "png", transparency=alpha, bits=bits, optimize=True)
    return png_url(file.getvalue())


def build_palette(name: str, count: int = 63) -> np.ndarray:
    """A palette of matplotlib [1 + count, 4]; its first colour is clear, for what is not known."""
    import matplotlib

    table = 255 * matplotlib.colormaps[name](np.linspace(0, 1, count))
    return np.concatenate([np.zeros((1, 4)), table])


def fading_palette(red: int, green: int, blue: int) -> np.ndarray:
    """A palette of 16 from nothing to one colour, which is right on light and dark ground."""
    alpha = np.linspace(0, 255, 16)
    return np.stack([np.full(16, red), np.full(16, green), np.full(16, blue), alpha], axis=1)


def palette_indices(values: np.ndarray, low: float, high: float, *, log: bool, count: int = 63) -> np.ndarray:
    """Places in a palette of `colours`: 0 where a value is not known, ends for what is beyond them.

    log: values at or below zero are beyond the low end.
    """
    with np.errstate(all="ignore"):
        if log:
            values = np.log(np.where(values > 0, values, np.where(values <= 0, low, np.nan)))
            low, high = np.log(low), np.log(high)
        share = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
        return np.where(np.isfinite(share), 1 + np.round(share * (count - 1)), 0).astype(np.uint8)


def spaced_indices(length: int, most: int) -> np.ndarray:
    """Which of `length` columns are shown where there is room for `most`: even, with both ends."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(int))
