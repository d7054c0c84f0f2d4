"""What is trained, and the pair `init`, `step` that trains it.

Hyperparameters are arguments: `build(hypers)` makes the model, the objective and the optimizer inside
the traced step. So one compiled step serves every learning rate, and `jax.vmap` over hypers trains
many at once.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nnfunc import check
from nnfunc.base import Array, Context, Key, Layer, Model, Params, PyTree, as_model, fold
from nnfunc.layers.linear import wide
from nnfunc.optimizers import as_optimizer

__all__ = ["Bound", "Build", "Task", "TrainState", "Trainer", "trainer"]


class Task(NamedTuple):
    """A model, what it is to achieve, and how it is improved.

    model: a Model, an (init, apply) pair or a function. objective: (predict, batch) -> (loss, metrics),
    where predict(x) is the model's y. optimizer: any optax transformation.
    """

    model: Layer
    objective: Callable[[Any, PyTree], tuple[Array, dict[str, Array]]]
    optimizer: Any


Build = Callable[[Any], Task]
"""hypers -> Task; hypers is a pytree of numbers, possibly traced."""


class TrainState(NamedTuple):
    """All that a run is: arrays only, so that saving it saves the run.

    step: steps done. key: the run's key; step t draws from `fold_in(key, t)`. diverged_at: the first
    step whose loss, gradient or new parameters were not finite, or -1; from then on params stay
    what they were.
    """

    step: Array
    key: Key
    params: Params
    model_state: PyTree
    opt_state: PyTree
    diverged_at: Array


class Trainer(NamedTuple):
    """The training pair: init(hypers, key) -> state; step(hypers, state, batch) -> (state, metrics)."""

    init: Callable[[Any, Key], TrainState]
    step: Callable[[Any, TrainState, PyTree], tuple[TrainState, dict[str, Array]]]


class Bound:
    """A model bound to its parameters for one step: `predict(x) -> y`.

    It hands the model's state from one call to the next, and each call draws fresh masks; calls
    inside a transformation of the objective's own share one mask and cannot change state.
    """

    def __init__(self, model: Model, params: Params, ctx: Context):
        self.model, self.params, self.ctx = model, params, ctx
        self._calls = 0

    def __call__(self, x: PyTree) -> PyTree:
        key = fold(self.ctx.key, "predict", self._calls)
        y, out = self.model.forward(self.params, x, replace(self.ctx, key=key))
        self.ctx = replace(self.ctx, state=out.state)
        self._calls += 1
        return y


def trainer(build: Build) -> Trainer:
    """The pair of pure functions that trains what `build(hypers)` makes.

    Metrics of a step: `loss`, those of the objective, `gradient_norm` (over all leaves), and
    `learning_rate` when the optimizer tells its schedule.

    >>> def build(h):
    ...     return nf.Task(nf.linear(1, 1), nf.regression(), nf.optimizers.sgd(h["rate"]))
    >>> init, step = nf.trainer(build)
    >>> hypers, batch = {"rate": 0.1}, (jnp.ones((4, 1)), jnp.ones((4, 1)))
    >>> state, metrics = jax.jit(step)(hypers, init(hypers, jax.random.key(0)), batch)
    >>> sorted(metrics)
    ['gradient_norm', 'learning_rate', 'loss', 'mae']
    """

    def init(hypers, key):
        check.key("train", key)
        task = built(build, hypers)
        model = as_model(task.model)
        params = model.init(fold(key, "init"))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            key=key,
            params=params,
            model_state=model.init_state(),
            opt_state=task.optimizer.init(params),
            diverged_at=jnp.full((), -1, jnp.int32),
        )

    def step(hypers, state, batch):
        task = built(build, hypers)
        key = jax.random.fold_in(state.key, state.step)

        def loss_of(params):
            return loss_and_metrics(task, params, state.model_state, batch, key=key, train=True)

        gradient = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (metrics, model_state)), grads = gradient(state.params)
        norm = optax.tree.norm(grads)
        metrics = {"loss": loss, **metrics, "gradient_norm": norm}
        rate = getattr(task.optimizer, "rate", None)
        if rate is not None:
            rate = rate(state.step) if callable(rate) else rate
            metrics["learning_rate"] = jnp.asarray(rate).astype(jnp.float32)

        def update():
            told = {"value": loss, "grad": grads}  # for those that ask, such as reduce_on_plateau
            with jax.numpy_dtype_promotion("standard"):  # optax's own do not run under "strict"
                updates, opt = task.optimizer.update(grads, state.opt_state, state.params, **told)
            params = optax.apply_updates(state.params, updates)
            return (
                params,
                _kept_kind(model_state, state.model_state),
                jax.tree.map(_like, opt, state.opt_state),
            )

        going = state.diverged_at < 0
        old = (state.params, state.model_state, state.opt_state)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        new, finite = _guarded(finite, going, update, old)
        diverged_at = jnp.where(going & ~finite, state.step, state.diverged_at)
        return TrainState(state.step + 1, state.key, new[0], new[1], new[2], diverged_at), metrics

    return Trainer(init, step)


def _guarded(
    finite: Array, going: Array, update: Callable[[], PyTree], old: PyTree
) -> tuple[PyTree, Array]:
    """What update() makes of old (params, model state, optimizer's state), where the step is finite.

    Where only the new parameters are not finite, they alone stay as they were. On CPU the update is a
    branch, within which it is done in place; selecting it costs a copy of everything, a tenth of the
    step of an MLP. On a GPU a branch would wait for its condition.
    """

    def checked() -> tuple[PyTree, Array]:
        params, *others = update()
        sums = [jnp.isfinite(jnp.sum(wide(leaf))) for leaf in jax.tree.leaves(params)]
        fine = jnp.stack(sums).all() if sums else jnp.asarray(True)
        params = jax.tree.map(lambda new, old: jnp.where(fine, new, old), params, old[0])
        return (params, *others), fine

    healthy = finite & going
    if jax.default_backend() == "cpu":
        return jax.lax.cond(healthy, checked, lambda: (old, finite))
    new, fine = checked()
    new = jax.tree.map(lambda new, old: jnp.where(healthy, new, old), new, old)
    return new, finite & (fine | ~going)


def _kept_kind(new: PyTree, old: PyTree) -> PyTree:
    """The model's new state in the types of the old one, whose structure and shapes it must have."""
    kinds = [jax.tree.map(jnp.shape, tree) for tree in (old, new)]
    if kinds[0] != kinds[1]:
        wanted = f"a layer's new state should have the shapes of its init_state, {kinds[0]}"
        check.fail("model", f"{wanted}, got {kinds[1]}.")
    return jax.tree.map(_like, new, old)


def _like(new: Any, old: Any) -> Array:
    """The new value in the old one's type: state that changes its type cannot be scanned."""
    return jnp.asarray(new).astype(jnp.asarray(old).dtype)


def kept(make: Callable[..., Any], size: int) -> Callable[..., Any]:
    """make, with its last `size` results kept; for arguments without a hash it is called each time."""
    cached = lru_cache(maxsize=size)(make)

    def get(*args):
        try:
            hash(args)
        except TypeError:
            return make(*args)
        return cached(*args)

    return get


def all_finite(tree: PyTree) -> Array:
    """Whether every number of a tree of floating-point arrays is finite."""
    each = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]
    return jnp.stack(each).all() if each else jnp.asarray(True)


