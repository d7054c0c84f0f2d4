"""Small images whose pixels are values, without text: the labels are HTML, legible at any size."""

import base64
import io

import numpy as np

__all__ = ["build_palette", "fading_palette", "palette_indices", "palette_png_url", "png_url", "spaced_indices"]


def png_url(png: bytes) -> str:
    """A data URL that contains the bytes of a png."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def palette_png_url(indices: np.ndarray, palette: np.ndarray) -> str:
    """The data URL of an image of indices [height, width] into a palette [colours, 4]."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(indices, np.uint8))
    image.putpalette(palette[:, :3].astype(np.uint8).tobytes(), "RGB")
    file = io.BytesIO()
    alpha, bits = palette[:, 3].astype(np.uint8).tobytes(), 4 if len(palette) <= 16 else 8
    image.save(file, "png", transparency=alpha, bits=bits, optimize=True)
    return png_url(file.getvalue())


def build_palette(name: str, count: int = 63) -> np.ndarray:
    """A palette [1 + count, 4] of the matplotlib colour map `name`; colour 0 is transparent, for missing values."""
    import matplotlib

    table = 255 * matplotlib.colormaps[name](np.linspace(0, 1, count))
    return np.concatenate([np.zeros((1, 4)), table])


def fading_palette(red: int, green: int, blue: int) -> np.ndarray:
    """16 shades from transparent to the colour (red, green, blue), for light and dark backgrounds."""
    alpha = np.linspace(0, 255, 16)
    return np.stack([np.full(16, red), np.full(16, green), np.full(16, blue), alpha], axis=1)


def palette_indices(values: np.ndarray, low: float, high: float, *, log: bool, count: int = 63) -> np.ndarray:
    """Indices into a `build_palette` of values from low to high: 0 where a value is missing.

    Values outside the range get the colours of its ends. log: on a logarithmic scale, where values at or
    below zero get the colour of low. count: the colours of the palette.
    """
    with np.errstate(all="ignore"):
        if log:
            values = np.log(np.where(values > 0, values, np.where(values <= 0, low, np.nan)))
            low, high = np.log(low), np.log(high)
        fraction = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
        return np.where(np.isfinite(fraction), 1 + np.round(fraction * (count - 1)), 0).astype(np.uint8)


def spaced_indices(length: int, limit: int) -> np.ndarray:
    """At most `limit` evenly spaced indices of an axis of this length, both ends among them."""
    return np.unique(np.linspace(0, length - 1, min(length, limit)).round().astype(int))
