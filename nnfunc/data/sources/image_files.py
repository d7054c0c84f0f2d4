"""Image files as uint8 pixels, all of one size."""

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

WHERE = "data.images"
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")  # Pillow opens some others by external programs
WHITES = (1.0, 255.0, 65535.0)  # the possible values of white in images of floats
LARGE = 1 << 22  # pixels above which images are decoded one at a time


def open_pillow() -> Any:
    """The modules Image and ImageOps of Pillow. Raises: ModuleNotFoundError when it is not installed."""
    check.package(WHERE, "PIL", "nnfunc[data]")
    from PIL import Image, ImageOps

    return Image, ImageOps


@dataclass
class ImageReader:
    """Reads images as uint8, all of one size; images of floats all have the same value of white.

    size: (height, width) to scale them to, or None.
    channels: 1 or 3.
    first: the file that set the shape, for messages.
    shape: of all images, by default that of the first one.
    white: the value of white in images of floats, by default the least of 1, 255 and 65535 that no pixel of the
        first call of `read` exceeds.
    stretch, crop, interpolation: as for `nf.data.images`.
    pillow: the modules Image and ImageOps.
    """

    size: tuple[int, ...] | None
    channels: int
    first: Path | None = None
    shape: tuple[int, ...] | None = None
    white: float | None = None
    stretch: bool = False
    crop: float | None = None
    interpolation: str = "bilinear"
    pillow: Any = field(default_factory=open_pillow)

    @staticmethod
    def of(preprocessing: Preprocessing) -> "ImageReader":
        """The reader of an earlier run. preprocessing: of that run."""
        facts = preprocessing.facts
        shape = tuple(facts["image"])
        first = Path("the run's images")
        return ImageReader(facts["size"], shape[2], first, shape, facts.get("white"), **facts.get("resize", {}))

    @property
    def facts(self) -> dict[str, Any]:
        """What `of` reads again from `Preprocessing.facts`, beside the shape of the images."""
        resize = {"stretch": self.stretch, "crop": self.crop, "interpolation": self.interpolation}
        return {"size": None if self.size is None else list(self.size), "white": self.white, "resize": resize}

    def read(self, files: list[Path]) -> np.ndarray:
        """The images of `files`: uint8 [n, height, width, channels]. Raises: ValueError, MemoryError, OSError."""
        whites = (self.white,) if self.white else WHITES
        x, white = self._read(files, whites)
        if white > min(whites):  # darker images were read with a smaller value of white
            x = np.empty(0)
            x, _ = self._read(files, (white,))
        self.white = self.white or white or None
        return x

    def _read(self, files: list[Path], whites: tuple[float, ...]) -> tuple[np.ndarray, float]:
        """(the pixels, the largest value of white that an image needs); 0 if no image has floats."""
        x, largest = np.empty(0), 0.0
        with warnings.catch_warnings(), ThreadPoolExecutor(8) as pool:
            warnings.simplefilter("ignore")
            try:
                results = pool.map(lambda file: self._pixels(file, whites), files)
                for i, (file, result) in enumerate(zip(files, results, strict=True)):
                    result = result or self._pixels(file, whites, alone=True)
                    assert result is not None  # alone
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
            actual, expected = (f"{height} x {width}" for height, width, _ in (shape, self.shape))
            expected = f"{file} should be {expected} (height x width), as {self.first}"
            hint = f"Set size = [{self.shape[0]}, {self.shape[1]}] to scale all images."
            check.fail(WHERE, expected=expected, actual=actual, hint=hint)

    def _pixels(self, file: Path, whites: tuple[float, ...], alone: bool = False) -> tuple[np.ndarray, float] | None:
        """([height, width, channels], the value of white that it needs).

        alone: whether no other image is decoded at the same time; otherwise None for a large image.
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
            fail_damaged(WHERE, file, f"it should be one of {', '.join(FORMATS)}", "Save it as one of them.")
        except Exception as error:  # a damaged image can raise any exception
            fail_unreadable(WHERE, file, "it cannot be read as an image", error)

    def _decoded(self, file: Path, image: Any, whites: tuple[float, ...]) -> tuple[np.ndarray, float]:
        (module, operations), white = self.pillow, 0.0
        operations.exif_transpose(image, in_place=True)
        if image.mode == "F":
            levels, white = _float_levels(file, np.asarray(image), whites)
            image = module.fromarray(levels)
        elif image.mode.startswith("I"):
            has_tags = image.mode == "I" and image.format == "TIFF"
            dtype = _integer_dtype(image.tag_v2) if has_tags else np.dtype(np.uint16)
            image = module.fromarray(_levels(file, np.asarray(image), dtype))
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            image = module.alpha_composite(module.new("RGBA", image.size, "white"), image)
        mode = "L" if self.channels == 1 else "RGB"
        image = image if image.mode == mode else image.convert(mode)
        if self.size is not None:
            image = self._resized(image, (self.size[1], self.size[0]))
        return np.array(image, np.uint8).reshape(image.height, image.width, self.channels), white

    def _resized(self, image: Any, size: tuple[int, int]) -> Any:
        """The image scaled and cropped to (width, height)."""
        module, operations = self.pillow
        method = module.Resampling[self.interpolation.upper()]
        if self.crop is None:
            return image.resize(size, method) if self.stretch else operations.fit(image, size, method)
        large = [int(side / self.crop + 1e-6) for side in size]
        if not self.stretch:  # as Resize and CenterCrop of torchvision round
            short, factor = (0, large[0]) if image.width * large[1] <= image.height * large[0] else (1, large[1])
            large = [int(side * factor / image.size[short]) for side in image.size]
        x, y = (round((long - side) / 2) for long, side in zip(large, size, strict=True))
        return image.resize(large, method).crop((x, y, x + size[0], y + size[1]))


def _float_levels(file: Path, values: np.ndarray, whites: tuple[float, ...]) -> tuple[np.ndarray, float]:
    """(uint8 levels of floats, the least of the values of white that no level exceeds)."""
    low, high = float(values.min()), float(values.max())
    white = next((white for white in whites if high <= white), None)
    if white is None or not low >= 0:
        expected = " or ".join(f"[0, {white:g}]" for white in whites)
        others = ", as in the other images" if len(whites) == 1 else ""
        problem = f"its floats should be in {expected}{others}, got {low:g} to {high:g}"
        fail_damaged(WHERE, file, problem, "Save it with 8 or 16 bits.")
    return np.rint(values * np.float32(255 / white)).astype(np.uint8), white


def _integer_dtype(tags: Any) -> np.dtype:
    """The dtype of the gray levels of a TIFF file, by its tags BitsPerSample and SampleFormat."""
    bits, signed = tags.get(258, (32,))[0], tags.get(339, (1,))[0] == 2
    return np.dtype(f"{'i' if signed else 'u'}{max(2, bits // 8)}")


def _levels(file: Path, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """uint8 levels of integers by their upper 8 bits, as Pillow does with colors; below 0 is black.

    An image of 32 bits of which all levels would become the same is refused.
    """
    largest = int(np.iinfo(dtype).max)
    values = values.astype(dtype, copy=False) if dtype == np.uint32 else values
    shift = largest.bit_length() - 8
    levels = (np.clip(values, 0, None) >> shift).astype(np.uint8)
    if dtype.itemsize > 2 and levels.min() == levels.max() and values.min() != values.max():
        problem = f"its gray levels should use the range of {dtype}, up to {largest}"
        problem += f", got only {values.min()} to {values.max()}"
        fail_damaged(WHERE, file, problem, "Save it with 8 or 16 bits, scaled to their range.")
    return levels
