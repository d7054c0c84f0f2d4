"""Folders of images, a folder for each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nnfunc import check
from nnfunc.data.download import resolve
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.sources.image_class_folders import list_images
from nnfunc.data.sources.image_files import ImageReader, open_pillow
from nnfunc.data.sources.image_layout import build_image_splits
from nnfunc.data.splits import Splits

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
    preprocessing: Preprocessing | None = None,
) -> Splits:
    """A folder with a folder for each class: `path/cat/1.png`, or `path/train/cat/1.png`.

    The classes are the folders' names in alphabetical order, `splits.names`. Where there are folders
    of splits, named by a word such as train, val, validation, dev, test (Train, seg_test, val2017),
    they are the splits; what is missing is cut off by class, as parts of the whole: `validation` and
    `test` below 1, counts of images from 1 on, 0 for none. Beside folders of other names, two of them
    have to be there, or one such as train/ that holds folders itself.
    size: [height, width], or one for both, to scale each image to cover and cut its middle; without
    it all images should be of one size. PNG, JPEG, BMP, GIF, WEBP, PPM and TIFF are read, by what they
    hold: the first frame, turned as the camera was held, on white where it is transparent. 16 and
    32 bits count by the upper 8 of their type (below 0 is black), floats by the least white, 1, 255 or
    65535, that all training images stay below; NaN and floats below 0 are refused. Hidden files and
    folders, and those of systems (__MACOSX, lost+found), are left out. channels: 3 (RGB) or 1 (grey).
    x is uint8 in a layout of `mnist`'s, and becomes (x / 255 - mean) / std of each channel in every
    batch. mean, std: by default those of the training images. shift, flip: as in `mnist` and
    `cifar10`. preprocessing: what an earlier
    run learned (`splits.preprocessing`): its classes, sizes, means, and which image is in which split.
    Raises: ModuleNotFoundError without pillow; FileNotFoundError; ValueError for an image that cannot
    be read, or is of another size.
    """
    open_pillow()
    if channels not in (1, 3):
        check.fail(WHERE, expected="channels should be 3 (RGB) or 1 (grey)", actual=channels)
    expected = None if size is None else ((size, size) if isinstance(size, int) else tuple(size))
    if expected is not None:
        if len(expected) != 2:
            check.fail(WHERE, expected="size should be [height, width] or one number", actual=size)
        check.size(WHERE, height=expected[0], width=expected[1])
    root = resolve(WHERE, path)
    listed = list_images(root)
    names = list(listed["train"] if preprocessing is None else preprocessing.names or ())
    parts: dict[str, Any] = {}
    if preprocessing is not None:
        preprocessing.check_factory(WHERE)
        reader = ImageReader.of(preprocessing)
    else:
        reader = ImageReader(expected, channels)
    for part, classes in listed.items():
        new = sorted(set(classes) - set(names))
        if new and preprocessing is not None:
            known = ", ".join(names)
            hint = "Take its folder away, or train anew."
            check.fail(WHERE, f"{root}: there is a class {new[0]!r} now; the run has {known}.", hint=hint)
        if new:
            hint = check.nearest(new[0], names)
            check.fail(WHERE, f"{root}: {part} has a class that train has not, {new[0]!r}{hint}")
        files = [(file, names.index(name)) for name, inside in classes.items() for file in inside]
        parts[part] = (reader.read([file for file, _ in files]), np.array([label for _, label in files], np.int32))
    count = parts["train"][0].shape[-1]
    facts = {"size": None if reader.size is None else list(reader.size), "white": reader.white}
    return build_image_splits(
        WHERE,
        parts,
        layout=layout,
        names=names,
        mean=_each("mean", mean, count),
        std=_each("std", std, count),
        shares={"validation": validation, "test": test},
        preprocessing=preprocessing,
        facts=facts,
        shift=shift,
        flip=flip,
    )


def _each(name: str, value: Sequence[float] | None, count: int) -> list[float] | None:
    """One number a channel; one serves for all."""
    if value is None:
        return None
    values = [float(v) for v in np.atleast_1d(value)]
    values = values * count if len(values) == 1 else values
    if len(values) != count or (name == "std" and min(values) <= 0):
        expected = f"{name} should be {count} numbers, one for each channel"
        check.fail(WHERE, f"{expected}{', above 0' if name == 'std' else ''}, got {value}.")
    return values
