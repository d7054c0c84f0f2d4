"""Small images whose pixels are values, without text: the labels are HTML, legible at any size."""

import base64
import io

import numpy as np


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


def fading_palette(red: int, green: int, blue: int) -> np.ndarray:
    """16 shades from transparent to the colour (red, green, blue), for light and dark backgrounds."""
    alpha = np.linspace(0, 255, 16)
    return np.stack([np.full(16, red), np.full(16, green), np.full(16, blue), alpha], axis=1)
