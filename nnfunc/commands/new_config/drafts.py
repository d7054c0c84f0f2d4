"""A draft of a config for each type of files: the data set is read as the config reads it, and gives the sizes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc import check, data
from nnfunc.commands.new_config.draft import Draft, Note, choose_steps, training_tables
from nnfunc.commands.new_config.table_columns import Column, find_label, guess_separator, look_at_columns
from nnfunc.data.dataset import count_examples
from nnfunc.data.sources.class_folders import IMAGES
from nnfunc.data.sources.image_files import open_pillow

__all__ = ["DRAFTS"]

RARE = 0.1  # the fraction of the rarest class below which accuracy says little
IMAGE_SIZE = 64  # to which images of different sizes are scaled


def draft_table(file: Path, label: str | None) -> Draft:
    """A config for a table. file: .csv, .parquet or .jsonl. label: the column to predict, or None to guess it."""
    separator = guess_separator(file)
    columns, rows = look_at_columns(file, separator)
    label = find_label(columns, label)
    target = columns[label]
    regression = target.type == "number" and target.distinct > max(20, math.isqrt(rows))
    inputs = {name: column for name, column in columns.items() if name != label}
    by_type = {kind: [n for n, c in inputs.items() if c.type == kind] for kind in ("category", "date", "text", "none")}
    used = [name for name in inputs if name not in by_type["none"]]
    if not used:
        check.fail("new", f"{file} should have columns to learn from, beside the label {label!r}.")
    options: dict[str, Any] = {
        "name": "table",
        "source": str(file),
        "label": Note(label, _describe_label(target, regression)),
    }
    if by_type["none"]:
        reasons = ", ".join(f"{name} ({inputs[name].reason})" for name in by_type["none"][:4])
        options["columns"] = Note(used, f"without {reasons}")
    options |= {"task": "regression"} if regression else {}
    options |= {"separator": separator} if separator != "," else {}
    for key, kind, comment in (
        ("categorical", "category", "a learned vector for each category"),
        ("dates", "date", "become year, month, day, weekday, ..."),
        ("texts", "text", "become weights of their words"),
    ):
        if by_type[kind]:
            options[key] = Note(by_type[kind], comment)
    formats = {inputs[name].reason for name in by_type["date"]} - {""}
    if len(formats) == 1:
        options["date_format"] = formats.pop()
    missing = [name for name in used if inputs[name].missing and inputs[name].type in ("number", "date")]
    if missing:
        options["impute"] = Note("median", f"some are missing in {', '.join(missing[:4])}")
    if regression:
        options["scale_target"] = Note(True, "predictions are in the units of the file all the same")
    arguments = {
        key: value.value if isinstance(value, Note) else value for key, value in options.items() if key != "name"
    }
    splits = data.table(arguments.pop("source"), **arguments)
    size, steps, comment = choose_steps(count_examples(splits.train), 40)
    options |= {
        "batch_size": size,
        "validation": 0.1,
        "test": Note(0.2, "time = COLUMN tests on the latest rows, group = COLUMN on other groups"),
    }
    outputs = 1 if regression else splits.classes or 2
    x = splits.train[0]
    if isinstance(x, dict):
        model = {"name": "table_model", "outputs": outputs, "hidden": [64, 32], "dropout": 0.1}
    else:
        model = {"name": "mlp", "widths": [x.shape[1], 64, 32, outputs], "dropout": 0.1}
    rare = not regression and bool(target.counts) and min(target.counts.values()) < RARE * rows
    tables: dict[str, Any] = {"data": options, "model": model}
    tables["objective"] = {"name": "regression", "loss": "mse"} if regression else {"name": "classification"}
    if rare:
        tables["task"] = {"metrics": Note(["f1", "balanced_accuracy"], "a class is rare, so accuracy says little")}
    best = "min loss" if regression else "max f1" if rare else "max accuracy"
    tables |= training_tables(steps, comment, peak=3e-3, weight_decay=1e-2, best=best)
    facts = [f"{rows:,} rows, {len(used)} inputs: " + ", ".join(_counts(inputs, used))]
    return Draft(f"Predict {label} from {file.name}", facts, tables)


def _arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a data set's function in the table `data`."""
    values = {key: value.value if isinstance(value, Note) else value for key, value in options.items()}
    return {key: value for key, value in values.items() if key not in ("name", "batch_size")}


def _describe_label(column: Column, regression: bool) -> str:
    if regression:
        return f"a number, {column.distinct:,} different values"
    if not column.counts:
        return f"{column.distinct:,} classes"
    common = sorted(column.counts.items(), key=lambda item: -item[1])[:5]
    more = f", and {len(column.counts) - 5} more" if len(column.counts) > 5 else ""
    return f"{len(column.counts)} classes: " + ", ".join(f"{name} ({n:,})" for name, n in common) + more


def _counts(inputs: Mapping[str, Column], used: Sequence[str]) -> list[str]:
    types = {"number": "numbers", "category": "categories", "date": "dates", "text": "texts"}
    counts = {kind: sum(inputs[name].type == kind for name in used) for kind in types}
    return [f"{count} {types[kind] if count > 1 else kind}" for kind, count in counts.items() if count]


