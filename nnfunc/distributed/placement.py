"""Where the arrays of a run lie on a mesh: presets by the roles of layers, and path patterns."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nnfunc import check, paths
from nnfunc.base import Model, PyTree
from nnfunc.device_memory import format_bytes
from nnfunc.distributed.arrays import put_array
from nnfunc.distributed.mesh import DATA, MODEL, axis_size
from nnfunc.distributed.model_partition import LeafPlacement, ModelPartition

Shard = str | Mapping[str, Sequence[str]] | None
"""A preset, several joined by "+", or mesh axes by path pattern, which change the default."""

PRESETS = ("replicated", "fsdp", "tensor", "expert", "sequence")

_COLUMNS, _ROWS = -1, -2
_TENSOR_CUTS: dict[str, dict[str, int]] = {
    "attention": {name: _COLUMNS for part in ("query", "key", "value") for name in (f"{part}/weight", f"{part}/bias")}
    | {"out/weight": _ROWS},
    "feed_forward": {name: _COLUMNS for part in ("up", "gate") for name in (f"{part}/weight", f"{part}/bias")}
    | {"down/weight": _ROWS},
    "mixture_of_experts": {name: _COLUMNS for part in ("up", "gate") for name in (f"{part}/weight", f"{part}/bias")}
    | {"down/weight": _ROWS},
}
"""The axis of each parameter of a layer that the preset "tensor" divides: Megatron's cuts, one sum a branch."""
_EXPERT_CUTS = {
    "mixture_of_experts": {
        f"{part}/{name}": axis for part in ("up", "gate", "down") for name, axis in (("weight", -3), ("bias", -2))
    }
}


