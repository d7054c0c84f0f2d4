"""The pair that every optimizer is, and how wrappers are put around one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nnfunc import check, paths, schedules
from nnfunc.base import Params, PyTree, Scalar, Schedule, cast_floating, wide_dtype
from nnfunc.calls import Described, factory_hint
from nnfunc.paths import where_on


class Optimizer(Described, optax.GradientTransformationExtraArgs):
    """optax's pair `init, update`, with its learning rate and its frozen parameters for a trainer.

    learning_rate: the schedule of its learning rate, or None.
    frozen: the patterns of the parameters that it never moves, whose gradients it does not read. update takes
        rate_scale=, a factor of the learning rate of this step: one number, or a tree of them in the shape of the
        parameters. A wrapper passes it on to the inner optimizer, so that `max_norm` still limits the weights.
        update takes gradient_norm= too, the global norm of these gradients where it is known, to save a pass over
        them; a wrapper that changes the gradients drops it.

    >>> init, update = nf.optimizers.sgd(0.5)
    >>> float(nf.optimizers.sgd(0.5).learning_rate(0))
    0.5
    """

    learning_rate: Schedule | None = None
    frozen: tuple[str, ...] = ()

    def __new__(
        cls, init: Any, update: Any, learning_rate: Schedule | None = None, frozen: tuple[str, ...] = ()
    ) -> "Optimizer":
        self = super().__new__(cls, init, update)
        self.learning_rate, self.frozen = learning_rate, frozen
        return self


def as_optimizer(
    transformation: Any, *, learning_rate: Scalar | Schedule | None = None, where: str = "as_optimizer"
) -> Optimizer:
    """The Optimizer of any optax transformation, or of a bare pair (init, update).

    Its updates come in the parameters' types, under strict promotion too.
    learning_rate: that of the transformation, if that is to be known.
    where: the function that error messages name.
    Raises: TypeError when it is none of these.

    >>> init, update = as_optimizer(optax.adabelief(1e-3))
    """
    if isinstance(transformation, Optimizer):
        return transformation
    pair: Any = transformation
    if not isinstance(pair, tuple):  # such as optax.MultiSteps
        pair = getattr(transformation, "init", None), getattr(transformation, "update", None)
    if not (len(pair) == 2 and all(map(callable, pair))):
        expected = "an optimizer should be one of optax or nf.optimizers, such as nf.optimizers.adamw(1e-3)"
        hint = factory_hint(transformation)
        check.fail(where, expected=expected, actual=check.describe(transformation), hint=hint, exc_type=TypeError)
    if not isinstance(pair, optax.GradientTransformation):
        pair = optax.GradientTransformation(*pair)
    inner = optax.with_extra_args_support(pair)

    def init(params):
        with jax.numpy_dtype_promotion("standard"):
            return inner.init(params)

    def update(grads, state, params=None, *, rate_scale=None, gradient_norm=None, **extra):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = inner.update(grads, state, params, **extra)
        updates = scaled(updates, rate_scale)
        return cast_like(updates, grads if params is None else params), state

    schedule = None if learning_rate is None else schedules.as_schedule(learning_rate, where=f"{where}: learning_rate")
    return Optimizer(init, update, schedule)


def wide_type(params: Params) -> Any:
    """The dtype to compute in: float64 where a parameter has it, else float32.

    params: any pytree of arrays.
    """
    dtypes = {wide_dtype(leaf) for leaf in jax.tree.leaves(params)}
    return jnp.float64 if jnp.float64 in dtypes else jnp.float32


def require_params(where: str, params: Params | None) -> None:
    """Raise the error of the optimizer `where` when its update was called without params."""
    if params is None:
        expected = "update should be called with the parameters, optimizer.update(grads, state, params)"
        check.fail(where, expected=expected, actual="none")


def scaled(updates: PyTree, rate_scale: PyTree | None) -> PyTree:
    """The updates as they are at a multiple of the learning rate: of a number, or one for each leaf.

    rate_scale: the multiple, or None for 1.
    """
    if rate_scale is None:
        return updates
    if jax.tree.structure(rate_scale) == jax.tree.structure(0):  # one for all
        rate_scale = jax.tree.map(lambda _: rate_scale, updates)
    return jax.tree.map(lambda u, s: u * jnp.asarray(s, u.dtype), updates, rate_scale)


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """The leaves of tree in the types of the same leaves of like."""
    return jax.tree.map(lambda leaf, other: leaf.astype(jnp.result_type(other)), tree, like)


def checked_at_init(init: Callable[..., PyTree], *checks: Callable[[Params], Any]) -> Callable[..., PyTree]:
    """The init, after checks(params): a pattern that matches nothing fails there, and not at the first update.

    init: params -> state.
    checks: functions of the parameters, for their errors.
    """

    def checked(params: Params) -> PyTree:
        for one in checks:
            one(params)
        return init(params)

    return checked


def wrapped(
    where: str,
    inner: Optimizer,
    init: Callable[[Params], PyTree],
    update: Callable[[PyTree, PyTree, Params, dict[str, Any]], tuple[PyTree, PyTree]],
    *,
    frozen: tuple[str, ...] = (),
) -> Optimizer:
    """An optimizer around another: init(params), and update(grads, state, params, extra).

    Both see float32 (float64 where a parameter is), so that the inner one keeps that too, and only
    the final updates are rounded to the parameters' types. What the inner one freezes stays, and so do
    the leaves that the patterns `frozen` fit.
    """
    frozen = tuple(dict.fromkeys((*inner.frozen, *frozen)))

    def begin(params):
        return init(cast_floating(params, wide_type(params)))

    def step(grads, state, params=None, **extra):
        require_params(where, params)
        dtype = wide_type(params)
        grads, wide = cast_floating(grads, dtype), cast_floating(params, dtype)
        updates, state = update(grads, state, wide, extra)
        if frozen:
            fixed = paths.mask(params, frozen, where=where)
            updates = jax.tree.map(lambda on, u: where_on(on, jnp.zeros_like(u), u), fixed, updates)
        return cast_like(updates, params), state

    return Optimizer(begin, step, inner.learning_rate, frozen)
