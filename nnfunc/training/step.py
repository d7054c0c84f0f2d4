"""The pair `init`, `step` that trains what a build makes, and the state that goes from step to step."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nnfunc import check
from nnfunc.base import Array, Key, Params, PyTree, Watch, as_model, fold, match_dtype, widen
from nnfunc.training import layer_stats
from nnfunc.training.gradients import gradient_of
from nnfunc.training.task import Build, Task, built, training_batch
from nnfunc.vector_norm import global_norm

__all__ = ["TrainState", "Trainer", "evaluated", "trainer"]


class TrainState(NamedTuple):
    """All that a run is: arrays only, so that saving it saves the run.

    step: steps done. key: the run's key; step t draws from `fold_in(key, t)`. diverged_at: the first
    step whose loss, gradient or new parameters were not finite, or -1; from then on params stay
    what they were. average: of (params, model_state), where the task averages. plateau: what
    reduce_on_plateau remembers. rate_scale: what rolling back left of the learning rate. The last three
    are () where they are not used.
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


@dataclass(frozen=True)
class Trainer:
    """The training pair; it unpacks as `init, step`.

    init(hypers, key) -> state. step(hypers, state, batch) -> (state, metrics); with watch=True the
    metrics hold "layers", see `nf.training.watching`. observe(hypers, state, figures) -> state: what
    follows from the figures of held-out examples, which is reduce_on_plateau's business.
    """

    init: Callable[[Any, Key], TrainState]
    step: Callable[..., tuple[TrainState, dict[str, Any]]]
    observe: Callable[[Any, TrainState, Mapping[str, Any]], TrainState]

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.init, self.step))


def trainer(build: Build, *, rate_scale: bool = False) -> Trainer:
    """The pair of pure functions that trains what `build(hypers)` makes.

    Metrics of a step: `loss`, those of the objective, `gradient_norm` (over all leaves), and
    `learning_rate` when the optimizer tells its schedule. rate_scale: whether the state holds a factor
    of the learning rate, 1 at first, for whoever wants to change it from outside.

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
        params, model_state = model.init(fold(key, "init")), model.init_state()
        return TrainState(
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

    def step(hypers, state, batch, *, watch=False):
        task = built(build, hypers, state.step)
        key = jax.random.fold_in(state.key, state.step)
        noted = Watch() if watch else None
        gradient = gradient_of(task, noted)
        seen = gradient(state.params, state.model_state, training_batch(task, batch, key), key)
        norm = global_norm(seen.grads)
        scale = _scale(state)
        metrics: dict[str, Any] = {"loss": seen.loss, **seen.metrics, "gradient_norm": norm}
        metrics |= _rate(task, state.step, scale)

        def update():
            # for optimizers that ask
            told = {"value": seen.loss, "grad": seen.grads, "gradient_norm": norm}
            told |= {} if scale is None else {"rate_scale": scale}
            with jax.numpy_dtype_promotion("standard"):  # optax's own do not run under "strict"
                updates, opt = task.optimizer.update(seen.grads, state.opt_state, state.params, **told)
            params = optax.apply_updates(state.params, updates)
            opt = jax.tree.map(match_dtype, opt, state.opt_state)
            average = state.average
            if task.average is not None:
                average = task.average.update(average, (params, seen.model_state), state.step)
                average = jax.tree.map(match_dtype, average, state.average)
            return params, seen.model_state, opt, average

        going = state.diverged_at < 0
        old = (state.params, state.model_state, state.opt_state, state.average)
        finite = jnp.isfinite(seen.loss) & jnp.isfinite(norm)
        new, finite = _guarded(finite, going, update, old)
        params, model_state, opt_state, average = new
        if noted is not None:
            layers = layer_stats.parameters(state.params, seen.grads, params, noted)
            metrics["layers"] = {"parameters": layers, "activations": seen.activations}
        return state._replace(
            step=state.step + 1,
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            diverged_at=jnp.where(going & ~finite, state.step, state.diverged_at),
            average=average,
        ), metrics

    def observe(hypers, state, figures):
        plateau = built(build, hypers, state.step).plateau
        if plateau is None:
            return state
        if plateau.metric not in figures:
            known = check.nearest(plateau.metric, list(figures))
            wanted = "metric should be a validation figure"
            check.fail("reduce_on_plateau", f"{wanted}, got {plateau.metric!r}{known}")
        told = jnp.asarray(figures[plateau.metric], jnp.float32)
        return state._replace(plateau=plateau.update(state.plateau, told))

    return Trainer(init, step, observe)


def evaluated(task: Task, state: TrainState) -> tuple[Params, PyTree]:
    """The (params, model_state) to evaluate and to use: the averaged ones where the task averages."""
    own = (state.params, state.model_state)
    return own if task.average is None else task.average.read(state.average, own)


def _scale(state: TrainState) -> Array | None:
    """What the learning rate is multiplied by, or None where nothing does."""
    scales = [] if isinstance(state.rate_scale, tuple) else [state.rate_scale]
    scales += [] if state.plateau == () else [state.plateau.value]
    return None if not scales else jnp.stack([jnp.asarray(s, jnp.float32) for s in scales]).prod()


def _rate(task: Task, step: Array, scale: Array | None) -> dict[str, Array]:
    """The learning rate, when the optimizer tells it."""
    rate = getattr(task.optimizer, "learning_rate", None)
    if rate is None:
        return {}
    rate = jnp.asarray(rate(step) if callable(rate) else rate).astype(jnp.float32)
    return {"learning_rate": rate if scale is None else rate * scale}


def _guarded(finite: Array, going: Array, update: Callable[[], PyTree], old: PyTree) -> tuple[PyTree, Array]:
    """What update() makes of old (params, and what goes with them), where the step is finite.

    Where only the new parameters are not finite, they alone, and their average, stay as they were. On
    CPU the update is a branch, within which it is done in place; selecting it costs a copy of
    everything, a tenth of the step of an MLP. On a GPU a branch would wait for its condition.
    """

    def checked() -> tuple[PyTree, Array]:
        params, *others = update()
        sums = [jnp.isfinite(jnp.sum(widen(leaf))) for leaf in jax.tree.leaves(params)]
        fine = jnp.stack(sums).all() if sums else jnp.asarray(True)
        keep = lambda new, old: jnp.where(fine, new, old)
        *others, average = others
        params = jax.tree.map(keep, params, old[0])
        return (params, *others, jax.tree.map(keep, average, old[-1])), fine

    healthy = finite & going
    if jax.default_backend() == "cpu":
        return jax.lax.cond(healthy, checked, lambda: (old, finite))
    new, fine = checked()
    new = jax.tree.map(lambda new, old: jnp.where(healthy, new, old), new, old)
    return new, finite & (fine | ~going)