@dataclass(frozen=True)
class Placement:
    """Where the arrays of a run lie.

    mesh: of Auto axes.
    presets: of PRESETS.
    patterns: (path pattern, mesh axis or "" for each of the last axes).
    """

    mesh: Mesh
    presets: frozenset[str]
    patterns: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @staticmethod
    def of(where: str, mesh: Mesh, shard: Shard) -> "Placement":
        """The placement of an argument. where: begins the message of the error. mesh, shard: as for `shardings`."""
        default = frozenset(["tensor" if axis_size(mesh, MODEL) > 1 else "replicated"])
        if shard is None:
            return Placement(mesh, default)
        if isinstance(shard, Mapping):
            patterns = tuple((pattern, _check_axes(where, mesh, pattern, axes)) for pattern, axes in shard.items())
            return Placement(mesh, default, patterns)
        if not isinstance(shard, str):
            expected = "shard should be a preset such as 'fsdp', or a dict of mesh axes by path pattern"
            check.fail(where, expected=expected, actual=check.describe(shard), exc_type=TypeError)
        names = [name.strip() for name in shard.split("+")]
        for name in names:
            check.choice(where, PRESETS, preset=name)
            axis = DATA if name == "fsdp" else None if name == "replicated" else MODEL
            if axis is not None and axis not in mesh.shape:
                expected = f"the mesh should have an axis {axis!r} for {name!r}"
                check.fail(where, expected=expected, actual=f"the axes {', '.join(mesh.shape)}")
        return Placement(mesh, frozenset(names))

    @property
    def batch_parts(self) -> int:
        """Over how many devices a batch is divided."""
        return axis_size(self.mesh, DATA)

    def check_batch(self, where: str, batch_size: int, accumulate: int = 1) -> None:
        """Refuse a batch that the devices of the axis `data` do not divide: each of them would compute all of it.

        where: begins the message.
        batch_size: of a step.
        accumulate: into how many micro-batches it is divided.
        """
        multiple = self.batch_parts * accumulate
        if batch_size % multiple and batch_size % accumulate == 0:
            of = "batch_size" if accumulate == 1 else f"batch_size / accumulate ({accumulate})"
            expected = f"the {self.batch_parts} devices of the mesh axis {DATA!r} should divide {of}"
            actual = batch_size if accumulate == 1 else f"{batch_size} / {accumulate} = {batch_size // accumulate}"
            hint = f"Use a batch_size that is a multiple of {multiple}, or fewer devices."
            check.fail(where, expected=expected, actual=actual, hint=hint)

    def partition(self, model: Model) -> "ModelPartition | None":
        """How the values inside a model are divided; None where the compiler divides them by the arrays alone."""
        params, placed = self._placements(model)
        cut_layers = _TENSOR_CUTS if "tensor" in self.presets else ()
        of_params = {path: placed[path] for path in params}
        partition = ModelPartition(self.mesh, of_params, "sequence" in self.presets, cut_layers)
        return partition if partition.gathers or partition.sequence else None

    def constrain(self, tree: PyTree, model: Model) -> PyTree:
        """The traced arrays of a tree where `shardings` says. tree, model: as for `shardings`."""
        return jax.tree.map(jax.lax.with_sharding_constraint, tree, self.shardings("shard", tree, model))

    def structs(self, tree: PyTree, model: Model) -> PyTree:
        """The shapes of a tree with their shardings, to compile a program for. tree, model: as for `shardings`."""
        struct = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        return jax.tree.map(struct, tree, self.shardings("shard", tree, model))

    def whole(self, tree: PyTree) -> PyTree:
        """The arrays of a tree, whole on every device."""
        sharding = NamedSharding(self.mesh, PartitionSpec())
        return jax.tree.map(lambda leaf: put_array(leaf, sharding), tree)

    def put_rows(self, shape: tuple[int, ...], read: Callable[[slice], np.ndarray]) -> Any:
        """An array whose rows are divided over the devices of the batch; each process reads its own rows.

        shape: of the whole array.
        read: the rows of a slice.
        """
        divides = shape[0] % self.batch_parts == 0 and DATA in self.mesh.shape
        sharding = NamedSharding(self.mesh, PartitionSpec(DATA if divides else None))
        return jax.make_array_from_callback(shape, sharding, lambda index: read(index[0] if index else slice(None)))

    def tracing(self) -> Any:
        """The block in which a program for this mesh is traced."""
        return jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh)

    def shardings(self, where: str, tree: PyTree, model: Model | None) -> PyTree:
        """The sharding of each array of a tree. where, tree, model: as for `assign` and `nnfunc.shardings`."""
        leaves = paths.flatten(getattr(tree, "params", tree))
        state = paths.flatten(getattr(tree, "model_state", {}))
        placed = self.assign(where, model, state | leaves)
        whole = NamedSharding(self.mesh, PartitionSpec())

        def sharding(keys: Any, leaf: Any) -> NamedSharding:
            names = paths.path_of(keys).split("/")
            for start in range(len(names)):  # an array of the optimizer ends with the path of its parameter
                path = "/".join(names[start:])
                if path in placed and np.shape(leaf) == np.shape((leaves | state)[path]):
                    return NamedSharding(self.mesh, placed[path].spec)
            return whole

        return jax.tree.map_with_path(sharding, tree)

    def assign(self, where: str, model: Model | None, leaves: Mapping[str, Any]) -> dict[str, LeafPlacement]:
        """The placement of each leaf. model: whose parameters and state they are. leaves: by path."""
        axes: dict[str, list[str | None]] = {path: [None] * np.ndim(leaf) for path, leaf in leaves.items()}
        stacks, vocabularies = dict.fromkeys(leaves, 0), set[int]()
        for path, depth, role in () if model is None else layer_roles(model):
            start = "".join(f"{name}/" for name in path)
            if depth:
                stacks |= {leaf: max(depth, stacks[leaf]) for leaf in leaves if leaf.startswith(start)}
            if role == "embedding" and f"{start}weight" in leaves:
                vocabularies.add(np.shape(leaves[f"{start}weight"])[-2])
        for path, axis in self._model_cuts(model, leaves):
            self._cut(axes[path], np.shape(leaves[path]), axis, MODEL)
        if "fsdp" in self.presets:
            for path, leaf in leaves.items():
                self._cut_largest(axes[path], np.shape(leaf), stacks[path])
        _apply_patterns(where, self.patterns, leaves, axes)

        def placement(path: str) -> LeafPlacement:
            stored = _store(where, path, leaves[path], stacks[path], axes[path], self.mesh, vocabularies)
            return LeafPlacement(tuple(axes[path]), stacks[path], stored)

        return {path: placement(path) for path in leaves}

    def describe(self) -> str:
        """The mesh and the shard as text, such as "data = 4 (4 devices), shard fsdp"."""
        axes = ", ".join(f"{name} = {size}" for name, size in self.mesh.shape.items())
        patterns = [check.counted(len(self.patterns), "pattern")] if self.patterns else []
        shard = " and ".join(["+".join(sorted(self.presets)), *patterns])
        return f"{axes} ({check.counted(self.mesh.size, 'device')}), shard {shard}"

    def undivided(self, model: Model) -> list[str]:
        """Lines about arrays that a preset leaves whole, and about mesh axes that divide nothing.

        model: whose parameters they are.
        """
        leaves, placed = self._placements(model)
        matrices = [path for path, leaf in leaves.items() if np.ndim(leaf) > placed[path].stacks + 1]
        fsdp = matrices if "fsdp" in self.presets else []
        lines = []
        for axis, candidates in ((DATA, fsdp), (MODEL, [path for path, _ in self._model_cuts(model, leaves)])):
            whole = (
                [path for path in candidates if axis not in placed[path].axes] if axis_size(self.mesh, axis) > 1 else []
            )
            if whole:
                shown = ", ".join(f"{path} {np.shape(leaves[path])}" for path in whole[:4])
                more = f" and {len(whole) - 4} more" if len(whole) > 4 else ""
                size = format_bytes(sum(leaves[path].size * leaves[path].dtype.itemsize for path in whole))
                divides = f"{axis} = {axis_size(self.mesh, axis)} does not divide them"
                lines.append(f"whole on each device, {size}, because {divides}: {shown}{more}")
        used = {DATA, *(name for leaf in placed.values() for name in leaf.axes)}
        used |= {MODEL} if "sequence" in self.presets else set()
        for axis, size in self.mesh.shape.items():
            if size > 1 and axis not in used:
                lines.append(f"{axis} = {size} divides no array of this model, so its devices repeat the same work")
        return lines

    def _placements(self, model: Model) -> tuple[dict[str, Any], dict[str, LeafPlacement]]:
        """The shapes of the parameters by path, and the placements of these and of the arrays of the model's state."""
        params = paths.flatten(jax.eval_shape(model.init, jax.random.key(0)))
        return params, self.assign("shard", model, paths.flatten(model.state_shapes) | params)

    def _model_cuts(self, model: Model | None, leaves: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
        """(path, axis) of what the presets "expert" and "tensor" divide, if the devices do."""
        for path, _, role in () if model is None else layer_roles(model):
            for preset, cuts in (("expert", _EXPERT_CUTS), ("tensor", _TENSOR_CUTS)):
                for name, axis in cuts.get(role, {}).items() if preset in self.presets else ():
                    if (leaf := "/".join((*path, name))) in leaves:
                        yield leaf, axis

    def _cut(self, axes: list[str | None], shape: tuple[int, ...], axis: int, name: str) -> None:
        """Divide an axis where the devices divide it, and nothing else is divided over them."""
        size = axis_size(self.mesh, name)
        if len(shape) >= -axis and name not in axes and axes[axis] is None and shape[axis] % size == 0 and size > 1:
            axes[axis] = name

    def _cut_largest(self, axes: list[str | None], shape: tuple[int, ...], stacks: int) -> None:
        size = axis_size(self.mesh, DATA)
        free = [i for i in range(stacks, len(shape)) if axes[i] is None and shape[i] and shape[i] % size == 0]
        if free and size > 1 and len(shape) - stacks > 1:
            axes[max(free, key=lambda i: shape[i])] = DATA


def shardings(tree: PyTree, mesh: Mesh, shard: Shard = None, *, model: Model | None = None) -> PyTree:
    """The `NamedSharding` of each array of a train state, or of parameters.

    tree: a train state, whose optimizer state and averages lie as the parameters that they belong to; or
        parameters. Arrays or shapes.
    mesh: of `nf.mesh`.
    shard: a preset, several of them joined by "+", or a dict of patterns. None, the default, is "tensor" on a mesh
        with an axis `model`, and "replicated" without.
    "replicated": every device has all parameters, and the gradients are summed over the devices (data parallel).
    "fsdp": parameters, gradients, optimizer state and averages are cut over the axis `data`, each leaf along its
    largest axis that the devices divide; inside `nf.train` each layer gathers its weights when it needs them.
    "tensor": attention is cut by heads over `model`, and the hidden units of `nf.feed_forward` and of experts.
    "expert": whole experts are cut over `model`. "sequence": between the blocks of a `repeat` the values are cut
    along time over `model`; it needs `nf.train` or `nf.trainer`.
    A dict changes the default for the leaves whose paths match: {"tokens/weight": ["model", ""]} names a mesh axis
    for each of the last axes of a leaf, "" for none. A mesh axis that does not divide the rows of an
    `nf.embedding`, or an axis as long as these, divides another axis of the leaf here; the steps of `nf.train` pad
    it.
    model: whose parameters they are, needed by "tensor" and "expert"; without it the default for a dict is
        "replicated".
    Raises: ValueError for a pattern that matches nothing, or an axis that the devices do not divide.
    Source: "tensor": Shoeybi et al. 2019, arXiv:1909.08053, section 3; "fsdp": Rajbhandari et al. 2019,
    arXiv:1910.02054, stage 3; "sequence": Korthikanti et al. 2022, arXiv:2205.05198, section 4.2.

    >>> params = nf.linear(4, 16).init(jax.random.key(0))
    >>> tuple(nf.shardings(params, nf.mesh(data=1), {"weight": ["", "data"]})["weight"].spec)
    (None, 'data')
    """
    placement = Placement.of("shardings", mesh, shard)
    if model is None and isinstance(shard, Mapping):
        placement = replace(placement, presets=frozenset(["replicated"]))
    if model is None and placement.presets & {"tensor", "expert"} and axis_size(mesh, MODEL) > 1:
        names = ", ".join(sorted(placement.presets))
        hint = "Pass model=, or patterns and shard='replicated'."
        check.fail("shardings", f"shard = {names!r} needs the layers of the model.", hint=hint)
    return placement.shardings("shardings", tree, model)


def layer_roles(model: Model) -> Iterator[tuple[tuple[str, ...], int, str]]:
    """(path, number of repeats around it, name of its factory) of each layer inside a model, the outer ones first."""

    def walk(model: Model, path: tuple[str, ...], depth: int) -> Iterator[tuple[tuple[str, ...], int, str]]:
        yield path, depth, model.name
        for name, part in model.parts.items():
            yield from walk(part, path, depth + 1) if name == "*" else walk(part, (*path, name), depth)

    return walk(model, (), 0)


def _check_axes(where: str, mesh: Mesh, pattern: str, axes: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(pattern, str):
        expected = "shard should be a dict of mesh axes by path pattern, such as {'tokens/weight': ['model', '']}"
        check.fail(where, expected=expected, actual=f"the pattern {pattern!r}", exc_type=TypeError)
    if isinstance(axes, str) or not all(isinstance(axis, str) for axis in axes):
        expected = f"{pattern!r} should have a list of mesh axes, such as ['data', 'model'], '' for none"
        check.fail(where, expected=expected, actual=check.describe(axes), exc_type=TypeError)
    names = [axis for axis in axes if axis]
    for axis in names:
        check.choice(where, tuple(mesh.shape), **{f"{pattern!r}": axis})
    if len(set(names)) < len(names):
        check.fail(where, expected=f"{pattern!r} should name each mesh axis once", actual=list(axes))
    return tuple(axes)


def _apply_patterns(
    where: str,
    patterns: Sequence[tuple[str, tuple[str, ...]]],
    leaves: Mapping[str, Any],
    axes: dict[str, list[str | None]],
) -> None:
    """Change the last axes of the leaves that match. Numbers of layers have to agree, because a leaf is one array."""
    choices = {path: [tuple(one)] for path, one in axes.items()}  # of each leaf, and below which one each layer has
    chosen: dict[str, Any] = dict.fromkeys(leaves, 0)
    for pattern, names in patterns:
        for path, on in paths.match_params(pattern, leaves, where=where).items():
            count, old = np.ndim(leaves[path]), choices[path]
            if on is not False and len(names) > count:
                expected = f"{pattern!r} should name at most as many axes as {path} has, {count}"
                check.fail(where, expected=expected, actual=list(names))
            if on is not False:
                changed = tuple(name or None for name in names)
                new = [(*one[: count - len(names)], *changed) for one in old]
                if on is True:
                    choices[path] = new
                else:
                    choices[path] = [*old, *new]
                    chosen[path] = np.where(on, chosen[path] + len(old), chosen[path])
    for path, indices in chosen.items():
        divisions = {choices[path][i] for i in np.unique(indices)}
        if len(divisions) > 1:
            expected = "patterns should match whole leaves here, or divide all layers of one alike"
            actual = f"some layers of {path} ({np.size(indices)} layers in one array, which has one sharding)"
            hint = "Leave the number out, or use nf.serial, where each layer has arrays of its own."
            check.fail(where, expected=expected, actual=actual, hint=hint)
        axes[path] = [*divisions.pop()]


def _refuse_axis(where: str, path: str, shape: tuple[int, ...], axis: int, name: str, mesh: Mesh) -> NoReturn:
    """Refuse a mesh axis that does not divide an axis of an array."""
    size = shape[axis]
    divisors = ", ".join(str(n) for n in range(1, min(size, mesh.size) + 1) if size % n == 0)
    expected = f"{name} = {axis_size(mesh, name)} should divide the axis of size {size} of {path}"
    hint = f"Sizes of {name} that divide it: {divisors}. Or divide another of its axes, {shape}."
    check.fail(where, f"{expected}.", hint=hint)


def _store(
    where: str, path: str, leaf: Any, stacks: int, axes: Sequence[str | None], mesh: Mesh, vocabularies: Collection[int]
) -> tuple[Any, ...]:
    """The division of an array between steps, which JAX only stores in equal parts.

    A mesh axis that does not divide a vocabulary divides the last of the other axes that it can, or none.
    """
    stored: list[tuple[str, ...]] = [(name,) if name else () for name in axes]
    parts = lambda names: math.prod(axis_size(mesh, name) for name in names)
    shape = np.shape(leaf)
    for i, name in enumerate(axes):
        if name is None or shape[i] % axis_size(mesh, name) == 0:
            continue
        if shape[i] not in vocabularies:
            _refuse_axis(where, path, shape, i, name, mesh)
        stored[i] = ()
        free = [j for j in range(stacks, len(shape)) if j != i and shape[j] % parts((*stored[j], name)) == 0]
        if free:
            stored[free[-1]] += (name,)
    return tuple(names if len(names) > 1 else next(iter(names), None) for names in stored)