def draft_images(folder: Path, label: str | None) -> Draft:
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
    seen = ", ".join(f"{width} x {height}" for width, height in sorted(sizes)[:3]) + (", ..." if len(sizes) > 3 else "")
    if not square:
        options["size"] = Note(side, f"images are {seen}: all are scaled and cropped to {side} x {side}")
    options |= {"channels": channels} if channels != 3 else {}
    options["flip"] = Note(False, "true where a mirror image is of the same class")
    splits = data.images(**_arguments(options))
    size, steps, comment = choose_steps(count_examples(splits.train), 30)
    options |= {"batch_size": size, "validation": 0.1, "test": 0.1}
    stages = 2 if side < 24 else 3
    model = {"name": "cnn", "classes": splits.classes, "in_dim": channels, "image_size": side}
    model |= {"widths": [32, 64, 64][:stages], "hidden": 64, "norm": "batch", "dropout": 0.3}
    tables = {
        "data": options,
        "model": model,
        "objective": {"name": "classification"},
        "augment": {"shift": Note({"pixels": max(1, side // 16)}, "moves each image a little, each time another way")},
    }
    tables |= training_tables(steps, comment, peak=2e-3, weight_decay=0.05, best="max accuracy")
    facts = [
        f"{len(files):,} images ({seen}) of {check.counted(splits.classes or 0, 'class').replace('classs', 'classes')}"
    ]
    return Draft(f"Classify the images of {folder.name}", facts, tables)


def draft_arrays(file: Path, label: str | None) -> Draft:
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


def draft_language(file: Path, label: str | None) -> Draft:
    """A config for a language model of a text file."""
    splits = data.text(file, block_size=1)
    count = len(splits.train)
    block = 64 if count > 20_000 else 16
    model = _gpt(splits.classes or 256, block, large=count > 5_000_000)
    options = {"name": "text", "path": str(file), "block_size": Note(block, "characters that a prediction reads")}
    options |= {"codec": Note("characters", 'or "bytes", or a tokenizer.json'), "batch_size": 16}
    facts = [f"{count:,} characters to train on, {splits.classes} different ones", "nnfunc sample RUN writes text"]
    return Draft(f"Write text like {file.name}", facts, {"data": options, **_language_tables(model, count, block)})


def draft_tokens(file: Path, label: str | None) -> Draft:
    """A config for a language model of files of tokens: .bin or .npy, or a folder with train.bin and val.bin."""
    first = file if file.is_file() else next((f for f in sorted(file.iterdir()) if f.stem == "train"), file)
    dtype = "uint16" if first.suffix == ".bin" else None
    tokens = np.memmap(first, np.dtype("<u2"), "r") if dtype else np.load(first, mmap_mode="r")
    vocab_size = int(max(tokens[start : start + (1 << 20)].max() for start in range(0, len(tokens), 1 << 20))) + 1
    block = min(256, max(8, len(tokens) // 100))
    options: dict[str, Any] = {"name": "tokens", "path": str(file), "block_size": block}
    options |= {"dtype": Note("uint16", "of the .bin files")} if dtype else {}
    options |= {"vocab_size": Note(vocab_size, "the largest token is one less"), "batch_size": 16}
    data.tokens(file, block_size=block, vocab_size=vocab_size)
    model = _gpt(vocab_size, block, large=len(tokens) > 5_000_000)
    facts = [f"{len(tokens):,} tokens, {vocab_size:,} different ones at most"]
    tables = {"data": options, **_language_tables(model, len(tokens), block)}
    return Draft(f"Predict the next token of {file.name}", facts, tables)


def _gpt(vocab_size: int, block: int, *, large: bool) -> dict[str, Any]:
    sizes = {"layers": 6, "heads": 6, "dim": 192} if large else {"layers": 4, "heads": 4, "dim": 128}
    return {"name": "gpt", "vocab_size": vocab_size, "block_size": block, **sizes, "dropout": 0.1}


def _language_tables(model: dict[str, Any], count: int, block: int) -> dict[str, Any]:
    epoch = max(1, count // (16 * block))
    steps = min(max(10 * epoch, 200), 3000)
    comment = f"{steps / epoch:.2g} times the whole text"
    tables = {"model": model, "objective": {"name": "language_modelling"}}
    tables |= training_tables(steps, comment, peak=3e-3, weight_decay=0.1, best="min loss")
    tables["optimizer"] |= {"b2": 0.99, "clip": 1.0}
    return tables


DRAFTS = {
    "table": (draft_table, (".csv", ".csv.gz", ".parquet", ".pq")),
    "images": (draft_images, ()),
    "language": (draft_language, (".txt", ".txt.gz", ".md")),
    "tokens": (draft_tokens, (".bin", ".npy")),
    "arrays": (draft_arrays, (".npz",)),
}
"""The function for each type of data, and the endings of its files; () for folders."""
