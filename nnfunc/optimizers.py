"""Optimizers: short optax chains in which every number may be traced.

Each is optax's pair, `init(params) -> state` and `update(grads, state, params) -> updates, state`,
and works wherever optax takes one; `optimizer.rate(step)` is its learning rate. rate is a number or
a schedule. All calculate, and keep their state, in float32 (float64 where a parameter is float64),
and give updates of the parameters' types.

Gradients are clipped first: clip is the largest norm of all of them together, and inf is off.

Weight decay is for matrices: decay_on="matrices" means every leaf whose last name has the word
weight, kernel or embedding in it, and so neither biases nor the scales of norms. Shapes cannot tell
them: inside `repeat` a bias has an axis of layers before its own. Leaves without names, those of
lists, count from two axes on. decay_on takes path patterns too, such as ("**/weight", "head/*"),
"**" for all, () for none, or a function params -> tree of booleans.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nnfunc import check, paths, schedules
from nnfunc.base import Array, Params, PyTree, Scalar, Schedule, cast_floating

__all__ = ["Optimizer", "adam", "adamw", "as_optimizer", "lamb", "lion", "rmsprop", "sgd"]

Leaves = str | tuple[str, ...] | Callable[[Params], PyTree]
"""Some of the parameters: "matrices", path patterns, or a function params -> tree of booleans."""

TINY = (
    1e-30  # below the square of any eps: keeps the gradient of sqrt finite at 0, changes no value
)


class Optimizer(optax.GradientTransformationExtraArgs):
    """optax's pair `init, update` with `rate`, the schedule of its learning rate or None.

    >>> init, update = sgd(0.5)
    >>> float(sgd(0.5).rate(0))
    0.5
    """

    rate: Schedule | None = None

    def __new__(cls, init: Any, update: Any, rate: Schedule | None = None) -> "Optimizer":
        self = super().__new__(cls, init, update)
        self.rate = rate
        return self


def sgd(
    rate: Scalar | Schedule, *, momentum: Scalar = 0.0, nesterov: bool = False,
    weight_decay: Scalar = 0.0, clip: Scalar = math.inf, decay_on: Leaves = "matrices",
) -> Optimizer:  # fmt: skip
    """Gradient descent, with momentum when that is not 0.

    d = gradient + weight_decay * parameter;  m = momentum * m + d
    parameter -= rate * m, with nesterov: parameter -= rate * (d + momentum * m)
    momentum: in [0, 1), and at 0 both forms are plain gradient descent.
    Raises: ValueError when a number is out of its range.
    Source: PyTorch's SGD with dampening 0; Sutskever et al. 2013, sections 2 and 3.

    >>> optimizer = sgd(0.5)
    >>> params, grads = {"bias": jnp.array([1.0])}, {"bias": jnp.array([0.25])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> updates["bias"].tolist()
    [-0.125]
    """
    check.number("sgd", 0, 1, open_high=True, momentum=momentum)
    check.number("sgd", 0, weight_decay=weight_decay)

    def pieces(number):
        decay = _decay("sgd", number(weight_decay), decay_on)
        return decay, optax.trace(number(momentum), nesterov=nesterov)

    return _optimizer("sgd", rate, clip, pieces)


def adam(
    rate: Scalar | Schedule, *, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8,
    weight_decay: Scalar = 0.0, clip: Scalar = math.inf, decay_on: Leaves = "matrices",
) -> Optimizer:  # fmt: skip
    """Steps of about the size of the rate: the mean gradient over the root of its mean square.

    d = gradient + weight_decay * parameter
    m = b1 * m + (1 - b1) * d;  v = b2 * v + (1 - b2) * d**2
    parameter -= rate * m / (1 - b1**t) / (sqrt(v / (1 - b2**t)) + eps), t = 1, 2, ...
    Its decay is part of the gradient; `adamw` keeps the two apart. b1, b2: in [0, 1).
    Raises: ValueError when a number is out of its range.
    Source: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1; PyTorch's Adam.

    >>> optimizer = adam(0.5, eps=0.0)
    >>> params, grads = {"bias": jnp.array([1.0])}, {"bias": jnp.array([0.25])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> [round(update, 6) for update in updates["bias"].tolist()]
    [-0.5]
    """
    _check_adam("adam", b1, b2, eps, weight_decay)

    def pieces(number):
        return _decay("adam", number(weight_decay), decay_on), _by_adam(
            number(b1), number(b2), number(eps)
        )

    return _optimizer("adam", rate, clip, pieces)


def adamw(
    rate: Scalar | Schedule, *, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-8,
    weight_decay: Scalar = 1e-2, clip: Scalar = math.inf, decay_on: Leaves = "matrices",
) -> Optimizer:  # fmt: skip
    """Adam with weight decay beside it, not in its averages.

    parameter -= rate * (adam's step + weight_decay * parameter)
    b1, b2: in [0, 1). weight_decay: 0.01 by default, as in PyTorch (optax has 0.0001).
    Raises: ValueError when a number is out of its range.
    Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2; PyTorch's AdamW.

    >>> optimizer = adamw(0.5, weight_decay=0.25)
    >>> params, grads = {"weight": jnp.array([[1.0]])}, {"weight": jnp.array([[0.0]])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> updates["weight"].tolist()
    [[-0.125]]
    """
    _check_adam("adamw", b1, b2, eps, weight_decay)

    def pieces(number):
        return _by_adam(number(b1), number(b2), number(eps)), _decay(
            "adamw", number(weight_decay), decay_on
        )

    return _optimizer("adamw", rate, clip, pieces)


def rmsprop(
    rate: Scalar | Schedule, *, decay: Scalar = 0.99, eps: Scalar = 1e-8, momentum: Scalar = 0.0,
    centered: bool = False, weight_decay: Scalar = 0.0, clip: Scalar = math.inf,
    decay_on: Leaves = "matrices",
) -> Optimizer:  # fmt: skip
    """The gradient over the root of its mean square, with momentum when that is not 0.

    d = gradient + weight_decay * parameter;  v = decay * v + (1 - decay) * d**2
    m = momentum * m + d / (sqrt(v) + eps);  parameter -= rate * m
    centered: v less the square of the mean of d in the root, so that it is d's deviation.
    decay, momentum: in [0, 1).
    Raises: ValueError when a number is out of its range.
    Source: Tieleman and Hinton 2012, lecture 6.5; centered, Graves 2013, arXiv:1308.0850, equation
    38; PyTorch's RMSprop.

    >>> optimizer = rmsprop(0.5, decay=0.75, eps=0.0)
    >>> params, grads = {"bias": jnp.array([1.0])}, {"bias": jnp.array([0.25])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> updates["bias"].tolist()
    [-1.0]
    """
    check.number("rmsprop", 0, 1, open_high=True, decay=decay, momentum=momentum)
    check.number("rmsprop", 0, eps=eps, weight_decay=weight_decay)

    def pieces(number):
        scaled = _by_rms(number(decay), number(eps), centered)
        return (
            _decay("rmsprop", number(weight_decay), decay_on),
            scaled,
            optax.trace(number(momentum)),
        )

    return _optimizer("rmsprop", rate, clip, pieces)


def lion(
    rate: Scalar | Schedule, *, b1: Scalar = 0.9, b2: Scalar = 0.99, weight_decay: Scalar = 0.1,
    clip: Scalar = math.inf, decay_on: Leaves = "matrices",
) -> Optimizer:  # fmt: skip
    """Steps of exactly the size of the rate: the sign of a mean of the gradients.

    c = b1 * m + (1 - b1) * gradient;  m = b2 * m + (1 - b2) * gradient
    parameter -= rate * (sign(c) + weight_decay * parameter)
    It wants a rate 3 to 10 times smaller than AdamW's, and a weight_decay as many times larger.
    Raises: ValueError when a number is out of its range.
    Source: Chen et al. 2023, arXiv:2302.06675, algorithm 2.

    >>> optimizer = lion(0.5)
    >>> params, grads = {"bias": jnp.array([1.0, 1.0])}, {"bias": jnp.array([0.25, -3.0])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> updates["bias"].tolist()
    [-0.5, 0.5]
    """
    check.number("lion", 0, 1, open_high=True, b1=b1, b2=b2)
    check.number("lion", 0, weight_decay=weight_decay)

    def pieces(number):
        decay = _decay("lion", number(weight_decay), decay_on)
        return optax.scale_by_lion(number(b1), number(b2)), decay

    return _optimizer("lion", rate, clip, pieces)


def lamb(
    rate: Scalar | Schedule, *, b1: Scalar = 0.9, b2: Scalar = 0.999, eps: Scalar = 1e-6,
    weight_decay: Scalar = 1e-2, clip: Scalar = math.inf, decay_on: Leaves = "matrices",
    stacked: Leaves = (),
) -> Optimizer:  # fmt: skip
    """AdamW for large batches: each leaf's step is made as long as the leaf, times the rate.

    u = adam's step + weight_decay * parameter;  parameter -= rate * |parameter| / |u| * u
    Where one of the two norms is 0, their ratio counts as 1. stacked: the leaves whose first axis
    is the layers of a `repeat`, such as "blocks/**"; there each layer has a norm of its own.
    Raises: ValueError when a number is out of its range.
    Source: You et al. 2020, arXiv:1904.00962, algorithm 2, with phi(z) = z.

    >>> optimizer = lamb(0.5, weight_decay=0.0)
    >>> params, grads = {"weight": jnp.array([[3.0, 4.0]])}, {"weight": jnp.array([[9.0, 0.0]])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> updates["weight"].tolist()
    [[-2.5, 0.0]]
    """
    _check_adam("lamb", b1, b2, eps, weight_decay)

    def pieces(number):
        decay = _decay("lamb", number(weight_decay), decay_on)
        return _by_adam(number(b1), number(b2), number(eps)), decay, _by_trust_ratio(stacked)

    return _optimizer("lamb", rate, clip, pieces)


def as_optimizer(
    transformation: Any, *, rate: Scalar | Schedule | None = None, where: str = "as_optimizer"
) -> Optimizer:
    """The Optimizer of any optax transformation, or of a bare pair (init, update).

    Its updates come in the parameters' types, under strict promotion too. rate: its learning rate,
    if that is to be known.
    Raises: TypeError when it is none of these.

    >>> init, update = as_optimizer(optax.adabelief(1e-3))
    """
    if isinstance(transformation, Optimizer):
        return transformation
    pair: Any = transformation
    if not isinstance(pair, tuple):  # such as optax.MultiSteps
        pair = getattr(transformation, "init", None), getattr(transformation, "update", None)
    if not (len(pair) == 2 and all(map(callable, pair))):
        wanted = "one of optax or nf.optimizers, such as nf.optimizers.adamw(1e-3)"
        got = check.describe(transformation)
        check.fail(where, f"an optimizer should be {wanted}, got {got}.", kind=TypeError)
    if not isinstance(pair, optax.GradientTransformation):
        pair = optax.GradientTransformation(*pair)
    inner = optax.with_extra_args_support(pair)

    def init(params):
        with jax.numpy_dtype_promotion("standard"):
            return inner.init(params)

    def update(grads, state, params=None, **extra):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = inner.update(grads, state, params, **extra)
        return _cast_like(updates, grads if params is None else params), state

    schedule = None if rate is None else schedules.as_schedule(rate, where=f"{where}: rate")
    return Optimizer(init, update, schedule)


def _optimizer(
    where: str, rate: Scalar | Schedule, clip: Scalar, pieces: Callable[[Any], tuple[Any, ...]]
) -> Optimizer:
    """clip, then the pieces, then the rate. pieces: a function of what makes arrays of numbers."""
    schedule = schedules.as_schedule(rate, where=f"{where}: rate")
    if not callable(rate):
        check.number(where, 0, rate=rate)
    check.number(where, 0, open_low=True, clip=clip)

    def chain(dtype):
        def number(value):
            return jnp.asarray(value, dtype)

        descend = optax.scale_by_schedule(lambda step: -schedule(step))
        return optax.chain(_clip(number(clip)), *pieces(number), descend)

    def init(params):
        dtype = _wide(params)
        return chain(dtype).init(cast_floating(params, dtype))

    def update(grads, state, params=None, **extra):
        if params is None:
            check.fail(
                where, "update needs the parameters: optimizer.update(grads, state, params)."
            )
        dtype = _wide(params)
        grads, wide = cast_floating(grads, dtype), cast_floating(params, dtype)
        updates, state = chain(dtype).update(grads, state, wide)
        return _cast_like(updates, params), state

    return Optimizer(init, update, schedule)


def _wide(params: Params) -> Any:
    """The type to calculate in: float64 where a parameter has it, else float32."""
    types = {jnp.result_type(leaf) for leaf in jax.tree.leaves(params)}
    return jnp.float64 if jnp.dtype("float64") in types else jnp.float32


def _cast_like(tree: PyTree, like: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf, other: leaf.astype(jnp.result_type(other)), tree, like)


def _clip(limit: Array) -> optax.GradientTransformation:
    """Gradients whose norm, all of them together, is at most the limit."""

    def clip(grads, params):
        total = sum(
            (jnp.sum(grad**2) for grad in jax.tree.leaves(grads)), start=jnp.zeros_like(limit)
        )
        norm = jnp.where(total > 0, jnp.sqrt(jnp.where(total > 0, total, 1)), total)
        over = norm > limit  # what is not chosen has no inf / inf, in gradients neither
        scale = jnp.where(over, jnp.where(over, limit, 1) / jnp.where(over, norm, 1), 1)
        return jax.tree.map(lambda grad: grad * scale, grads)

    return optax.stateless(clip)


def _decay(where: str, weight_decay: Array, decay_on: Leaves) -> optax.GradientTransformation:
    """Adds weight_decay * parameter to the updates of the chosen leaves."""

    def decay(updates, params):
        chosen = _chosen(f"{where}: decay_on", params, decay_on)
        add = lambda update, param, on: update + weight_decay * param if on else update
        return jax.tree.map(add, updates, params, chosen)

    return optax.stateless(decay)


def _chosen(where: str, params: Params, leaves: Leaves) -> PyTree:
    """A tree of Python booleans in the shape of params."""
    if callable(leaves):
        return leaves(params)
    if leaves == "matrices":
        return jax.tree.map_with_path(
            lambda keys, leaf: is_matrix(paths.path_of(keys), leaf), params
        )
    return paths.mask(params, leaves, where=where)


def is_matrix(path: str, leaf: Array) -> bool:
    name = path.rsplit("/", 1)[-1]
    if name.isdigit() or not name:
        return jnp.ndim(leaf) >= 2
    return not {"weight", "kernel", "embedding"}.isdisjoint(name.split("_"))


def _by_adam(b1: Array, b2: Array, eps: Array) -> optax.GradientTransformation:
    """optax's scale_by_adam for strict promotion, which refuses a float to the power of a count."""

    def init(params):
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros(), zeros())

    def update(updates, state, params=None):
        mean = _toward(state.mu, updates, b1)
        square = _toward(state.nu, jax.tree.map(jnp.square, updates), b2)
        count = optax.safe_increment(state.count)
        t = jnp.asarray(count, b1.dtype)
        scale = lambda m, v: m / (1 - b1**t) / (jnp.sqrt(v / (1 - b2**t) + TINY) + eps)
        return jax.tree.map(scale, mean, square), optax.ScaleByAdamState(count, mean, square)

    return optax.GradientTransformation(init, update)


def _toward(old: PyTree, new: PyTree, decay: Array) -> PyTree:
    """The running mean, one step on."""
    return jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, old, new)


class RmsState(NamedTuple):
    """Running means of the squared gradients, and of the gradients where they are needed."""

    square: PyTree
    mean: PyTree


def _by_rms(decay: Array, eps: Array, centered: bool) -> optax.GradientTransformation:
    """optax's scale_by_rms and scale_by_stddev, with a root that rounding cannot take below 0."""

    def init(params):
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)
        return RmsState(zeros(), zeros() if centered else ())

    def update(updates, state, params=None):
        square = _toward(state.square, jax.tree.map(jnp.square, updates), decay)
        mean = _toward(state.mean, updates, decay) if centered else ()
        variance = square
        if centered:
            variance = jax.tree.map(lambda s, m: jnp.maximum(s - m**2, 0), square, mean)
        scale = lambda grad, v: grad / (jnp.sqrt(v + TINY) + eps)
        return jax.tree.map(scale, updates, variance), RmsState(square, mean)

    return optax.GradientTransformation(init, update)


def _by_trust_ratio(stacked: Leaves) -> optax.GradientTransformation:
    """Every update as long as its parameter; layer by layer in the stacked leaves."""

    def scale(update, param, layers):
        axes = tuple(range(1 if layers else 0, param.ndim))
        u = jnp.sum(update**2, axes, keepdims=True)
        p = jnp.sum(param**2, axes, keepdims=True)
        both = (u > 0) & (p > 0)
        return update * jnp.where(both, jnp.sqrt(jnp.where(both, p, 1) / jnp.where(both, u, 1)), 1)

    def scale_all(updates, params):
        return jax.tree.map(scale, updates, params, _chosen("lamb: stacked", params, stacked))

    return optax.stateless(scale_all)


def _check_adam(where: str, b1: Scalar, b2: Scalar, eps: Scalar, weight_decay: Scalar) -> None:
    check.number(where, 0, 1, open_high=True, b1=b1, b2=b2)
    check.number(where, 0, eps=eps, weight_decay=weight_decay)
