"""The pair `init`, `step` that trains a task."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nnfunc import check, checkpoint
from nnfunc.base import (
    Key,
    Params,
    PyTree,
    Watch,
    as_model,
    canonicalize,
    divide_examples,
    fold,
    shape_struct,
    vary_like,
)
from nnfunc.calls import Described, explain_call
from nnfunc.checkpoint.checkpoint_leaves import named_leaves
from nnfunc.distributed.mesh import as_mesh
from nnfunc.distributed.model_partition import divided
from nnfunc.distributed.placement import Placement, Shard
from nnfunc.training import layer_stats
from nnfunc.training.several_models import AlternatingObjectives, JointModel, joint_model
from nnfunc.training.task import Build, Task, build_task, training_batch
from nnfunc.training.train_state import TrainState, check_train_state, refuse_train_state
from nnfunc.training.update import alternating_update, step_inputs, update_values


@dataclass(frozen=True, repr=False)
class Trainer(Described):
    """The training pair; it unpacks as `init, step`.

    init: (hypers, key, params=None, state=None) -> TrainState; with params and state (the model's), the run begins
        from copies of these instead of new ones.
    step: (hypers, state, batch) -> (state, metrics); with watch=True the metrics hold "layers": statistics of every
        layer.
    observe: (hypers, state, metrics) -> state: lets reduce_on_plateau see the validation metrics.
    """

    init: Callable[..., TrainState]
    step: Callable[..., tuple[TrainState, dict[str, Any]]]
    observe: Callable[[Any, TrainState, Mapping[str, Any]], TrainState]

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.init, self.step))


def trainer(
    build: Build,
    *,
    rate_scale: bool = False,
    mesh: Mesh | Mapping[str, int] | Placement | None = None,
    shard: Shard = None,
) -> Trainer:
    """The pair of pure functions that trains the task `build(hypers)`.

    Metrics of a step: `loss`, those of the objective, `gradient_norm` (over all leaves), and
    `learning_rate` if the optimizer has one.

    build: hypers -> Task, or (hypers, step) -> Task.
    rate_scale: whether the state holds a factor of the learning rate, 1 at first, to be changed from outside.
    mesh: of `nf.mesh`, over whose devices a jitted step is divided; None, the default, for none.
    shard: where parameters lie on it, as for `nf.shardings`.

    >>> def build(h):
    ...     return nf.Task(nf.linear(1, 1), nf.regression(), nf.optimizers.sgd(h["rate"]))
    >>> init, step = nf.trainer(build)
    >>> hypers, batch = {"rate": 0.1}, (jnp.ones((4, 1)), jnp.ones((4, 1)))
    >>> state, metrics = jax.jit(step)(hypers, init(hypers, jax.random.key(0)), batch)
    >>> sorted(metrics)
    ['gradient_norm', 'learning_rate', 'loss', 'mae']
    >>> again = init(hypers, jax.random.key(1), params=state.params)  # fine-tuning
    >>> bool((again.params["weight"] == state.params["weight"]).all()), int(again.step)
    (True, 0)
    """

    placement = placement_of("trainer", mesh, shard)

    def init(hypers, key, *, params=None, state=None):
        check.key("train", key)
        task = build_task(build, hypers)
        model = as_model(task.model)
        init_key, model_state = fold(key, "init"), model.init_state(fold(key, "init_state"))
        refuse_train_state("train", params=params, state=state)
        if params is not None and state is None and model_state:
            hint = "Pass state= too; state=model.init_state() starts its statistics anew."
            problem = f"the model keeps state, {sorted(model_state)}, so params alone are not enough."
            check.fail("train", problem, hint=hint)
        if params is None:
            params = model.init(init_key)
        else:
            params = _copy_like("params", params, _init_shapes(model.init, init_key))
        if state is not None:
            model_state = _copy_like("state", state, model_state)
        new = TrainState(
            step=jnp.zeros((), jnp.int32),
            key=jnp.copy(key),  # as the params: training donates the state, and the key belongs to the caller
            params=params,
            model_state=model_state,
            opt_state=task.optimizer.init(params),
            diverged_at=jnp.full((), -1, jnp.int32),
            average=() if task.average is None else task.average.init((params, model_state)),
            plateau=() if task.plateau is None else task.plateau.init(),
            rate_scale=jnp.ones((), jnp.float32) if rate_scale else (),
        )
        if placement is not None:
            return placement.constrain(new, model)
        arrays = [leaf for leaf in jax.tree.leaves((hypers, new)) if hasattr(leaf, "dtype")]
        # inside shard_map all of it varies as its first update will, but for the counter of steps
        return vary_like(new, arrays)._replace(step=new.step)

    def step(hypers, state, batch, *, watch=False):
        check_train_state("step(hypers, state, batch)", state, hypers, batch)
        if placement is None:
            return run_step(build_task(build, hypers, state.step), state, batch, watch)
        with placement.tracing():
            task = partition_task(build_task(build, hypers, state.step), placement)
            lengths = {np.shape(leaf)[0] for leaf in jax.tree.leaves(batch) if np.ndim(leaf)}
            if len(lengths) == 1:  # otherwise the batch counts as one example, such as a graph
                placement.check_batch("train", lengths.pop(), task.accumulate)
            new, metrics = run_step(task, state, batch, watch)
            return placement.constrain(new, as_model(task.model)), metrics

    def run_step(task, state, batch, watch):
        key = jax.random.fold_in(state.key, state.step)
        watcher = Watch() if watch else None
        update = alternating_update if isinstance(task.objective, AlternatingObjectives) else update_values
        running = state.diverged_at < 0
        # micro-batches are divided one by one
        batch = training_batch(task, batch if task.accumulate > 1 else divide_examples(batch), key)
        old, inputs = step_inputs(state, batch, key, running, watcher)
        result = update(task, old, inputs)
        new, metrics = result.new, result.metrics
        if watcher is not None:
            layers = layer_stats.parameter_stats(state.params, result.grads, new.params, watcher)
            metrics["layers"] = {"parameters": layers, "activations": result.activations}
        return state._replace(
            step=state.step + 1,
            diverged_at=jnp.where(running & ~result.finite, state.step, state.diverged_at),
            **new._asdict(),
        ), metrics

    def observe(hypers, state, metrics):
        check_train_state("observe(hypers, state, metrics)", state, hypers, metrics)
        plateau = build_task(build, hypers, state.step).plateau
        if plateau is None:
            return state
        if plateau.metric not in metrics:
            near = check.nearest(plateau.metric, list(metrics))
            problem = f"metric should be a validation metric, got {plateau.metric!r}{near}"
            check.fail("reduce_on_plateau", problem)
        value = jnp.asarray(metrics[plateau.metric], jnp.float32)
        return state._replace(plateau=plateau.update(state.plateau, value))

    functions = {"init": init, "step": step, "observe": observe}
    return Trainer(**{name: explain_call(function, f"trainer.{name}") for name, function in functions.items()})


def placement_of(where: str, mesh: Mesh | Mapping[str, int] | Placement | None, shard: Shard) -> Placement | None:
    """The placement of two arguments of a function. where: begins the message of the error."""
    if isinstance(mesh, Placement):
        return mesh
    mesh = as_mesh(where, mesh)
    if mesh is None and shard is not None:
        expected = "there should be a mesh to place arrays on"
        check.fail(f"{where}: shard", expected=expected, actual="none", hint="Add one, such as data = -1.")
    return None if mesh is None else Placement.of(f"{where}: shard", mesh, shard)


def partition_task(task: Task, placement: Placement | None) -> Task:
    """The task, the values inside of whose model are divided over devices. task: checked. placement: None for not."""
    partition = None if placement is None else placement.partition(task.model)
    if partition is None:
        return task
    if not isinstance(task.model, JointModel):
        return task._replace(model=divided(task.model, partition))
    return task._replace(model=joint_model({name: divided(part, partition) for name, part in task.model.parts.items()}))


def _init_shapes(init: Callable[[Key], Params], key: Key) -> Params:
    """The shapes of new parameters, computed without arithmetic where init can be traced."""
    with suppress(jax.errors.ConcretizationTypeError):  # it draws with NumPy
        return jax.eval_shape(init, key)
    return init(key)


def _copy_like(name: str, tree: PyTree, like: PyTree) -> PyTree:
    """A copy of the tree, whose paths, shapes and dtypes must be those of `like`.

    A copy, because training donates the train state, and the arrays belong to the caller.
    """
    tree = canonicalize(tree, "train")
    expected, actual = (checkpoint.leaf_entries(jax.tree.map(shape_struct, value)) for value in (like, tree))
    differences = checkpoint.list_differences(expected, actual)
    if differences:
        hint = "Build the model with the settings it was trained with."
        problem = f"{name} should have the paths, shapes and dtypes of the model. {hint}{differences}"
        check.fail("train", problem)
    leaves = named_leaves(tree)[0]
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.array(leaves[path]) for path in expected])
