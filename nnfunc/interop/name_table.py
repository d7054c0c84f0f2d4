"""Tables of names: which published tensor holds which parameter, and how it is stored; read in both directions.

A row is (published name, path, leaves). In the published name `{i}` is the index of a layer in `repeat`, whose
parameters are stacked here; `{j}` the index of an expert; `{i+1}` an index that counts from 1. A letter that is in the
path too, such as `{s}`, counts modules that have a name each here. In the path `query|key|value` stands for several
parameters that are one tensor there, joined along their last axis here.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np


class Change(NamedTuple):
    """How an array differs from the published one.

    to_ours, to_published: from one to the other, and back.

    widen: whether it is stored in float32 at least, because the change adds digits.
    added: whether the published array is added to those of other tensors with the same path.
    """

    to_ours: Callable[[np.ndarray], np.ndarray] = lambda x: x
    to_published: Callable[[np.ndarray], np.ndarray] = lambda x: x
    widen: bool = False
    added: bool = False


def axes(*order: int) -> Change:
    """Another order of the axes. order: that of `numpy.transpose`, from the published array to ours."""
    return Change(lambda x: x.transpose(order), lambda x: x.transpose(np.argsort(order)))


def vector(ndim: int) -> Change:
    """A vector that is published with further axes of size 1 before it. ndim: the number of its axes there."""
    return Change(lambda x: x.reshape(x.shape[ndim - 1 :]), lambda x: x.reshape((1,) * (ndim - 1) + x.shape))


SAME = Change()
Leaves = Mapping[str, tuple[str, Change]]
"""The tensors of a published module: {its name there: (its name here, the change)}."""
TABLE: Leaves = {"weight": ("weight", SAME)}
CONV1D: Leaves = {"weight": ("weight", SAME), "bias": ("bias", SAME)}
LINEAR: Leaves = {"weight": ("weight", axes(1, 0)), "bias": ("bias", SAME)}
KERNEL = Change(lambda x: np.moveaxis(x, (0, 1), (-1, -2)), lambda x: np.moveaxis(x, (-1, -2), (0, 1)))
"""[out, in, *kernel], and [*kernel, in, out] here."""
CONV: Leaves = {"weight": ("weight", KERNEL), "bias": ("bias", SAME)}
NORM: Leaves = {"weight": ("scale", SAME), "bias": ("bias", SAME)}
IN_PROJECTION: Leaves = {"in_proj_weight": ("weight", axes(1, 0)), "in_proj_bias": ("bias", SAME)}
BATCH_NORM: Leaves = {**NORM, "running_mean": ("mean", SAME), "running_var": ("var", SAME)}

Row = tuple[str, str, Leaves]


class Entry(NamedTuple):
    """One published tensor: its name and shape, the paths that it holds, the layer of each, and the change."""

    name: str
    shape: tuple[int, ...]
    paths: tuple[str, ...]
    layer: tuple[int, ...]
    change: Change

    def split(self, array: np.ndarray, shapes: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
        """(path, our array of this layer) for each path. array: the published one. shapes: of our leaves."""
        ours = self.change.to_ours(array)
        if len(self.paths) == 1:
            yield self.paths[0], ours
            return
        ends = np.cumsum([shapes[path].shape[-1] for path in self.paths])[:-1]
        yield from zip(self.paths, np.split(ours, ends, axis=-1), strict=True)

    def join(self, leaves: Mapping[str, np.ndarray]) -> np.ndarray:
        """The published array of our leaves, by path."""
        parts = [leaves[path][self.layer] for path in self.paths]
        return self.change.to_published(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1))


INDEX = re.compile(r"\{(\d*)([a-z])(?:\+(\d+))?\}")
"""`{i}`, `{i+1}`, `{2i}`, `{2i+1}`."""


def expand(rows: Iterable[Row], leaves: Mapping[str, Any]) -> list[Entry]:
    """Every published tensor of a model.

    rows: of the family.
    leaves: the shapes of parameters and state of the model, by path; rows of paths that the model does not have are
        left out.
    """
    return [
        entry
        for published, path, names in rows
        for name, (leaf, change) in names.items()
        for entry in _tensors(".".join(filter(None, (published, name))), path, leaf, change, leaves)
    ]


def _tensors(name: str, path: str, leaf: str, change: Change, leaves: Mapping[str, Any]) -> Iterator[Entry]:
    """The tensors of one leaf of a row."""
    parts = [part.split("|") for part in [*path.split("/"), *leaf.split("/")] if part]
    patterns = ["/".join(choice) for choice in product(*parts)]
    for numbers in _indices(patterns[0], leaves):
        paths = tuple(_fill(pattern, numbers) for pattern in patterns)
        if not all(p in leaves for p in paths):
            continue
        letters = sorted({match[2] for match in INDEX.finditer(name)} - {*numbers})
        stacked = leaves[paths[0]].shape[: len(letters)]
        try:
            shape = _published_shape([leaves[p].shape[len(letters) :] for p in paths], change)
        except ValueError:  # a row of another model: experts for a perceptron alone
            continue
        for layer in product(*map(range, stacked)):
            filled = _fill(name, numbers | dict(zip(letters, layer, strict=True)))
            yield Entry(filled, shape, paths, layer, change)


def _indices(pattern: str, leaves: Mapping[str, Any]) -> list[dict[str, int]]:
    """The values of the letters in a path, one table for each path of the model that fits."""
    if "{" not in pattern:
        return [{}]
    offsets = {match[2]: int(match[3] or 0) for match in INDEX.finditer(pattern)}
    form = re.compile(INDEX.sub(r"(?P<\2>\\d+)", pattern))
    matches = filter(None, map(form.fullmatch, leaves))
    return [{letter: int(match[letter]) - first for letter, first in offsets.items()} for match in matches]


def _fill(name: str, numbers: Mapping[str, int]) -> str:
    return INDEX.sub(lambda match: str(int(match[1] or 1) * numbers[match[2]] + int(match[3] or 0)), name)


def _published_shape(shapes: Sequence[tuple[int, ...]], change: Change) -> tuple[int, ...]:
    whole = (*shapes[0][:-1], sum(shape[-1] for shape in shapes)) if len(shapes) > 1 else shapes[0]
    return change.to_published(np.broadcast_to(np.zeros((), np.int8), whole)).shape
