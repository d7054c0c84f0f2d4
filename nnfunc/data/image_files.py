"""Image files as pixels, and how a folder holds them by split and class."""

import math
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from nnfunc import check
from nnfunc.data.files import damaged, regular

__all__ = ["PARTS", "images_below", "list_images", "open_pillow", "read_images"]

WHERE = "data.images"
ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")  # others start programs, or are old
PARTS = {"train": ("train", "training"), "validation": ("validation", "val", "valid"),
         "test": ("test", "testing")}  # fmt: skip


def open_pillow() -> Any:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        cure = 'Install it: pip install "nnfunc[data]".'
        problem = f"pillow, which reads images, is not installed. {cure}"
        check.fail(WHERE, problem, kind=ModuleNotFoundError)
    return Image, ImageOps


def list_images(root: Path) -> dict[str, dict[str, list[Path]]]:
    """{split: {class: files}}; only "train" where there are no folders for splits.

    A folder of a split may be written in any case. Hidden files and folders are passed over.
    """
    if not root.is_dir():
        check.fail(WHERE, f"{root} should be a folder, with a folder for each class.")
    inside = _folders(root)
    parts = {part: [f for f in inside if f.name.lower() in words] for part, words in PARTS.items()}
    others = [folder for folder in inside if not any(folder in found for found in parts.values())]
    if not parts["train"]:
        if inside and not others:
            names = ", ".join(f"{folder.name}/" for folder in inside)
            check.fail(WHERE, f"{root} has {names}, but no train/ to learn from.")
        return {"train": _classes(root)}
    for part, found in parts.items():
        if len(found) > 1:
            names = " and ".join(f"{folder.name}/" for folder in found)
            check.fail(WHERE, f"{root} has {names}, both of them for {part}. Leave one of them.")
    if others:
        names = ", ".join(f"{folder.name}/" for folder in others[:5])
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        problem = f"{WHERE}: {root} has {parts['train'][0].name}/, so it is read by splits"
        warnings.warn(f"{problem}, and {names}{more} beside it left out.", stacklevel=3)
    return {part: _classes(found[0]) for part, found in parts.items() if found}


def _classes(folder: Path) -> dict[str, list[Path]]:
    found = {}
    for inner in _folders(folder):
        found[inner.name] = sorted(images_below(inner))
        if not found[inner.name]:
            problem = f"{inner} should hold the images of a class, but holds none that end in"
            check.fail(WHERE, f"{problem} {', '.join(sorted(ENDINGS))}.")
    if not found:
        wanted = "with a folder for each class: cat/1.png, dog/1.png"
        check.fail(WHERE, f"{folder} should be a folder {wanted}, but has no folders.")
    return found


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not _hidden(p.name))
    except OSError as error:
        _unreadable(error)


def images_below(folder: Path) -> Iterator[Path]:
    """The images of a folder and of those inside, each of them a file."""
    for base, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = [name for name in folders if not _hidden(name)]
        for name in names:
            file = Path(base, name)
            if file.suffix.lower() in ENDINGS and not _hidden(name):
                regular(WHERE, file)
                yield file


def _hidden(name: str) -> bool:
    """Whether a name is one that systems and programs put into folders of their own accord."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir", "$RECYCLE.BIN")


def _unreadable(error: OSError) -> NoReturn:
    check.fail(WHERE, f"{error.filename} cannot be read: {error.strerror}.", kind=OSError)


def read_images(
    pillow: Any, files: list[Path], size: tuple[int, ...] | None, channels: int,
    first: tuple[Path, tuple[int, ...]] | None,
) -> tuple[np.ndarray, tuple[Path, tuple[int, ...]]]:  # fmt: skip
    """[n, height, width, channels] uint8. first: the file that all others should be as large as."""

    def one(file: Path) -> np.ndarray:
        return _pixels(pillow, file, size, channels)

    with warnings.catch_warnings(), ThreadPoolExecutor(8) as pool:
        warnings.simplefilter("ignore")
        arrays = list(pool.map(one, files))
    first = first or (files[0], arrays[0].shape)
    for file, array in zip(files, arrays, strict=True):
        if array.shape != first[1]:
            sides = [f"{shape[0]} x {shape[1]}" for shape in (array.shape, first[1])]
            problem = f"{file} is {sides[0]}, but {first[0]} {sides[1]} (height x width)"
            cure = f"Give size = [{first[1][0]}, {first[1][1]}] to scale all images."
            check.fail(WHERE, f"{problem}. {cure}")
    return np.stack(arrays), first


def _pixels(pillow: Any, file: Path, size: tuple[int, ...] | None, channels: int) -> np.ndarray:
    module, operations = pillow
    regular(WHERE, file)
    try:
        with module.open(file, formats=FORMATS) as image:
            if image.width * image.height > (module.MAX_IMAGE_PIXELS or math.inf):
                raise module.DecompressionBombError
            form, image = image.format, operations.exif_transpose(image)
            if image.mode == "F" or image.mode.startswith("I"):
                image = module.fromarray(_eight_bits(file, image, form))
            elif image.has_transparency_data:
                image = image.convert("RGBA")
                paper = module.new("RGBA", image.size, "white")
                image = module.alpha_composite(paper, image)
            image = image.convert("L" if channels == 1 else "RGB")
            if size is not None:
                image = operations.fit(image, (size[1], size[0]), module.Resampling.BILINEAR)
            return np.asarray(image, np.uint8).reshape(image.height, image.width, channels)
    except module.DecompressionBombError:
        problem = f"it has more than {module.MAX_IMAGE_PIXELS:,} pixels"
        damaged(WHERE, file, problem, "Make it smaller, or set PIL.Image.MAX_IMAGE_PIXELS.")
    except module.UnidentifiedImageError:
        damaged(WHERE, file, f"it is none of {', '.join(FORMATS)}", "Save it as one of them.")
    except Exception as error:  # a damaged image fails in any way at all
        if check.is_mistake(error):
            raise
        words = " ".join(str(error).split())
        damaged(WHERE, file, f"it cannot be read as an image ({type(error).__name__}: {words})")


def _eight_bits(file: Path, image: Any, form: str) -> np.ndarray:
    """Grey levels of 16 bits by their upper 8, as Pillow does with colours, and floats by 255."""
    values, cure = np.asarray(image), "Save it with 8 or 16 bits."
    if image.mode == "F":
        if not (values.min() >= 0 and values.max() <= 1):
            problem = f"its floats should be in [0, 1], got {values.min():g} to {values.max():g}"
            damaged(WHERE, file, problem, cure)
        return np.rint(values * 255).astype(np.uint8)
    if image.mode == "I" and form not in ("PNG", "PPM"):
        damaged(WHERE, file, "its grey levels have 32 bits, and nothing says which is white", cure)
    return (values >> 8).astype(np.uint8)
