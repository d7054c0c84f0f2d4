"""doctor's checks of the data: scales, classes, and whether validation examples were trained on."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from nnfunc.debug.checks.model_checks import is_shift_invariant
from nnfunc.debug.finding import Finding
from nnfunc.debug.probe import Probe, is_floating, split_pair

ROWS = 2048  # the most examples that are compared one by one


def check_scales(probe: Probe, data: Any) -> Iterator[Finding]:
    """Inputs and targets are neither huge nor tiny, and features vary.

    probe: of the task.
    data: the data set without augmentation.
    """
    x, target = split_pair(next(iter(data.split("train", min(ROWS, data.size)))))
    for name, tree in (("inputs", x), ("targets", target)):
        for leaf in jax.tree.leaves(tree):
            values = np.asarray(leaf)
            if not is_floating(values) or values.size < 2:
                continue
            values = values.astype(np.float64)
            mean, deviation = float(values.mean()), float(values.std())
            if max(abs(mean), deviation) > 10 or 0 < deviation < 1e-3:
                evidence = f"Their mean is {mean:.3g} and their standard deviation {deviation:.3g}."
                hint = "Normalise them by the training data: (x - mean) / deviation; pixels: x / 255."
                yield Finding("warning", name, f"{name} not normalised", evidence, hint)
            if name == "inputs" and len(values) > 2:
                yield from _check_constant(values)


def _check_constant(values: np.ndarray) -> Iterator[Finding]:
    features = values.reshape(len(values), -1)
    is_constant = np.ptp(features, axis=0) == 0
    is_background = is_constant & (features[0] == features.min())  # such as the border of an image
    suspicious = np.flatnonzero(is_constant & ~is_background)
    if is_constant.mean() > 0.6 or suspicious.size:
        indices = suspicious if suspicious.size else np.flatnonzero(is_constant)
        listed = ", ".join(map(str, indices[:5])) + (", ..." if len(indices) > 5 else "")
        evidence = f"{int(is_constant.sum())} of {is_constant.size} features are the same in all of "
        evidence += f"{len(features)} examples: {listed}."
        hint = "Drop them, or check how they are read."
        yield Finding("warning", "inputs", "constant features", evidence, hint)


def check_classes(probe: Probe, data: Any) -> Iterator[Finding]:
    """Every class that the model has an output for occurs, and none is rare.

    probe: of the task.
    data: the data set without augmentation.
    """
    _, target = split_pair(data.arrays) if data.window is None else (None, None)
    y = probe.y
    if target is None or y is None or y.ndim != 2 or not is_shift_invariant(probe):
        return
    target = np.asarray(target)
    if target.ndim != 1 or not np.issubdtype(target.dtype, np.integer) or target.min() < 0:
        return
    counts = np.bincount(target, minlength=y.shape[-1])
    missing = np.flatnonzero(counts == 0).tolist()
    if missing:
        evidence = f"Of {len(counts)} classes, these have no training example: {', '.join(map(str, missing[:5]))}."
        hint = "Give the model as many outputs as there are classes, or check the split."
        yield Finding("warning", "labels", "missing classes", evidence, hint)
    present = counts[counts > 0]
    if len(present) > 1 and present.max() > 20 * present.min():
        rarest, commonest = int(np.argmin(np.where(counts, counts, counts.max()))), int(counts.argmax())
        evidence = f"Class {commonest} has {counts[commonest]} examples, class {rarest} has {counts[rarest]}. "
        evidence += f"A model that always answers {commonest} is right for {counts[commonest] / counts.sum():.1%}."
        hint = "Weight the classes, classification(weight=...), and evaluate by balanced accuracy."
        yield Finding("warning", "labels", "imbalanced classes", evidence, hint)


def check_overlap(probe: Probe, data: Any) -> Iterator[Finding]:
    """Validation examples are not training examples.

    probe: of the task.
    data: the data set without augmentation.
    """
    if data.validation is None:
        return
    if data.window is not None:
        train = np.asarray(data.arrays)
        rows = np.asarray(data.validation)[:200].astype(train.dtype)
        train_bytes = train.tobytes()
        duplicates = [row.tobytes() in train_bytes for row in rows]
    else:
        train_rows = set(_row_bytes(split_pair(data.arrays)[0], 200_000))
        duplicates = [row in train_rows for row in _row_bytes(split_pair(data.validation)[0], ROWS)]
    fraction = float(np.mean(duplicates))
    if fraction > 0.05:
        evidence = f"{fraction:.0%} of the validation examples are also training examples."
        hint = "Drop duplicates, then split (nf.data.split), then repeat or augment."
        yield Finding("error", "validation", "validation in training data", evidence, hint)


def check_contradictions(probe: Probe, data: Any) -> Iterator[Finding]:
    """Equal examples have equal labels.

    probe: of the task.
    data: the data set without augmentation.
    """
    x, target = split_pair(data.arrays) if data.window is None else (None, None)
    if target is None or not jax.tree.leaves(x):
        return
    labels: dict[bytes, bytes] = {}
    count = conflicts = 0
    for row, label in zip(_row_bytes(x, 20_000), _row_bytes(target, 20_000), strict=True):
        count += 1
        conflicts += labels.setdefault(row, label) != label
    if conflicts > 0.01 * count:
        evidence = f"{conflicts} of {count} examples equal another example that has another label."
        hint = "Is a column missing, or are the labels shifted against the examples?"
        yield Finding("warning", "labels", "contradictory labels", evidence, hint)


def _row_bytes(tree: Any, limit: int) -> Iterator[bytes]:
    """The first examples, each as bytes."""
    leaves = [np.ascontiguousarray(np.asarray(leaf[:limit])) for leaf in jax.tree.leaves(tree)]
    for i in range(len(leaves[0]) if leaves else 0):
        yield b"".join(leaf[i].tobytes() for leaf in leaves)