def built(build: Build, hypers: Any) -> Task:
    """What build makes of the hypers, its kinds checked."""
    if not callable(build):
        got = check.describe(build)
        wanted = "a function hypers -> Task"
        check.fail(
            "train",
            f"build should be {wanted}, got {got}. Write def build(h): return ...",
            kind=TypeError,
        )
    try:
        task = build(hypers)
    except KeyError as error:
        if isinstance(hypers, dict) and error.args[0] not in hypers:
            got = f"hypers that hold {sorted(hypers)}"
            check.fail("build", f"it reads hypers[{error.args[0]!r}], got {got}.")
        raise
    except jax.errors.ConcretizationTypeError as error:
        error.add_note("build branched on a number of hypers, which may be traced: use jnp.where.")
        raise
    if not isinstance(task, tuple) or len(task) != 3:
        wanted = "a Task(model, objective, optimizer)"
        check.fail(
            "build", f"it should return {wanted}, got {check.describe(task)}.", kind=TypeError
        )
    model, objective, optimizer = task
    if not callable(objective):
        wanted = "a function (predict, batch) -> (loss, metrics), such as nf.classification()"
        got = check.describe(objective)
        check.fail("build", f"the objective should be {wanted}, got {got}.", kind=TypeError)
    as_model(model, where="build: model")
    return Task(model, objective, as_optimizer(optimizer, where="build"))


def loss_and_metrics(
    task: Task, params: Params, model_state: PyTree, batch: PyTree, *, key: Key | None, train: bool
) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
    """The objective of one batch: loss, (metrics, new model state)."""
    ctx = Context(key=key, train=train, state=model_state)
    predict = Bound(as_model(task.model), params, ctx)
    returned = task.objective(predict, batch)
    if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[1], dict):
        wanted = "(loss, metrics), metrics being a dict such as {}"
        got = check.describe(returned)
        check.fail("objective", f"it should return {wanted}, got {got}.", kind=TypeError)
    loss, metrics = returned
    taken = sorted({"loss", "gradient_norm", "learning_rate"} & set(metrics))
    if taken:
        check.fail("objective", f"its metrics should have names of their own, got {taken[0]!r}.")
    for name, value in {"loss": loss, **metrics}.items():
        if not (check.is_plain(value) or hasattr(value, "dtype")):
            got = check.describe(value)
            check.fail("objective", f"{name} should be one number, got {got}.", kind=TypeError)
        if jnp.shape(value) != ():
            cure = "Take the mean over the batch."
            check.fail(
                "objective", f"{name} should be one number, got shape {jnp.shape(value)}. {cure}"
            )
    return loss, ({k: jnp.asarray(v) for k, v in metrics.items()}, predict.ctx.state)
