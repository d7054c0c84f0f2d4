"""New parameters with those of a trained model taken over, by path, and a report of which they are."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, paths
from nnfunc.base import Params, PyTree
from nnfunc.training.train_state import refuse_train_state

Resize = Mapping[str, Literal["part", "grid"]]
"""{pattern of leaves that may have another size: how their values are taken over}."""


class StartReport(NamedTuple):
    """What `starting_from` took over, as lists of paths. Each path of the model is in one of the first three.

    loaded: of pretrained.
    skipped: new, because `only` and `skip` leave them out.
    missing: new, because pretrained does not have them.
    unused: only pretrained has them.
    layers: path -> the loaded layers, of the leaves of a `repeat` of which others are new; of a `repeat` within
        another, the pairs of their numbers.
    resized: path -> "part" or "grid", of the loaded leaves that have another size.
    """

    loaded: list[str]
    skipped: list[str]
    missing: list[str]
    unused: list[str]
    layers: dict[str, list[Any]] = {}
    resized: dict[str, str] = {}

    def __repr__(self) -> str:
        def line(path: str) -> str:
            numbers = ["/".join(map(str, n)) if isinstance(n, list) else str(n) for n in self.layers.get(path, ())]
            word = "layer" if len(numbers) == 1 else "layers"
            notes = [f"{word} {check.join_names(numbers, 12)}"] * bool(numbers)
            notes += [f"resized by {self.resized[path]}"] if path in self.resized else []
            return f"{path} ({', '.join(notes)})" if notes else path

        parts = {name: getattr(self, name) for name in ("loaded", "skipped", "missing", "unused")}
        lines = {name: [*map(line, part)] for name, part in parts.items() if part}
        return "\n".join(f"{name:<8}{len(part)}: {check.join_names(part)}" for name, part in lines.items())


def starting_from(
    params: Params,
    pretrained: PyTree,
    *,
    only: str | Sequence[str] = "**",
    skip: str | Sequence[str] = (),
    resize: Resize | None = None,
) -> tuple[Params, StartReport]:
    """(params, report): new parameters, in which those of a trained model replace the ones of the same path.

    For `nf.train(..., params=params)`. Running statistics are taken over in the same way, from one state to another.
    params: new parameters, as `model.init` makes them.
    pretrained: trained ones, of a model that may have other parts; their dtypes become those of params.
    only: patterns of the paths to take over.
    skip: patterns of those to leave as they are, such as "head/**". Both are patterns of the model's paths, see
        `nf.paths`.
    resize: by pattern, what becomes of leaves with another size: "part" takes over the rows and columns that both
        have, such as those of the known tokens of a larger vocabulary; "grid" interpolates positions of a square
        grid of patches (bicubic), after those of the tokens before it, as for `nf.vit` with larger images.
    Raises: ValueError when a pattern matches nothing, a leaf to take over has another shape, or there is none.

    >>> old, new = nf.mlp([4, 8, 2]), nf.mlp([4, 8, 3])
    >>> pretrained = old.init(jax.random.key(0))
    >>> params, report = nf.starting_from(new.init(jax.random.key(1)), pretrained, skip="head/**")
    >>> print(report)
    loaded  2: hidden_0/linear/bias, hidden_0/linear/weight
    skipped 2: head/bias, head/weight
    >>> bool((params["hidden_0"]["linear"]["weight"] == pretrained["hidden_0"]["linear"]["weight"]).all())
    True
    """
    refuse_train_state("starting_from", params=params, pretrained=pretrained)
    report, chosen = report_start("starting_from", params, pretrained, only, skip, resize)
    return load_into(params, pretrained, report, chosen), report


def load_into(params: PyTree, pretrained: PyTree, report: StartReport, chosen: dict[str, paths.LayerMask]) -> PyTree:
    """params with the leaves of pretrained that the report lists; report, chosen: of `report_start`."""
    values, loaded = paths.flatten(pretrained), set(report.loaded)

    def start(keys: Any, leaf: Any) -> Any:
        path, dtype = paths.path_of(keys), jnp.result_type(leaf)
        if path not in loaded:
            return leaf
        value = jnp.array(values[path], dtype)
        value = resized(value, leaf, report.resized[path]) if path in report.resized else value
        return paths.where_on(chosen[path], value, leaf)

    return jax.tree.map_with_path(start, params)


def resized(value: jax.Array, leaf: jax.Array, how: str) -> jax.Array:
    """The pretrained value in the shape of the new leaf. how: see `starting_from`."""
    if how == "part":
        common = tuple(slice(min(sizes)) for sizes in zip(value.shape, leaf.shape, strict=True))
        return jnp.asarray(leaf).at[common].set(value[common])
    first, old = _grid(value)
    new = _grid(leaf)[1]
    grid = value[first:].reshape(old, old, value.shape[-1])
    grid = jax.image.resize(grid, (new, new, value.shape[-1]), "bicubic")
    return jnp.concatenate([value[:first], grid.reshape(new * new, -1)])


def _grid(leaf: Any) -> tuple[int, int]:
    """(the number of rows before the square grid of the others, its side)."""
    side = math.isqrt(np.shape(leaf)[0])
    return np.shape(leaf)[0] - side * side, side


def can_resize(value: Any, leaf: Any, how: str) -> bool:
    """Whether `resized` can be called with these arrays.

    value: of the other model, the array to resize.
    leaf: of this model, with the shape to resize to.
    how: "part" or "grid", as for `starting_from`.
    """
    if how == "part" or np.ndim(value) != 2:
        return how == "part" and np.ndim(value) == np.ndim(leaf)
    return np.ndim(leaf) == 2 and np.shape(value)[1] == np.shape(leaf)[1] and _grid(value)[0] == _grid(leaf)[0]


def report_start(
    where: str,
    params: PyTree,
    pretrained: PyTree,
    only: str | Sequence[str],
    skip: str | Sequence[str],
    resize: Resize | None = None,
) -> tuple[StartReport, dict[str, paths.LayerMask]]:
    """The report of `starting_from`, and which leaves and layers the patterns choose, from shapes alone.

    where: the name for errors.
    params, pretrained, only, skip, resize: as for `starting_from`; shapes are enough.
    """
    leaves, values = paths.flatten(params), paths.flatten(pretrained)
    matched = [
        paths.match_params(patterns, leaves, where=f"{where}: {name}")
        for name, patterns in {"only": only, "skip": skip}.items()
    ]
    chosen: dict[str, paths.LayerMask] = {
        path: np.logical_and(on, np.logical_not(matched[1][path])) for path, on in matched[0].items()
    }
    selected = [path for path, on in chosen.items() if np.any(on)]
    loaded = [path for path in selected if path in values]
    other = [path for path in loaded if np.shape(leaves[path]) != np.shape(values[path])]
    resizing: dict[str, str] = {}
    for pattern, how in (resize or {}).items():
        check.choice(where, ("part", "grid"), resize=how)
        matches = paths.match_params((pattern,), leaves, where=f"{where}: resize")
        able = [path for path in other if np.any(matches[path]) and can_resize(values[path], leaves[path], how)]
        resizing |= dict.fromkeys(able, how)
    other = [path for path in other if path not in resizing]
    if other:
        expected = f"{other[0]} should have the shape {np.shape(leaves[other[0]])} of the model"
        names = str(other) if len(other) < 9 else f"patterns of {check.join_names(other)}"
        hint = f"To leave it out: skip={names}."
        if can_resize(values[other[0]], leaves[other[0]], "part"):
            hint += f' To take over the common part: resize={{"{other[0]}": "part"}}.'
        check.fail(where, expected=expected, actual=np.shape(values[other[0]]), hint=hint)
    if not selected:
        check.fail(where, expected="only= and skip= should leave a path of the model to take over", actual="none")
    if not loaded:
        expected = f"pretrained should have one of {check.join_names(selected)}"
        check.fail(where, expected=expected, actual=check.join_names(list(values)) or "no paths")
    skipped = [path for path, on in chosen.items() if not np.any(on)]
    missing = [path for path in selected if path not in values]
    unused = [path for path in values if path not in leaves]
    layers = {path: np.argwhere(np.squeeze(chosen[path])) for path in loaded if np.ndim(chosen[path])}
    numbers = {path: rows[:, 0].tolist() if rows.shape[1] == 1 else rows.tolist() for path, rows in layers.items()}
    return StartReport(loaded, skipped, missing, unused, numbers, resizing), chosen
