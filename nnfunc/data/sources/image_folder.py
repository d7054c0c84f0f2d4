"""Images in folders, with a folder for each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from nnfunc import check
from nnfunc.data.download import resolve
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.sources.class_folders import IMAGES
from nnfunc.data.sources.image_files import ImageReader, open_pillow
from nnfunc.data.sources.image_layout import Layout, build_image_splits
from nnfunc.data.splits import Splits

WHERE = "data.images"
Interpolation = Literal["bilinear", "bicubic", "lanczos", "nearest"]


def images(
    path: str | Path,
    *,
    size: int | Sequence[int] | None = None,
    stretch: bool = False,
    crop: float | None = None,
    interpolation: Interpolation = "bilinear",
    channels: int = 3,
    layout: Layout = "image",
    validation: float = 0.1,
    test: float = 0.1,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    shift: int = 0,
    flip: bool = False,
    preprocessing: Preprocessing | None = None,
) -> Splits:
    """Images in folders, with a folder for each class: `path/cat/1.png`, or `path/train/cat/1.png`.

    The classes are the names of the folders in alphabetical order, `splits.names`. Folders named by a word
    such as train, val, validation, dev or test (Train, seg_test, val2017) are splits; beside folders with other
    names there must be two of them, or one such as train/ that has folders. x is uint8, and becomes
    (x / 255 - mean) / std of each channel in every batch; y is int32.
    Files: PNG, JPEG, BMP, GIF, WEBP, PPM and TIFF, recognized by their content. The first frame is read,
    rotated as its EXIF data says, with white for transparent pixels. Of integers of 16 and 32 bits the upper 8
    bits are used, and values below 0 are black. White in images of floats is the least of 1, 255 and 65535 that
    no training image exceeds; NaN and floats below 0 are refused. Hidden files and folders, and those of
    operating systems (__MACOSX, lost+found), are skipped.
    path: the folder.
    size: [height, width], or one number for both, to which each image is scaled so that it covers them, and cropped
        to its center; by default all images must have the same size.
    stretch: whether it is scaled to the size itself, whatever its sides.
    crop: the part of the scaled image that is used, in (0, 1], as published models read images: with size = 224 and
        crop = 0.875 the shorter side, or with stretch each one, is scaled to 256, and the center cropped.
    interpolation: of the pixels.
    channels: 3 (RGB) or 1 (gray).
    layout: as for `mnist`.
    validation, test: splits without a folder are cut off the training images, stratified by class; below 1 a
        fraction of them, from 1 on a number of images, 0 for none.
    mean, std: of each channel, by default those of the training images.
    shift, flip: as for `cifar10`.
    preprocessing: of an earlier run (`splits.preprocessing`), which fixes classes, sizes, means, and the split of
        each image.
    Raises: ModuleNotFoundError without Pillow; FileNotFoundError; ValueError for an image that cannot be read, or
    has another size.
    """
    open_pillow()
    if channels not in (1, 3):
        check.fail(WHERE, expected="channels should be 3 (RGB) or 1 (grey)", actual=channels)
    sides = None if size is None else ((size, size) if isinstance(size, int) else tuple(size))
    if sides is not None:
        if len(sides) != 2:
            check.fail(WHERE, expected="size should be [height, width] or one number", actual=size)
        check.size(WHERE, height=sides[0], width=sides[1])
    check.choice(WHERE, get_args(Interpolation), interpolation=interpolation)
    if crop is not None:
        check.number(WHERE, 0, 1, open_low=True, crop=crop)
    if sides is None and (stretch or crop is not None):
        check.fail(WHERE, expected="size should be given with stretch or crop", actual=None)
    root = resolve(WHERE, path)
    files = IMAGES.splits(root)
    names = list(files["train"] if preprocessing is None else preprocessing.names or ())
    parts: dict[str, Any] = {}
    describe: dict[str, Any] = {}
    if preprocessing is not None:
        preprocessing.check_factory(WHERE)
        reader = ImageReader.of(preprocessing)
    else:
        reader = ImageReader(sides, channels, stretch=stretch, crop=crop, interpolation=interpolation)
    for part, classes in files.items():
        new = sorted(set(classes) - set(names))
        if new and preprocessing is not None:
            expected = f"{root} should have only the classes of the run, {', '.join(names)}"
            check.fail(WHERE, expected=expected, actual=repr(new[0]), hint="Remove its folder, or train a new run.")
        if new:
            problem = f"{root}: {part} has the class {new[0]!r}, which train does not have"
            check.fail(WHERE, f"{problem}{check.nearest(new[0], names)}")
        labels = [names.index(name) for name, paths in classes.items() for _ in paths]
        paths = [path for paths in classes.values() for path in paths]
        parts[part] = reader.read(paths), np.array(labels, np.int32)
        describe[part] = lambda index, paths=paths: str(paths[index].relative_to(root))
    count = parts["train"][0].shape[-1]
    return build_image_splits(
        WHERE,
        parts,
        layout=layout,
        names=names,
        mean=_each("mean", mean, count),
        std=_each("std", std, count),
        fractions={"validation": validation, "test": test},
        preprocessing=preprocessing,
        facts=reader.facts,
        shift=shift,
        flip=flip,
        describe=describe,
    )


def _each(name: str, value: Sequence[float] | None, count: int) -> list[float] | None:
    """A list with one number for each channel; a single number is repeated."""
    if value is None:
        return None
    values = [float(v) for v in np.atleast_1d(value)]
    values = values * count if len(values) == 1 else values
    if len(values) != count or (name == "std" and min(values) <= 0):
        expected = f"{name} should be {count} numbers{' above 0' if name == 'std' else ''}, one for each channel"
        check.fail(WHERE, expected=expected, actual=value)
    return values
