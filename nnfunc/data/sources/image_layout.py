"""Layouts of images, and the splits of data sets of images."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from nnfunc import check
from nnfunc.data.augment import build_augmentation
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.row_split import split_pairs
from nnfunc.data.splits import Splits

Layout = Literal["image", "flat", "rows"]
"""[height, width, channels], [height * width * channels], or [height, width * channels]."""


def build_image_splits(
    where: str,
    parts: Mapping[str, Any],
    *,
    layout: str,
    names: Sequence[str],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    fractions: Mapping[str, float],
    preprocessing: Preprocessing | None = None,
    facts: Mapping[str, Any] | None = None,
    shuffle_pixels: bool = False,
    shuffle_seed: int = 0,
    shift: int = 0,
    flip: bool = False,
    describe: Mapping[str, Callable[[int], str]] | None = None,
) -> Splits:
    """`Splits` of images and their labels.

    where: such as "data.mnist".
    parts: {split: (uint8 images [n, height, width, channels], labels [n])}.
    layout: see `Layout`.
    names: of the classes.
    mean, std: of each channel, by default those of the training images.
    fractions: of train to cut off for the splits that are not in parts, stratified by class.
    preprocessing: of an earlier run, or None.
    facts: more entries for the new preprocessing.
    shuffle_pixels, shuffle_seed, shift, flip: as for `nf.data.mnist` and `nf.data.cifar10`.
    describe: as for `Preprocessing`.
    """
    if preprocessing is not None:
        preprocessing.check_factory(where)
        layout = preprocessing.facts["layout"]
    check.choice(where, ("image", "flat", "rows"), layout=layout)
    check.size(where, 0, shift=shift, shuffle_seed=shuffle_seed)
    shape = parts["train"][0].shape[1:]
    if shuffle_pixels and (shift or flip):
        hint = "Leave out shuffle_pixels, or shift and flip."
        check.fail(where, "shift and flip have no meaning for images with shuffled pixels.", hint=hint)
    if shift >= min(shape[:2]):
        check.fail(where, expected=f"shift should be below the image's side, {min(shape[:2])}", actual=shift)
    splits, fingerprints, rows = split_pairs(where, parts, preprocessing, stratify=True, **dict[str, Any](fractions))
    if preprocessing is not None:
        pixels = preprocessing.facts["pixels"]
        mean, std = pixels["mean"], pixels["std"]
    if mean is None or std is None:
        means, stds = _statistics(splits["train"][0])
        mean, std = means if mean is None else mean, stds if std is None else std

    def lay_out(part: Any) -> Any:
        if part is None:
            return None
        x = _shuffled(part[0], shuffle_seed) if shuffle_pixels else part[0]
        return apply_layout(x, layout), part[1]

    fill = tuple(-m / s for m, s in zip(mean, std, strict=True))  # black
    augment = build_augmentation(shift, flip, fill, None if layout == "image" else shape)
    splits = {name: lay_out(part) for name, part in splits.items()}
    image_shape = None if layout == "image" or shuffle_pixels else shape
    record = Preprocessing(
        where.removeprefix("data."),
        {
            "names": list(names),
            "classes": len(names),
            "layout": layout,
            "image_shape": image_shape,
            "pixels": {"mean": [*mean], "std": [*std], "scale": 255.0},
            "dtype": "uint8",
            "shape": list(splits["train"][0].shape[1:]),
            **({} if shuffle_pixels else {"image": list(shape), "size": None, **(facts or {})}),
        },
        fingerprints,
        rows,
        describe=describe or {},
    )
    return Splits(
        *splits.values(),
        classes=len(names),
        names=tuple(names),
        transform=record.transform,
        augment=augment,
        image_shape=image_shape,
        preprocessing=record,
    )


def _statistics(x: np.ndarray) -> tuple[list[float], list[float]]:
    """(mean, standard deviation) of each channel of pixels in [0, 1], by exact sums: equal on every machine."""
    level, means, stds = np.arange(256) / 255, [], []
    for channel in range(x.shape[-1]):
        fraction = np.bincount(x[..., channel].ravel(), minlength=256) / x[..., channel].size
        mean = float(fraction @ level)
        means.append(round(mean, 6))
        stds.append(round(float(fraction @ (level - mean) ** 2) ** 0.5, 6) or 1.0)
    return means, stds


def apply_layout(x: np.ndarray, layout: str) -> np.ndarray:
    """Images in a layout. x: [n, height, width, channels]. layout: see `Layout`."""
    count, height = x.shape[:2]
    if layout == "image":
        return x
    return x.reshape(count, -1) if layout == "flat" else x.reshape(count, height, -1)


def _shuffled(x: np.ndarray, seed: int) -> np.ndarray:
    """The images with their pixels in another order, the same for all; the channels of a pixel stay together."""
    count, height, width, channels = x.shape
    order = np.random.RandomState(seed).permutation(height * width)
    return np.take(x.reshape(count, -1, channels), order, axis=1).reshape(x.shape)
