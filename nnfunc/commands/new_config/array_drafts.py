"""Drafts of configs for folders of images and for arrays."""

from pathlib import Path
from typing import Any

import numpy as np

from nnfunc import check, data
from nnfunc.commands.new_config.draft import Draft, Note, arguments_of, choose_steps, training_tables
from nnfunc.data.dataset import count_examples
from nnfunc.data.sources.class_folders import IMAGES
from nnfunc.data.sources.image_files import open_pillow

IMAGE_SIZE = 64  # to which images of different sizes are scaled


def draft_images(folder: Path) -> Draft:
    """A config for a folder with a folder of images for each class."""
    module, _ = open_pillow()
    files = [file for files in IMAGES.splits(folder)["train"].values() for file in files]
    sizes, grey = set(), True
    for file in files[:: max(1, len(files) // 200)]:
        with module.open(file) as image:
            sizes.add(image.size)
            grey = grey and image.mode in ("1", "L", "I", "I;16", "F")
    channels = 1 if grey else 3
    largest = max(max(size) for size in sizes)
    options: dict[str, Any] = {"name": "images", "path": str(folder)}
    square = len(sizes) == 1 and len(set(next(iter(sizes)))) == 1 and largest <= 2 * IMAGE_SIZE and largest >= 8
    side = largest if square else IMAGE_SIZE
    size_text = ", ".join(f"{width} x {height}" for width, height in sorted(sizes)[:3]) + (
        ", ..." if len(sizes) > 3 else ""
    )
    if not square:
        options["size"] = Note(side, f"images are {size_text}: all are scaled and cropped to {side} x {side}")
    options |= {"channels": channels} if channels != 3 else {}
    options["flip"] = Note(False, "true if the mirror image of every image has the same class")
    splits = data.images(**arguments_of(options))
    size, steps, comment = choose_steps(count_examples(splits.train), 30)
    options |= {"batch_size": size, "validation": 0.1, "test": 0.1}
    stages = 2 if side < 24 else 3
    model = {"name": "cnn", "classes": splits.classes, "in_dim": channels, "image_size": side}
    model |= {"widths": [32, 64, 64][:stages], "hidden": 64, "norm": "batch", "dropout": 0.3}
    tables = {
        "data": options,
        "model": model,
        "objective": {"name": "classification"},
        "augment": {"shift": Note({"pixels": max(1, side // 16)}, "moves each image by a few random pixels")},
    }
    tables |= training_tables(steps, comment, peak=2e-3, weight_decay=0.05, best="max accuracy")
    facts = [
        f"{len(files):,} images ({size_text}) of {splits.classes} classes: {check.join_names(splits.names or (), 5)}"
    ]
    return Draft(f"Classify the images of {folder.name}", facts, tables)


def draft_arrays(file: Path, *, label: str | None = None) -> Draft:
    """A config for the arrays x and y of an .npz file, or of x.npy and y.npy in a folder."""
    splits = data.npz(file, y=label or "y")
    x, y = splits.train
    size, steps, comment = choose_steps(len(x), 30)
    options = {"name": "npz", "path": str(file)} | ({"y": label} if label else {}) | {"batch_size": size}
    outputs = splits.classes or int(np.prod(y.shape[1:]))
    tables: dict[str, Any] = {"data": options}
    if x.ndim == 4 and x.shape[1] == x.shape[2] and x.shape[3] in (1, 3) and x.shape[1] >= 8:
        model = {"name": "cnn", "classes": outputs, "in_dim": x.shape[3], "image_size": x.shape[1]}
        tables["model"] = model | {"widths": [32, 64], "hidden": 64, "norm": "batch", "dropout": 0.3}
    elif x.ndim == 3:
        tables["model"] = {"name": "rnn_classifier", "in_dim": x.shape[2], "hidden": 64, "classes": outputs}
    elif x.ndim == 2:
        tables["model"] = {"name": "mlp", "widths": [x.shape[1], 64, 32, outputs], "dropout": 0.1}
    else:
        hint = "Save x as rows of numbers, [examples, numbers]."
        check.fail(
            "new", expected="x should be [n, numbers], [n, time, numbers] or square images", actual=x.shape, hint=hint
        )
    tables["objective"] = {"name": "classification"} if splits.classes else {"name": "regression", "loss": "mse"}
    best = "max accuracy" if splits.classes else "min loss"
    tables |= training_tables(steps, comment, peak=3e-3, weight_decay=1e-2, best=best)
    result = f"{outputs} classes" if splits.classes else check.counted(outputs, "number") + " to predict"
    return Draft(
        f"Learn y from x of {file.name}",
        [f"{len(x):,} training examples of {x.dtype} {list(x.shape[1:])}, {result}"],
        tables,
    )
