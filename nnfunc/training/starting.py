"""New parameters with those of a trained model taken over, by path, and a report of which they are."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, paths
from nnfunc.base import Params, PyTree
from nnfunc.training.step import refuse_train_state

__all__ = ["StartReport", "load_into", "report_start", "starting_from"]


class StartReport(NamedTuple):
    """What `starting_from` took over, as lists of paths. Each path of the model is in one of the first three.

    loaded: of pretrained. skipped: new, because `only` and `skip` leave them out. missing: new, because
    pretrained does not have them. unused: only pretrained has them. layers: path -> the loaded layers, of the
    leaves of a `repeat` of which others are new; of a `repeat` within another, the pairs of their numbers.
    """

    loaded: list[str]
    skipped: list[str]
    missing: list[str]
    unused: list[str]
    layers: dict[str, list[Any]] = {}

    def __repr__(self) -> str:
        def line(path: str) -> str:
            numbers = ["/".join(map(str, n)) if isinstance(n, list) else str(n) for n in self.layers.get(path, ())]
            word = "layer" if len(numbers) == 1 else "layers"
            return f"{path} ({word} {check.join_names(numbers, 12)})" if numbers else path

        parts = {name: getattr(self, name) for name in ("loaded", "skipped", "missing", "unused")}
        lines = {name: [*map(line, part)] for name, part in parts.items() if part}
        return "\n".join(f"{name:<8}{len(part)}: {check.join_names(part)}" for name, part in lines.items())


def starting_from(
    params: Params, pretrained: PyTree, *, only: str | Sequence[str] = "**", skip: str | Sequence[str] = ()
) -> tuple[Params, StartReport]:
    """(params, report): new parameters, in which those of a trained model replace the ones of the same path.

    For `nf.train(..., params=params)`. Running statistics are taken over in the same way, from one state to another.
    params: new parameters, as `model.init` makes them. pretrained: trained ones, of a model that may have other
    parts; their dtypes become those of params. only: patterns of the paths to take over. skip: patterns of those
    to leave as they are, such as "head/**". Both are patterns of the model's paths, see `nf.paths`.
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
    report, chosen = report_start("starting_from", params, pretrained, only, skip)
    return load_into(params, pretrained, report, chosen), report


def load_into(params: PyTree, pretrained: PyTree, report: StartReport, chosen: dict[str, paths.LayerMask]) -> PyTree:
    """params with the leaves of pretrained that the report lists; report, chosen: of `report_start`."""
    values, loaded = paths.flatten(pretrained), set(report.loaded)

    def start(keys: Any, leaf: Any) -> Any:
        path, dtype = paths.path_of(keys), jnp.result_type(leaf)
        return paths.where_on(chosen[path], jnp.array(values[path], dtype), leaf) if path in loaded else leaf

    return jax.tree.map_with_path(start, params)


def report_start(
    where: str, params: PyTree, pretrained: PyTree, only: str | Sequence[str], skip: str | Sequence[str]
) -> tuple[StartReport, dict[str, paths.LayerMask]]:
    """The report of `starting_from`, and which leaves and layers the patterns choose, from shapes alone.

    where: the name for errors. params, pretrained, only, skip: as for `starting_from`; shapes are enough.
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
    if other:
        expected = f"{other[0]} should have the shape {np.shape(leaves[other[0]])} of the model"
        names = str(other) if len(other) < 9 else f"patterns of {check.join_names(other)}"
        check.fail(where, expected=expected, actual=np.shape(values[other[0]]), hint=f"To leave it out: skip={names}.")
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
    return StartReport(loaded, skipped, missing, unused, numbers), chosen
