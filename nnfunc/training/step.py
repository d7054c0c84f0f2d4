"""The pair `init`, `step` that trains a task, and the train state that it updates."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from nnfunc import check, checkpoint, paths
from nnfunc.base import (
    Array,
    Key,
    Params,
    PyTree,
    Watch,
    as_model,
    canonicalize,
    divide_examples,
    fold,
    match_dtype,
    shape_struct,
    shape_text,
    vary_like,
    varying_axes,
    widen,
)
from nnfunc.calls import Described, explain_call
from nnfunc.display import html_table, html_text, tree_html
from nnfunc.distributed.mesh import as_mesh
from nnfunc.distributed.model_partition import divided
from nnfunc.distributed.placement import Placement, Shard
from nnfunc.optimizers import Optimizer
from nnfunc.sums import sum_all
from nnfunc.training import layer_stats
from nnfunc.training.gradients import gradient_of
from nnfunc.training.several_models import AlternatingObjectives, JointModel, JointOptimizer, joint_model
from nnfunc.training.task import Build, Task, build_task, training_batch
from nnfunc.vector_norm import global_norm

__all__ = [
    "TrainState",
    "Trainer",
    "alternating_turns",
    "eval_params",
    "partition_task",
    "placement_of",
    "refuse_train_state",
    "step_inputs",
    "trainer",
]


class TrainState(NamedTuple):
    """The whole state of a run, arrays only: a checkpoint of it is complete.

    step: steps done. key: the run's key; step t draws from `fold_in(key, t)`. params, model_state,
    opt_state: of the model and the optimizer. diverged_at: the first step whose loss, gradient or new
    parameters were not finite, or -1; from then on the parameters do not change. average: the average
    of (params, model_state), if the task averages. plateau: the state of reduce_on_plateau. rate_scale:
    the factor of the learning rate after rollbacks. The last three are () where they are not used.
    """

    step: Array
    key: Key
    params: Params
    model_state: PyTree
    opt_state: PyTree
    diverged_at: Array
    average: PyTree = ()
    plateau: PyTree = ()
    rate_scale: PyTree = ()

    def __repr__(self) -> str:
        lines = [f"  {path}: {shape}" for path, shape in self._shapes()]
        more = [f"  and {len(lines) - 12} more"] if len(lines) > 12 else []
        return "\n".join([self._title(), *lines[:12], *more])

    def _repr_html_(self) -> str:
        rows = [("parameter", "shape"), *self._shapes()]
        return tree_html(self._asdict()) or html_text(self._title()) + html_table(rows)

    def _shapes(self) -> list[tuple[str, str]]:
        return [(path, shape_text(leaf)) for path, leaf in paths.flatten(self.params).items()]

    def _title(self) -> str:
        total = sum(getattr(leaf, "size", 0) for leaf in jax.tree.leaves(self.params))
        plain = isinstance(self.step, jax.Array) and not check.is_traced(self.step) and self.step.ndim == 0
        after = f" after {check.counted(int(self.step), 'step')}" if plain else ""
        return f"TrainState{after}, {total:,} parameters:"


@dataclass(frozen=True, repr=False)
class Trainer(Described):
    """The training pair; it unpacks as `init, step`.

    init: (hypers, key, params=None, state=None) -> TrainState; with params and state (the model's), the
    run begins from copies of these instead of new ones. step: (hypers, state, batch) -> (state,
    metrics); with watch=True the metrics hold "layers": statistics of every layer. observe: (hypers,
    state, metrics) -> state: lets reduce_on_plateau see the validation metrics.
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

    build: hypers -> Task, or (hypers, step) -> Task. rate_scale: whether the state holds a factor of the
    learning rate, 1 at first, to be changed from outside. mesh: of `nf.mesh`, over whose devices a jitted step is
    divided; None, the default, for none. shard: where parameters lie on it, as for `nf.shardings`.

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
            hint = "Pass state= too; to start its statistics anew, state=model.init_state()."
            check.fail("train", f"the model keeps state, {sorted(model_state)}, so params alone do not do.", hint=hint)
        if params is None:
            params = model.init(init_key)
        else:
            params = _copy_like("params", params, _init_shapes(model.init, init_key))
        if state is not None:
            model_state = _copy_like("state", state, model_state)
        new = TrainState(
            step=jnp.zeros((), jnp.int32),
            key=key,
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
        _check_train_state("step(hypers, state, batch)", state, hypers, batch)
        if placement is None:
            return run_step(build_task(build, hypers, state.step), state, batch, watch)
        with placement.tracing():
            task = partition_task(build_task(build, hypers, state.step), placement)
            new, metrics = run_step(task, state, batch, watch)
            return placement.constrain(new, as_model(task.model)), metrics

    def run_step(task, state, batch, watch):
        key = jax.random.fold_in(state.key, state.step)
        watcher = Watch() if watch else None
        update = _alternating_update if isinstance(task.objective, AlternatingObjectives) else _update
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
        _check_train_state("observe(hypers, state, metrics)", state, hypers, metrics)
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


def _check_train_state(call: str, state: Any, *others: Any) -> None:
    """Refuse what is not a train state, and say where it stands instead. call: as it is written."""
    if isinstance(state, TrainState):
        return
    actual, hint = check.describe(state), f"Call it as {call}, with the state of trainer.init or of the last step."
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[0], TrainState):
        actual, hint = "a pair (state, metrics)", "A step returns both: state, metrics = step(hypers, state, batch)."
    elif any(isinstance(other, TrainState) for other in others):
        hint = f"The order of the arguments is {call}."
    where, expected = f"trainer.{call.partition('(')[0]}", "state should be a TrainState"
    check.fail(where, expected=expected, actual=actual, hint=hint, exc_type=TypeError)


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


class Values(NamedTuple):
    """The part of a train state that an update changes, under the same names."""

    params: Params
    model_state: PyTree
    opt_state: PyTree
    average: PyTree


class StepInputs(NamedTuple):
    """What an update reads. scale: the factor of the learning rate. running: whether the run has not diverged."""

    batch: PyTree
    key: Key
    step: Array
    scale: Array | None
    running: Array
    watcher: Watch | None


def step_inputs(
    state: TrainState, batch: PyTree, key: Key, running: Array, watcher: Watch | None = None
) -> tuple[Values, StepInputs]:
    """What the update of a step starts from and reads.

    state: before the step. batch: as the objective takes it. key: the step's. running, watcher: of `StepInputs`.
    """
    old = Values(state.params, state.model_state, state.opt_state, state.average)
    return old, StepInputs(batch, key, state.step, _learning_rate_scale(state), running, watcher)


class Updated(NamedTuple):
    """The result of one update. finite: whether its loss, gradient and new parameters are."""

    new: Values
    metrics: dict[str, Any]
    finite: Array
    grads: PyTree
    activations: Any


class Turn(NamedTuple):
    """The turn of one objective. name: of its model. old, new: the values of all models before and after it."""

    name: str
    old: Values
    new: Values
    key: Key
    result: Updated


def _update(
    task: Task, old: Values, inputs: StepInputs, whole: Callable[[Params], Params] = lambda params: params
) -> Updated:
    """One update by the gradient of the task's objective, which keeps the old values if it is not finite.

    whole: as for `gradient_of`.
    """
    batch, key, step, scale, running, watcher = inputs
    result = gradient_of(task, step, watcher, whole)(old.params, old.model_state, batch, key)
    norm = global_norm(result.grads)
    metrics: dict[str, Any] = {"loss": result.loss, **result.metrics, "gradient_norm": norm}
    metrics |= _learning_rate_metric(task.optimizer, step, scale)

    def update():
        # for optimizers that ask
        extra = {"value": result.loss, "grad": result.grads, "gradient_norm": norm}
        extra |= {} if scale is None else {"rate_scale": scale}
        with jax.numpy_dtype_promotion("standard"):  # optax's own optimizers fail under "strict"
            updates, opt = task.optimizer.update(result.grads, old.opt_state, old.params, **extra)
        params = optax.apply_updates(old.params, updates)
        opt = jax.tree.map(match_dtype, opt, old.opt_state)
        return Values(params, result.model_state, opt, _new_average(task, old, params, result.model_state, step))

    finite = jnp.isfinite(result.loss) & jnp.isfinite(norm)
    new, finite = _update_if_finite(finite, running, update, old)
    return Updated(new, metrics, finite, result.grads, result.activations)


def _new_average(task: Task, old: Values, params: Params, model_state: PyTree, step: Array) -> PyTree:
    if task.average is None:
        return old.average
    average = task.average.update(old.average, (params, model_state), step)
    return jax.tree.map(match_dtype, average, old.average)


def alternating_turns(task: Task, old: Values, inputs: StepInputs) -> Iterator[Turn]:
    """The updates of the objectives that take turns, one after the other, each from the values that the last one left.

    task: with an AlternatingObjectives. old: before the step. inputs: of the step. An update that is not finite, and
    those after it, keep the values.
    """
    new, finite = old, jnp.asarray(True)
    for name, objective in task.objective.parts:
        if name not in new.params:
            problem = f"the model {name!r} has an objective, and no parameters to train."
            check.fail("build", problem, hint="Give the objective to the model that it should train.")
        part = task._replace(objective=objective, optimizer=task.optimizer.parts[name], average=None)
        whole = lambda params, others=new.params, name=name: others | {name: params}
        values = Values(new.params[name], new.model_state, new.opt_state[name], ())
        of_turn = inputs._replace(key=fold(inputs.key, name), running=inputs.running & finite)
        result = _update(part, values, of_turn, whole)
        before = new
        new = new._replace(
            params=whole(result.new.params),
            model_state=result.new.model_state,
            opt_state=new.opt_state | {name: result.new.opt_state},
        )
        finite &= result.finite
        yield Turn(name, before, new, of_turn.key, result)


def _alternating_update(task: Task, old: Values, inputs: StepInputs) -> Updated:
    """The updates of the objectives that take turns; all keep the old values if one of them is not finite."""
    new, finite, metrics, activations = old, jnp.asarray(True), {}, {}
    grads = jax.tree.map(jnp.zeros_like, old.params)
    for turn in alternating_turns(task, old, inputs):
        new, result = turn.new, turn.result
        finite &= result.finite
        grads[turn.name] = result.grads
        metrics |= {f"{turn.name}_{metric}": value for metric, value in result.metrics.items()}
        activations |= result.activations
    metrics["loss"] = sum(metrics[f"{name}_loss"] for name, _ in task.objective.parts)
    metrics["gradient_norm"] = global_norm(grads)
    new = new._replace(average=_new_average(task, old, new.params, new.model_state, inputs.step))
    new = jax.tree.map(lambda new, old: jnp.where(finite & inputs.running, new, old), new, old)
    return Updated(new, metrics, finite, grads, activations)


def eval_params(task: Task, state: TrainState) -> tuple[Params, PyTree]:
    """The (params, model_state) to evaluate and to use: the averaged ones if the task averages.

    task: of the run. state: its train state.

    >>> task = nf.Task(nf.linear(2, 3), nf.classification(), nf.optimizers.sgd(0.1))
    >>> state = nf.trainer(lambda h: task).init({}, jax.random.key(0))
    >>> params, model_state = nf.training.eval_params(task, state)
    >>> sorted(params)
    ['bias', 'weight']
    """
    current = (state.params, state.model_state)
    return current if task.average is None else task.average.read(state.average, current)


def _init_shapes(init: Callable[[Key], Params], key: Key) -> Params:
    """The shapes of new parameters, computed without arithmetic where init can be traced."""
    with suppress(jax.errors.ConcretizationTypeError):  # it draws with NumPy
        return jax.eval_shape(init, key)
    return init(key)


def refuse_train_state(where: str, **trees: Any) -> None:
    """Refuse a whole train state where its parameters, or the state of the model, belong.

    where: begins the message. trees: the arguments by name.
    """
    for name, tree in trees.items():
        if isinstance(tree, TrainState):
            hint = "Pass params=state.params, state=state.model_state."
            check.fail(where, expected=f"{name} should be a tree of arrays", actual="a whole train state", hint=hint)


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
    leaves = checkpoint.named_leaves(tree)[0]
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.array(leaves[path]) for path in expected])


