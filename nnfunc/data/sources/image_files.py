"""Image files as pixels of 8 bits, all of one size."""

import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc import check
from nnfunc.data.download import fail_damaged, fail_unreadable, file_size
from nnfunc.data.preprocessing import Preprocessing

__all__ = ["ImageReader", "open_pillow"]

WHERE = "data.images"
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")  # others start programs, or are old
WHITES = (1.0, 255.0, 65535.0)  # what white may be in images of floats
LARGE = 1 << 22  # pixels from which on images are decoded one at a time


def open_pillow() -> Any:
    """The modules Image and ImageOps. Raises: ModuleNotFoundError."""
    check.package(WHERE, "PIL", "nnfunc[data]")
    from PIL import Image, ImageOps

    return Image, ImageOps


@dataclass
class ImageReader:
    """Reads images as uint8, all of one size and, where they hold floats, by one scale.

    size: (height, width) to scale them to, or None. channels: 1 or 3. shape: that of all images, by
    default of the first one, which `first` names. white: what counts as white in images of floats, by
    default the least of 1, 255 and 65535 that all of the first ones `read` stay below.
    """

    size: tuple[int, ...] | None
    channels: int
    first: Path | None = None
    shape: tuple[int, ...] | None = None
    white: float | None = None
    pillow: Any = field(default_factory=open_pillow)

    @staticmethod
    def of(preprocessing: Preprocessing) -> "ImageReader":
        """What reads images as an earlier run did."""
        facts = preprocessing.facts
        shape = tuple(facts["image"])
        first = Path("the run's images")
        return ImageReader(facts["size"], shape[2], first, shape, facts.get("white"))

    def read(self, files: list[Path]) -> np.ndarray:
        """[n, height, width, channels] uint8. Raises: ValueError, MemoryError, OSError."""
        whites = (self.white,) if self.white else WHITES
        x, largest = self._read(files, whites)
        if largest > min(whites):  # by the scale of all of them, which the darker ones do not tell
            x = np.empty(0)
            x, _ = self._read(files, (largest,))
        self.white = self.white or largest or None
        return x

    def _read(self, files: list[Path], whites: tuple[float, ...]) -> tuple[np.ndarray, float]:
        """The pixels, and the largest white that an image needs; 0 without images of floats."""
        x, largest = np.empty(0), 0.0
        with warnings.catch_warnings(), ThreadPoolExecutor(8) as pool:
            warnings.simplefilter("ignore")
            try:
                results = pool.map(lambda file: self._pixels(file, whites), files)
                for i, (file, result) in enumerate(zip(files, results, strict=True)):
                    result = result or self._pixels(file, whites, alone=True)
                    assert result is not None
                    array, white = result
                    self._check_shape(file, array.shape)
                    x = x if i else np.empty((len(files), *array.shape), np.uint8)
                    x[i], largest = array, max(largest, white)
            finally:
                pool.shutdown(cancel_futures=True)
        return x, largest

    def _check_shape(self, file: Path, shape: tuple[int, ...]) -> None:
        self.first, self.shape = self.first or file, self.shape or shape
        if shape != self.shape:
            sides = [f"{height} x {width}" for height, width, _ in (shape, self.shape)]
            problem = f"{file} is {sides[0]}, but {self.first} {sides[1]} (height x width)"
            hint = f"Give size = [{self.shape[0]}, {self.shape[1]}] to scale all images."
            check.fail(WHERE, f"{problem}.", hint=hint)

    def _pixels(self, file: Path, whites: tuple[float, ...], alone: bool = False) -> tuple[np.ndarray, float] | None:
        """[height, width, channels], and the white it needs. alone: whether nothing else is decoded.

        None for an image that is too large to be decoded beside others.
        """
        module = self.pillow[0]
        file_size(WHERE, file)
        try:
            with module.open(file, formats=FORMATS) as image:
                pixels = image.width * image.height
                if pixels > (module.MAX_IMAGE_PIXELS or math.inf):
                    raise module.DecompressionBombError
                if alone or pixels <= LARGE:
                    return self._decoded(file, image, whites)
        except module.DecompressionBombError:
            problem = f"it has more than {module.MAX_IMAGE_PIXELS:,} pixels"
            fail_damaged(WHERE, file, problem, "Make it smaller, or set PIL.Image.MAX_IMAGE_PIXELS.")
        except module.UnidentifiedImageError:
            fail_damaged(WHERE, file, f"it is none of {', '.join(FORMATS)}", "Save it as one of them.")
        except Exception as error:  # a damaged image fails in any way at all
            fail_unreadable(WHERE, file, "it cannot be read as an image", error)

    def _decoded(self, file: Path, image: Any, whites: tuple[float, ...]) -> tuple[np.ndarray, float]:
        (module, operations), white = self.pillow, 0.0
        operations.exif_transpose(image, in_place=True)
        if image.mode == "F":
            levels, white = _float_levels(file, np.asarray(image), whites)
            image = module.fromarray(levels)
        elif image.mode.startswith("I"):
            long = image.mode == "I" and image.format == "TIFF"
            dtype = _integer_type(image.tag_v2) if long else np.dtype(np.uint16)
            image = module.fromarray(_levels(file, np.asarray(image), dtype))
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            paper = module.new("RGBA", image.size, "white")
            image = module.alpha_composite(paper, image)
        mode = "L" if self.channels == 1 else "RGB"
        image = image if image.mode == mode else image.convert(mode)
        if self.size is not None:
            size = self.size[1], self.size[0]
            image = operations.fit(image, size, module.Resampling.BILINEAR)
        return np.array(image, np.uint8).reshape(image.height, image.width, self.channels), white


def _float_levels(file: Path, values: np.ndarray, whites: tuple[float, ...]) -> tuple[np.ndarray, float]:
    """uint8 levels of floats, and the least of the whites that none of them is above."""
    least, most = float(values.min()), float(values.max())
    white = next((white for white in whites if most <= white), None)
    if white is None or not least >= 0:
        expected = " or ".join(f"[0, {white:g}]" for white in whites)
        others = ", as in the images before" if len(whites) == 1 else ""
        problem = f"its floats should be in {expected}{others}, got {least:g} to {most:g}"
        fail_damaged(WHERE, file, problem, "Save it with 8 or 16 bits.")
    return np.rint(values * np.float32(255 / white)).astype(np.uint8), white


def _integer_type(tags: Any) -> np.dtype:
    """The type of the grey levels of a TIFF file, by its tags BitsPerSample and SampleFormat."""
    bits, signed = tags.get(258, (32,))[0], tags.get(339, (1,))[0] == 2
    return np.dtype(f"{'i' if signed else 'u'}{max(2, bits // 8)}")


def _levels(file: Path, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """uint8 levels of integers by their upper 8 bits, as Pillow does with colours; below 0 is black.

    What has 32 bits and would lose all of its levels is refused.
    """
    largest = int(np.iinfo(dtype).max)
    values = values.astype(dtype, copy=False) if dtype == np.uint32 else values
    shift = largest.bit_length() - 8
    levels = (np.clip(values, 0, None) >> shift).astype(np.uint8)
    if dtype.itemsize > 2 and levels.min() == levels.max() and values.min() != values.max():
        problem = f"its grey levels, {values.min()} to {values.max()}, are all one of 256"
        problem += f" on the scale of {dtype}, where white is {largest}"
        fail_damaged(WHERE, file, problem, "Save it with 8 or 16 bits, scaled to their range.")
    return levels
