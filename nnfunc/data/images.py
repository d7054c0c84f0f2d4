"""Folders of images, a folder for each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nnfunc import check
from nnfunc.data.files import given
from nnfunc.data.image_files import PARTS, list_images, open_pillow, read_images
from nnfunc.data.pixels import image_splits
from nnfunc.data.splits import Splits, cut

__all__ = ["images"]

WHERE = "data.images"


def images(
    path: str | Path,
    *,
    size: int | Sequence[int] | None = None,
    channels: int = 3,
    layout: Literal["image", "flat", "rows"] = "image",
    validation: float = 0.1,
    test: float = 0.1,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    shift: int = 0,
    flip: bool = False,
) -> Splits:
    """A folder with a folder for each class: `path/cat/1.png`, or `path/train/cat/1.png`.

    The classes are the folders' names in alphabetical order, `splits.names`. Where there are folders
    train, and validation (val) or test, they are the splits; what is missing is cut off by class, as
    parts of the whole: `validation` and `test` below 1, counts of images from 1 on, 0 for none.
    size: [height, width], or one for both, to scale each image to cover and cut its middle; without
    it all images should be of one size. channels: 3 (RGB) or 1 (grey). x is uint8 in a layout of
    `mnist`'s, and becomes (x / 255 - mean) / std of each channel in every batch. mean, std: by default
    those of the training images. shift, flip: as in `mnist` and `cifar10`.
    Raises: ModuleNotFoundError without pillow; FileNotFoundError; ValueError for an image that cannot
    be read, or is of another size.
    """
    pillow = open_pillow()
    if channels not in (1, 3):
        check.fail(WHERE, f"channels should be 3 (RGB) or 1 (grey), got {channels}.")
    wanted = None if size is None else ((size, size) if isinstance(size, int) else tuple(size))
    if wanted is not None:
        if len(wanted) != 2:
            check.fail(WHERE, f"size should be [height, width] or one number, got {size}.")
        check.size(WHERE, height=wanted[0], width=wanted[1])
    root = given(WHERE, path)
    listed = list_images(root)
    names = list(listed["train"])
    found: dict[str, Any] = {}
    first: tuple[Path, tuple[int, ...]] | None = None
    for part, classes in listed.items():
        strange = sorted(set(classes) - set(names))
        if strange:
            hint = check.nearest(strange[0], names)
            check.fail(
                WHERE, f"{root}: {part} has a class that train has not, {strange[0]!r}{hint}"
            )
        files = [(file, names.index(name)) for name, own in classes.items() for file in own]
        x, first = read_images(pillow, [file for file, _ in files], wanted, channels, first)
        found[part] = (x, np.array([label for _, label in files], np.int32))
    train, shares = found["train"], {"validation": validation, "test": test}
    missing = [name for name in shares if name not in found]
    shares = {name: shares[name] for name in missing}
    train, *rest = cut(WHERE, *train, stratify=True, **shares)
    found |= {"train": train, **dict(zip(missing, rest, strict=True))}
    means, stds = _statistics(found["train"][0])
    parts = [found[name] for name in PARTS]
    return image_splits(
        WHERE, parts, layout=layout, names=names, mean=_each("mean", mean, means),
        std=_each("std", std, stds), shift=shift, flip=flip,
    )  # fmt: skip


def _statistics(x: np.ndarray) -> tuple[list[float], list[float]]:
    """The mean and deviation of each channel, of pixels in [0, 1], exact and so the same everywhere."""
    level, means, stds = np.arange(256) / 255, [], []
    for channel in range(x.shape[-1]):
        share = np.bincount(x[..., channel].ravel(), minlength=256) / x[..., channel].size
        mean = float(share @ level)
        means.append(round(mean, 6))
        stds.append(round(float(share @ (level - mean) ** 2) ** 0.5, 6) or 1.0)
    return means, stds


def _each(name: str, value: Sequence[float] | None, default: list[float]) -> list[float]:
    """One number a channel; one given number serves for all."""
    if value is None:
        return default
    values = [float(v) for v in np.atleast_1d(value)]
    values = values * len(default) if len(values) == 1 else values
    if len(values) != len(default) or (name == "std" and min(values) <= 0):
        wanted = f"{name} should be {len(default)} numbers, one for each channel"
        check.fail(WHERE, f"{wanted}{', above 0' if name == 'std' else ''}, got {value}.")
    return values
