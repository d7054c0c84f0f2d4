"""Measurements of a task for `doctor` and `overfit`: small programs that run on a few examples."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, device_memory
from nnfunc.base import Context, Key, Params, PyTree, Watch, as_model, fold, trace_state
from nnfunc.debug.first_state import init_params, without_augmentation
from nnfunc.errors import MissingKeyError
from nnfunc.training.divergence import numbered_path, ordered_taps
from nnfunc.training.gradients import loss_and_metrics
from nnfunc.training.objectives import call_objective
from nnfunc.training.several_models import JointModel
from nnfunc.training.task import Task, build_task


class FixedOutputs:
    """A `predict` for objectives that returns precomputed outputs, one for each call."""

    def __init__(self, task: Task, params: Params, state: PyTree, outputs: list[PyTree]):
        self.model, self.params, self.ctx = as_model(task.model), params, Context(state=state)
        self._outputs = iter(outputs)

    def __call__(self, x: PyTree, *others: PyTree) -> PyTree:
        return next(self._outputs)


def loss_of_outputs(task: Task, params: Params, state: PyTree, batch: PyTree, outputs: list[PyTree]) -> Any:
    """The loss of a task on a batch for given outputs of its model, one for each call of predict.

    params, state: of the model, for objectives that read them.
    """
    predict = FixedOutputs(task, params, state, outputs)
    return call_objective(task.objective, predict, batch, key=None, step=0)[0]


class RecordingPredict(FixedOutputs):
    """A `predict` in evaluation mode that records its inputs and outputs, outside of transformations."""

    def __init__(self, task: Task, params: Params, ctx: Context):
        super().__init__(task, params, ctx.state, [])
        self.ctx = ctx
        self.inputs: list[PyTree] = []
        self.outputs: list[PyTree] = []
        self.hidden = False
        self._trace = trace_state()

    def __call__(self, x: PyTree, *others: PyTree) -> PyTree:
        x = (x, *others) if others else x
        key = fold(self.ctx.key, "predict", len(self.inputs))
        y, out = self.model.forward(self.params, x, replace(self.ctx, key=key))
        if trace_state() != self._trace:  # inside jax.vmap and the like: no value may leave it
            self.hidden = True
            return y
        self.ctx = replace(self.ctx, state=out.state)
        self.inputs.append(x)
        self.outputs.append(y)
        return y


def split_pair(tree: PyTree) -> tuple[Any, Any]:
    """(x, target) of a pair; (tree, None) of anything else."""
    return (tree[0], tree[1]) if isinstance(tree, tuple | list) and len(tree) == 2 else (tree, None)


def is_floating(array: Any) -> bool:
    """Whether an array holds floating-point numbers."""
    return jnp.issubdtype(jnp.asarray(array).dtype, jnp.floating)


def _wave(mean: Any, deviation: Any, y: jax.Array) -> jax.Array:
    """Outputs on both sides of the mean, different for every example, in place of y."""
    if not is_floating(y):
        return y
    index = jnp.arange(y.size, dtype=jnp.float32).reshape(y.shape)
    return (mean + 1.4 * deviation * jnp.cos(2.4 * index)).astype(y.dtype)


@dataclass(eq=False)
class Probe:
    """A task with its initial parameters and one small batch.

    params, state: the initial parameters and model state.
    key: the key that training draws from.
    needs_key: whether the model refuses to run without a key.
    layer_order: the paths of the layers in the order of computation, once a forward pass has run.
    hides_calls: whether the objective calls predict inside a transformation, once `evaluation` was read.
    """

    task: Task
    params: Params
    state: PyTree
    batch: PyTree
    key: Key
    needs_key: bool = False
    layer_order: list[str] = field(default_factory=list)
    hides_calls: bool = False

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """The inputs, outputs and loss of the batch in evaluation mode, and losses of changed outputs.

        zeros: the loss when all outputs are 0. shifted: when one number is added to all of them.
        doubled: of the batch concatenated with itself. paired [ranges, 2]: of other outputs in several
        ranges, in their order and rolled by one example.
        Calls of predict inside a transformation such as jax.vmap are left out, and with them the changed losses, NaN.
        """

        def evaluate(params, state, batch):
            predict = RecordingPredict(self.task, params, Context(key=self.optional_key, state=state))
            loss, _ = call_objective(self.task.objective, predict, batch, key=None, step=0)
            self.hides_calls = predict.hidden
            targets = [
                t.astype(jnp.float32) for t in jax.tree.leaves(split_pair(batch)[1]) if is_floating(t) and t.size
            ]
            shift = 0.5 + sum(jnp.abs(target).max() for target in targets)

            def loss_of(change: Callable[[jax.Array], jax.Array], batch=batch):
                if predict.hidden or not predict.outputs:
                    return jnp.full((), jnp.nan)
                try:
                    outputs = jax.tree.map(change, predict.outputs)
                    return loss_of_outputs(self.task, params, state, batch, outputs)
                except (ValueError, TypeError, IndexError, StopIteration):
                    return jnp.full((), jnp.nan)  # the objective needs other shapes

            double = lambda leaf: jnp.concatenate([leaf, leaf])
            # several ranges, so that no loss is flat or a straight line in all of them
            ranges = [(0.0, 0.01), (0.0, 1.0), (0.0, 30.0), *((t.mean(), t.std()) for t in targets)]
            waves = [partial(_wave, *of_range) for of_range in ranges]
            return {
                "inputs": predict.inputs,
                "outputs": predict.outputs,
                "loss": loss,
                "zeros": loss_of(jnp.zeros_like),
                "shifted": loss_of(lambda y: y + jnp.asarray(shift, y.dtype)),
                "doubled": loss_of(double, jax.tree.map(double, batch)),
                "paired": [(loss_of(w), loss_of(lambda y, w=w: jnp.roll(w(y), 1, axis=0))) for w in waves],
            }

        args = self.params, self.state, self.batch
        return jax.device_get(self._compile(evaluate, *args)(*args))

    @property
    def optional_key(self) -> Key | None:
        """The key for evaluation: None unless the model refuses to run without one."""
        return self.key if self.needs_key else None

    @property
    def calls_model(self) -> bool:
        """Whether the objective calls predict outside of transformations, so that there are an x and a y."""
        return bool(self.evaluation["inputs"])

    @property
    def x(self) -> PyTree:
        """The first input of the model."""
        return self.evaluation["inputs"][0]

    @property
    def y(self) -> np.ndarray | None:
        """The model's output if it is one floating-point array, else None."""
        y = self.evaluation["outputs"][0] if self.calls_model else None
        return y if isinstance(y, np.ndarray) and y.ndim > 0 and is_floating(y) else None

    @property
    def size(self) -> int:
        """How many examples the batch has."""
        return jax.tree.leaves(self.batch)[0].shape[0]

    @cached_property
    def _forward(self) -> Callable[..., Any]:
        def forward(params, x, state, key, train):
            watch = Watch()
            ctx = Context(key=key, state=state, train=train, capture=("**",), watch=watch)
            y, out = as_model(self.task.model).forward(params, x, ctx)
            self.layer_order = [path for path in watch.paths if path in out.taps]
            return y, out.taps

        return jax.jit(forward, static_argnums=4)

    def forward(self, params: Params, x: PyTree, *, train: bool = False) -> tuple[Any, dict[str, Any]]:
        """(y, {path: output}) of the model alone: the floating-point output of every layer, in order.

        params, x: the arguments of the model.
        train: whether to run in training mode.
        """
        key = self.key if train else self.optional_key
        y, taps = jax.device_get(self._forward(params, x, self.state, key, train))
        outputs = {}
        for path, index in ordered_taps(self.layer_order, taps):
            leaves = [np.asarray(leaf)[index] for leaf in jax.tree.leaves(taps[path])]
            if len(leaves) == 1 and is_floating(leaves[0]):
                outputs[numbered_path(path, index)] = leaves[0]
        return y, outputs

    @cached_property
    def loss_and_gradients(self) -> Callable[[Params], tuple[Any, Params]]:
        """params -> (loss, gradients) of the batch in training mode."""

        def loss_of(params):
            return loss_and_metrics(self.task, params, self.state, self.batch, key=self.key, train=True)[0]

        return self._compile(jax.value_and_grad(loss_of), self.params)

    def _compile(self, function: Callable[..., Any], *args: Any) -> Any:
        """The compiled function. Raises: ValueError when it does not fit into the memory."""
        program, hint = f"a batch of {self.size} examples", "Make the model or the batch smaller."
        return device_memory.compile_checked("debug", jax.jit(function), program, hint, *args)

    @cached_property
    def perturbed(self) -> Params:
        """The parameters plus a little noise: none is 0 and no two are equal."""
        leaves, treedef = jax.tree.flatten(self.params)
        draw = np.random.default_rng(0)
        noisy = [leaf + jnp.asarray(0.02 * draw.normal(size=leaf.shape), leaf.dtype) for leaf in leaves]
        return jax.tree.unflatten(treedef, noisy)

    @cached_property
    def stacked_axes(self) -> dict[str, int]:
        """{path: leading axes} of the parameters that a `repeat` stacks."""
        axes = {}
        for path in self.layer_order:
            names = path.split("/")
            for i, name in enumerate(names):
                if name == "*":
                    axes["/".join(n for n in names[:i] if n != "*")] = names[: i + 1].count("*")
        return axes


