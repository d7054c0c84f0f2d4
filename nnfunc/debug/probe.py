"""What `doctor` and `overfit` measure of a task: a few small programs, run on a few examples."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import device_memory
from nnfunc.base import Context, Key, Params, PyTree, Watch, as_model, fold
from nnfunc.training.divergence import numbered, ordered_places
from nnfunc.training.gradients import loss_and_metrics
from nnfunc.training.task import Task

__all__ = ["FixedOutputs", "Probe", "loss_of_outputs", "rows_differ", "weight_matrices"]


class FixedOutputs:
    """In the place of predict: it returns outputs that were calculated before, call by call."""

    def __init__(self, task: Task, params: Params, state: PyTree, outputs: list[PyTree]):
        self.model, self.params, self.ctx = as_model(task.model), params, Context(state=state)
        self._outputs = iter(outputs)

    def __call__(self, x: PyTree) -> PyTree:
        return next(self._outputs)


def loss_of_outputs(task: Task, params: Params, state: PyTree, batch: PyTree, outputs: list[PyTree]) -> Any:
    """The loss of a batch if the model's outputs were these."""
    return task.objective(FixedOutputs(task, params, state, outputs), batch)[0]


class _Noting(FixedOutputs):
    """predict, and what it was given and returned in evaluation mode."""

    def __init__(self, task: Task, params: Params, ctx: Context):
        super().__init__(task, params, ctx.state, [])
        self.ctx = ctx
        self.inputs: list[PyTree] = []
        self.outputs: list[PyTree] = []

    def __call__(self, x: PyTree) -> PyTree:
        key = fold(self.ctx.key, "predict", len(self.inputs))
        y, out = self.model.forward(self.params, x, replace(self.ctx, key=key))
        self.ctx = replace(self.ctx, state=out.state)
        self.inputs.append(x)
        self.outputs.append(y)
        return y


