"""Adagrad, Adadelta, Adamax, NAdam and RAdam, each a short chain of gradient transformations."""

import math

from nnfunc import check
from nnfunc.base import Scalar, Schedule
from nnfunc.optimizers.adaptive_transforms import by_adadelta, by_adagrad, by_adamax, by_nadam, by_radam
from nnfunc.optimizers.gradient_transforms import check_adam, optimizer
from nnfunc.optimizers.optimizer import Optimizer
from nnfunc.optimizers.weight_decay import Decay
from nnfunc.paths import Leaves


def adagrad(
    learning_rate: Scalar | Schedule,
    *,
    initial_accumulator: Scalar = 0.0,
    eps: Scalar = 1e-10,
    weight_decay: Decay = 0.0,
    clip: Scalar = math.inf,
    decay_on: Leaves = "matrices",
) -> Optimizer:
    """The gradient over the root of the sum of all its squares: rare entries make large steps.

    d = gradient + weight_decay * parameter;  v = v + d**2
    parameter -= learning_rate * d / (sqrt(v) + eps)
    initial_accumulator: v at first, at least 0.
    eps: at least 0.
    learning_rate: a number or a schedule.
    weight_decay: at least 0, or numbers by path pattern, {"head/**": 0.1}.
    clip: the largest global norm of the gradients, above 0; inf switches clipping off.
    decay_on: the leaves that decay, "matrices" by default: path patterns, or a function of the parameters.
    Very large and very small gradients are as in `adam`.
    Raises: ValueError when a number is out of its range.
    Source: Duchi et al. 2011, JMLR 12; PyTorch's Adagrad, whose lr_decay is a schedule here.

    >>> optimizer = adagrad(0.5, initial_accumulator=0.0625 * 3)
    >>> params, grads = {"bias": jnp.array([1.0])}, {"bias": jnp.array([0.25])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> updates["bias"].tolist()
    [-0.25]
    """
    check.number("adagrad", 0, initial_accumulator=initial_accumulator, eps=eps)

    def chain(number, decay):
        return decay, by_adagrad(number(initial_accumulator), number(eps))

    return optimizer("adagrad", learning_rate, chain, clip=clip, weight_decay=weight_decay, decay_on=decay_on)


def adadelta(
    learning_rate: Scalar | Schedule = 1.0,
    *,
    decay: Scalar = 0.9,
    eps: Scalar = 1e-6,
    weight_decay: Decay = 0.0,
    clip: Scalar = math.inf,
    decay_on: Leaves = "matrices",
) -> Optimizer:
    """Steps in the scale of the last steps: the learning rate is a factor near 1.

    d = gradient + weight_decay * parameter;  v = decay * v + (1 - decay) * d**2
    step = sqrt(s + eps) / sqrt(v + eps) * d;  s = decay * s + (1 - decay) * step**2
    parameter -= learning_rate * step
    decay: in [0, 1).
    eps: at least 0; the first steps are as small as its root.
    learning_rate: a number or a schedule.
    weight_decay: at least 0, or numbers by path pattern, {"head/**": 0.1}.
    clip: the largest global norm of the gradients, above 0; inf switches clipping off.
    decay_on: the leaves that decay, "matrices" by default: path patterns, or a function of the parameters.
    Very large and very small gradients are as in `adam`.
    Raises: ValueError when a number is out of its range.
    Source: Zeiler 2012, arXiv:1212.5701, algorithm 1; PyTorch's Adadelta.

    >>> optimizer = adadelta(1.0, decay=0.75, eps=0.0625)
    >>> params, grads = {"bias": jnp.array([1.0])}, {"bias": jnp.array([3.0**0.5 / 2])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> [round(update, 4) for update in updates["bias"].tolist()]
    [-0.433]
    """
    check.number("adadelta", 0, 1, open_high=True, decay=decay)
    check.number("adadelta", 0, eps=eps)

    def chain(number, add_decay):
        return add_decay, by_adadelta(number(decay), number(eps))

    return optimizer("adadelta", learning_rate, chain, clip=clip, weight_decay=weight_decay, decay_on=decay_on)