def _learning_rate_scale(state: TrainState) -> Array | None:
    """The factor of the learning rate, or None without one."""
    scales = [] if isinstance(state.rate_scale, tuple) else [state.rate_scale]
    scales += [] if state.plateau == () else [state.plateau.value]
    return None if not scales else jnp.stack([jnp.asarray(s, jnp.float32) for s in scales]).prod()


def _learning_rate_metric(optimizer: Optimizer, step: Array, scale: Array | None) -> dict[str, Array]:
    """The learning rate, if the optimizer has one; of several, by the names of their models."""
    if isinstance(optimizer, JointOptimizer):
        rates = {name: _learning_rate_metric(one, step, scale) for name, one in optimizer.parts.items()}
        return {f"{name}_{metric}": value for name, one in rates.items() for metric, value in one.items()}
    rate = getattr(optimizer, "learning_rate", None)
    if rate is None:
        return {}
    rate = jnp.asarray(rate(step) if callable(rate) else rate).astype(jnp.float32)
    return {"learning_rate": rate if scale is None else rate * scale}


def _update_if_finite(finite: Array, running: Array, update: Callable[[], Values], old: Values) -> tuple[Values, Array]:
    """update() of the old values if the step is finite, else the old values.

    If only the new parameters are not finite, they alone, and their average, stay as they were. On
    CPU the update is a branch, which XLA runs in place; selecting the result costs a copy of
    everything, a tenth of the step of an MLP. On a GPU a branch would wait for its condition.
    """

    def checked_update() -> tuple[Values, Array]:
        new = update()
        sums = [jnp.isfinite(sum_all(widen(leaf))) for leaf in jax.tree.leaves(new.params)]
        params_finite = jnp.stack(sums).all() if sums else jnp.asarray(True)
        keep = lambda new, old: jax.tree.map(lambda new, old: jnp.where(params_finite, new, old), new, old)
        return new._replace(params=keep(new.params, old.params), average=keep(new.average, old.average)), params_finite

    if axes := varying_axes(finite):  # inside shard_map every device has to decide alike
        finite = jax.lax.psum((~finite).astype(jnp.int32), axes) == 0
    healthy = finite & running
    if jax.default_backend() == "cpu" and not axes:
        return jax.lax.cond(healthy, checked_update, lambda: (old, finite))
    new, params_finite = checked_update()
    new = jax.tree.map(lambda new, old: jnp.where(healthy, new, old), new, old)
    return new, finite & (params_finite | ~running)