def _targets(batch: PyTree) -> list[jax.Array]:
    """The targets that are floating-point numbers."""
    target = batch[1] if isinstance(batch, tuple | list) and len(batch) == 2 else ()
    leaves = [leaf for leaf in jax.tree.leaves(target) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return [leaf.astype(jnp.float32) for leaf in leaves if leaf.size]


def _ranges(targets: list[jax.Array]) -> list[tuple[Any, Any]]:
    """(middle, deviation) of outputs, so that no loss is flat, or a straight line, at all of them."""
    return [(0.0, 0.01), (0.0, 1.0), (0.0, 30.0), *((leaf.mean(), leaf.std()) for leaf in targets)]


def _waves(middle: Any, deviation: Any, y: jax.Array) -> jax.Array:
    """Numbers on both sides of a middle in the place of outputs, no two examples alike."""
    if not jnp.issubdtype(y.dtype, jnp.floating):
        return y
    places = jnp.arange(y.size, dtype=jnp.float32).reshape(y.shape)
    return (middle + 1.4 * deviation * jnp.cos(2.4 * places)).astype(y.dtype)


@dataclass(eq=False)
class Probe:
    """A task at its first parameters and one small batch. key: None, or what training draws from."""

    task: Task
    params: Params
    state: PyTree
    batch: PyTree
    key: Key
    needs_key: bool = False
    order: list[str] = field(default_factory=list)

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """inputs, outputs and loss of the batch, and the losses of changed outputs.

        zeros: all 0; shifted: one number added to all; doubled: everything twice; paired: of other
        outputs in several ranges, [ranges, 2], as they are and each example's given to the next.
        """

        def judge(params, state, batch):
            ctx = Context(key=self.key if self.needs_key else None, state=state)
            predict = _Noting(self.task, params, ctx)
            loss, _ = self.task.objective(predict, batch)
            ys = predict.outputs
            of = partial(loss_of_outputs, self.task, params, state)
            twice = partial(jax.tree.map, lambda leaf: jnp.concatenate([leaf, leaf]))
            targets = _targets(batch)
            size = 0.5 + sum(jnp.abs(leaf).max() for leaf in targets)
            more = partial(jax.tree.map, lambda y: y + jnp.asarray(size, y.dtype))
            rolled = partial(jax.tree.map, lambda y: jnp.roll(y, 1, axis=0))
            others = [partial(jax.tree.map, partial(_waves, *ends)) for ends in _ranges(targets)]

            def loss_of(of_batch, of_outputs):
                try:
                    return of(of_batch(batch), of_outputs(ys))
                except (ValueError, TypeError, IndexError, StopIteration):
                    return jnp.full((), jnp.nan)  # an objective of other shapes

            same = lambda tree: tree
            losses = {
                "zeros": loss_of(same, partial(jax.tree.map, jnp.zeros_like)),
                "shifted": loss_of(same, more),
                "doubled": loss_of(twice, twice),
                "paired": [
                    (loss_of(same, other), loss_of(same, lambda ys, other=other: rolled(other(ys)))) for other in others
                ],
            }
            return {"inputs": predict.inputs, "outputs": ys, "loss": loss, **losses}

        args = self.params, self.state, self.batch
        return jax.device_get(self._compiled(judge, *args)(*args))

    @property
    def x(self) -> PyTree:
        return self.evaluation["inputs"][0]

    @property
    def y(self) -> np.ndarray | None:
        """The model's output, where it is one floating-point array."""
        y = self.evaluation["outputs"][0]
        one = isinstance(y, np.ndarray) and y.ndim > 0 and jnp.issubdtype(y.dtype, jnp.floating)
        return y if one else None

    @property
    def size(self) -> int:
        return jax.tree.leaves(self.batch)[0].shape[0]

    @cached_property
    def _forward(self) -> Callable[..., Any]:
        def forward(params, x, state, key, train):
            watch = Watch()
            ctx = Context(key=key, state=state, train=train, capture=("**",), watch=watch)
            y, out = as_model(self.task.model).forward(params, x, ctx)
            self.order = [path for path in watch.seen if path in out.taps]
            return y, out.taps

        return jax.jit(forward, static_argnums=4)

    def forward(self, params: Params, x: PyTree, *, train: bool = False) -> tuple[Any, dict[str, Any]]:
        """(y, {path: value}) of the model alone, every layer's result in the order of computation."""
        key = self.key if self.needs_key or train else None
        y, taps = jax.device_get(self._forward(params, x, self.state, key, train))
        places = ordered_places(self.order, taps)
        named = {}
        for path, at in places:
            leaves = [np.asarray(leaf)[at] for leaf in jax.tree.leaves(taps[path])]
            if len(leaves) == 1 and jnp.issubdtype(leaves[0].dtype, jnp.floating):
                named[numbered(path, at)] = leaves[0]
        return y, named

    @cached_property
    def gradients(self) -> Callable[[Params], tuple[Any, Params]]:
        """params -> (loss, gradients) of the batch in training mode."""

        def loss_of(params):
            return loss_and_metrics(self.task, params, self.state, self.batch, key=self.key, train=True)[0]

        return self._compiled(jax.value_and_grad(loss_of), self.params)

    def _compiled(self, function: Callable[..., Any], *args: Any) -> Any:
        """The program of a function. Raises: ValueError where it does not fit into the memory."""
        what, hint = f"a batch of {self.size} examples", "Make the model or the batch smaller."
        return device_memory.compiled("debug", jax.jit(function), what, hint, *args)

    @cached_property
    def perturbed(self) -> Params:
        """The parameters, each moved a little at random: none is 0 any more, no two are equal."""
        leaves, treedef = jax.tree.flatten(self.params)
        draw = np.random.default_rng(0)
        moved = [leaf + jnp.asarray(0.02 * draw.normal(size=leaf.shape), leaf.dtype) for leaf in leaves]
        return jax.tree.unflatten(treedef, moved)

    @cached_property
    def stacked_axes(self) -> dict[str, int]:
        """How many leading axes the parameters below a path have, of the layers of a `repeat`."""
        found = {}
        for path in self.order:
            names = path.split("/")
            for i, name in enumerate(names):
                if name == "*":
                    start = "/".join(n for n in names[:i] if n != "*")
                    found[start] = names[: i + 1].count("*")
        return found


def weight_matrices(look: Probe, tree: dict[str, Any]) -> dict[str, np.ndarray]:
    """The weight matrices of {path: leaf}, each layer of a `repeat` by itself: blocks/3/up/weight."""
    found = {}
    for path, leaf in tree.items():
        lead = max((n for p, n in look.stacked_axes.items() if path.startswith(f"{p}/")), default=0)
        start = next((p for p, n in look.stacked_axes.items() if path.startswith(f"{p}/") and n == lead), "")
        array = np.asarray(leaf, np.float32)
        if array.ndim - lead < 2:
            continue
        for at in np.ndindex(*array.shape[:lead]):
            place = "/".join((start, *map(str, at), path[len(start) + 1 :])) if lead else path
            found[place] = array[at]
    return found


def rows_differ(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two results differ by more than rounding."""
    with np.errstate(invalid="ignore", over="ignore"):
        one, other = one.astype(np.float64), other.astype(np.float64)
        scale = np.sqrt(np.mean(np.square(one))) + 1e-30
        return bool(np.abs(one - other).max(initial=0.0) > 1e-4 * scale)