def adamax(
    learning_rate: Scalar | Schedule,
    *,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    weight_decay: Decay = 0.0,
    clip: Scalar = math.inf,
    decay_on: Leaves = "matrices",
) -> Optimizer:
    """Adam by the largest of the decayed gradients, in place of the root of their mean square.

    d = gradient + weight_decay * parameter
    m = b1 * m + (1 - b1) * d;  u = max(b2 * u, |d| + eps)
    parameter -= learning_rate * m / (1 - b1**t) / u, t = 1, 2, ...
    b1, b2: in [0, 1).
    eps: at least 0.
    learning_rate: a number or a schedule.
    weight_decay: at least 0, or numbers by path pattern, {"head/**": 0.1}.
    clip: the largest global norm of the gradients, above 0; inf switches clipping off.
    decay_on: the leaves that decay, "matrices" by default: path patterns, or a function of the parameters.
    Raises: ValueError when a number is out of its range.
    Source: Kingma and Ba 2015, arXiv:1412.6980, algorithm 2; PyTorch's Adamax.

    >>> optimizer = adamax(0.5, eps=0.0)
    >>> params, grads = {"bias": jnp.array([1.0])}, {"bias": jnp.array([0.25])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> [round(update, 6) for update in updates["bias"].tolist()]
    [-0.5]
    """
    check_adam("adamax", b1, b2, eps)

    def chain(number, decay):
        return decay, by_adamax(number(b1), number(b2), number(eps))

    return optimizer("adamax", learning_rate, chain, clip=clip, weight_decay=weight_decay, decay_on=decay_on)


def nadam(
    learning_rate: Scalar | Schedule,
    *,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    momentum_decay: Scalar = 4e-3,
    weight_decay: Decay = 0.0,
    clip: Scalar = math.inf,
    decay_on: Leaves = "matrices",
) -> Optimizer:
    """Adam with Nesterov momentum: the mean is taken one step ahead.

    d = gradient + weight_decay * parameter;  m and v as in `adam`
    c[t] = b1 * (1 - 0.96 ** (t * momentum_decay) / 2);  p[t] = c[1] * ... * c[t], t = 1, 2, ...
    n = (1 - c[t]) / (1 - p[t]) * d + c[t + 1] / (1 - p[t + 1]) * m
    parameter -= learning_rate * n / (sqrt(v / (1 - b2**t)) + eps)
    b1, b2: in [0, 1).
    eps, momentum_decay: at least 0; with 0 c is b1 / 2 throughout.
    learning_rate: a number or a schedule.
    weight_decay: at least 0, or numbers by path pattern, {"head/**": 0.1}.
    clip: the largest global norm of the gradients, above 0; inf switches clipping off.
    decay_on: the leaves that decay, "matrices" by default: path patterns, or a function of the parameters.
    Very large and very small gradients are as in `adam`.
    Raises: ValueError when a number is out of its range.
    Source: Dozat 2016, "Incorporating Nesterov momentum into Adam"; PyTorch's NAdam.

    >>> optimizer = nadam(0.5, b1=0.0, eps=0.0)
    >>> params, grads = {"bias": jnp.array([1.0])}, {"bias": jnp.array([0.25])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> [round(update, 6) for update in updates["bias"].tolist()]
    [-0.5]
    """
    check_adam("nadam", b1, b2, eps)
    check.number("nadam", 0, momentum_decay=momentum_decay)

    def chain(number, decay):
        return decay, by_nadam(number(b1), number(b2), number(eps), number(momentum_decay))

    return optimizer("nadam", learning_rate, chain, clip=clip, weight_decay=weight_decay, decay_on=decay_on)


def radam(
    learning_rate: Scalar | Schedule,
    *,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    weight_decay: Decay = 0.0,
    clip: Scalar = math.inf,
    decay_on: Leaves = "matrices",
) -> Optimizer:
    """Adam that needs no warm-up: its first steps, whose mean square is of few gradients, are smaller.

    d = gradient + weight_decay * parameter;  m and v as in `adam`
    n = n_max - 2 * t * b2**t / (1 - b2**t), n_max = 2 / (1 - b2) - 1, t = 1, 2, ...
    where n > 5: r = sqrt((n - 4) * (n - 2) * n_max / ((n_max - 4) * (n_max - 2) * n)), and
    parameter -= learning_rate * r * m / (1 - b1**t) * sqrt(1 - b2**t) / (sqrt(v) + eps);
    before: parameter -= learning_rate * m / (1 - b1**t)
    b1, b2: in [0, 1).
    eps: at least 0.
    learning_rate: a number or a schedule.
    weight_decay: at least 0, or numbers by path pattern, {"head/**": 0.1}.
    clip: the largest global norm of the gradients, above 0; inf switches clipping off.
    decay_on: the leaves that decay, "matrices" by default: path patterns, or a function of the parameters.
    Very large and very small gradients are as in `adam`.
    Raises: ValueError when a number is out of its range.
    Source: Liu et al. 2020, arXiv:1908.03265, algorithm 2; PyTorch's RAdam.

    >>> optimizer = radam(0.5)
    >>> params, grads = {"bias": jnp.array([1.0])}, {"bias": jnp.array([0.25])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> [round(update, 6) for update in updates["bias"].tolist()]
    [-0.125]
    """
    check_adam("radam", b1, b2, eps)

    def chain(number, decay):
        return decay, by_radam(number(b1), number(b2), number(eps))

    return optimizer("radam", learning_rate, chain, clip=clip, weight_decay=weight_decay, decay_on=decay_on)
