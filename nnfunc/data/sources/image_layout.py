"""What data sets of images have in common: how an image is laid out, and how pixels become floats."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from nnfunc import check
from nnfunc.data.augment import build_augmentation
from nnfunc.data.fingerprint import row_ids, split_fingerprint
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.row_split import assign_rows
from nnfunc.data.splits import Splits

__all__ = ["Layout", "build_image_splits"]

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
    shares: Mapping[str, float] | None = None,
    preprocessing: Preprocessing | None = None,
    facts: Mapping[str, Any] | None = None,
    shuffle_pixels: bool = False,
    shuffle_seed: int = 0,
    shift: int = 0,
    flip: bool = False,
) -> Splits:
    """{split: (uint8 images [n, height, width, channels], labels)} as `Splits`.

    mean, std: of each channel; by default those of the training images. shares: how much of train to
    cut off by class, for splits that are not among the parts. preprocessing: by an earlier run. facts: more
    of what is learned here.
    """
    if preprocessing is not None:
        preprocessing.check_factory(where)
        layout = preprocessing.facts["layout"]
    check.choice(where, ("image", "flat", "rows"), layout=layout)
    check.size(where, 0, shift=shift, shuffle_seed=shuffle_seed)
    splits, arrays = dict(parts), parts["train"]
    shape = arrays[0].shape[1:]
    if shuffle_pixels and (shift or flip):
        problem = "shift and flip move neighbours together, which shuffled pixels are not"
        check.fail(where, f"{problem}. Leave out shuffle_pixels, or shift and flip.")
    if shift >= min(shape[:2]):
        check.fail(where, expected=f"shift should be below the image's side, {min(shape[:2])}", actual=shift)
    shares = {name: fraction for name, fraction in (shares or {}).items() if name not in parts}
    rows = None
    if shares:
        ids = row_ids(*arrays)
        cuts, rows = assign_rows(where, ids, arrays[1], preprocessing, stratify=True, **shares)
        splits |= {
            name: None if at is None else (arrays[0][at], arrays[1][at])
            for name, at in cuts.items()
            if name == "train" or name not in parts
        }
    if preprocessing is not None:
        pixels = preprocessing.facts["pixels"]
        mean, std = pixels["mean"], pixels["std"]
    if mean is None or std is None:
        means, stds = _statistics(splits["train"][0])
        mean, std = means if mean is None else mean, stds if std is None else std

    def ready(part: Any) -> Any:
        if part is None:
            return None
        x = _shuffled(part[0], shuffle_seed) if shuffle_pixels else part[0]
        return apply_layout(x, layout), part[1]

    fill = tuple(-m / s for m, s in zip(mean, std, strict=True))  # what black becomes
    augment = build_augmentation(shift, flip, fill, None if layout == "image" else shape)
    splits = {name: ready(splits.get(name)) for name in ("train", "validation", "test")}
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
        {name: split_fingerprint(*pair) for name, pair in parts.items() if rows is None or name != "train"},
        rows,
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
    """The mean and deviation of each channel, of pixels in [0, 1], exact and so the same everywhere."""
    level, means, stds = np.arange(256) / 255, [], []
    for channel in range(x.shape[-1]):
        fraction = np.bincount(x[..., channel].ravel(), minlength=256) / x[..., channel].size
        mean = float(fraction @ level)
        means.append(round(mean, 6))
        stds.append(round(float(fraction @ (level - mean) ** 2) ** 0.5, 6) or 1.0)
    return means, stds


def apply_layout(x: np.ndarray, layout: str) -> np.ndarray:
    """Images [n, height, width, channels] in a layout."""
    count, height = x.shape[:2]
    if layout == "image":
        return x
    return x.reshape(count, -1) if layout == "flat" else x.reshape(count, height, -1)


def _shuffled(x: np.ndarray, seed: int) -> np.ndarray:
    """The pixels of every image in one and the same other order; channels stay together."""
    count, height, width, channels = x.shape
    order = np.random.RandomState(seed).permutation(height * width)
    return np.take(x.reshape(count, -1, channels), order, axis=1).reshape(x.shape)
