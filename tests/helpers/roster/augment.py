"""Rows of the roster: augmentations, each called on a small batch."""

import numpy as np

import nnfunc as nf
from helpers.roster.row import KEY, Row, ids, sample

IMAGES = sample(3, 5, 4, 2)
BATCH = (IMAGES, ids(3, below=4))
TOKENS = (ids(3, 8, below=6), ids(3, 8, below=6) + 1)
TURN = np.array([[0.913, 0.317], [-0.223, 1.117]], np.float32)


def on(batch):
    return lambda augment: augment(KEY, batch)


images = on(BATCH)
FILL = (0.0, 0.7)

MODELS: dict[str, Row] = {}
FUNCTIONS: dict[str, Row] = {
    "augment.shift": Row(numbers={"pixels": (1, 2), "fill": FILL}, then=images),
    "augment.shift:off": Row((), {"fill": (0.5, 0.1)}, {"pixels": (0.4, 0.6)}, then=images),
    "augment.crop": Row(numbers={"padding": (2, 7), "fill": FILL}, then=images),
    "augment.crop:reflect": Row((), {"mode": "reflect"}, {"padding": (1, 3)}, then=images),
    "augment.crop:edge": Row((), {"mode": "edge"}, {"padding": (1, 9)}, then=images),
    "augment.flip": Row(numbers={"rate": (0.5, 1.0)}, then=images),
    "augment.flip:vertical": Row((), {"vertical": True}, {"rate": (0.5, 0.0)}, then=images),
    "augment.rotate": Row(numbers={"degrees": (30.0, 0.0), "fill": FILL}, then=images),
    "augment.scale": Row(numbers={"smallest": (0.8, 1.0), "largest": (1.25, 2.0), "fill": FILL}, then=images),
    "augment.affine": Row((IMAGES, TURN, np.array([0.27, -0.43], np.float32)), {}, {"fill": FILL}, differentiate=True),
    "augment.cutout": Row((), {"count": 2}, {"size": (0.5, 0.1), "fill": FILL}, then=images),
    "augment.brightness": Row(numbers={"amount": (0.2, 0.5)}, then=images),
    "augment.brightness:uint8": Row(
        numbers={"amount": (0.2, 0.5)}, then=on(ids(2, 3, 4, 1, below=256).astype(np.uint8))
    ),
    "augment.contrast": Row(numbers={"amount": (0.2, 1.0)}, then=images),
    "augment.noise": Row(numbers={"std": (0.1, 0.0)}, then=on(sample(4, 6))),
    "augment.mixup": Row((), {"classes": 4}, {"alpha": (0.4, 0.0)}, then=images),
    "augment.mixup:wide": Row((), {"classes": 4}, {"alpha": (0.01, 30.0)}, then=images),
    "augment.cutmix": Row((), {"classes": 4}, {"alpha": (1.0, 0.0)}, then=images),
    "augment.sometimes": Row((nf.augment.mixup(1.0, 4),), {}, {"rate": (0.5, 0.9)}, then=images),
    "augment.chain": Row((nf.augment.flip(), nf.augment.noise(0.1)), then=images),
    "augment.token_dropout": Row((), {"token": 9}, {"rate": (0.2, 0.6)}, then=on(TOKENS)),
    "augment.random_windows": Row((5,), then=on(TOKENS)),
}
NOT_FACTORIES: dict[str, str] = {"augment.Augmentation": "what the factories return; every row calls one"}
