"""What `doctor` checks of the data: scales, classes, and that held-out examples are held out."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc.debug.checks.model_checks import is_shift_invariant
from nnfunc.debug.finding import Finding
from nnfunc.debug.probe import Probe

__all__ = ["check_classes", "check_contradictions", "check_overlap", "check_scales"]

ROWS = 2048  # training examples that are looked at one by one


def check_scales(look: Probe, data: Any) -> Iterator[Finding]:
    """Inputs and targets of a size that networks take, and features that tell something."""
    batch = next(iter(data.split("train", min(ROWS, data.size))))
    x, target = _pair(batch)
    for name, tree in (("inputs", x), ("targets", target)):
        for leaf in jax.tree.leaves(tree):
            values = np.asarray(leaf)
            if not jnp.issubdtype(values.dtype, jnp.floating) or values.size < 2:
                continue
            values = values.astype(np.float64)
            mean, deviation = float(values.mean()), float(values.std())
            if max(abs(mean), deviation) > 10 or 0 < deviation < 1e-3:
                why = f"Their mean is {mean:.3g} and their deviation {deviation:.3g}."
                cure = "Scale them: (x - mean) / deviation, of the training data; pixels: x / 255."
                yield Finding("warning", name, f"{name} not normalised", why, cure)
            if name == "inputs" and len(values) > 2:
                yield from _constant(values)


def _constant(values: np.ndarray) -> Iterator[Finding]:
    flat = values.reshape(len(values), -1)
    constant = np.ptp(flat, axis=0) == 0
    background = constant & (flat[0] == flat.min())  # such as the border of an image
    share = float(constant.mean())
    told = np.flatnonzero(constant & ~background)
    if share > 0.6 or told.size:
        places = told if told.size else np.flatnonzero(constant)
        named = ", ".join(map(str, places[:5])) + (", ..." if len(places) > 5 else "")
        count = f"{int(constant.sum())} of {constant.size}"
        why = f"{count} are the same in all of {len(flat)} examples: number {named}."
        cure = "Drop them, or look at how they are read."
        yield Finding("warning", "inputs", "constant features", why, cure)


def check_classes(look: Probe, data: Any) -> Iterator[Finding]:
    """Every class that the model has an output for occurs, and none is rare."""
    _, target = _pair(data.arrays) if data.window is None else (None, None)
    y = look.y
    if target is None or y is None or y.ndim != 2 or not is_shift_invariant(look):
        return
    target = np.asarray(target)
    if target.ndim != 1 or not np.issubdtype(target.dtype, np.integer) or target.min() < 0:
        return
    counts = np.bincount(target, minlength=y.shape[-1])
    missing = np.flatnonzero(counts == 0).tolist()
    if missing:
        why = f"No training example is of class {', '.join(map(str, missing[:5]))}, of {len(counts)}."
        cure = "Give the model as many outputs as there are classes, or look at the split."
        yield Finding("warning", "labels", "missing classes", why, cure)
    present = counts[counts > 0]
    if len(present) > 1 and present.max() > 20 * present.min():
        least, most = int(np.argmin(np.where(counts, counts, counts.max()))), int(counts.argmax())
        why = f"Class {most} has {counts[most]} examples, class {least} {counts[least]}: "
        why += f"always answering {most} is right for {counts[most] / counts.sum():.1%}."
        cure = "Weigh the classes (classification(weight=...)), and judge by balanced accuracy."
        yield Finding("warning", "labels", "imbalanced classes", why, cure)


def check_overlap(look: Probe, data: Any) -> Iterator[Finding]:
    """Held-out examples are not training examples too."""
    if data.validation is None:
        return
    if data.window is not None:
        train = np.asarray(data.arrays)
        rows = np.asarray(data.validation)[:200].astype(train.dtype)
        whole = train.tobytes()
        known = [row.tobytes() in whole for row in rows]
    else:
        train = set(_rows(_pair(data.arrays)[0], 200_000))
        known = [row in train for row in _rows(_pair(data.validation)[0], ROWS)]
    share = float(np.mean(known))
    if share > 0.05:
        why = f"{share:.0%} of the validation examples are training examples too."
        cure = "Split before anything is repeated or augmented: nf.data.split. Drop duplicates first."
        yield Finding("error", "validation", "validation in training data", why, cure)


def check_contradictions(look: Probe, data: Any) -> Iterator[Finding]:
    """Equal examples have equal labels."""
    x, target = _pair(data.arrays) if data.window is None else (None, None)
    if target is None or not jax.tree.leaves(x):
        return
    labels: dict[bytes, bytes] = {}
    count = conflicts = 0
    for row, label in zip(_rows(x, 20_000), _rows(target, 20_000), strict=True):
        count += 1
        conflicts += labels.setdefault(row, label) != label
    if conflicts > 0.01 * count:
        why = f"{conflicts} of {count} examples equal another one that has another label."
        cure = "Is a column missing, or were the labels shifted against the examples?"
        yield Finding("warning", "labels", "contradictory labels", why, cure)


def _pair(tree: Any) -> tuple[Any, Any]:
    """(x, target) of a pair; of anything else all of it, and None."""
    return (tree[0], tree[1]) if isinstance(tree, tuple | list) and len(tree) == 2 else (tree, None)


def _rows(tree: Any, most: int) -> Iterator[bytes]:
    """Every example as bytes."""
    leaves = [np.ascontiguousarray(np.asarray(leaf[:most])) for leaf in jax.tree.leaves(tree)]
    for i in range(len(leaves[0]) if leaves else 0):
        yield b"".join(leaf[i].tobytes() for leaf in leaves)
