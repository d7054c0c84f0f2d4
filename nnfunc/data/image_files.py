"""Image files as pixels, and how a folder holds them by split and class."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc import check
from nnfunc.data.files import damaged

__all__ = ["PARTS", "list_images", "open_pillow", "read_images"]

WHERE = "data.images"
ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
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
    """{split: {class: files}}; only "train" where there are no folders for splits."""
    if not root.is_dir():
        check.fail(WHERE, f"{root} should be a folder, with a folder for each class.")
    inside = {folder.name: folder for folder in _folders(root)}
    found = {}
    for part, words in PARTS.items():
        own = next((inside[word] for word in words if word in inside), None)
        if own is not None:
            found[part] = _classes(own)
    return found if "train" in found else {"train": _classes(root)}


def _classes(folder: Path) -> dict[str, list[Path]]:
    found = {}
    for inner in _folders(folder):
        files = sorted(p for p in inner.rglob("*") if p.suffix.lower() in ENDINGS)
        found[inner.name] = [p for p in files if p.is_file() and not p.name.startswith(".")]
        if not found[inner.name]:
            problem = f"{inner} should hold the images of a class, but holds none that end in"
            check.fail(WHERE, f"{problem} {', '.join(sorted(ENDINGS))}.")
    if not found:
        wanted = "with a folder for each class: cat/1.png, dog/1.png"
        check.fail(WHERE, f"{folder} should be a folder {wanted}, but has no folders.")
    return found


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


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
    try:
        with module.open(file) as image:
            image = operations.exif_transpose(image).convert("L" if channels == 1 else "RGB")
            if size is not None:
                image = operations.fit(image, (size[1], size[0]), module.Resampling.BILINEAR)
            return np.asarray(image, np.uint8).reshape(image.height, image.width, channels)
    except Exception as error:  # a damaged image fails in any way at all
        words = " ".join(str(error).split())
        damaged(WHERE, file, f"it cannot be read as an image ({type(error).__name__}: {words})")