def build_probe(
    where: str, build: Callable[..., Any], hypers: Any, data: Any, key: Key, max_batch_size: int
) -> tuple[Any, Probe]:
    """The data set without augmentation, and a probe of the task on its first batch.

    where: the function that asks, from which the probe's key is derived.
    build, hypers, data, key: as for `nf.train`.
    max_batch_size: the most examples of a batch.
    """
    data = without_augmentation(data, max_batch_size)
    task = build_task(build, hypers, 0)
    if isinstance(task.model, JointModel):
        hint = "Give each model a task of its own for it."
        check.fail(where, f"it looks at one model, and the task has {list(task.model.parts)}.", hint=hint)
    params, state = init_params(build, hypers, key)
    probe = Probe(task, params, state, jax.device_get(data.batch(0)), fold(key, where))
    try:
        probe.evaluation  # noqa: B018  runs the model without a key
    except MissingKeyError:
        probe.needs_key = True
    return data, probe


def weight_matrices(probe: Probe, leaves: dict[str, Any]) -> dict[str, np.ndarray]:
    """The weight matrices of leaves, {path: leaf}; those of a `repeat` layer by layer, as blocks/3/up/weight.

    probe: of the model, after a forward pass.
    """
    matrices = {}
    for path, leaf in leaves.items():
        parents = {parent: axes for parent, axes in probe.stacked_axes.items() if path.startswith(f"{parent}/")}
        parent = max(parents, key=lambda name: parents[name], default="")
        axes = parents.get(parent, 0)
        array = np.asarray(leaf, np.float32)
        if array.ndim - axes < 2:
            continue
        for index in np.ndindex(*array.shape[:axes]):
            name = "/".join((parent, *map(str, index), path[len(parent) + 1 :])) if axes else path
            matrices[name] = array[index]
    return matrices


def differ(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the results a and b differ by more than rounding errors."""
    with np.errstate(invalid="ignore", over="ignore"):
        a, b = a.astype(np.float64), b.astype(np.float64)
        scale = np.sqrt(np.mean(np.square(a))) + 1e-30
        return bool(np.abs(a - b).max(initial=0.0) > 1e-4 * scale)
