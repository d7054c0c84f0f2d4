"""Augmentations: functions (key, batch) -> batch.

    augment = nf.augment.chain(nf.augment.crop(4, mode="reflect"), nf.augment.flip())
    batch = augment(key, batch)                           # (x, y), or x alone

Each example has its own random numbers. Every strength may be traced, so that it can follow a schedule
or be swept; at 0 the batch is unchanged. uint8 images stay uint8, floats stay floats. Augmentations
with equal Python numbers compare equal, so that data loaded twice compiles once.
"""

from collections.abc import Sequence

from nnfunc.calls import explain_calls
from nnfunc.data.augment.affine import affine, rotate, scale
from nnfunc.data.augment.augmentation import Augmentation
from nnfunc.data.augment.color_noise import brightness, contrast, cutout, noise
from nnfunc.data.augment.compose import chain, sometimes
from nnfunc.data.augment.mixup_cutmix import cutmix, mixup
from nnfunc.data.augment.shift_crop_flip import crop, flip, shift
from nnfunc.data.augment.tokens import random_windows, token_dropout

__all__ = [
    "Augmentation",
    "affine",
    "brightness",
    "chain",
    "contrast",
    "crop",
    "cutmix",
    "cutout",
    "flip",
    "mixup",
    "noise",
    "random_windows",
    "rotate",
    "scale",
    "shift",
    "sometimes",
    "token_dropout",
]


def build_augmentation(
    pixels: int, flips: bool, fill: Sequence[float], shape: Sequence[int] | None
) -> Augmentation | None:
    """The augmentation for the arguments `shift` (pixels) and `flip` (flips) of a data set, or None."""
    augments = [flip(shape=shape)] if flips else []
    augments += [shift(pixels, fill=fill, shape=shape)] if pixels else []
    return chain(*augments) if len(augments) > 1 else next(iter(augments), None)


explain_calls(__name__)
